"""Parallel convolutions in any network: finding them in a recorded forward pass, and replacing them by their sum."""
