"""Differences between results: their values, intervals and significance, refusals, the table and the figure."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replk_probe.behaviour.result import BehaviourResult
from replk_probe.behaviour.trials import Trials
from replk_probe.bench.result import Layer, Machine, SpeedCase, SpeedResult, Timing
from replk_probe.comparison import compare_folders, compare_results, draw_differences
from replk_probe.erf.convergence import Convergence, RatioCurve
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.errors import InvalidInputError
from replk_probe.kernels.kernel import Kernel
from replk_probe.kernels.result import KernelResult, KernelRun
from replk_probe.reliance.result import RelianceResult
from replk_probe.reliance.suppressions import parse_suppressions
from replk_probe.report.differences_table import differences_table
from replk_probe.results import Result as AnyResult
from replk_probe.runtime.provenance import RANDOM_INIT, RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.result import ShapeBiasResult

NAMES = ("bear1-cat1.png", "bear2-bear1.png", "cat10-bear1.png", "cat2-dog3.png", "dog1-bear3.png", "dog2-cat4.png")


def make_run(model: str, **changes: object) -> RunInfo:
    run = RunInfo(
        model=model, weights=WeightsInfo("file:net.pth"), image_source="folder:val", image_ids=("a.jpg", "b.jpg"),
        input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, seed=0, device="cpu", precision="fp32", backend="aten",
        seconds=1.0, versions={},
    )  # fmt: skip
    return replace(run, **changes)  # type: ignore[arg-type]


def make_erf(
    model: str, ratio: float, ci95: tuple[float, float] | None, half: float | None = None, **changes: object
) -> ErfResult:
    curves = (RatioCurve("paper", 0.5, (ratio,), (half,)),)
    fields: dict[str, object] = {
        "contribution": np.ones((16, 16)), "run": make_run(model), "n_images": 2, "n_skipped": 0,
        "input_size": (16, 16), "layer": "layer4", "feature_size": (2, 2), "center": (8.0, 8.0),
        "center_source": "stride rule", "theoretical_rf": None, "ratios": (RatioRow("paper", 0.5, 3, ratio, ci95),),
        "convergence": None if half is None else Convergence((2,), curves),
    }  # fmt: skip
    return ErfResult(**(fields | changes))  # type: ignore[arg-type]


def make_shape_bias(model: str, answers: str) -> ShapeBiasResult:
    words = {"b": "bear", "c": "cat", "d": "dog", "o": "oven"}
    decisions = Decisions.from_names(model, NAMES, [words[one] for one in answers])
    return ShapeBiasResult.from_decisions(decisions, run=make_run(model))


def make_reliance(model: str, seed: int, **changes: object) -> RelianceResult:
    """Decisions of which more are right without a suppression, on 40 images of four classes."""
    random, targets = np.random.default_rng(seed), np.arange(40, dtype=np.int32) % 4
    decisions = np.where(random.random((4, 40)) < [[0.9], [0.6], [0.4], [0.5]], targets, (targets + 1) % 4)
    fields: dict[str, object] = {
        "pictures": np.zeros((4, 16, 16, 3), np.uint8), "label_space": "own", "classes": tuple("abcd"),
        "run": make_run(model, image_ids=tuple(map(str, range(40)))),
    }  # fmt: skip
    names = ("patch-shuffle:4", "patch-shuffle:8", "grayscale")
    return RelianceResult.from_decisions(
        decisions.astype(np.int32), targets, parse_suppressions(names), **(fields | changes)
    )


def make_behaviour(model: str, seed: int, sets: tuple[str, ...] = ("edge",)) -> BehaviourResult:
    random, names = np.random.default_rng(seed), [f"{one}{n}.png" for one in ("cat", "dog") for n in range(10)]
    answers = ["cat"] * 10 + ["dog"] * 10
    measured = [
        Trials.from_names(model, name, names, [("cat", "dog")[k] for k in random.integers(2, size=20)], answers)
        for name in sets
    ]
    return BehaviourResult.from_trials([], measured=measured, run=make_run(model))


def make_kernels(model: str, seed: int, aggregate: str = "sum") -> KernelResult:
    values = np.random.default_rng(seed).random((7, 7))
    run = KernelRun(model, WeightsInfo("file:net.pth"), ("all",), "merged", aggregate, 1.0, {})
    return KernelResult((Kernel("stage1.0", "m", "merged", values, 8, zero_fraction=0.0),), run)


def make_speed(seconds: float) -> SpeedResult:
    cases = (
        SpeedCase(Layer(1, 8, 9, 9, 3, 3), "forward", (Timing("module", seconds, None, 9),), "fft", None, (8, 8), 1),
    )
    return SpeedResult(cases, Machine(f"CPU {seconds}", 2, (0.1, 0.2), None, None, None, "AVX2", {}), "float32", 9)


def test_intervals_of_maps_are_added_in_quadrature() -> None:
    found = compare_results(make_erf("a", 0.5, (0.47, 0.53)), make_erf("b", 0.4, (0.36, 0.44)))
    (one,) = found.differences
    assert (one.group, one.name, one.first, one.second) == ("paper", "50 %", 0.5, 0.4)
    assert one.difference == pytest.approx(0.1) and one.ci95 == pytest.approx((0.05, 0.15))
    assert one.is_significant and found.n_significant == found.n_with_interval == 1
    other = compare_results(make_erf("b", 0.4, (0.36, 0.44)), make_erf("a", 0.43, (0.40, 0.46))).differences[0]
    assert other.ci95 == pytest.approx((-0.08, 0.02)) and other.is_significant is False
    without = compare_results(make_erf("b", 0.4, None), make_erf("a", 0.43, (0.40, 0.46))).differences[0]
    assert (without.ci95, without.is_significant) == (None, None)


def test_clipped_intervals_count_with_their_whole_width() -> None:
    second = make_erf("b", 0.5, (0.46, 0.54))
    assert compare_results(make_erf("a", 0.98, (0.95, 1.0)), second).differences[0].ci95 == pytest.approx((0.43, 0.53))
    known = compare_results(make_erf("a", 0.98, (0.95, 1.0), half=0.03), second).differences[0]
    assert known.ci95 == pytest.approx((0.43, 0.53))
    both = make_erf("a", 0.5, (0.0, 1.0), half=0.8)
    interval = compare_results(both, second).differences[0].ci95
    assert interval == pytest.approx((-math.hypot(0.8, 0.04), math.hypot(0.8, 0.04)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_size": (8, 8), "contribution": np.ones((8, 8))}, "differ in their input size: 16 px and 8 px"),
        ({"run": make_run("b", config={"convention": {"name": "openerf"}})}, "convention: replknet and openerf"),
        ({"run": make_run("b", config={"attribution": {"name": "occlusion"}})}, "attribution: gradient and occlusion"),
        ({"run": make_run("b", config={"target": "logit:3"})}, "target: features and logit:3"),
        ({"position": "mean"}, "position: center and mean"),
        ({"ratios": (RatioRow("pixels", 0.5, 3, 0.1),)}, "have no number in common"),
        ({"ratios": (RatioRow("paper", 0.2, 3, 0.1),)}, "have no number in common"),
    ],
)
def test_other_measurements_are_not_compared(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        compare_results(make_erf("a", 0.5, None), make_erf("b", 0.4, None, **changes))
    assert "\n" not in str(caught.value)


def test_other_conditions_are_noted() -> None:
    run = make_run("b", weights=WeightsInfo(RANDOM_INIT, seed=1), image_ids=("a.jpg",), seed=3, precision="bf16")
    notes = compare_results(make_erf("a", 0.5, None), make_erf("b", 0.4, None, run=run, layer="layer3")).notes
    assert notes == (
        "Random weights: b. The interval covers the choice of images, not that of the weights.",
        "The layer differs: layer4 and layer3.",
        "The number of images differs: 2 and 1.",
        "The seed differs: 0 and 3.",
        "The precision differs: fp32 and bf16.",
    )
    run = make_run("b", image_ids=("a.jpg", "c.jpg"))
    assert compare_results(make_erf("a", 0.5, None), make_erf("b", 0.4, None, run=run)).notes == (
        "The images are not the same.",
    )


def test_shape_biases_are_compared_in_pairs() -> None:
    found = compare_results(make_shape_bias("a", "bbccdd"), make_shape_bias("a", "cbbdbc"))
    bias, accuracy, *categories = found.differences
    assert (found.first, found.second) == ("a #1", "a #2")
    assert (bias.first, bias.second, bias.difference, bias.ci95) == (1.0, 0.0, 1.0, (1.0, 1.0))
    assert accuracy.difference == 0 and accuracy.ci95 is not None and accuracy.ci95[0] < 0 < accuracy.ci95[1]
    assert [one.name for one in categories] == ["bear", "cat", "dog"]
    assert "5 of 5 decisions for opposite cues (5 / 0), McNemar's exact p = 0.062" in found.notes[0]


def test_newcombes_interval() -> None:
    # Newcombe (1998), Table II, first example by method 10: 56/70 - 48/80 = 0.2, 0.0524 to 0.3339.
    from replk_probe.comparison.differences import _share_difference

    (one,) = _share_difference("all", "x", (56, 70), (48, 80))
    assert one.ci95 is not None and [round(end, 4) for end in one.ci95] == [0.0524, 0.3339]


def test_shape_biases_without_common_stimuli_are_not_compared() -> None:
    first = make_shape_bias("a", "bbccdd")
    other = Decisions.from_names("b", ["oven1-cat9.png"], ["oven"])
    with pytest.raises(InvalidInputError, match="no stimulus with a cue conflict in common"):
        compare_results(first, ShapeBiasResult.from_decisions(other))
    with pytest.raises(InvalidInputError, match="imported observers only"):
        compare_results(first, ShapeBiasResult.from_decisions(observers=[other]))
    few = replace(other, categories=("cat", "oven"))
    with pytest.raises(InvalidInputError, match="differ in their categories"):
        compare_results(first, ShapeBiasResult.from_decisions(few))


def test_kernels_and_times_have_no_intervals() -> None:
    first, second = make_kernels("a", 0), make_kernels("b", 1)
    found = compare_results(first, second)
    assert [one.name for one in found.differences] == ["center 3x3", "skeleton", "zeros"]
    values = first.kernels[0].center3x3_share, second.kernels[0].center3x3_share
    assert found.differences[0].difference == values[0] - values[1] and found.n_with_interval == 0
    with pytest.raises(InvalidInputError, match="aggregate: sum and mean"):
        compare_results(first, make_kernels("b", 1, "mean"))
    (time,) = compare_results(make_speed(1e-3), make_speed(3e-3)).differences
    assert (time.unit, time.difference, time.is_significant) == ("ms", -2.0, None)
    with pytest.raises(InvalidInputError, match="KernelResult and SpeedResult"):
        compare_results(first, make_speed(1.0))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make_erf("<b>$x$", 0.5, (0.47, 0.53)), make_erf("b" * 90, 0.4, (0.36, 0.44))),
        (make_shape_bias("a", "bbccdd"), make_shape_bias("b", "cbbdbc")),
        (make_kernels("a", 0), make_kernels("b", 1)),
        (make_speed(1e-3), make_speed(3e-3)),
    ],
)
def test_the_table_and_the_figure_show_every_difference(first: AnyResult, second: AnyResult) -> None:
    found = compare_results(first, second)
    text = differences_table(found)
    for one in found.differences:
        assert one.group in text and one.name in text
    axes = draw_differences(found).axes
    assert sum(len(ax.get_yticks()) for ax in axes) == len(found.differences)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [float(row["difference"]) for row in rows] == [one.difference for one in found.differences]
    assert [row["significant"] for row in rows] == [
        {True: "true", False: "false", None: ""}[one.is_significant] for one in found.differences
    ]


def test_reliance_is_compared_image_by_image() -> None:
    first, second = make_reliance("a", 0), make_reliance("b", 1)
    found = {(one.group, one.name): one for one in compare_results(first, second).differences}
    assert len(found) == 1 + 2 + 3
    accuracy = found["all", "accuracy"]
    assert accuracy.difference == first.accuracy - second.accuracy
    # The percentiles of sums of independent samples of the paired differences: those of the bootstrap by hand.
    paired = (first.decisions[0] == first.targets) * 1.0 - (second.decisions[0] == second.targets)
    deviation = paired.std() / math.sqrt(len(paired))
    assert accuracy.ci95 is not None
    assert accuracy.ci95[1] - accuracy.ci95[0] == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    for cue in first.profile:
        other = next(one for one in second.profile if one.cues == cue.cues)
        assert cue.relative_accuracy is not None and other.relative_accuracy is not None
        difference = found["relative accuracy without a cue", cue.cues].difference
        assert difference == pytest.approx(cue.relative_accuracy - other.relative_accuracy, abs=1e-15)
    # The same decisions of both have no difference in any sample.
    assert all(one.ci95 == (0, 0) for one in compare_results(first, first).differences)
    with pytest.raises(InvalidInputError, match="measured on different images"):
        compare_results(first, make_reliance("b", 1, run=make_run("b")))


def test_behaviour_is_compared_image_by_image() -> None:
    first, second = make_behaviour("a", 0, ("edge", "sketch")), make_behaviour("b", 1, ("edge", "sketch"))
    found = compare_results(first, second)
    rows = {(one.group, one.name): one for one in found.differences}
    assert [*rows] == [(group, "accuracy") for group in ("all", "edge", "sketch")]
    assert rows["all", "accuracy"].difference == pytest.approx(first.scores().accuracy - second.scores().accuracy)
    edge = rows["edge", "accuracy"]
    paired = first.trials[0].correct * 1.0 - second.trials[0].correct
    assert edge.difference == pytest.approx(paired.mean()) and edge.ci95 is not None
    assert edge.ci95[1] - edge.ci95[0] == pytest.approx(2 * 1.96 * paired.std() / math.sqrt(20), rel=0.15)
    assert all(one.ci95 == (0, 0) for one in compare_results(first, first).differences)
    part = compare_results(first, make_behaviour("b", 1))
    assert "Left out, since not both have all of their images: sketch." in part.notes
    with pytest.raises(InvalidInputError, match="no set with the same images in common"):
        compare_results(make_behaviour("a", 0, ("sketch",)), second=make_behaviour("b", 0))


def test_equal_results_are_not_different() -> None:
    one = make_erf("a", 0.5, (0.47, 0.53))
    found = compare_results(one, one)
    assert found.differences[0].difference == 0 and not found.differences[0].is_significant
    assert (found.first, found.second) == ("a #1", "a #2")
    with pytest.raises(InvalidInputError, match="no difference to draw"):
        draw_differences(replace(found, differences=()))


def test_folders_are_compared_by_model(tmp_path: Path) -> None:
    for side, ratio in (("left", 0.5), ("right", 0.4)):
        for model in ("a", "b"):
            make_erf(model, ratio, None).save(tmp_path / side / model)
    found = compare_folders(tmp_path / "left", tmp_path / "right")
    assert [(one.first, one.second) for one in found] == [("a #1", "a #2"), ("b #1", "b #2")]
    make_erf("c", 0.1, None).save(tmp_path / "other" / "c")
    with pytest.raises(InvalidInputError, match="2 and 1 results of erf, and no model that occurs once in each"):
        compare_folders(tmp_path / "left", tmp_path / "other")
    make_speed(1.0).save(tmp_path / "bench")
    with pytest.raises(InvalidInputError, match="first has results of bench, the second of erf"):
        compare_folders(tmp_path / "bench", tmp_path / "other")
    (tmp_path / "other" / "c" / "erf.npz").write_bytes(b"")
    make_erf("d", 0.1, None).save(tmp_path / "other" / "d")
    with pytest.raises(InvalidInputError, match=r"erf\.npz"):
        compare_folders(tmp_path / "left", tmp_path / "other")
