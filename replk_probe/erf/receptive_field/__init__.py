"""The receptive field of a feature map, traced through the network."""
