"""Heads that turn features into decisions: linear classifiers from files, and class names by their text embeddings."""
