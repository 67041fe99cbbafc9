"""Contribution scores with known exact values, and state that must not change while they are computed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replk_probe.erf import contribution_scores, input_gradient, measure_erf
from replk_probe.erf.probe_layer import find_target
from replk_probe.errors import InvalidInputError


def positive_conv(channels_in: int, channels_out: int, kernel: int, **options: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, kernel, **options).double()
    nn.init.uniform_(conv.weight, 0.1, 1.0)
    nn.init.constant_(conv.bias, 100.0)  # keeps the ReLU of the definition open
    return conv


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_one_convolution_gives_its_own_kernel_at_the_middle() -> None:
    conv = positive_conv(3, 4, 5, padding=2)
    scores = contribution_scores(conv, images(2, 3, 20, 30))
    expected = torch.zeros(20, 30, dtype=torch.float64)
    expected[8:13, 13:18] = conv.weight.sum(dim=(0, 1)).detach()
    torch.testing.assert_close(scores, expected.expand(2, -1, -1), rtol=1e-14, atol=0)
    assert (scores[:, :8] == 0).all() and (scores[:, 13:] == 0).all()


def test_negative_gradients_count_as_zero_per_color_before_they_are_added() -> None:
    conv = nn.Conv2d(3, 1, 1).double()
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, -5.0, 3.0]).view(1, 3, 1, 1))
        conv.bias.fill_(100.0)
    scores = contribution_scores(conv, images(1, 3, 7, 7))
    assert scores[0, 3, 3] == 5.0
    assert scores.sum() == 5.0


def test_a_closed_relu_contributes_nothing() -> None:
    conv = positive_conv(3, 2, 3, padding=1)
    with torch.no_grad():
        conv.bias[0] = -1000.0
    scores = contribution_scores(conv, images(1, 3, 9, 9))
    torch.testing.assert_close(scores[0, 3:6, 3:6], conv.weight[1].sum(dim=0).detach(), rtol=1e-14, atol=0)


def test_a_linear_stack_gives_the_kernels_convolved_with_each_other() -> None:
    kernels = [positive_conv(1, 1, size, padding=size // 2) for size in (3, 5, 7)]
    scores = contribution_scores(nn.Sequential(*kernels), images(1, 1, 41, 41))
    # Backwards a convolution spreads by its kernel: full convolution of an impulse with all three.
    expected = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    expected[0, 0, 20, 20] = 1.0
    for conv in reversed(kernels):
        expected = F.conv_transpose2d(expected, conv.weight, padding=conv.padding)
    torch.testing.assert_close(scores, expected[0].detach(), rtol=1e-13, atol=1e-13)
    assert (scores[0, 14:27, 14:27] > 0).all() and scores.count_nonzero() == 13 * 13


def test_a_stem_without_padding_shifts_the_map() -> None:
    patchify = positive_conv(3, 2, 4, stride=4)
    scores = contribution_scores(patchify, images(1, 3, 32, 48))
    rows, columns = scores[0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max()) == (16, 19)  # place 32 / 4 // 2 = 4 sees pixels 16 to 19: its middle is 17.5
    assert (columns.min(), columns.max()) == (24, 27)


def test_float32_agrees_with_float64() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 3, 1, 1), nn.Flatten(0, 0)
    )
    exact = contribution_scores(model.double(), images(2, 3, 32, 32))
    scores = contribution_scores(model.float(), images(2, 3, 32, 32))
    assert scores.dtype == torch.float32
    assert (scores.double() - exact).norm() < 1e-5 * exact.norm()


def test_low_precision_models_give_float32_scores() -> None:
    scores = contribution_scores(positive_conv(3, 4, 3, padding=1).bfloat16(), images(1, 3, 9, 9))
    assert scores.dtype == torch.float32


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    # A norm without running statistics couples the images of a batch.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3)).double()
    batch = images(3, 3, 12, 12)
    one_by_one = torch.cat([contribution_scores(model, image[None]) for image in batch])
    torch.testing.assert_close(contribution_scores(model, batch), one_by_one, rtol=1e-12, atol=1e-15)


class Tokens(nn.Module):
    """Norms whose gradient torch computes wrong for one image: module, timm's subclass, function, training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.norm = nn.BatchNorm2d(12)
        self.act_norm = timm.layers.BatchNormAct2d(12, act_layer=nn.Tanh)
        self.norm_of_image = nn.InstanceNorm2d(12, affine=True)
        self.mix = nn.Linear(12, 12)
        self.norm_of_features = nn.LayerNorm(12)
        for values in self.norm.running_var, self.norm.weight, self.act_norm.running_var, self.act_norm.weight:
            nn.init.uniform_(values, 0.5, 2.0)

    def norms(self) -> list[Any]:
        last = self.norm
        return [
            self.norm,
            self.act_norm,
            self.norm_of_image,
            lambda x: F.batch_norm(x, last.running_mean, last.running_var, last.weight, last.bias),
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm in self.norms():
            tokens = norm(x).flatten(2).transpose(1, 2)
            x = x + self.mix(self.norm_of_features(tokens)).transpose(1, 2).unflatten(2, x.shape[2:])
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean((2, 3))


@pytest.mark.parametrize("number", [1, 2])
def test_norms_before_tokens_have_the_gradient_of_finite_differences(number: int) -> None:
    torch.manual_seed(0)
    model = Tokens().double().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = images(number, 3, 8, 8)
    with input_gradient(model) as gradient:
        found = gradient(batch)
    assert hooks_of(model) == 0 and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def middle(x: Tensor) -> Tensor:
        return model.forward_features(x)[:, :, 2, 2].relu().sum((0, 1))

    step = 1e-6
    with torch.no_grad():
        for index in itertools.product(range(number), range(3), range(8), range(8)):
            moved = torch.zeros_like(batch)
            moved[index] = step
            expected = (middle(batch + moved) - middle(batch - moved)) / (2 * step)
            assert abs(found[index] - expected) < 1e-7
    assert found.abs().max() > 1e-3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.late = nn.Conv2d(4, 4, 3, padding=1)
        self.explode = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.stem(x)))
        if self.explode:
            raise ZeroDivisionError("a bug of the network")
        return self.late(x)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_modes_gradients_parameters_and_batch_are_left_alone() -> None:
    model = Net().train()
    model.norm.eval()
    model.late.weight.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = torch.randn(2, 3, 8, 8)
    before = batch.clone()

    first = contribution_scores(model, batch)

    assert torch.equal(first, contribution_scores(model, batch)), "dropout was active"
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wants
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(batch, before) and not batch.requires_grad and batch.grad is None
    assert hooks_of(model) == 0


@pytest.mark.parametrize("layer", [None, "stem", "late"])
def test_hooks_and_modes_are_restored_after_an_exception(layer: str | None) -> None:
    model = Net().train()
    model.explode = True
    if layer == "stem":
        contribution_scores(model, torch.randn(1, 3, 8, 8), layer)  # the failure lies behind the layer
    else:
        with pytest.raises(InvalidInputError, match="a bug of the network"):
            contribution_scores(model, torch.randn(1, 3, 8, 8), layer)
    assert hooks_of(model) == 0
    assert all(module.training for module in model.modules())


def test_nothing_after_the_layer_is_computed() -> None:
    model = Net()
    calls: list[int] = []
    model.late.register_forward_hook(lambda *_: calls.append(1))
    contribution_scores(model, torch.randn(1, 3, 8, 8), "norm")
    assert calls == []


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_works_inside_contexts_that_turn_gradients_off(context: type) -> None:
    model = Net().requires_grad_(False)
    expected = contribution_scores(model, torch.ones(1, 3, 8, 8))
    with context():
        batch = torch.ones(1, 3, 8, 8)
        scores = contribution_scores(model, batch)
    assert torch.equal(scores, expected)


def test_autocast_of_the_caller_has_no_effect() -> None:
    model, batch = Net(), images(1, 3, 9, 9).float()
    expected = contribution_scores(model, batch)
    with torch.autocast("cpu"):
        assert torch.equal(contribution_scores(model, batch), expected)
        assert torch.is_autocast_enabled("cpu")


def test_threads_may_share_a_model() -> None:
    together = threading.Barrier(3)

    class Slow(Net):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                together.wait(timeout=30)  # until every thread has a hook on the layer
            return super().forward(x)

    plain = Net().double().eval()
    model = Slow().double().eval()
    model.load_state_dict(plain.state_dict())
    batches = [images(1, 3, 9, 9) * scale for scale in (1, 2, -1)]
    for side in ("output", "input"):
        feature = replace(find_target(plain, (1, 3, 9, 9), "late"), side=side)
        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(lambda batch, at=feature: contribution_scores(model, batch, at), batches))
        for scores, batch in zip(found, batches, strict=True):
            assert torch.equal(scores, contribution_scores(plain, batch, feature))


def test_a_network_may_write_into_its_input() -> None:
    class Normalizing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.sub_(0.5).div_(2.0))

    model = Normalizing().double()
    batch = images(1, 3, 9, 9)
    before = batch.clone()
    plain = contribution_scores(model.conv, (batch - 0.5) / 2)
    torch.testing.assert_close(contribution_scores(model, batch), plain / 2)
    assert torch.equal(batch, before)


def test_non_finite_gradients_stay_visible() -> None:
    model = nn.Conv2d(3, 1, 3, padding=1)
    with torch.no_grad():
        model.weight.fill_(2e38)  # The sum over the channels of the image overflows.
    scores = contribution_scores(model, torch.full((1, 3, 8, 8), 1e-3))
    assert torch.isinf(scores).any() and not torch.isnan(scores).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(8, 8), (0, 0)], ids=["seen by the middle", "out of its sight"])
def test_an_image_that_is_not_finite_has_no_scores_and_the_others_have_theirs(
    value: float, place: tuple[int, int]
) -> None:
    # ReLUs and convolutions hand a NaN forward, and not one of their gradients shows it.
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    batch = torch.randn(3, 3, 16, 16)
    clean = contribution_scores(model, batch, "2")
    batch[1, 0, place[0], place[1]] = value
    scores = contribution_scores(model, batch, "2")
    assert scores[1].isnan().all()
    assert torch.equal(scores[::2], clean[::2])


def test_features_that_are_not_finite_give_no_scores() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    with torch.no_grad():
        model[0].bias.fill_(3e38)
        model[2].weight.fill_(3e38)
    assert contribution_scores(model, torch.randn(1, 3, 8, 8), "2").isnan().all()


@pytest.mark.parametrize(
    ("name", "value", "defect"),
    [
        ("0.weight", float("nan"), "values that are not finite"),
        ("0.bias", -float("inf"), "values that are not finite"),
        ("1.running_mean", float("inf"), "values that are not finite"),
        ("1.running_var", -1e-9, "negative variances"),
    ],
)
def test_unusable_weights_before_the_layer_are_named(name: str, value: float, defect: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1))
    batch = torch.randn(2, 3, 8, 8)
    expected = contribution_scores(model, batch, "1")
    with torch.no_grad():
        model[2].weight.fill_(float("nan"))  # after the layer
    assert torch.equal(contribution_scores(model, batch, "1"), expected)
    with torch.no_grad():
        model.state_dict()[name][1] = value
    message = rf"Sequential cannot be used\. {name} has {defect}\."
    with pytest.raises(InvalidInputError, match=message):
        contribution_scores(model, batch, "1")
    with pytest.raises(InvalidInputError, match=message):
        measure_erf(model, batch, layer="1")


def test_unusable_weights_of_a_factory_are_named(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))\n"
        "    net[1].running_var[2] = -1e-6\n"
        "    return net\n"
    )
    with pytest.raises(InvalidInputError, match=r"1\.running_var has negative variances"):
        measure_erf(f"{source}:make", torch.randn(1, 3, 16, 16), layer="2")
    assert measure_erf(f"{source}:make", torch.randn(1, 3, 16, 16), layer="0").contribution.any()


def test_weights_that_no_module_of_their_own_reads_are_named() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens)[0]

    model, batch = Attention(), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        model.attention.out_proj.weight[0, 0] = float("nan")
    assert contribution_scores(model, batch, "patches").isfinite().all()
    with pytest.raises(InvalidInputError, match=r"attention\.out_proj\.weight has values that are not finite"):
        contribution_scores(model, batch, "attention[0]")
    with torch.no_grad():
        model.attention.out_proj.weight[0, 0] = 0.0
    assert contribution_scores(model, batch, "attention[0]").isfinite().all()


def test_an_empty_batch_gives_no_scores() -> None:
    assert contribution_scores(Net(), torch.empty(0, 3, 8, 9)).shape == (0, 8, 9)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 8, 8), r"\[3, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        ("picture.jpg", "str"),
    ],
    ids=["one image", "bytes", "a name"],
)
def test_batches_that_cannot_be_used(batch: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        contribution_scores(Net(), batch)


@pytest.mark.parametrize(
    ("model", "shape", "layer", "message"),
    [
        (Net(), (1, 1, 8, 8), "stem", r"does not accept images of shape \[1, 8, 8\]"),
        (Net(), (1, 1, 8, 8), None, r"does not accept images of shape \[1, 8, 8\]"),
        (
            timm.create_model("test_resnet"),
            (1, 1, 32, 32),
            None,
            r"32, 32\]. Its first layer takes 3 channels, not 1",
        ),
        (timm.create_model("test_resnet"), (2, 3, 0, 32), None, r"\[3, 0, 32\]"),
        (Net(), (1, 3, 8, 8), 3, "or a module of the model, got 3"),
        (Net(), (1, 3, 8, 8), ["stem"], "Expected a layer name"),
        ("resnet18", (1, 3, 8, 8), None, r"create_model\('resnet18'\)"),
        (Net, (1, 3, 8, 8), None, "the class Net"),
        (None, (1, 3, 8, 8), None, "an object of type NoneType"),
    ],
)
def test_arguments_that_cannot_be_used(model: Any, shape: tuple[int, ...], layer: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        contribution_scores(model, torch.zeros(shape), layer)


def test_weights_made_under_inference_mode_are_refused_clearly() -> None:
    with torch.inference_mode():
        model = Net()
    with pytest.raises(InvalidInputError, match="inference_mode"):
        contribution_scores(model, torch.ones(1, 3, 8, 8))


def test_the_input_gradient_is_signed_and_leaves_no_hook() -> None:
    model, batch = Net().train(), images(2, 3, 9, 9).float()
    with input_gradient(model, layer=model.late) as gradient:
        assert repr(gradient) == "InputGradient(model='Net', layer='late', sizes=[])"
        found = gradient(batch)
        assert found.shape == batch.shape and (found < 0).any() and not found.requires_grad
        assert torch.equal(gradient.scores(batch), contribution_scores(model, batch, "late"))
        assert torch.equal(found.clamp_min(0).sum(1), gradient.scores(batch))
        assert gradient(images(1, 3, 7, 8)).shape == (1, 3, 7, 8)
        assert hooks_of(model) == 0 and all(module.training for module in model.modules())
        assert repr(gradient) == "InputGradient(model='Net', layer='late', sizes=[(9, 9), (7, 8)])"
    with pytest.raises(InvalidInputError, match="closed at the end of its 'with' block"):
        gradient(batch)
    assert repr(gradient) == "InputGradient(closed)"


def test_hooks_of_the_input_gradient_are_gone_after_an_exception() -> None:
    class Fragile(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.explode:
                assert hooks_of(self) == 1
                raise KeyboardInterrupt
            return super().forward(x)

    model = Fragile()
    with pytest.raises(KeyboardInterrupt), input_gradient(model, "late") as gradient:
        gradient(images(1, 3, 9, 9))
        model.explode = True
        gradient(images(1, 3, 9, 9))
    assert hooks_of(model) == 0
