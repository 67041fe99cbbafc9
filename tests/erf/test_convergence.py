"""Area ratios against the number of images, measurements that end by themselves, and maps that fill the image."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

from replk_probe.erf import ErfConfig, ErfResult, area_ratios, draw_convergence, erf_numbers, measure_erf
from replk_probe.erf.accumulator import BlockSums, RunState, capacity_of
from replk_probe.erf.area_protocols import saturation_note
from replk_probe.erf.convergence import Convergence, Criterion, convergence_of, next_check
from replk_probe.erf.jackknife import Blocks, jackknife
from replk_probe.erf.plan import plan_erf
from replk_probe.erf.plot_series import has_convergence, save_convergence
from replk_probe.errors import InvalidInputError

Run = Callable[..., Result]


class Scaled(nn.Module):
    """The gradient depends on the image: the deviation of the map shrinks with the number of images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 5, stride=2, padding=2)
        self.second = nn.Conv2d(4, 4, 5, padding=2)
        self.calls = 0
        self.stop_at: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            if self.calls == self.stop_at:
                raise KeyboardInterrupt
            self.calls += 1
        return self.second(torch.tanh(self.first(x)))


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_every_point_is_the_result_of_the_first_images() -> None:
    model, batch = Scaled().eval(), images(20)
    limited = {"border_share", "effective_area", "radial_area", "peak_y", "peak_x", "threshold_radius"}
    whole = measure_erf(model, batch, layer="second", thresholds=[0.3, 0.9])
    curve = whole.convergence
    assert curve is not None and curve.n_images == (1, 2, 3, 4, 6, 8, 10, 12, 16, 20)
    assert curve.until is curve.converged is None
    for index, count in enumerate(curve.n_images):
        part = measure_erf(model, batch[:count], layer="second", thresholds=[0.3, 0.9])
        for row, one in zip(part.ratios, curve.ratios, strict=True):
            assert (row.protocol, row.threshold) == (one.protocol, one.threshold)
            assert one.values[index] == pytest.approx(row.ratio, rel=1e-9)
            half = one.half_widths[index]
            if row.ci95 is None:
                assert half is None
            else:
                ends = max(row.ratio - half, 0), min(row.ratio + half, 1)  # type: ignore[operator]
                assert ends == pytest.approx(row.ci95, rel=1e-6, abs=1e-9)
        assert part.numbers is not None
        named = {(name, None): found for name, found in part.numbers.named().items()}
        named |= {("threshold_radius", at): (radius, ends) for at, radius, ends in part.numbers.radii()}
        assert {*named} == {(number.name, number.threshold) for number in curve.numbers}
        for number in curve.numbers:
            value, interval = named[number.name, number.threshold]
            expected = None if math.isnan(value) else pytest.approx(value, rel=1e-6, abs=1e-6)
            assert number.values[index] == expected, number.name
            half = number.half_widths[index]
            if number.name.startswith("gaussian") and count < 20:
                assert half is None
            elif interval is None or half is None:
                assert interval is half is None, number.name
            else:  # the interval is limited to possible values
                low, high = (end - value for end in interval)
                assert (-low, high) <= (half * (1 + 1e-6) + 1e-9,) * 2
                assert max(-low, high) == pytest.approx(half, rel=1e-6, abs=1e-9) or number.name in limited


def test_blocks_of_several_images_are_whole_and_equal_maps_have_no_width() -> None:
    one = np.exp(-((np.arange(9) - 4.0) ** 2))
    same = np.stack([count * np.outer(one, one) for count in (2, 0, 3, 2)])
    found = convergence_of(same, [2, 0, 3, 2], (0.5,), (4, 4), Criterion(0.5))
    assert found.n_images == (2, 5, 7)
    assert all(curve.half_widths[0] is None and max(curve.half_widths[1:]) < 1e-12 for curve in found.ratios)  # type: ignore[type-var]
    assert len({curve.values for curve in found.ratios if curve.protocol == "pixels"}) == 1
    assert found.converged is False  # three blocks are too few
    for curve in found.numbers:
        assert len({round(value, 9) for value in curve.values if value is not None}) == 1, curve.name
        assert curve.half_widths[0] is None
        is_fit = curve.name.startswith("gaussian")
        assert (curve.half_widths[1] is None) == is_fit and curve.half_widths[2] == pytest.approx(0, abs=1e-6)
    ten = convergence_of(np.stack([np.outer(one, one)] * 10), [1] * 10, (0.5,), (4, 4), Criterion(0.5))
    assert ten.converged is True


def test_the_record_is_saved_and_loaded(tmp_path: Path) -> None:
    result = measure_erf(Scaled().eval(), images(6), layer="second", thresholds=[0.5])
    result.save(tmp_path)
    record = json.loads((tmp_path / "erf.json").read_text())["erf"]["convergence"]
    assert record["n_images"] == [1, 2, 3, 4, 6] and record["until"] is None and record["converged"] is None
    assert [set(one) for one in record["ratios"]] == [{"protocol", "threshold", "values", "half_widths"}] * 4
    assert ErfResult.load(tmp_path) == result
    with pytest.raises(InvalidInputError, match="has 1 values"):
        Convergence((1, 2), (dataclasses.replace(result.convergence.ratios[0], values=(0.5,)),))  # type: ignore[union-attr]


@pytest.mark.parametrize("until", [0, -0.1, float("nan"), 1, 2.0, float("inf"), "much", True])
def test_a_relative_half_width_lies_between_zero_and_one(until: Any) -> None:
    with pytest.raises(InvalidInputError, match="The option until cannot be"):
        ErfConfig(until=until)


def test_checks_are_at_whole_blocks() -> None:
    checks = [next_check(0)]
    while checks[-1] < 200:
        checks.append(next_check(checks[-1]))
    assert checks[:14] == [10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64]
    for done in checks:
        per_block = capacity_of(done) // 20
        assert done % per_block == 0 and 10 <= done // per_block <= 20


def relative_width(model: nn.Module, batch: Tensor, thresholds: list[float]) -> float:
    result = measure_erf(model, batch, layer="second", thresholds=thresholds)
    assert result.convergence is not None
    # By hand, over single images.
    widths = []
    for curve in result.convergence.ratios:
        if curve.protocol in ("centred", "pixels"):
            widths.append(curve.half_widths[-1] / curve.values[-1])  # type: ignore[operator]
    return max(widths)


def test_a_measurement_ends_at_the_first_check_that_suffices() -> None:
    model, batch, thresholds = Scaled().eval(), images(200), [0.3, 0.5]
    widths = {count: relative_width(model, batch[:count], thresholds) for count in (10, 12, 14, 16, 18, 20)}
    until = widths[16] * 1.0001
    expected = next(count for count, width in widths.items() if width <= until)
    result = measure_erf(model, batch, layer="second", thresholds=thresholds, until=until)
    assert result.n_images == expected == len(result.run.image_ids)
    assert result.convergence is not None and result.convergence.converged is True
    assert result.convergence.until == until == result.run.config["until"]
    assert not any("converged" in note for note in result.notes)
    plain = measure_erf(model, batch[:expected], layer="second", thresholds=thresholds)
    np.testing.assert_allclose(result.contribution, plain.contribution, rtol=1e-12)
    # The size of the batches does not matter.
    batches = measure_erf(model, batch, layer="second", thresholds=thresholds, until=until, batch_size=7)
    assert batches.n_images == expected
    np.testing.assert_allclose(batches.contribution, result.contribution, rtol=1e-5)


def test_blocks_grow_with_the_number_of_images() -> None:
    model, batch = Scaled().eval(), images(90)
    width = relative_width(model, batch[:20], [0.5])
    result = measure_erf(model, batch, layer="second", thresholds=[0.5], until=width / 1.6)
    assert result.convergence is not None and result.convergence.converged
    assert result.n_images is not None and 20 < result.n_images < 90
    assert result.convergence.n_images[0] == capacity_of(result.n_images) // 20
    assert result.convergence.n_images[-1] == result.n_images


def test_a_result_that_has_not_converged_says_so(replk_probe: Run, tmp_path: Path) -> None:
    result = measure_erf(Scaled().eval(), images(15), layer="second", thresholds=[0.5], until=1e-4)
    assert result.n_images == 15 and result.convergence is not None and result.convergence.converged is False
    (note,) = (note for note in result.notes if "converged" in note)
    assert note.startswith("Not converged: with all 15 images, the relative half-width of '")
    few = measure_erf(Scaled().eval(), images(4), layer="second", thresholds=[0.5], until=0.5)
    assert any(note.startswith("Not converged: 4 images are too few") for note in few.notes)
    done = replk_probe(
        "erf", "--model", "replknet_micro_k13", "--images", 3, "--size", 32, "--until", "0.01", "-o", tmp_path
    )
    assert done.exit_code == 0 and "note: Not converged: 3 images are too few" in done.stdout, done.output
    assert json.loads((tmp_path / "erf.json").read_text())["erf"]["convergence"]["converged"] is False
    for text in ("0", "-1", "nan", "1"):
        bad = replk_probe("erf", "--model", "replknet_micro_k13", "--until", text, "-o", tmp_path / "none")
        assert bad.exit_code == 1 and bad.stderr.count("\n") == 1 and "The option until cannot be" in bad.stderr


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[dict[str, Any], ErfResult]:
    """Options of a measurement that ends after more than 20 images, and its result."""
    width = relative_width(Scaled().eval(), images(20), [0.5])
    options: dict[str, Any] = dict(layer="second", thresholds=[0.5], until=width / 1.7, batch_size=1)
    return options, measure_erf(Scaled().eval(), images(80), **options)


@pytest.mark.parametrize("stop_at", [5, 15, 23])
def test_an_interrupted_measurement_ends_at_the_same_image(
    stop_at: int, uninterrupted: tuple[dict[str, Any], ErfResult], tmp_path: Path
) -> None:
    batch = images(80)
    options, whole = uninterrupted
    assert whole.n_images is not None and whole.n_images > 20
    model = Scaled().eval()
    torch.manual_seed(0)
    model.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        # Some calls are those of the preparation.
        measure_erf(model, batch, checkpoint=tmp_path, **options)
    resumed = measure_erf(Scaled().eval(), batch, checkpoint=tmp_path, resume=True, **options)
    assert resumed == whole and (resumed.contribution == whole.contribution).all()
    # The state of a measurement that has ended gives the result again.
    assert measure_erf(Scaled().eval(), batch, checkpoint=tmp_path, resume=True, **options) == whole


def test_a_grown_state_is_restored() -> None:
    state = RunState(BlockSums(20, (2, 2)), grows=True)
    for index in range(45):
        state.add(str(index), np.full((2, 2), float(index)))
    assert state.sums.n_images == 80 and state.sums.counts == [4] * 11 + [1] + [0] * 8
    assert state.sums.mean()[0, 0] == 22


def test_a_measurement_of_unknown_length_is_not_divided() -> None:
    plan = plan_erf(Scaled().eval(), images(30), ErfConfig(until=0.1, layer="second"))
    assert plan.parts(1) == [range(30)]
    with pytest.raises(InvalidInputError, match="cannot be divided into 2 parts"):
        plan.parts(2)


def test_the_criterion_names_the_widest_ratio() -> None:
    generator = np.random.default_rng(0)
    sums = generator.random((12, 8, 8)) ** 4
    intervals = jackknife(sums, [1] * 12, (0.2, 0.5), (4, 4))
    ratios = area_ratios(sums.mean(axis=0), (0.2, 0.5), center=(4, 4))
    blocks = Blocks(sums, [1] * 12)
    widths = {
        key: (intervals[key][1] - intervals[key][0]) / 2 / ratios[key].ratio  # type: ignore[index]
        for key in ratios
        if key[0] in ("centred", "pixels")
    }
    largest = max(widths.values())
    assert Criterion(largest * 1.001).is_met(blocks, (0.2, 0.5), (4, 4))
    assert not Criterion(largest * 0.999).is_met(blocks, (0.2, 0.5), (4, 4))
    chosen = widths["pixels", 0.5]
    assert chosen < largest
    for names in (("pixels@0.5",), ("pixels@0.5", "pixels@0.50")):
        assert Criterion(chosen * 1.001, names).is_met(blocks, (0.2, 0.5), (4, 4))
        assert Criterion(chosen, names).widest(blocks, (0.2, 0.5), (4, 4)) == (("pixels", 0.5), pytest.approx(chosen))
    assert not Criterion(chosen * 0.999, ("pixels@0.5",)).is_met(blocks, (0.2, 0.5), (4, 4))


def test_the_windows_of_a_criterion_are_those_of_the_position() -> None:
    sums = np.random.default_rng(0).random((12, 9, 9)) ** 4
    moved = Criterion(0.5, ("linear",)).widest(Blocks(sums, [1] * 12), (0.5,), (2, 2), (2, 2))
    blocks = Blocks(sums, [1] * 12)
    ratio = area_ratios(blocks.mean, (0.5,), ("linear",), (2, 2), (2, 2))["linear", 0.5].ratio
    interval = jackknife(sums, [1] * 12, (0.5,), (2, 2), ("linear",), middle=(2, 2))["linear", 0.5]
    assert interval is not None and moved[1] == pytest.approx((interval[1] - interval[0]) / 2 / ratio, rel=1e-6)
    assert moved != Criterion(0.5, ("linear",)).widest(blocks, (0.5,), (2, 2))


def test_the_ratios_of_the_criterion_can_be_chosen(replk_probe: Run, tmp_path: Path) -> None:
    model, batch = Scaled().eval(), images(30)
    widths: dict[tuple[str, float], float] = {}
    whole = measure_erf(model, batch[:12], layer="second", thresholds=[0.3, 0.9])
    for curve in whole.convergence.ratios:  # type: ignore[union-attr]
        widths[curve.protocol, curve.threshold] = curve.half_widths[-1] / curve.values[-1]  # type: ignore[operator]
    name, threshold = min(widths, key=lambda key: widths[key])
    until = widths[name, threshold] * 1.001
    options: dict[str, Any] = dict(layer="second", thresholds=[0.3, 0.9], until=until)
    result = measure_erf(model, batch, **options, until_ratios=[f"{name}@{threshold}"])
    assert result.n_images is not None and result.n_images <= 12
    assert result.convergence is not None and result.convergence.criterion == (f"{name}@{threshold}",)
    assert result.run.config["until_ratios"] == [f"{name}@{threshold}"]
    result.save(tmp_path)
    assert ErfResult.load(tmp_path) == result
    plain = measure_erf(model, batch, **options)
    assert plain.n_images is not None and plain.n_images > result.n_images and "until_ratios" not in plain.run.config
    arguments = "erf", "--model", "replknet_micro_k13", "--images", 3, "--size", 32, "-o", tmp_path / "none"
    for text in ("pixel", "pixels@0.4", "pixels@", "", "pixels@x", "centred,"):
        bad = replk_probe(*arguments, "--until", "0.1", "--until-ratios", text)
        assert bad.exit_code == 1 and bad.stderr.count("\n") == 1 and "until_ratios cannot contain" in bad.stderr
    bad = replk_probe(*arguments, "--until-ratios", "pixels")
    assert bad.exit_code == 1 and "needs the option until" in bad.stderr
    for given in (5, None, [3], ()):
        with pytest.raises(InvalidInputError, match="until_ratios cannot contain"):
            ErfConfig(until=0.1, until_ratios=given)  # type: ignore[arg-type]


def test_the_figure(tmp_path: Path) -> None:
    result = measure_erf(Scaled().eval(), images(6), layer="second")
    figure = draw_convergence(result)
    left, right = figure.axes
    assert ("centred" in left.get_ylabel()) and ("pixels" in right.get_ylabel())
    (line, *_) = right.lines
    assert list(line.get_xdata()) == [1, 2, 3, 4, 6]
    assert [path.name for path in save_convergence(result, tmp_path)] == ["erf_convergence.png", "erf_convergence.pdf"]
    numbers = draw_convergence(result, ["effective_area", "threshold_radius", "gaussian_sigma_x"])
    labels = [ax.get_ylabel() for ax in numbers.axes]
    assert labels == ["Effective area, %", "Radius, px", "Gaussian, sigma x, px"]
    assert [len(ax.lines) for ax in numbers.axes] == [1, 4, 1]
    with pytest.raises(InvalidInputError, match=r"has no convergence of 'area'\. Choose from paper, .*effective_area"):
        draw_convergence(result, ["area"])
    few = measure_erf(Scaled().eval(), images(3), layer="second")
    assert not has_convergence(few) and save_convergence(few, tmp_path) == ()
    with pytest.raises(InvalidInputError, match="has no convergence to draw"):
        draw_convergence(few)


def test_maps_that_the_image_limits() -> None:
    def note(scores: np.ndarray) -> str | None:
        center = (scores.shape[0] // 2, scores.shape[1] // 2)
        return saturation_note(scores, center, erf_numbers(scores).border_share)

    small = np.zeros((21, 21))
    small[8:13, 8:13] = 1
    assert note(small) is None
    assert note(np.ones((20, 30))) is None or "border" not in str(note(np.ones((20, 30))))
    assert note(np.ones((4, 4)) * 3) is None or "border" not in str(note(np.ones((4, 4)) * 3))
    rim = np.full((21, 21), 0.1)
    rim[0] = rim[-1] = rim[:, 0] = rim[:, -1] = 1
    assert "more than half of it is needed for 50 %" in str(note(rim)) and "its border ring" in str(note(rim))
    ring_only = small * 100
    ring_only[0] = 30
    assert "border ring" in str(note(ring_only)) and "half" not in str(note(ring_only))
