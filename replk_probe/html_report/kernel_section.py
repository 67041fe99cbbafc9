"""The part of the page on kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.collection import Saved
from replk_probe.kernels.kernel import Kernel, distinct_names
from replk_probe.kernels.result import KernelResult
from replk_probe.runtime.formatting import dimensions

from .map_images import map_image
from .number_texts import MISSING, Badge, Cell, badge, number, share

_ORDER = ("column", "row", "large", "small", "merged", "composed")
_TITLES = {
    "column": "before merging: vertical strip",
    "row": "before merging: horizontal strip",
    "large": "before merging: large branch",
    "small": "before merging: small branch",
    "composed": "composed",
}


@dataclass(frozen=True)
class KernelMap:
    """One kernel: its variant and what that is, its size in entries, its image, and its numbers."""

    variant: str
    title: str
    height: int
    width: int
    image: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class KernelLayer:
    """The kernels of one layer, and the longest of their sides, by which the drawings are scaled."""

    name: str
    path: str
    operation: str
    longest: int
    maps: list[KernelMap]


@dataclass(frozen=True)
class KernelModel:
    """The kernels of one model.

    Attributes:
        name: Name of the model.
        badge: Kind of its weights.
        layers: Layers in the order of the network.
        lacks_branches: Whether kernels are merged from branches that the result does not have.
        notes: Notes on the result.
    """

    name: str
    badge: Badge
    layers: list[KernelLayer]
    lacks_branches: bool
    notes: tuple[str, ...]


HEAD = ("size", "center 3x3", "skeleton", "50 / 90 / 99 % of the mass", "relative entropy", "small branch")


def kernel_section(saved: Sequence[Saved[KernelResult]]) -> list[KernelModel]:
    """A part for each model."""
    names = distinct_names([one.result for one in saved])
    return [_model(one.result, name) for one, name in zip(saved, names, strict=True) if one.result.kernels]


def last_merged(result: KernelResult) -> Kernel | None:
    """The kernel of the last layer of a model, merged if the result has it."""
    merged = [kernel for kernel in result.kernels if kernel.variant == "merged"]
    return next(reversed(merged or result.kernels), None)


def _model(result: KernelResult, name: str) -> KernelModel:
    layers: dict[str, list[Kernel]] = {}
    for kernel in result.kernels:
        layers.setdefault(kernel.path, []).append(kernel)
    found = [
        KernelLayer(
            kernels[0].layer,
            path,
            kernels[0].operation,
            max(max(kernel.spread.shape) for kernel in kernels),
            [_map(kernel) for kernel in sorted(kernels, key=lambda one: _ORDER.index(one.variant))],
        )
        for path, kernels in layers.items()
    ]
    has_branches = any(kernel.variant not in ("merged", "composed") for kernel in result.kernels)
    is_merged = any(len(kernel.branches) > 1 for kernel in result.kernels)
    return KernelModel(name, badge(result.run.weights), found, is_merged and not has_branches, result.notes)


def _map(kernel: Kernel) -> KernelMap:
    spread = kernel.spread
    sizes = [MISSING if side is None else str(side) for side in kernel.effective_size.values()]
    title = _TITLES.get(kernel.variant, kernel.variant)
    if kernel.variant == "merged":
        several = len(kernel.branches) > 1
        title = f"after merging: {' + '.join(kernel.branches)}" if several else "without branches"
    return KernelMap(
        kernel.variant,
        title,
        spread.shape[0],
        spread.shape[1],
        map_image(spread),
        (
            Cell(dimensions(kernel.kernel_size), max(kernel.kernel_size)),
            share(kernel.center3x3_share),
            share(kernel.skeleton_share),
            Cell(" / ".join(sizes), kernel.effective_size.get(50)),
            number(kernel.relative_entropy, 3),
            number(kernel.small_branch_share, 3)
            if kernel.small_branch_share is None
            else share(kernel.small_branch_share),
        ),
    )
