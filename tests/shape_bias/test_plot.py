"""Figures of shape bias: numbers, limits, labels and places, not pixels."""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations, pairwise

import matplotlib
import matplotlib.colors as mcolors
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import fitted_lines
from replk_probe.runtime.provenance import HeadInfo, RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.observers import Observer
from replk_probe.shape_bias.plot import draw_observers, draw_shape_bias, save_figures
from replk_probe.shape_bias.plot_categories import category_axes
from replk_probe.shape_bias.plot_comparison import draw_comparison, save_comparison
from replk_probe.shape_bias.plot_icons import _ICONS, has_icon
from replk_probe.shape_bias.plot_overall import bar_axes, figures_of
from replk_probe.shape_bias.plot_style import arranged, fitted_labels, styles_of
from replk_probe.shape_bias.published import published_observers
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.statistics import CueCounts
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.synthetic import SYNTHETIC_CATEGORIES

TRAINED = WeightsInfo("file:model.safetensors", sha256="0123456789abcdef")
RANDOM = WeightsInfo("random-init", seed=0)
ABSTRACT = tuple(f"shape {chr(97 + index)}" for index in range(16))

# Five conflict stimuli of cats (two followed the shape) and one of bears (neither cue).
NAMES = ("cat1-dog1.png", "cat2-dog2.png", "cat3-car1.png", "cat4-oven1.png", "cat5-truck1.png", "bear1-car2.png")
ANSWERS = ("cat", "dog", "cat", "oven", "truck", "bird")


def observer(name="net", kind="model", shape=None, texture=None, categories=CATEGORIES, source="measured"):
    shape = tuple(range(1, 17)) if shape is None else shape
    texture = tuple(16 - s for s in shape) if texture is None else texture
    other = tuple(75 - s - t for s, t in zip(shape, texture, strict=True))
    return Observer.from_counts(name, kind, CueCounts(categories, shape, texture, other), source=source)


def run_info(model, weights=TRAINED):
    return RunInfo(
        model=model,
        weights=weights,
        image_source="cue-conflict",
        image_ids=NAMES,
        input_size=(224, 256),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        seed=0,
        device="cpu",
        precision="fp32",
        backend="torch",
        seconds=1.0,
    )


def result(name="net", weights=TRAINED, observers=()):
    decisions = Decisions.from_names(name, NAMES, ANSWERS)
    run = run_info(f"torchvision:{name}", weights)
    return ShapeBiasResult.from_decisions(decisions, run=run, observers=observers, source="import:folder")


@pytest.fixture(scope="module")
def field() -> tuple[Observer, ...]:
    """Pooled humans, ten humans, four networks."""
    return published_observers()


def artists(ax, gid):
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def markers(ax, label):
    (line,) = artists(ax, f"observer {label}")
    return np.column_stack(line.get_data())


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def boxes(figure) -> list[Bbox]:
    """Where text was drawn."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    # Tick labels beyond the limits are there but not drawn.
    found = [text.get_window_extent() for text in texts]
    return [box for box in found if box.width and box.height]


def assert_tidy(figure) -> None:
    """No text is cut off at the border or overlaps another."""
    found = boxes(figure)
    for box in found:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for one, other in combinations(found, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 0.5 or along <= 0.5, (one, other)


def test_every_observer_has_a_marker_at_its_fraction_in_every_category():
    one = observer()
    ax = category_axes([one])
    drawn = markers(ax, "net")
    assert drawn[:, 0].tolist() == [one.counts.overall, *one.counts.by_category]
    assert drawn[:, 1].tolist() == list(range(17))
    assert ax.get_xlim() == (0, 1) and ax.get_ylim() == (16.5, -0.5)


def test_the_axis_on_top_is_the_fraction_of_texture_decisions():
    ax = category_axes([observer()])
    (top,) = ax.child_axes
    ax.figure.draw_without_rendering()
    assert ax.get_xlabel() == "Shape decisions, %" and top.get_xlabel() == "Texture decisions, %"
    places = [
        {text.get_text(): sum(text.get_window_extent().intervalx) / 2 for text in one.get_xticklabels()}
        for one in (ax, top)
    ]
    for label, place in places[0].items():
        assert place == pytest.approx(ax.transData.transform((float(label) / 100, 0))[0], abs=1)
        assert places[1][f"{100 - float(label):g}"] == pytest.approx(place, abs=1)
    assert list(places[0]) == ["0", "25", "50", "75", "100"]


@pytest.mark.parametrize(
    ("shape", "texture", "limits"),
    [(74, 1, (0.9, 1)), (3, 72, (0, 0.1)), (75, 0, (0.9, 1)), (60, 15, (0, 1)), (0, 0, (0, 1))],
)
def test_the_axis_covers_a_tenth_that_contains_all_fractions(shape, texture, limits):
    ax = category_axes([observer(shape=(shape,) * 16, texture=(texture,) * 16)])
    ax.figure.draw_without_rendering()
    (top,) = ax.child_axes
    assert ax.get_xlim() == pytest.approx(limits)
    shown, reverse = ([float(text.get_text()) for text in one.get_xticklabels()] for one in (ax, top))
    assert shown == pytest.approx(100 * np.linspace(*limits, 5))
    assert sorted(reverse) == pytest.approx(100 - np.array(shown[::-1]))
    assert ("The axis covers only" in words(ax.figure).replace("\n", " ")) == (limits != (0, 1))
    assert_tidy(ax.figure)


def test_all_decisions_are_shown_where_there_is_space(field):
    one = observer("net", shape=(74,) * 16, texture=(1,) * 16)
    two = observer("other", shape=(30,) * 16, texture=(15,) * 16)
    figure = draw_observers([one, two])
    places, bars, decisions = figure.axes
    parts = [artists(decisions, kind) for kind in ("shape", "texture", "neither")]
    for index, counts in enumerate((one.counts, two.counts)):
        expected = [number / counts.n_conflict for number in (counts.n_shape, counts.n_texture, counts.n_other)]
        assert [part[index].get_width() for part in parts] == pytest.approx(expected)
        assert parts[2][index].get_x() + parts[2][index].get_width() == pytest.approx(1)
    counts = [one.counts.n_shape, two.counts.n_shape, two.counts.n_texture, two.counts.n_other]
    assert [text.get_text() for text in artists(decisions, "count")] == list(map(str, counts))
    samples = [artist.get_gid() for artist in decisions.get_children() if "sample" in (artist.get_gid() or "")]
    assert samples == ["sample net", "sample other"]
    # The panels fill a rectangle.
    frames = [ax.get_position() for ax in (places, bars, decisions)]
    assert frames[0].y1 == pytest.approx(frames[1].y1) and frames[0].y0 == pytest.approx(frames[2].y0)
    assert (frames[1].x0, frames[1].x1) == pytest.approx((frames[2].x0, frames[2].x1))
    assert_tidy(figure)
    places, bars = draw_observers(field).axes
    frames = [ax.get_position() for ax in (places, bars)]
    assert (frames[0].y0, frames[0].y1) == pytest.approx((frames[1].y0, frames[1].y1))


def test_every_synthetic_category_has_the_icon_of_its_shape():
    ax = category_axes([observer(categories=SYNTHETIC_CATEGORIES)])
    for name in SYNTHETIC_CATEGORIES:
        (icon,) = artists(ax, f"icon {name}")
        box = icon.get_path().get_extents()
        assert 40 < max(box.width, box.height) <= 101 and 0 <= box.x0 and box.x1 <= 100
    # The ring has a hole.
    ring, disc = (artists(ax, f"icon {name}")[0].get_path() for name in ("ring", "disc"))
    assert [list(path.codes).count(path.MOVETO) for path in (ring, disc)] == [2, 1]


def test_lines_are_drawn_at_the_micro_average():
    one = observer(shape=(60, *[0] * 15), texture=(0, *[2] * 15))
    assert one.counts.overall == 60 / 90 and one.counts.macro == 1 / 16
    ax = category_axes([one])
    (line,) = artists(ax, "average net")
    assert list(line.get_xdata()) == [60 / 90] * 2 and max(line.get_ydata()) == 16.5
    assert "micro-average" in words(ax.figure)


def test_individual_humans_have_ticks_and_a_line_only_without_pooled_humans(field):
    ax = category_axes(field)
    assert len(artists(ax, "average Humans (10)")) == 1
    assert not artists(ax, "average subject-01") and len(artists(ax, "observer subject-01")) == 1
    assert "10 individual humans" in words(ax.figure) and "subject-01" not in words(ax.figure)
    alone = category_axes([one for one in field if one.name == "subject-01"])
    assert len(artists(alone, "average subject-01")) == 1 and "subject-01" in words(alone.figure)


def test_a_category_without_decisions_for_a_cue_has_no_marker():
    one = observer(shape=(0, *range(1, 16)), texture=(0, *[5] * 15))
    ax = category_axes([one])
    assert 1.0 not in markers(ax, "net")[:, 1] and len(markers(ax, "net")) == 16
    assert "A missing marker" in words(ax.figure).replace("\n", " ")
    assert "A missing marker" not in words(category_axes([observer()]).figure)


def test_an_observer_that_never_followed_a_cue_is_undefined():
    never = observer("never", shape=(0,) * 16, texture=(0,) * 16)
    ax = category_axes([never])
    assert len(markers(ax, "never")) == 0 and not artists(ax, "average never")
    ax = bar_axes([never])
    assert [text.get_text() for text in artists(ax, "figures")] == ["undefined"]
    assert not artists(ax, "bar") and not artists(ax, "interval")


def test_observers_that_agree_do_not_hide_each_other():
    networks = [observer(f"net{index}") for index in range(5)]
    ax = category_axes([*networks, observer("humans", "humans")])
    rows = [markers(ax, one.name)[0, 1] for one in networks] + [markers(ax, "humans")[0, 1]]
    assert sorted(set(rows)) == sorted(rows) and max(map(abs, rows)) < 0.5
    assert rows.index(min(rows)) == 5 and rows[:5] == sorted(rows[:5])


def test_categories_are_labeled_in_their_order_and_the_sixteen_have_pictures():
    ax = category_axes([observer()])
    labels = artists(ax, "category")
    assert [text.get_text() for text in labels] == ["all stimuli", *CATEGORIES]
    ax.figure.draw_without_rendering()
    heights = [text.get_window_extent().y0 for text in labels]
    assert heights == sorted(heights, reverse=True)
    for row, (category, label) in enumerate(zip(CATEGORIES, labels[1:], strict=True), 1):
        picture = Bbox.union([patch.get_window_extent() for patch in artists(ax, f"icon {category}")])
        middle = ax.transData.transform((0, row))[1]
        assert abs((picture.y0 + picture.y1) / 2 - middle) < 0.1 * picture.width + 2
        assert label.get_window_extent().x1 < picture.x0 and picture.x1 < ax.bbox.x0
    plain = category_axes([observer(categories=ABSTRACT)])
    assert [text.get_text() for text in artists(plain, "category")] == ["all stimuli", *ABSTRACT]
    assert not [artist for artist in plain.get_children() if (artist.get_gid() or "").startswith("icon")]


def test_there_is_a_picture_for_each_of_the_sixteen_within_its_square():
    assert tuple(_ICONS) == CATEGORIES
    assert has_icon("cat") and not has_icon("spiral")
    ax = category_axes([observer()], Figure(figsize=(5, 5)).add_subplot())
    for category in CATEGORIES:
        picture = Bbox.union([patch.get_window_extent() for patch in artists(ax, f"icon {category}")])
        side = 11.5 / 72 * ax.figure.dpi
        assert 0.5 * side < max(picture.width, picture.height) < 1.08 * side


def test_bars_and_intervals_are_those_of_the_observers(field):
    ax = bar_axes(field)
    shown = arranged(field)
    assert [bar.get_width() for bar in artists(ax, "bar")] == [one.counts.overall for one in shown]
    assert [tuple(line.get_xdata()) for line in artists(ax, "interval")] == [one.ci95 for one in shown]
    bars = [bar.get_y() + bar.get_height() / 2 for bar in artists(ax, "bar")]
    assert [line.get_ydata()[0] for line in artists(ax, "interval")] == pytest.approx(bars)
    assert [round(bar) for bar in bars] == list(range(15))
    assert ax.get_xlim() == (0, 1) and ax.get_ylim() == (14.5, -0.5)
    assert artists(ax, "figures")[0].get_text() == "42.9 % [39.2, 46.8]"
    assert artists(ax, "figures")[4].get_text().startswith("95.9 % [")
    assert "Wilson; humans: bootstrap over 10 observers" in words(ax.figure).replace("\n", " ")


def test_models_come_before_humans_in_the_order_given(field):
    names = [one.name for one in arranged([*field, observer("mine")])]
    assert names[:6] == ["alexnet", "googlenet", "resnet50", "vgg", "mine", "humans"]
    assert names[6:] == [f"subject-{number:02d}" for number in range(1, 11)]


def test_models_differ_in_color_or_marker():
    found = styles_of([observer(f"net{index}") for index in range(60)])
    assert len({(style.color, style.marker) for style in found}) == 60
    # Whatever the colors style like to a reader, neighbors differ in the marker as well.
    assert all(one.marker != other.marker for one, other in pairwise(found))
    assert "D" not in {style.marker for style in found}  # that of the humans


def test_colors_differ_in_lightness_or_for_every_kind_of_color_blindness():
    # Machado et al. 2009, severity 1: protanopia, deuteranopia, tritanopia, on linear RGB.
    kinds = (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    )
    found = styles_of([observer(f"net{index}") for index in range(5)])
    colors = np.array([mcolors.to_rgb(style.color) for style in found]) ** 2.2
    for kind in kinds:
        seen = np.clip(colors @ np.array(kind).T, 0, 1) ** (1 / 2.2)
        assert min(np.abs(one - other).max() for one, other in combinations(seen, 2)) > 0.1


def test_random_weights_are_hollow_and_badged():
    trained, untrained = observer("trained"), observer("untrained")
    for ax in (category_axes([trained, untrained], random=[untrained]), bar_axes([trained], random=[trained])):
        (badge,) = artists(ax, "random weights")
        assert badge.get_text() == "RANDOM WEIGHTS"
    ax = category_axes([trained, untrained], random=[untrained])
    faces = [artists(ax, f"observer {name}")[0].get_markerfacecolor() for name in ("trained", "untrained")]
    assert faces[1] == "white" != faces[0]
    assert not artists(bar_axes([trained, untrained]), "random weights")
    # An equal observer that is another one is not meant.
    assert not artists(bar_axes([trained], random=[observer("trained")]), "random weights")


def test_observers_of_the_same_name_are_distinguished(field):
    mine, imported = observer("resnet50"), observer("resnet50", source="import:folder")
    assert [style.label for style in styles_of([mine, imported])] == ["resnet50 (this run)", "resnet50 (import)"]
    published = next(one for one in field if one.name == "resnet50")
    assert [style.label for style in styles_of([mine, published])] == ["resnet50", "ResNet-50"]


def test_labels_that_are_too_long_stay_different():
    long = [f"{'a' * 40}{index}{'b' * 40}" for index in range(3)]
    labels = fitted_labels([*long, "short"], 100.0, 6.5)
    assert len(set(labels)) == 4 and labels[3] == "short"


def test_lines_are_broken_only_between_words():
    lines = fitted_lines("with its 95\u00a0% interval " * 5, 60.0, 6.0)
    assert len(lines) > 3 and all("95\u00a0%" in line or "%" not in line for line in lines)
    assert " ".join(lines).split() == ("with its 95\u00a0% interval " * 5).split()


@pytest.mark.parametrize("which", ["one", "few", "field", "abstract", "many"])
def test_text_is_neither_cut_off_nor_on_other_text(field, which):
    mine = observer("mobilenetv2_k13_rep_noskip")
    shown = {
        "one": [mine],
        "few": [mine, *(one for one in field if one.kind != "human")],
        "field": [mine, *field],
        "abstract": [observer("a", categories=ABSTRACT), observer("b", categories=ABSTRACT)],
        "many": [observer(f"vit_large_patch14_reg4_dinov2.lvd142m_{index}") for index in range(20)],
    }[which]
    for figure in (
        category_axes(shown, random=shown[:1]).figure,
        bar_axes(shown, random=shown[:1]).figure,
        draw_observers(shown, random=shown[:1], heading=["Shape bias of a model", "Weights"]),
    ):
        assert_tidy(figure)


def test_a_page_is_as_wide_as_a_page_and_a_single_plot_as_a_column(field):
    assert draw_observers(field).get_size_inches()[0] == 7.0
    assert category_axes(field).figure.get_size_inches()[0] == 3.4 == bar_axes(field).figure.get_size_inches()[0]


def test_the_page_names_model_weights_stimuli_and_source():
    text = words(draw_shape_bias(result(), others=published_observers())).replace("\n", " ")
    for part in (
        "Shape bias of torchvision:net",
        "weights from model.safetensors",
        "6 stimuli with a cue conflict, cue-conflict, 224\u00d7256 px",
        "Humans (10)",
        "Published observers decided on the 1200 published stimuli with a cue conflict. Source: Geirhos et al.,",
        "arXiv:1811.12231",
    ):
        assert part in text
    assert "RANDOM" not in text
    assert words(draw_shape_bias(result(weights=RANDOM))).count("RANDOM WEIGHTS") == 1  # at the bar
    assert "arXiv" not in words(draw_shape_bias(result()))


def test_a_head_is_named_beside_its_model_and_in_the_heading():
    head = HeadInfo("linear", "file:probe.safetensors", "ab" * 32, 16)
    known = WeightsInfo("timm:vit", "cd" * 32, head=head)
    text = words(draw_shape_bias(result(weights=known))).replace("\n", " ")
    assert "net, linear head" in text and "timm:vit, linear head from probe.safetensors" in text
    assert "[cdcdcdcd]" not in text and "[abababab]" not in text
    random = result("other", dataclasses.replace(RANDOM, head=head))
    text = words(draw_comparison([result(weights=known), random])).replace("\n", " ")
    assert "other, linear head" in text and text.count("Linear head from probe.safetensors") == 1
    assert text.count("RANDOM") == 1


def test_the_page_of_imported_decisions_names_their_source():
    decisions = Decisions.from_names("subject-01", NAMES, ANSWERS)
    figure = draw_shape_bias(ShapeBiasResult.from_decisions(observers=[decisions], source="import:folder"))
    assert "import:folder" in words(figure) and "humans" in words(figure)


def test_others_that_were_imported_as_well_are_shown_once():
    imported = [Decisions.from_names(name, NAMES, ANSWERS) for name in ("vgg", "subject-01", "net", "torchvision:net")]
    figure = draw_shape_bias(result(observers=imported), others=published_observers())
    names = [text.get_text() for text in artists(figure.axes[1], "name")]
    assert names.count("vgg") == 1 and "VGG-16 (Caffe)" not in names and "AlexNet (Caffe)" in names
    assert names.count("humans") == 1 and "Humans (10)" not in names
    assert names[:2] == ["torchvision:net (this run)", "vgg"] and {"net", "torchvision:net (import)"} <= {*names}


def test_both_panels_show_the_same_numbers(field):
    figure = draw_observers(field)
    left, right = figure.axes
    bars = {text.get_text(): bar for text, bar in zip(artists(right, "name"), artists(right, "bar"), strict=True)}
    for label, bar in bars.items():
        assert markers(left, label)[0, 0] == bar.get_width()


def test_several_models_are_compared_with_the_other_observers():
    imported = [Decisions.from_names("subject-01", NAMES, ANSWERS)]
    results = [result("one", observers=imported), result("two", RANDOM, observers=imported)]
    figure = draw_comparison(results, others=published_observers())
    names = [text.get_text() for text in artists(figure.axes[1], "name")]
    assert names[:3] == ["torchvision:one", "torchvision:two", "AlexNet (Caffe)"] and names.count("subject-01") == 1
    text = words(figure)
    assert "Shape bias of 2 models" in text and text.count("RANDOM") == 1
    assert "6 stimuli with a cue conflict, cue-conflict" in text
    badges = artists(figure.axes[1], "random weights")
    assert len(badges) == 1
    with pytest.raises(InvalidInputError, match="There is no model to compare"):
        draw_comparison([ShapeBiasResult.from_decisions(observers=imported)])


def test_names_are_never_read_as_formulas():
    figure = draw_observers([observer("a$_{x$b")], heading=["a$_{x$b"])
    figure.draw_without_rendering()
    assert words(figure).count("a$_{x$b") == 2  # heading and bars


def test_an_axes_of_the_caller_is_used():
    left, right = Figure(figsize=(8, 4)).subplots(1, 2)
    assert category_axes([observer()], left) is left and bar_axes([observer()], right) is right
    assert len(left.figure.axes) == 2


def test_shares_are_in_percent():
    assert figures_of(observer(shape=(1, *[0] * 15), texture=(2, *[0] * 15))) == "33.3 % [6.1, 79.2]"
    assert math.isnan(observer(shape=(0,) * 16, texture=(0,) * 16).counts.overall)


def test_what_cannot_be_drawn_is_one_clear_error():
    with pytest.raises(InvalidInputError, match="nothing to draw"):
        category_axes([])
    with pytest.raises(InvalidInputError, match=r"'a' and 'b'.*categories differ"):
        bar_axes([observer("a"), observer("b", categories=ABSTRACT)])


@pytest.mark.no_cover
def test_files_are_written_and_their_bytes_repeat(tmp_path):
    for folder in ("first", "second"):
        written = save_figures(result(weights=RANDOM), tmp_path / folder, others=published_observers())
        written += save_comparison([result(), result("two")], tmp_path / folder)
        assert [path.name for path in written] == [
            "shape_bias.png",
            "shape_bias.pdf",
            "comparison.png",
            "comparison.pdf",
        ]
    for path in written:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")
        assert content == (tmp_path / "first" / path.name).read_bytes()
        # Letters are letters, not outlines.
        assert path.suffix == ".png" or (b"/FontFile2" in content and b"/Type3" not in content)


def test_nothing_global_is_changed():
    before = dict(matplotlib.rcParams)
    draw_observers([observer()])
    assert dict(matplotlib.rcParams) == before


def test_the_inputs_are_left_as_they_are():
    one = observer()
    copy = dataclasses.replace(one)
    draw_observers([one])
    assert one == copy
