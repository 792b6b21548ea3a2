"""Numbers: overlap, surfaces, classification, intervals. Arrays in, numbers out."""
