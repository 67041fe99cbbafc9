"""Machinery that every analyzer shares: provenance, progress, downloads, checkpoints of a run."""
