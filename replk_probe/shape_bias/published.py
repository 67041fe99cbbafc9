"""Counts of the published decisions of humans and four networks on the cue-conflict stimuli.

The decisions themselves are raw data of model-vs-human and not part of this package, so error consistency with single
observers requires ``--import``; the mean over the ten humans is given here.
"""

from __future__ import annotations

from dataclasses import dataclass
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
ON_WHAT = "Published observers: on the 1200 published stimuli with a cue conflict"

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


@dataclass(frozen=True)
class _Row:
    """Shape and texture decisions of one observer, by shape category in alphabetical order."""

    name: str
    shape: str
    texture: str
    na: int
    congruent: int
    kappa: float

    @property
    def counts(self) -> CueCounts:
        shape, texture = (tuple(map(int, cells.split())) for cells in (self.shape, self.texture))
        return CueCounts(
            categories=CATEGORIES,
            shape=shape,
            texture=texture,
            other=tuple(_CONFLICT - s - t for s, t in zip(shape, texture, strict=True)),
            na=self.na,
            congruent_correct=self.congruent,
            n_congruent=_CONGRUENT * len(CATEGORIES),
        )


_ROWS = (
    _Row(
        "alexnet",
        "5 1 32 10 6 34 23 7 23 55 20 3 4 6 21 33",
        "28 27 20 25 23 21 27 30 23 6 21 24 28 27 23 23",
        na=0,
        congruent=66,
        kappa=0.113173,
    ),
    _Row(
        "googlenet",
        "2 2 15 9 7 32 30 12 14 42 15 5 5 5 4 29",
        "41 39 20 37 33 26 19 32 32 16 29 30 40 40 36 33",
        na=0,
        congruent=69,
        kappa=0.087454,
    ),
    _Row(
        "resnet50",
        "0 2 6 1 5 36 21 2 4 37 10 2 6 0 6 24",
        "40 38 25 44 34 28 30 38 41 15 39 37 44 43 39 37",
        na=0,
        congruent=62,
        kappa=0.067433,
    ),
    _Row(
        "subject-01",
        "30 37 68 59 46 58 59 50 56 68 54 57 54 27 46 60",
        "4 4 0 0 4 3 2 4 1 0 1 0 1 4 2 3",
        na=22,
        congruent=58,
        kappa=0.273776,
    ),
    _Row(
        "subject-02",
        "32 45 74 59 29 67 69 54 72 70 55 63 57 40 52 69",
        "6 3 0 3 6 1 3 2 1 1 4 2 7 9 4 2",
        na=15,
        congruent=70,
        kappa=0.392037,
    ),
    _Row(
        "subject-03",
        "46 61 74 66 42 70 68 64 71 72 52 54 63 65 67 71",
        "5 2 0 1 8 1 4 0 0 0 3 3 3 3 1 0",
        na=3,
        congruent=71,
        kappa=0.349349,
    ),
    _Row(
        "subject-04",
        "29 43 67 50 22 60 64 39 59 67 31 41 29 18 51 57",
        "10 7 0 3 5 2 1 6 2 1 4 4 5 11 3 0",
        na=33,
        congruent=62,
        kappa=0.288751,
    ),
    _Row(
        "subject-05",
        "55 58 75 59 43 71 70 56 73 75 53 58 67 66 66 72",
        "6 1 0 3 3 0 2 4 0 0 6 3 2 7 1 0",
        na=2,
        congruent=74,
        kappa=0.340862,
    ),
    _Row(
        "subject-06",
        "49 42 70 66 35 69 71 58 71 71 61 70 64 56 59 64",
        "3 3 1 2 4 0 0 1 0 0 4 0 2 3 1 0",
        na=2,
        congruent=68,
        kappa=0.325043,
    ),
    _Row(
        "subject-07",
        "53 38 72 55 25 68 61 62 68 70 59 54 66 44 57 54",
        "7 5 1 2 8 0 3 3 1 0 4 4 3 11 2 3",
        na=15,
        congruent=70,
        kappa=0.339735,
    ),
    _Row(
        "subject-08",
        "50 59 71 60 35 69 69 56 68 69 47 57 50 44 59 65",
        "6 3 0 0 5 1 1 2 0 0 3 3 6 7 3 1",
        na=13,
        congruent=73,
        kappa=0.370554,
    ),
    _Row(
        "subject-09",
        "63 63 73 53 46 70 71 62 75 74 67 54 59 70 62 69",
        "2 0 0 2 2 0 1 0 0 0 1 0 4 0 1 1",
        na=1,
        congruent=73,
        kappa=0.287596,
    ),
    _Row(
        "subject-10",
        "36 55 73 54 25 70 69 60 67 69 50 45 62 53 55 66",
        "4 7 0 3 6 1 1 2 1 1 3 2 2 4 1 1",
        na=12,
        congruent=72,
        kappa=0.342814,
    ),
    _Row(
        "vgg",
        "0 0 4 1 2 26 19 9 6 21 10 0 3 1 4 24",
        "42 46 32 46 37 29 32 38 42 32 43 41 45 47 37 36",
        na=0,
        congruent=63,
        kappa=0.060204,
    ),
)


def published_for(result: ShapeBiasResult) -> tuple[Observer, ...]:
    """Published observers to compare with a result: the networks and all humans pooled, or none.

    Args:
        result: Result of a measurement. The return value is empty if its categories differ, or if the contents of its
            stimuli are not among those of the published set.
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
    """
    humans = [row.counts for row in _ROWS if row.name.startswith(HUMAN_PREFIX)]
    population = Observer.from_counts(
        HUMANS, "humans", pooled(humans), members=humans, consistency=ErrorConsistency(_HUMAN_KAPPA), source=SOURCE
    )
    return (
        population,
        *(
            Observer.from_counts(
                row.name,
                "human" if row.name.startswith(HUMAN_PREFIX) else "model",
                row.counts,
                consistency=ErrorConsistency(row.kappa),
                source=SOURCE,
            )
            for row in _ROWS
        ),
    )
