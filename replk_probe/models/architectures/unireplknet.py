"""UniRepLKNet: a few large kernels with parallel dilated branches, in a network similar to ConvNeXt V2.

Source: Ding et al., "UniRepLKNet: A Universal Perception Large-Kernel ConvNet", CVPR 2024, arXiv:2311.15599.
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
from ..layers.depthwise import with_native_kernels
from ..layers.large_kernel import DILATED_BRANCHES, LargeKernelConv
from ..layers.reparam import Foldable, fuse_bn, fuse_conv_bn, fuse_linear_bn
from ..layers.response_norm import GeluResponseNorm
from .registration import register_variant, timm_cfg
from .staged import Staged

__all__ = ["UniRepLKNet"]

_EPS = 1e-6  # epsilon of every layer norm, as in ConvNeXt
_PLAIN = (3, 5)  # kernels without parallel branches
# Kernels in the third stage, which are repeated, by the number of its blocks; the first stage has 3 x 3 kernels and the
# others have 13 x 13 kernels.
_THIRD_STAGE = {6: (13,), 8: (13,), 18: (13, 3), 27: (13, 3, 3)}


class SqueezeExcitation(nn.Module):
    """Channel attention with a bottleneck of a quarter of the width, ``[N, C, H, W]`` to the same."""

    def __init__(self, channels: int) -> None:
        """Build the two 1 x 1 convolutions."""
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.nonlinear = nn.ReLU()
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times one factor in (0, 1) for each image and channel."""
        factors: Tensor = self.up(self.nonlinear(self.down(x.mean((2, 3), keepdim=True))))
        return x * factors.sigmoid()


class UniRepLKNetBlock(Foldable):
    """Residual block around a depthwise convolution, ``[N, C, H, W]`` to the same.

    ``dwconv`` is a :class:`~replk_probe.models.layers.large_kernel.LargeKernelConv`, or one convolution if the kernel
    is 3 x 3 or 5 x 5. After :meth:`fold_norms`, ``norm`` and ``pwconv2_bn`` are identities, ``gamma`` and ``act.beta``
    are None, and ``dwconv`` and ``pwconv2`` have a bias.
    """

    preserved_layers = ("norm", "drop_path")

    def __init__(self, dim: int, kernel_size: int, drop_path: float, layer_scale: float) -> None:
        """Build the layers; ``layer_scale`` is the initial value of ``gamma``."""
        super().__init__()
        self.dwconv: nn.Module
        if kernel_size in _PLAIN:
            conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=False)
            self.dwconv = with_native_kernels(conv)
        else:
            self.dwconv = LargeKernelConv(dim, kernel_size, dilated_branches=DILATED_BRANCHES[kernel_size])
        self.norm: nn.Module = nn.BatchNorm2d(dim)
        self.se = SqueezeExcitation(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = GeluResponseNorm(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim, bias=False)
        self.pwconv2_bn: nn.Module = nn.BatchNorm2d(dim)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` plus its residual branch."""
        # The layer norm before each stage returns channels-last maps, the convolution after it such gradients.
        x = self.act.arranged(x)
        y: Tensor = self.se(self.norm(self.dwconv(x))).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(y))).permute(0, 3, 1, 2)
        y = self.pwconv2_bn(y)
        if self.gamma is not None:
            y = self.gamma[:, None, None] * y
        y = self.drop_path(y)
        return self.act.arranged(x + y)

    def fold_norms(self) -> None:
        """Fold ``norm`` into ``dwconv``; ``act.beta``, ``pwconv2_bn`` and ``gamma`` into ``pwconv2``."""
        if self.gamma is None:
            return
        if isinstance(self.dwconv, LargeKernelConv):
            self.dwconv.reparameterize()
            self.dwconv.reparam_conv = fuse_conv_bn(self.dwconv.reparam_conv, self.norm)
        elif isinstance(self.dwconv, nn.Conv2d):
            self.dwconv = fuse_conv_bn(self.dwconv, self.norm)
        shift = None if self.act.beta is None else self.act.beta.flatten()
        self.pwconv2 = fuse_linear_bn(self.pwconv2, self.pwconv2_bn, shift, self.gamma)
        self.norm, self.pwconv2_bn = (nn.Identity().train(self.training) for _ in range(2))
        self.act.beta = self.gamma = None


class UniRepLKNet(Staged):
    """UniRepLKNet; ``[N, in_chans, H, W]`` to ``[N, num_classes]``, total stride 32.

    :meth:`reparameterize` merges the branches of the large kernels. :meth:`fuse_bn` also folds the norms of all blocks
    and the scales of their residual branches, which gives the form that the authors' code calls merged.

    Source:
        Ding et al., CVPR 2024, arXiv:2311.15599.

    Examples:
        >>> import torch
        >>> from replk_probe.models import UniRepLKNet
        >>> network = UniRepLKNet((1, 1), (8, 16), kernel_sizes=((3,), (13,)), num_classes=10).eval()
        >>> network(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """

    family = "UniRepLKNet"

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 18, 3),
        dims: Sequence[int] = (80, 160, 320, 640),
        kernel_sizes: Sequence[Sequence[int]] | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-6,
    ) -> None:
        """Build the network with weights from a truncated normal distribution and zero biases.

        Args:
            depths: Number of blocks in each stage.
            dims: Width of each stage, a multiple of 4.
            kernel_sizes: Side of the kernel of every block in each stage: 3 or 5 for a convolution without parallel
                branches, or one of 7, 9, 11, 13, 15 and 17. None for those of the published model with these depths.
            num_classes: Number of outputs of the classifier; 0 returns pooled and normalized features.
            in_chans: Number of input channels.
            drop_path_rate: Stochastic depth rate of the last block; the rate grows linearly from 0 at the first block.
            layer_scale: Initial value of the residual branches' scale.

        Raises:
            InvalidInputError: The lists differ in length, a kernel or width is not possible, or the depths are not
                those of a published model and ``kernel_sizes`` is None.
        """
        super().__init__()
        kernels = _default_kernel_sizes(depths) if kernel_sizes is None else kernel_sizes
        if not len(depths) == len(dims) == len(kernels) or not dims:
            raise InvalidInputError(
                f"depths, dims and kernel_sizes need one entry for each stage, but got {len(depths)}, {len(dims)} and "
                f"{len(kernels)}."
            )
        if not all(isinstance(sizes, Sequence) for sizes in kernels):
            raise InvalidInputError(
                f"kernel_sizes is {kernel_sizes!r}. Each stage has a list with one side for each block. Write for "
                "instance [[3, 3], [13, 13]] for two stages of two blocks."
            )
        if [len(sizes) for sizes in kernels] != list(depths):
            raise InvalidInputError(
                f"kernel_sizes needs one entry for each block, but has {[len(sizes) for sizes in kernels]} for depths "
                f"{list(depths)}."
            )
        possible = {*_PLAIN, *DILATED_BRANCHES}
        if not {size for sizes in kernels for size in sizes} <= possible:
            raise InvalidInputError(
                f"Kernel sizes must be among {sorted(possible)}, but kernel_sizes is {[list(one) for one in kernels]}."
            )
        if any(width < 4 or width % 4 for width in dims):
            raise InvalidInputError(
                f"Widths must be positive multiples of 4, but dims is {list(dims)}. The squeeze-and-excitation layers "
                "have a quarter of the width."
            )
        self.num_classes = num_classes
        self.depths = tuple(depths)
        self.num_features = self.head_hidden_size = dims[-1]
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(in_chans, dims[0] // 2, 3, stride=2, padding=1),
                    LayerNorm2d(dims[0] // 2, eps=_EPS),
                    nn.GELU(),
                    nn.Conv2d(dims[0] // 2, dims[0], 3, stride=2, padding=1),
                    LayerNorm2d(dims[0], eps=_EPS),
                )
            ]
        )
        for narrow, wide in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), LayerNorm2d(wide, eps=_EPS))
            )
        self.stages = nn.ModuleList()
        total = sum(depths)
        done = 0
        for width, sizes in zip(dims, kernels, strict=True):
            blocks = [
                UniRepLKNetBlock(width, size, drop_path_rate * index / max(total - 1, 1), layer_scale)
                for index, size in enumerate(sizes, done)
            ]
            done += len(blocks)
            self.stages.append(nn.Sequential(*blocks))
        self.feature_info = [
            {"num_chs": width, "reduction": 4 * 2**stage, "module": f"stages.{stage}"}
            for stage, width in enumerate(dims)
        ]
        self.norm = nn.LayerNorm(dims[-1], eps=_EPS)
        self.head = linear_classifier(dims[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def merge_as_published(self) -> UniRepLKNet:
        """Merge the branches and fold all norms, as the authors' code does; the same as :meth:`fuse_bn`."""
        return fuse_bn(self)


def _default_kernel_sizes(depths: Sequence[int]) -> list[tuple[int, ...]]:
    """The kernels of every block in the published models of these depths."""
    if tuple(depths) not in {config["depths"] for config in _VARIANTS.values()}:
        raise InvalidInputError(
            f"There is no published UniRepLKNet with depths {list(depths)}. Set kernel_sizes, with one entry for each "
            "block in each stage."
        )
    first, second, third, fourth = depths
    pattern = _THIRD_STAGE[third]
    return [(3,) * first, (13,) * second, pattern * (third // len(pattern)), (13,) * fourth]


def _config(depths: tuple[int, ...], width: int) -> dict[str, Any]:
    return {"depths": depths, "dims": tuple(width * 2**stage for stage in range(4))}


_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "unireplknet_a": _config((2, 2, 6, 2), 40),
    "unireplknet_f": _config((2, 2, 6, 2), 48),
    "unireplknet_p": _config((2, 2, 6, 2), 64),
    "unireplknet_n": _config((2, 2, 8, 2), 80),
    "unireplknet_t": _config((3, 3, 18, 3), 80),
    "unireplknet_s": _config((3, 3, 27, 3), 96),
    "unireplknet_b": _config((3, 3, 27, 3), 128),
    "unireplknet_l": _config((3, 3, 27, 3), 192),
    "unireplknet_xl": _config((3, 3, 27, 3), 256),
}
# The only published classifiers of the three largest models are for 384 pixels.
_SIZES = dict.fromkeys(("unireplknet_b", "unireplknet_l", "unireplknet_xl"), 384)
default_cfgs = generate_default_cfgs(
    {name: timm_cfg("downsample_layers.0.0", _SIZES.get(name, 224)) for name in _VARIANTS}
)
for _name, _arguments in _VARIANTS.items():
    register_variant(UniRepLKNet, _name, _arguments)
