"""Build a network, package it, run it on a volume."""
