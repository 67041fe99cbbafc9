"""Table and figure of ``micro_study.py``, from the measurements of all training runs."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from _micro_figure import COLORS, save_small
from scipy.optimize import brentq
from scipy.stats import nct, t, ttest_ind

from replk_probe.models.architectures.micro import DEFAULT_TAG, SHAPE_VALIDITIES
from replk_probe.plot_style import COLORS as PALETTE
from replk_probe.plot_style import GRID, MUTED, figure_style, new_figure
from replk_probe.runtime.atomic_files import atomic_write_text

Measures = dict[str, Any]
# A model family, its largest kernel, whether it has a small branch, and the tag of the weights.
Setting: TypeAlias = tuple[str, int, bool, str]
Groups = dict[Setting, list[Measures]]

# Other colors than those of kernel sizes.
_REP, _PLAIN = PALETTE[5], PALETTE[3]
_FAMILIES = {"replknet": "RepLKNet", "mobilenetv2": "MobileNet V2"}
_TAGS = tuple(SHAPE_VALIDITIES)
_LEVEL, _POWER = 0.05, 0.8
_COMMAND = "python scripts/micro_study.py --figure figures/micro-study"


def erf_ratio(one: Measures, threshold: float, protocol: str = "centred") -> float:
    """Area of the window that holds a share of the contribution, as a fraction of the image."""
    rows = (row for row in one["erf"] if row["protocol"] == protocol and row["threshold"] == threshold)
    return float(next(rows)["ratio"])


def center_share(one: Measures, layer: str, variant: str, name: str = "centre3x3_share") -> float:
    """Share of the center 3 x 3 in the mass of a kernel; NaN if there is no such variant."""
    rows = (row for row in one["kernels"] if (row["layer"], row["variant"]) == (layer, variant))
    return float(next(rows, {name: math.nan})[name])


def initial_share(one: Measures, layer: str) -> float:
    """Share of the center 3 x 3 in the merged kernel of the initial weights."""
    return center_share(one, layer, "merged", "initial_centre3x3_share")


# Names of the columns, and functions that compute them as fractions, which are shown in percent.
Columns: TypeAlias = tuple[tuple[str, Callable[[Measures], float]], ...]
_NETWORKS: Columns = (
    ("accuracy", lambda one: one["accuracy"]),
    ("shape bias", lambda one: one["shape_bias"]),
    ("cue accuracy", lambda one: one["cue_accuracy"]),
    ("ERF at 20 %", lambda one: erf_ratio(one, 0.2)),
    ("ERF at 50 %", lambda one: erf_ratio(one, 0.5)),
    ("ERF at 99 %", lambda one: erf_ratio(one, 0.99)),
    ("ERF at 50 %, pixels", lambda one: erf_ratio(one, 0.5, "pixels")),
)
_KERNELS: Columns = (
    ("center 3x3 of stage1.0", lambda one: center_share(one, "stage1.0", "merged")),
    ("of it before training", lambda one: initial_share(one, "stage1.0")),
    ("of it before merging", lambda one: center_share(one, "stage1.0", "large") if one["rep"] else math.nan),
    ("center 3x3 of stage4.0", lambda one: center_share(one, "stage4.0", "merged")),
    ("of that before training", lambda one: initial_share(one, "stage4.0")),
    ("of that before merging", lambda one: center_share(one, "stage4.0", "large") if one["rep"] else math.nan),
)
COLUMNS = _NETWORKS + _KERNELS
_COMPARED = ("shape bias", "ERF at 50 %", "ERF at 50 %, pixels")


@dataclass(frozen=True)
class Difference:
    """The difference between the means of two groups of training runs, in percentage points.

    Attributes:
        value: Mean of the first group minus that of the second.
        half_width: Half the width of its 95 % interval by Welch's method.
        p: Two-sided p-value of Welch's t-test.
        detectable: Smallest true difference that a two-sided t-test at 5 % finds with a probability of 80 %, with
            these numbers of runs and their pooled standard deviation.
    """

    value: float
    half_width: float
    p: float
    detectable: float


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Compare two groups of fractions; None if one has fewer than two values or neither varies."""
    one, other = ([100 * value for value in values] for values in (first, second))
    if min(len(one), len(other)) < 2:
        return None
    variances = [statistics.variance(values) for values in (one, other)]
    freedom = len(one) + len(other) - 2
    pooled = math.sqrt(sum((len(v) - 1) * s for v, s in zip((one, other), variances, strict=True)) / freedom)
    if pooled == 0:
        return None
    tested = ttest_ind(one, other, equal_var=False)
    interval = tested.confidence_interval(1 - _LEVEL)
    per_unit = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    critical = t.ppf(1 - _LEVEL / 2, freedom)
    effect = brentq(lambda d: nct.sf(critical, freedom, d * per_unit) - _POWER, 0.01, 100.0)
    value = statistics.fmean(one) - statistics.fmean(other)
    return Difference(value, (interval.high - interval.low) / 2, float(tested.pvalue), effect * pooled)


def save_report(done: Sequence[Measures], folder: Path) -> None:
    """Write ``data.csv`` (one row per run), ``table.csv``, ``table.md`` (one row per setting) and ``figure.png``.

    Args:
        done: Measurements of each training run.
        folder: Folder to write to.
    """
    groups: Groups = {}
    for one in sorted(done, key=_rank):
        groups.setdefault(_setting(one), []).append(one)
    names = [name for name, _ in COLUMNS]
    rows: list[list[Any]] = []
    for one in done:
        values = [f"{100 * find(one):.3f}" if not math.isnan(find(one)) else "" for _, find in COLUMNS]
        rows.append([one["model"], one["tag"], one["seed"], one["images"], *values])
    head = ["model", "tag", "seed", "images"]
    atomic_write_text(folder / "data.csv", _csv([*head, *(f"{name}, %" for name in names)], rows))
    rows = []
    for (family, kernel, rep, tag), group in groups.items():
        cells = [_FAMILIES[family], kernel, "5x5" if rep else "-", f"{SHAPE_VALIDITIES[tag]:g}", len(group)]
        for _, find in COLUMNS:
            mean, spread = mean_and_spread([find(one) for one in group])
            cells += ["" if math.isnan(mean) else f"{mean:.3f}", "" if math.isnan(spread) else f"{spread:.3f}"]
        rows.append(cells)
    twice = [text for name in names for text in (f"{name}, %", f"{name}, sd")]
    head = ["network", "kernel", "re-param", "shape validity", "trainings"]
    atomic_write_text(folder / "table.csv", _csv([*head, *twice], rows))
    atomic_write_text(folder / "table.md", _markdown(groups))
    save_small(_drawn(groups), folder / "figure.png")


def mean_and_spread(shares: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation in percent; NaN where undefined."""
    values = [100 * share for share in shares if not math.isnan(share)]
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def _setting(one: Measures) -> Setting:
    return one["model"].partition("_")[0], one["kernel"], one["rep"], one["tag"]


def _rank(one: Measures) -> tuple[Any, ...]:
    family, kernel, rep, tag = _setting(one)
    return [*_FAMILIES].index(family), _TAGS.index(tag), kernel, rep, one["seed"]


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([head, *rows])
    return stream.getvalue()


def _markdown(groups: Groups) -> str:
    first = next(iter(groups.values()))[0]
    sides = "x".join(2 * [str(first["erf_size"])])
    lines = [
        "Small models trained on synthetic data: a controlled experiment, not ImageNet results. Mean ± standard "
        "deviation over training runs, which differ in initial weights and images. Shape validity: share of the "
        "training images whose shape belongs to their label; the texture always does.",
        "",
        *_rows(groups, _NETWORKS),
        "",
        "Accuracy: held-out images whose cues agree. Shape bias and cue accuracy: 1200 stimuli of the synthetic "
        "conflict set. ERF: area of the centered window (with odd sides) or of the fewest pixels that have this share "
        f"of the contribution; {first['erf_images']} dead-leaves images of {sides} px, linear scores.",
        "",
        *_differences(groups),
        "",
        *_rows({key: group for key, group in groups.items() if key[0] == "replknet"}, _KERNELS),
        "",
        "Share of the center 3x3 in the mass of the merged kernel; before training: in the initial weights; before "
        "merging: in the large kernel alone. The share in a uniform kernel is 100, 18.4, 5.3 and 0.9 % at 3, 7, 13 and "
        "31.",
        "",
        f"Each run: {first['images']:,} images, each seen once. `{_COMMAND}`",
    ]
    return "\n".join(lines) + "\n"


def _rows(groups: Groups, columns: Columns) -> list[str]:
    """Lines of a Markdown table with one row per setting."""
    lines = [
        "| network | kernel | re-param | shape validity, % | trainings | "
        + " | ".join(f"{name}, %" for name, _ in columns)
        + " |",
        "|" + "---|" * (5 + len(columns)),
    ]
    for (family, kernel, rep, tag), group in groups.items():
        cells = []
        for _, find in columns:
            mean, spread = mean_and_spread([find(one) for one in group])
            cells.append(
                "-" if math.isnan(mean) else f"{mean:.1f}" + ("" if math.isnan(spread) else f" ± {spread:.1f}")
            )
        given = [_FAMILIES[family], _kernel_name(kernel), "5x5" if rep else "-", f"{100 * SHAPE_VALIDITIES[tag]:g}"]
        lines.append(f"| {' | '.join([*given, str(len(group)), *cells])} |")
    return lines


def _kernel_name(kernel: int) -> str:
    return "31 (stages 3, 4: 13)" if kernel == 31 else str(kernel)


def _differences(groups: Groups) -> list[str]:
    """Lines of a Markdown table of the differences between networks with large kernels and that with 3 x 3."""
    lines = [
        "| RepLKNets compared | shape validity, % | trainings | quantity | difference, points | 95 % interval | p | "
        "detectable, points |",
        "|" + "---|" * 8,
    ]
    columns = dict(_NETWORKS)
    for (family, kernel, rep, tag), group in groups.items():
        small = groups.get((family, 3, False, tag))
        if kernel == 3 or small is None:
            continue
        for name in _COMPARED:
            found = difference(*([columns[name](one) for one in each] for each in (group, small)))
            if found is None:
                continue
            cells = [
                f"{kernel}{' with 5x5' if rep else ''} minus 3",
                f"{100 * SHAPE_VALIDITIES[tag]:g}",
                f"{len(group)} and {len(small)}",
                name,
                f"{found.value:+.1f}",
                f"{found.value - found.half_width:+.1f} to {found.value + found.half_width:+.1f}",
                f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001",
                f"{found.detectable:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Welch's t-test, two-sided, without a correction for the number of tests. Detectable: the smallest true "
        "difference that a t-test at 5 % finds with a power of 80 %, given the numbers of trainings and their pooled "
        "standard deviation. Settings with a single training are not compared."
    )
    return [*lines, "", note]


def _drawn(groups: Groups) -> Any:
    by_validity: tuple[tuple[str, Callable[[Measures], float]], ...] = (
        ("Shape bias, %", lambda one: one["shape_bias"]),
        ("Cue accuracy under conflict, %", lambda one: one["cue_accuracy"]),
        ("Accuracy with agreeing cues, %", lambda one: one["accuracy"]),
    )
    by_kernel: tuple[tuple[str, str | None, Callable[[Measures], float]], ...] = (
        ("ERF: pixels with 50 %, % of image", None, lambda one: erf_ratio(one, 0.5, "pixels")),
        ("Center 3x3 share, stage1.0, %", "stage1.0", lambda one: center_share(one, "stage1.0", "merged")),
        ("Center 3x3 share, stage4.0, %", "stage4.0", lambda one: center_share(one, "stage4.0", "merged")),
    )
    groups = {key: group for key, group in groups.items() if key[0] == "replknet"}
    with figure_style():
        figure = new_figure(7.0, 4.6)
        sides = {"left": 0.055, "right": 0.985, "wspace": 0.24}
        above = figure.add_gridspec(1, 3, bottom=0.57, top=0.85, **sides).subplots()
        below = figure.add_gridspec(1, 3, bottom=0.1, top=0.38, **sides).subplots()
        for ax, (title, find) in zip(above, by_validity, strict=True):
            _draw_by_validity(ax, groups, find)
            ax.set_title(title, loc="left", fontsize=7.0)
        for ax, (title, layer, find) in zip(below, by_kernel, strict=True):
            _draw_by_kernel(ax, groups, find, layer)
            ax.set_title(title, loc="left", fontsize=7.0)
        for ax in (*above, *below):
            ax.grid(axis="y", color=GRID, linewidth=0.5)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        if above[2].get_legend_handles_labels()[0]:
            above[2].legend(loc="lower left", frameon=False, fontsize=6.0, handlelength=1.4)
        figure.text(0.012, 0.955, "Small models trained on synthetic data", fontsize=8.5, fontweight="bold")
        text = (
            "Dots: training runs; lines and dashes: means. Shape validity: share of the training images whose shape "
            "belongs to their label."
        )
        figure.text(0.012, 0.915, text, fontsize=6.0, color=MUTED)
        figure.text(0.5, 0.492, "Shape validity in training, %", ha="center", fontsize=7.0)
        figure.text(0.012, 0.45, "With a 5x5 re-param branch", fontsize=6.0, color=_REP)
        figure.text(0.188, 0.45, "without", fontsize=6.0, color=_PLAIN)
        text = (
            f"(shape validity {100 * SHAPE_VALIDITIES[DEFAULT_TAG]:g}\u00a0%). Center share: filled, merged kernel; "
            "hollow, large kernel before merging; dotted, before training."
        )
        figure.text(0.238, 0.45, text, fontsize=6.0, color=MUTED)
        figure.text(
            0.5, 0.02, "Kernel size (31: in stages 1 and 2, then 13 in stages 3 and 4)", ha="center", fontsize=7.0
        )
    return figure


def _draw_by_validity(ax: Any, groups: Groups, find: Callable[[Measures], float]) -> None:
    """Draw a line per network that was trained with several validities, and a dot for each training run."""
    networks = {key[1:3] for key in groups if key[3] != DEFAULT_TAG}
    for place, (kernel, rep) in enumerate(sorted(networks)):
        shift = 0.08 * (place - (len(networks) - 1) / 2)
        means = {}
        for x, tag in enumerate(_TAGS):
            group = groups.get(("replknet", kernel, rep, tag))
            if group:
                values = [100 * find(one) for one in group]
                ax.plot([x + shift] * len(values), values, "o", color=COLORS[kernel], alpha=0.6, markersize=3, mew=0)
                means[x + shift] = statistics.fmean(values)
        label = f"{kernel}x{kernel}{' with 5x5' if rep else ''}"
        ax.plot([*means], [*means.values()], color=COLORS[kernel], linewidth=1.0, label=label)
    ax.set_xticks(range(len(_TAGS)), [f"{100 * SHAPE_VALIDITIES[tag]:g}" for tag in _TAGS])
    ax.set_xlim(-0.3, len(_TAGS) - 0.7)


def _draw_by_kernel(ax: Any, groups: Groups, find: Callable[[Measures], float], layer: str | None) -> None:
    """Draw the networks of the default validity by kernel size; for a layer, also its kernel before training."""
    kernels = sorted({key[1] for key in groups})
    for rep, shift in ((False, -0.13), (True, 0.13)):
        shown = {
            index + shift: groups["replknet", kernel, rep, DEFAULT_TAG]
            for index, kernel in enumerate(kernels)
            if ("replknet", kernel, rep, DEFAULT_TAG) in groups
        }
        _draw_group(ax, shown, find, _REP if rep else _PLAIN)
        if layer is not None:
            _draw_initial(ax, shown, layer)
            if rep:
                _draw_group(ax, shown, lambda one: center_share(one, layer, "large"), _REP, hollow=True)
    ax.set_xticks(range(len(kernels)), [str(kernel) for kernel in kernels])
    ax.set_xlim(-0.5, len(kernels) - 0.5)
    if layer is not None:
        ax.set_yscale("log")
        ax.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        ax.minorticks_off()


def _draw_group(
    ax: Any, shown: dict[float, list[Measures]], find: Callable[[Measures], float], color: str, hollow: bool = False
) -> None:
    """Draw a dot for each training run and a dash at their mean."""
    face = "none" if hollow else color
    for x, group in shown.items():
        values = [100 * find(one) for one in group]
        ax.plot([x] * len(values), values, "o", color=color, mfc=face, alpha=0.6, markersize=3, mew=0.6 * hollow)
        ax.plot(
            [x], [statistics.fmean(values)], "_", color=color, markersize=10, markeredgewidth=0.7 if hollow else 1.4
        )


def _draw_initial(ax: Any, shown: dict[float, list[Measures]], layer: str) -> None:
    """Draw a dotted line at the mean of each group before training."""
    for x, group in shown.items():
        share = 100 * statistics.fmean(initial_share(one, layer) for one in group)
        ax.plot([x - 0.2, x + 0.2], [share, share], ":", color=MUTED, linewidth=0.9)
