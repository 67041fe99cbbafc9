"""Conventions: every choice on networks whose map is known, and where a convention is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import Result
from torch import Tensor, nn

from replk_probe.erf import (
    CONVENTIONS,
    Convention,
    ErfAccumulator,
    ErfConfig,
    ErfResult,
    contribution_scores,
    input_gradient,
    measure_erf,
)
from replk_probe.erf.choose_target import target_for
from replk_probe.erf.plan import plan_erf
from replk_probe.errors import InvalidInputError


def pointwise(*rows: list[float], bias: float = 0.0) -> nn.Module:
    """A 1x1 convolution with a row of weights for each of its channels."""
    conv = nn.Conv2d(len(rows[0]), len(rows), 1).double()
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(rows)[:, :, None, None])
        conv.bias.fill_(bias)
    return conv


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        # Features at a pixel of ones: 2 - 5 + 4 = 1 and -1 - 1 + 0 = -2, which the ReLU closes.
        ({}, 2 + 4),
        ({"channels": "mean"}, (2 + 4) / 2),
        ({"relu": False}, 1 + 4),  # the gradient is (1, -6, 4)
        ({"relu": False, "colors": "mean"}, (1 + 4) / 3),
        ({"relu": False, "rectification": "absolute"}, 1 + 6 + 4),
        ({"relu": False, "rectification": "absolute", "color_order": "reduce first"}, 1),
        ({"color_order": "reduce first"}, 1),
        ({"color_order": "reduce first", "colors": "mean"}, 1 / 3),
        ({"relu": False, "color_order": "reduce first"}, 0),
    ],
)
def test_channels_and_colors_are_reduced_as_chosen(choices: dict[str, Any], expected: float) -> None:
    model = pointwise([2.0, -5.0, 4.0], [-1.0, -1.0, 0.0])
    scores = contribution_scores(model, ones(2, 3, 5, 5), convention=Convention(**choices))
    assert scores[:, 2, 2].tolist() == pytest.approx([expected] * 2, rel=1e-15)
    assert scores.sum() == scores[:, 2, 2].sum()


def test_the_signed_gradient_is_that_of_the_scalar_of_the_convention() -> None:
    model = pointwise([2.0, -5.0, 4.0], [-1.0, -1.0, 0.0])
    with input_gradient(model, convention="openerf") as gradient:
        assert gradient(ones(1, 3, 5, 5))[0, :, 2, 2].tolist() == [0.5, -3.0, 2.0]
    with input_gradient(model, convention="luo2016") as gradient:
        assert gradient(ones(1, 3, 5, 5))[0, :, 2, 2].tolist() == [1.0, -6.0, 4.0]


@pytest.mark.parametrize(("size", "upper"), [((5, 5), (2, 2)), ((6, 6), (2, 2)), ((4, 7), (1, 3)), ((1, 2), (0, 0))])
def test_positions_differ_for_even_sizes_only(size: tuple[int, int], upper: tuple[int, int]) -> None:
    model, image = pointwise([1.0, 1.0, 1.0], bias=9), ones(1, 3, *size)
    lower = contribution_scores(model, image, model, convention=Convention(position="lower-right"))
    assert lower[0].nonzero().tolist() == [[size[0] // 2, size[1] // 2]]
    found = contribution_scores(model, image, model, convention=Convention(position="upper-left"))
    assert found[0].nonzero().tolist() == [[*upper]]
    # A map of a network without patches is no sequence of tokens.
    other = contribution_scores(model, image, model, convention=Convention(position="upper-left of tokens"))
    torch.testing.assert_close(other, lower, rtol=0, atol=0)


class Tokens(nn.Module):
    """Patches of 4 pixels in any order."""

    def __init__(self, order: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.patches, self.order, self.layers = nn.Conv2d(3, 8, 4, 4), order, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.order(self.patches(x).flatten(2).transpose(1, 2))).mean(1)


def by_columns(x: Tensor) -> Tensor:
    return x.unflatten(1, (8, 8)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("order", [lambda x: x, lambda x: x.flip(1), by_columns], ids=["rows", "reversed", "columns"])
def test_the_upper_left_token_is_that_of_its_patch(order: Callable[[Tensor], Tensor]) -> None:
    model = Tokens(order).eval()
    for rule, place in (("lower-right", 4), ("upper-left", 3), ("upper-left of tokens", 3)):
        scores = contribution_scores(model, torch.randn(8, 3, 32, 32), "layers", convention=Convention(position=rule))
        patches = scores.sum(0).view(8, 4, 8, 4).sum((1, 3))
        assert patches.nonzero().tolist() == [[place, place]]


def test_the_center_of_the_protocols_is_that_of_the_position() -> None:
    images, patches = torch.rand(4, 3, 32, 32, dtype=torch.float64), nn.Conv2d(3, 2, 4, 4).double()
    nn.init.constant_(patches.bias, 100.0)
    lower, upper = (
        measure_erf(patches, images, layer=patches, convention=Convention(position=rule))
        for rule in ("lower-right", "upper-left")
    )
    assert (lower.center, upper.center) == ((17.5, 17.5), (13.5, 13.5))
    for result in (lower, upper):
        assert result.row("centred", 0.99).side == 4


@pytest.mark.parametrize(
    ("name", "before"),
    [("vit_tiny_patch16_224", "norm (input)"), ("swin_tiny_patch4_window7_224", "layers"), ("resnet10t", "layer4")],
)
def test_the_default_layer_after_the_norm_is_the_output_of_forward_features(name: str, before: str) -> None:
    options = {} if name.startswith("resnet") else {"img_size": 64}
    options |= {"depth": 1} if name.startswith("vit") else {}
    options |= {"window_size": 2, "depths": (1, 1, 1, 1)} if name.startswith("swin") else {}
    model = timm.create_model(name, **options)
    found = target_for(model, (1, 3, 64, 64), None, Convention(final_norm="after"))
    assert found.label == "forward_features"
    label = target_for(model, (1, 3, 64, 64), None, Convention()).label
    assert label.startswith(before.split(" ")[0]) or label == "norm (input)"
    # A layer that is chosen stays.
    chosen = target_for(model, (1, 3, 64, 64), "forward_features", Convention())
    assert chosen.label == "forward_features" and chosen == found


def test_without_a_map_from_forward_features_the_default_layer_remains() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward_features(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.forward_features(x)

    for model in (Pooled(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))):
        after, before = (
            target_for(model, (1, 3, 16, 16), None, Convention(final_norm=norm)) for norm in ("after", "before")
        )
        assert after == before


def scaled(x: Tensor) -> Tensor:
    """Images of one value each."""
    return torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)[:, None, None, None] * torch.ones_like(x)


class Square(nn.Module):
    """Half the square of the sum of the colors, whose gradient is that sum at every color."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) ** 2 / 2


def test_log_first_is_a_mean_of_logarithms_in_units_of_the_scores() -> None:
    images = scaled(torch.empty(3, 1, 6, 6, dtype=torch.float64))
    log = measure_erf(Square(), images, convention=Convention(images="log first"))
    mean = measure_erf(Square(), images)
    assert mean.contribution[3, 3] == pytest.approx(12 / 3)
    # Scores 1, 3 and 8: the geometric mean of 2, 4 and 9, less 1.
    assert log.contribution[3, 3] == pytest.approx((2 * 4 * 9) ** (1 / 3) - 1, rel=1e-14)
    assert log.contribution.sum() == log.contribution[3, 3]


def test_intervals_of_log_first_are_those_of_the_maps_without_a_block() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 7, padding=3), nn.Tanh(), nn.Conv2d(6, 5, 3, padding=1)).double()
    images = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    convention = Convention(images="log first")
    result = measure_erf(model, images, convention=convention)
    logs = torch.log10(contribution_scores(model, images).detach() + 1).numpy()
    np.testing.assert_allclose(np.log10(result.contribution + 1), logs.mean(0), rtol=0, atol=1e-9)
    accumulator = ErfAccumulator(model, convention=convention)
    for image in images:
        accumulator.update(image[None])
    np.testing.assert_allclose(accumulator.compute().contribution, result.contribution, rtol=0, atol=1e-9)

    from replk_probe.erf import area_ratio

    row = result.row("pixels", 0.5)
    without = [area_ratio(10 ** np.delete(logs, one, 0).mean(0) - 1, 0.5, "pixels").ratio for one in range(5)]
    assert row.ci95 is not None and row.ci95[0] < row.ratio < row.ci95[1]
    assert max(without) - min(without) < row.ci95[1] - row.ci95[0]


def test_the_default_is_the_convention_of_replknet() -> None:
    assert Convention() == CONVENTIONS["replknet"] and ErfConfig().convention == "replknet"
    model = timm.create_model("test_resnet")
    images = torch.randn(2, 3, 48, 48)
    plain = measure_erf(model, images)
    for given in ("replknet", Convention(), replace(CONVENTIONS["openerf"], **vars(Convention()))):
        named = measure_erf(model, images, convention=given)
        assert named.contribution.tobytes() == plain.contribution.tobytes()
        assert named.run.config == plain.run.config and "convention" not in plain.run.config
        assert named.definition == ""


def test_names_are_those_of_the_choices() -> None:
    for name, convention in CONVENTIONS.items():
        assert convention.name == name and ErfConfig(convention=convention).convention == name
    own = replace(CONVENTIONS["openerf"], relu=True)
    assert own.name == "custom" and ErfConfig(convention=own).convention == own


def test_a_convention_is_recorded_with_all_its_choices(tmp_path: Path) -> None:
    model, images = timm.create_model("test_resnet"), torch.randn(2, 3, 48, 48)
    own = replace(CONVENTIONS["openerf"], relu=True)
    result = measure_erf(model, images, convention=own)
    record = {
        "name": "custom", "relu": True, "channels": "mean", "position": "upper-left of tokens", "final_norm": "after",
        "colors": "mean", "rectification": "positive", "color_order": "reduce first", "images": "mean",
    }  # fmt: skip
    assert result.run.config["convention"] == record
    result.save(tmp_path)
    assert ErfResult.load(tmp_path).run.config["convention"] == record
    assert result.definition == "custom convention"
    accumulator = ErfAccumulator(model, convention=own)
    accumulator.update(images)
    assert accumulator.compute().run.config["convention"] == record


def test_a_finished_run_of_another_convention_is_another_run() -> None:
    model, images = timm.create_model("test_resnet"), torch.randn(2, 3, 48, 48)
    options = [{}, {"convention": "openerf"}, {"convention": "luo2016"}, {"attribution": "input-x-gradient"}]
    plans = [plan_erf(model, images, ErfConfig(**one)) for one in options]
    results = [plan.run() for plan in plans]
    same = [[plan.difference(result) is None for result in results] for plan in plans]
    assert same == [[row == column for column in range(4)] for row in range(4)]


def test_a_sum_that_a_norm_makes_constant_is_noted() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    images = torch.randn(1, 3, 32, 32)
    said = "The weights of the final norm 'norm' are all equal"
    assert any(said in note for note in measure_erf(model, images, convention="openerf").notes)
    assert not any(said in note for note in measure_erf(model, images).notes)
    assert not any(said in note for note in measure_erf(model, images, convention="luo2016").notes)
    nn.init.uniform_(model.norm.weight)
    assert not any(said in note for note in measure_erf(model, images, convention="openerf").notes)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "openRF",
            "Unknown convention 'openRF'. Choose from replknet, openerf, mambair, luo2016, or give a Convention",
        ),
        (None, "Unknown convention None"),
        ({"relu": True}, "Unknown convention {'relu': True}"),
    ],
)
def test_an_unknown_convention_is_refused(given: Any, says: str) -> None:
    model, image = nn.Conv2d(3, 2, 3), torch.randn(1, 3, 8, 8)
    for call in (
        lambda: ErfConfig(convention=given),
        lambda: measure_erf(model, image, convention=given),
        lambda: contribution_scores(model, image, convention=given),
        lambda: ErfAccumulator(model, convention=given),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert str(caught.value).startswith(says)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match=r"choice colors of a convention cannot be 'max'. Choose from 'sum', 'm"
    ):
        Convention(colors="max")
    with pytest.raises(InvalidInputError, match="relu cannot be 1"):
        Convention(relu=1)  # type: ignore[arg-type]


def test_the_command_measures_by_a_convention(replk_probe: Callable[..., Result], tmp_path: Path) -> None:
    options = ("erf", "--model", "test_resnet", "--images", 2, "--size", 48, "-o", tmp_path)
    result = replk_probe(*options, "--convention", "openerf")
    assert result.exit_code == 0, result.output
    assert "openerf convention; fp32" in " ".join(result.output.split())
    saved = ErfResult.load(tmp_path)
    assert saved.run.config["convention"]["name"] == "openerf" and saved.layer == "forward_features"
    # The same command with --resume finds the finished run, which other conventions do not replace.
    assert "already measured" in replk_probe(*options, "--convention", "openerf", "--resume").output
    for other in (("--convention", "luo2016"), ()):
        refused = replk_probe(*options, *other, "--resume")
        assert refused.exit_code == 1 and "was created with convention" in " ".join(refused.output.split())
        assert ErfResult.load(tmp_path).run.config["convention"]["name"] == "openerf"
    again = replk_probe(*options, "--convention", "luo2016")
    assert again.exit_code == 0 and ErfResult.load(tmp_path).run.config["convention"]["name"] == "luo2016"
    plain = replk_probe(*options)
    assert plain.exit_code == 0 and "convention" not in ErfResult.load(tmp_path).run.config
    assert "convention" not in plain.output.replace("convolution", "")
    wrong = replk_probe(*options, "--convention", "other")
    assert wrong.exit_code == 2 and "'other' is not one of" in wrong.output and "Traceback" not in wrong.output


def test_the_figures_say_the_convention() -> None:
    model, images = timm.create_model("test_resnet"), torch.randn(2, 3, 48, 48)
    results = [measure_erf(model, images, name=name, convention=name) for name in CONVENTIONS]
    from replk_probe.erf import draw_comparison, plot_erf

    for result, name in zip(results, CONVENTIONS, strict=True):
        lines = [text.get_text() for text in plot_erf(result).texts]
        assert (f"Map: {name} convention" in lines) == (name != "replknet")
    texts = [text.get_text() for ax in draw_comparison(results).axes for text in ax.texts]
    assert sum(text.startswith("Map: ") for text in texts) == 3
