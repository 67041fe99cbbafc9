"""Contact sheets of stimuli with decisions: selection, colors and positions."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.plot_stimuli import draw_contact_sheet, save_contact_sheet, spread_over
from replk_probe.shape_bias.stimuli.names import CATEGORIES, parse_stimulus_name
from replk_probe.shape_bias.stimuli.stimulus_set import StimulusSet


def stimulus_set(names, side=32):
    def load(index):
        return Image.new("RGB", (side, side), (index % 256, index // 256, 0))

    stimuli = tuple(parse_stimulus_name(name) for name in sorted(names))
    return StimulusSet("folder:tiny", CATEGORIES, stimuli, (side, side), "0" * 64, load)


CONFLICT = [f"{one}{i}-{other}1.png" for one, other in combinations(CATEGORIES, 2) for i in (1, 2)]
FULL = stimulus_set([*CONFLICT, "cat9-cat8.png"])


def decided(names, answer):
    return Decisions.from_names("net", names, [answer(parse_stimulus_name(name)) for name in names])


def pictures(figure):
    return {ax.get_gid(): ax for ax in figure.axes}


def texts(figure, gid):
    return [text for text in figure.texts if text.get_gid() == gid]


def frames(figure):
    return [patch for patch in figure.patches + figure.artists if (patch.get_gid() or "").startswith("frame")]


def test_frames_and_labels_show_the_decision():
    names = ["cat1-dog1.png", "cat2-dog1.png", "cat3-dog1.png", "cat4-dog1.png", "cat5-cat1.png"]
    decisions = Decisions.from_names("net", names, ["cat", "dog", "oven", "na", "cat"])
    figure = draw_contact_sheet(stimulus_set(names), decisions)
    assert list(pictures(figure)) == names[:4]  # the one without a conflict is not shown
    assert [frame.get_gid() for frame in frames(figure)] == [
        "frame shape",
        "frame texture",
        "frame neither",
        "frame neither",
    ]
    shown = texts(figure, "decision")
    assert [text.get_text() for text in shown] == ["cat", "dog", "oven", "no answer"]
    colors = [text.get_color() for text in shown]
    assert len(set(colors)) == 3 and colors[2] == colors[3]
    assert [text.get_text() for text in texts(figure, "cue")] == ["shape cat", "texture dog"] * 4
    assert [text.get_text() for text in texts(figure, "legend")] == ["shape: 1", "texture: 1", "neither: 2"]


def test_each_picture_is_that_of_its_stimulus():
    decisions = decided([stimulus.name for stimulus in FULL.stimuli], lambda stimulus: stimulus.shape)
    figure = draw_contact_sheet(FULL, decisions, count=20)
    index = {stimulus.name: i for i, stimulus in enumerate(FULL.stimuli)}
    for name, ax in pictures(figure).items():
        (image,) = ax.images
        assert np.asarray(image.get_array())[0, 0].tolist() == [index[name] % 256, index[name] // 256, 0]


@pytest.mark.parametrize("count", [1, 8, 16, 48, 100, 10_000])
def test_the_sheet_is_spread_over_the_categories(count):
    decisions = decided([stimulus.name for stimulus in FULL.stimuli], lambda stimulus: stimulus.texture)
    names = list(pictures(draw_contact_sheet(FULL, decisions, count=count))) if count <= 48 else []
    if names:
        shapes = Counter(parse_stimulus_name(name).shape for name in names)
        assert len(names) == len(set(names)) == count and len(shapes) == min(count, 15)
    groups = [list(range(100 * i, 100 * i + size)) for i, size in enumerate((75, 75, 3, 0, 75))]
    chosen = spread_over(groups, count)
    assert len(chosen) == len(set(chosen)) == min(count, 228) and chosen == sorted(chosen)
    taken = [sum(member in group for member in chosen) for group in groups]
    assert max(taken) - min(t for t, group in zip(taken, groups, strict=True) if t < len(group) or t == 75) <= 1


def test_stimuli_can_be_named():
    names = [stimulus.name for stimulus in FULL.stimuli]
    decisions = decided(names, lambda stimulus: "oven")
    wanted = ["oven1-truck1.png", "bear2-boat1.png"]
    assert list(pictures(draw_contact_sheet(FULL, decisions, names=wanted))) == wanted
    with pytest.raises(InvalidInputError, match=r"'cat9-cat8\.png'"):
        draw_contact_sheet(FULL, decisions, names=["cat9-cat8.png"])
    with pytest.raises(InvalidInputError, match="sheet of 0"):
        draw_contact_sheet(FULL, decisions, count=0)


def test_human_names_are_paired_with_the_stimuli():
    names = ["0001_s5n_s01_0_cat_00_cat1-dog1.png", "0002_s5n_s01_0_cat_00_cat2-dog1.png"]
    decisions = Decisions.from_names("subject-01", names, ["cat", "dog"])
    figure = draw_contact_sheet(stimulus_set(["cat1-dog1.png", "cat2-dog1.png", "cat3-dog1.png"]), decisions)
    assert list(pictures(figure)) == ["cat1-dog1.png", "cat2-dog1.png"]
    with pytest.raises(InvalidInputError, match=r"'subject-01' has no decision on any"):
        draw_contact_sheet(stimulus_set(["bear1-dog1.png"]), decisions)


@pytest.mark.parametrize("weights", [None, "small model trained on synthetic data [0123abcd]"])
def test_nothing_is_cut_off_or_on_top_of_something_else(weights):
    names = [stimulus.name for stimulus in FULL.stimuli]
    decisions = decided(names, lambda stimulus: "elephant").renamed("replknet31b_" + "long_" * 30)
    figure = draw_contact_sheet(FULL, decisions, random=weights is None, weights=weights)
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_text()]
    found = [text.get_window_extent() for text in shown] + [ax.get_window_extent() for ax in figure.axes]
    for box in found:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for one, other in combinations(found, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 0.5 or along <= 0.5
    assert figure.get_figwidth() <= 7.0
    assert [text.get_text() for text in texts(figure, "random weights")] == ["RANDOM WEIGHTS"] * (weights is None)
    assert [text.get_text() for text in texts(figure, "weights")] == [weights] * (weights is not None)


def test_large_pictures_are_drawn_smaller():
    figure = draw_contact_sheet(
        stimulus_set(["cat1-dog1.png"], 900), Decisions.from_names("net", ["cat1-dog1.png"], ["cat"])
    )
    (image,) = figure.axes[0].images
    assert image.get_array().shape == (225, 225, 3)


def test_files_are_written_and_their_bytes_repeat(tmp_path):
    names = [stimulus.name for stimulus in FULL.stimuli]
    decisions = decided(names, lambda stimulus: stimulus.shape)
    for folder in ("first", "second"):
        written = save_contact_sheet(FULL, decisions, tmp_path / folder, count=8)
    assert [path.name for path in written] == ["contact_sheet.png", "contact_sheet.pdf"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes()
