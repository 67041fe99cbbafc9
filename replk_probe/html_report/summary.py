"""The table of all models with their headline numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from replk_probe.collection import Collection, Saved
from replk_probe.kernels.result import KernelResult
from replk_probe.reliance.suppressions import COLOR, SHAPE, TEXTURE
from replk_probe.runtime.formatting import dimensions
from replk_probe.runtime.provenance import RunInfo, WeightsInfo

from .behaviour_section import observer_cells
from .erf_section import FIRST_THRESHOLD, conditions_of, ratio_cell
from .kernel_section import last_merged
from .names import erf_names, with_head
from .number_texts import NO_CELL, Badge, Cell, badge, share
from .reliance_section import profile_cells
from .shape_bias_section import bias_cell, source_of, weights_of

Key: TypeAlias = tuple[str, str, str | None, int | None]
# Indices of the results of each analyzer: ERF, shape bias, kernels, reliance, behaviour.
Members: TypeAlias = tuple[list[int], list[int], list[int], list[int], list[int]]

_ERF_COLUMNS = (
    ("ERF, centred", "Share of the input in the smallest window around the center with 50 % of the contribution"),
    ("ERF, paper", "The same by the published script, which takes logarithms"),
    ("effective area", "exp(entropy) of the contributions as a share of the input"),
)
_BIAS_COLUMNS = (
    ("shape bias", "Decisions for the shape among those for shape or texture, on stimuli whose cues conflict"),
    ("cue accuracy", "Decisions for shape or texture among all decisions on those stimuli"),
)
_KERNEL_COLUMNS = (
    ("kernel", "Size of the kernel of the last layer that was measured"),
    ("center 3x3", "Share of the absolute weights of this kernel in its central 3 x 3 entries"),
)
_RELIANCE_COLUMNS = tuple(
    (f"no {cue}", f"Accuracy when the {cue} is suppressed, relative to the accuracy without a suppression")
    for cue in (SHAPE, TEXTURE, COLOR)
)
_BEHAVIOUR_COLUMNS = (
    ("OOD accuracy", "Share of correct decisions on the sets of model-vs-human"),
    ("error consistency", "Cohen's kappa of being right or wrong on the same images as people"),
)


@dataclass(frozen=True)
class SummaryRow:
    """A model: its name, the kind of its weights, its style in all charts, and its cells."""

    name: str
    badge: Badge
    style: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Summary:
    """The table, and the style of each result of the collection.

    Attributes:
        columns: Name and meaning of the columns after the model.
        rows: The rows.
        erf_styles: Style of each ERF.
        bias_styles: Style of each shape bias.
        reliance_styles: Style of each result of reliance.
        behaviour_styles: Style of each behaviour.
    """

    columns: list[tuple[str, str]]
    rows: list[SummaryRow]
    erf_styles: list[int]
    bias_styles: list[int]
    reliance_styles: list[int]
    behaviour_styles: list[int]


def summary_of(collection: Collection) -> Summary:
    """One row for each model and weights; several if it was measured several times by one analyzer."""
    groups: dict[Key, Members] = {}
    for index, erf in enumerate(collection.erf):
        _group(groups, erf.result.run.model, erf.result.run.weights)[0].append(index)
    for index, bias in enumerate(collection.shape_bias):
        name = getattr(bias.result.run, "model", None) or source_of(bias.result)
        _group(groups, name, weights_of(bias.result))[1].append(index)
    for index, kernels in enumerate(collection.kernels):
        _group(groups, kernels.result.run.model, kernels.result.run.weights)[2].append(index)
    for index, reliance in enumerate(collection.reliance):
        _group(groups, reliance.result.run.model, reliance.result.run.weights)[3].append(index)
    for index, behaviour in enumerate(collection.behaviour):
        if isinstance(behaviour.result.run, RunInfo):
            _group(groups, behaviour.result.run.model, behaviour.result.run.weights)[4].append(index)
    rows: list[SummaryRow] = []
    erf_styles, bias_styles = [0] * len(collection.erf), [0] * len(collection.shape_bias)
    reliance_styles = [0] * len(collection.reliance)
    behaviour_styles = [0] * len(collection.behaviour)
    names = erf_names([one.result for one in collection.erf])
    for key, members in groups.items():
        for erf_index, bias_index, kernel_index, reliance_index, behaviour_index in itertools.zip_longest(*members):
            style = len(rows)
            if erf_index is not None:
                erf_styles[erf_index] = style
            if bias_index is not None:
                bias_styles[bias_index] = style
            if reliance_index is not None:
                reliance_styles[reliance_index] = style
            if behaviour_index is not None:
                behaviour_styles[behaviour_index] = style
            weights: Any = _weights_in(collection, erf_index, bias_index, kernel_index, reliance_index, behaviour_index)
            cells = (
                *_erf_cells(collection, erf_index),
                *_bias_cells(collection, bias_index),
                *_kernel_cells(collection.kernels, kernel_index),
                *_reliance_cells(collection, reliance_index),
                *_behaviour_cells(collection, behaviour_index),
            )
            is_several = max(map(len, members)) > 1
            name = names[erf_index] if is_several and erf_index is not None else key[0]
            rows.append(SummaryRow(name, badge(weights), style, cells))
    used = [index for index in range(len(_COLUMNS)) if any(row.cells[index].value is not None for row in rows)]
    shape, texture, color = (_COLUMNS.index(column) for column in _RELIANCE_COLUMNS)
    if color in used and {shape, texture} & {*used}:  # it is in the section, since the table is as wide as the page
        used.remove(color)
    return Summary(
        [_COLUMNS[index] for index in used],
        [replace(row, cells=tuple(row.cells[index] for index in used)) for row in rows],
        erf_styles,
        bias_styles,
        reliance_styles,
        behaviour_styles,
    )


_COLUMNS = (*_ERF_COLUMNS, *_BIAS_COLUMNS, *_KERNEL_COLUMNS, *_RELIANCE_COLUMNS, *_BEHAVIOUR_COLUMNS)


def _group(groups: dict[Key, Members], name: str, weights: WeightsInfo | None) -> Members:
    name = with_head(name, weights)
    key = (name, "", None, None) if weights is None else (name, weights.source, weights.sha256, weights.seed)
    return groups.setdefault(key, ([], [], [], [], []))


def _weights_in(
    collection: Collection,
    erf: int | None,
    bias: int | None,
    kernel: int | None,
    reliance: int | None,
    behaviour: int | None,
) -> WeightsInfo | None:
    if erf is not None:
        return collection.erf[erf].result.run.weights
    if bias is not None:
        return weights_of(collection.shape_bias[bias].result)
    if kernel is not None:
        return collection.kernels[kernel].result.run.weights
    if reliance is not None:
        return collection.reliance[reliance].result.run.weights
    run = None if behaviour is None else collection.behaviour[behaviour].result.run
    return run.weights if isinstance(run, RunInfo) else None


def _erf_cells(collection: Collection, index: int | None) -> tuple[Cell, ...]:
    if index is None:
        return (NO_CELL,) * len(_ERF_COLUMNS)
    result = collection.erf[index].result
    detail = conditions_of(result)
    ratios = [ratio_cell(result, protocol, FIRST_THRESHOLD) or NO_CELL for protocol in ("centred", "paper")]
    numbers = result.numbers
    area = NO_CELL if numbers is None else share(numbers.effective_area, numbers.effective_area_ci95)
    return (replace(ratios[0], detail=detail), ratios[1], area)


def _bias_cells(collection: Collection, index: int | None) -> tuple[Cell, ...]:
    model = None if index is None else collection.shape_bias[index].result.model
    if index is None or model is None:
        return (NO_CELL,) * len(_BIAS_COLUMNS)
    detail = f"{source_of(collection.shape_bias[index].result)} stimuli"
    return replace(bias_cell(model), detail=detail), share(model.counts.cue_accuracy)


def _behaviour_cells(collection: Collection, index: int | None) -> tuple[Cell, ...]:
    if index is None:
        return (NO_CELL,) * len(_BEHAVIOUR_COLUMNS)
    result = collection.behaviour[index].result
    one = next(each for each in result.overall if each.name == result.model)
    sets = [each.dataset for each in result.trials]
    accuracy, *_, consistency, _ = observer_cells(one, sets[0] if len(sets) == 1 else f"{len(sets)} sets")
    return accuracy, consistency


def _reliance_cells(collection: Collection, index: int | None) -> tuple[Cell, ...]:
    if index is None:
        return (NO_CELL,) * len(_RELIANCE_COLUMNS)
    return profile_cells(collection.reliance[index].result)[: len(_RELIANCE_COLUMNS)]


def _kernel_cells(saved: Sequence[Saved[KernelResult]], index: int | None) -> tuple[Cell, ...]:
    kernel = None if index is None else last_merged(saved[index].result)
    if kernel is None:
        return (NO_CELL,) * len(_KERNEL_COLUMNS)
    size = Cell(dimensions(kernel.kernel_size), max(kernel.kernel_size), "", f"{kernel.layer}, {kernel.variant}")
    return size, share(kernel.center3x3_share)
