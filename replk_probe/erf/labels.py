"""Labels of several results, which differ even where one model is measured several times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from replk_probe.runtime.formatting import dimensions

if TYPE_CHECKING:
    from .result import ErfResult


def distinct_labels(results: Sequence[ErfResult]) -> list[str]:
    """The name of each model; where it is repeated, followed by what differs.

    That is weights, input size, layer (and logit), convention, attribution or position. For instance
    ``"resnet18, epoch10.pth"`` or ``"resnet18, 224 px"``.
    """
    names = [result.run.model for result in results]
    labels = list(names)
    for name in (name for name, count in Counter(names).items() if count > 1):
        members = [index for index, other in enumerate(names) if other == name]
        aspects = [[aspect(results[index]) for index in members] for aspect in _ASPECTS]
        if len({*aspects[0]}) < len({result.run.weights.sha256 for result in (results[index] for index in members)}):
            aspects[0] = [results[index].run.weights.label.removeprefix("file:") for index in members]
        for index, *values in zip(members, *(one for one in aspects if len({*one}) > 1), strict=True):
            labels[index] = ", ".join([name, *values])
    return labels


def row_names(results: Sequence[ErfResult]) -> list[str]:
    """The :func:`distinct_labels` without the name of the model if it is the same in all of several results."""
    labels = distinct_labels(results)
    (model, *others) = {result.run.model for result in results}
    return labels if others or model in labels else [label.removeprefix(f"{model}, ") for label in labels]


def size_label(size: Sequence[int]) -> str:
    """An input size: one side of a square, or height and width."""
    return f"{size[0] if len({*size}) == 1 else dimensions(size)} px"


_ASPECTS: tuple[Callable[[ErfResult], str], ...] = (
    lambda result: result.run.weights.source.removeprefix("file:"),
    lambda result: size_label(result.input_size),
    lambda result: result.layer,
    lambda result: f"{result.unusual_options.get('convention', 'replknet')} convention",
    lambda result: result.unusual_options.get("attribution", "gradient"),
    lambda result: f"position {result.position}",
)
