"""Published area ratios for comparison with measured ones, and the weights they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.provenance import UNKNOWN, WeightsInfo

_SOURCE = "Ding et al., Scaling Up Your Kernels to 31x31, arXiv:2203.06717v1, Table 10"


@dataclass(frozen=True)
class PublishedErf:
    """One row of a published table of area ratios."""

    title: str  # name of the model in the table
    models: tuple[str, ...]  # names of the same architecture in this package, without a package prefix or a weights tag
    # Threshold to area ratio as a fraction of the input, as printed (one digit after the point in percent).
    ratios: dict[float, float]
    weights: str  # description of the weights that were measured
    weights_pattern: str | None  # regular expression that the source of the same weights matches; None if not available
    weights_sha256: str | None = None  # first digits of the SHA-256 of the same weights, if known
    input_size: tuple[int, int] | None = (1024, 1024)  # (H, W) in pixels; None if it is not known
    source: str = _SOURCE
    protocol: str = "paper"
    layer: str | None = None  # regular expression of the layer that was measured; None for the default layer
    is_own_code: bool = False  # whether no package has the network, so that the name of its factory is compared
    convention: str = "replknet"  # name of the convention of the map
    needs_same_weights: bool = False  # whether the row is shown for these weights only

    def used(self, weights: WeightsInfo) -> bool:
        """Whether ``weights`` are those of the table, by their digest or by their name."""
        if self.weights_sha256 and weights.sha256 and weights.sha256.startswith(self.weights_sha256):
            return True
        return self._is_pattern_of(weights.source)

    def agrees(self, model: str, weights: WeightsInfo) -> bool:
        """Whether the weights of a model are those of the table; those of an imported map are named by its tag."""
        return self.used(weights) or (weights.source == UNKNOWN and self._is_pattern_of(f"timm:{model}"))

    def _is_pattern_of(self, source: str) -> bool:
        return self.weights_pattern is not None and re.fullmatch(self.weights_pattern, source) is not None


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


def _tf_sepnet(title: str, model: str, *ratios: float) -> PublishedErf:
    return PublishedErf(
        title,
        (model,),
        dict(zip((0.2, 0.3, 0.5), ratios, strict=True)),
        "weights trained on audio spectrograms",
        None,
        input_size=None,
        source="TF-SepNet, ICASSP 2024",
        is_own_code=True,
    )


def _openerf(model: str, side: int, linear: Sequence[float], pixels: Sequence[float]) -> list[PublishedErf]:
    return [
        PublishedErf(
            "OpenERF 0.6.1",
            (model.partition(".")[0],),
            dict(zip((0.2, 0.3, 0.5, 0.99), ratios, strict=True)),
            f"timm:{model}",
            re.escape(f"timm:{model}"),
            input_size=(side, side),
            source="its map of 1000 validation images of ImageNet, by its own convention",
            protocol=protocol,
            convention="openerf",
        )
        for protocol, ratios in (("linear", linear), ("pixels", pixels))
    ]


# Published numbers by the name of their reference.
REFERENCES: dict[str, tuple[PublishedErf, ...]] = {
    "replknet": TABLE_10,
    "openerf": (
        *_openerf("resnet101.a1_in1k", 224, (0.095, 0.151, 0.292, 0.991), (0.085, 0.138, 0.270, 0.957)),
        *_openerf(
            "swin_tiny_patch4_window7_224.ms_in1k", 224, (0.069, 0.151, 0.396, 0.991), (0.060, 0.123, 0.294, 0.976)
        ),
        *_openerf("deit_small_patch16_224.fb_in1k", 224, (0.052, 0.131, 0.385, 0.991), (0.036, 0.086, 0.226, 0.965)),
        *_openerf("xcit_tiny_12_p16_224.fb_in1k", 224, (0.037, 0.079, 0.273, 0.991), (0.025, 0.063, 0.250, 0.975)),
        *_openerf(
            "beit_base_patch16_384.in22k_ft_in22k_in1k", 384, (0.025, 0.069, 0.258, 0.995), (0.019, 0.061, 0.211, 0.967)
        ),
        *_openerf("swinv2_cr_small_ns_224.sw_in1k", 224, (0.254, 0.408, 0.667, 1.0), (0.008, 0.035, 0.193, 0.971)),
    ),
    "tf-sepnet": (
        _tf_sepnet("BC-ResNet-40", "bc_resnet_40", 0.096, 0.173, 0.393),
        _tf_sepnet("BC-Res2Net-40", "bc_res2net_40", 0.099, 0.189, 0.398),
        _tf_sepnet("TF-SepNet-40", "tf_sepnet_40", 0.139, 0.225, 0.438),
    ),
    "megengine": (
        PublishedErf(
            "ResNet-50, layer1",
            ("resnet50",),
            {0.2: 0.0007, 0.3: 0.0012, 0.5: 0.0018, 0.99: 0.0147},
            "MegEngine's weights (sides of 7, 9, 11 and 31 px)",
            None,
            input_size=(256, 256),  # which the sides and the ratios imply
            source="MegEngine BaseCls",
            layer=r"(stage1|layer1)(\.2)?",
        ),
    ),
}
ALL_REFERENCES = "published"


def find_published(model: str, table: Sequence[PublishedErf] = TABLE_10) -> PublishedErf | None:
    """The first row of a model with a name such as ``torchvision:resnet101`` or ``resnet101.tv_in1k``, or None."""
    return next((row for row in table if _is_named(row, model)), None)


def published_rows(
    model: str, layer: str, weights: WeightsInfo, table: Sequence[PublishedErf], *, is_default_layer: bool = True
) -> dict[str, PublishedErf]:
    """The first row of a model and layer for each protocol, and of the same weights if the row needs them."""
    rows = [
        row
        for row in table
        if _is_named(row, model)
        and (is_default_layer if row.layer is None else re.fullmatch(row.layer, layer))
        and (not row.needs_same_weights or row.agrees(model, weights))
    ]
    return {row.protocol: row for row in reversed(rows)}


def check_references(names: Iterable[str]) -> tuple[PublishedErf, ...]:
    """The rows of the references with these names, or for ``"published"`` those of all that need the same weights.

    Raises:
        InvalidInputError: A name is unknown.
    """
    rows: list[PublishedErf] = []
    for name in dict.fromkeys(names):
        if name != ALL_REFERENCES and name not in REFERENCES:
            raise InvalidInputError(
                f"There are no published numbers called {name!r}. A comparison needs the name of a reference. Choose "
                f"from {', '.join((ALL_REFERENCES, *REFERENCES))}."
            )
        if name == ALL_REFERENCES:
            every = (row for reference in REFERENCES.values() for row in reference)
            rows += [replace(row, needs_same_weights=True) for row in every]
        else:
            rows += REFERENCES[name]
    # The rows of a name are shown whatever the weights.
    return tuple(sorted(rows, key=lambda row: row.needs_same_weights))


def _is_named(row: PublishedErf, model: str) -> bool:
    name = re.sub(r"^(torchvision|timm):", "", model)
    if row.is_own_code:
        return _letters(name.rpartition(":")[2]) in map(_letters, row.models)
    return name.split(".")[0].lower() in row.models


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
