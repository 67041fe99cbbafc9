"""Contact sheet of the images of sets with the decisions of an observer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    COLORS,
    INK,
    LABEL_SIZE,
    LINE,
    SMALL_SIZE,
    Line,
    add_heading,
    block_side,
    check_drawable,
    figure_style,
    fitted,
    fitted_lines,
    new_figure,
    page_width,
    save_figure,
    title_line,
)
from replk_probe.shape_bias.decisions import NO_ANSWER
from replk_probe.shape_bias.plot_stimuli import spread_over

from .benchmark_sets import BENCHMARK_SETS

if TYPE_CHECKING:
    from .image_sets import BenchmarkImages, SetImages
    from .trials import Trials

_COLUMNS = 8
_ROWS_OF_ONE = 4  # rows of a sheet with a single set
_LABEL, _TEXT, _HEAD, _MARGIN, _GAP = 0.95, 0.3, 0.44, 0.06, 0.05  # inches
_RIGHT, _WRONG = COLORS[2], COLORS[0]
_FRAME = 1.4  # points


def draw_contact_sheet(images: BenchmarkImages, trials: Sequence[Trials]) -> Figure:
    """Draw some images of each set with the decision of an observer and the correct category below each.

    Args:
        images: The images, of which only those shown are decoded.
        trials: Trials of one observer on these images.

    Returns:
        A figure as wide as a page (7 inches), with one row of eight images per set, spread over its conditions and
        categories, or four rows for a single set. Frames of correct decisions are green, of others red.

    Raises:
        InvalidInputError: There are no trials on any of the sets.
        UnreadableImageError: An image is missing or damaged.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe.behaviour import draw_contact_sheet, open_sets
        >>> for category in ("cat", "dog"):
        ...     Path("sheet/edge", category).mkdir(parents=True)
        ...     Image.new("RGB", (224, 224)).save(f"sheet/edge/{category}/{category}1.png")
        >>> images = open_sets("edge", "sheet", allow_partial=True)
        >>> figure = draw_contact_sheet(images, [images.sets[0].trials("always cat", ["cat", "cat"])])
        >>> figure.savefig("sheet.png")
    """
    check_drawable(images, "BenchmarkImages")
    of_set = {one.dataset: one for one in trials}
    shown = [(one, place, of_set[one.dataset]) for one, place in images.rows() if one.dataset in of_set]
    if not shown:
        raise InvalidInputError(
            f"There is nothing to draw. The trials are not on any of the sets {images.source}. Give trials on these."
        )
    rows = _ROWS_OF_ONE if len(shown) == 1 else 1
    width = page_width()
    cell = (width - _LABEL - _MARGIN - (_COLUMNS - 1) * _GAP) / _COLUMNS
    height = _HEAD + len(shown) * rows * (cell + _TEXT) + _MARGIN
    with figure_style():
        figure = new_figure(width, height)
        top = height - _HEAD
        for one, place, own in shown:
            response = dict(zip(own.names, own.response, strict=True))
            style: dict[str, Any] = {"fontsize": LABEL_SIZE, "va": "top", "color": INK, "parse_math": False}
            figure.text(_MARGIN / width, top / height, fitted(one.dataset, (_LABEL - 0.1) * 72, LABEL_SIZE), **style)
            # What the conditions in parentheses are, with their unit.
            for line, text in enumerate(
                fitted_lines(BENCHMARK_SETS[one.dataset].axis, (_LABEL - 0.1) * 72, SMALL_SIZE)
            ):
                down = top - (LABEL_SIZE + line * SMALL_SIZE) * LINE / 72
                figure.text(_MARGIN / width, down / height, text, va="top", **Line(text).style)
            chosen = _spread(one, rows * _COLUMNS)
            for position, index in enumerate(chosen):
                row, column = divmod(position, _COLUMNS)
                corner = (_LABEL + column * (cell + _GAP), top - row * (cell + _TEXT) - cell)
                _draw_image(figure, images, place.start + index, corner, cell)
                _draw_labels(figure, one, index, response.get(one.names[index], NO_ANSWER), corner, cell)
            top -= rows * (cell + _TEXT)
        add_heading(figure, [title_line(f"Decisions of {shown[0][2].observer}"), Line(_legend(shown))], _MARGIN)
    return figure


def save_contact_sheet(images: BenchmarkImages, trials: Sequence[Trials], directory: str | Path) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_contact_sheet` to ``images.png`` and ``images.pdf``; returns the paths."""
    return save_figure(draw_contact_sheet(images, trials), Path(directory), "images", width=224)


def _legend(shown: Sequence[tuple[SetImages, slice, Trials]]) -> str:
    total, correct = sum(len(one.names) for *_, one in shown), sum(int(one.correct.sum()) for *_, one in shown)
    has_conditions = any(BENCHMARK_SETS[one.dataset].has_conditions for one, *_ in shown)
    return (
        "Below each image: the decision (green: correct, red: not correct), then the correct category"
        f"{' (and the condition)' if has_conditions else ''}. {correct} of all {total} decisions are correct."
    )


def _spread(images: SetImages, count: int) -> list[int]:
    """Indices of images that are spread over the conditions, and within each over the categories."""
    groups = [
        [index for index, one in enumerate(images.condition) if one == level]
        for level in BENCHMARK_SETS[images.dataset].levels
    ]
    filled = [group for group in groups if group]
    if len(filled) == 1:  # over the categories instead
        categories = dict.fromkeys(images.category)
        filled = [[index for index, one in enumerate(images.category) if one == category] for category in categories]
    return spread_over(filled, count)


def _draw_image(figure: Figure, images: BenchmarkImages, index: int, corner: tuple[float, float], cell: float) -> None:
    width, height = figure.get_size_inches()
    picture = images.load(index)
    block = block_side(max(picture.size), cell)
    if block > 1:
        picture = picture.reduce(block)
    ax = figure.add_axes((corner[0] / width, corner[1] / height, cell / width, cell / height))
    ax.imshow(np.asarray(picture), interpolation="none")
    ax.set_axis_off()


def _draw_labels(
    figure: Figure, images: SetImages, index: int, answer: str, corner: tuple[float, float], cell: float
) -> None:
    """The frame, the decision, and the correct category with the condition."""
    width, height = figure.get_size_inches()
    (x, y), known = corner, BENCHMARK_SETS[images.dataset]
    correct = answer == images.category[index]
    color, rim = _RIGHT if correct else _WRONG, _FRAME / 2 / 72
    figure.add_artist(
        Rectangle(
            ((x - rim) / width, (y - rim) / height), (cell + 2 * rim) / width, (cell + 2 * rim) / height,
            fill=False, edgecolor=color, linewidth=_FRAME, transform=figure.transFigure,
            gid="correct" if correct else "wrong",
        )
    )  # fmt: skip
    level = f" ({known.label(images.condition[index])})" if known.has_conditions else ""
    texts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("no answer" if answer == NO_ANSWER else answer, {"color": color, "fontweight": "bold"}),
        (f"{images.category[index]}{level}", {"color": INK}),
    )
    for row, (text, style) in enumerate(texts):
        place = (y - 0.1 - row * 0.1) / height
        label = fitted(text, (cell + _GAP) * 72, SMALL_SIZE, style.get("fontweight", "normal"))
        figure.text(x / width, place, label, va="baseline", fontsize=SMALL_SIZE, parse_math=False, **style)
