"""Other positions of the feature map than the middle: rules, maps known on paper, the recentered mean, and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import replk_probe
from replk_probe.erf import ErfAccumulator, ErfConfig, ErfResult, contribution_scores, draw_positions, measure_erf
from replk_probe.erf.measured_positions import Recentering
from replk_probe.erf.plan import plan_erf
from replk_probe.erf.position_rule import parse_position
from replk_probe.erf.result import write_csv
from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.report.erf_table import erf_table

IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def box(stride: int = 4, kernel: int = 5) -> nn.Module:
    """One convolution with weights of one: a position's map is the square of its receptive field."""
    layer = nn.Conv2d(3, 1, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.ones_(layer.weight)
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("center", "center"), ((0, 3), "0,3"), ([np.int64(2), 1], "2,1"), (" 2 , 5", "2,5"), (4, "4"),
        ("grid:3x5", "grid:3x5"), ("grid:3", "grid:3"), ("random:16", "random:16"), ("mean", "mean"),
    ],
)  # fmt: skip
def test_rules_have_one_spelling(given: Any, text: str) -> None:
    assert str(parse_position(given)) == text
    assert ErfConfig(position=given).position == text


@pytest.mark.parametrize(
    "given",
    ["", "middle", "1.5,2", (1.5, 2), "grid:", "grid:0x3", "grid:3x", "random:0", "random", None, True, (), 2.0],
)
def test_an_unknown_position_is_an_error_of_one_line(given: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^Unknown position .*Give for instance grid:3x3\.$"):
        ErfConfig(position=given)


def test_a_grid_includes_the_borders_and_is_even() -> None:
    places = parse_position("grid:3x4").places((7, 10), "layer", 0)
    assert places == tuple((y, x) for y in (0, 3, 6) for x in (0, 3, 6, 9))
    # (6 - 1) / 2 = 2.5 is rounded up; a single row is the one that is measured by default.
    assert parse_position("grid:1x3").places((8, 6), "layer", 0) == ((4, 0), (4, 3), (4, 5))
    assert len(set(parse_position("grid:7x7").places((7, 7), "layer", 0))) == 49


def test_random_positions_follow_from_the_seed() -> None:
    rule = parse_position("random:5")
    places = rule.places((6, 7), "layer", 3)
    assert places == rule.places((6, 7), "layer", 3) == tuple(sorted(set(places))) and len(places) == 5
    assert places != rule.places((6, 7), "layer", 4)
    assert len(parse_position("random:42").places((6, 7), "layer", 0)) == 42


@pytest.mark.parametrize(
    ("position", "says"),
    [
        (
            "8,0",
            r"Position 8,0 is outside the feature map\. The feature map of layer '0' has 8x8 positions.*0,0 to 7,7",
        ),
        ("-1,0", "Position -1,0 is outside"),
        ("3", r"Position '3' has 1 number\..*one number for each of its 2 axes"),
        ("1,2,3", "has 3 numbers"),
        ("grid:9x2", "A grid of 9x2 positions is too large.*at most grid:8x8"),
        ("random:65", "65 different positions cannot be drawn.*at most random:64"),
    ],
)
def test_a_position_outside_the_map_gives_its_size(position: str, says: str) -> None:
    for call in (
        lambda: contribution_scores(box(), IMAGES, "0", position=position),
        lambda: measure_erf(box(), IMAGES, layer="0", position=position),
        lambda: ErfAccumulator(box(), "0", position=position).update(IMAGES),
    ):
        with pytest.raises(InvalidInputError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_maps_of_positions_are_their_receptive_fields() -> None:
    scores = contribution_scores(box(), IMAGES, "0", position="grid:3x3")
    assert scores.shape == (6, 9, 32, 32)
    expected = torch.zeros(9, 32, 32)
    for index, (y, x) in enumerate((y, x) for y in (0, 4, 7) for x in (0, 4, 7)):
        expected[index, max(4 * y - 2, 0) : 4 * y + 3, max(4 * x - 2, 0) : 4 * x + 3] = 3
    assert torch.equal(scores, expected.expand(6, -1, -1, -1))
    assert torch.equal(contribution_scores(box(), IMAGES, "0", position=(7, 0)), scores[:, 6])
    assert torch.equal(contribution_scores(box(), IMAGES, "0", position="4,4"), scores[:, 4])
    # The mean over 64 positions: each pixel is in ceil or floor of 5/4 windows per axis.
    mean = contribution_scores(box(), IMAGES, "0", position="mean")[0]
    along = torch.tensor([sum(abs(4 * p - i) <= 2 for p in range(8)) for i in range(32)], dtype=torch.float32)
    torch.testing.assert_close(mean, torch.outer(along, along) * 3 / 64)


class Reordered(nn.Module):
    """Tokens in another order than that of the image, behind a class token; or a channels-last map."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem = kind, nn.Conv2d(3, 4, 4, 4)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.kind == "last":
            return x.permute(0, 2, 3, 1)
        tokens = x.transpose(2, 3).flatten(2)  # column by column
        tokens = torch.cat([tokens.mean(2, keepdim=True), tokens], 2)
        return tokens if self.kind == "NCL" else tokens.transpose(1, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x) * 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).flatten(1).mean(1)


@pytest.mark.parametrize("kind", ["NLC", "NCL", "last"])
def test_positions_are_those_of_the_image_in_any_layout(kind: str) -> None:
    model = Reordered(kind)
    plain = nn.Sequential(model.stem)
    for position in ((1, 6), "grid:2x3", "mean"):
        found = contribution_scores(model, IMAGES, position=position)
        torch.testing.assert_close(found, contribution_scores(plain, IMAGES, "0", position=position))


def test_several_positions_equal_single_ones_also_in_prepared_copies() -> None:
    model = network()
    several = measure_erf(model, IMAGES, layer="layer3", position="random:4", seed=5)
    assert several.position_maps is not None and len(several.positions) == 4
    for one, own in zip(several.positions, several.position_maps, strict=True):
        single = measure_erf(model, IMAGES, layer="layer3", position=one.place, seed=5)
        np.testing.assert_allclose(own, single.contribution, rtol=1e-5, atol=1e-7 * own.max())
        assert single.positions[0].center == one.center == single.center and single.middle == one.middle
        for row, same in zip(one.ratios, single.ratios, strict=True):
            assert (row.protocol, row.threshold) == (same.protocol, same.threshold)
            assert row.ratio == pytest.approx(same.ratio, abs=2e-3) and row.ci95 is not None


def test_recentering_averages_over_the_positions_that_have_a_pixel() -> None:
    maps = np.arange(8.0).reshape(2, 1, 4)
    recentering = Recentering(((0, 0), (0, 2)), (1, 4))
    # The second map lies two pixels to the right of the first.
    np.testing.assert_array_equal(recentering.mean(maps), [[(0 + 6) / 2, (1 + 7) / 2, 2, 3]])
    np.testing.assert_array_equal(recentering.counts(), [[2, 2, 1, 1]])
    alone = Recentering(((0, -3),), (1, 4))
    np.testing.assert_array_equal(alone.mean(maps[:1]), [[0, 0, 0, 0]])
    assert "No position has 3 pixels, which are zero." in alone.note
    assert not Recentering(((9, 9),), (4, 4)).counts().any()


def test_the_recentered_mean_of_equal_fields_is_that_of_the_middle() -> None:
    result = measure_erf(box(), IMAGES, layer="0", position="grid:3x3")
    middle = measure_erf(box(), IMAGES, layer="0")
    np.testing.assert_array_equal(result.contribution, middle.contribution)
    assert result.ratios == middle.ratios and result.center == middle.center and result.numbers == middle.numbers
    assert result.positions[0].border_distance == 0 and result.positions[4].border_distance == 3
    # A corner of the border has 3 x 3 of 5 x 5 pixels.
    corner = {(row.protocol, row.threshold): row for row in result.positions[0].ratios}
    assert corner["pixels", 0.99].ratio == 9 / 32**2
    assert corner["centred", 0.99].side == corner["linear", 0.99].side == corner["paper", 0.99].side == 3
    assert "4 to 9 of them" in " ".join(result.notes)


def test_the_middle_given_by_its_numbers_is_the_center() -> None:
    model = network()
    result, named = (measure_erf(model, IMAGES, layer="layer3", position=position) for position in ("center", (1, 1)))
    assert result.feature_size == (2, 2) and result.position == "center" and result.positions == ()
    np.testing.assert_array_equal(result.contribution, named.contribution)
    assert (result.ratios, result.numbers, result.center) == (named.ratios, named.numbers, named.center)
    assert "position" not in result.to_json()["erf"] and "position" not in result.run.config
    assert named.to_json()["erf"]["position"] == named.run.config["position"] == "1,1"
    assert set(result._files()) == set(named._files())


def test_windows_move_with_the_position() -> None:
    result = measure_erf(box(), IMAGES, layer="0", position=(2, 6))
    assert result.center == (8, 24) and result.middle == (8, 24)
    for protocol in ("paper", "linear", "centred"):
        assert result.row(protocol, 0.99).side == 5 and result.row(protocol, 0.99).ratio == 25 / 32**2
    assert "Measured at position 2,6 of the feature map instead of its middle 4,4." in " ".join(result.notes)
    mean = measure_erf(box(), IMAGES, layer="0", position="mean")
    assert mean.center == (14, 14) and mean.positions == () and mean.position_maps is None
    assert "cannot be recentered" in " ".join(mean.notes)


@pytest.mark.parametrize("position", ["0,1", "grid:2x2", "mean"])
def test_results_are_saved_and_loaded(position: str, tmp_path: Path) -> None:
    result = measure_erf(network(), IMAGES, layer="layer3", position=position)
    result.save(tmp_path)
    loaded = ErfResult.load(tmp_path)
    assert loaded == result and loaded._files()["erf.npz"] == result._files()["erf.npz"]
    record = json.loads((tmp_path / "erf.json").read_text())["erf"]
    assert record["position"] == position and len(record["positions"]) == {"0,1": 1, "grid:2x2": 4, "mean": 0}[position]
    with np.load(tmp_path / "erf.npz") as arrays:
        assert ("position_maps" in arrays) == (position == "grid:2x2")
    header, *lines = (tmp_path / "erf.csv").read_text().splitlines()
    assert header.endswith(",position")
    assert len(lines) == len(result.ratios) * (5 if position == "grid:2x2" else 1) == len(result.to_dataframe())
    if position == "grid:2x2":
        assert lines[-1].endswith(',"1,1"')
        (tmp_path / "erf.npz").unlink()
        np.savez(tmp_path / "erf.npz", contribution=result.contribution)
        with pytest.raises(InvalidInputError, match="position_maps"):
            ErfResult.load(tmp_path)


def test_a_table_of_several_models_has_one_set_of_columns(tmp_path: Path) -> None:
    model = network()
    write_csv(
        [measure_erf(model, IMAGES, layer="layer3", position=rule) for rule in ("center", "mean")], tmp_path / "all.csv"
    )
    header, *lines = (tmp_path / "all.csv").read_text().splitlines()
    assert header.endswith(",position") and [line.split(",")[-1] for line in lines] == ["center"] * 16 + ["mean"] * 16


def test_an_interrupted_run_is_resumed_with_the_same_bytes(tmp_path: Path) -> None:
    model = network()
    config = ErfConfig(layer="layer3", position="grid:2x2", name="net")
    plan = plan_erf(model, IMAGES, config)
    whole = plan.run()
    first, *rest = plan.parts(3)
    plan.run_part(first, tmp_path / "first")
    for part in rest:
        plan.run_part(part, tmp_path / str(part.start))
    folders = {first: tmp_path / "first"} | {part: tmp_path / str(part.start) for part in rest}
    assert plan.join(folders)._files()["erf.npz"] == whole._files()["erf.npz"]
    with pytest.raises(ResumeError):
        plan_erf(model, IMAGES, ErfConfig(layer="layer3", position="grid:1x2", name="net")).run(
            checkpoint=tmp_path / "first", resume=True
        )
    assert plan.difference(plan_erf(model, IMAGES, ErfConfig(layer="layer3", position="mean", name="net")).run())


def test_the_accumulator_measures_positions() -> None:
    model = network()
    measured = measure_erf(model, IMAGES, layer="layer3", position="random:2", seed=7)
    erf = ErfAccumulator(model, "layer3", position="random:2", seed=7)
    erf.update(IMAGES[:2])
    erf.update(IMAGES[2:])
    result = erf.compute()
    assert [one.place for one in result.positions] == [one.place for one in measured.positions]
    assert result.position_maps is not None and measured.position_maps is not None
    difference = np.linalg.norm(result.position_maps - measured.position_maps)
    assert difference < 1e-3 * np.linalg.norm(measured.position_maps)
    assert result.run.config["position"] == "random:2" and result.run.seed == 7


def test_signed_gradients_of_several_positions() -> None:
    with replk_probe.input_gradient(box(), "0", position="grid:2x2") as gradient:
        assert gradient(IMAGES).shape == (6, 4, 3, 32, 32) and gradient(IMAGES[:0]).shape == (0, 4, 3, 32, 32)
        assert torch.equal(gradient.scores(IMAGES), gradient(IMAGES).clamp_min(0).sum(2))
    spoilt = IMAGES.clone()
    spoilt[1, 0, 0, 0] = float("nan")
    scores = contribution_scores(box(), spoilt, "0", position="grid:2x2")
    assert scores[1].isnan().all() and scores[[0, 2, 3, 4, 5]].isfinite().all()


def test_a_position_without_contribution_has_no_ratios() -> None:
    class HalfDead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.box = box()[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.box(x) * (torch.arange(8.0, device=x.device) > 0)

    result = measure_erf(nn.Sequential(HalfDead()), IMAGES, layer="0", position="grid:1x2")
    assert [len(one.ratios) for one in result.positions] == [0, 16]
    assert "2.44" in erf_table([result])
    draw_positions(result)


@pytest.mark.usefixtures("rendering")
def test_the_table_and_the_figures_name_the_positions(tmp_path: Path) -> None:
    from replk_probe.erf.plot import plot_erf, save_figures

    result = measure_erf(network(), IMAGES, layer="layer3", position="grid:2x2")
    text = erf_table([result])
    assert "position grid:2x2" in text and "'pixels' protocol" in text and "0,1" in text
    figure = draw_positions(result)
    assert [ax.get_title() for ax in figure.axes[:4]] == [f"position {place}" for place in ("0,0", "0,1", "1,0", "1,1")]
    marks = [line.get_xydata()[0] - 0.5 for ax in figure.axes[:4] for line in ax.lines if line.get_gid() == "center"]
    np.testing.assert_allclose(marks, [one.center[::-1] for one in result.positions])
    panel = next(ax for ax in figure.axes if ax.get_title(loc="left") == "'pixels' protocol")
    points = [line.get_xydata() for line in panel.lines if line.get_gid() == "position"]
    expected = [row.ratio for one in result.positions for row in one.ratios if row.protocol == "pixels"]
    assert sorted(np.concatenate(points)[:, 1]) == pytest.approx(sorted(expected))
    assert "position grid:2x2" in " ".join(text.get_text() for text in plot_erf(result).texts)
    names = {path.name for path in save_figures(result, tmp_path)}
    assert names == {"erf.png", "erf.pdf", "erf_positions.png", "erf_positions.pdf"}
    center = measure_erf(network(), IMAGES, layer="layer3")
    with pytest.raises(InvalidInputError, match="There are no positions to draw"):
        draw_positions(center)
    assert "position" not in erf_table([center])


@pytest.mark.parametrize(
    ("position", "panels"), [("random:5", 5), ("random:64", 36), ("grid:8x8", 36), ("grid:1x3", 3)]
)
def test_any_number_of_positions_is_drawn(position: str, panels: int) -> None:
    figure = draw_positions(measure_erf(box(), IMAGES[:1], layer="0", position=position))
    assert sum(ax.get_title().startswith("position") for ax in figure.axes) == panels
    width, height = figure.get_size_inches()
    assert width == 7 and height < 8


def test_the_middle_needs_no_note_and_other_positions_are_in_the_summary() -> None:
    middle = measure_erf(box(), IMAGES, layer="0", position="4,4")
    assert not any("instead of its middle" in note for note in middle.notes)
    corner = measure_erf(box(), IMAGES, layer="0", position="0,0", convention="openerf")
    assert "position='0,0'" in repr(corner) and "convention='openerf'" in repr(corner)
    assert "position" not in repr(measure_erf(box(), IMAGES, layer="0"))
    assert "openerf convention" in corner.to_latex()


def test_positions_at_the_same_distance_are_drawn_by_name() -> None:
    figure = draw_positions(measure_erf(box(), IMAGES[:1], layer="0", position="grid:2x2"))
    panel = next(ax for ax in figure.axes if ax.get_title(loc="left") == "'pixels' protocol")
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0,0", "0,7", "7,0", "7,7"]
    assert not [line for line in panel.lines if line.get_gid() == "mean"]
