"""Preparation of a network for measurement: folding, freezing, input gradients."""
