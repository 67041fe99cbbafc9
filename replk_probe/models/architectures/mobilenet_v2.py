"""MobileNet V2 with large depthwise kernels, for the paper's study of shortcuts and re-parameterization.

Names of modules and parameters are those of torchvision's ``mobilenet_v2``. With a 3 x 3 branch, the convolution and
the batch norm of a depthwise layer (``features.15.conv.1.0`` and ``.1``) become one
:class:`~replk_probe.models.layers.large_kernel.LargeKernelConv` and an identity under the same two names.

Source: Ding et al., arXiv:2203.06717, Tables 2 and 3; Sandler et al., CVPR 2018, arXiv:1801.04381.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from timm.models import generate_default_cfgs
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from ..layers.classifier import MeanPooled, linear_classifier
from ..layers.depthwise import with_native_kernels
from ..layers.large_kernel import LargeKernelConv
from ..layers.reparam import Mergeable, Reparameterizable, fold_sequence
from ..stages import ProbeSpec, Stage
from .registration import register_variant, timm_cfg

__all__ = ["LargeKernelMobileNetV2"]

Rows: TypeAlias = Sequence[tuple[int, int, int, int]]

# Expansion, channels, repeats, first stride: Table 2 of the MobileNet V2 paper.
_SETTING: Rows = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM_WIDTH, _LAST_WIDTH = 32, 1280


class DepthwiseLayer(nn.Sequential, Mergeable):
    """Depthwise convolution ``0``, batch norm ``1``, ReLU6 ``2``; with a small branch, ``0`` contains the norms."""

    def __init__(self, channels: int, kernel_size: int, stride: int, small_kernel: int | None) -> None:
        """Build the layers; ``kernel_size`` is odd."""
        conv: nn.Module
        norm: nn.Module
        if small_kernel and small_kernel <= kernel_size:
            conv, norm = LargeKernelConv(channels, kernel_size, stride, small_kernel), nn.Identity()
        else:
            padding = kernel_size // 2
            conv = with_native_kernels(
                nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels, bias=False)
            )
            norm = nn.BatchNorm2d(channels)
        super().__init__(conv, norm, nn.ReLU6())

    def reparameterize(self) -> None:
        """Merge the branches, or fold the one batch norm, in place."""
        if isinstance(self[0], LargeKernelConv):
            self[0].reparameterize()
        fold_sequence(self)


class InvertedResidual(nn.Module):
    """Expand by a 1 x 1 convolution, filter depthwise, project by a 1 x 1 convolution; ``[N, C, H, W]``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expand: int,
        kernel_size: int,
        small_kernel: int | None,
        shortcut: bool,
    ) -> None:
        """Build the layers; there is a shortcut if ``shortcut`` is True and the shape does not change."""
        super().__init__()
        hidden = in_channels * expand
        self.use_res_connect = shortcut and stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *([_conv_bn_relu(in_channels, hidden)] if expand != 1 else []),
            DepthwiseLayer(hidden, kernel_size, stride, small_kernel),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The residual branch, plus ``x`` if there is a shortcut."""
        y: Tensor = self.conv(x)
        return x + y if self.use_res_connect else y


class LargeKernelMobileNetV2(Reparameterizable, MeanPooled):
    """MobileNet V2, ``[N, in_chans, H, W]`` to ``[N, num_classes]``, total stride 32 by default.

    Source:
        Sandler et al., CVPR 2018, arXiv:1801.04381, Table 2; Ding et al., CVPR 2022, arXiv:2203.06717, section 3, for
        large kernels in it.

    Examples:
        >>> import torch
        >>> from replk_probe.models import LargeKernelMobileNetV2
        >>> network = LargeKernelMobileNetV2(kernel_size=13, small_kernel=3, num_classes=10).eval()
        >>> network.forward_features(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 1280, 2, 2])
    """

    classifier_path = "classifier.1"

    def __init__(
        self,
        kernel_size: int = 3,
        small_kernel: int | None = None,
        shortcut: bool = True,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.2,
        setting: Rows = _SETTING,
        stem_width: int = _STEM_WIDTH,
        last_width: int = _LAST_WIDTH,
    ) -> None:
        """Build the network with PyTorch's default initialization.

        Args:
            kernel_size: Side of all depthwise kernels, odd.
            small_kernel: Side of the parallel branch; no branch if it is None, 0 or not below ``kernel_size``.
            shortcut: Whether blocks that keep their shape add their input.
            num_classes: Number of outputs of the classifier; 0 returns pooled features.
            in_chans: Number of input channels.
            drop_rate: Dropout rate before the classifier during training.
            setting: Expansion, channels, repeats and first stride of each stage.
            stem_width: Number of channels of the first convolution, which has stride 2.
            last_width: Number of channels of the last convolution.

        Raises:
            InvalidInputError: A kernel is even.
        """
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InvalidInputError(f"The depthwise kernels must have an odd side, but kernel_size is {kernel_size}.")
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = last_width
        self.setting = tuple(setting)
        self.drop_rate = drop_rate
        features: list[nn.Module] = [_conv_bn_relu(in_chans, stem_width, kernel_size=3, stride=2)]
        self.feature_info: list[dict[str, Any]] = []
        width, reduction = stem_width, 2
        for expand, channels, repeats, first_stride in self.setting:
            if first_stride > 1:
                self._note_features(width, reduction, len(features) - 1)
                reduction *= first_stride
            for index in range(repeats):
                stride = first_stride if index == 0 else 1
                features.append(InvertedResidual(width, channels, stride, expand, kernel_size, small_kernel, shortcut))
                width = channels
        features.append(_conv_bn_relu(width, last_width))
        self._note_features(last_width, reduction, len(features) - 1)
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(drop_rate), linear_classifier(last_width, num_classes))

    def _note_features(self, channels: int, reduction: int, index: int) -> None:
        self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"features.{index}"})

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map before pooling (there is no final norm), by default ``[N, 1280, H / 32, W / 32]``."""
        y: Tensor = self.features(x)
        return y

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling and, unless ``pre_logits``, the classifier."""
        x = x.mean((-2, -1))
        logits: Tensor = x if pre_logits else self.classifier(x)
        return logits

    def probe_spec(self) -> ProbeSpec:
        """One stage for each row of the setting: seven in the MobileNet V2 paper's Table 2."""
        stages: list[Stage] = []
        first = 1
        for _, _, repeats, _ in self.setting:
            blocks = tuple(f"features.{index}" for index in range(first, first + repeats))
            stages.append(Stage(blocks[-1], blocks))
            first += repeats
        return ProbeSpec("MobileNet V2, large kernels", tuple(stages), ("features", "output"))


def _conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


_VARIANTS: dict[str, dict[str, Any]] = {
    f"mobilenetv2_k{size}{rep}{skip}": {"kernel_size": size, "small_kernel": 3 if rep else None, "shortcut": not skip}
    for size in (3, 9, 13)
    for rep in ("", "_rep")
    if size > 3 or not rep
    for skip in ("", "_noskip")
}
default_cfgs = generate_default_cfgs({name: timm_cfg("features.0.0", classifier="classifier.1") for name in _VARIANTS})
for _name, _config in _VARIANTS.items():
    register_variant(LargeKernelMobileNetV2, _name, _config)
