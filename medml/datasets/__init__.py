"""Frozen datasets: cases, splits without leakage, digests, fingerprints."""
