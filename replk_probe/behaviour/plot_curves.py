"""Panels with the accuracy of networks and people, by condition and by set."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.colors as mcolors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator

from replk_probe.plot_style import (
    BAND,
    COLORS,
    GRAY,
    INK,
    LABEL_SIZE,
    MUTED,
    RANDOM_BADGE,
    RANGE,
    SMALL_SIZE,
    fitted,
    inches_of,
    text_points,
)

from .benchmark_sets import BENCHMARK_SETS

if TYPE_CHECKING:
    from .result import BehaviourResult
    from .scores import SetScores

PEOPLE = "people"
CHANCE = 1 / 16

# The numbers of colors and markers are coprime, so that their combinations differ.
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "p")
_NAME = 190.0  # maximum width of a name in a legend, in points
_MOST_COLUMNS = 6  # of a legend


@dataclass(frozen=True)
class Network:
    """A network in a figure.

    Attributes:
        name: Name in the result.
        remark: What follows its name in a figure, such as ``" (RANDOM WEIGHTS)"``.
        color: Color of its lines.
        marker: Marker in matplotlib's notation.
        random: Whether its weights are random, shown by hollow markers.
    """

    name: str
    remark: str
    color: str
    marker: str
    random: bool

    @property
    def label(self) -> str:
        """Name and remark."""
        return f"{self.name}{self.remark}"

    def fitted_label(self, points: float) -> str:
        """Name and remark in small letters, of which the name is shortened to a width of ``points`` together."""
        return fitted(self.name, points - text_points(self.remark, SMALL_SIZE), SMALL_SIZE) + self.remark

    @property
    def tint(self) -> tuple[float, ...]:
        """A lighter color, so that an interval is visible on its bar."""
        return (1.0, 1.0, 1.0) if self.random else tuple(0.38 * part + 0.62 for part in mcolors.to_rgb(self.color))

    @property
    def style(self) -> dict[str, Any]:
        """Keyword arguments of a line."""
        return {
            **{"color": self.color, "marker": self.marker, "markersize": 3.4, "linewidth": 1.0},
            **{"markerfacecolor": "white" if self.random else self.color, "markeredgewidth": 0.7},
        }


def networks_of(result: BehaviourResult, random: Collection[str]) -> list[Network]:
    """The networks of a result with colors and markers; those called ``random`` have random weights."""
    count = len(result.sets)
    return [
        Network(
            one.name,
            (f" ({one.n_sets} of {count} sets)" if one.n_sets < count else "")
            + (f" ({RANDOM_BADGE})" if one.name in random else ""),
            COLORS[index % len(COLORS)],
            _MARKERS[index % len(_MARKERS)],
            one.name in random,
        )
        for index, one in enumerate(result.networks)
    ]


def capitalized(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def curve_panel(ax: Axes, scores: SetScores, networks: Sequence[Network], title: str = "") -> None:
    """Draw the accuracy in each condition of a set."""
    known = BENCHMARK_SETS[scores.name]
    for place, level in enumerate(known.levels):
        if level in known.left_out:
            ax.axvspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
    people = [one for one in scores.observers if one.kind == "human"]
    places, table = [], []
    for place, level in enumerate(known.levels):
        accuracies = [one.by_condition[level].scores.accuracy for one in people if level in one.by_condition]
        if accuracies:
            places.append(place)
            table.append((min(accuracies), float(np.mean(accuracies)), max(accuracies)))
    if table:
        low, mean, high = zip(*table, strict=True)
        ax.fill_between(places, low, high, color=RANGE, alpha=0.75, linewidth=0, zorder=1, gid="people")
        ax.plot(places, mean, color=INK, linewidth=1.0, zorder=2, gid="people")
    for network in networks:
        one = scores.observer(network.name)
        conditions = {} if one is None else one.by_condition
        found = [(place, conditions[level]) for place, level in enumerate(known.levels) if level in conditions]
        values = [condition.scores.accuracy for _, condition in found]
        ax.plot([place for place, _ in found], values, zorder=3, gid=f"network {network.label}", **network.style)
        if len(networks) <= 3:
            for place, condition in found:
                if condition.ci95 is not None:
                    ax.plot([place] * 2, condition.ci95, color=network.color, linewidth=0.7, zorder=2.5)
    _frame(ax, len(known.levels))
    ax.set_xticks(range(len(known.levels)), [known.label(level) for level in known.levels])
    ax.set_xlabel(capitalized(known.axis))
    ax.set_title(title, fontsize=LABEL_SIZE, pad=3)


def sets_panel(ax: Axes, sets: Sequence[SetScores], networks: Sequence[Network]) -> None:
    """Draw the accuracy on several sets without conditions."""
    half = min(0.2, 0.06 * len(sets))  # half the width of the range of people
    for place, scores in enumerate(sets):
        people = [one.scores.accuracy for one in scores.observers if one.kind == "human"]
        if people:
            height = max(people) - min(people)
            ax.bar(place, height, 2 * half, min(people), color=RANGE, zorder=1, gid="people")
            ax.plot(
                [place - half, place + half], [float(np.mean(people))] * 2, color=INK, linewidth=1.0,
                solid_capstyle="butt", zorder=2, gid="mean of people",
            )  # fmt: skip
        spread = np.linspace(-half, half, len(networks)) if len(networks) > 1 else [0.0]
        for network, offset in zip(networks, spread, strict=False):
            one = scores.observer(network.name)
            if one is None:
                continue
            interval = one.intervals["accuracy"].images
            if interval is not None and len(networks) <= 3:
                ax.plot([place + offset] * 2, interval, color=network.color, linewidth=0.7, zorder=2.5)
            style = network.style | {"linestyle": "none"}
            ax.plot([place + offset], [one.scores.accuracy], zorder=3, gid=f"network {network.label}", **style)
    _frame(ax, len(sets))
    ax.set_xticks(range(len(sets)), [one.name for one in sets])
    if len(sets) > 2:
        ax.set_xticks(range(len(sets)), [one.name.replace("-", "\n") for one in sets])
    ax.set_title("Sets without conditions" if len(sets) > 1 else "", fontsize=LABEL_SIZE, pad=3)


def add_networks(figure: Figure, networks: Sequence[Network], left: float, top: float, *, conditions: bool) -> None:
    """Draw the legend of all panels at the upper edge of a figure; ``left`` and ``top`` are in inches.

    ``conditions`` selects whether it explains the background of conditions.
    """
    width, height = map(float, figure.get_size_inches())
    samples = _samples(networks, conditions)
    figure.legend(
        handles=samples, loc="upper left", bbox_to_anchor=(left / width, 1 - top / height), borderaxespad=0,
        **_legend(samples, width - 2 * left),
    )  # fmt: skip


def legend_inches(networks: Sequence[Network], width: float, *, conditions: bool) -> float:
    """Height of a legend of this width, in inches."""
    samples = _samples(networks, conditions)
    columns: int = _legend(samples, width)["ncols"]
    return math.ceil(len(samples) / columns) * SMALL_SIZE * 1.5 / 72


def legend_row(ax: Axes, networks: Sequence[Network]) -> None:
    """Draw the legend above the Axes."""
    samples = _samples(networks, True)
    ax.legend(
        handles=samples, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2,
        **_legend(samples, inches_of(ax)[0]),
    )  # fmt: skip


def _samples(networks: Sequence[Network], conditions: bool) -> list[Any]:
    names = [Line2D([], [], label=one.fitted_label(_NAME), **one.style) for one in networks]
    return [
        *names,
        Line2D([], [], color=INK, linewidth=1.0, label="mean of people"),
        Patch(color=RANGE, label="range of people"),
        Line2D([], [], color=GRAY, linewidth=0.6, linestyle=":", label="chance"),
        *([Patch(color=BAND, label="not in the benchmark")] if conditions else []),
    ]


def _legend(samples: Sequence[Any], width: float) -> dict[str, Any]:
    """Keyword arguments of a legend with as many columns as fit into this width in inches."""
    lengths = {"handlelength": 1.6, "columnspacing": 1.0, "handletextpad": 0.5}  # in units of the size of letters
    around = sum(lengths.values()) * SMALL_SIZE
    widths = [text_points(one.get_label(), SMALL_SIZE) + around for one in samples]

    def points(columns: int) -> float:
        return float(sum(max(column) for column in np.array_split(widths, columns) if len(column)))

    columns = next((one for one in range(_MOST_COLUMNS, 1, -1) if points(one) <= 72 * width), 1)
    style = {"ncols": columns, "frameon": False, "fontsize": SMALL_SIZE, "labelcolor": MUTED, "labelspacing": 0.3}
    return style | lengths


def _frame(ax: Axes, count: int) -> None:
    ax.axhline(CHANCE, color=GRAY, linewidth=0.6, linestyle=":", zorder=0.5)
    ax.set_xlim(-0.5, count - 0.5)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    ax.tick_params(axis="x", labelsize=SMALL_SIZE - 0.4)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
