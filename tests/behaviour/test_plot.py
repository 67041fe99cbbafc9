"""The figures show the numbers of the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.behaviour import (
    BENCHMARK_SETS,
    BehaviourResult,
    Trials,
    draw_benchmark,
    draw_contact_sheet,
    draw_sets,
    open_sets,
    plot_benchmark,
    plot_conditions,
    plot_consistency,
)
from replk_probe.behaviour.plot import save_figures
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.provenance import RANDOM_INIT, RunInfo, WeightsInfo

OBSERVERS = ["first", "$second$ \u4e2d", "subject-01", "subject-02", "subject-03"]
NUMBERS = ("accuracy", "accuracy_difference", "observed_consistency", "error_consistency")


@pytest.fixture(scope="module")
def result(random_trials: Callable[..., list[Trials]]) -> BehaviourResult:
    trials = [
        one for name in ("edge", "sketch", "contrast", "rotation") for one in random_trials(OBSERVERS, name, 1, 2)
    ]
    return BehaviourResult.from_trials(trials)


def inside(figure: Figure) -> bool:
    """Whether everything that is drawn is inside the figure, within a hundredth of an inch."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return bool(box.x0 > -0.01 and box.y0 > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01)


@pytest.mark.parametrize("number", NUMBERS)
def test_bars_are_the_numbers(result: BehaviourResult, number: str) -> None:
    ax = plot_benchmark(result, number, random=["first"])
    widths = [patch.get_width() for patch in ax.patches]
    wanted = [getattr(one.scores, number) for one in result.networks] + [getattr(result.people, number)]
    assert widths == pytest.approx(wanted, abs=1e-15)
    assert ax.get_yticklabels()[0].get_text() == "first (RANDOM WEIGHTS)"
    assert inside(ax.figure.canvas.figure)


def test_lines_are_the_accuracies(result: BehaviourResult) -> None:
    ax = plot_conditions(result, "contrast")
    levels = BENCHMARK_SETS["contrast"].levels
    scores = next(one for one in result.sets if one.name == "contrast")
    line = next(line for line in ax.lines if line.get_gid() == "network first")
    network = scores.observer("first")
    assert network is not None
    assert line.get_ydata() == pytest.approx([network.by_condition[level].scores.accuracy for level in levels])
    people = [one for one in scores.observers if one.kind == "human"]
    mean = next(line for line in ax.lines if line.get_gid() == "people")
    wanted = [np.mean([one.by_condition[level].scores.accuracy for one in people]) for level in levels]
    assert mean.get_ydata() == pytest.approx(wanted)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["100", "50", "30", "15", "10", "5", "3", "1"]
    assert sum(patch.get_width() == 1 for patch in ax.patches) == 3  # left out of the benchmark
    assert inside(ax.figure.canvas.figure)


def test_the_matrix_is_that_of_the_pairs(result: BehaviourResult) -> None:
    shown = plot_consistency(result, "edge", "observed_consistency").get_images()[0].get_array()
    assert shown is not None
    wanted = result.sets[0].observed_consistency.copy()
    np.fill_diagonal(wanted, np.nan)
    np.testing.assert_array_equal(shown.filled(np.nan), wanted)
    overall = plot_consistency(result).get_images()[0].get_array()
    assert overall is not None and overall.shape == (2, 2)  # of the networks
    assert overall[0, 1] == pytest.approx(np.mean([one.error_consistency[0, 1] for one in result.sets]))
    assert (np.diagonal(result.sets[0].error_consistency) == 1).all()  # the result is unchanged


def test_observers_without_pairs_are_not_in_the_matrix(random_trials: Callable[..., list[Trials]]) -> None:
    """The published accuracies of people are compared with each other, and with no network."""
    alone = BehaviourResult.from_trials(random_trials(["a"], "edge"))
    labels = [label.get_text() for label in plot_consistency(alone, "edge").get_yticklabels()]
    assert labels == [f"subject-{number:02}" for number in range(1, 11)]


def test_people_have_a_bar_as_wide_as_their_mean(random_trials: Callable[..., list[Trials]]) -> None:
    for names in (("edge",), ("edge", "sketch", "stylized")):
        trials = [one for name in names for one in random_trials(OBSERVERS, name)]
        ax = draw_sets(BehaviourResult.from_trials(trials)).axes[0]
        bars = [patch for patch in ax.patches if patch.get_gid() == "people"]
        means = [line for line in ax.lines if line.get_gid() == "mean of people"]
        assert len(bars) == len(means) == len(names)
        for bar, line in zip(bars, means, strict=True):
            assert np.ptp(line.get_xdata()) == pytest.approx(bar.get_width())
            assert bar.get_y() <= line.get_ydata()[0] <= bar.get_y() + bar.get_height()


def test_models_have_the_name_that_was_given(random_trials: Callable[..., list[Trials]]) -> None:
    trials = random_trials(["net", "subject-01"], "edge")
    run = RunInfo(
        model="torchvision:net", weights=WeightsInfo(RANDOM_INIT, seed=0), image_source="edge", image_ids=(),
        input_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, seed=0, device="cpu", precision="fp32", backend="aten",
        seconds=1.0,
    )  # fmt: skip
    measured = BehaviourResult.from_trials(trials[1:], measured=trials[:1], run=run)
    assert measured.model == "net"
    for random in (["net"], ["torchvision:net"]):
        labels = [label.get_text() for label in plot_benchmark(measured, random=random).get_yticklabels()]
        assert labels == ["torchvision:net (RANDOM WEIGHTS)", "people"]
    assert plot_consistency(measured, "edge").get_yticklabels()[0].get_text() == "torchvision:net"


def test_figures_of_all_sets(result: BehaviourResult) -> None:
    figure = draw_sets(result)
    assert len(figure.axes) == 3  # two sets without conditions share one panel
    assert figure.texts[0].get_text() == "Accuracy on 4 sets"
    assert inside(figure) and inside(draw_benchmark(result))


def test_a_narrow_figure_of_long_names(random_trials: Callable[..., list[Trials]]) -> None:
    names = ["mobilenetv2_k13_rep_noskip", "vit_large_patch14_reg4_dinov2.lvd142m_and_more", "subject-01"]
    figure = draw_sets(BehaviourResult.from_trials(random_trials(names, "edge")), random=names[:2])
    assert figure.texts[0].get_text() == "Accuracy on the set edge" and inside(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("mobile") and labels[0].endswith("noskip (RANDOM WEIGHTS)")
    assert labels[1].startswith("vit_la") and labels[1].endswith(" (RANDOM WEIGHTS)")


def test_networks_without_people(random_trials: Callable[..., list[Trials]], tmp_path: Path) -> None:
    lonely = BehaviourResult.from_trials(random_trials(["a"], "edge"))
    ax = plot_benchmark(lonely, "error_consistency")
    assert any("not known" in text.get_text() for text in ax.texts)
    written = save_figures(lonely, tmp_path)
    assert {path.name for path in written} == {
        f"{stem}.{suffix}" for stem in ("benchmark", "sets", "consistency") for suffix in ("png", "pdf")
    }


def test_a_contact_sheet_shows_decisions(write_set: Callable[..., Path]) -> None:
    root = write_set("edge", 2).parent
    write_set("colour", 1)
    images = open_sets(data=root, allow_partial=True)
    trials = [one.trials("knives", ["knife"] * len(one)) for one in images.sets]
    figure = draw_contact_sheet(images, trials)
    frames = [patch.get_gid() for patch in figure.findobj(lambda one: one.get_gid() in ("correct", "wrong"))]
    assert len(frames) == 16
    assert any("of all 64 decisions are correct" in text.get_text() for text in figure.texts)
    assert [text.get_text() for text in figure.texts].count("colors") == 1  # what the conditions of colour are
    (single,) = (draw_contact_sheet(open_sets("edge", root, allow_partial=True), trials[:1]),)
    frames = [patch.get_gid() for patch in single.findobj(lambda one: one.get_gid() in ("correct", "wrong"))]
    assert len(frames) == 32 and frames.count("correct") == 2
    with pytest.raises(InvalidInputError, match="There is nothing to draw"):
        draw_contact_sheet(images, [])


def test_what_cannot_be_drawn(result: BehaviourResult) -> None:
    with pytest.raises(InvalidInputError, match="no set 'stylized'"):
        plot_conditions(result, "stylized")
    with pytest.raises(InvalidInputError, match="edge cannot be drawn by condition"):
        plot_conditions(result, "edge")
    with pytest.raises(InvalidInputError, match="Unknown number of the benchmark"):
        plot_benchmark(result, "rank")
    with pytest.raises(InvalidInputError, match="type BehaviourResult"):
        draw_sets("result")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="Expected ax"):
        plot_consistency(result, ax="axes")  # type: ignore[arg-type]
    assert isinstance(result.plot(), Axes)
