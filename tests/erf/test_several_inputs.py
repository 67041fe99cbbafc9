"""Networks that are called with several inputs: one map for each of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replk_probe import measure_erf
from replk_probe.erf import ErfConfig, ErfResult, contribution_scores, draw_comparison, plot_erf, prepare
from replk_probe.errors import InvalidInputError


class Sum(nn.Module):
    """The sum of a 3 x 3 convolution of the first input and a 5 x 5 convolution of the second one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(1, 4, 5, padding=2)
        for conv in (self.one, self.two):
            nn.init.ones_(conv.bias)
            conv.weight.data.mul_(0.01)  # so that no ReLU of the convention is zero

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.one(a) + self.two(b)


class Correlation(nn.Module):
    """Cross-correlation of the features of an image with those of a template."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Conv2d(3, 4, 3, padding=1, bias=False)

    def forward(self, image: Tensor, template: Tensor) -> Tensor:
        features, kernels = self.encoder(image), self.encoder(template)
        merged = features.reshape(1, -1, *features.shape[2:])
        return functional.conv2d(merged, kernels, groups=len(kernels)).transpose(0, 1)


class Siamese(nn.Module):
    """Two scores from the pooled features of two images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoder(a).mean((2, 3)), self.encoder(b).mean((2, 3))], 1))


class Product(nn.Module):
    """A product in the code of the network, which is then pooled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        small = self.two(b).relu()
        return (self.one(a).relu() * functional.interpolate(small, scale_factor=2.0)).mean((2, 3))


def images(channels: int, *size: int, count: int = 4, seed: int = 5) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


PAIR = images(3, 12, 14), images(1, 12, 14, seed=6)


def by_autograd(model: nn.Module, inputs: tuple[Tensor, ...], value: Any) -> list[np.ndarray]:
    """Mean scores of every input for the sum of a function of the output, one image at a time."""
    total: list[Any] = [0.0] * len(inputs)
    for index in range(len(inputs[0])):
        leaves = [one[index : index + 1].clone().requires_grad_() for one in inputs]
        gradients = torch.autograd.grad(value(copy.deepcopy(model).eval()(*leaves)), leaves)
        for number, gradient in enumerate(gradients):
            total[number] += gradient.clamp_min(0).sum(1)[0].double().numpy()
    return [one / len(inputs[0]) for one in total]


def test_maps_are_the_positive_parts_of_the_kernels() -> None:
    model = Sum()
    first, second = measure_erf(model, inputs=PAIR, layer="forward")
    for result, conv, side in ((first, model.one, 3), (second, model.two, 5)):
        # All four features are positive, so that the gradient is the sum of the kernels over the features.
        kernel = conv.weight.detach().sum(0).clamp_min(0).sum(0).double().numpy()
        expected = np.zeros((12, 14))
        half = side // 2
        expected[6 - half : 7 + half, 7 - half : 8 + half] = kernel
        np.testing.assert_allclose(result.contribution, expected, rtol=1e-6)
        assert (result.theoretical_rf, result.center, result.center_source) == (side, (6.0, 7.0), "receptive field")
    assert [one.run.model for one in (first, second)] == ["Sum (input 1)", "Sum (input 2)"]
    assert [one.run.config["input"] for one in (first, second)] == [1, 2]
    assert first.run.config["inputs"] == [[3, 12, 14], [1, 12, 14]]
    assert (len(first.run.mean), len(second.run.mean)) == (3, 1)
    assert first.n_images == second.n_images == 4
    assert first.row("pixels", 0.5).ci95 is not None


def test_a_default_layer_of_two_inputs_is_that_of_one() -> None:
    class First(Sum):
        def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
            return super().forward(a, PAIR[1][:1].to(a).expand(len(a), -1, -1, -1)).mean((2, 3))

    class Both(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(a, b).mean((2, 3))

    alone = measure_erf(First(), PAIR[0])
    first, second = measure_erf(Both(), inputs=PAIR)
    assert first.layer == second.layer == "forward (add, operation 1)"
    np.testing.assert_allclose(first.contribution, alone.contribution, rtol=1e-5)
    assert (alone.center, alone.theoretical_rf) == (first.center, first.theoretical_rf)


def test_a_correlation_has_the_gradients_of_autograd_and_a_template_its_own_center() -> None:
    inputs = images(3, 20, 20), images(3, 6, 7, seed=7)
    model = Correlation()
    results = measure_erf(model, inputs=inputs, layer="forward")
    expected = by_autograd(model, inputs, lambda output: output[:, :, 7, 7].relu().sum())
    for result, one in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.contribution, one, rtol=1e-5, atol=1e-7)
    search, template = results
    # Position 7 of the map is that of a window of 6 rows from row 7 on, and one more row on each side.
    assert (search.center, search.center_source, search.theoretical_rf) == ((9.5, 10.0), "receptive field", 9)
    assert (template.input_size, template.center, template.center_source) == ((6, 7), (2.5, 3.0), "stride rule")
    assert any("input 2" in note and "middle of this input" in note for note in template.notes)


def test_a_value_that_cannot_be_traced_has_the_center_of_the_stride() -> None:
    class Attention(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + functional.interpolate(b, size=a.shape[2:], mode="bilinear")

    first, second = measure_erf(Attention(), inputs=(images(2, 16, 16).abs(), images(2, 8, 8).abs()), layer="forward")
    assert (first.center, first.center_source) == ((8.0, 8.0), "receptive field")
    assert second.center_source == "stride rule" and second.center == (8.5 * 8 / 16 - 0.5,) * 2
    assert any("cannot be followed" in note for note in second.notes)


def test_channels_of_two_inputs_are_joined() -> None:
    class Joined(nn.Module):
        def __init__(self, *after: nn.Module) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 4, 5, padding=2)
            self.after = nn.Sequential(nn.Conv2d(8, 4, 3, stride=2, padding=1), *after)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.after(torch.cat([self.one(a), self.two(b)], 1))

    model = Joined()
    results = measure_erf(model, inputs=PAIR, layer="after")
    for result, one in zip(results, by_autograd(model, PAIR, lambda out: out[:, :, 3, 3].relu().sum()), strict=True):
        np.testing.assert_allclose(result.contribution, one, rtol=1e-5, atol=1e-8)
    assert [one.theoretical_rf for one in results] == [5, 7]
    assert [one.center for one in results] == [(6.0, 6.0), (6.0, 6.0)]
    # Behind an upsampling, whose receptive fields are not traced, inputs of the same size have the same center.
    results = measure_erf(Joined(nn.Upsample(scale_factor=2.0, mode="bilinear")), inputs=PAIR, layer="after")
    assert [one.center_source for one in results] == ["stride rule", "stride rule"]
    assert [one.center for one in results] == [(6.0, 7.0), (6.0, 7.0)]


def test_an_operation_in_the_code_of_the_network() -> None:
    inputs = images(3, 12, 12), images(3, 12, 12, seed=8)
    model = Product()
    results = measure_erf(model, inputs=inputs, batch_size=3)
    assert results[0].layer == "forward (mul, operation 4)"

    expected = by_autograd(Unpooled(model), inputs, lambda output: output[:, :, 6, 6].sum())
    for result, one in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.contribution, one, rtol=1e-5, atol=1e-8)


class Unpooled(nn.Module):
    """The map of a Product."""

    def __init__(self, model: Product) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        small = self.model.two(b).relu()
        return self.model.one(a).relu() * functional.interpolate(small, scale_factor=2.0)


def test_logits_of_a_siamese_network() -> None:
    inputs = images(3, 16, 16), images(3, 12, 20, seed=9)
    model = Siamese()
    results = measure_erf(model, inputs=inputs, target="logit:1")
    for result, one in zip(results, by_autograd(model, inputs, lambda output: output[:, 1].sum()), strict=True):
        np.testing.assert_allclose(result.contribution, one, rtol=1e-5, atol=1e-8)
    assert [one.center for one in results] == [(7.5, 7.5), (5.5, 9.5)]
    prepared = measure_erf(prepare(model), inputs=inputs, target="logit:1")
    for result, one in zip(results, prepared, strict=True):
        np.testing.assert_allclose(result.contribution, one.contribution, rtol=1e-3, atol=1e-8)


def test_scores_do_not_depend_on_the_batch_and_leave_the_network_as_it_was() -> None:
    model = Sum().train()
    before = set(vars(model)), len(model._forward_pre_hooks)
    scores = contribution_scores(model, PAIR, "forward")
    assert isinstance(scores, tuple) and [list(one.shape) for one in scores] == [[4, 12, 14], [4, 12, 14]]
    for index in range(4):
        alone = contribution_scores(model, (PAIR[0][index : index + 1], PAIR[1][index : index + 1]), "forward")
        for one, other in zip(scores, alone, strict=True):
            torch.testing.assert_close(one[index], other[0])
    assert model.training and (set(vars(model)), len(model._forward_pre_hooks)) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    empty = contribution_scores(model, (PAIR[0][:0], PAIR[1][:0]), "forward")
    assert [list(one.shape) for one in empty] == [[0, 12, 14], [0, 12, 14]]
    whole = measure_erf(model, inputs=PAIR, layer="forward", batch_size=4)
    for result, one in zip(whole, scores, strict=True):
        np.testing.assert_allclose(result.contribution, one.double().mean(0).numpy(), rtol=1e-6)


def test_positions_and_conventions() -> None:
    model = Sum()
    grid = measure_erf(model, inputs=PAIR, layer="forward", position="grid:2x2", convention="luo2016")
    middle = measure_erf(model, inputs=PAIR, layer="forward", convention="luo2016")
    for one, other in zip(grid, middle, strict=True):
        assert one.position_maps is not None and one.position_maps.shape == (4, 12, 14)
        assert [place.place for place in one.positions] == [(0, 0), (0, 13), (11, 0), (11, 13)]
        assert one.run.config["convention"]["name"] == "luo2016"
        # The network is the same everywhere: shifted to the middle, each position has a quarter of its kernel.
        np.testing.assert_allclose(one.contribution, other.contribution, rtol=1e-5, atol=1e-9)
    corner = measure_erf(model, inputs=PAIR, layer="forward", position=(0, 0))
    assert [one.center for one in corner] == [(0.0, 0.0), (0.0, 0.0)]


def test_inputs_with_other_numbers_of_axes() -> None:
    class Tagged(nn.Module):
        def forward(self, image: Tensor, sound: Tensor) -> Tensor:
            return image * sound.abs().mean((1, 2))[:, None, None, None]

    inputs = images(2, 8, 8).abs(), images(1, 20, seed=4)
    first, second = measure_erf(Tagged(), inputs=inputs, layer="forward")
    assert (first.input_size, second.input_size) == ((8, 8), (20,))
    assert (first.feature_size, second.feature_size) == ((8, 8), None)
    assert second.center == (9.5,) and second.ratio_name == "length ratio"
    with pytest.raises(InvalidInputError, match=r"Position 0,0 .* of shapes \[4, 2, 8, 8\], \[4, 1, 20\]\."):
        measure_erf(Tagged(), inputs=inputs, layer="forward", position="0,0")


def test_saved_results_and_figures(tmp_path: Path) -> None:
    results = measure_erf(Sum(), inputs=(PAIR[0].numpy(), PAIR[1].numpy()), layer="forward", name="pairs")
    for number, result in enumerate(results, 1):
        result.save(tmp_path / str(number))
        loaded = ErfResult.load(tmp_path / str(number))
        assert loaded.run.model == f"pairs (input {number})" and loaded.run.config["input"] == number
        np.testing.assert_array_equal(loaded.contribution, result.contribution)
        assert f"pairs (input {number})" in (tmp_path / str(number) / "erf.csv").read_text()
        plot_erf(loaded)
    draw_comparison(results)


def test_images_that_are_not_finite_are_skipped_for_every_input() -> None:
    first, second = PAIR[0].clone(), PAIR[1].clone()
    second[1] = torch.nan
    results = measure_erf(Sum(), inputs=(first, second), layer="forward")
    assert [(one.n_images, one.n_skipped, one.run.skipped[0]["id"]) for one in results] == [(3, 1, "tensor-0001")] * 2
    with pytest.raises(InvalidInputError, match=r"None of the 4 images could be used\."):
        measure_erf(Sum(), inputs=(first, torch.full_like(second, torch.nan)), layer="forward")


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((PAIR[0], PAIR[1][:2]), r"The inputs have 4, 2 images\."),
        (PAIR[0], r"as a tuple of tensors, but got an object of type Tensor\."),
        ({"a": PAIR[0]}, r"as a tuple of tensors, but got an object of type dict\."),
        ((), r"as a tuple of tensors, but got an object of type tuple\."),
        ((PAIR[0], "photos/"), r"but got a tuple of \(Tensor, str\)\."),
        ((PAIR[0], PAIR[1].int()), r"The batch has dtype torch\.int32\."),
        ((PAIR[0], PAIR[1][:, :, 0, 0]), r"Expected the batch as a tensor \[N, C, H, W\], but got a tensor \[4, 1\]\."),
        ((PAIR[0][:0], PAIR[1][:0]), r"The inputs have no images\."),
    ],
)
def test_unsuitable_inputs(inputs: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        measure_erf(Sum(), inputs=inputs, layer="forward")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": PAIR[0]}, "Got inputs and also data, checkpoint or resume"),
        ({"checkpoint": "state"}, "Got inputs and also data, checkpoint or resume"),
        ({"attribution": "occlusion"}, "Option attribution='occlusion' cannot be used with several inputs"),
        ({"precision": "bf16"}, "Option precision='bf16' cannot be used with several inputs"),
        ({"until": 0.1}, r"Option until=0\.1 cannot be used with several inputs"),
        ({"check": "occlusion"}, r"Option check='occlusion' cannot be used with several inputs"),
        ({"layer": "one"}, "Layer 'one' has no gradient with respect to input 2"),
        ({"layer": "two"}, "Layer 'two' has no gradient"),
        ({"position": "99,0"}, "99"),
    ],
)
def test_unsuitable_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        measure_erf(Sum(), inputs=PAIR, **{"layer": "forward", **options})
    assert "\n" not in str(caught.value)


def test_the_wrong_number_of_inputs_or_sizes_that_do_not_fit() -> None:
    for inputs, says in (
        (
            PAIR[:1],
            r"Sum cannot be run on 1 input of shape \[3, 12, 14\]\. .* missing 1 required positional argument: 'b'",
        ),
        (
            (*PAIR, PAIR[0]),
            r"Sum cannot be run on 3 inputs of shape .* Give one input for each argument of its forward",
        ),
        ((PAIR[0], PAIR[1][..., :9]), r"Sum cannot be run on 2 inputs of shape \[3, 12, 14\], \[1, 12, 9\]\."),
    ):
        with pytest.raises(InvalidInputError, match=says) as caught:
            measure_erf(Sum(), inputs=inputs, layer="forward")
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInputError, match=r"or give measure_erf all of its inputs as inputs=\(a, b\)\."):
        measure_erf(Sum(), PAIR[0], layer="forward")


def test_an_input_that_has_no_effect_is_named() -> None:
    class Ignoring(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.one(a) + 0 * self.two(b)

    with pytest.raises(InvalidInputError, match=r"The contribution map of input 2 is zero everywhere\."):
        measure_erf(Ignoring(), inputs=PAIR, layer="forward")
    with pytest.raises(InvalidInputError, match=r"with respect to input 2: .* set target to 'logit:0'"):
        measure_erf(Siamese(), inputs=(PAIR[0], PAIR[0]))
    with pytest.raises(InvalidInputError, match=r"or the inputs of a network with several as inputs=\(a, b\)\."):
        measure_erf(Sum(), PAIR, layer="forward")  # type: ignore[call-overload]
    with pytest.raises(InvalidInputError, match=r"attribution 'gradient'"):
        contribution_scores(Sum(), PAIR, "forward", attribution="occlusion")


def test_a_configuration_and_a_forward_features_of_one_input() -> None:
    class Network(Sum):
        def forward_features(self, a: Tensor) -> Tensor:
            return self.one(a)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.forward_features(a) + self.two(b)

    with pytest.raises(InvalidInputError, match="The output of forward_features cannot be measured with several"):
        measure_erf(Network(), inputs=PAIR, convention="openerf")
    results = measure_erf(Network(), inputs=PAIR, config=ErfConfig(layer="forward", thresholds=(0.5,)))
    assert [one.thresholds for one in results] == [(0.5,), (0.5,)]
