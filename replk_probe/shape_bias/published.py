"""Counts of the published decisions of humans and four networks on the cue-conflict stimuli.

The decisions themselves are raw data of model-vs-human and not part of this package, so error consistency with single
observers requires ``--import``; the mean over the ten humans is given here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from replk_probe.runtime.provenance import RunInfo

from .decisions import HUMAN_PREFIX, HUMANS
from .observers import ErrorConsistency, Observer
from .statistics import CueCounts, pooled
from .stimuli.names import CATEGORIES

if TYPE_CHECKING:
    from .result import ShapeBiasResult

SOURCE = (
    "published: Geirhos et al., ICLR 2019, arXiv:1811.12231; counted in the raw data of "
    "github.com/bethgelab/model-vs-human (commit 79ed7cd)"
)

# Shown with the published observers, since the stimuli of a measurement may differ.
ON_WHAT = "Published observers decided on the 1200 published stimuli with a cue conflict"

# Display names; those of single humans stay as they are.
TITLES = {
    HUMANS: "Humans (10)",
    "alexnet": "AlexNet (Caffe)",
    "googlenet": "GoogLeNet (Caffe)",
    "resnet50": "ResNet-50",
    "vgg": "VGG-16 (Caffe)",
}

_CONFLICT, _CONGRUENT = 75, 5  # stimuli of each shape category
_HUMAN_KAPPA = 0.331052  # mean over the 45 pairs of humans


# Observer; trials without an answer; correct decisions on congruent stimuli; mean kappa with the humans; decisions for
# the shape and for the texture, by shape category in alphabetical order.
_TABLE = """\
alexnet     0 66 .113173 5 1 32 10 6 34 23 7 23 55 20 3 4 6 21 33        28 27 20 25 23 21 27 30 23 6 21 24 28 27 23 23
googlenet   0 69 .087454 2 2 15 9 7 32 30 12 14 42 15 5 5 5 4 29         41 39 20 37 33 26 19 32 32 16 29 30 40 40 36 33
resnet50    0 62 .067433 0 2 6 1 5 36 21 2 4 37 10 2 6 0 6 24            40 38 25 44 34 28 30 38 41 15 39 37 44 43 39 37
subject-01 22 58 .273776 30 37 68 59 46 58 59 50 56 68 54 57 54 27 46 60 4 4 0 0 4 3 2 4 1 0 1 0 1 4 2 3
subject-02 15 70 .392037 32 45 74 59 29 67 69 54 72 70 55 63 57 40 52 69 6 3 0 3 6 1 3 2 1 1 4 2 7 9 4 2
subject-03  3 71 .349349 46 61 74 66 42 70 68 64 71 72 52 54 63 65 67 71 5 2 0 1 8 1 4 0 0 0 3 3 3 3 1 0
subject-04 33 62 .288751 29 43 67 50 22 60 64 39 59 67 31 41 29 18 51 57 10 7 0 3 5 2 1 6 2 1 4 4 5 11 3 0
subject-05  2 74 .340862 55 58 75 59 43 71 70 56 73 75 53 58 67 66 66 72 6 1 0 3 3 0 2 4 0 0 6 3 2 7 1 0
subject-06  2 68 .325043 49 42 70 66 35 69 71 58 71 71 61 70 64 56 59 64 3 3 1 2 4 0 0 1 0 0 4 0 2 3 1 0
subject-07 15 70 .339735 53 38 72 55 25 68 61 62 68 70 59 54 66 44 57 54 7 5 1 2 8 0 3 3 1 0 4 4 3 11 2 3
subject-08 13 73 .370554 50 59 71 60 35 69 69 56 68 69 47 57 50 44 59 65 6 3 0 0 5 1 1 2 0 0 3 3 6 7 3 1
subject-09  1 73 .287596 63 63 73 53 46 70 71 62 75 74 67 54 59 70 62 69 2 0 0 2 2 0 1 0 0 0 1 0 4 0 1 1
subject-10 12 72 .342814 36 55 73 54 25 70 69 60 67 69 50 45 62 53 55 66 4 7 0 3 6 1 1 2 1 1 3 2 2 4 1 1
vgg         0 63 .060204 0 0 4 1 2 26 19 9 6 21 10 0 3 1 4 24            42 46 32 46 37 29 32 38 42 32 43 41 45 47 37 36
"""


def _published() -> Iterator[tuple[str, CueCounts, float]]:
    """Name, counts and mean kappa of each observer, in the order of the raw data."""
    n = len(CATEGORIES)
    for name, na, congruent, kappa, *cells in map(str.split, _TABLE.splitlines()):
        shape, texture = (tuple(map(int, some)) for some in (cells[:n], cells[n:]))
        other = tuple(_CONFLICT - s - t for s, t in zip(shape, texture, strict=True))
        yield name, CueCounts(CATEGORIES, shape, texture, other, int(na), int(congruent), _CONGRUENT * n), float(kappa)


def published_for(result: ShapeBiasResult) -> tuple[Observer, ...]:
    """Published observers to compare with a result: the networks and all humans pooled.

    There are none if its categories differ, or if the contents of its stimuli are not among those of the published set.
    """
    if result.decisions is None or result.decisions.categories != CATEGORIES or not isinstance(result.run, RunInfo):
        return ()
    manifest = result.run.config.get("stimuli record", {}).get("manifest") or {}
    if not any(manifest.get(kind) for kind in ("same", "reencoded", "renamed")):
        return ()
    return tuple(one for one in published_observers() if one.kind != "human")


@cache
def published_observers() -> tuple[Observer, ...]:
    """Humans pooled, four networks and ten humans on the 1280 published stimuli.

    Returns:
        Observers in the order of the raw data. Their error consistency has only ``mean_human``.

    Examples:
        >>> from replk_probe.shape_bias import published_observers
        >>> humans = published_observers()[0]
        >>> humans.name, round(humans.counts.overall, 2)
        ('humans', 0.96)
    """
    rows = [(name, name.startswith(HUMAN_PREFIX), counts, kappa) for name, counts, kappa in _published()]
    humans = [counts for _, is_human, counts, _ in rows if is_human]
    population = Observer.from_counts(
        HUMANS, "humans", pooled(humans), members=humans, consistency=ErrorConsistency(_HUMAN_KAPPA), source=SOURCE
    )
    singles = (
        Observer.from_counts(
            name, "human" if is_human else "model", counts, consistency=ErrorConsistency(kappa), source=SOURCE
        )
        for name, is_human, counts, kappa in rows
    )
    return population, *singles
