"""Results as tables, plots, HTML and text; equality by value."""

from __future__ import annotations

import base64
import csv
import dataclasses
import importlib
import inspect
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from replk_probe import attribution, bench, comparison, erf, kernels, reliance, shape_bias
from replk_probe.attribution.result import AttributedImage, AttributionResult, ErfWindow
from replk_probe.bench.result import Layer, Machine, SpeedCase, SpeedResult, Timing
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.errors import InvalidInputError
from replk_probe.kernels.kernel import Kernel
from replk_probe.kernels.result import KernelResult, KernelRun
from replk_probe.plot_style import LABEL_SIZE, PRESETS, SMALL_SIZE, TITLE_SIZE, USUAL, figure_of, figure_preset
from replk_probe.reliance import RelianceResult, parse_suppressions
from replk_probe.results import Result
from replk_probe.runtime.provenance import RANDOM_INIT, RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.sweeps.result import SweepResult

NAME = "<b>net</b>"
RANDOM, TRAINED = WeightsInfo("random-init", seed=0), WeightsInfo("file:net.pth")
NAMES = ("bear1-cat1.png", "bear2-bear1.png", "cat10-bear1.png", "cat2-dog3.png")
HUMANS = [Decisions.from_names(f"subject-0{i}", NAMES, ("bear", "na", "cat", "dog")) for i in (1, 2)]


def make_erf(**changes) -> ErfResult:
    y, x = np.mgrid[-8:8, -8:8]
    run = RunInfo(
        model=NAME, weights=WeightsInfo("file:net.pth"), image_source="folder:val", image_ids=("a.jpg",),
        input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, seed=0, device="cpu", precision="fp32", backend="aten",
        seconds=1.0, versions={},
    )  # fmt: skip
    fields = {
        "contribution": np.exp(-(x**2 + y**2) / 8), "run": run, "n_images": 1, "n_skipped": 0, "input_size": (16, 16),
        "layer": "layer4", "feature_size": (2, 2), "center": (8, 8), "center_source": "stride rule",
        "theoretical_rf": None,
        "ratios": (RatioRow("paper", 0.2, 3, 9 / 256, (0.01, 0.05)), RatioRow("pixels", 0.2, 3.5, 0.05)),
    }  # fmt: skip
    return ErfResult(**(fields | changes))


def make_shape_bias() -> ShapeBiasResult:
    decisions = Decisions.from_names(NAME, NAMES, ("bear", "bear", "bear", "oven"))
    return ShapeBiasResult.from_decisions(decisions, observers=HUMANS, run=make_erf().run)


def make_kernels(model: str = NAME, source: str = "file:net.pth") -> KernelResult:
    generator = np.random.default_rng(0)
    found = tuple(
        Kernel(layer, f"m.{layer}", variant, generator.random((side, side)), 16, branches=("large", "small"))
        for layer, side in (("stage1.0", 7), ("stage2.0", 5))
        for variant in ("large", "merged")
    )
    run = KernelRun(model, WeightsInfo(source), ("all",), "all", "sum", 1.0, {})
    return KernelResult(found, run)


def make_speed() -> SpeedResult:
    timings = (Timing("module", 1e-3, 2e-3, 9, 2e-7), Timing("channels_last", 3e-3, 4e-3, 9))
    timings += (Timing("nchw", None, None, 0, None, "left out"),)
    cases = tuple(SpeedCase(Layer(1, 8, 9, 9, k, k), "forward", timings, "fft", "avx2", (8, 8), 1) for k in (3, 5))
    return SpeedResult(cases, Machine("<i>cpu</i>", 2, (0.1, 0.2), None, None, None, "AVX2", {}), "float32", 9)


def make_attribution() -> AttributionResult:
    windows = tuple(
        ErfWindow(threshold=share, top=2, left=1, bottom=9, right=5, area=0.1, share=0.3) for share in (0.5, 0.99)
    )
    image = AttributedImage(
        id=f"{NAME}.jpg", target=3, target_name=NAME, predicted=1, predicted_name=None, score=2.0, probability=0.25,
        total=-1.0, entropy_bits=5.0, effective_area=0.5, peak=(3, 4), position=(0, 1), center=(4.5, 3.5),
        windows=windows,
    )  # fmt: skip
    maps, pictures = np.random.default_rng(0).normal(size=(1, 16, 16)), np.full((1, 16, 16, 3), 99)
    return AttributionResult(maps, pictures, (image,), make_erf().run, "saliency", "layer4", "image")


def make_reliance() -> RelianceResult:
    suppressions = parse_suppressions("gaussian-blur,patch-shuffle:2,grayscale,patch-shuffle+grayscale")
    random = np.random.default_rng(0)
    targets = np.arange(32) % 4
    decisions = np.where(random.random((1 + len(suppressions), 32)) < 0.7, targets, (targets + 1) % 4)
    pictures = random.integers(0, 256, (len(suppressions), 16, 16, 3))
    return RelianceResult.from_decisions(
        decisions, targets, suppressions, pictures=pictures, run=make_erf().run, label_space="indices", classes="0123"
    )


MAKERS = {
    "erf": make_erf, "shape_bias": make_shape_bias, "kernels": make_kernels, "bench": make_speed,
    "attribution": make_attribution, "reliance": make_reliance,
}  # fmt: skip
TABLES = {name: f"{name}.csv" for name in MAKERS}


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def result(kind: str) -> Result:
    return MAKERS[kind]()


def test_the_data_frame_has_the_rows_and_columns_of_the_csv_file(kind: str, result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    frame = result.to_dataframe()
    rows = list(csv.DictReader(io.StringIO((tmp_path / TABLES[kind]).read_text(encoding="utf-8"))))
    assert list(frame.columns) == list(rows[0]) and len(frame) == len(rows)
    for name in frame.columns:
        if pd.api.types.is_numeric_dtype(frame[name]):
            written = [float(row[name] or "nan") for row in rows]
            np.testing.assert_allclose(frame[name].to_numpy(dtype=float), written, rtol=1e-2 if kind == "bench" else 0)
        else:
            assert [row[name] for row in rows] == ["" if pd.isna(value) else str(value) for value in frame[name]]


def test_the_columns_are_in_the_documentation(kind: str, result: Result) -> None:
    text = (type(result).to_dataframe.__doc__ or "") + (kernels.results_to_dataframe.__doc__ or "") * (
        kind == "kernels"
    )
    for name in result.to_dataframe().columns:
        # The ends of the intervals have the names of the numbers, followed by the same suffixes.
        suffix = re.sub(r"^(symmetry|effective_size)|_ci95_(low|high)$", "", name)
        assert f"``{name}``" in text or f"``{suffix}``" in text


def test_several_models_share_a_data_frame() -> None:
    frame = kernels.results_to_dataframe([make_kernels("one"), make_kernels("two"), make_kernels("two")])
    assert list(frame["model"].unique()) == ["one", "two #1", "two #2"] and len(frame) == 12
    assert kernels.results_to_dataframe([]).empty


def test_plot_returns_axes_new_or_given(result: Result) -> None:
    assert isinstance(result.plot(), Axes)
    ax = Figure().subplots()
    assert result.plot(ax=ax) is ax and ax.has_data()
    assert not plt.get_fignums()
    for wrong in (5, np.array([ax]), Figure()):
        with pytest.raises(InvalidInputError, match="Expected ax as Axes of matplotlib, but got an object of type"):
            result.plot(ax=wrong)


PLOTS = (
    ("erf", erf.plot_erf),
    ("shape_bias", shape_bias.plot_shape_bias),
    ("shape_bias", shape_bias.plot_bars),
    ("kernels", kernels.plot_kernel),
    ("kernels", kernels.plot_radial_profile),
    ("bench", bench.plot_times),
    ("bench", bench.plot_speedup),
    ("attribution", attribution.plot_attribution),
    ("reliance", lambda result, ax: reliance.plot_profile([result], ax)),
)


def shown_texts(figure: Figure) -> list[Text]:
    """Texts that were drawn, without tick labels outside of the limits."""
    outside = set()
    for ax in figure.findobj(Axes):
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            outside |= {label for t in ticks if not low <= t.get_loc() <= high for label in (t.label1, t.label2)}
    found = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in outside]
    return [text for text in found if text.get_window_extent().width]


@pytest.mark.parametrize("size", [(4, 3), (6, 4)])
@pytest.mark.parametrize(("kind", "plot"), PLOTS)
def test_plots_on_a_plain_figure_have_small_text_inside_the_figure(kind, plot, size) -> None:
    figure, ax = plt.subplots(figsize=size)
    plot(MAKERS[kind](), ax)
    figure.draw_without_rendering()
    texts = shown_texts(figure)
    assert texts
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        assert text.get_fontsize() <= 8
    plt.close(figure)


@pytest.mark.parametrize("layout", ["none", "tight_layout() afterwards", "constrained", "tight"])
@pytest.mark.parametrize(("kind", "plot"), PLOTS)
def test_subplots_do_not_overlap_their_neighbors(kind, plot, layout) -> None:
    engine = layout if layout in ("constrained", "tight") else None
    figure, axes = plt.subplots(2, 2, layout=engine)
    for ax in axes.flat:
        plot(MAKERS[kind](), ax)
    if "afterwards" in layout:
        figure.tight_layout()
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    for box in boxes:
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) >= 0
    for one, other in itertools.combinations(boxes, 2):
        wide, high = (min(a[1], b[1]) - max(a[0], b[0]) for a, b in zip(*corners(one, other), strict=True))
        assert min(wide, high) <= 0
    # All of them are in the figure that a notebook shows.
    whole = figure.get_tightbbox()
    assert whole.width * figure.dpi >= max(box.x1 for box in boxes) - min(box.x0 for box in boxes) - 1
    assert all(text.get_fontsize() >= 5.5 for text in shown_texts(figure))
    plt.close(figure)


def corners(*boxes: Bbox) -> list[list[tuple[float, float]]]:
    """The intervals of x and y of each box."""
    return [[(box.x0, box.x1), (box.y0, box.y1)] for box in boxes]


@pytest.mark.parametrize("figsize", [(4, 3), (6.4, 4.8), (9, 3)])
@pytest.mark.parametrize(("kind", "plot"), [("erf", erf.plot_erf), ("kernels", kernels.plot_kernel)])
def test_the_color_bar_has_the_height_of_its_map(kind, plot, figsize) -> None:
    figure, axes = plt.subplots(1, 2, figsize=figsize)
    for ax in axes:
        plot(MAKERS[kind](), ax)
        (bar,) = ax.child_axes
        figure.draw_without_rendering()
        shown, own = bar.get_window_extent(), ax.get_window_extent()
        # The arrow of the lowest values is not part of the bar's frame.
        arrow = 0.06 * own.height if kind == "erf" else 0
        assert shown.y1 == pytest.approx(own.y1) and shown.y0 == pytest.approx(own.y0, abs=arrow + 1e-6)
        assert shown.x0 > own.x1
    plt.close(figure)


def test_axes_in_nested_grids_and_with_a_locator_of_their_own_stay_where_they_are() -> None:
    figure = plt.figure()
    outer = figure.add_gridspec(1, 2)
    inner = [figure.add_subplot(cell) for cell in outer[1].subgridspec(2, 1)]
    for ax in inner:
        kernels.plot_kernel(make_kernels(), ax)
    figure.draw_without_rendering()
    left = outer[1].get_position(figure).x0 * figure.bbox.width
    for ax in inner:
        assert ax.get_tightbbox().x0 >= left
    locator = inner[0].get_axes_locator()
    ax = figure.add_axes((0, 0, 0.3, 0.3))
    ax.set_axes_locator(fixed := lambda ax, renderer: ax.get_position(original=True))
    bench.plot_speedup(make_speed(), ax)
    assert ax.get_axes_locator() is fixed and inner[0].get_axes_locator() is locator
    plt.close(figure)


def drawn_figures() -> Iterator[Figure]:
    """Figures of every function that draws one."""
    random, trained = (make_erf(run=replace(make_erf().run, weights=weights)) for weights in (RANDOM, TRAINED))
    yield figure_of(erf.plot_erf(random))
    yield erf.draw_comparison([random, trained])
    larger = {"input_size": (32, 32), "run": replace(trained.run, input_size=(32, 32))}
    yield erf.draw_sizes([trained, replace(trained, contribution=np.ones((32, 32)), **larger)], protocol="paper")
    shape = replace(make_shape_bias(), run=random.run)
    yield shape_bias.draw_shape_bias(shape, others=shape_bias.published_observers())
    yield shape_bias.draw_comparison([shape])
    yield figure_of(shape_bias.plot_shape_bias(shape))
    yield figure_of(shape_bias.plot_bars(shape))
    one, other = make_kernels(source=RANDOM_INIT), make_kernels("other")
    for draw in (kernels.draw_kernels, kernels.draw_overview, kernels.draw_profiles):
        yield draw([one])
        yield draw([one, other])
    yield figure_of(kernels.plot_kernel(one))
    yield figure_of(kernels.plot_radial_profile(other))
    for draw_speed in (bench.plot_times, bench.plot_speedup):
        yield figure_of(draw_speed(make_speed()))
    yield bench.draw_speed(make_speed())
    attributed = replace(make_attribution(), run=random.run)
    yield attribution.draw_attributions(attributed)
    yield figure_of(attribution.plot_attribution(attributed))
    suppressed = replace(make_reliance(), run=random.run)
    yield reliance.draw_reliance([suppressed, make_reliance()])
    yield reliance.draw_suppressions(suppressed)
    yield figure_of(reliance.plot_profile([suppressed]))
    yield comparison.draw_differences(comparison.compare_results(trained, trained))


@pytest.mark.no_cover
@pytest.mark.parametrize("style", ["usual", "paper"])
def test_figures_are_a_column_or_a_page_wide_with_text_of_three_sizes_and_one_label_for_random_weights(style) -> None:
    chosen = USUAL if style == "usual" else PRESETS[style]
    with nullcontext() if style == "usual" else figure_preset(style):
        for figure in drawn_figures():
            inches = figure.get_figwidth() * chosen.magnification
            assert min(abs(inches - chosen.column), abs(inches - chosen.page)) < 1e-6
            texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_gid() != "value"]
            sizes = {text.get_fontsize() for text in texts}
            assert all(min(abs(size - one) for one in (SMALL_SIZE, LABEL_SIZE, TITLE_SIZE)) < 1e-6 for size in sizes)
            assert sum("RANDOM" in text.get_text() for text in texts) <= 1 or figure.legends


FIGURES = (
    *((package, name) for package in (erf, shape_bias, kernels, bench, attribution, reliance)
      for name in package.__all__ if name.startswith(("plot_", "draw_"))),
)  # fmt: skip


@pytest.mark.parametrize(("package", "name"), FIGURES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_function_cannot_draw_is_an_error_of_this_package(package, name) -> None:
    draw = getattr(package, name)
    own = MAKERS[package.__name__.rpartition(".")[2]]()
    others = [maker() for maker in MAKERS.values()]
    wrong = [5, None, "result", b"result", {}, [5], [None], *([one] for one in others if type(one) is not type(own))]
    wrong += [one for one in others if type(one) is not type(own)]
    several = "results" in inspect.signature(draw).parameters
    wrong.append(own if several else [own])
    more = (others[1].decisions,) if name == "draw_contact_sheet" else ()
    for value in wrong:
        with pytest.raises(InvalidInputError, match=r"Expected .* to draw, but got .*\. Give "):
            draw(value, *more)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("erf", {"cmap": "nope"}, "Unknown color map 'nope'.*Use for instance"),
        ("kernels", {"cmap": "virids"}, "Unknown color map 'virids'.*Use for instance viridis"),
        ("kernels", {"cmap": 5}, "Unknown color map 5"),
        ("erf", {"vmin": 0}, "A color scale from 0 to 1.0 is invalid.*0 < vmin < vmax"),
        ("erf", {"vmax": "1"}, "to '1' is invalid"),
        ("erf", {"vmax": np.inf}, "to inf is invalid"),
        ("kernels", {"vmin": np.nan}, "from nan to 1.0 is invalid"),
        ("kernels", {"vmin": 2}, "from 2 to 1.0 is invalid"),
        ("erf", {"protocol": 3}, "Protocol 3 has no squares to draw.*Choose from paper"),
        ("erf", {"protocol": []}, "Choose from paper"),
        ("kernels", {"layer": 3}, "There is no kernel 3"),
        ("kernels", {"variant": []}, "There is no kernel"),
        ("shape_bias", {"others": 5}, "Expected a sequence of objects of type Observer"),
        ("shape_bias", {"others": [make_shape_bias()]}, "Expected an object of type Observer.*ShapeBiasResult"),
        ("shape_bias", {"others": make_shape_bias()}, "Expected a sequence of objects of type Observer"),
    ],
)
def test_options_of_plots_that_cannot_be_used(kind, options, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MAKERS[kind]().plot(**options)
    if kind == "shape_bias":
        with pytest.raises(InvalidInputError, match=message):
            shape_bias.plot_bars(make_shape_bias(), **options)


@pytest.mark.parametrize("size", [(4, 3), (6, 4)])
def test_ticks_and_legend_of_shape_bias_on_a_plain_figure(size) -> None:
    figure, ax = plt.subplots(figsize=size)
    shape_bias.plot_shape_bias(make_shape_bias(), ax, others=shape_bias.published_observers())
    figure.draw_without_rendering()
    texts = shown_texts(figure)
    ticks = [label for label in ax.get_xticklabels() if label.get_text()]
    assert [label.get_text() for label in ticks] == ["0", "25", "50", "75", "100"]
    assert {label.get_fontsize() for label in ticks} == {SMALL_SIZE}
    legend = [text for text in texts if text.get_gid() == "legend"]
    assert len(legend) == 7 and legend[-1].get_text() == "10 individual humans"
    for first, second in itertools.combinations(texts, 2):
        one, other = first.get_window_extent(), second.get_window_extent()
        overlap = [min(getattr(one, f"{axis}1"), getattr(other, f"{axis}1")) for axis in "xy"]
        overlap = [
            edge - max(getattr(one, f"{a}0"), getattr(other, f"{a}0")) for edge, a in zip(overlap, "xy", strict=True)
        ]
        assert min(overlap) <= 0.5, (first, second)
    assert all(box.y1 <= ax.get_window_extent().y0 for box in (text.get_window_extent() for text in legend))
    plt.close(figure)


@pytest.mark.parametrize("factor", [1.05, 2.1, 3, 9, 40, 5000])
@pytest.mark.parametrize("shortest", [1e-3, 1.3e-3, 2.2e-3, 6.4e-3])
def test_time_has_at_least_two_labeled_ticks(shortest: float, factor: float) -> None:
    timings = (Timing("module", shortest, shortest, 9, 2e-7), Timing("nchw", factor * shortest, 1.0, 9))
    case = SpeedCase(Layer(1, 8, 9, 9, 3, 3), "forward", timings, "fft", "avx2", (8, 8), 1)
    ax = bench.plot_times(dataclasses.replace(make_speed(), cases=(case,)), plt.figure(figsize=(4, 3)).add_subplot())
    ax.figure.draw_without_rendering()
    low, high = ax.get_xlim()
    labels = [t.label1.get_text() for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert len(set(filter(None, labels))) >= 2
    plt.close(ax.figure)


@pytest.mark.parametrize(("kind", "plot"), PLOTS[:5])
def test_names_without_glyphs_are_escaped_on_axes_of_the_caller(kind, plot) -> None:
    hostile = "net\x1b[31m\n\u202e\U000fffff \u4e2d$x$"
    one = MAKERS[kind]()
    one = dataclasses.replace(one, run=dataclasses.replace(one.run, model=hostile))
    if kind == "shape_bias":
        one = dataclasses.replace(one, model=dataclasses.replace(one.model, name=hostile))
    figure, ax = plt.subplots(figsize=(6, 4))
    plot(one, ax)  # any warning is an error
    figure.savefig(io.BytesIO())
    written = "".join(text.get_text() for text in figure.findobj(Text))
    assert "net\\x1b" in written and not {"\x1b", "\u202e", "\U000fffff", "\u4e2d"} & set(written)
    plt.close(figure)


def test_equality_is_by_value_and_a_bool(kind: str, result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    again = type(result).load(tmp_path)
    assert (result == MAKERS[kind]()) is True and (result == again) is True and (result != again) is False
    assert (result == 3) is False and (result == None) is False  # noqa: E711
    with pytest.raises(TypeError, match="unhashable"):
        hash(result)


def test_results_that_differ_somewhere_are_not_equal() -> None:
    one = make_erf()
    contribution = one.contribution.copy()
    contribution[0, 0] += 1e-9
    assert one != make_erf(contribution=contribution) and one != make_erf(notes=("A note.",))
    assert one != make_erf(run=dataclasses.replace(one.run, config={"a": 1}))
    assert make_kernels() != make_kernels("other") and make_kernels() != make_erf()
    assert make_kernels().kernels[0] == make_kernels().kernels[0] != make_kernels().kernels[1]


def test_results_are_equal_wherever_and_however_fast_they_were_computed() -> None:
    elsewhere = {"seconds": 99.0, "versions": {"torch": "0"}}
    for one in (make_erf(), make_shape_bias(), make_kernels()):
        changes = elsewhere | ({} if isinstance(one, KernelResult) else {"device": "cuda:0 (NAME)"})
        assert dataclasses.replace(one, run=dataclasses.replace(one.run, **changes)) == one
        assert dataclasses.replace(one, run=dataclasses.replace(one.run, model="other")) != one
    given = ShapeBiasResult.from_decisions(observers=HUMANS)
    assert dataclasses.replace(given, run=dataclasses.replace(given.run, versions={})) == given
    # The times of a benchmark are what it measures.
    speed = make_speed()
    slower = dataclasses.replace(speed.cases[0].timings[0], minimum=1.0)
    case = dataclasses.replace(speed.cases[0], timings=(slower, *speed.cases[0].timings[1:]))
    assert dataclasses.replace(speed, cases=(case, *speed.cases[1:])) != speed


def test_the_representation_is_one_short_line(result: Result) -> None:
    text = repr(result)
    assert text.startswith(f"{type(result).__name__}(") and "\n" not in text and len(text) < 160


def test_html_has_a_table_and_a_figure_and_every_text_is_escaped(result: Result) -> None:
    text = result._repr_html_()
    assert "<table>" in text and 'src="data:image/png;base64,' in text
    assert NAME not in text and "<i>" not in text and ("&lt;b&gt;net" in text or "&lt;i&gt;cpu" in text)
    assert "nan" not in re.sub(r'src="[^"]*"', "", text)


def displayed(result: object) -> dict[str, str]:
    """What a notebook shows, by its type: that of IPython if it is installed, or else of the methods it calls."""
    try:
        from IPython.core.formatters import DisplayFormatter
    except ImportError:
        return {"text/html": result._repr_html_(), "text/plain": repr(result)}
    return DisplayFormatter().format(result)[0]


def test_a_notebook_shows_a_small_figure_with_a_description(result: Result) -> None:
    shown = displayed(result)
    assert shown["text/plain"] == repr(result)
    (found,) = re.findall(r'<img alt="([^"]*)" style="[^"]*" src="data:image/png;base64,([^"]*)"/>', shown["text/html"])
    assert found[0].startswith(f"Figure of {type(result).__name__}, ")
    content = base64.b64decode(found[1])
    assert content.startswith(b"\x89PNG") and len(content) < 300_000


def test_a_figure_that_fails_leaves_the_table(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Result) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(type(result), "plot", fail)
    text = displayed(result)["text/html"]
    assert "<table>" in text and "<img" not in text


def test_a_notebook_shows_the_jobs_of_a_sweep() -> None:
    job = {"label": NAME, "analyzer": "erf", "model": NAME, "state": "done"}
    failed = job | {"state": "failed", "reason": "<script>"}
    text = displayed(SweepResult(Path("out"), (job, failed), None))["text/html"]
    assert text.count("<tr>") == 3 and "failed: 1" in text and "running" not in text
    assert NAME not in text and "<script>" not in text and "&lt;script&gt;" in text


def test_html_is_short_and_does_without_a_figure_where_none_can_be_drawn() -> None:
    rows = tuple(RatioRow("pixels", 0.01 * i, 3.0, 0.1) for i in range(1, 31))
    text = make_erf(ratios=rows)._repr_html_()
    assert text.count("<tr>") == 21 and "10 more rows" in text and "<img" not in text


@pytest.mark.parametrize("package", [erf, shape_bias, kernels, bench, attribution, reliance])
def test_plot_functions_are_public_and_no_module_hides_them(package) -> None:
    folder = Path(package.__file__).parent
    public = [name for name in package.__all__ if name.startswith(("plot_", "draw_"))]
    assert {name[:5] for name in public} == {"plot_", "draw_"}
    for name in public:
        assert callable(getattr(package, name)) and not (folder / f"{name}.py").exists()
        returned = getattr(package, name).__annotations__["return"]
        assert returned == ("Axes" if name.startswith("plot_") else "Figure")


def test_a_kernel_is_a_heatmap_of_its_magnitude() -> None:
    result = make_kernels()
    ax = result.plot(vmin=0.1, vmax=0.9, cmap="viridis", cbar=False)
    (mesh,) = ax.collections
    np.testing.assert_array_equal(mesh.get_array().reshape(5, 5), result.kernel("stage2.0").normalized)
    assert mesh.get_clim() == (0.1, 0.9) and mesh.get_cmap().name == "viridis" and len(ax.figure.axes) == 1
    assert len(result.plot().child_axes) == 1
    assert "stage1.0\nlarge" in result.plot(layer="stage1.0", variant="large").get_title(loc="left")
    assert "RANDOM WEIGHTS" in make_kernels(source=RANDOM_INIT).plot().get_title(loc="left")
    kernels.plot_kernel(result.kernels[0])
    with pytest.raises(InvalidInputError, match="no kernel 'stage9'"):
        result.plot(layer="stage9")
    with pytest.raises(InvalidInputError, match="single kernel"):
        kernels.plot_kernel(result.kernels[0], layer="stage1.0")
    with pytest.raises(InvalidInputError, match="nothing to draw"):
        dataclasses.replace(result, kernels=()).plot()


def test_radial_profiles_are_those_of_the_kernels() -> None:
    result = make_kernels()
    ax = kernels.plot_radial_profile(result)
    for line, kernel in zip(ax.lines, result.kernels, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), kernel.radial_profile)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        f"{NAME}, large",
        f"{NAME}, merged: large + small",
    ]


def test_times_and_speedups_are_those_of_the_cases() -> None:
    result = make_speed()
    ax = bench.plot_times(result)
    assert ax.get_xscale() == "log" and [text.get_text() for text in ax.get_yticklabels()] == ["1,8,9,3", "1,8,9,5"]
    assert {float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() in "o^" and len(line.get_xdata())} == {
        1,
        3,
    }
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "replk-probe, module in eval mode", "torch conv2d, channels_last",
    ]  # fmt: skip
    assert [bar.get_width() for bar in bench.plot_speedup(result).patches] == pytest.approx([3, 3])
    for plot in (bench.plot_times, bench.plot_speedup):
        with pytest.raises(InvalidInputError, match="nothing to draw"):
            plot(dataclasses.replace(result, cases=()))


def test_shape_bias_is_plotted_with_others() -> None:
    result = make_shape_bias()
    others = shape_bias.published_observers()
    lines = [line.get_gid() for line in shape_bias.plot_shape_bias(result, others=others).lines]
    assert f"observer {NAME}" in lines and "observer humans" in lines
    widths = [bar.get_width() for bar in shape_bias.plot_bars(result).patches if bar.get_gid() == "bar"]
    assert widths[0] == result.shape_bias


def test_the_color_map_and_scale_of_a_receptive_field_can_be_chosen() -> None:
    (mesh,) = make_erf().plot(vmin=1e-2, vmax=0.5, cmap="viridis", cbar=False).collections
    assert (mesh.norm.vmin, mesh.norm.vmax, mesh.get_cmap().name) == (1e-2, 0.5, "viridis")


def test_neither_pandas_nor_matplotlib_is_imported_before_it_is_used() -> None:
    modules = [f"replk_probe.{name}.result" for name in MAKERS]
    script = f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\n"
    script += "assert not {'pandas', 'matplotlib', 'seaborn', 'torch'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert all(importlib.import_module(name) for name in modules)


def test_contributions_are_positive_and_finite() -> None:
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="negative or non-finite"):
            make_erf(contribution=np.full((16, 16), value))
