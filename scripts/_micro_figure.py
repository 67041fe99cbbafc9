"""Curves of the loss and accuracy of the small models during training, and their data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from replk_probe.plot_style import MUTED, figure_style, new_figure
from replk_probe.runtime.atomic_files import atomic_path, atomic_write_text

COLORS = {3: "#999999", 7: "#0072b2", 13: "#d55e00", 31: "#009e73"}
_LEGEND = (
    "Solid: with a 5x5 re-param branch, dashed: without. Curves: accuracy on 512 held-out images, in eval mode; "
    "legend: final accuracy on 4096 held-out images."
)
_PIXELS = 1200  # width of the figure in the repository


def kernel_of(model: str) -> int:
    """Side of the largest kernel of a small model."""
    return int(model.split("_k")[1].split("_")[0])


def save_curves(folder: Path, figure: Path, models: Sequence[str]) -> None:
    """Draw the logs ``MODEL.csv`` in ``folder``, and write ``figure.png`` and ``data.csv`` to the folder ``figure``.

    Args:
        folder: Folder of the training runs.
        figure: Folder for the figure and its data.
        models: Models to draw; those without a log are skipped.
    """
    logs = {name: _read(folder / f"{name}.csv") for name in models if (folder / f"{name}.csv").is_file()}
    records = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in logs}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["model", "seed", *next(iter(logs.values()))[0]], lineterminator="\n")
    writer.writeheader()
    for name, rows in logs.items():
        writer.writerows({"model": name, "seed": records[name]["seed"], **row} for row in rows)
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
    panels = (("loss", "Training loss"), ("held_out", "Held-out accuracy, %"))
    families = ("replknet_micro", "mobilenetv2_micro")
    with figure_style():
        figure = new_figure(7.0, 2.9)
        axes = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.07, right=0.735, bottom=0.17, top=0.82, wspace=0.22)
        for ax, (column, title) in zip(axes, panels, strict=True):
            for name, rows in logs.items():
                factor = 100.0 if column == "held_out" else 1.0
                mobile = name.startswith(families[1])
                color = "#cc79a7" if mobile else COLORS[kernel_of(name)]
                dashed = not name.endswith("_rep")
                final = f"{100 * records[name]['held_out_accuracy']:.1f} %"
                ax.plot(
                    [int(row["images"]) / 1000 for row in rows],
                    [factor * float(row[column]) for row in rows],
                    color=color,
                    linestyle=(0, (3, 1.5)) if dashed else "solid",
                    linewidth=1.0,
                    label=f"{name}, {final}",
                )
            ax.set_xlabel("Training images, thousands (each seen once)")
            ax.set_title(title, loc="left")
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0, top=101 if column == "held_out" else None)
            ax.grid(color="#e5e5e5", linewidth=0.5)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        figure.text(0.07, 0.93, "Small models trained on synthetic data", fontsize=8.5, fontweight="bold")
        figure.text(0.07, 0.02, _LEGEND, fontsize=5.5, color=MUTED)
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=5.5, handlelength=2.4)
    return figure
