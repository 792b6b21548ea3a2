"""What is handed back: masks on the source image's own grid, tables, previews, a report."""
