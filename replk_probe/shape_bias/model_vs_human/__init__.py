"""Interoperability with the model-vs-human toolbox: its raw data files, and its registry of models."""
