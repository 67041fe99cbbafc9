"""Table and figure of ``micro_study.py``, from the measurements of all training runs."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from _micro_figure import save_small

from replk_probe.plot_style import MUTED, figure_style, new_figure
from replk_probe.runtime.atomic_files import atomic_write_text

Measures = dict[str, Any]

_REP, _PLAIN = "#d55e00", "#0072b2"
_LEGEND = (
    "Dots: training runs; dashes: their means. Center share: filled, merged kernel; hollow, large kernel before "
    "merging; dotted, before training."
)
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


def save_report(done: Sequence[Measures], folder: Path) -> None:
    """Write ``data.csv`` (one row per run), ``table.csv``, ``table.md`` (one row per setting) and ``figure.png``.

    Args:
        done: Measurements of each training run.
        folder: Folder to write to.
    """
    settings = sorted({(one["kernel"], one["rep"]) for one in done})
    groups = {key: [one for one in done if (one["kernel"], one["rep"]) == key] for key in settings}
    names = [name for name, _ in COLUMNS]
    rows: list[list[Any]] = []
    for one in done:
        values = [f"{100 * find(one):.3f}" if not math.isnan(find(one)) else "" for _, find in COLUMNS]
        rows.append([one["model"], one["seed"], one["images"], *values])
    atomic_write_text(folder / "data.csv", _csv(["model", "seed", "images", *(f"{name}, %" for name in names)], rows))
    rows = []
    for (kernel, rep), group in groups.items():
        cells = [kernel, "5x5" if rep else "-", len(group)]
        for _, find in COLUMNS:
            mean, spread = mean_and_spread([find(one) for one in group])
            cells += ["" if math.isnan(mean) else f"{mean:.3f}", "" if math.isnan(spread) else f"{spread:.3f}"]
        rows.append(cells)
    twice = [text for name in names for text in (f"{name}, %", f"{name}, sd")]
    atomic_write_text(folder / "table.csv", _csv(["kernel", "re-param", "trainings", *twice], rows))
    atomic_write_text(folder / "table.md", _markdown(groups))
    save_small(_drawn(groups), folder / "figure.png")


def mean_and_spread(shares: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation in percent; NaN where undefined."""
    values = [100 * share for share in shares if not math.isnan(share)]
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([head, *rows])
    return stream.getvalue()


def _markdown(groups: dict[tuple[int, bool], list[Measures]]) -> str:
    first = next(iter(groups.values()))[0]
    lines = [
        "Small models trained on synthetic data: a controlled experiment, not ImageNet results. Mean ± standard "
        "deviation over training runs, which differ in initial weights and images.",
        "",
        *_rows(groups, _NETWORKS),
        "",
        "Accuracy: held-out images whose cues agree. Shape bias and cue accuracy: 1200 stimuli of the synthetic "
        "conflict set. ERF: area of the centered window (with odd sides) or of the fewest pixels that have this share "
        f"of the contribution; {first['erf_images']} dead-leaves images of 64 px, linear scores.",
        "",
        *_rows(groups, _KERNELS),
        "",
        "Share of the center 3x3 in the mass of the merged kernel; before training: in the initial weights; before "
        "merging: in the large kernel alone. The share in a uniform kernel is 100, 18.4, 5.3 and 0.9 % at 3, 7, 13 and "
        "31.",
        "",
        f"Each run: {first['images']:,} images, each seen once. `{_COMMAND}`",
    ]
    return "\n".join(lines) + "\n"


def _rows(groups: dict[tuple[int, bool], list[Measures]], columns: Columns) -> list[str]:
    """Lines of a Markdown table with one row per setting."""
    lines = [
        "| kernel | re-param | trainings | " + " | ".join(f"{name}, %" for name, _ in columns) + " |",
        "|" + "---|" * (3 + len(columns)),
    ]
    for (kernel, rep), group in groups.items():
        cells = []
        for _, find in columns:
            mean, spread = mean_and_spread([find(one) for one in group])
            cells.append(
                "-" if math.isnan(mean) else f"{mean:.1f}" + ("" if math.isnan(spread) else f" ± {spread:.1f}")
            )
        name = "31 (stages 3, 4: 13)" if kernel == 31 else str(kernel)
        lines.append(f"| {name} | {'5x5' if rep else '-'} | {len(group)} | " + " | ".join(cells) + " |")
    return lines


def _drawn(groups: dict[tuple[int, bool], list[Measures]]) -> Any:
    panels: tuple[tuple[str, Callable[[Measures], float]], ...] = (
        ("Held-out accuracy, %", lambda one: one["accuracy"]),
        ("Cue accuracy under conflict, %", lambda one: one["cue_accuracy"]),
        ("Shape bias, %", lambda one: one["shape_bias"]),
        ("ERF: pixels with 50 %, % of image", lambda one: erf_ratio(one, 0.5, "pixels")),
        ("Center 3x3 share, stage1.0, %", lambda one: center_share(one, "stage1.0", "merged")),
        ("Center 3x3 share, stage4.0, %", lambda one: center_share(one, "stage4.0", "merged")),
    )
    layers = {4: "stage1.0", 5: "stage4.0"}
    kernels = sorted({kernel for kernel, _ in groups})
    with figure_style():
        figure = new_figure(7.0, 4.3)
        axes = figure.subplots(2, 3).ravel()
        figure.subplots_adjust(left=0.055, right=0.985, bottom=0.1, top=0.83, wspace=0.24, hspace=0.36)
        for place, (title, find) in enumerate(panels):
            ax = axes[place]
            for rep, shift in ((False, -0.13), (True, 0.13)):
                shown = {index + shift: groups[k, rep] for index, k in enumerate(kernels) if (k, rep) in groups}
                _draw_group(ax, shown, find, _REP if rep else _PLAIN)
                if place in layers:
                    _draw_initial(ax, shown, layers[place])
                if rep and place in layers:
                    _draw_group(
                        ax, shown, lambda one, at=layers[place]: center_share(one, at, "large"), _REP, hollow=True
                    )
            ax.set_xticks(range(len(kernels)), [str(kernel) for kernel in kernels])
            ax.set_xlim(-0.5, len(kernels) - 0.5)
            if place in layers:
                ax.set_yscale("log")
                ax.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
                ax.minorticks_off()
            ax.set_title(title, loc="left", fontsize=7.0)
            ax.grid(axis="y", color="#e5e5e5", linewidth=0.5)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        figure.text(0.012, 0.955, "Small models trained on synthetic data", fontsize=8.5, fontweight="bold")
        figure.text(0.012, 0.92, "with a 5x5 re-param branch", fontsize=6.5, color=_REP)
        figure.text(0.2, 0.92, "without", fontsize=6.5, color=_PLAIN)
        figure.text(0.012, 0.89, _LEGEND, fontsize=6.0, color=MUTED)
        figure.text(
            0.5, 0.02, "Kernel size (31: in stages 1 and 2, then 13 in stages 3 and 4)", ha="center", fontsize=7.0
        )
    return figure


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
