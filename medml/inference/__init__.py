"""Many scans through one model; one failure does not stop the rest."""
