"""Inputs of one and of three axes: layouts, maps known on paper, ratios of length and volume, files and figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

from replk_probe.erf import (
    ErfAccumulator,
    ErfResult,
    area_ratio,
    area_ratios,
    contribution_scores,
    draw_positions,
    draw_volume,
    erf_numbers,
    input_gradient,
    measure_erf,
    plot_erf,
    prepare,
)
from replk_probe.erf.plot import save_figures
from replk_probe.erf.probe_layer import find_target
from replk_probe.erf.result import write_csv
from replk_probe.errors import InvalidInputError
from replk_probe.report.erf_numbers_table import erf_numbers_table
from replk_probe.report.erf_table import erf_table

GENERATOR = torch.Generator().manual_seed(3)
SEQUENCES = torch.rand(4, 2, 64, generator=GENERATOR)
VOLUMES = torch.rand(3, 1, 8, 24, 20, generator=GENERATOR)


def sequence_network(pool: nn.Module | None = None) -> nn.Module:
    """Two convolutions and a pooling in between, with weights of one: the map is a convolution of boxes."""
    model = nn.Sequential(
        nn.Conv1d(2, 1, 5, 2, 2, bias=False), nn.AvgPool1d(2), nn.Conv1d(1, 1, 3, 1, 1, bias=False),
        pool or nn.AdaptiveAvgPool1d(1), nn.Flatten(),
    )  # fmt: skip
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d):
            nn.init.ones_(layer.weight)
    return model


def volume_network() -> nn.Module:
    layer = nn.Conv3d(1, 1, 3, (2, 4, 4), 1, bias=False)
    nn.init.ones_(layer.weight)
    return nn.Sequential(layer, nn.AdaptiveAvgPool3d(1), nn.Flatten())


def test_the_map_of_a_sequence_is_known_on_paper() -> None:
    target = find_target(sequence_network(), SEQUENCES.shape)
    assert (target.label, str(target.layout), target.layout.size) == ("2", "[N, C, l]", (16,))
    # Strides 2 and 2: position i starts at 4 i - 2 after the pool (6 samples) and at 4 (i - 1) - 2 after the second.
    expected = np.zeros(64)
    for second in (-1, 0, 1):
        for pooled in (0, 1):
            start = 2 * (2 * (8 + second) + pooled) - 2
            expected[start : start + 5] += 2 / 2  # two channels, mean of two
    scores = contribution_scores(sequence_network(), SEQUENCES)
    np.testing.assert_allclose(scores.numpy(), np.broadcast_to(expected, (4, 64)), rtol=1e-6)
    support = np.flatnonzero(expected)
    assert target.center()[0] == ((support[0] + support[-1]) / 2,)
    result = measure_erf(sequence_network(), SEQUENCES)
    np.testing.assert_allclose(result.contribution, expected, rtol=1e-6)
    assert result.input_size == (64,) and result.feature_size == (16,)
    assert result.theoretical_rf == len(support) and result.center_source == "receptive field"
    assert result.numbers is not None and result.numbers.gaussian is None
    positions = np.arange(64)
    mass = (expected * positions).sum() / expected.sum()
    deviation = math.sqrt((expected * (positions - mass) ** 2).sum() / expected.sum())
    assert result.numbers.center_of_mass == pytest.approx((mass,), rel=1e-6)
    assert result.numbers.standard_deviation == pytest.approx((deviation,), rel=1e-6)
    assert result.numbers.center_offset == pytest.approx((0,), abs=1e-6) and result.numbers.border_share == 0


@pytest.mark.parametrize("position", ["center", "3", (15,), "grid:3", "random:4", "mean"])
def test_positions_of_a_sequence(position: Any) -> None:
    scores = contribution_scores(sequence_network(), SEQUENCES, position=position)
    result = measure_erf(sequence_network(), SEQUENCES, position=position)
    if isinstance(position, str) and position.startswith(("grid", "random")):
        np.testing.assert_allclose(result.position_maps, scores[0].numpy(), rtol=1e-6)
        assert result.contribution.argmax() == measure_erf(sequence_network(), SEQUENCES).contribution.argmax()
        with pytest.raises(InvalidInputError, match=r"There are no positions to draw for .* images only\."):
            draw_positions(result)
    else:
        np.testing.assert_allclose(result.contribution, scores[0].numpy(), rtol=1e-6)


def test_the_map_of_a_volume_is_known_on_paper() -> None:
    target = find_target(volume_network(), VOLUMES.shape)
    assert (str(target.layout), target.layout.size) == ("[N, C, d, h, w]", (4, 6, 5))
    expected = np.zeros((8, 24, 20))
    expected[3:6, 11:14, 7:10] = 1
    assert target.center() == ((4, 12, 8), True, None)
    result = measure_erf(volume_network(), VOLUMES)
    np.testing.assert_array_equal(result.contribution, expected)
    assert result.ratio_name == "volume ratio"
    # 27 of 3840 voxels; the middle of the input is (4, 12, 10).
    assert result.row("pixels", 0.99).side == pytest.approx(3) and result.row("pixels", 0.99).ratio == 27 / 3840
    assert (result.row("centred", 0.99).side, result.row("centred", 0.99).ratio) == (3, 27 / 3840)
    # Half-width 3 from column 10 reaches column 7: 7 x 7 x 7.
    assert (result.row("linear", 0.99).side, result.row("linear", 0.99).ratio) == (7, 343 / 3840)
    assert result.numbers is not None and result.numbers.peak == (3, 11, 7)
    assert result.numbers.standard_deviation == pytest.approx((math.sqrt(2 / 3),) * 3)
    assert result.numbers.effective_area == pytest.approx(27 / 3840)
    scores = contribution_scores(volume_network(), VOLUMES, position="grid:2x2x1")
    assert scores.shape == (3, 4, 8, 24, 20) and scores[0, 0].sum() == 2 * 2 * 3


@pytest.mark.parametrize("kind", ["last", "tokens", "tokens first", "reordered"])
def test_layouts_of_volumes_and_sequences(kind: str) -> None:
    class Other(nn.Module):
        def __init__(self, stem: nn.Module) -> None:
            super().__init__()
            self.stem = stem

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            if kind == "last":
                return x.movedim(1, -1) * 1.0
            x = x.flatten(2)
            if kind == "reordered":
                x = x.flip(2)
            x = torch.cat([torch.zeros(x.shape[0], x.shape[1], 1), x], 2)  # a class token
            return x * 1.0 if kind == "tokens first" else x.transpose(1, 2) * 1.0

    for stem, inputs, place in (
        (volume_network()[0], VOLUMES, (1, 4, 2)),
        (nn.Conv1d(2, 3, 4, 4), SEQUENCES, (11,)),
    ):
        found = contribution_scores(nn.Sequential(Other(stem)), inputs, "0", position=place)
        torch.testing.assert_close(found, contribution_scores(nn.Sequential(stem), inputs, "0", position=place))


def test_protocols_of_one_and_three_axes() -> None:
    curve = np.array([0, 1, 2, 4, 2, 1, 0, 0.0])
    # Around sample 4: 3 samples hold 7 of 10, 5 samples 10 of 10.
    assert area_ratio(curve, 0.5, "linear") == (3, 3 / 8)
    assert area_ratio(curve, 0.75, "linear") == (5, 5 / 8)
    assert area_ratio(curve, 0.5, "centred", (3,)) == (3, 3 / 8)
    assert area_ratio(curve, 0.7, "pixels") == (3, 3 / 8)
    assert area_ratio(curve, 0.5, "paper").side == 3
    # An axis of one element changes nothing but the script's own formula of the area.
    plane = np.random.default_rng(0).random((9, 9))
    flat, deep = area_ratios(plane), area_ratios(plane[None])
    for key, (side, ratio) in flat.items():
        assert deep[key].ratio == pytest.approx(ratio)
        assert deep[key].side == pytest.approx(side if key[0] != "pixels" else side ** (2 / 3))
    # A uniform cube: the box of side 2 k + 1 holds its share of the volume.
    assert area_ratio(np.ones((9, 9, 9)), 0.2, "linear") == (7, 343 / 729)
    for scores, axes in ((curve, 1), (np.ones((3, 4, 5)), 3)):
        numbers = erf_numbers(scores)
        assert len(numbers.center_of_mass) == len(numbers.peak) == axes and numbers.gaussian is None
        assert numbers.standard_deviation_ratio is None
    assert erf_numbers(np.ones((3, 4, 5))).border_share == pytest.approx(1 - 1 * 2 * 3 / 60)
    assert erf_numbers(np.ones(8)).border_share == pytest.approx(2 / 8)
    with pytest.raises(InvalidInputError, match="1 x 9 x 9 pixels"):
        area_ratio(plane[None], 0.5, "centred", (4, 4))


@pytest.mark.parametrize("axes", [1, 3])
def test_results_are_saved_and_loaded(axes: int, tmp_path: Path) -> None:
    model, inputs = (sequence_network(), SEQUENCES) if axes == 1 else (volume_network(), VOLUMES)
    for position in ("center", "grid:2"):
        result = measure_erf(model, inputs, position=position)
        result.save(tmp_path)
        assert ErfResult.load(tmp_path) == result
        record = json.loads((tmp_path / "erf.json").read_text())
        assert record["erf"]["input_size"] == record["run"]["input_size"] == list(inputs.shape[2:])
        assert all(row.ci95 is not None for row in result.ratios)
        frame = result.to_dataframe()
        assert list(frame.columns) == (tmp_path / "erf.csv").read_text().split("\n")[0].split(",")
        assert ("center_of_mass_z" in frame) == ("input_depth" in frame) == (axes == 3)
        assert frame["input_height"].isna().all() == (axes == 1) and frame["gaussian_sigma_x"].isna().all()
        assert f"{result.ratio_name}, paper" in result.to_latex() and "nan" not in result.to_latex().lower()
        text = erf_table([result]) + erf_numbers_table([result], ["all"])
        assert "x".join(map(str, inputs.shape[2:])) in text and ("center of mass, z" in text) == (axes == 3)
    with np.load(tmp_path / "erf.npz") as arrays:
        assert arrays["position_maps"].shape == (2**axes, *inputs.shape[2:])
    plain = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.AdaptiveAvgPool2d(1))
    nn.init.ones_(plain[0].weight)
    image = measure_erf(plain, torch.rand(2, 1, 9, 9))
    write_csv([image, result], tmp_path / "all.csv")
    broken = {**record, "erf": {**record["erf"], "feature_size": [4, 4, 4, 4]}}
    (tmp_path / "erf.json").write_text(json.dumps(broken))
    with pytest.raises(InvalidInputError):
        ErfResult.load(tmp_path)


def test_other_functions_take_them() -> None:
    model = sequence_network()
    erf = ErfAccumulator(model)
    erf.update(SEQUENCES)
    np.testing.assert_allclose(erf.compute().contribution, measure_erf(model, SEQUENCES).contribution, rtol=1e-6)
    with input_gradient(model) as gradient:
        assert gradient(SEQUENCES).shape == SEQUENCES.shape and gradient.scores(SEQUENCES).shape == (4, 64)
    prepared = prepare(volume_network())
    torch.testing.assert_close(contribution_scores(prepared, VOLUMES), contribution_scores(volume_network(), VOLUMES))
    assert prepared.module is not None


def test_a_video_network_is_measured() -> None:
    torch.manual_seed(0)
    model = VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem)  # R3D with one block in each stage
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    result = measure_erf(model, clips)
    assert (result.layer, result.feature_size, result.input_size) == ("layer4", (1, 2, 2), (8, 32, 32))
    assert result.center == (0, 16, 16) and result.center_source == "receptive field"
    with torch.enable_grad():
        leaf = clips.clone().requires_grad_(True)
        model.eval()
        features = model.layer4(model.layer3(model.layer2(model.layer1(model.stem(leaf)))))
        (expected,) = torch.autograd.grad(features[:, :, 0, 1, 1].relu().sum(), leaf)
    reference = expected.clamp_min(0).sum(1).mean(0).numpy()
    assert np.linalg.norm(result.contribution - reference) < 1e-4 * np.linalg.norm(reference)
    outer = contribution_scores(model, clips, "layer2", position=(3, 0, 1))
    assert outer.shape == (2, 8, 32, 32)


def test_spectrograms_have_one_channel_and_any_sides() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, (3, 5), (2, 1), (1, 2)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(model[0].weight)
    result = measure_erf(model, torch.rand(2, 1, 40, 101))
    assert result.input_size == (40, 101) and result.feature_size == (20, 101) and result.center == (20, 50)
    assert result.contribution[19:22, 48:53].sum() == pytest.approx(result.contribution.sum())


def test_inputs_that_do_not_fit_are_errors_of_one_line() -> None:
    images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    for call in (contribution_scores, measure_erf):
        with pytest.raises(InvalidInputError, match=r"\[3, 8, 8\].*Add a batch dimension") as caught:
            call(images, torch.zeros(3, 8, 8))
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInputError, match=r"got a tensor \[2, 2, 2, 2, 2, 2\]"):
        contribution_scores(images, torch.zeros(2, 2, 2, 2, 2, 2))

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv1d(2, 4, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).flatten(1)

    with pytest.raises(InvalidInputError, match=r"inputs of size 64, in which no positions .*\[N, C, l\]"):
        contribution_scores(nn.Sequential(Flat()), SEQUENCES, "0")

    class Patches(nn.Module):
        """A network without convolutions, which do not show the number of axes that it takes."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            patches = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5)
            return self.body(patches.reshape(n, -1, 48))

    with pytest.raises(
        InvalidInputError, match=r"inputs of shape \[16, 16\].*add a batch dimension to a single"
    ) as caught:
        measure_erf(Patches(), torch.zeros(3, 16, 16))
    assert "\n" not in str(caught.value)


def test_figures_of_sequences_and_volumes(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    result = measure_erf(sequence_network(), SEQUENCES)
    ax = plot_erf(result, protocol="linear")
    bars = [line.get_xdata() for line in ax.lines if line.get_gid() == "interval"]
    assert [float(end - start) for start, end in bars] == [result.row("linear", one).side for one in result.thresholds]
    (center,) = (line.get_xdata() for line in ax.lines if line.get_gid() == "center")
    assert center[0] == result.center[0] + 0.5
    assert {path.name for path in save_figures(result, tmp_path)} == {"erf.png", "erf.pdf"}

    volume = measure_erf(volume_network(), VOLUMES)
    figure = draw_volume(volume)
    maps = [ax for ax in figure.axes if ax.collections and ax.get_xlim()[0] == 0 and len(ax.patches) == 4]
    assert len(maps) == 3 and [abs(np.subtract(*ax.get_xlim())) for ax in maps] == [20, 8, 20]
    assert [abs(np.subtract(*ax.get_ylim())) for ax in maps] == [24, 24, 8]
    # The box of 99 %, seven voxels around (4, 12, 10).
    boxes = [ax.patches[-1].get_bbox().extents.tolist() for ax in maps]
    assert boxes == [[7, 9, 14, 16], [1, 9, 8, 16], [7, 1, 14, 8]]
    own = Figure().add_subplot()
    assert plot_erf(volume, own) is own and len(own.patches) == 4
    assert plot_erf(volume).figure is not own.figure and volume.plot() is not None
    several = measure_erf(volume_network(), VOLUMES, position="grid:2")
    assert {path.name for path in save_figures(several, tmp_path)} == {"erf.png", "erf.pdf"}
    with pytest.raises(InvalidInputError, match="is not a volume"):
        draw_volume(result)
