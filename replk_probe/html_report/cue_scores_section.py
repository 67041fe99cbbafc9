"""The part of the page on images with one cue each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.collection import Saved
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias.cue_scores import PUBLISHED_NOTE, published_scores
from replk_probe.shape_bias.result import ShapeBiasResult

from .names import numbered, with_head
from .number_texts import NO_CELL, Badge, Cell, badge, number, share
from .shape_bias_section import notes_of_models


@dataclass(frozen=True)
class ScoreRow:
    """One model, measured or published: its name, the kind of its weights or None, and the cells of its row."""

    name: str
    badge: Badge | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ScoredSet:
    """The scores on one set of images.

    Attributes:
        name: Name of the set.
        head: Titles of the columns.
        rows: The models, measured ones first.
        remark: Remark on the published scores, or "".
        notes: Each note with the names of its models, which are empty if it is about all of them.
    """

    name: str
    head: tuple[str, ...]
    rows: list[ScoreRow]
    remark: str
    notes: list[tuple[list[str], str]]


def cue_scores_sections(saved: Sequence[Saved[ShapeBiasResult]]) -> list[ScoredSet]:
    """A part for each set of images with one cue each."""
    groups: dict[tuple[str, tuple[str, ...]], list[ShapeBiasResult]] = {}
    for one in saved:
        if one.result.scores is not None and isinstance(one.result.run, RunInfo):
            key = one.result.run.image_source, tuple(one.result.scores.by_cue)
            groups.setdefault(key, []).append(one.result)
    return [_set(source, cues, results) for (source, cues), results in groups.items()]


def _set(source: str, cues: tuple[str, ...], results: Sequence[ShapeBiasResult]) -> ScoredSet:
    runs = [result.run for result in results if isinstance(result.run, RunInfo)]
    names = numbered([with_head(run.model, run.weights) for run in runs])
    rows = [
        ScoreRow(name, badge(run.weights), _cells(result))
        for name, run, result in zip(names, runs, results, strict=True)
    ]
    published = published_scores(source)
    for name, known in published.items():
        scores = tuple(cell for cue in cues for cell in (number(known.get(cue), 3), NO_CELL))
        rows.append(ScoreRow(f"{name}, published", None, (*scores, NO_CELL)))
    head = tuple(title for cue in cues for title in (cue, f"top-1, {cue}"))
    notes = notes_of_models(results, source)
    return ScoredSet(source, (*head, f"{cues[0]} / sum"), rows, PUBLISHED_NOTE if published else "", notes)


def _cells(result: ShapeBiasResult) -> tuple[Cell, ...]:
    assert result.scores is not None
    cells: list[Cell] = []
    for score in result.scores.by_cue.values():
        interval = " to ".join(f"{limit:.3g}" for limit in score.ci95)
        cells += [
            Cell(f"{score.mean_reciprocal_rank:.3g}", score.mean_reciprocal_rank, interval),
            share(score.top1),
        ]
    return (*cells, number(result.scores.relative, 3))
