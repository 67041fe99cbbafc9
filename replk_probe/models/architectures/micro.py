"""Small models for images of 64 x 64 pixels, trained on the synthetic set by ``scripts/train_micro.py``.

They are for demonstrations and controlled experiments, not ImageNet results. They differ only in their kernels, train
on a CPU in minutes, and their weights are included in the package.

On a feature map of height H, only the middle 2 H - 1 taps in each column of a kernel ever multiply a pixel that is not
padding, and only those are trained. With the published strides the maps would have sides of 16, 8, 4 and 2. Here two
transitions have stride 1, so the sides are 16, 16, 8 and 8: large enough to train every tap of the 31 x 31 kernels in
the first two stages, and of 13 x 13 kernels in all stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import generate_default_cfgs

from .mobilenet_v2 import LargeKernelMobileNetV2
from .registration import register_variant, timm_cfg
from .replknet import RepLKNet

__all__ = ["DEFAULT_TAG", "ERF_SIZE", "INPUT_SIZE", "MICRO_MODELS", "SHAPE_VALIDITIES", "default_models", "is_micro"]

INPUT_SIZE = 64  # side of the training images in pixels
# Side at which the effective receptive field is measured: it would fill images of the training size.
ERF_SIZE = 192

# Tags of weights, and the probability with which the shape belongs to the label in their training.
SHAPE_VALIDITIES: Mapping[str, float] = {"shape100": 1.0, "shape90": 0.9, "shape75": 0.75, "shape50": 0.5}
DEFAULT_TAG = "shape90"  # the weights that a model's name without a tag selects
_CLASSES = 16  # in the synthetic set
_SMALL = 5  # side of the re-parameterization branch, as in RepLKNet

_REPLKNET: Mapping[str, Any] = {
    "layers": (1, 1, 1, 1),
    "channels": (16, 32, 64, 96),
    "ffn_ratio": 2.0,
    "strides": (4, 1, 2, 1),
    "num_classes": _CLASSES,
}
_KERNELS = {3: (3, 3, 3, 3), 7: (7, 7, 7, 7), 13: (13, 13, 13, 13), 31: (31, 31, 13, 13)}
_REPLKNETS: dict[str, dict[str, Any]] = {
    f"replknet_micro_k{side}{rep}": {**_REPLKNET, "kernel_sizes": sizes, "small_kernel": _SMALL if rep else None}
    for side, sizes in _KERNELS.items()
    for rep in ("", "_rep")
    if side > _SMALL or not rep
}
_MOBILENETS: dict[str, dict[str, Any]] = {
    f"mobilenetv2_micro_k13{rep}": {
        "kernel_size": 13,
        "small_kernel": _SMALL if rep else None,
        "num_classes": _CLASSES,
        "drop_rate": 0.0,
        "setting": ((1, 16, 1, 1), (3, 24, 1, 2), (3, 40, 2, 2), (3, 64, 2, 1)),
        "stem_width": 16,
        "last_width": 128,
    }
    for rep in ("", "_rep")
}
MICRO_MODELS = (*_REPLKNETS, *_MOBILENETS)

# The synthetic images have about the same mean and standard deviation in all channels.
_CFG: dict[str, Any] = {"input_size": INPUT_SIZE, "mean": 0.5, "num_classes": _CLASSES, "stride": 8}
default_cfgs = generate_default_cfgs(
    {name: timm_cfg("stem.0.conv", **_CFG) for name in _REPLKNETS}
    | {name: timm_cfg("features.0.0", classifier="classifier.1", **_CFG) for name in _MOBILENETS}
)
for _name, _config in _REPLKNETS.items():
    register_variant(RepLKNet, _name, _config, module=__name__)
for _name, _config in _MOBILENETS.items():
    register_variant(LargeKernelMobileNetV2, _name, _config, module=__name__)


def is_micro(name: str) -> bool:
    """Whether a model name, with or without a tag, is that of a small model."""
    return name.partition(".")[0] in MICRO_MODELS


def default_models(analyzer: str) -> tuple[str, str]:
    """Names of the two models that a command uses by default.

    They differ in what it measures: large and small kernels for the effective receptive field, the validity of the
    shape in training for the shape bias, and otherwise re-parameterization.

    Args:
        analyzer: Name of the command: ``"erf"``, ``"shape-bias"`` or ``"kernels"``.

    Returns:
        Two names for :func:`create_model`.

    Examples:
        >>> from replk_probe.models import default_models
        >>> default_models("erf")
        ('replknet_micro_k31_rep', 'replknet_micro_k3')
    """
    if analyzer == "erf":
        return "replknet_micro_k31_rep", "replknet_micro_k3"
    if analyzer == "shape-bias":
        return "replknet_micro_k3.shape100", "replknet_micro_k3.shape50"
    return "replknet_micro_k13_rep", "replknet_micro_k13"
