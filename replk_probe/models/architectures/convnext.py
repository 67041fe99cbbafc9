"""ConvNeXt with RepLKNet's kernels: 31-29-27-13, each with a 5 x 5 branch and batch norms.

This is SLaK's code with undecomposed kernels at width factor 1, the closest published implementation.

Source: Ding et al., arXiv:2203.06717, Table 11; Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import generate_default_cfgs

from .registration import register_variant, timm_cfg
from .slak import SLaK

__all__ = ["LargeKernelConvNeXt"]


class LargeKernelConvNeXt(SLaK):
    """ConvNeXt with large depthwise kernels and a small branch instead of 7 x 7; arguments as for :class:`SLaK`.

    Source:
        Liu et al., CVPR 2022, arXiv:2201.03545.

    Examples:
        >>> import torch
        >>> from replk_probe.models import LargeKernelConvNeXt
        >>> network = LargeKernelConvNeXt((13, 13, 13, 7), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=10)
        >>> network(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """

    family = "ConvNeXt, large kernels"

    def __init__(
        self,
        kernel_sizes: Sequence[int] = (31, 29, 27, 13),
        *,
        decomposed: bool = False,
        width_factor: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """Build the network with PyTorch's default initialization."""
        super().__init__(kernel_sizes, decomposed=decomposed, width_factor=width_factor, **kwargs)


_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "convnext_tiny_k31": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "convnext_small_k31": {"depths": (3, 3, 27, 3), "dims": (96, 192, 384, 768)},
    "convnext_base_k31": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
}
default_cfgs = generate_default_cfgs({name: timm_cfg("downsample_layers.0.0") for name in _VARIANTS})
for _name, _config in _VARIANTS.items():
    register_variant(LargeKernelConvNeXt, _name, _config)
