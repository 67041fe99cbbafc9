"""The layer that is measured by default: the value that enters the spatial reduction, whatever computed it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from replk_probe.erf import contribution_scores, measure_erf, prepare, probe_layer
from replk_probe.erf.probe_layer import find_target
from replk_probe.errors import InvalidInputError


def plain_scores(middle: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Contribution scores by plain autograd, from the features [N, C] of the middle position."""
    leaf = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(middle(leaf).relu().sum(), leaf)
    return gradient.clamp_min(0).sum(1)


def assert_measures(
    model: nn.Module, middle: Callable[[Tensor], Tensor], layer: str | None = None, size: int = 32
) -> None:
    """The scores are those of plain autograd, also those of a prepared copy."""
    model.eval()
    batch = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = plain_scores(middle, batch)
    assert expected.norm() > 0
    for measured in (model, prepare(model, layer=layer)):
        scores = contribution_scores(measured, batch, layer)
        assert (scores - expected).norm() <= 1e-6 * expected.norm()


class Trunk(nn.Module):
    """A small network for the cases; subclasses pool in their own ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = nn.GELU()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.body, self.shortcut = nn.Conv2d(6, 8, 5, 2, 2), nn.Conv2d(6, 8, 1, 2)
        self.fc = nn.Linear(8, 5)
        self.bn.running_mean.uniform_(-0.3, 0.3)
        self.bn.running_var.uniform_(0.5, 2.0)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.bn(self.stem(x)))
        return self.body(x), self.shortcut(x)

    def map(self, x: Tensor) -> Tensor:
        left, right = self.branches(x)
        return left + right

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def middle(self, x: Tensor) -> Tensor:
        y = self.map(x)
        return y[:, :, y.shape[2] // 2, y.shape[3] // 2]


class SumThenMean(Trunk):
    def forward(self, x: Tensor) -> Tensor:
        left, right = self.branches(x)
        return self.fc((left + right).mean((2, 3)))


class SumThenFlatten(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.branches(x)
        return self.fc(torch.flatten(left + right, 1))


class SumThenLargest(Trunk):
    def forward(self, x: Tensor) -> Tensor:
        left, right = self.branches(x)
        return self.fc((left + right).amax((-2, -1)))


class ReluThenPool(Trunk):
    """The ReLU changes nothing about the scores, so that its input may be measured."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.branches(x)
        return self.fc(F.adaptive_avg_pool2d(F.relu(left + right, inplace=True), 1).flatten(1))


class SharedActivation(Trunk):
    """One activation module after every layer, the last one included."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def map(self, x: Tensor) -> Tensor:
        return self.act(super().map(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.map(x)).flatten(1))


class SharedActivationThenMean(SharedActivation):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.map(x).mean((2, 3)))


class PooledFeatures(Trunk):
    """Its forward_features ends in the pooling."""

    def forward_features(self, x: Tensor) -> Tensor:
        return self.map(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


class FeatureDictionary(Trunk):
    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        y = self.map(x)
        return {"pooled": y.mean((2, 3)), "map": y}

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x)["pooled"])


class AttentionPool(Trunk):
    """Positions are weighted by attention with one learned query."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.kv = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.map(x).flatten(2).transpose(1, 2)
        k, v = self.kv(tokens).chunk(2, -1)
        weights = (self.query.expand(len(x), -1, -1) @ k.transpose(1, 2)).softmax(-1)
        return self.fc((weights @ v)[:, 0])


class Gated(Trunk):
    """A squeeze-and-excitation gate in front of the pooling: the pooled vector in the gate is not the reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def map(self, x: Tensor) -> Tensor:
        y = super().map(x)
        return y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.map(x).mean((2, 3)))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


class OwnFunction(Trunk):
    """The last map is computed by a function with a backward pass of its own."""

    def map(self, x: Tensor) -> Tensor:
        return Square.apply(super().map(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.map(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "label"),
    [
        (SumThenMean, "forward (add, operation 1)"),
        (SumThenFlatten, "forward (add, operation 1)"),
        (SumThenLargest, "forward (add, operation 1)"),
        (ReluThenPool, "forward (relu, operation 2)"),
        (SharedActivation, "pool (input)"),
        (SharedActivationThenMean, "act (call 2)"),
        (PooledFeatures, "forward (add, operation 1)"),
        (FeatureDictionary, "forward_features[map]"),
        (Gated, "forward (mul, operation 5)"),
        (OwnFunction, "forward (mul, operation 2)"),
    ],
)
def test_the_value_that_enters_the_reduction_is_measured(network: type[Trunk], label: str) -> None:
    model = network().eval()
    target = find_target(model, (1, 3, 32, 32))
    assert (target.label, target.layout.kind, target.layout.size) == (label, "NCHW", (8, 8))
    assert target.note is not None and label in target.note and "before pooling" in target.note
    assert_measures(model, model.middle)


def test_attention_pooling_is_a_reduction() -> None:
    model = AttentionPool().eval()
    target = find_target(model, (1, 3, 32, 32))
    assert (target.label, target.layout.size) == ("forward (add, operation 1)", (8, 8))
    assert_measures(model, model.middle)


def test_a_reduction_inside_a_block_is_found_again_in_the_real_run() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Conv2d(3, 3, 3, padding=1), SumThenMean()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.first(x)) * 2

    model = Outer().eval()
    assert find_target(model, (1, 3, 32, 32)).label == "inner (add, operation 1)"
    assert_measures(model, lambda x: model.inner.middle(model.first(x)))


def test_gradients_and_modes_do_not_change_which_operation_is_measured() -> None:
    model = SumThenMean().train()
    batch = torch.randn(1, 3, 32, 32)
    expected = contribution_scores(model.eval(), batch)
    assert torch.equal(contribution_scores(model.train().requires_grad_(False), batch), expected)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


class Pyramid(nn.Module):
    """Returns the maps of several stages."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stages = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)])

    def forward_features(self, x: Tensor) -> list[Tensor]:
        return [x := stage(x) for stage in self.stages]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([y.mean((2, 3)) for y in self.forward_features(x)], 1)


def test_of_several_outputs_the_last_stage_is_the_default_and_each_can_be_chosen() -> None:
    model = Pyramid().eval()
    batch = torch.randn(1, 3, 32, 32)
    assert find_target(model, batch.shape).label == "stages.2"
    for stage in range(3):
        target = find_target(model, batch.shape, f"forward_features[{stage}]")
        assert (target.label, target.layout.size) == (f"forward_features[{stage}]", (16 >> stage,) * 2)
        scores = contribution_scores(model, batch, f"forward_features[{stage}]")
        assert torch.equal(scores, contribution_scores(model, batch, f"stages.{stage}"))
    assert torch.equal(
        contribution_scores(model, batch, "forward_features[-1]"), contribution_scores(model, batch, "stages.2")
    )
    with pytest.raises(InvalidInputError, match=r"Choose one by its key, for example 'forward_features\[2\]'"):
        find_target(model, batch.shape, "forward_features")
    with pytest.raises(InvalidInputError, match=r"'forward_features\[3\]' is not one tensor"):
        find_target(model, batch.shape, "forward_features[3]")


@pytest.mark.parametrize(
    ("name", "few", "label", "size"),
    [
        ("crossvit_tiny_240", {"depth": [[1, 1, 0]] * 3}, "norm.1", (14, 14)),
        ("coat_tiny", {"serial_depths": [1] * 4, "parallel_depth": 1}, "norm4", (7, 7)),
        ("efficientvim_m1", {}, "forward_features[3]", (4, 4)),
        ("pit_s_distilled_224", {"depth": [1] * 3}, "transformers.2.blocks", (7, 7)),
    ],
)
def test_timm_networks_whose_features_are_no_map(
    name: str, few: dict[str, Any], label: str, size: tuple[int, int]
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **few)
    shape = timm.data.resolve_data_config({}, model=model)["input_size"]
    target = find_target(model, (1, *shape))
    assert (target.label, target.layout.size) == (label, size)


def test_pit_is_measured_at_its_middle_patch() -> None:
    torch.manual_seed(0)
    model = timm.create_model("pit_ti_distilled_224", depth=[1, 1, 1]).eval()
    batch = torch.randn(1, 3, 224, 224)
    features: list[Tensor] = []
    handle = model.transformers[2].blocks.register_forward_hook(lambda _module, _args, output: features.append(output))

    def middle(x: Tensor) -> Tensor:
        model(x)
        return features[-1][:, 2 + 3 * 7 + 3]  # two class tokens, then 7 x 7 patches

    expected = plain_scores(middle, batch)
    handle.remove()
    assert (contribution_scores(model, batch) - expected).norm() <= 1e-6 * expected.norm()


def test_a_map_of_one_row_is_noted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, (32, 8), (32, 8)), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 3, 32, 32))
    target = find_target(model, (1, 3, 32, 32), "0")
    assert target.note is not None and "only 1x4 positions" in target.note
    assert "only 1x4 positions" in " ".join(measure_erf(model, torch.randn(2, 3, 32, 32), layer="0").notes)


class TapeOnly(nn.Module):
    """The output depends on the image through statistics alone; its maps lead nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(7)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        return x.mean((2, 3))


def test_without_a_reduction_of_a_map_the_error_names_five_layers() -> None:
    with pytest.raises(InvalidInputError, match=r"the likeliest are layers\.6, .*layers\.2\. ?$|layers\.2") as error:
        find_target(TapeOnly(), (1, 3, 16, 16))
    assert "layers.1" not in str(error.value)


@pytest.mark.parametrize(
    ("build", "label"),
    [
        (
            lambda: torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
                backbone_name="resnet18", weights=None
            ),
            "fpn[pool]",
        ),
        (
            lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
            "output of the model",
        ),
    ],
    ids=["feature pyramid", "segmentation"],
)
def test_networks_that_return_maps(build: Callable[[], nn.Module], label: str) -> None:
    with torch.device("meta"):
        model = build()
    target = find_target(model, (1, 3, 128, 128))
    assert target.label.endswith(label) and min(target.layout.size) > 1
    assert target.note is not None and "map that it returns" in target.note


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.bottom = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.up, self.last = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x).relu()
        return self.last(torch.cat([skip, self.up(self.bottom(skip).relu())], 1))


def test_a_u_net_is_measured_at_its_output() -> None:
    model = UNet().eval()
    assert find_target(model, (1, 3, 32, 32)).label == "last"
    assert_measures(model, lambda x: model(x)[:, :, 16, 16])


class Sequence(nn.Module):
    """A sequence network over patches, whose extra tokens stand where ``order`` puts them."""

    def __init__(self, order: Callable[[Tensor, Tensor], Tensor], token: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order, self.token = order, token
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.extra = nn.Parameter(torch.randn(1, 1, 8))
        self.mix, self.layers = nn.Conv1d(8, 8, 3, padding=1), nn.Identity()
        self.head = nn.Linear(8, 3)

    def tokens(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.order(x, self.extra.expand(len(x), -1, -1))
        return self.layers(x + self.mix(x.transpose(1, 2)).transpose(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x).mean(1))

    def middle(self, x: Tensor) -> Tensor:
        return self.tokens(x)[:, self.token]


def spread(x: Tensor, extra: Tensor) -> Tensor:
    return torch.cat([part for quarter in x.chunk(4, 1) for part in (extra, quarter)], 1)


def windows(x: Tensor, _extra: Tensor) -> Tensor:
    """The patches of each quarter of the image one after the other."""
    return x.unflatten(1, (2, 4, 2, 4)).transpose(2, 3).flatten(1, 4)


def shuffled(x: Tensor, _extra: Tensor) -> Tensor:
    return x[:, torch.arange(63, -1, -1, device=x.device)]


@pytest.mark.parametrize(
    ("order", "token", "text"),
    [
        (lambda x, extra: torch.cat([extra, x], 1), 37, "1 of them prefix tokens"),
        (lambda x, extra: torch.cat([x[:, :32], extra, x[:, 32:]], 1), 37, "the middle one at index 37"),
        (lambda x, extra: torch.cat([x, extra], 1), 36, "tokens"),
        (lambda x, extra: torch.cat([extra, x, extra], 1), 37, "1 of them prefix tokens"),
        (spread, 39, "the middle one at index 39"),
        (windows, 48, "the middle one at index 48"),
        (lambda x, _extra: x.flip(1), 27, "the middle one at index 27"),
        (shuffled, 27, "the middle one at index 27"),
    ],
    ids="first middle last both spread windows reversed index".split(),
)
def test_the_middle_token_is_that_of_the_middle_patch(order: Any, token: int, text: str) -> None:
    model = Sequence(order, token).eval()
    for layer in ("layers", None):
        target = find_target(model, (1, 3, 32, 32), layer)
        assert target.layout.size == (8, 8) and str(target.layout).endswith(text)
    assert_measures(model, model.middle, "layers")
    scores = contribution_scores(model, torch.randn(8, 3, 32, 32), "layers").sum(0)
    assert divmod(int(scores.view(8, 4, 8, 4).sum((1, 3)).argmax()), 8) == (4, 4)


def test_tokens_that_are_no_grid_are_refused() -> None:
    model = Sequence(lambda x, _extra: x[:, :60], 0)
    with pytest.raises(InvalidInputError, match=r"'layers' gives \[N, 60, 8\].*no rows and columns"):
        find_target(model, (1, 3, 32, 32), "layers")


def test_an_order_that_depends_on_values_is_noted() -> None:
    def by_norm(x: Tensor, _extra: Tensor) -> Tensor:
        return x.gather(1, x.norm(dim=-1, keepdim=True).argsort(1).expand_as(x))

    target = find_target(Sequence(by_norm, 0), (1, 3, 32, 32), "layers")
    assert target.note is not None and "order of the tokens could not be followed" in target.note


def test_hiera_is_measured_at_its_middle_patch_before_it_reorders_its_tokens() -> None:
    torch.manual_seed(0)
    model = timm.create_model("hiera_tiny_224", stages=(1, 1, 1, 1)).eval()
    scores = contribution_scores(model, torch.randn(1, 3, 224, 224), "blocks.0")[0]
    y, x = divmod(int(scores.argmax()), 224)
    assert abs(y - 114) <= 6 and abs(x - 114) <= 6


class PlainViT(nn.Module):
    """A transformer written with torch's own layers; the class token or the mean goes into the head."""

    def __init__(self, use_class_token: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.to_patches = nn.Linear(3 * 4 * 4, 16)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16)) if use_class_token else None
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def tokens(self, x: Tensor) -> Tensor:
        n = len(x)
        x = x.reshape(n, 3, 8, 4, 8, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, 64, 48)
        x = self.to_patches(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(n, -1, -1), x], 1)
        return self.transformer(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        return self.head(x.mean(1) if self.cls_token is None else x[:, 0])


@pytest.mark.parametrize("use_class_token", [False, True])
def test_transformers_written_by_users(use_class_token: bool) -> None:
    model = PlainViT(use_class_token).eval()
    target = find_target(model, (1, 3, 32, 32))
    prefix = int(use_class_token)
    assert (target.label, target.layout.size, target.layout.prefix) == ("transformer", (8, 8), prefix)
    assert_measures(model, lambda x: model.tokens(x)[:, prefix + 36])


def small_transformers() -> list[tuple[str, Callable[[Any], nn.Module], str, str, tuple[int, int], int]]:
    """Name, builder from the package, expected layer, layout, size and prefix."""
    vit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vit |= {"image_size": 64, "patch_size": 8}

    def convnext(t: Any) -> nn.Module:
        sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
        model: nn.Module = t.ConvNextForImageClassification(t.ConvNextConfig(**sizes))
        return model

    def swin(t: Any) -> nn.Module:
        sizes = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
        model: nn.Module = t.SwinForImageClassification(t.SwinConfig(window_size=4, **sizes))
        return model

    return [
        ("vit", lambda t: t.ViTForImageClassification(t.ViTConfig(**vit)), "vit", "NLC", (8, 8), 1),
        ("clip", lambda t: t.CLIPVisionModel(t.CLIPVisionConfig(**vit)), "encoder", "NLC", (8, 8), 1),
        (
            "dinov2 with registers",
            lambda t: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(num_register_tokens=4, **vit)),
            "layernorm",
            "NLC",
            (8, 8),
            5,
        ),
        ("convnext", convnext, "convnext", "NCHW", (2, 2), 0),
        ("swin", swin, "swin.pooler (input)", "NCL", (8, 8), 0),
    ]


@pytest.mark.parametrize("case", small_transformers(), ids=lambda case: case[0])
def test_towers_of_transformers(case: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    _, build, label, kind, size, prefix = case
    torch.manual_seed(0)
    model = build(transformers).eval()
    target = find_target(model, (1, 3, 64, 64))
    assert label in target.label
    assert (target.layout.kind, target.layout.size, target.layout.prefix) == (kind, size, prefix)
    batch = torch.randn(4, 3, 64, 64)
    features: list[Any] = []
    scores = contribution_scores(model, batch)
    module = model.get_submodule(str(target.path))
    if target.side == "input":
        handle = module.register_forward_pre_hook(lambda _module, args: features.append(args))
    else:
        handle = module.register_forward_hook(lambda _module, _args, output: features.append(output))

    def middle(x: Tensor) -> Tensor:
        model(x)
        given = features[-1]
        return target.layout.at(given if isinstance(given, Tensor) else given[0], target.layout.middle)

    expected = plain_scores(middle, batch)
    handle.remove()
    assert (scores - expected).norm() <= 1e-6 * expected.norm()
    stride = 64 // size[0]
    peak = divmod(int(scores.sum(0).view(size[0], stride, size[1], stride).sum((1, 3)).argmax()), size[1])
    assert peak == (size[0] // 2, size[1] // 2)


def cases(data_dir: Path, name: str) -> Any:
    path = data_dir.parent / "cases" / f"{name}.py"
    if not path.is_file():
        pytest.skip(f"there is no folder of cases with {name}.py beside the data folder")
    spec = importlib.util.spec_from_file_location(f"cases_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["first", "middle", "last", "both_ends", "spread"])
def test_token_cases(name: str, data_dir: Path) -> None:
    model = getattr(cases(data_dir, "tokens"), name)()
    scores = contribution_scores(model, torch.randn(8, 3, 64, 64), "layers").sum(0)
    assert divmod(int(scores.view(8, 8, 8, 8).sum((1, 3)).argmax()), 8) == (4, 4)


@pytest.mark.parametrize(("name", "label"), [("cx", "stages.1"), ("van", "norm1"), ("tup", "norm1")])
def test_pooled_cases(name: str, label: str, data_dir: Path) -> None:
    model = getattr(cases(data_dir, "pooled"), name)().eval()
    assert find_target(model, (1, 3, 64, 64)).label == label
    batch = torch.randn(2, 3, 64, 64)
    scores = contribution_scores(model, batch)
    assert torch.equal(scores, contribution_scores(model, batch, label))


def test_the_case_of_a_shared_activation(data_dir: Path) -> None:
    model = cases(data_dir, "in_forward").shared_activation().eval()

    def middle(x: Tensor) -> Tensor:
        x = model.act(model.bn0(model.stem(x)))
        x = model.act(model.bn1(model.head(x)))
        return x[:, :, x.shape[2] // 2, x.shape[3] // 2]

    assert_measures(model, middle)


def test_the_default_layer_is_found_once_for_each_model_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SumThenMean()
    runs: list[int] = []
    run = probe_layer._run
    monkeypatch.setattr(probe_layer, "_run", lambda *args: (runs.append(1), run(*args))[1])
    for size in (32, 32, 40, 32):
        contribution_scores(model, torch.randn(1, 3, size, size))
    assert len(runs) == 2
    model.body = nn.Conv2d(6, 8, 3, 2, 1)  # another structure
    contribution_scores(model, torch.randn(1, 3, 32, 32))
    assert len(runs) == 3
