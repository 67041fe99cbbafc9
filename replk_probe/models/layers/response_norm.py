"""Global response normalization, from ConvNeXt V2 (Woo et al., CVPR 2023, arXiv:2301.00808)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to the mean of the norms.
EPS = 1e-6


class GeluResponseNorm(nn.Module):
    """GELU, then global response normalization; ``[N, H, W, C]`` to the same.

    With ``y = gelu(x)``, ``G`` the L2 norm of ``y`` over H and W and ``M`` the mean of ``G`` over the channels, the
    output is ``(gamma * G / (M + 1e-6) + 1) * y + beta``. After its folding into the next layer, ``beta`` is None.
    """

    def __init__(self, channels: int) -> None:
        """Build the normalization of C ``channels`` as an identity: ``gamma`` and ``beta`` are zero."""
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta: nn.Parameter | None = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalized activations."""
        y = F.gelu(input)
        norm: Tensor = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
        y = y * (self.gamma * (norm / (norm.mean(-1, keepdim=True) + EPS)) + 1)
        return y if self.beta is None else y + self.beta

    def arranged(self, maps: Tensor) -> Tensor:
        """``maps``, ``[N, C', H, W]``, in the memory format in which the layers around this one are fastest."""
        return maps
