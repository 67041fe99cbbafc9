"""The layer and the position that a convention measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from replk_probe.errors import InvalidInputError

from .convention import Convention
from .feature_layout import Layout
from .probe_layer import UnsuitableSizeError, find_target
from .target_layer import Layer, LayerPoint, TargetLayer


def target_for(
    model: nn.Module, shape: Sequence[int], layer: Layer, convention: Convention, target: str | None = None
) -> TargetLayer:
    """As :func:`find_target`, with the default layer and the position of a convention."""
    found = None
    if (
        layer is None
        and target is None
        and convention.final_norm == "after"
        and callable(getattr(model, "forward_features", None))
    ):
        try:
            found = find_target(model, shape, LayerPoint(None))
        except UnsuitableSizeError:
            raise
        except InvalidInputError:
            pass  # the output is no map: the default layer remains
    found = found or find_target(model, shape, layer, target)
    return replace(found, layout=_placed(found, model, convention.position))


def _placed(target: TargetLayer, model: nn.Module, rule: str) -> Layout:
    """The layout with the position that a rule chooses."""
    layout = target.layout
    if rule == "upper-left of tokens":
        of_patches = target.path is None and hasattr(model, "patch_embed")
        rule = "upper-left" if of_patches or layout.kind in ("NLC", "NCL") else "lower-right"
    if rule == "lower-right":
        return layout
    return replace(layout, chosen=tuple((length - 1) // 2 for length in layout.size))
