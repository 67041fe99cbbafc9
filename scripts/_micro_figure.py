"""Curves of the accuracy of the small models during training, and of their decisions under conflict, with the data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from replk_probe.models.architectures.micro import DEFAULT_TAG, SHAPE_VALIDITIES
from replk_probe.plot_style import COLORS as PALETTE
from replk_probe.plot_style import GRAY, GRID, MUTED, SHAPE_COLOR, TEXTURE_COLOR, figure_style, new_figure
from replk_probe.runtime.atomic_files import atomic_path, atomic_write_text

COLORS = {3: GRAY, 7: PALETTE[1], 13: PALETTE[0], 31: PALETTE[2]}
_MOBILE = PALETTE[3]
_PIXELS = 1200  # width of the figure in the repository


def kernel_of(model: str) -> int:
    """Side of the largest kernel of a small model."""
    return int(model.split("_k")[1].split("_")[0].split(".")[0])


def save_curves(folder: Path, figure: Path, names: Sequence[str]) -> None:
    """Draw the logs ``NAME.csv`` in ``folder``, and write ``figure.png`` and ``data.csv`` to the folder ``figure``.

    Args:
        folder: Folder of the training runs.
        figure: Folder for the figure and its data.
        names: Weights to draw, as MODEL.TAG; those without a log are skipped.
    """
    logs = {name: _read(folder / f"{name}.csv") for name in names if (folder / f"{name}.csv").is_file()}
    records = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in logs}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["model", "tag", "seed", *next(iter(logs.values()))[0]], lineterminator="\n")
    writer.writeheader()
    for name, rows in logs.items():
        given = {column: records[name][column] for column in ("model", "tag", "seed")}
        writer.writerows({**given, **row} for row in rows)
    atomic_write_text(figure / "data.csv", stream.getvalue())
    save_small(_drawn(logs, records), figure / "figure.png")


def save_small(drawn: Any, path: Path) -> None:
    """Write a figure as a PNG file that is small enough for the repository."""
    with atomic_path(path) as temporary:
        with figure_style():
            drawn.savefig(temporary, format="png", dpi=_PIXELS / drawn.get_size_inches()[0])
        with Image.open(temporary) as image:
            few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(temporary, format="png", optimize=True)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _drawn(logs: dict[str, list[dict[str, str]]], records: dict[str, dict[str, Any]]) -> Any:
    with figure_style():
        figure = new_figure(7.0, 4.4)
        sides = {"left": 0.055, "right": 0.985}
        above = figure.add_gridspec(1, 3, bottom=0.58, top=0.85, wspace=0.2, **sides).subplots()
        below = figure.add_gridspec(1, len(SHAPE_VALIDITIES), bottom=0.1, top=0.385, wspace=0.2, **sides).subplots()
        for ax, column, title in ((above[0], "loss", "Training loss"), (above[1], "held_out", "Accuracy, %")):
            for name, rows in logs.items():
                if records[name]["tag"] == DEFAULT_TAG:
                    label = f"{records[name]['model']}, {100 * records[name]['held_out_accuracy']:.1f}\u00a0%"
                    color = COLORS[kernel_of(name)] if name.startswith("replknet") else _MOBILE
                    _line(ax, rows, column, color, "solid" if "_rep." in name else (0, (3, 1.5)), 1.0, label)
            ax.set_title(title, loc="left", fontsize=7.0)
            ax.set_ylim(bottom=0, top=None if column == "loss" else 101)
        for ax, (tag, validity) in zip(below, SHAPE_VALIDITIES.items(), strict=True):
            for name, rows in logs.items():
                if records[name]["tag"] == tag and name.startswith("replknet"):
                    for column, color in (("shape", SHAPE_COLOR), ("texture", TEXTURE_COLOR)):
                        _line(ax, rows, column, color, "solid", 1.3 if kernel_of(name) == 3 else 0.5)
            ax.set_title(f"Shape validity {100 * validity:g}\u00a0%", loc="left", fontsize=7.0)
            ax.set_ylim(0, 101)
            ax.set_xlim(right=above[0].get_xlim()[1])
        for ax in (*above[:2], *below):
            ax.set_xlabel("Training images, thousands")
            ax.set_xlim(left=0)
            ax.grid(color=GRID, linewidth=0.5)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        above[2].axis("off")
        handles = above[1].get_legend_handles_labels()
        place = {"loc": "upper left", "bbox_to_anchor": (-0.1, 1.06)}
        above[2].legend(*handles, frameon=False, fontsize=6.0, handlelength=2.6, **place)
        figure.text(0.012, 0.955, "Small models trained on synthetic data", fontsize=8.5, fontweight="bold")
        text = (
            f"Images whose cues agree; shape validity {100 * SHAPE_VALIDITIES[DEFAULT_TAG]:g}\u00a0%. Solid: with a "
            "5x5 re-param branch, dashed: without. Legend: accuracy after training."
        )
        figure.text(0.012, 0.915, text, fontsize=6.0, color=MUTED)
        parts = (
            ("Images whose cues conflict: decisions for", MUTED),
            ("shape", SHAPE_COLOR),
            ("and", MUTED),
            ("texture", TEXTURE_COLOR),
            ("in % (chance: 6.2\u00a0%). Thick: RepLKNet with kernels of 3x3, thin: with larger kernels.", MUTED),
        )
        before: Any = "figure fraction"
        for text, color in parts:
            first = before == "figure fraction"
            before = above[0].annotate(
                text,
                (0.012 if first else 1, 0.445),
                (0 if first else 1.8, 0),
                xycoords=(before, "figure fraction"),
                textcoords="offset points",
                annotation_clip=False,
                fontsize=6.0,
                color=color,
            )
    return figure


def _line(
    ax: Any, rows: list[dict[str, str]], column: str, color: str, style: Any, width: float, label: str | None = None
) -> None:
    factor = 1.0 if column == "loss" else 100.0
    images = [int(row["images"]) / 1000 for row in rows]
    values = [factor * float(row[column]) for row in rows]
    ax.plot(images, values, color=color, linestyle=style, linewidth=width, label=label)
