"""Ours beside the peers: interleaved pairs on the same input, ratios of medians."""
