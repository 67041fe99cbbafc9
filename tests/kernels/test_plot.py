"""Figures of kernels show the numbers of the result."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from replk_probe.errors import InvalidInputError
from replk_probe.kernels import (
    Kernel,
    KernelResult,
    draw_gallery,
    draw_kernels,
    draw_overview,
    draw_profiles,
)
from replk_probe.kernels.plot import save_figures
from replk_probe.kernels.plot_heatmaps import MOST_LAYERS, common_path, short_names, value_text
from replk_probe.kernels.result import KernelRun
from replk_probe.plot_style import figure_preset, save_figure
from replk_probe.runtime.provenance import RANDOM_INIT, WeightsInfo


def kernel(layer: str, size: int | tuple[int, int] = 13, variant: str = "merged", **fields: object) -> Kernel:
    height, width = (size, size) if isinstance(size, int) else size
    generator = np.random.default_rng(sum(map(ord, layer + variant)))
    options = {
        "branches": ("large", "small"),
        "small_branch_share": 0.2,
        "strongest": generator.standard_normal((3, height, width)),
        "strongest_channels": ((4,), (1,), (9,)),
    } | fields
    return Kernel(
        layer=layer,
        path=layer,
        variant=variant,
        magnitude=generator.random((height, width)) * 7 + 0.1,
        channels=16,
        **options,
    )


def result(*kernels: Kernel, model: str = "net", weights: str = "file:net.pth", aggregate: str = "sum") -> KernelResult:
    seed = 3 if weights == RANDOM_INIT else None
    return KernelResult(kernels, KernelRun(model, WeightsInfo(weights, seed=seed), ("all",), "all", aggregate, 0.1))


def texts(figure: Figure) -> list[str]:
    return [item.get_text() for item in figure.findobj(Text) if item.get_text()]


def images(figure: Figure) -> list[AxesImage]:
    """The maps on the page itself, in the order of drawing; the color bar has Axes of its own."""
    return list(figure.axes[0].images)


def maps(figure: Figure) -> list[np.ndarray]:
    """What the maps show, one number for each cell."""
    drawn = []
    for image in images(figure):
        array = np.asarray(image.get_array())
        # In dots, of which each cell has the same number.
        cells = np.flatnonzero(np.diff(array, axis=0).any(1)), np.flatnonzero(np.diff(array, axis=1).any(0))
        side = int(min((edges[0] + 1 for edges in cells if len(edges)), default=max(array.shape)))
        assert not any(((edges + 1) % side).any() for edges in cells)
        drawn.append(array[::side, ::side])
    return drawn


def values(figure: Figure) -> list[str]:
    return [item.get_text() for item in figure.findobj(Text) if item.get_gid() == "value"]


def test_maps_are_the_magnitudes_over_their_maxima_on_one_scale() -> None:
    first = result(kernel("stage4.0", variant="large"), kernel("stage4.0"), model="with")
    second = result(kernel("stage4.0", branches=("large",), small_branch_share=None), model="without")
    figure = draw_kernels([first, second])
    kernels = [*first.kernels, *second.kernels]
    drawn = maps(figure)
    assert len(drawn) == 3
    for mesh, one in zip(drawn, kernels, strict=True):
        np.testing.assert_allclose(mesh, one.magnitude / one.magnitude.max(), rtol=1e-15)
    assert {(m.norm.vmin, m.norm.vmax) for m in images(figure)} == {(0.0, 1.0)}
    bar = figure.axes[1]
    assert bar.get_ylim() == (0.0, 1.0) and "Sum of |w|" in bar.get_ylabel()
    shown = texts(figure)
    for text in ("with", "without", "stage4.0, large", "stage4.0, merged: large + small", "stage4.0, single kernel"):
        assert text in shown
    assert shown.count("weights from net.pth") == 2  # once for each model
    assert any("each divided by its maximum" in text for text in shown)


def test_values_are_printed_where_they_fit() -> None:
    thirteen = result(kernel("stage4.0"), kernel("stage4.0", variant="large"))
    assert len(values(draw_kernels([thirteen]))) == 2 * 169
    printed = values(draw_kernels([result(kernel("stage4.0"))]))
    wanted = [value_text(value) for value in kernel("stage4.0").normalized.ravel()]
    assert printed == wanted
    for size in (31, 51):
        assert values(draw_kernels([result(kernel("stage1.0", size))])) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0.19, ".19"), (1.0, "1"), (0.996, "1"), (0.994, ".99"), (0.0, ".00"), (0.005, ".01")]
)
def test_values_in_two_decimals(value: float, text: str) -> None:
    assert value_text(value) == text


def test_printed_values_stay_within_their_cells() -> None:
    line = [kernel("stage4.0", variant=variant) for variant in ("large", "merged")]
    figure = draw_kernels([result(*line), result(kernel("stage4.0", branches=("large",)), model="other")])
    figure.draw_without_rendering()
    cell = images(figure)[0].get_window_extent().width / 13
    widest = max(t.get_window_extent().width for t in figure.findobj(Text) if t.get_gid() == "value")
    assert widest < 0.95 * cell


def test_numbers_below_a_map_are_those_of_the_result() -> None:
    one = kernel("stage4.0", zero_fraction=0.4)
    shown = " ".join(texts(draw_kernels([result(one)])))
    assert f"center 3\u00d73 {100 * one.center3x3_share:.1f} %" in shown
    assert f"central row and column {100 * one.skeleton_share:.1f} %" in shown
    within = ", ".join(f"{side}\u00d7{side}" for side in one.effective_size.values())
    assert f"50, 90, 99 % within {within}" in shown and "sizes are in entries of the kernel" in shown
    assert "small branch 20.0 %" in shown and "zeros 40.0 %" in shown and "13\u00d713, 16 channels" in shown


def test_random_weights_cannot_be_missed() -> None:
    one = result(kernel("stage4.0"), kernel("stage1.0"), weights=RANDOM_INIT)
    for draw in (draw_kernels, draw_gallery, draw_overview):
        loud = [t for t in draw([one]).findobj(Text) if t.get_text().startswith("RANDOM WEIGHTS")]
        assert loud and all(item.get_fontweight() == "bold" for item in loud), draw
    legend = draw_profiles([one]).legends[0]
    assert all("RANDOM WEIGHTS" in item.get_text() for item in legend.get_texts())
    trained = result(kernel("stage4.0"))
    for draw in (draw_kernels, draw_gallery, draw_overview, draw_profiles):
        assert not any("RANDOM" in text for text in texts(draw([trained])))


def test_a_strip_is_where_it_lies_in_the_large_kernel() -> None:
    parts = ("column", "row", "small")
    one = result(
        kernel("stage1.0", (51, 5), "column", branches=parts),
        kernel("stage1.0", (5, 51), "row", branches=parts),
        kernel("stage1.0", 51, "merged", branches=parts),
    )
    figure = draw_kernels([one])
    boxes = [image.get_extent() for image in images(figure)]
    spans = [(right - left, bottom - top) for left, right, bottom, top in boxes]
    cell = spans[2][0] / 51
    assert spans[0] == pytest.approx((5 * cell, 51 * cell)) and spans[1] == pytest.approx((51 * cell, 5 * cell))
    middles = [(bottom + top) / 2 for _, _, bottom, top in boxes]
    assert middles == pytest.approx([middles[2]] * 3, abs=1 / 300)
    assert sum(patch.get_gid() == "outline" for patch in figure.axes[0].patches) == 2


def test_of_many_layers_the_first_of_each_stage_and_all_in_the_overview() -> None:
    layers = [f"stage{stage}.{block}" for stage, count in ((1, 2), (2, 2), (3, 18), (4, 2)) for block in range(count)]
    many = result(*(kernel(layer, 7) for layer in layers))
    figure = draw_kernels([many])
    assert len(maps(figure)) == 4
    assert any("4 of 24 layers; the overview shows all of them." in text for text in texts(figure))
    overview = draw_overview([many])
    assert len(maps(overview)) == 24
    for mesh, one in zip(maps(overview), many.kernels, strict=True):
        np.testing.assert_allclose(mesh, one.normalized)
    tops = {layer: t.get_position()[1] for layer in layers for t in overview.findobj(Text) if t.get_text() == layer}
    assert len(tops) == 24
    # Two stages share a line, the third takes two.
    assert len(set(tops.values())) == 4 and tops["stage1.0"] == tops["stage2.1"] < tops["stage3.0"]
    elsewhere = result(*(kernel(f"blocks.{index}.conv", 3) for index in range(40)))
    assert len(maps(draw_kernels([elsewhere]))) == MOST_LAYERS
    assert len(maps(draw_overview([elsewhere]))) == 40


def test_the_overview_shows_one_kernel_of_each_layer() -> None:
    one = result(*(kernel("stage1.0", variant=variant) for variant in ("large", "merged")), kernel("stage2.0"))
    drawn = maps(draw_overview([one]))
    np.testing.assert_allclose(drawn[0], one.kernel("stage1.0", "merged").normalized)
    assert len(drawn) == 2


def test_the_overview_counts_what_it_shows() -> None:
    merged = [kernel(f"stage1.{index}") for index in range(3)]
    alone = kernel("stem", 3, branches=("large",), small_branch_share=None)
    empty = replace(kernel("stage2.0", 5), magnitude=np.zeros((5, 5)))
    assert "3 layers, merged: large + small" in texts(draw_overview([result(*merged)]))
    shown = texts(draw_overview([result(alone, *merged, empty)]))
    assert "5 layers: 1 single kernel; 4 merged: large + small" in shown
    assert "5\u00d75, no mass" in shown and any('No mass" means that every weight is zero' in text for text in shown)
    assert f"13\u00d713, {100 * merged[0].center3x3_share:.1f} %" in shown


def test_paths_are_shortened_to_the_parts_that_differ() -> None:
    assert short_names(["stages.0.blocks.0.conv_dw", "stages.1.blocks.2.conv_dw"]) == ["0.0", "1.2"]
    assert short_names(["blocks.0.conv_dw", "stem.conv"]) == ["blocks.0.conv_dw", "stem.conv"]
    assert short_names(["stage1.0", "stage1.1"]) == ["stage1.0", "stage1.1"]
    assert short_names(["conv"]) == ["conv"]
    assert short_names(["layer1.0.conv2", "layer4.2.conv2"]) == ["layer1.0", "layer4.2"]
    assert short_names(["net.a.conv", "net.b.0.conv"]) == ["a", "b.0"]
    assert short_names(["net", "net.conv"]) == ["net", "net.conv"]
    assert short_names(["a.conv", "conv"]) == ["a.conv", "conv"]
    assert short_names(["a.a", "a.a.a"]) == ["a", "a.a"]


def test_the_omitted_part_of_names_is_printed_once() -> None:
    layers = [f"stages.3.blocks.{index}.conv_dw" for index in range(3)]
    assert common_path(layers) == "stages.3.blocks.*.conv_dw"
    assert "3 layers stages.3.blocks.*.conv_dw, merged: large + small" in texts(
        draw_overview([result(*(kernel(layer, 7) for layer in layers))])
    )
    assert common_path(["net.a.conv", "net.b.0.conv"]) == "net.*.conv"
    assert common_path(["stage1.0", "stage2.0"]) == common_path(["conv"]) == common_path(["a.conv", "conv"]) == ""


def boxes(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of the maps in inches."""
    return [(left, top, right, bottom) for left, right, bottom, top in (one.get_extent() for one in images(figure))]


def branches(size: int, layer: str = "stage4.0") -> list[Kernel]:
    return [kernel(layer, size, "large"), kernel(layer, size), kernel(layer, 5, "small")]


@pytest.mark.parametrize("style", [None, "paper", "talk", "notebook"])
def test_the_panels_of_layers_are_on_a_full_grid(style: str | None) -> None:
    single = kernel("stage4.0", branches=("large",), small_branch_share=None)
    layers = [one for layer in ("stage3.0", "stage4.0") for one in branches(31, layer)]
    strips = [kernel("stage1.0", size, name) for name, size in (("column", (51, 5)), ("row", (5, 51)))]
    slak = result(*strips, *branches(51, "stage1.0"), model="slak")
    cases = [
        ([result(*branches(31))], (3,)),
        ([result(*branches(13), model="with"), result(single, model="without")], (4,)),
        ([result(*layers)], (3, 3)),
        ([result(*branches(13), model=name) for name in ("a", "b")], (3, 3)),
        ([result(*branches(13), model="a"), *(result(single, model=name) for name in "bcd")], (4, 2)),
        ([slak], (3, 2)),
        ([result(*(kernel(f"stage{stage}.0") for stage in (1, 2, 3, 4)))], (4,)),
        ([result(*(kernel(f"layers.{layer}") for layer in range(5)))], (3, 2)),
    ]
    for results, lengths in cases:
        with nullcontext() if style is None else figure_preset(style):
            figure = draw_kernels(results)
        middles = [(left + right) / 2 for left, _, right, _ in boxes(figure)]
        starts = [0, *(index for index, (one, other) in enumerate(pairwise(middles), 1) if other < one)]
        rows = [middles[start:stop] for start, stop in pairwise([*starts, len(middles)])]
        assert tuple(map(len, rows)) == lengths
        for row in rows:
            assert row == pytest.approx(rows[0][: len(row)], abs=0.05)


def test_small_branches_are_enlarged_to_the_size_of_the_other_maps() -> None:
    large, small, merged = boxes(draw_kernels([result(*branches(31))]))
    assert small[2] - small[0] == pytest.approx(large[2] - large[0], abs=5 / 300)
    assert merged[2] - merged[0] == pytest.approx(large[2] - large[0])
    figure = draw_kernels([result(*branches(13))])
    assert len(values(figure)) == 2 * 169 + 25
    # With a fourth map, there is no space for the values of those of 13 x 13, so that none are printed.
    other = kernel("stage4.0", branches=("large",), small_branch_share=None)
    assert values(draw_kernels([result(*branches(13)), result(other, model="without")])) == []


@pytest.mark.parametrize("style", ["paper", "talk", "notebook"])
def test_names_of_models_are_not_cut(style: str) -> None:
    names = ("replknet_micro_k13_rep", "replknet_micro_k13")
    single = kernel("stage4.0", branches=("large",), small_branch_share=None)
    with figure_preset(style):
        shown = texts(draw_kernels([result(*branches(13), model=names[0]), result(single, model=names[1])]))
    assert not any("\u2026" in text for text in shown)
    assert names[0] in shown and names[1] in "".join(shown)


def test_a_small_branch_measured_alone_is_drawn_with_another_result() -> None:
    merged, small = result(kernel("stage4.0")), result(kernel("stage4.0", 5, "small"))
    assert len(maps(draw_kernels([merged, small]))) == len(maps(draw_kernels([small, merged]))) == 2


def test_many_lines_of_one_layer_fit_on_a_page() -> None:
    models = [
        result(kernel("stage1.0", size, "large"), kernel("stage1.0", size), kernel("stage1.0", 5, "small"), model=name)
        for name, size in (("a", 31), ("b", 13), ("c", 31), ("d", 13))
    ]
    width, height = draw_kernels(models).get_size_inches()
    assert height <= 10 and width <= 7


def test_the_description_of_folded_batch_norms_is_correct() -> None:
    folded = kernel("stage1.0", batch_norm=("a.bn",))
    for kernels, words in (
        ((folded,), "The maps show absolute weights, batch norms folded in, summed"),
        ((folded, kernel("stage2.0")), "The maps show absolute weights, batch norms folded in where present, summed"),
        ((kernel("stage1.0"),), "The maps show absolute weights, summed"),
    ):
        assert any(words in text for text in texts(draw_kernels([result(*kernels)])))
        folded_in = "batch norms folded in" in " ".join(texts(draw_gallery([result(*kernels)])))
        assert folded_in == ("folded" in words)


def test_profiles_are_those_of_the_result() -> None:
    first = result(kernel("stage1.0"), kernel("stage1.1"), kernel("stage2.0", 7), model="a")
    second = result(kernel("stage1.0", variant="large"), model="b")
    figure = draw_profiles([first, second])
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert list(panels) == ["Stage 1", "Stage 2"]
    lines = panels["Stage 1"].get_lines()
    assert len(lines) == 3 and panels["Stage 1"].get_yscale() == "log"
    for line, one in zip(lines, [*first.kernels[:2], second.kernels[0]], strict=True):
        np.testing.assert_allclose(line.get_ydata(), one.radial_profile)
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() != lines[2].get_linestyle()
    assert len(figure.legends[0].get_texts()) == 2
    low, high = panels["Stage 1"].get_ylim()
    assert low < min(one.radial_profile.min() for one in first.kernels) and high > 1


def test_the_weights_below_profiles_are_in_the_order_of_the_legend() -> None:
    figure = draw_profiles([result(kernel("stage1.0"), model=name) for name in ("b", "c", "a")])
    legend = [text.get_text()[0] for text in figure.legends[0].get_texts()]
    below = [text.get_text()[0] for text in figure.texts if ": weights from net.pth" in text.get_text()]
    assert legend == below == ["b", "c", "a"]


def test_the_gallery_has_the_strongest_channels_with_their_signs() -> None:
    one = result(kernel("stage1.0"), kernel("stage2.0", 7))
    figure = draw_gallery([one])
    drawn = maps(figure)
    assert len(drawn) == 6
    for mesh, weights in zip(drawn, [w for k in one.kernels for w in k.strongest], strict=True):
        np.testing.assert_allclose(mesh, weights / np.abs(weights).max())
    assert {(m.norm.vmin, m.norm.vmax) for m in images(figure)} == {(-1.0, 1.0)}
    assert [text for text in texts(figure) if text in ("4", "1", "9")].count("4") == 2
    with pytest.raises(InvalidInputError, match="The results contain none"):
        draw_gallery([result(Kernel("a", "a", "merged", np.ones((3, 3)), 1))])


def test_nothing_to_draw() -> None:
    for draw in (draw_kernels, draw_gallery, draw_overview, draw_profiles):
        with pytest.raises(InvalidInputError, match="nothing to draw"):
            draw([])


@pytest.mark.no_cover
def test_text_stays_on_the_page() -> None:
    long = "package.module.with.a.long.name:factory_of_networks"
    layers = [f"stages.{stage}.blocks.{block}.spatial_mixing.depthwise" for stage in range(4) for block in range(2)]
    sizes = (31, 29, 13, 7)
    one = result(
        *(kernel(layer, sizes[i // 2]) for i, layer in enumerate(layers)), model=long, weights=f"file:{long}.pth"
    )
    noisy = result(*(kernel(layer, 13) for layer in layers), model=long + "2", weights=RANDOM_INIT)
    for draw in (draw_kernels, draw_gallery, draw_overview, draw_profiles):
        for results in ([one], [one, noisy]):
            figure = draw(results)
            figure.draw_without_rendering()
            width, height = figure.canvas.get_width_height()
            legends = [item for legend in figure.legends for item in legend.get_texts()]
            items = [*figure.axes[0].texts, *figure.texts, *legends]
            assert items
            for item in items:
                box = item.get_window_extent()
                assert box.x0 >= -1 and box.x1 <= width + 1, (draw.__name__, item.get_text())
                assert box.y0 >= -1 and box.y1 <= height + 1, (draw.__name__, item.get_text())


@pytest.mark.no_cover
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = result(kernel("stage4.0"))
    written = save_figures([one], tmp_path)
    assert {path.name for path in written} == {
        f"{n}.{s}" for n in ("kernels", "profiles", "gallery") for s in ("png", "pdf")
    }
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    with Image.open(tmp_path / "kernels.png") as image:
        assert image.info["dpi"][0] == pytest.approx(300, abs=2)
    assert (tmp_path / "kernels.pdf").read_bytes().startswith(b"%PDF")
    again = save_figure(draw_kernels([one]), tmp_path / "again", "kernels", width=1)
    assert [path.read_bytes() for path in again] == [(tmp_path / path.name).read_bytes() for path in again]
    # Which files there are does not depend on their contents, and rendering takes most of the time.
    monkeypatch.setattr(Figure, "savefig", lambda figure, stream, format, **options: stream.write(format.encode()))
    none = kernel("stage1.0", strongest=np.zeros((0, 1, 1)), strongest_channels=())
    several = save_figures([result(kernel("stage4.0"), none)], tmp_path)
    assert "overview.png" in {path.name for path in several}
    save_figures([result(none)], tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"overview.png", "overview.pdf", "gallery.png", "gallery.pdf"}, "of an earlier result"


def test_kernels_without_mass_and_without_channels_can_be_drawn() -> None:
    empty = Kernel("stage1.0", "conv", "merged", np.zeros((5, 5)), 4)
    assert math.isnan(empty.center3x3_share)
    figure = draw_kernels([result(empty)])
    assert "no mass" in " ".join(texts(figure))
    assert not maps(figure)[0].any()
    draw_profiles([result(empty)]).draw_without_rendering()
    draw_overview([result(empty)]).draw_without_rendering()


def test_values_are_printed_in_figures_with_larger_kernels() -> None:
    strips = [kernel("stage1.0", 51, variant=variant) for variant in ("column", "row", "large", "merged")]
    mixed = result(*strips[:3], kernel("stage4.0"), kernel("stage4.0", variant="large"))
    assert len(values(draw_kernels([mixed]))) == 2 * 169


def test_a_sheet_of_many_layers_fits_on_a_page() -> None:
    many = [result(*(kernel(f"stage{stage}.0") for stage in (1, 2, 3, 4)), model=name) for name in ("a", "b")]
    figure = draw_kernels(many)
    assert figure.get_figheight() < 10.5 and len(maps(figure)) == 4
    assert {"stage1.0", "stage4.0"} == {text.partition(",")[0] for text in texts(figure) if text.startswith("stage")}
    assert any("2 of 4 layers" in text for text in texts(figure))


@pytest.mark.parametrize(("kept", "drawn"), [(8, 8), (20, 20), (160, 112)])
def test_many_channels_are_drawn_in_several_rows(kept: int, drawn: int) -> None:
    channels = {
        "strongest": np.random.default_rng(0).standard_normal((kept, 13, 13)),
        "strongest_channels": tuple((index,) for index in range(kept)),
    }
    figure = draw_gallery([result(kernel("stage4.0", **channels))])
    assert len(images(figure)) == drawn and figure.get_figheight() < 11
    assert any(f"{drawn} of {kept} channels" in text for text in texts(figure)) == (drawn < kept)
