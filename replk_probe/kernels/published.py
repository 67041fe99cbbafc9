"""Published values, for comparison with measured ones."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Ding et al., arXiv:2203.06717v1, Fig. 6, summed from the printed matrices"
# Path of MobileNet V2's first 13 x 13 convolution of stride 1 at the last resolution.
PATH = "features.15.conv.1.0"


@dataclass(frozen=True)
class PublishedKernel:
    """Statistics of one published matrix."""

    model: str  # name of the corresponding model of this package
    variant: str  # variant, as in replk_probe.kernels.Kernel.variant
    center3x3_share: float  # share of its mass in the central 3 x 3 entries
    skeleton_share: float  # share of its mass in the central row and column (kernel skeleton)


PRINTED = (
    PublishedKernel("mobilenetv2_k13_rep", "large", 0.0826, 0.2534),
    PublishedKernel("mobilenetv2_k13_rep", "merged", 0.2270, 0.3308),
    PublishedKernel("mobilenetv2_k13", "merged", 0.1533, 0.2793),
)


def find_published(model: str, path: str, variant: str) -> PublishedKernel | None:
    """Published values of one kernel, or None if there are none."""
    return next((one for one in PRINTED if (one.model, PATH, one.variant) == (model, path, variant)), None)
