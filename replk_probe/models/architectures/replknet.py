"""RepLKNet: large depthwise kernels, up to 31 x 31, in a network of residual blocks.

Source: Ding et al., "Scaling Up Your Kernels to 31x31", CVPR 2022, arXiv:2203.06717.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from ..layers.classifier import MeanPooled, linear_classifier
from ..layers.large_kernel import ConvBN, LargeKernelConv
from ..layers.reparam import Reparameterizable
from ..stages import ProbeSpec, Stage
from .registration import register_variant, timm_cfg

__all__ = ["RepLKNet"]


class RepLKBlock(nn.Module):
    """Residual large-kernel block, ``[N, C, H, W]`` to the same."""

    def __init__(
        self, channels: int, dw_channels: int, kernel_size: int, small_kernel: int | None, drop_path: float
    ) -> None:
        """Build the layers; ``dw_channels`` is the width of the depthwise convolution."""
        super().__init__()
        self.prelkb_bn = nn.BatchNorm2d(channels)
        self.pw1 = ConvBN(channels, dw_channels, act=nn.ReLU())
        self.large_kernel = LargeKernelConv(dw_channels, kernel_size, small_kernel=small_kernel)
        self.lk_nonlinear = nn.ReLU()
        self.pw2 = ConvBN(dw_channels, channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` plus its large-kernel branch."""
        y: Tensor = self.lk_nonlinear(self.large_kernel(self.pw1(self.prelkb_bn(x))))
        y = self.drop_path(self.pw2(y))
        return x + y


class ConvFFN(nn.Module):
    """Residual pair of 1 x 1 convolutions, ``[N, C, H, W]`` to the same."""

    def __init__(self, channels: int, hidden_channels: int, drop_path: float) -> None:
        """Build the layers; ``hidden_channels`` is the width between the two convolutions."""
        super().__init__()
        self.preffn_bn = nn.BatchNorm2d(channels)
        self.pw1 = ConvBN(channels, hidden_channels)
        self.nonlinear = nn.GELU()
        self.pw2 = ConvBN(hidden_channels, channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` plus its feed-forward branch."""
        y: Tensor = self.drop_path(self.pw2(self.nonlinear(self.pw1(self.preffn_bn(x)))))
        return x + y


class RepLKStage(nn.Module):
    """Alternating large-kernel and feed-forward blocks at one resolution."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        """Build a stage of ``blocks``."""
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last block."""
        y: Tensor = self.blocks(x)
        return y


class RepLKNet(Reparameterizable, MeanPooled):
    """RepLKNet with any kernel sizes; ``[N, in_chans, H, W]`` to ``[N, num_classes]``, total stride 32 by default.

    Modules and parameters are named as in the published checkpoints, except for the branches of
    :class:`~replk_probe.models.layers.large_kernel.LargeKernelConv`.

    Source:
        Ding et al., CVPR 2022, arXiv:2203.06717.

    Examples:
        >>> import torch
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 7), layers=(1, 1), channels=(8, 16), num_classes=10).eval()
        >>> network(torch.rand(1, 3, 64, 64)).shape, network.forward_features(torch.rand(1, 3, 64, 64)).shape
        (torch.Size([1, 10]), torch.Size([1, 16, 8, 8]))
    """

    def __init__(
        self,
        kernel_sizes: Sequence[int] = (31, 29, 27, 13),
        layers: Sequence[int] = (2, 2, 18, 2),
        channels: Sequence[int] = (128, 256, 512, 1024),
        small_kernel: int | None = 5,
        dw_ratio: float = 1.0,
        ffn_ratio: float = 4.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        strides: Sequence[int] = (4, 2, 2, 2),
    ) -> None:
        """Build the network with PyTorch's default initialization.

        Args:
            kernel_sizes: Side of the large kernels in each stage, odd.
            layers: Number of large-kernel blocks in each stage; a feed-forward block follows each of them.
            channels: Width of each stage.
            small_kernel: Side of the branch parallel to each large kernel; no branch if it is None or 0.
            dw_ratio: Ratio of the width of the depthwise convolutions to that of the stage.
            ffn_ratio: Ratio of the hidden width of the feed-forward blocks to that of the stage.
            num_classes: Number of outputs of the classifier; 0 returns pooled features.
            in_chans: Number of input channels.
            drop_path_rate: Stochastic depth rate of the last block; the rate grows linearly from 0 at the first block.
            strides: Strides of the stem (2 or 4) and of the transition before each later stage (1 or 2); entries beyond
                the number of stages are ignored.

        Raises:
            InvalidInputError: ``kernel_sizes``, ``layers`` and ``channels`` differ in length, a kernel is even, or a
                stride is not allowed.
        """
        super().__init__()
        if not len(kernel_sizes) == len(layers) == len(channels) or not channels:
            raise InvalidInputError(
                f"kernel_sizes, layers and channels need one entry for each stage, but got {len(kernel_sizes)}, "
                f"{len(layers)} and {len(channels)}."
            )
        strides = tuple(strides)[: len(channels)]
        if len(strides) < len(channels) or strides[0] not in (2, 4) or not {*strides[1:]} <= {1, 2}:
            raise InvalidInputError(
                f"The stem needs a stride of 2 or 4 and each transition one of 1 or 2, but strides is {list(strides)} "
                f"for {len(channels)} stages."
            )
        width = channels[0]
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = channels[-1]
        self.stem = nn.ModuleList(
            [
                ConvBN(in_chans, width, 3, stride=2, act=nn.ReLU()),
                ConvBN(width, width, 3, groups=width, act=nn.ReLU()),
                ConvBN(width, width, 1, act=nn.ReLU()),
                ConvBN(width, width, 3, stride=strides[0] // 2, groups=width, act=nn.ReLU()),
            ]
        )
        self.stages = nn.ModuleList()
        self.transitions = nn.ModuleList()
        depth = sum(layers)
        done = 0
        for stage, (count, width, kernel_size) in enumerate(zip(layers, channels, kernel_sizes, strict=True)):
            blocks: list[nn.Module] = []
            for index in range(done, done + count):
                # A large-kernel block and the feed-forward block after it share one rate.
                rate = drop_path_rate * index / max(depth - 1, 1)
                blocks.append(RepLKBlock(width, int(width * dw_ratio), kernel_size, small_kernel, rate))
                blocks.append(ConvFFN(width, int(width * ffn_ratio), rate))
            done += count
            self.stages.append(RepLKStage(blocks))
            if stage + 1 < len(layers):
                wider = channels[stage + 1]
                self.transitions.append(
                    nn.Sequential(
                        ConvBN(width, wider, 1, act=nn.ReLU()),
                        ConvBN(wider, wider, 3, stride=strides[stage + 1], groups=wider, act=nn.ReLU()),
                    )
                )
        self.feature_info = [
            {"num_chs": width, "reduction": prod(strides[: stage + 1]), "module": f"stages.{stage}"}
            for stage, width in enumerate(channels)
        ]
        self.norm = nn.BatchNorm2d(channels[-1])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = linear_classifier(channels[-1], num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map before the final norm, ``[N, channels[-1], H / 32, W / 32]`` with the default strides."""
        for layer in self.stem:
            x = layer(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index < len(self.transitions):
                x = self.transitions[index](x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Final norm, pooling and, unless ``pre_logits``, the classifier."""
        x = torch.flatten(self.avgpool(self.norm(x)), 1)
        logits: Tensor = x if pre_logits else self.head(x)
        return logits

    def probe_spec(self) -> ProbeSpec:
        """The stages; every second block is a large-kernel block."""
        stages = tuple(
            Stage(f"stages.{number}", tuple(f"stages.{number}.blocks.{i}" for i in range(0, len(stage.blocks), 2)))
            for number, stage in enumerate(self.stages)
            if isinstance(stage, RepLKStage)
        )
        return ProbeSpec("RepLKNet", stages, (stages[-1].path, "output"))


_BASE = {"channels": (128, 256, 512, 1024)}
_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "replknet31b": _BASE,
    "replknet31l": {"channels": (192, 384, 768, 1536)},
    "replknetxl": {
        "kernel_sizes": (27, 27, 27, 13),
        "channels": (256, 512, 1024, 2048),
        "small_kernel": None,
        "dw_ratio": 1.5,
    },
    # The kernel-size study, Table 5. A smaller branch would not fit into a 3 x 3 kernel.
    "replknet3": {**_BASE, "kernel_sizes": (3, 3, 3, 3), "small_kernel": None},
    "replknet7": {**_BASE, "kernel_sizes": (7, 7, 7, 7)},
    "replknet13": {**_BASE, "kernel_sizes": (13, 13, 13, 13)},
    "replknet25": {**_BASE, "kernel_sizes": (25, 25, 25, 13)},
}
_SIZES = {"replknet31l": 384, "replknetxl": 320}  # input size of the published weights if it is not 224
default_cfgs = generate_default_cfgs(
    {name: timm_cfg("stem.0.conv", _SIZES.get(name, 224), 0.5 if name == "replknetxl" else None) for name in _VARIANTS}
)
for _name, _config in _VARIANTS.items():
    register_variant(RepLKNet, _name, _config)
