"""SLaK: kernels beyond 51 x 51, decomposed into two rectangular ones, in a ConvNeXt.

Source: Liu et al., "More ConvNets in the 2020s", ICLR 2023, arXiv:2207.03620.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm2d
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from ..layers.classifier import linear_classifier
from ..layers.large_kernel import LargeKernelConv
from .registration import register_variant, timm_cfg
from .staged import Staged

__all__ = ["SLaK"]

_EPS = 1e-6  # epsilon of every layer norm, as in ConvNeXt


class SLaKBlock(nn.Module):
    """ConvNeXt's residual block around a large-kernel convolution, ``[N, C, H, W]`` to the same."""

    def __init__(self, dim: int, large_kernel: LargeKernelConv, drop_path: float, layer_scale: float) -> None:
        """Build the block around ``large_kernel``; ``layer_scale`` is the initial value of ``gamma``."""
        super().__init__()
        self.large_kernel = large_kernel
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` plus its residual branch."""
        y: Tensor = self.large_kernel(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        y = self.drop_path(y.permute(0, 3, 1, 2))
        return x + y


class SLaK(Staged):
    """SLaK with dense weights; ``[N, in_chans, H, W]`` to ``[N, num_classes]``, total stride 32.

    The published weights are sparse only in that some values are zero. Modules and parameters are named as in the
    published checkpoints, except for the branches of
    :class:`~replk_probe.models.layers.large_kernel.LargeKernelConv`.

    Source:
        Liu et al., ICLR 2023, arXiv:2207.03620.

    Examples:
        >>> import torch
        >>> from replk_probe.models import SLaK
        >>> network = SLaK((13, 13, 13, 7), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=10).eval()
        >>> network(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """

    family = "SLaK"

    def __init__(
        self,
        kernel_sizes: Sequence[int] = (51, 49, 47, 13),
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        small_kernel: int | None = 5,
        decomposed: bool = True,
        width_factor: float = 1.3,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-6,
    ) -> None:
        """Build the network with PyTorch's default initialization.

        Args:
            kernel_sizes: Long side K of the kernels in each stage, odd.
            depths: Number of blocks in each stage.
            dims: Base width of each stage; the network uses ``int(width_factor * dim)``.
            small_kernel: Short side M of the decomposed kernels and side of the small branch.
            decomposed: Whether to use K x M plus M x K kernels instead of one K x K kernel.
            width_factor: Factor applied to ``dims``.
            num_classes: Number of outputs of the classifier; 0 returns pooled and normalized features.
            in_chans: Number of input channels.
            drop_path_rate: Stochastic depth rate of the last block; the rate grows linearly from 0 at the first block.
            layer_scale: Initial value of the residual branches' scale.

        Raises:
            InvalidInputError: The lists differ in length, a kernel is even, or ``decomposed`` has no short side.
        """
        super().__init__()
        if not len(kernel_sizes) == len(depths) == len(dims) or not dims:
            raise InvalidInputError(
                f"kernel_sizes, depths and dims need one entry for each stage, but got {len(kernel_sizes)}, "
                f"{len(depths)} and {len(dims)}."
            )
        if decomposed and not small_kernel:
            raise InvalidInputError("A decomposed kernel needs its short side. Set small_kernel, or decomposed=False.")
        widths = [int(width_factor * dim) for dim in dims]
        self.num_classes = num_classes
        self.depths = tuple(depths)
        self.num_features = self.head_hidden_size = widths[-1]
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(in_chans, widths[0], 4, stride=4), LayerNorm2d(widths[0], eps=_EPS))]
        )
        for narrow, wide in pairwise(widths):
            self.downsample_layers.append(
                nn.Sequential(LayerNorm2d(narrow, eps=_EPS), nn.Conv2d(narrow, wide, 2, stride=2))
            )
        self.stages = nn.ModuleList()
        total = sum(depths)
        done = 0
        for depth, width, kernel_size in zip(depths, widths, kernel_sizes, strict=True):
            blocks = [
                SLaKBlock(
                    width,
                    LargeKernelConv(
                        width,
                        kernel_size,
                        small_kernel=small_kernel,
                        decomposed_width=small_kernel if decomposed else None,
                    ),
                    drop_path_rate * index / max(total - 1, 1),
                    layer_scale,
                )
                for index in range(done, done + depth)
            ]
            done += depth
            self.stages.append(nn.Sequential(*blocks))
        self.feature_info = [
            {"num_chs": width, "reduction": 4 * 2**stage, "module": f"stages.{stage}"}
            for stage, width in enumerate(widths)
        ]
        self.norm = nn.LayerNorm(widths[-1], eps=_EPS)
        self.head = linear_classifier(widths[-1], num_classes)


_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "slak_tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "slak_small": {"depths": (3, 3, 27, 3), "dims": (96, 192, 384, 768)},
    "slak_base": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
}
default_cfgs = generate_default_cfgs({name: timm_cfg("downsample_layers.0.0") for name in _VARIANTS})
for _name, _config in _VARIANTS.items():
    register_variant(SLaK, _name, _config)
