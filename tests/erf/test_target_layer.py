"""Which layer is measured, and which of its axes are rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from replk_probe.erf import contribution_scores, measure_erf, prepare, probe_layer
from replk_probe.erf.feature_layout import Layout, layout_of
from replk_probe.erf.probe_layer import UnsuitableSizeError, find_target
from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize(
    ("build", "size", "label", "layout"),
    [
        (lambda: timm.create_model("resnet10t"), (96, 64), "layer4", Layout("NCHW", (3, 2))),
        (lambda: timm.create_model("convnext_atto"), (64, 64), "stages", Layout("NCHW", (2, 2))),
        (lambda: timm.create_model("mobilenetv3_small_100"), (64, 64), "forward_features", Layout("NCHW", (2, 2))),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", depth=1),
            (224, 224),
            "norm (input)",
            Layout("NLC", (14, 14), 1),
        ),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=1),
            (64, 96),
            "norm (input)",
            Layout("NLC", (4, 6), 1),
        ),
        (
            lambda: timm.create_model("deit_tiny_distilled_patch16_224", depth=1),
            (224, 224),
            "norm (input)",
            Layout("NLC", (14, 14), 2),
        ),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", reg_tokens=4, depth=1),
            (224, 224),
            "norm (input)",
            Layout("NLC", (14, 14), 5),
        ),
        (
            lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)),
            (224, 224),
            "norm (input)",
            Layout("NHWC", (7, 7)),
        ),
        (
            lambda: on_meta(torchvision.models.vit_b_32),
            (224, 224),
            "encoder.ln (input)",
            Layout("NLC", (7, 7), 1),
        ),
        (lambda: torchvision.models.swin_t(), (224, 224), "norm (input)", Layout("NHWC", (7, 7))),
    ],
    ids="resnet convnext mobilenet vit vit-wide deit registers swin tv-vit tv-swin".split(),
)
def test_layer_and_layout(build: Any, size: tuple[int, int], label: str, layout: Layout) -> None:
    feature = find_target(build(), (1, 3, *size))
    assert (feature.label, feature.layout, feature.note) == (label, layout, None)


@pytest.mark.parametrize(
    ("name", "path", "size"),
    [
        ("squeezenet1_0", "classifier.2", (13, 13)),
        ("resnet18", "layer4", (7, 7)),
        ("vgg11", "features", (7, 7)),
        ("densenet121", "features", (7, 7)),
        ("convnext_tiny", "features", (7, 7)),
        ("shufflenet_v2_x0_5", "conv5", (7, 7)),
    ],
)
def test_without_forward_features_the_last_map_before_pooling_is_used_and_noted(
    name: str, path: str, size: tuple[int, int]
) -> None:
    model = on_meta(lambda: torchvision.models.get_model(name, weights=None))
    feature = find_target(model, (1, 3, 224, 224))
    assert feature.path == path
    assert feature.layout == Layout("NCHW", size)
    assert feature.note is not None and path in feature.note and "before pooling" in feature.note


def test_the_same_map_in_three_layouts_gives_the_same_scores() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 5, stride=2, padding=2).double()

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.body = conv, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2))

    class Tokens(ChannelsLast):
        def __init__(self, prefix: int) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, prefix, 5, dtype=torch.float64)) if prefix else None

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).flatten(2).transpose(1, 2)
            if self.cls_token is not None:
                x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
            return self.body(x).mean(1)

    for size in ((32, 32), (24, 40), (10, 10)):  # at 10 x 10 the map is 5 x 5 x 5: a cube
        batch = torch.randn(2, 3, *size, dtype=torch.float64)
        expected = contribution_scores(conv, batch)
        assert expected.count_nonzero() > 0
        for model in (ChannelsLast(), Tokens(0), Tokens(1), Tokens(5)):
            assert torch.equal(contribution_scores(model, batch, "body"), expected), (type(model).__name__, size)


def test_swin_and_vit_scores_are_around_the_middle_patch() -> None:
    torch.manual_seed(0)
    batch = torch.randn(1, 3, 64, 64)
    for model in (
        timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1),
        timm.create_model("swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1)),
    ):
        scores = contribution_scores(model, batch)[0]
        y, x = divmod(int(scores.view(8, 8, 8, 8).sum((1, 3)).argmax()), 8)
        assert 4 <= y < 8 and 4 <= x < 8  # the place (h // 2, w // 2) lies in the lower right quarter


def no_other_size(_size: tuple[int, int]) -> None:
    return None


def test_ambiguous_layouts_are_resolved_by_a_second_size_or_the_networks_attribute() -> None:
    cube = (1, 8, 8, 8)
    model = nn.Identity()
    assert layout_of(cube, (64, 64), model, "x", lambda _: (1, 8, 16, 16)).kind == "NCHW"
    assert layout_of(cube, (64, 64), model, "x", lambda _: (1, 16, 16, 8)).kind == "NHWC"
    assert layout_of(cube, (64, 64), model, "x", no_other_size).kind == "NCHW"
    model.output_fmt = "NHWC"
    assert layout_of(cube, (64, 64), model, "x", no_other_size).kind == "NHWC"


@pytest.mark.parametrize("shape", [(1, 1000), (1, 3, 8, 8, 2), (1, 11, 7), (1, 12, 197, 64)])
def test_other_outputs_are_an_error_that_describes_them(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="'deep.layer' gives .*" + str(shape[-1])):
        layout_of(shape, (224, 224), nn.Identity(), "deep.layer", no_other_size)


def test_attention_probabilities_are_not_a_map() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(InvalidInputError, match="197, 197"):
        layout_of((1, 3, 197, 197), (224, 224), model, "attn", no_other_size)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.shared = nn.ReLU()
        self.unused = nn.Conv2d(3, 4, 3)
        self.pair, self.wrapped, self.mapping, self.sorting, self.cut, self.vector = (nn.Identity() for _ in range(6))
        for module, function in (
            (self.pair, lambda x: (x, x)),
            (self.wrapped, lambda x: (x, None)),
            (self.mapping, lambda x: {"out": x, "aux": x}),
            (self.sorting, lambda x: x.argsort(1)),
            (self.cut, lambda x: x.detach()),
            (self.vector, lambda x: x.mean((2, 3))),
        ):
            module.forward = function  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(self.stem(x)))
        for module in (self.pair, self.wrapped, self.mapping, self.sorting, self.cut, self.vector):
            module(x)
        return x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("shared", "called 2 times"),
        ("unused", "is not called"),
        ("pair", r"a tuple \(\[1, 4, 8, 8\], \[1, 4, 8, 8\]\)"),
        ("mapping", "a dict with 'out', 'aux'"),
        ("sorting", "no gradient"),
        ("cut", "no gradient"),
        ("vector", r"\[N, 4\]"),
        ("missing", "'missing' does not exist"),
        ("stage9.0", "stage9.0"),
    ],
)
def test_layers_that_cannot_be_measured(layer: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        contribution_scores(Odd(), torch.randn(1, 3, 8, 8), layer)


def test_a_layer_whose_input_depends_only_on_parameters_is_refused() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.bias = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x) + self.bias(torch.ones(len(x), 4, *x.shape[2:], device=x.device))

    with pytest.raises(InvalidInputError, match="'bias' has no gradient with respect to the image"):
        contribution_scores(Positions(), torch.randn(1, 3, 8, 8), "bias")


def test_a_tuple_with_one_tensor_is_fine() -> None:
    model = Odd()
    batch = torch.randn(1, 3, 8, 8)
    assert torch.equal(contribution_scores(model, batch, "wrapped"), contribution_scores(model, batch, "stem"))


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="none of its modules gives a map"):
        contribution_scores(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), torch.randn(1, 3, 8, 8))


def test_a_network_that_fails_on_the_size_is_an_explained_error() -> None:
    with pytest.raises(UnsuitableSizeError, match="VisionTransformer does not accept images of shape"):
        find_target(timm.create_model("vit_tiny_patch16_224", depth=1), (1, 3, 100, 100))


def test_a_named_layer_can_be_measured_although_the_head_needs_one_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    assert contribution_scores(model, torch.randn(1, 3, 16, 16), "0").shape == (1, 16, 16)


def test_networks_whose_shapes_depend_on_values_are_measured_too() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x * float(1 + 0 * x.sum().item()))

    target = find_target(Peeking(), (1, 3, 8, 8))
    assert target.layout == Layout("NCHW", (8, 8))


def test_hooks_of_the_user_are_not_run_during_inspection() -> None:
    model = timm.create_model("resnet10t")
    seen: list[Tensor] = []
    model.layer1.register_forward_hook(lambda _module, _args, output: seen.append(output))
    find_target(model, (1, 3, 64, 64))
    assert seen == []


def test_a_module_of_the_model_chooses_the_layer() -> None:
    model = timm.create_model("resnet10t")
    batch = torch.randn(1, 3, 64, 64)
    expected = contribution_scores(model, batch, "layer2.0")
    assert torch.equal(contribution_scores(model, batch, model.layer2[0]), expected)
    assert measure_erf(model, batch, layer=model.layer2[0]).layer == "layer2.0"
    assert prepare(model, layer=model.layer2).left_out == ""
    whole = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert find_target(whole, (1, 3, 8, 8), whole).label == "output of the model"
    for call in (contribution_scores, measure_erf):
        with pytest.raises(InvalidInputError, match="a module of type ReLU, is not part of this ResNet"):
            call(model, batch, layer=nn.ReLU())
    with pytest.raises(InvalidInputError, match="is not part of this ResNet"):
        prepare(model, layer=timm.create_model("resnet10t").layer2)


def test_a_module_chooses_the_layer_of_a_copy_for_another_size_too() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    result = measure_erf(model, torch.randn(1, 3, 64, 64), layer=model.blocks[0])
    assert (result.layer, result.feature_size) == ("blocks.0", (4, 4))


def test_the_network_is_run_once_to_find_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchvision:squeezenet1_1", "mobilenetv3_small_100", "resnet10t"):
        model = create_model(name, "random")
        runs: list[int] = []
        run = probe_layer._run
        monkeypatch.setattr(probe_layer, "_run", lambda *args, run=run, runs=runs: (runs.append(1), run(*args))[1])
        find_target(model, (1, 3, 64, 96))
        monkeypatch.undo()
        assert runs == [1], name
