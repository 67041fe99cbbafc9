"""Services shared by all analyzers: provenance, progress, downloads, checkpoints of a run."""
