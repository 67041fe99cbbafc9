"""Implementations of the convolution in torch and Triton, among which the tuner chooses on a GPU."""
