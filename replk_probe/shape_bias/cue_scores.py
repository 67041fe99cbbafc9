"""Scores of images with one cue each: the mean reciprocal rank of the right classes, for each cue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.results import ByValue, Row, interval_cells, null_if_nan

from .statistics import DRAWS, SEED, Interval, few_note

CSV_COLUMNS = ("cue", "label", "n_images", "mean_reciprocal_rank", "ci95_low", "ci95_high", "top1")

# Published scores, by set and cue; those for texture are in figures only.
PUBLISHED_SCORES: dict[str, dict[str, dict[str, float]]] = {
    "refined-bias": {"shape": {"bagnet9": 0.0518, "bagnet17": 0.0988, "bagnet33": 0.2438}}
}
PUBLISHED_NOTE = (
    "Published scores (github.com/PumjunKim/REFINED-BIAS) are of images resized to 256 px and cropped to 224 px."
)


def published_scores(source: str) -> Mapping[str, Mapping[str, float]]:
    """Published scores of each model for each cue, for the stimuli of this source."""
    by_model: dict[str, dict[str, float]] = {}
    for cue, known in PUBLISHED_SCORES.get(source.removeprefix("set:"), {}).items():
        for name, score in known.items():
            by_model.setdefault(name, {})[cue] = score
    return by_model


@dataclass(frozen=True)
class CueScore:
    """The score of some images.

    Attributes:
        n_images: Number of images.
        mean_reciprocal_rank: Mean of 1 / rank, in (0, 1].
        ci95: 95 % interval of the mean: percentiles of a bootstrap over images, within each label.
        top1: Fraction of images of which a right class ranks first.
    """

    n_images: int
    mean_reciprocal_rank: float
    ci95: Interval
    top1: float

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "n_images": self.n_images,
            "mean_reciprocal_rank": self.mean_reciprocal_rank,
            "ci95": list(self.ci95),
            "top1": self.top1,
        }


@dataclass(frozen=True, eq=False)
class CueScores(ByValue):
    """Reciprocal ranks of images with one cue each, and their means.

    The rank of an image is that of the highest output among the right classes, in the outputs for all classes; outputs
    of other classes that equal it count as higher.

    Attributes:
        names: Path of each image, ``[N]``.
        cues: Cue of each image, ``[N]``.
        labels: Label of each image, ``[N]``.
        reciprocal_ranks: 1 / rank of each image, ``[N]`` float32 in (0, 1], read-only.

    Source:
        Kim et al., 2026, arXiv:2603.10834 (REFINED-BIAS).

    Examples:
        >>> from replk_probe.shape_bias import CueScores
        >>> scores = CueScores(
        ...     ("a.png", "b.png", "c.png"), ("shape", "shape", "texture"), ("cat", "dog", "cat"), [1.0, 0.5, 0.25]
        ... )
        >>> scores.by_cue["shape"].mean_reciprocal_rank, scores.by_cue["texture"].mean_reciprocal_rank
        (0.75, 0.25)
        >>> scores.relative  # shape / (shape + texture)
        0.75
    """

    names: tuple[str, ...]
    cues: tuple[str, ...]
    labels: tuple[str, ...]
    reciprocal_ranks: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Copy and check the ranks."""
        ranks = np.array(self.reciprocal_ranks, dtype=np.float32)
        if not len(self.names) == len(self.cues) == len(self.labels) == len(ranks) or ranks.ndim != 1 or not len(ranks):
            raise InvalidInputError(
                f"Expected a name, a cue, a label and a rank of every image, but got {len(self.names)}, "
                f"{len(self.cues)}, {len(self.labels)} and {ranks.size}. Give sequences of equal length."
            )
        if not ((ranks > 0) & (ranks <= 1)).all():
            raise InvalidInputError("A reciprocal rank is not in (0, 1]. The highest rank is 1. Give 1 / rank.")
        ranks.setflags(write=False)
        object.__setattr__(self, "reciprocal_ranks", ranks)

    @cached_property
    def by_cue(self) -> Mapping[str, CueScore]:
        """The score for each cue, in the order of the images."""
        return {cue: self._score(np.array(self.cues) == cue) for cue in dict.fromkeys(self.cues)}

    @cached_property
    def by_label(self) -> Mapping[str, Mapping[str, CueScore]]:
        """The score for each label of each cue, in alphabetical order."""
        cues, labels = np.array(self.cues), np.array(self.labels)
        return {
            cue: {
                name: self._score((cues == cue) & (labels == name)) for name in sorted({*labels[cues == cue].tolist()})
            }
            for cue in self.by_cue
        }

    @property
    def relative(self) -> float:
        """Share of the first of two cues in the sum of both scores; NaN for any other number of cues."""
        means = [score.mean_reciprocal_rank for score in self.by_cue.values()]
        return means[0] / sum(means) if len(means) == 2 else math.nan

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if a cue has too few images for its interval."""
        found = [
            few_note([score.n_images for score in scores.values()], f"images of the cue {cue} in {len(scores)} labels")
            for cue, scores in self.by_label.items()
        ]
        return tuple(note for note in found if note)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, without the single images."""
        return {
            "cues": {
                cue: score.to_json() | {"labels": {name: one.to_json() for name, one in self.by_label[cue].items()}}
                for cue, score in self.by_cue.items()
            },
            "relative": null_if_nan(self.relative),
        }

    def rows(self) -> list[Row]:
        """One row for each cue (label ``all``) and for each of its labels, with the columns of ``CSV_COLUMNS``."""
        return [
            {
                "cue": cue,
                "label": label,
                "n_images": score.n_images,
                "mean_reciprocal_rank": score.mean_reciprocal_rank,
                **interval_cells(score.ci95),
                "top1": score.top1,
            }
            for cue, whole in self.by_cue.items()
            for label, score in {"all": whole, **self.by_label[cue]}.items()
        ]

    def _score(self, chosen: npt.NDArray[np.bool_]) -> CueScore:
        ranks = self.reciprocal_ranks[chosen].astype(np.float64)
        labels = np.array(self.labels)[chosen]
        random = np.random.default_rng(SEED)
        sums = np.zeros(DRAWS)
        for label in np.unique(labels):
            own = ranks[labels == label]
            sums += own[random.integers(len(own), size=(DRAWS, len(own)))].sum(axis=1)
        low, high = np.quantile(sums / len(ranks), [0.025, 0.975])
        return CueScore(len(ranks), float(ranks.mean()), (float(low), float(high)), float((ranks == 1).mean()))


def reciprocal_ranks(logits: npt.NDArray[Any], members: tuple[tuple[int, ...], ...]) -> npt.NDArray[np.float32]:
    """1 / rank of the highest output of each category among all outputs.

    Args:
        logits: ``[N, outputs]``, finite.
        members: Outputs of each category.

    Returns:
        ``[N, categories]``, in (0, 1]. Outputs outside of the category that equal its highest one rank before it.

    Raises:
        InvalidInputError: A logit is not finite.
    """
    values = np.asarray(logits, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InvalidInputError(
            "The classifier gave outputs that are not finite. They have no rank. Check its weights and, if the "
            "precision is reduced, measure with precision 'fp32'."
        )
    columns = []
    for some in members:
        own = values[:, list(some)]
        best = own.max(axis=1, keepdims=True)
        columns.append(1 / (1 + (values >= best).sum(axis=1) - (own >= best).sum(axis=1)))
    return np.stack(columns, axis=1).astype(np.float32)
