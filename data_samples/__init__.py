"""Synthetic patients for demonstrations and tests: a generator, and a few kilobytes of what it writes."""
