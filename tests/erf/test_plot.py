from __future__ import annotations

import dataclasses
import sys
from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from replk_probe.erf.area_protocols import area_ratios
from replk_probe.erf.plot import color_floor, plot_erf, save_figures, square_edges
from replk_probe.erf.plot_comparison import draw_comparison, row_labels, save_comparison
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.provenance import RunInfo, WeightsInfo

TRAINED = WeightsInfo("file:model.safetensors", sha256="0123456789abcdef")
RANDOM = WeightsInfo("random-init", seed=0)


def gaussian(height: int, width: int, sigma: float, offset: float = 0.0) -> np.ndarray:
    y, x = np.arange(height) - height // 2 - offset, np.arange(width) - width // 2 - offset
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2))


def make(
    contribution, weights=TRAINED, model="resnet101", center=None, protocols=None, thresholds=(0.2, 0.3, 0.5, 0.99)
) -> ErfResult:
    height, width = contribution.shape
    center = center or (height // 2, width // 2)
    answers = area_ratios(contribution, thresholds, center=center)
    rows = tuple(
        RatioRow(protocol, threshold, answer.side, answer.ratio, (answer.ratio * 0.8, min(answer.ratio * 1.2, 1.0)))
        for (protocol, threshold), answer in answers.items()
        if protocols is None or protocol in protocols
    )
    run = RunInfo(
        model=model,
        weights=weights,
        image_source="folder:val",
        image_ids=("a",),
        input_size=(height, width),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        seed=0,
        device="cpu",
        precision="fp32",
        backend="aten",
        seconds=1.0,
    )
    return ErfResult(contribution, run, 50, 0, (height, width), "layer4", (2, 2), center, "receptive field", None, rows)


def artists(ax, gid):
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def words(figure) -> str:
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return "\n".join(texts)


def test_the_axes_show_pixels_from_the_top_left_corner():
    ax = plot_erf(make(gaussian(48, 64, 5)))
    assert ax.get_xlim() == (0, 64) and ax.get_ylim() == (48, 0)
    assert ax.get_aspect() == 1.0
    (mesh,) = ax.collections
    assert mesh.get_array().reshape(48, 64).argmax() == 24 * 64 + 32
    assert mesh.get_rasterized()


def test_colors_are_relative_to_the_maximum_on_a_log_scale():
    for scale in (1e-12, 1.0, 1e12):
        (mesh,) = plot_erf(make(scale * gaussian(32, 32, 3))).collections
        assert isinstance(mesh.norm, LogNorm) and (mesh.norm.vmin, mesh.norm.vmax) == (1e-4, 1.0)
        assert mesh.get_array().min() == pytest.approx(1e-4) and mesh.get_array().max() == 1.0
    (mesh,) = plot_erf(make(gaussian(32, 32, 3)), vmin=1e-2, vmax=0.5).collections
    assert (mesh.norm.vmin, mesh.norm.vmax) == (1e-2, 0.5)


@pytest.mark.parametrize(
    ("contribution", "floor"),
    [
        (gaussian(64, 64, 2), 1e-4),
        (np.ones((16, 16)), 0.1),
        (1 + np.eye(16), 0.1),
        (np.where(np.eye(16) > 0, 1.0, 0.02), 0.01),
        (np.where(np.eye(16) > 0, 1.0, 0.0), 0.1),
    ],
)
def test_the_color_floor_fits_the_map(contribution, floor):
    assert color_floor([make(contribution)]) == pytest.approx(floor)


@pytest.mark.parametrize(("sigma", "is_beside"), [(0.3, True), (2, True), (9, False), (300, False)])
def test_every_threshold_has_a_square_and_a_label_with_a_line_or_its_side_in_the_caption(sigma, is_beside):
    result = make(gaussian(64, 64, sigma))
    ax = plot_erf(result)
    squares = artists(ax, "square")
    sides = [result.row("paper", t).side for t in (0.99, 0.5, 0.3, 0.2)]
    assert [square.get_width() for square in squares] == sides
    labels, lines = artists(ax, "square label"), artists(ax, "leader")
    caption = f"20, 30, 50, 99 %: {', '.join(map(str, reversed(sides)))} px"
    assert (caption in words(ax.figure)) == (not is_beside)
    assert len(labels) == len(lines) == 4 * is_beside
    for label, percent, square, line in zip(labels, (99, 50, 30, 20), squares, lines, strict=False):
        assert label.get_text() == f"{percent} %: {square.get_width():g} px"
        (start, end), (top, at) = line.get_data()
        assert (start, top) == (square.get_x() + square.get_width(), square.get_y()) and start < end
        assert at == pytest.approx(label.get_position()[1])
    boxes = [label.get_window_extent() for label in labels]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))
    assert all(ax.bbox.x0 < box.x0 and box.x1 < ax.bbox.x1 for box in boxes)


def test_small_maps_have_the_sides_of_the_squares_in_the_caption():
    result = make(gaussian(64, 64, 2))
    sides = ", ".join(str(result.row("paper", threshold).side) for threshold in (0.2, 0.3, 0.5, 0.99))
    for ax in Figure(figsize=(4, 2)).subplots(1, 3):
        plot_erf(result, ax, cbar=False)
        assert not artists(ax, "square label") and f"{sides} px" in words(ax.figure)


def test_squares_lie_where_the_protocol_put_them():
    result = make(gaussian(64, 64, 4, offset=3.5), center=(35.5, 35.5))
    left, top, right, bottom = square_edges(result, "centred", 0.5)
    assert (left + right) / 2 == (top + bottom) / 2 == 36.0 and right - left == result.row("centred", 0.5).side
    left, top, right, bottom = square_edges(result, "linear", 0.5)
    assert (left + right) / 2 == (top + bottom) / 2 == 32.5
    # A square that reaches the border is clipped to it.
    flat = make(np.ones((64, 64)), center=(35.5, 35.5))
    left, top, right, bottom = square_edges(flat, "centred", 0.99)
    assert right == bottom == 64.0 and left == top == 64.0 - flat.row("centred", 0.99).side
    assert square_edges(make(np.ones((48, 96))), "paper", 0.99) == (0, 0, 96, 48)


@pytest.mark.parametrize("protocol", ["paper", "linear", "centred"])
@pytest.mark.parametrize(
    ("shape", "center"),
    [((512, 256), (255.5, 127.5)), ((40, 64), (3.0, 50.25)), ((64, 64), (10.5, 31.0)), ((33, 20), (16.0, 10.0))],
)
def test_a_square_covers_the_area_that_was_measured(protocol, shape, center):
    for scores in (np.ones(shape), gaussian(*shape, 12), np.random.default_rng(0).random(shape) ** 3):
        result = make(scores, center=center)
        y, x = center if protocol == "centred" else (shape[0] // 2, shape[1] // 2)
        for threshold in (0.2, 0.3, 0.5, 0.99):
            left, top, right, bottom = square_edges(result, protocol, threshold)
            row = result.row(protocol, threshold)
            # The published script counts a column beyond the map where its window is as wide as that.
            area = min(row.ratio * shape[0] * shape[1], row.side * min(shape))
            assert (right - left) * (bottom - top) == pytest.approx(area)
            assert max(right - left, bottom - top) == row.side
            # A half-width around the center, cut off at the borders alone.
            reach = max(abs(edge - middle - 0.5) for edge, middle in ((left, x), (right, x), (top, y), (bottom, y)))
            for low, high, middle, length in ((left, right, x, shape[1]), (top, bottom, y, shape[0])):
                assert low == 0 or middle + 0.5 - low > reach - 1
                assert high == length or high - middle - 0.5 > reach - 1


def test_the_scale_bar_is_a_round_number_of_pixels():
    for width, length in ((1024, 200), (224, 20), (64, 10), (7, 1), (1, 1)):
        ax = plot_erf(make(np.ones((4, width))))
        (bar,) = artists(ax, "scale bar")
        assert np.ptp(bar.get_xdata()) == pytest.approx(length)
        assert artists(ax, "scale label")[0].get_text() == f"{length} px"


def test_the_heading_names_model_weights_and_images():
    text = words(plot_erf(make(gaussian(32, 32, 3))).figure)
    for part in (
        "resnet101",
        "weights from model.safetensors",
        "50 images",
        "folder:val",
        "32\u00d732 px",
        "'paper'",
    ):
        assert part in text
    assert "RANDOM" not in text


def test_random_weights_are_marked_on_the_figure():
    ax = plot_erf(make(gaussian(32, 32, 3), RANDOM))
    assert len(artists(ax, "random weights")) == 1
    assert words(ax.figure).count("RANDOM WEIGHTS (seed 0)") == words(ax.figure).count("RANDOM") == 1
    figure = draw_comparison([make(gaussian(32, 32, 3), RANDOM, "a"), make(gaussian(32, 32, 3), TRAINED, "b")])
    assert words(figure).count("RANDOM") == 1
    assert [len(artists(ax, "random weights")) for ax in figure.axes[:2]] == [1, 0]
    panel = next(ax for ax in figure.axes if "Area ratio" in ax.get_xlabel())
    hollow = {
        float(line.get_ydata()[0]): line.get_markerfacecolor() == "white"
        for line in panel.lines
        if line.get_marker() == "o" and len(line.get_ydata())
    }
    assert hollow == {0.0: True, 1.0: False}


def test_names_are_never_read_as_formulas():
    save = plot_erf(make(gaussian(16, 16, 3), model="a$_{x$b")).figure
    save.canvas.draw()
    assert "a$_{x$b" in words(save)


def test_an_axes_of_the_caller_is_used():
    figure = Figure(figsize=(6, 3))
    left, right = figure.subplots(1, 2)
    assert plot_erf(make(gaussian(32, 32, 3)), right) is right
    assert right.collections and not left.collections
    assert len(right.child_axes) == 1  # the color bar
    plot_erf(make(gaussian(32, 32, 3)), left, cbar=False, caption=False)
    assert not left.child_axes and figure.axes == [left, right]


def test_several_models_share_one_color_scale():
    results = [make(gaussian(32, 32, 2), model="sharp"), make(np.ones((32, 32)), RANDOM, "flat")]
    figure = draw_comparison(results)
    meshes = [ax.collections[0] for ax in figure.axes[:2]]
    assert {(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes} == {(1e-4, 1.0)}
    assert sum("Contribution" in ax.get_ylabel() for ax in figure.axes) == 1
    panels = [ax for ax in figure.axes if "Area ratio" in ax.get_xlabel()]
    assert [ax.get_xlabel() for ax in panels] == ["Area ratio, % ('paper')", "Area ratio, % ('centred')"]
    drawn = {float(x) for line in panels[0].lines for x in line.get_xdata() if line.get_marker() == "o"}
    assert drawn == {row.ratio for result in results for row in result.ratios if row.protocol == "paper"}


LONG = "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k_with_a_far_too_long_name_of_part_"


@pytest.mark.parametrize(
    "names",
    [
        ("mobilenetv2_k9_rep_noskip", "mobilenetv2_k13_rep_noskip"),
        ("swin_tiny_patch4_window7_224", "vit_large_patch14_reg4_dinov2.lvd142m_518", "resnet101"),
        (LONG + "a", LONG + "b", "convnextv2_huge.fcmae_ft_in22k_in1k_384", "a_b", "W" * 34),
    ],
)
def test_rows_are_labeled_with_names_that_fit_and_differ(names):
    results = [make(gaussian(32, 32, 3), RANDOM, name) for name in names]
    labels = row_labels(results)
    assert len(set(labels)) == len(names)
    for name, label in zip(names, labels, strict=True):
        assert label.count("\n") == (len(name) > 34)
        if len(name) <= 68:
            assert label.replace("\n", "") == name
    figure = draw_comparison(results)
    figure.draw_without_rendering()
    panel = next(ax for ax in figure.axes if "Area ratio" in ax.get_xlabel())
    drawn = panel.get_yticklabels()
    assert [text.get_text() for text in drawn] == labels
    boxes = [text.get_window_extent() for text in drawn]
    assert all(box.x0 >= 0 and box.x1 <= panel.bbox.x0 for box in boxes)
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))


@pytest.mark.parametrize("place", [0, 30, 45, 60, 99])
def test_overlong_names_differ_wherever_they_differ(place):
    names = ["x" * place + letter + "y" * (99 - place) for letter in "abc"]
    assert len(set(row_labels([make(gaussian(8, 8, 3), model=name) for name in names]))) == 3
    # The same model twice has the same label.
    assert len(set(row_labels([make(gaussian(8, 8, 3), model=names[0])] * 2))) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("thresholds", [(0.99,), (*(i / 10 for i in range(1, 10)), 0.995)])
def test_the_legend_stays_on_the_page_and_is_read_row_by_row(count, thresholds):
    name = "mobilenetv2_k13_rep_noskip"
    results = [make(gaussian(32, 32, 3), RANDOM, f"{name}{i}", thresholds=thresholds) for i in range(count)]
    figure = draw_comparison(results)
    figure.draw_without_rendering()
    (legend,) = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    rows = sorted(
        legend.get_texts(), key=lambda text: (-round(text.get_window_extent().y1), text.get_window_extent().x0)
    )
    assert [text.get_text() for text in rows] == [f"{100 * t:g} %" for t in thresholds] + ["random weights"]
    caption = next(text for text in figure.texts if text.get_text().startswith("Squares"))
    assert box.y1 <= caption.get_window_extent().y0


def test_the_layer_is_named_below_its_map():
    long = "layers.3." + "blocks.1." * 20 + "norm (input)"
    results = [dataclasses.replace(make(gaussian(32, 32, 3)), layer=layer) for layer in ("stages.3", long)]
    for figure in (*(plot_erf(result).figure for result in results), draw_comparison(results)):
        figure.draw_without_rendering()
        maps = [ax for ax in figure.axes if ax.collections and not ax.get_ylabel()]
        for ax in maps:
            (text,) = [text for text in ax.texts if text.get_text().startswith("Layer ")]
            assert text.get_text() == "Layer stages.3" or text.get_text().endswith("norm (input)")
            box = text.get_window_extent()
            assert box.y1 <= ax.bbox.y0 and box.y0 > 0 and box.x1 <= ax.bbox.x1 + 1
        assert "'paper' protocol" in words(figure)
    assert "Layer stages.3" in words(draw_comparison(results))


def test_a_long_name_gets_a_smaller_font_before_it_is_shortened():
    names = ["swin_tiny_patch4_window7_224", "mobilenetv2_k13_rep_noskip", "replknet31b_rep_merged_13x13"]
    figure = draw_comparison([make(gaussian(32, 32, 3), model=name) for name in names])
    assert all(name in [text.get_text() for text in ax.texts] for name, ax in zip(names, figure.axes, strict=False))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_any_number_of_models_of_any_shape_can_be_compared(count):
    shapes = [(32, 32), (40, 20), (20, 40), (7, 7)]
    results = [make(np.random.default_rng(i).random(shapes[i]), model=f"m{i}") for i in range(count)]
    figure = draw_comparison(results)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width <= 7.01 and height < 12
    with pytest.raises(InvalidInputError, match="The list of results is empty"):
        draw_comparison([])


@pytest.mark.parametrize("inches", [(12.0, 9.0), (6.4, 4.8)])
def test_the_mark_of_random_weights_covers_no_label(inches: tuple[float, float]) -> None:
    figure, axes = plt.subplots(2, 2, figsize=inches)
    ax = plot_erf(make(gaussian(1024, 1024, 20), RANDOM), ax=axes[0, 0])
    figure.draw_without_rendering()
    (badge,) = artists(ax, "random weights")
    labels = [*artists(ax, "square label"), *artists(ax, "scale label")]
    assert len(labels) == (5 if inches[0] > 10 else 1)  # the sides are in the caption of the smaller one
    for label in labels:
        assert not badge.get_bbox_patch().get_window_extent().overlaps(label.get_window_extent()), label.get_text()
    plt.close(figure)


def test_what_cannot_be_drawn_is_one_clear_error():
    with pytest.raises(InvalidInputError, match=r"'pixels'.*paper, linear, centred"):
        plot_erf(make(gaussian(16, 16, 3)), protocol="pixels")
    with pytest.raises(InvalidInputError, match="'centred'"):
        plot_erf(make(gaussian(16, 16, 3), protocols=("paper",)), protocol="centred")
    with pytest.raises(InvalidInputError, match="0 < vmin < vmax"):
        plot_erf(make(gaussian(16, 16, 3)), vmin=0.0)


@pytest.mark.no_cover
def test_files_are_written_and_their_bytes_repeat(tmp_path):
    result = make(gaussian(64, 64, 5), RANDOM)
    written = save_figures(result, tmp_path / "one")
    assert [path.name for path in written] == ["erf.png", "erf.pdf"]
    save_figures(result, tmp_path / "two")
    for name, magic in (("erf.png", b"\x89PNG"), ("erf.pdf", b"%PDF")):
        content = (tmp_path / "one" / name).read_bytes()
        assert content.startswith(magic) and content == (tmp_path / "two" / name).read_bytes()
    written = save_comparison([result, result], tmp_path)
    assert [path.name for path in written] == ["comparison.png", "comparison.pdf"]
    assert all(path.stat().st_size > 1000 for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.pdf", "comparison.png", "one", "two"]


def test_maps_larger_than_the_figure_are_drawn_as_means_over_blocks():
    contribution = np.zeros((2100, 2100))
    contribution[1000:1002, 1000:1002] = 1.0
    (mesh,) = plot_erf(make(contribution)).collections
    assert mesh.get_array().size == 700**2
    figure_x = mesh.get_transform().transform([(700, 0)])[0][0]
    assert figure_x == pytest.approx(mesh.axes.transData.transform([(2100, 0)])[0][0])


def test_nothing_global_is_changed():
    before = dict(matplotlib.rcParams)
    draw_comparison([make(gaussian(16, 16, 3)), make(gaussian(16, 16, 3))])
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
