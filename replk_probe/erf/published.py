"""Published area ratios for comparison with measured ones, and the weights they belong to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.runtime.provenance import WeightsInfo

_SOURCE = "Ding et al., Scaling Up Your Kernels to 31x31, arXiv:2203.06717v1, Table 10"


@dataclass(frozen=True)
class PublishedErf:
    """One row of a published table of area ratios, protocol ``paper``."""

    title: str  # name of the model in the table
    models: tuple[str, ...]  # names of the same architecture in this package, without a package prefix or a weights tag
    # Threshold to area ratio as a fraction of the input, as printed (one digit after the point in percent).
    ratios: dict[float, float]
    weights: str  # description of the weights that were measured
    weights_pattern: str  # regular expression that the source of the same weights matches
    weights_sha256: str | None = None  # first digits of the SHA-256 of the same weights, if known
    input_size: tuple[int, int] = (1024, 1024)  # (H, W) in pixels
    source: str = _SOURCE

    def used(self, weights: WeightsInfo) -> bool:
        """Whether ``weights`` are those of the table, by their digest or by their name."""
        if self.weights_sha256 and weights.sha256 and weights.sha256.startswith(self.weights_sha256):
            return True
        return re.fullmatch(self.weights_pattern, weights.source) is not None


TABLE_10: tuple[PublishedErf, ...] = (
    PublishedErf(
        "ResNet-101",
        ("resnet101",),
        {0.2: 0.010, 0.3: 0.017, 0.5: 0.035, 0.99: 0.234},
        "torchvision's V1 weights",
        r"torchvision:(ResNet101_Weights\.)?IMAGENET1K_V1|timm:resnet101\.tv_in1k",
        "63fe2227",
    ),
    PublishedErf(
        "ResNet-152",
        ("resnet152",),
        {0.2: 0.013, 0.3: 0.021, 0.5: 0.045, 0.99: 0.349},
        "torchvision's V1 weights",
        r"torchvision:(ResNet152_Weights\.)?IMAGENET1K_V1|timm:resnet152\.tv_in1k",
        "394f9c45",
    ),
    PublishedErf(
        "RepLKNet-13",
        ("replknet13",),
        {0.2: 0.102, 0.3: 0.158, 0.5: 0.285, 0.99: 0.963},
        "120-epoch weights",
        r"catalog:replknet13\.in1k_120ep",
    ),
    PublishedErf(
        "RepLKNet-31",
        ("replknet31b",),
        {0.2: 0.150, 0.3: 0.234, 0.5: 0.414, 0.99: 0.986},
        "120-epoch weights",
        r"catalog:replknet31b\.in1k_120ep",
    ),
)


def find_published(model: str, table: Sequence[PublishedErf] = TABLE_10) -> PublishedErf | None:
    """The row of a model with a name such as ``torchvision:resnet101`` or ``resnet101.tv_in1k``, or None."""
    name = re.sub(r"^(torchvision|timm):", "", model).split(".")[0].lower()
    return next((row for row in table if name in row.models), None)
