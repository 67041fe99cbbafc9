"""The occlusion check: what is replaced, answers known on paper, intervals, notes, resumption and errors."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t
from torch import Tensor, nn

from replk_probe import measure_erf
from replk_probe.erf import ErfResult, area_ratio, draw_occlusion
from replk_probe.erf.area_protocols import centered_windows
from replk_probe.erf.occlusion_check import compare, fills_of
from replk_probe.erf.occlusion_rows import ALL_FILLS, FILLS, MOST_PASSES, Occlusion, occlusions_of, turn_of
from replk_probe.errors import InvalidInputError
from replk_probe.models.inference import input_gradient
from replk_probe.report.erf_table import erf_table


def images(count: int, side: int = 24, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A convolution of 5x5 with positive weights: the middle depends on 5x5 pixels and nothing else."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, size, padding=size // 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.rand(self.conv.weight.shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


def row(result: ErfResult, threshold: float, kept: str, fill: str = ALL_FILLS) -> Any:
    (found,) = (
        row for row in result.occlusion if (row.threshold, row.kept, row.fill) == (threshold, kept, fill)
    )  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------- occlusions


@pytest.mark.parametrize("center", [(12.0, 12.0), (3.5, 20.0), (0.0, 0.0)])
def test_windows_are_those_of_the_centred_protocol(center: tuple[float, float]) -> None:
    scores = np.random.default_rng(0).random((24, 30)) ** 4
    for threshold, window in zip((0.2, 0.5, 0.99), centered_windows(scores, (0.2, 0.5, 0.99), center), strict=True):
        rows, columns = (part.stop - part.start for part in window)
        expected = area_ratio(scores, threshold, "centred", center)
        assert (max(rows, columns), rows * columns / scores.size) == (expected.side, expected.ratio)
        assert scores[window].sum() > threshold * scores.sum()


def test_what_is_replaced() -> None:
    image, other = images(2)
    fills = fills_of(image, other)
    assert [*fills] == [*FILLS]
    torch.testing.assert_close(fills["mean color"], image.mean((1, 2))[:, None, None].expand(3, 24, 24))
    assert fills["blurred image"].std() < image.std() / 3 and fills["blurred image"].shape == image.shape
    assert fills["other image"] is other and "other image" not in fills_of(image, None)

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1)
            self.batches: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            if not x.is_meta:
                self.batches.append(x.clone())
            found: Tensor = self.conv(x)
            return found

    from replk_probe.erf.probe_layer import find_target

    model = Seen()
    target = find_target(model, (1, 3, 24, 24))
    model.batches.clear()
    window = (slice(4, 9), slice(10, 20))
    occlusions = occlusions_of({0.5: window}, (24, 24), several=True)
    assert len(occlusions) == 6
    compare(model, target, image, other, occlusions, batch_size=4)
    seen = torch.cat(model.batches)
    assert [len(batch) for batch in model.batches] == [4, 3]
    assert torch.equal(seen[0], image)
    inside = torch.zeros(24, 24, dtype=torch.bool)
    inside[window] = True
    for occlusion, found in zip(occlusions, seen[1:], strict=True):
        kept = inside if occlusion.kept == "window" else ~inside
        assert torch.equal(found[:, kept], image[:, kept])
        assert torch.equal(found[:, ~kept], fills[occlusion.fill][:, ~kept])


def test_at_most_12_passes_for_an_image_and_every_occlusion_as_often() -> None:
    window = (slice(0, 3), slice(0, 3))
    for count in (1, 2, 3, 4, 7):
        occlusions = occlusions_of({index / 10: window for index in range(1, count + 1)}, (24, 24), several=True)
        turns = [turn_of(occlusions, image) for image in range(60)]
        assert max(map(len, turns)) + 1 <= MOST_PASSES
        times = np.bincount([index for turn in turns for index in turn], minlength=len(occlusions))
        assert times.min() >= 1 and np.ptp(times) <= 1


def test_every_image_has_every_fill() -> None:
    window = (slice(0, 3), slice(0, 3))
    occlusions = occlusions_of({0.2: window, 0.3: window, 0.5: window, 0.99: window}, (24, 24), several=True)
    for image in range(3):
        turn = turn_of(occlusions, image)
        assert len(turn) == 8 and {occlusions[index].fill for index in turn} == {*FILLS}


def test_windows_of_the_whole_image_are_left_out() -> None:
    whole, part = (slice(0, 24), slice(0, 24)), (slice(0, 24), slice(0, 23))
    assert {one.threshold for one in occlusions_of({0.5: part, 0.99: whole}, (24, 24), several=True)} == {0.5}


# --------------------------------------------------------------------------------------------------- answers


def test_a_window_with_everything_gives_the_same_features_and_the_rest_none_of_them() -> None:
    result = measure_erf(Net(), images(6), check="occlusion", thresholds=[0.3, 0.999])
    inside = row(result, 0.999, "window")
    assert inside.window == (5, 5) and inside.n_images == 3  # twelve occlusions take turns
    assert inside.cosine == pytest.approx(1, abs=1e-6) and inside.distance == pytest.approx(0, abs=1e-6)
    assert row(result, 0.999, "surroundings").distance > 0.3
    assert row(result, 0.3, "window").distance > 0.1
    assert not [note for note in result.notes if "disagree" in note]


def test_values_are_those_of_plain_features() -> None:
    model, batch = Net().double(), images(5).double()
    result = measure_erf(model, batch, check="occlusion", thresholds=[0.4])
    (window,) = centered_windows(result.contribution, [0.4], result.center)
    with torch.no_grad():
        features = model(batch)[:, :, 12, 12]
        expected: list[tuple[float, float]] = []
        for index, image in enumerate(batch):
            mixed = batch[index - 1].clone()
            mixed[(slice(None), *window)] = image[(slice(None), *window)]
            found = model(mixed[None])[0, :, 12, 12]
            cosine = nn.functional.cosine_similarity(found, features[index], dim=0).item()
            expected.append((cosine, ((found - features[index]).norm() / features[index].norm()).item()))
    own = row(result, 0.4, "window", "other image")
    cosines, distances = np.array(expected).T
    half = t.ppf(0.975, 4) * cosines.std(ddof=1) / math.sqrt(5)
    assert own.cosine == pytest.approx(cosines.mean(), rel=1e-12)
    assert own.cosine_ci95 == pytest.approx((cosines.mean() - half, cosines.mean() + half), rel=1e-9)
    assert own.distance == pytest.approx(distances.mean(), rel=1e-12)
    together = row(result, 0.4, "window")
    single = [row(result, 0.4, "window", fill) for fill in FILLS]
    assert together.distance == pytest.approx(np.mean([one.distance for one in single]), rel=1e-12)
    low, high = together.distance_ci95
    widths = [one.distance_ci95[1] - one.distance_ci95[0] for one in single]
    assert high - low == pytest.approx(np.mean(widths), rel=1e-9)


def test_a_gradient_that_misses_what_matters_is_reported() -> None:
    class Misleading(nn.Module):
        """The gradient is that of the middle, but the values are those of the border."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.conv(x)
            border = x.detach()[:, :, 0, :].mean((1, 2))[:, None, None, None]
            return found + 100 * border * torch.tensor([1.0, -2.0, 3.0, 4.0])[:, None, None]

    result = measure_erf(Misleading(), images(8) + 1, check="occlusion", thresholds=[0.3, 0.9])
    (note,) = (note for note in result.notes if "disagree" in note)
    assert "90 %" in note and "30 %" not in note
    assert note in erf_table([result]).replace("\n      ", " ").replace("\n", " ") or "disagree" in erf_table([result])


def test_one_image_has_no_other_image_and_no_intervals() -> None:
    result = measure_erf(Net(), images(1), check="occlusion", thresholds=[0.5])
    assert {row.fill for row in result.occlusion} == {"mean color", "blurred image", ALL_FILLS}
    assert all(row.cosine_ci95 is None and row.n_images == 1 for row in result.occlusion)


def test_too_few_images_for_all_occlusions_are_noted() -> None:
    result = measure_erf(Net(), images(2), check="occlusion", thresholds=[0.1, 0.2, 0.3, 0.31])
    assert any("at least 3 images are needed for all of them" in note for note in result.notes)
    for one in result.occlusion:
        # A mean over the fills that lacks one of them would be another number.
        assert (one.cosine is None) == (one.n_images == 0)
    assert {one.n_images for one in result.occlusion} == {0, 1}
    erf_table([result])
    draw_occlusion(result)


def test_features_of_zero_have_no_cosine() -> None:
    model = Net()
    nn.init.zeros_(model.conv.bias)  # type: ignore[arg-type]
    window = (slice(10, 13), slice(10, 13))
    from replk_probe.erf.probe_layer import find_target

    target = find_target(model, (1, 3, 24, 24))
    found = compare(model, target, torch.zeros(3, 24, 24), None, [Occlusion(0.5, window, "window", "mean color")], 4)
    assert found == [None]


# ---------------------------------------------------------------------------------------- results and errors


def test_the_check_is_saved_drawn_and_printed(tmp_path: Path) -> None:
    result = measure_erf(Net(), images(6), check="occlusion", thresholds=[0.5, 0.999])
    result.save(tmp_path)
    loaded = ErfResult.load(tmp_path)
    assert loaded.occlusion == result.occlusion and loaded.to_json() == result.to_json()
    assert result.to_json()["erf"]["occlusion"][0]["fill"] == "mean color"
    assert len(draw_occlusion(result).axes) == 2
    text = erf_table([result])
    assert "only the window: cosine" in text and "without the window: distance" in text
    plain = measure_erf(Net(), images(6), thresholds=[0.5, 0.999])
    assert "occlusion" not in plain.to_json()["erf"] and plain.occlusion == ()
    assert np.array_equal(plain.contribution, result.contribution)
    with pytest.raises(InvalidInputError, match="no occlusion check"):
        draw_occlusion(plain)


def test_an_interrupted_check_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from replk_probe.erf import plan

    options: dict[str, Any] = {"check": "occlusion", "thresholds": [0.5, 0.9]}
    whole = measure_erf(Net(), images(7), **options)
    calls = 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return compare(*args)

    monkeypatch.setattr(plan, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_erf(Net(), images(7), checkpoint=tmp_path, **options)
    resumed = measure_erf(Net(), images(7), checkpoint=tmp_path, resume=True, **options)
    assert calls == 4 + 4, "three of the seven images were done"
    same = replace(resumed, run=replace(resumed.run, seconds=whole.run.seconds))
    assert same.to_json() == whole.to_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"check": "nothing"}, "Unknown check 'nothing'"),
        ({"check": "occlusion", "position": "grid:2x2"}, "position 'grid:2x2'"),
        ({"check": "occlusion", "position": "mean"}, "position 'mean'"),
    ],
)
def test_checks_that_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        measure_erf(Net(), images(2), **options)


def test_volumes_cannot_be_checked() -> None:
    with pytest.raises(InvalidInputError, match="inputs of 3 axes"):
        measure_erf(nn.Conv3d(1, 2, 3, padding=1), torch.randn(2, 1, 6, 6, 6), check="occlusion")


def test_the_methods_of_the_check_are_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The check has batches of other sizes than the map."""
    monkeypatch.setattr(input_gradient, "_method", lambda direction, x, weight: f"native: {len(x)} images")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 7, padding=3, groups=4))
    options: dict[str, Any] = {"thresholds": [0.4], "batch_size": 8}
    assert measure_erf(model, images(2), **options).run.backend == "native: 2 images"
    assert measure_erf(model, images(2), check="occlusion", **options).run.backend == "native: 2 images, 7 images"
