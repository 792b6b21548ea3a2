"""Pages and pictures: one HTML shell, overlays, figures. The only matplotlib and jinja2."""
