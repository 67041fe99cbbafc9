"""Plots of decisions on the sets of model-vs-human: the benchmark, accuracy by condition, and consistency."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    COLOR_MAP,
    GRID,
    INK,
    MUTED,
    SMALL_SIZE,
    Line,
    add_heading,
    check_axes,
    check_drawable,
    column_width,
    drawable,
    ensure_margins,
    figure_style,
    fitted,
    fitted_lines,
    heading_inches,
    inches_of,
    least_size,
    new_figure,
    page_width,
    prepared_axes,
    remove_figures,
    save_figure,
    side_bar,
    text_points,
    title_line,
)
from replk_probe.runtime.checks import check_choice

from .benchmark_sets import BENCHMARK_SETS
from .consistency import NUMBERS
from .display_names import with_display_names
from .plot_curves import (
    PEOPLE,
    Network,
    add_networks,
    capitalized,
    curve_panel,
    legend_inches,
    legend_row,
    networks_of,
    sets_panel,
)

if TYPE_CHECKING:
    from .result import BehaviourResult
    from .scores import SetScores

TITLES = {
    "accuracy": "Accuracy",
    "accuracy_difference": "Accuracy difference",
    "observed_consistency": "Observed consistency",
    "error_consistency": "Error consistency",
}
# What the intervals of a number are taken over in the figures.
_RESAMPLED = {name: "images" if name == "accuracy" else "people" for name in NUMBERS}
_BAR, _ROW = 0.62, 0.17  # height of a bar relative to its row, and of a row in inches
_COLUMNS = 3
_MOST_VALUES = 12  # rows of a matrix with printed values


def plot_benchmark(
    result: BehaviourResult, number: str = "accuracy", *, ax: Axes | None = None, random: Collection[str] = ()
) -> Axes:
    """Plot one of the four numbers of each network, averaged over the sets, as bars, with people as a line.

    Args:
        result: Result whose networks to plot.
        number: ``"accuracy"``, ``"accuracy_difference"``, ``"observed_consistency"`` or ``"error_consistency"``.
        ax: Axes to draw on; by default those of a new figure, one column wide.
        random: Names of networks whose weights are random.

    Returns:
        The Axes. x is the number, y the index of the network, with people last. The lines are 95 % bootstrap intervals,
        over images for the accuracy and over people for the others.

    Raises:
        InvalidInputError: An argument has the wrong type, or the number is unknown.

    Examples:
        >>> from replk_probe import BehaviourResult
        >>> from replk_probe.behaviour import Trials, plot_benchmark
        >>> trials = Trials.from_names("network", "edge", ["oven1.png", "cat1.png"], ["oven", "dog"], ["oven", "cat"])
        >>> ax = plot_benchmark(BehaviourResult.from_trials([trials]))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['network', 'people']
    """
    check_drawable(result, "BehaviourResult")
    check_axes(ax)
    check_choice("number of the benchmark", number, NUMBERS)
    result, random = _named(result, random)
    networks = networks_of(result, random)
    labels = [*(one.label for one in networks), PEOPLE]
    left = min(max(text_points(label, SMALL_SIZE) for label in labels) + 12, 150) / 72
    with figure_style():
        height = 0.5 + _ROW * len(labels)
        ax = prepared_axes(ax, (column_width(), height), left=left, right=0.12, top=0.06, bottom=0.42)
        _bars(ax, result, networks, number)
        ax.set_yticks(range(len(labels)), [*(one.fitted_label(144) for one in networks), PEOPLE])
    return ax


def plot_conditions(
    result: BehaviourResult, dataset: str, *, ax: Axes | None = None, random: Collection[str] = ()
) -> Axes:
    """Plot the accuracy of networks and people in each condition of a set.

    Args:
        result: Result whose observers to plot.
        dataset: Name of a set with conditions.
        ax: Axes to draw on; by default those of a new figure, one column wide.
        random: Names of networks whose weights are random.

    Returns:
        The Axes. x is the index of the condition, y the accuracy in [0, 1]. The band is the range of people, with their
        mean as a line; conditions on a gray background do not count for the benchmark.

    Raises:
        InvalidInputError: An argument has the wrong type, the result does not have the set, or the set has no
            conditions.

    Examples:
        >>> from replk_probe import BehaviourResult
        >>> from replk_probe.behaviour import Trials, plot_conditions
        >>> names = ["0001_cop_dnn_c50_cat_10_n02123045_1.png", "0002_cop_dnn_c05_dog_10_n02085620_2.png"]
        >>> trials = Trials.from_names("network", "contrast", names, ["cat", "bear"])
        >>> plot_conditions(BehaviourResult.from_trials([trials]), "contrast").get_xlabel()
        'Contrast (%)'
    """
    check_drawable(result, "BehaviourResult")
    check_axes(ax)
    result, random = _named(result, random)
    scores = _scores_of(result, dataset)
    if not BENCHMARK_SETS[dataset].has_conditions:
        raise InvalidInputError(
            f"The set {dataset} cannot be drawn by condition. It has none. Draw it with draw_sets, or draw another set."
        )
    with figure_style():
        ax = prepared_axes(ax, (column_width(), 2.2), left=0.42, right=0.08, bottom=0.42)
        networks = networks_of(result, random)
        ensure_margins(ax, top=0.12 + legend_inches(networks, inches_of(ax)[0], conditions=True))
        curve_panel(ax, scores, networks)
        ax.set_ylabel("Accuracy")
        legend_row(ax, networks)
    return ax


def plot_consistency(
    result: BehaviourResult, dataset: str | None = None, number: str = "error_consistency", *, ax: Axes | None = None
) -> Axes:
    """Plot the consistency of every pair of observers as a matrix.

    Args:
        result: Result whose observers to plot.
        dataset: Name of a set; by default, the average over all sets of the networks that have trials on all of them.
            People are compared on one set, because those of one name are not one person in different sets.
        number: ``"error_consistency"`` or ``"observed_consistency"``.
        ax: Axes to draw on; by default those of a new figure, one column wide.

    Returns:
        The Axes, with networks before people. The diagonal and cells that are undefined are empty; observers who
        cannot be compared with any other, such as people of whom only the accuracy is known, are left out.

    Raises:
        InvalidInputError: An argument has the wrong type, the result does not have the set, no network has trials on
            all sets, or there are no two observers to compare.

    Examples:
        >>> from replk_probe import BehaviourResult
        >>> from replk_probe.behaviour import Trials, plot_consistency
        >>> names, answers = ["oven1.png", "cat1.png"], ["oven", "cat"]
        >>> networks = [
        ...     Trials.from_names(name, "edge", names, response, answers)
        ...     for name, response in {"first": ["oven", "dog"], "second": ["oven", "cat"]}.items()
        ... ]
        >>> ax = plot_consistency(BehaviourResult.from_trials(networks), "edge")
        >>> ax.get_images()[0].get_array().shape
        (12, 12)
    """
    check_drawable(result, "BehaviourResult")
    check_axes(ax)
    check_choice("consistency", number, NUMBERS[2:])
    result, _ = _named(result)
    names, matrix = _pairs_of(result, dataset, number)
    if not names:
        raise InvalidInputError(
            "There is no consistency to draw. No two observers have decisions on the same images. Measure several "
            "models, or import the decisions of people."
        )
    low, high = float(np.nanmin(matrix, initial=0.0)), float(np.nanmax(matrix, initial=0.1))
    with figure_style():
        label = min(max(text_points(name, SMALL_SIZE) for name in names) + 10, 90) / 72
        side = column_width() - label - 0.72
        ax = prepared_axes(ax, (column_width(), side + label + 0.36), left=label, right=0.72, top=0.3, bottom=label)
        places_of = f"mean of {len(result.sets)} sets" if dataset is None else dataset
        ax.set_title(f"Pairs of observers, {places_of}", loc="left")
        image = ax.imshow(matrix, cmap=COLOR_MAP, norm=Normalize(low, high), interpolation="none")
        places = range(len(names))
        short = [fitted(name, 84, SMALL_SIZE) for name in names]
        size = SMALL_SIZE if len(names) * SMALL_SIZE * 1.2 < side * 72 else least_size()
        ax.set_xticks(places, short, rotation=90, fontsize=size)
        ax.set_yticks(places, short, fontsize=size)
        ax.tick_params(length=0)
        if len(names) <= _MOST_VALUES:
            _print_values(ax, matrix, low, high)
        side_bar(ax, image, TITLES[number], TITLES[number])
    return ax


def draw_benchmark(result: BehaviourResult, *, random: Collection[str] = ()) -> Figure:
    """Draw the four numbers of the benchmark as bars.

    Args:
        result: Result whose networks to draw.
        random: Names of networks whose weights are random.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: ``result`` has the wrong type.

    Examples:
        >>> from replk_probe import BehaviourResult
        >>> from replk_probe.behaviour import Trials, draw_benchmark
        >>> trials = Trials.from_names("network", "edge", ["oven1.png", "cat1.png"], ["oven", "dog"], ["oven", "cat"])
        >>> draw_benchmark(BehaviourResult.from_trials([trials])).savefig("benchmark.png")
    """
    check_drawable(result, "BehaviourResult")
    result, random = _named(result, random)
    networks = networks_of(result, random)
    labels = [*(one.label for one in networks), PEOPLE]
    width = page_width()
    left = min(max(text_points(label, SMALL_SIZE) for label in labels) + 10, 130) / 72
    caption = (
        "Lines: 95 % bootstrap intervals, over images for the accuracy and over people for the others. The dashed "
        "line is the mean of people, each compared with the others."
    )
    if any(one.n_sets < len(result.sets) for one in result.networks):
        caption += " Numbers of networks with fewer sets are not comparable with the others."
    lines = fitted_lines(caption, (width - 0.12) * 72, SMALL_SIZE)
    gap, top, bottom = 0.2, 0.3, 0.5 + 0.12 * len(lines)
    inside = _ROW * len(labels) + 0.06
    height = top + inside + bottom
    each = (width - left - 0.1 - 3 * gap) / len(NUMBERS)
    with figure_style():
        figure = new_figure(width, height)
        for column, number in enumerate(NUMBERS):
            place = (left + column * (each + gap), bottom, each, inside)
            ax = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
            _bars(ax, result, networks, number)
            shown = [*(one.fitted_label(left * 72 - 8) for one in networks), PEOPLE]
            ax.set_yticks(range(len(labels)), shown if column == 0 else [""] * len(labels))
        add_heading(figure, [title_line(f"Networks and people on {_over(result)}")], 0.06)
        for row, line in enumerate(reversed(lines)):
            figure.text(0.06 / width, (0.08 + row * 0.12) / height, line, **Line(line).style)
    return figure


def draw_sets(result: BehaviourResult, *, random: Collection[str] = ()) -> Figure:
    """Draw the accuracy of networks and people on all sets, one panel for each set with conditions.

    Args:
        result: Result whose observers to draw.
        random: Names of networks whose weights are random.

    Returns:
        A figure as wide as a page (7 inches). In a panel, the band is the range of people and the line their mean;
        conditions on a gray background do not count for the benchmark. All sets without conditions share one panel.

    Raises:
        InvalidInputError: ``result`` has the wrong type.

    Examples:
        >>> from replk_probe import BehaviourResult
        >>> from replk_probe.behaviour import Trials, draw_sets
        >>> trials = Trials.from_names("network", "edge", ["oven1.png", "cat1.png"], ["oven", "dog"], ["oven", "cat"])
        >>> draw_sets(BehaviourResult.from_trials([trials])).savefig("sets.png")
    """
    check_drawable(result, "BehaviourResult")
    result, random = _named(result, random)
    networks = networks_of(result, random)
    plain = [one for one in result.sets if not BENCHMARK_SETS[one.name].has_conditions]
    curves = [one for one in result.sets if BENCHMARK_SETS[one.name].has_conditions]
    panels: list[list[SetScores]] = [*([plain] if plain else []), *([one] for one in curves)]
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = page_width() if columns > 1 else column_width()
    left, gap, below, inside = 0.48, 0.16, 0.62 if curves else 0.34, 1.05
    heading = [title_line(f"Accuracy on {_over(result)}")]
    above = 0.1 + heading_inches(heading)
    title = 0.26 if len(panels) > 1 or curves or len(plain) > 1 else 0.1  # a single set without conditions has none
    top = above + title + legend_inches(networks, width - 0.12, conditions=bool(curves))
    height = top + rows * (inside + below)
    each = (width - left - 0.08 - (columns - 1) * gap) / columns
    with figure_style():
        figure = new_figure(width, height)
        for index, panel in enumerate(panels):
            row, column = divmod(index, columns)
            x, y = left + column * (each + gap), height - top - row * (inside + below) - inside
            ax = figure.add_axes((x / width, y / height, each / width, inside / height))
            if len(panel) > 1 or not BENCHMARK_SETS[panel[0].name].has_conditions:
                sets_panel(ax, panel, networks)
            else:
                curve_panel(ax, panel[0], networks, title=capitalized(BENCHMARK_SETS[panel[0].name].title))
            if column == 0:
                ax.set_ylabel("Accuracy")
            else:
                ax.tick_params(axis="y", labelleft=False)
        add_heading(figure, heading, 0.06)
        add_networks(figure, networks, 0.06, above, conditions=bool(curves))
    return figure


def save_figures(result: BehaviourResult, directory: str | Path, *, random: Collection[str] = ()) -> tuple[Path, ...]:
    """Write ``benchmark``, ``sets`` and ``consistency``, each as PNG and PDF; returns the paths.

    The consistency is that of pairs of observers. Without any, the figure of an earlier result is removed.
    """
    folder = Path(directory)
    written = save_figure(draw_benchmark(result, random=random), folder, "benchmark", width=1)
    written += save_figure(draw_sets(result, random=random), folder, "sets", width=1)
    # Of all sets if that compares networks; people are compared on one set.
    fullest = max(result.sets, key=lambda one: sum(observer.kind == "model" for observer in one.observers))
    dataset = None if len(_common(result)) > 1 else fullest.name
    if not _pairs_of(result, dataset, "error_consistency")[0]:
        remove_figures(folder, "consistency")
        return written
    consistency = plot_consistency(result, dataset)
    return written + save_figure(consistency.figure.canvas.figure, folder, "consistency", width=1)


def _named(result: BehaviourResult, random: Collection[str] = ()) -> tuple[BehaviourResult, set[str]]:
    """The result with the name of its model as it was given, and the names of networks with random weights likewise."""
    (named,) = with_display_names([result])
    return named, {str(named.model) if name == result.model else name for name in random}


def _over(result: BehaviourResult) -> str:
    """The sets of a result."""
    count = len(result.sets)
    return f"{count} sets" if count > 1 else f"the set {result.sets[0].name}"


def _bars(ax: Axes, result: BehaviourResult, networks: Sequence[Network], number: str) -> None:
    """One number of each network, and of people."""
    ends = []
    overall = {one.name: one for one in result.networks}
    for row, network in enumerate(networks):
        one = overall[network.name]
        value = getattr(one.scores, number)
        if math.isnan(value):
            ax.text(0, row, " not known", va="center", fontsize=least_size(), color=MUTED)
            continue
        ax.barh(
            row, value, _BAR, color=network.tint, edgecolor=network.color, linewidth=0.5, gid=f"bar {network.label}"
        )
        interval = getattr(one.intervals[number], _RESAMPLED[number])
        if interval is not None:
            ax.plot(interval, [row, row], color=network.color, linewidth=1.1, solid_capstyle="butt")
        ends += [value, *(interval or ())]
    people = getattr(result.people, number)
    if not math.isnan(people):
        ax.barh(len(networks), people, _BAR, color=GRID, edgecolor=INK, linewidth=0.5, gid="bar people")
        ax.axvline(people, color=INK, linewidth=0.7, linestyle=(0, (3, 2)), zorder=0.5)
        ends.append(people)
    ax.set_xlim(min(0.0, *ends, 0.0), 1.08 * max([*ends, 0.02]))
    ax.set_ylim(len(networks) + 0.6, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
    ax.set_xlabel(TITLES[number])
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _print_values(ax: Axes, matrix: npt.NDArray[np.float64], low: float, high: float) -> None:
    """Write the numbers into the cells, in white on dark ones."""
    for row, column in np.argwhere(~np.isnan(matrix)):
        value = matrix[row, column]
        text = f"{value:.2f}".replace("-0.00", "0.00").replace("0.", ".", 1)
        color = "white" if value < low + 0.6 * (high - low) else INK
        ax.text(column, row, text, ha="center", va="center", fontsize=least_size(), color=color)


def _scores_of(result: BehaviourResult, dataset: str) -> SetScores:
    for one in result.sets:
        if one.name == dataset:
            return one
    raise InvalidInputError(
        f"This result has no set {dataset!r}. It has {', '.join(one.name for one in result.sets)}. Choose one of these."
    )


def _common(result: BehaviourResult) -> list[str]:
    """Names of the networks with trials on all sets; people of one name are not one person in different sets."""
    return [one.name for one in result.overall if one.kind == "model" and one.n_sets == len(result.sets)]


def _pairs_of(result: BehaviourResult, dataset: str | None, number: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Names of the observers that can be compared, and the matrix of their pairs, with an undefined diagonal."""
    sets = result.sets if dataset is None else (_scores_of(result, dataset),)
    names = _common(result)
    if dataset is not None:
        names = [one.name for kind in ("model", "human") for one in sets[0].observers if one.kind == kind]
    if not names:
        raise InvalidInputError(
            "The consistency over all sets cannot be drawn. No network has trials on all of them. Choose one set."
        )
    matrices = []
    for one in sets:
        place = {observer.name: row for row, observer in enumerate(one.observers)}
        rows = [place[name] for name in names]
        matrices.append(getattr(one, number)[np.ix_(rows, rows)])
    matrix = np.mean(matrices, axis=0)
    np.fill_diagonal(matrix, np.nan)  # always 1
    compared = np.flatnonzero(~np.isnan(matrix).all(axis=1))
    return [drawable(names[index]) for index in compared], matrix[np.ix_(compared, compared)]
