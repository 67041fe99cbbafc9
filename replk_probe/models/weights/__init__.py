"""Weights: the catalog, the embedded files, and the resolution of names."""
