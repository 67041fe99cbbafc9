"""Names of results that differ, also where one model was measured several times with other options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from replk_probe.erf.labels import distinct_labels
from replk_probe.erf.result import ErfResult
from replk_probe.runtime.formatting import counted
from replk_probe.runtime.provenance import WeightsInfo

_ASPECTS: tuple[Callable[[ErfResult], str], ...] = (
    lambda result: f"seed {result.run.seed}",
    lambda result: result.run.image_source,
    lambda result: counted(result.n_images or 0, "image"),
    lambda result: result.run.precision,
)


def erf_names(results: Sequence[ErfResult]) -> list[str]:
    """Labels as in the figures, followed by the seed, the images and the precision where others have the same label."""
    names = distinct_labels(results)
    for name in [name for name, count in Counter(names).items() if count > 1]:
        members = [index for index, other in enumerate(names) if other == name]
        aspects = [[aspect(results[index]) for index in members] for aspect in _ASPECTS]
        for index, *values in zip(members, *(one for one in aspects if len({*one}) > 1), strict=True):
            names[index] = ", ".join([name, *values])
    return numbered(names)


def numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number appended to those that are not unique."""
    counts = Counter(names)
    return [
        f"{name} #{names[: index + 1].count(name)}" if counts[name] > 1 else name for index, name in enumerate(names)
    ]


def with_head(name: str, weights: WeightsInfo | None) -> str:
    """The name of a model, followed by the head that was added, if any."""
    return name if weights is None or weights.head is None else f"{name}, {weights.head.label}"


def with_names(notes: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[list[str], str]]:
    """Each note with the names of its models, which are empty if it is about all of them.

    Args:
        notes: Name and notes of each model.
    """
    found: dict[str, list[str]] = {}
    for name, own in notes:
        for note in own:
            found.setdefault(note, []).append(name)
    return [([] if len(names) == len(notes) else names, note) for note, names in found.items()]
