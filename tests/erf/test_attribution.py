"""Attributions other than the gradient: against captum itself, and on networks whose answer is known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from captum import attr
from click.testing import Result
from torch import Tensor, nn

from replk_probe.erf import (
    ErfAccumulator,
    ErfConfig,
    ErfResult,
    NeuronERF,
    contribution_scores,
    input_gradient,
    measure_erf,
    plot_erf,
    prepare,
)
from replk_probe.erf.attribution import OPTIONS
from replk_probe.errors import InvalidInputError

ATTRIBUTIONS = tuple(OPTIONS)
LINEAR = ("input-x-gradient", "integrated-gradients")


def small(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2, padding=2), nn.BatchNorm2d(6), nn.ReLU(inplace), nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(inplace), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double().eval()  # fmt: skip


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.Identity()
    ).double()


def batch(n: int = 2, side: int = 16) -> Tensor:
    return torch.randn(n, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def middle(features: Tensor) -> Tensor:
    y, x = features.shape[2] // 2, features.shape[3] // 2
    return features[:, :, y, x].relu().sum(1)


def close(ours: Tensor, theirs: Tensor, bound: float = 1e-13) -> None:
    theirs = theirs.detach()
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=bound * float(theirs.abs().max()))


@pytest.mark.parametrize(
    "selector", [None, (1, 3, 5), (slice(None), 3, 5), middle], ids=["scalar", "neuron", "channels", "function"]
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor 0 did not")
def test_attributions_are_those_of_captum(selector: Any) -> None:
    model, images = small(), batch()
    ours = NeuronERF(model, "5")
    theirs: Any = middle if selector is None else selector
    layer, leaf = model[5], images.clone().requires_grad_()
    found = {name: ours.attribute(images, selector, attribution=name) for name in ATTRIBUTIONS}
    close(found["gradient"], attr.NeuronGradient(model, layer).attribute(leaf, theirs))
    close(found["input-x-gradient"], leaf * found["gradient"])
    close(found["integrated-gradients"], attr.NeuronIntegratedGradients(model, layer).attribute(leaf, theirs))
    close(found["guided-backprop"], attr.NeuronGuidedBackprop(model, layer).attribute(leaf, theirs))
    close(found["deconvolution"], attr.NeuronDeconvolution(model, layer).attribute(leaf, theirs))
    # Sixteen windows of one pixel along each axis, with all colors. Captum takes the mean over windows in float32.
    mask = torch.arange(16 * 16).view(1, 1, 16, 16)
    close(
        found["occlusion"], attr.NeuronFeatureAblation(model, layer).attribute(images, theirs, feature_mask=mask), 1e-6
    )
    for index, image in enumerate(leaf):
        noise = 0.15 * float(image.detach().max() - image.detach().min())
        torch.manual_seed(0)
        tunnel = attr.NoiseTunnel(attr.NeuronGradient(model, layer))
        smooth = tunnel.attribute(image[None], nt_samples=25, stdevs=noise, neuron_selector=theirs)
        torch.testing.assert_close(found["smooth-grad"][index], smooth[0].detach(), rtol=0, atol=1e-12)
    # No two of them are alike.
    names = list(found)
    for index, name in enumerate(names):
        assert all(not torch.allclose(found[name], found[other]) for other in names[index + 1 :]), name


def test_a_linear_network_has_the_answer_of_its_weights() -> None:
    model, images = linear(), batch(1)
    erf = NeuronERF(model, model[2], convention="luo2016")
    # The kernels convolved with each other, summed over the channels of the output.
    kernel = torch.zeros(3, 16, 16, dtype=torch.float64)
    for color in range(3):
        for row in range(6, 11):
            for column in range(6, 11):
                image = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
                image[0, color, row, column] = 1
                with torch.no_grad():
                    kernel[color, row, column] = model(image)[0, :, 8, 8].sum()
    close(erf.attribute(images)[0], kernel)
    close(erf.attribute(images, attribution="smooth-grad")[0], kernel)
    for name in LINEAR:
        close(erf.attribute(images, attribution=name)[0], kernel * images[0], 1e-8)
    # Occlusion of one pixel takes the products of its three colors away.
    pixels = erf.attribute(images, attribution="occlusion")[0]
    close(pixels, (kernel * images[0]).sum(0).expand(3, -1, -1), 1e-6)


@pytest.mark.parametrize("baseline", [0, 0.3])
def test_integrated_gradients_are_complete(baseline: float) -> None:
    model, images = small(), batch(2)
    erf = NeuronERF(model, "5")
    options = {"n_steps": 1000, "internal_batch_size": 500, "baselines": baseline}
    found = erf.attribute(images, attribution="integrated-gradients", **options)
    with torch.no_grad():
        difference = middle(model[:6](images)) - middle(model[:6](torch.full_like(images, baseline)))
    torch.testing.assert_close(found.sum((1, 2, 3)), difference, rtol=2e-3, atol=0)
    assert not torch.allclose(found.sum((1, 2, 3)), 1.1 * difference, rtol=2e-3)


def test_guided_backprop_passes_positive_gradients_of_open_relus_only() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, -1.0]])[:, :, None, None])
        model[2].weight.copy_(torch.tensor([[3.0, -2.0]])[:, :, None, None])
    image = torch.ones(1, 3, 3, 3, dtype=torch.float64)
    image[:, 2] = 0.5
    erf = NeuronERF(model, "2", convention="luo2016")

    def at_middle(name: str) -> list[float]:
        return [round(value, 12) for value in erf.attribute(image, attribution=name)[0, :, 1, 1].tolist()]

    assert at_middle("gradient") == [3.0, -2.0, 2.0]
    assert at_middle("guided-backprop") == [3.0, 0.0, 0.0]
    assert at_middle("deconvolution") == [3.0, 0.0, 0.0]
    # A ReLU that is closed passes nothing in guided backprop, but its positive gradient in a deconvolution.
    image[:, 0] = -1
    assert at_middle("guided-backprop") == [0.0, 0.0, 0.0] and at_middle("deconvolution") == [3.0, 0.0, 0.0]


@pytest.mark.parametrize("inplace", [False, True])
def test_the_gradient_of_a_shortcut_around_a_relu_is_not_replaced(inplace: bool) -> None:
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(inplace)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return 2 * self.relu(x.clone() if inplace else x) - 3 * x

    model = PreActivation().double()
    nn.init.ones_(model.conv.weight)
    images = torch.ones(1, 3, 3, 3, dtype=torch.float64)
    erf = NeuronERF(model, convention="luo2016")
    # Twice from the open ReLU, and minus three times from the shortcut.
    for name in ("gradient", "guided-backprop", "deconvolution"):
        assert erf.attribute(images, attribution=name)[0, :, 1, 1].tolist() == [-1.0, -1.0, -1.0], name
    # The ReLU is closed, and a deconvolution passes its gradient in any case.
    for name, expected in (("gradient", -3.0), ("guided-backprop", -3.0), ("deconvolution", -1.0)):
        assert erf.attribute(-images, attribution=name)[0, :, 1, 1].tolist() == [expected] * 3, name


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_relus_in_place_change_nothing(name: str) -> None:
    images = batch(side=8)
    plain = NeuronERF(small()).attribute(images, attribution=name)
    close(NeuronERF(small(inplace=True)).attribute(images, attribution=name), plain)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_the_network_and_the_images_are_left_as_they_were(name: str) -> None:
    model, images = small(inplace=True).train(), batch(side=8)
    model[0].weight.requires_grad_(False)
    before, given = copy.deepcopy(model.state_dict()), images.clone()
    state = torch.get_rng_state()
    NeuronERF(model).attribute(images, attribution=name)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks or module._backward_hooks for module in model.modules())
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert all(p.grad is None for p in model.parameters()) and [m.inplace for m in model if isinstance(m, nn.ReLU)]
    assert torch.equal(images, given) and images.grad is None and not images.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_images_do_not_influence_each_other(name: str) -> None:
    model, images = small(), batch(3, 8)
    together = NeuronERF(model).attribute(images, attribution=name)
    alone = torch.cat([NeuronERF(model).attribute(image[None], attribution=name) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    with torch.inference_mode():
        inside = NeuronERF(model).attribute(images.clone(), attribution=name)
    torch.testing.assert_close(inside, together, rtol=0, atol=0)
    assert NeuronERF(model).attribute(images[:0], attribution=name).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_an_image_that_is_not_finite_is_nan_alone(name: str) -> None:
    images = batch(2, 8)
    images[0, 1, 2, 3] = torch.nan
    found = NeuronERF(small()).attribute(images, attribution=name)
    assert found[0].isnan().all() and found[1].isfinite().all()


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_every_way_to_measure_gives_the_same_map(name: str) -> None:
    model, images = small(), batch(side=8)
    erf = NeuronERF(model, convention="openerf")
    attributions = erf.attribute(images, attribution=name)
    scores = erf.scores(attributions)
    torch.testing.assert_close(scores, attributions.mean(1).clamp_min(0), rtol=1e-14, atol=0)
    for found in (
        contribution_scores(model, images, convention="openerf", attribution=name),
        torch.from_numpy(
            np.stack(
                [
                    measure_erf(model, image[None], convention="openerf", attribution=name).contribution
                    for image in images
                ]
            )
        ),
    ):
        torch.testing.assert_close(found, scores, rtol=1e-9, atol=1e-9 * float(scores.max()))
    with input_gradient(model, convention="openerf", attribution=name) as gradient:
        close(gradient(images), attributions)
    accumulator = ErfAccumulator(model, convention="openerf", attribution=name)
    accumulator.update(images)
    result = accumulator.compute()
    np.testing.assert_allclose(result.contribution, scores.mean(0).numpy(), rtol=1e-12, atol=1e-16)
    recorded = result.run.config.get("attribution")
    assert recorded == (None if name == "gradient" else {"name": name, **OPTIONS[name]})


def test_a_position_replaces_that_of_the_convention() -> None:
    model, images = small(), batch()
    erf = NeuronERF(model, "5")
    found = erf.attribute(images, position=(3, 5))
    leaf = images.clone().requires_grad_()
    theirs = attr.NeuronGradient(model, model[5]).attribute(leaf, lambda f: f[:, :, 3, 5].relu().sum(1))
    close(found, theirs)
    with pytest.raises(InvalidInputError, match=r"Position 8,0 is outside the feature map"):
        erf.attribute(images, position=(8, 0))
    with pytest.raises(InvalidInputError, match="selector and also a position"):
        erf.attribute(images, (0, 1, 2), position=(3, 5))
    with pytest.raises(InvalidInputError, match=r"shape \[1, 4, 8, 8\], has no neuron \(4, 0, 0\)"):
        erf.attribute(images, (4, 0, 0))


def test_options_that_an_attribution_does_not_have_are_refused() -> None:
    erf, images = NeuronERF(small()), batch(1)
    with pytest.raises(InvalidInputError, match=r"'gradient' has no option n_steps. It has no options"):
        erf.attribute(images, n_steps=3)
    with pytest.raises(
        InvalidInputError, match=r"has no option steps. It has only baselines, n_steps, method, internal"
    ):
        erf.attribute(images, attribution="integrated-gradients", steps=3)
    with pytest.raises(InvalidInputError, match=r"Unknown attribution 'saliency'. Choose from gradient, input-x-gradi"):
        erf.attribute(images, attribution="saliency")
    with pytest.raises(InvalidInputError, match="Captum cannot compute attribution 'occlusion' with these options: "):
        erf.attribute(images, attribution="occlusion", sliding_window_shapes=(3, 3))
    for call in (ErfConfig, lambda **options: measure_erf(small(), images, **options)):
        with pytest.raises(InvalidInputError, match="Unknown attribution 'saliency'"):
            call(attribution="saliency")


def test_a_layer_without_a_gradient_is_refused() -> None:
    class Detached(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    model = Detached(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).double()
    for name in ("gradient", "integrated-gradients", "guided-backprop"):
        with pytest.raises(InvalidInputError, match="has no gradient with respect to the image"):
            NeuronERF(model, model).attribute(batch(1), attribution=name)


@pytest.mark.parametrize("name", ["guided-backprop", "deconvolution"])
def test_attributions_by_hooks_need_the_modules_of_the_network(name: str) -> None:
    model, images = small(), batch()
    with pytest.raises(InvalidInputError, match="which a prepared model may not have any more"):
        contribution_scores(prepare(model), images, attribution=name)
    with pytest.raises(InvalidInputError, match="which a prepared model may not have any more"):
        measure_erf(prepare(model), images, attribution=name)
    with pytest.raises(InvalidInputError, match=f"'{name}' cannot be computed with precision 'fast'"):
        ErfConfig(attribution=name, precision="fast")
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU()).double()
    for call in (measure_erf, contribution_scores):
        with pytest.raises(InvalidInputError, match="but Sequential has none: the result would be the gradient"):
            call(smooth, images, attribution=name)
    # The others are measured on a prepared copy.
    prepared = contribution_scores(prepare(model), images, attribution="smooth-grad")
    plain = contribution_scores(model, images, attribution="smooth-grad")
    torch.testing.assert_close(prepared, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["guided-backprop", "deconvolution"])
def test_a_network_of_timm_is_measured_as_captum_does(name: str) -> None:
    """Its ReLUs are in place, and its prepared copy folds them into the layers before them."""
    torch.manual_seed(0)
    model, images = timm.create_model("resnet10t").double().eval(), batch(2, 64)
    result = measure_erf(model, images, layer="layer3", attribution=name)
    method = {"guided-backprop": attr.NeuronGuidedBackprop, "deconvolution": attr.NeuronDeconvolution}[name]
    with pytest.warns(UserWarning, match="Setting backward hooks"):
        theirs = method(model, model.layer3).attribute(images.clone().requires_grad_(), middle).detach()
    expected = theirs.clamp_min(0).sum(1).mean(0).numpy()
    np.testing.assert_allclose(result.contribution, expected, rtol=1e-9, atol=1e-9 * expected.max())
    assert all(not module._forward_hooks for module in model.modules())


def test_an_attribution_is_recorded_and_said(tmp_path: Path) -> None:
    model, images = small(), batch()
    result = measure_erf(model, images, convention="openerf", attribution="integrated-gradients")
    result.save(tmp_path)
    loaded = ErfResult.load(tmp_path)
    assert loaded.run.config["attribution"] == {
        "name": "integrated-gradients", "baselines": 0, "n_steps": 50, "method": "gausslegendre",
        "internal_batch_size": 1,
    }  # fmt: skip
    assert loaded.definition == "openerf convention, integrated-gradients"
    assert "Map: openerf convention, integrated-gradients" in [text.get_text() for text in plot_erf(loaded).texts]
    seeded = measure_erf(model, images, attribution="smooth-grad", seed=5)
    other = measure_erf(model, images, attribution="smooth-grad")
    assert seeded.run.config["attribution"]["seed"] == 5
    assert not np.array_equal(seeded.contribution, other.contribution)
    assert "attribution" not in measure_erf(model, images).run.config


def test_the_command_measures_by_an_attribution(replk_probe: Callable[..., Result], tmp_path: Path) -> None:
    options = ("erf", "--model", "test_resnet", "--images", 1, "--size", 32, "-o", tmp_path)
    result = replk_probe(*options, "--attribution", "guided-backprop", "--layer", "layer2")
    assert result.exit_code == 0, result.output
    assert "guided-backprop; fp32" in " ".join(result.output.split())
    assert ErfResult.load(tmp_path).run.config["attribution"] == {"name": "guided-backprop"}
    refused = replk_probe(*options, "--attribution", "deconvolution", "--precision", "bf16")
    assert refused.exit_code != 0 and "Use --precision 'fp32'" in " ".join(refused.output.split())
    for option in ("--attribution", "--convention"):
        assert option in replk_probe("erf", "--help").output


def test_the_choices_of_the_command_are_those_of_the_function() -> None:
    from replk_probe.cli.erf import command
    from replk_probe.erf import CONVENTIONS

    choices = {parameter.name: getattr(parameter.type, "choices", None) for parameter in command.params}
    assert choices["attribution"] == ATTRIBUTIONS and choices["convention"] == tuple(CONVENTIONS)
