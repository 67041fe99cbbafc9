"""The choice among the methods of the convolution: checked, timed, stored, and looked up by operator calls."""
