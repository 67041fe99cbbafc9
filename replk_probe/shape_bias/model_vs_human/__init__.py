"""Interoperability with model-vs-human: its raw-data files and its model registry."""
