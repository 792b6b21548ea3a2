"""Medical-imaging pipeline: scans in, trained and registered models, results out."""

__all__ = ["__version__"]
__version__ = "0.1.0"
