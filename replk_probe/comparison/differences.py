"""Differences between two results of one analyzer, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.behaviour.benchmark_sets import BENCHMARK_SETS
from replk_probe.behaviour.consistency import by_condition, resample_images
from replk_probe.behaviour.result import BehaviourResult
from replk_probe.bench.result import SpeedResult
from replk_probe.erf.labels import distinct_labels, size_label
from replk_probe.erf.map_numbers import ALL_LABELS
from replk_probe.erf.result import ErfResult
from replk_probe.errors import InvalidInputError
from replk_probe.kernels.result import KernelResult, distinct_names
from replk_probe.reliance.result import RelianceResult
from replk_probe.reliance.statistics import interval, mean_by_method, ratios, resampled_correct
from replk_probe.results import Result, Row, csv_text, interval_cells
from replk_probe.runtime.formatting import dimensions, percent
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias.observers import Observer, compare_pairs
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.statistics import SEED, wilson_interval

Interval: TypeAlias = tuple[float, float]

# The numbers of a map that are compared; the others jump, depend on the scale of the map, or repeat these.
_MAP_NUMBERS = (
    *("effective_area", "radial_area", "border_share", "center_offset_z", "center_offset_y", "center_offset_x"),
    *("standard_deviation_z", "standard_deviation_y", "standard_deviation_x"),
)
CSV_COLUMNS = (
    *("analyzer", "group", "number", "unit", "first", "second", "difference", "ci95_low", "ci95_high", "significant"),
)


@dataclass(frozen=True)
class Difference:
    """A number of both results and their difference.

    Attributes:
        group: Group of the number, such as the protocol of an area ratio.
        name: Name of the number.
        unit: ``"%"`` for fractions, which are shown in percent, otherwise the unit or "".
        first: Value of the first result; NaN if it is undefined.
        second: Value of the second result.
        difference: First value minus the second one.
        ci95: 95 % interval of the difference, or None for numbers without an interval.
    """

    group: str
    name: str
    unit: str
    first: float
    second: float
    difference: float
    ci95: Interval | None = None

    @property
    def is_significant(self) -> bool | None:
        """Whether the interval excludes zero; None without an interval."""
        return None if self.ci95 is None else self.ci95[0] > 0 or self.ci95[1] < 0


@dataclass(frozen=True)
class Comparison:
    """The differences between two results.

    Attributes:
        analyzer: ``"erf"``, ``"shape-bias"``, ``"behaviour"``, ``"reliance"``, ``"kernels"`` or ``"bench"``.
        first: Name of the first result.
        second: Name of the second result.
        differences: One entry for each number that both have.
        method: How the intervals were computed, in one sentence.
        notes: What else differs between the measurements, in sentences.
    """

    analyzer: str
    first: str
    second: str
    differences: tuple[Difference, ...]
    method: str
    notes: tuple[str, ...] = ()

    @property
    def n_significant(self) -> int:
        """Number of differences whose interval excludes zero."""
        return sum(one.is_significant is True for one in self.differences)

    @property
    def n_with_interval(self) -> int:
        """Number of differences that have an interval."""
        return sum(one.ci95 is not None for one in self.differences)

    def to_csv(self) -> str:
        """The differences as CSV; numbers without an interval have empty cells."""
        return csv_text([_row(self.analyzer, one) for one in self.differences], CSV_COLUMNS)


def compare_results(first: Result, second: Result) -> Comparison:
    """Compare two results of one analyzer.

    Area ratios and other numbers of maps are compared with intervals whose half-widths are the root of the sum of the
    squares of both half-widths. Shape biases are compared stimulus by stimulus
    (:func:`~replk_probe.shape_bias.statistics.paired_comparison`). Accuracies of behaviour and reliance have a
    bootstrap over images, with the same samples for both results. Kernels and times have no intervals: the first have
    no sampling error, and benchmarks are not repeated on several machines.

    Args:
        first: A result.
        second: A result of the same type, measured alike.

    Returns:
        The differences, first minus second.

    Raises:
        InvalidInputError: The results have different types, or were measured such that their numbers do not have the
            same meaning: another input size, convention, attribution, target or position of maps, other stimuli or
            categories, or no common number.

    Source:
        Newcombe, Statistics in Medicine 17 (1998), method 10, for differences of proportions.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.comparison import compare_results
        >>> from replk_probe.erf import import_erf
        >>> small, large = (import_erf(np.pad(np.ones((n, n)), 16 - n // 2), name=f"{n}x{n}") for n in (8, 16))
        >>> comparison = compare_results(large, small)
        >>> difference = next(one for one in comparison.differences if one.group == "pixels")
        >>> difference.name, difference.unit, round(difference.first, 3), round(difference.second, 3)
        ('20 %', '%', 0.051, 0.013)
    """
    if isinstance(first, ErfResult) and isinstance(second, ErfResult):
        found = _compare_erf(first, second)
    elif isinstance(first, ShapeBiasResult) and isinstance(second, ShapeBiasResult):
        found = _compare_shape_bias(first, second)
    elif isinstance(first, BehaviourResult) and isinstance(second, BehaviourResult):
        found = _compare_behaviour(first, second)
    elif isinstance(first, RelianceResult) and isinstance(second, RelianceResult):
        found = _compare_reliance(first, second)
    elif isinstance(first, KernelResult) and isinstance(second, KernelResult):
        found = _compare_kernels(first, second)
    elif isinstance(first, SpeedResult) and isinstance(second, SpeedResult):
        found = _compare_speed(first, second)
    else:
        raise InvalidInputError(
            f"Cannot compare objects of type {type(first).__name__} and {type(second).__name__}. Both must be results "
            "of one analyzer. Give two results of the same type."
        )
    if not found.differences:
        raise InvalidInputError(
            f"Cannot compare {found.first} and {found.second}. The two results have no number in common. Measure both "
            "with the same options."
        )
    return found


def _compare_erf(first: ErfResult, second: ErfResult) -> Comparison:
    aspects: dict[str, Callable[[ErfResult], str]] = {
        "input size": lambda one: size_label(one.input_size),
        "convention": lambda one: one.unusual_options.get("convention", "replknet"),
        "attribution": lambda one: one.unusual_options.get("attribution", "gradient"),
        "target": lambda one: one.unusual_options.get("target", "features"),
        "position": lambda one: one.position,
    }
    _refuse("ERFs", first.run.model, second.run.model, {name: (of(first), of(second)) for name, of in aspects.items()})
    rows = [
        _erf_difference(first, second, protocol, threshold)
        for protocol in first.protocols
        for threshold in first.thresholds
        if protocol in second.protocols and threshold in second.thresholds
    ]
    names = distinct_labels([first, second])
    if names[0] == names[1]:
        names = [f"{name} #{number}" for number, name in enumerate(names, 1)]
    return Comparison(
        "erf",
        names[0],
        names[1],
        (*rows, *_map_differences(first, second)),
        "Intervals: jackknife intervals of both results in quadrature. The records do not have the maps of single "
        "images, so that images cannot be paired; on common images the intervals can be too wide.",
        tuple(_other_conditions(first.run, second.run, {"layer": (first.layer, second.layer)})),
    )


def _erf_difference(first: ErfResult, second: ErfResult, protocol: str, threshold: float) -> Difference:
    rows = first.row(protocol, threshold), second.row(protocol, threshold)
    halves = [_half_of_ratio(one, protocol, threshold) for one in (first, second)]
    difference = rows[0].ratio - rows[1].ratio
    interval = _around(difference, *halves)
    return Difference(protocol, percent(threshold), "%", rows[0].ratio, rows[1].ratio, difference, interval)


def _half_of_ratio(result: ErfResult, protocol: str, threshold: float) -> float | None:
    """Half the width of the interval of a ratio before it is clipped to [0, 1], if the record has it."""
    for curve in result.convergence.ratios if result.convergence is not None else ():
        if (curve.protocol, curve.threshold) == (protocol, threshold) and curve.half_widths:
            return curve.half_widths[-1]
    row = result.row(protocol, threshold)
    return _half(row.ratio, row.ci95)


def _half(value: float, interval: Interval | None) -> float | None:
    """Half the width of an interval: the longer side, since the other one may have been clipped."""
    return None if interval is None else max(value - interval[0], interval[1] - value)


def _around(difference: float, one: float | None, other: float | None) -> Interval | None:
    if one is None or other is None:
        return None
    half = math.hypot(one, other)
    return difference - half, difference + half


def _map_differences(first: ErfResult, second: ErfResult) -> Iterator[Difference]:
    if first.numbers is None or second.numbers is None:
        return
    radii = {threshold: (radius, ends) for threshold, radius, ends in second.numbers.radii()}
    for threshold, radius, ends in first.numbers.radii():
        if threshold in radii:
            other, other_ends = radii[threshold]
            interval = _around(radius - other, _half(radius, ends), _half(other, other_ends))
            yield Difference("radius", percent(threshold), "px", radius, other, radius - other, interval)
    others = second.numbers.named()
    for name, (value, ends) in first.numbers.named().items():
        if name in _MAP_NUMBERS and name in others:
            other, other_ends = others[name]
            interval = _around(value - other, _half(value, ends), _half(other, other_ends))
            yield Difference("map", *ALL_LABELS[name], value, other, value - other, interval)


def _compare_shape_bias(first: ShapeBiasResult, second: ShapeBiasResult) -> Comparison:
    if first.model is None or second.model is None or first.decisions is None or second.decisions is None:
        raise InvalidInputError(
            "Cannot compare shape biases. One of the results has imported observers only. Give results of measured "
            "models."
        )
    aspects = {"categories": tuple(", ".join(one.model.counts.categories) for one in (first, second) if one.model)}
    _refuse("shape biases", first.model.name, second.model.name, aspects)
    names = _numbered(first.model.name, second.model.name)
    decisions = [one.renamed(name) for one, name in zip((first.decisions, second.decisions), names, strict=True)]
    pairs = [pair for _, _, pair in compare_pairs(decisions)]
    if not pairs:
        raise InvalidInputError(
            f"Cannot compare the shape biases of {names[0]} and {names[1]}. They have no stimulus with a cue conflict "
            "in common. Measure both on the same stimuli."
        )
    (pair,) = pairs
    counts = first.model.counts, second.model.counts
    rows = []
    if not math.isnan(pair.difference):
        rows.append(
            Difference("all", "shape bias", "%", counts[0].overall, counts[1].overall, pair.difference, pair.ci95)
        )
    rows += _share_differences(first.model, second.model)
    notes = [
        f"The shape biases were compared stimulus by stimulus: {pair.first_only + pair.second_only} of {pair.n_pairs} "
        f"decisions for opposite cues ({pair.first_only} / {pair.second_only}), McNemar's exact p = {pair.p_value:.2g}."
    ]
    runs = first.run, second.run
    if isinstance(runs[0], RunInfo) and isinstance(runs[1], RunInfo):
        sizes = size_label(runs[0].input_size), size_label(runs[1].input_size)
        notes += _other_conditions(runs[0], runs[1], {"input size": sizes})
    return Comparison(
        "shape-bias",
        names[0],
        names[1],
        tuple(rows),
        "Intervals: bootstrap over pairs of decisions for the shape bias; the others by Newcombe's method from "
        "Wilson's intervals, as if the stimuli were different.",
        tuple(notes),
    )


def _share_differences(first: Observer, second: Observer) -> Iterator[Difference]:
    """Differences of the cue accuracy and of the shape bias of each category."""
    counts = first.counts, second.counts
    accuracies = [(one.n_shape + one.n_texture, one.n_conflict) for one in counts]
    yield from _share_difference("all", "cue accuracy", *accuracies)
    for index, category in enumerate(counts[0].categories):
        biases = [(one.shape[index], one.shape[index] + one.texture[index]) for one in counts]
        yield from _share_difference("category", category, *biases)


def _share_difference(group: str, name: str, one: tuple[int, int], other: tuple[int, int]) -> Iterator[Difference]:
    """The difference of two proportions, each given by its numerator and denominator, unless one is undefined."""
    ends, other_ends = wilson_interval(*one), wilson_interval(*other)
    if ends is not None and other_ends is not None:
        value, other_value = one[0] / one[1], other[0] / other[1]
        difference = value - other_value
        low = difference - math.hypot(value - ends[0], other_ends[1] - other_value)
        high = difference + math.hypot(ends[1] - value, other_value - other_ends[0])
        yield Difference(group, name, "%", value, other_value, difference, (low, high))


def _compare_behaviour(first: BehaviourResult, second: BehaviourResult) -> Comparison:
    if not isinstance(first.run, RunInfo) or not isinstance(second.run, RunInfo):
        raise InvalidInputError(
            "Cannot compare results of behaviour. One of them has imported decisions only. Give results of measured "
            "models."
        )
    names = _numbered(first.run.model, second.run.model)
    others = {one.dataset: one for one in second.trials}
    same = {one.dataset: (one, others[one.dataset]) for one in first.trials if one.dataset in others}
    same = {name: pair for name, pair in same.items() if np.array_equal(pair[0].keys, pair[1].keys)}
    if not same:
        raise InvalidInputError(
            f"Cannot compare the behaviour of {names[0]} and {names[1]}. They have no set with the same images in "
            "common. Measure both on the same sets."
        )
    rows, drawn = [], []
    for index, (name, (one, other)) in enumerate(same.items()):
        levels = BENCHMARK_SETS[name].conditions
        conditions = [
            condition
            for condition in by_condition([replace(one, observer="first"), replace(other, observer="second")])
            if condition.level in levels
        ]
        if len(conditions) == len(levels):
            accuracies = resample_images(conditions, [], seed=(SEED, index))["accuracy"]
            drawn.append(accuracies[:, 0] - accuracies[:, 1])
            shares = [result.scores(dataset=name).accuracy for result in (first, second)]
            rows.append(_sampled(name, "accuracy", shares, drawn[-1]))
        consistencies = [
            (found.scores.error_consistency, found.intervals["error_consistency"].images)
            for result in (first, second)
            for found in (each.observer(str(result.model)) for each in result.sets if each.name == name)
            if found is not None
        ]
        (value, ends), (other_value, other_ends) = consistencies
        if not math.isnan(value - other_value):
            around = _around(value - other_value, _half(value, ends), _half(other_value, other_ends))
            rows.append(Difference(name, "error consistency", "", value, other_value, value - other_value, around))
    if len(drawn) > 1:
        means = [
            math.fsum(row.first if side == 0 else row.second for row in rows if row.name == "accuracy") / len(drawn)
            for side in (0, 1)
        ]
        rows.insert(0, _sampled("all", "accuracy", means, np.mean(drawn, axis=0)))
    skipped = sorted({one.dataset for one in (*first.trials, *second.trials)} - {*same})
    notes = [f"Left out, since not both have all of their images: {', '.join(skipped)}."] if skipped else []
    return Comparison(
        "behaviour",
        *names,
        tuple(rows),
        "Intervals: bootstrap over images, with the same samples for both, for accuracies; intervals over images of "
        "both results in quadrature for error consistencies.",
        (*notes, *_other_conditions(first.run, second.run, {})),
    )


def _compare_reliance(first: RelianceResult, second: RelianceResult) -> Comparison:
    names = _numbered(first.run.model, second.run.model)
    _refuse("reliance", *names, {"label space": (first.label_space, second.label_space)})
    if first.run.image_ids != second.run.image_ids or first.run.image_source != second.run.image_source:
        raise InvalidInputError(
            f"Cannot compare the reliance of {names[0]} and {names[1]}. They were measured on different images, so "
            "that their decisions cannot be paired. Measure both on the same images."
        )
    places = {one.suppression: index for index, one in enumerate(second.suppressions)}
    common = [(index, one) for index, one in enumerate(first.suppressions) if one.suppression in places]
    chosen = [[0, *(1 + index for index, _ in common)], [0, *(1 + places[one.suppression] for _, one in common)]]
    correct = np.concatenate(
        [(one.decisions == one.targets)[rows] for one, rows in zip((first, second), chosen, strict=True)]
    )
    counts, drawn = correct.sum(axis=1).astype(np.float64), resampled_correct(correct)
    size, half = correct.shape[1], len(common) + 1
    accuracies = counts[0] / size, counts[half] / size
    rows = [_sampled("all", "accuracy", accuracies, (drawn[:, 0] - drawn[:, half]) / size)]
    relative = ratios(counts[:half]), ratios(counts[half:])
    drawn_relative = ratios(drawn[:, :half]), ratios(drawn[:, half:])
    methods = [one.method for _, one in common]
    for cue in first.profile:
        members = [index for index, (_, one) in enumerate(common) if one.cues == cue.cues]
        if len(members) == sum(one.cues == cue.cues for one in (*first.suppressions, *second.suppressions)) / 2:
            means = [float(mean_by_method(values, methods, members)) for values in relative]
            one, two = (mean_by_method(values, methods, members) for values in drawn_relative)
            rows.append(_sampled("relative accuracy without a cue", cue.cues.replace("+", " + "), means, one - two))
    for index, (_, suppressed) in enumerate(common):
        values = (float(relative[0][index]), float(relative[1][index]))
        samples = drawn_relative[0][:, index] - drawn_relative[1][:, index]
        rows.append(_sampled("relative accuracy", suppressed.suppression, values, samples))
    sizes = size_label(first.run.input_size), size_label(second.run.input_size)
    return Comparison(
        "reliance",
        *names,
        tuple(row for row in rows if not math.isnan(row.difference)),
        "Intervals: bootstrap over images, with the same samples for both.",
        tuple(_other_conditions(first.run, second.run, {"input size": sizes})),
    )


def _numbered(first: str, second: str) -> tuple[str, str]:
    """The names of two models, with numbers if they are the same."""
    return (f"{first} #1", f"{second} #2") if first == second else (first, second)


def _sampled(group: str, name: str, values: Sequence[float], samples: npt.NDArray[np.float64]) -> Difference:
    """The difference of two shares with the percentile interval of its samples."""
    first, second = values
    return Difference(group, name, "%", first, second, first - second, interval(samples))


def _compare_kernels(first: KernelResult, second: KernelResult) -> Comparison:
    names = distinct_names([first, second])
    _refuse("kernels", names[0], names[1], {"aggregate": (first.run.aggregate, second.run.aggregate)})
    others = {(kernel.layer, kernel.variant): kernel for kernel in second.kernels}
    rows = []
    for kernel in first.kernels:
        other = others.get((kernel.layer, kernel.variant))
        if other is None:
            continue
        group = f"{kernel.layer}, {kernel.variant}"
        if kernel.kernel_size != other.kernel_size:
            group += f" ({dimensions(kernel.kernel_size)} and {dimensions(other.kernel_size)})"
        for name, one, two in (
            ("center 3x3", kernel.center3x3_share, other.center3x3_share),
            ("skeleton", kernel.skeleton_share, other.skeleton_share),
            ("zeros", kernel.zero_fraction, other.zero_fraction),
        ):
            if not math.isnan(one - two):
                rows.append(Difference(group, name, "%", one, two, one - two))
    return Comparison(
        "kernels", names[0], names[1], tuple(rows), "Kernels are weights, without a sampling error: no intervals."
    )


def _compare_speed(first: SpeedResult, second: SpeedResult) -> Comparison:
    _refuse("benchmarks", "the first", "the second", {"type of tensors": (first.dtype, second.dtype)})
    others = {(case.label, case.direction): case for case in second.cases}
    rows = []
    for case in first.cases:
        other = others.get((case.label, case.direction))
        if other is not None and case.ours.minimum and other.ours.minimum:
            one, two = 1e3 * case.ours.minimum, 1e3 * other.ours.minimum
            rows.append(Difference(case.pass_label, case.label, "ms", one, two, one - two))
    machines = first.machine, second.machine
    aspects: dict[str, tuple[object, ...]] = {
        "processor": tuple(one.cpu for one in machines),
        "threads": tuple(one.threads for one in machines),
        "GPU": tuple(one.gpu and one.gpu.name for one in machines),
    }
    return Comparison(
        "bench",
        "the first benchmark",
        "the second benchmark",
        tuple(rows),
        "Shortest times of this package. They have no intervals, and other load changes them by several percent.",
        tuple(_unequal(aspects)),
    )


def _refuse(what: str, first: str, second: str, aspects: Mapping[str, tuple[str, ...]]) -> None:
    """Raise an error unless both results agree in each aspect."""
    for name, (one, other) in aspects.items():
        if one != other:
            raise InvalidInputError(
                f"Cannot compare the {what} of {first} and {second}. They differ in their {name}: {one} and {other}, "
                "so that their numbers do not have the same meaning. Measure both alike."
            )


def _other_conditions(first: RunInfo, second: RunInfo, more: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Sentences on the conditions that differ without a change of the meaning of the numbers."""
    runs = first, second
    if first.weights.is_random or second.weights.is_random:
        names = " and ".join(run.model for run in runs if run.weights.is_random)
        yield f"Random weights: {names}. The interval covers the choice of images, not that of the weights."
    aspects: dict[str, tuple[object, ...]] = {
        **more,
        "images": tuple(run.image_source for run in runs),
        "number of images": tuple(len(run.image_ids) for run in runs),
        "seed": tuple(run.seed for run in runs),
        "precision": tuple(run.precision for run in runs),
    }
    yield from _unequal(aspects)
    if (
        first.image_source == second.image_source
        and {*first.image_ids} != {*second.image_ids}
        and (len(first.image_ids) == len(second.image_ids))
    ):
        yield "The images are not the same."


def _unequal(aspects: Mapping[str, tuple[object, ...]]) -> Iterator[str]:
    for name, (one, other) in aspects.items():
        if one != other:
            yield f"The {name} differs: {one} and {other}."


def _row(analyzer: str, one: Difference) -> Row:
    significant = "" if one.is_significant is None else str(one.is_significant).lower()
    cells: Sequence[object] = (analyzer, one.group, one.name, one.unit, one.first, one.second, one.difference)
    return dict(zip(CSV_COLUMNS, cells, strict=False)) | interval_cells(one.ci95) | {"significant": significant}
