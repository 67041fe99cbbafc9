"""Forward passes that compute only what the measured positions depend on: the same maps as for the whole image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from replk_probe.erf import forward_region, measure_erf, prepare
from replk_probe.erf.contribution import InputGradient
from replk_probe.erf.forward_region import ForwardRegion, find_region
from replk_probe.erf.probe_layer import find_target
from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model
from replk_probe.models.architectures.mobilenet_v2 import LargeKernelMobileNetV2
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.architectures.slak import SLaK
from replk_probe.models.architectures.unireplknet import UniRepLKNet
from replk_probe.models.inference.prepare import PreparedModel

# Crops change at most the order of sums. That of n float64 products is rounded by up to n * 1.1e-16 of the sum of their
# magnitudes, and these networks have n < 1e4 and ten layers. A row in the wrong place changes the map by 0.01 and more.
ROUNDING = 1e-11

SMALL: dict[str, Any] = {"num_classes": 10}


def image(*size: int, channels: int = 3) -> Tensor:
    return torch.randn(1, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def scores_and_region(
    model: nn.Module | PreparedModel, images: Tensor, layer: str | None = None, **options: Any
) -> tuple[Tensor, Tensor, ForwardRegion]:
    """Scores without and with crops, and the crops."""
    prepared = model if isinstance(model, PreparedModel) else prepare(model.eval(), layer=layer)
    whole = InputGradient(prepared, layer, **options).scores(images)
    gradient = InputGradient(prepared, layer, **options, confined=True)
    confined = gradient.scores(images)
    assert torch.equal(confined, gradient.scores(images))
    (region,) = gradient._regions.values()
    return whole, confined, region


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


SMALL_TIMM = Path(__file__).parents[1] / "models" / "small_timm_networks.py"
# Networks, the layer, the size of the image, and whether anything is cropped for the middle position.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], str | None, tuple[int, int], bool]] = {
    "resnet": (lambda: timm.create_model("resnet10t", channels=(8, 12, 16, 24)), "layer3", (195, 160), True),
    "resnet, bottleneck": (lambda: timm.create_model("resnet26", channels=(8, 12, 16, 24)), "layer2", (97, 160), True),
    "convnext": (
        lambda: timm.create_model("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)), None, (259, 288), True
    ),
    "replknet": (
        lambda: RepLKNet((13, 9, 7), (1, 1, 1), (8, 16, 16), strides=(4, 2, 2), **SMALL), None, (323, 416), True
    ),
    "slak": (lambda: SLaK((13, 11, 9), (1, 1, 1), (8, 12, 16), layer_scale=1.0, **SMALL), None, (320, 259), True),
    "unireplknet": (lambda: UniRepLKNet((1, 1), (8, 16), kernel_sizes=((3,), (13,)), **SMALL), None, (160, 160), False),
    "mobilenet v2": (
        lambda: LargeKernelMobileNetV2(
            9, 3, setting=((1, 8, 1, 1), (3, 12, 2, 2), (3, 16, 2, 2)), stem_width=8, last_width=32, **SMALL
        ),
        "stage2", (195, 160), True,
    ),
    "squeeze and excitation": (lambda: create_model(f"{SMALL_TIMM}:mobilenet_v3"), None, (99, 128), True),
    "densenet": (
        lambda: timm.create_model("densenet121", block_config=(2, 2), growth_rate=8), None, (161, 192), True
    ),
    "swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1), embed_dim=12, num_heads=(1, 1)),
        None, (224, 224), False,
    ),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48), None, (224, 224), False),
    "upsampled": (lambda: Segmentation(), None, (96, 130), False),
}  # fmt: skip


class Segmentation(nn.Module):
    """Logits at every pixel, as in fully convolutional networks."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.backbone(x).relu())
        return {"out": F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)}


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_every_family_are_those_of_the_whole_image(family: str) -> None:
    torch.manual_seed(0)
    build, layer, size, is_cropped = FAMILIES[family]
    model = build().eval().double()
    rows, columns = find_target(model, (1, 3, *size), layer).layout.size
    prepared = prepare(model, layer=layer)
    for place in ("center", (0, columns - 1), (rows - 1, 0)):
        whole, confined, region = scores_and_region(prepared, image(*size), layer, position=place)
        assert whole.any() and difference(confined, whole) <= ROUNDING
        assert place != "center" or bool(region.crops) == is_cropped


USERS = [("restoration.py", "colour"), ("branches.py", "replk"), ("pooled.py", "cx"), ("in_forward.py", "reentrant")]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("file", "factory"), USERS)
def test_maps_of_networks_in_the_manner_of_users(data_dir: Path, file: str, factory: str) -> None:
    path = data_dir.parent / "cases" / file
    if not path.exists():
        pytest.skip(f"there is no file {path}")
    model = create_model(f"{path}:{factory}").eval().double()
    whole, confined, _ = scores_and_region(model, image(96, 131))
    assert whole.any() and difference(confined, whole) <= ROUNDING


def integer(layer: nn.Module, seed: int) -> nn.Module:
    """The layer with weights -1, 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randint(-1, 2, parameter.shape, generator=generator).double()
    return layer


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    """Convolutions and pools of any geometry, whose features and gradients are small integers."""
    layers: list[nn.Module] = []
    for index in range(draw(st.integers(2, 5))):
        kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
        padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
        stride = draw(st.sampled_from([1, 2, 3])) if index in (0, 2) else 1
        if draw(st.integers(0, 3)):
            conv = nn.Conv2d(3 if index == 0 else 4, 4, kernel, stride, padding, dilation=draw(st.integers(1, 2)))
            layers += [integer(conv, index), nn.ReLU()]
        else:
            layers += [integer(nn.Conv2d(3, 4, 1), index)] if index == 0 else []
            layers.append(nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans())))
    return nn.Sequential(*layers)


@settings(max_examples=30)
@given(networks(), st.integers(60, 90), st.integers(60, 90), st.sampled_from([0.0, 0.3, 0.5, 0.999]))
def test_sums_that_are_exact_give_the_same_bits(model: nn.Sequential, rows: int, columns: int, share: float) -> None:
    images = torch.randint(0, 3, (1, 3, rows, columns), generator=torch.Generator().manual_seed(0)).double()
    try:
        size = find_target(model, images.shape, str(len(model) - 1)).layout.size
    except InvalidInputError:
        reject()  # a map that is too oblong
    place = tuple(int(share * length) for length in size)
    whole, confined, region = scores_and_region(model, images, str(len(model) - 1), position=place)
    assert torch.equal(whole, confined)
    reach = max(map(int, whole[0].nonzero().amax(0) - whole[0].nonzero().amin(0) + 1)) if whole.any() else 0
    assert region.crops or reach > 60 or not whole.any()


class Positions(nn.Module):
    """A convolution, an operation, and another convolution."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor], *, kernel: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, kernel, padding=kernel // 2), nn.Conv2d(8, 8, 3, padding=1)
        self.between, self.weight = between, nn.Parameter(torch.randn(1, 8, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x), self.weight))


def same_padding(x: Tensor) -> Tensor:
    """A pool of stride 2 with the padding of TensorFlow, which depends on the size of the map."""
    pads = [max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in x.shape[2:]]
    return F.max_pool2d(F.pad(x, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2)), 3, 2)


# Functions of a map and of a weight. After those that the tracer does not follow, nothing is cropped either.
LOST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    # Of every 16th position: the image on which copies are compared has 9216.
    "attention": lambda x, _: (
        x[:, :, ::4, ::4].flatten(2) @ (x[:, :, ::4, ::4].flatten(2).transpose(1, 2) @ x.flatten(2)).softmax(-1)
    ).view_as(x),
    "sum of rows": lambda x, _: torch.where(torch.ones_like(x[:1, :1]).cumsum(2) + 0 * x[:, :1].cumsum(2) > 17, x, -x),
    "upsampling": lambda x, _: F.interpolate(x, scale_factor=2.0),
    "windows": lambda x, _: x.unflatten(3, (-1, 5)).softmax(-1).flatten(3),
}  # fmt: skip
GLOBAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "group norm": lambda x, _: F.group_norm(x, 2),
    "batch norm of the batch": lambda x, _: F.batch_norm(x, None, None, training=True),
    "layer norm": lambda x, _: F.layer_norm(x, x.shape[1:]),
    "gate": lambda x, _: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "response norm": lambda x, _: x * torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "resized embedding": lambda x, weight: x + F.interpolate(weight, size=x.shape[2:]),
    "coordinates": lambda x, _: x + torch.arange(x.shape[3]).to(x) / x.shape[3],
    "mask": lambda x, _: torch.where(torch.arange(x.shape[2])[:, None].to(x) > 17, x, -x),
    "reflection": lambda x, _: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "removed border": lambda x, _: F.pad(x[:, :, 3:-3, 3:-3], (3, 3, 3, 3)),
    "negative padding": lambda x, _: F.pad(F.pad(x, (-3, -3, -3, -3)), (3, 3, 3, 3)),
    "size": lambda x, _: x * x.shape[2] / 100,
}
LOCAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "padding by size": lambda x, _: same_padding(x),
    "channel norm": lambda x, _: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt(),
    "layer norm": lambda x, _: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
    "part of the channels": lambda x, _: torch.cat([x[:, :3], x[:, 3:].relu()], dim=1),
    "in place": lambda x, _: x.mul_(2).relu_(),
    "checkpoint": lambda x, _: checkpoint(F.gelu, x, use_reentrant=False),
    "channel scale": lambda x, weight: x * weight[:, :, :1, :1],
}


@pytest.mark.parametrize("case", GLOBAL | LOST)
def test_nothing_is_cropped_before_what_depends_on_the_whole_map(case: str) -> None:
    torch.manual_seed(0)
    convs = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
    model = nn.Sequential(Positions((GLOBAL | LOST)[case]), *convs).double()
    whole, confined, region = scores_and_region(model, image(24, 25), "2")
    assert whole.any() and difference(confined, whole) <= ROUNDING
    assert not any(crop.path in (None, "0.first") for crop in region.crops)
    # Only the comparison finds that Python code depends on the size, so that nothing is cropped at all.
    assert bool(region.crops) == (case in GLOBAL and case != "size")


@pytest.mark.parametrize("case", LOCAL)
@pytest.mark.parametrize("size", [(90, 110), (91, 111)])
def test_what_depends_on_receptive_fields_alone_is_cropped(case: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Positions(LOCAL[case], kernel=5).double()
    whole, confined, region = scores_and_region(model, image(*size), "last")
    assert whole.any() and difference(confined, whole) <= ROUNDING
    assert region.crops[0].path is None and region.crops[0].box[0].stop - region.crops[0].box[0].start <= 14


class Bypassed(nn.Module):
    """A map that is stored and used again beside the layers that return it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.same = nn.Conv2d(3, 8, 3, padding=1), nn.Identity()
        self.second, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.same(x)
        return self.last(self.second(y) + x)


def test_a_map_that_is_used_twice_is_cropped_for_both_uses() -> None:
    torch.manual_seed(0)
    whole, confined, region = scores_and_region(Bypassed().double(), image(60, 70), "last")
    assert difference(confined, whole) <= ROUNDING
    assert [crop.path for crop in region.crops][:2] == [None, "first"]


def test_several_positions_share_one_crop_and_all_positions_have_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.Conv2d(8, 8, 3, padding=1)).double()
    for position, is_cropped in (("random:3", True), ("grid:2x2", False), ("mean", False)):
        whole, confined, region = scores_and_region(model, image(80, 90), "1", position=position, seed=3)
        assert difference(confined, whole) <= ROUNDING and bool(region.crops) == is_cropped


def test_the_gradient_of_a_crop_has_the_layout_of_the_map() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = torch.randn(2, 4, 6, 7).contiguous(memory_format=layout).requires_grad_()
        crop = forward_region.Crop(None, (4, 6, 7), (slice(1, 4), slice(0, 5)))
        part = crop.of(maps)
        assert torch.equal(part, maps[:, :, 1:4, :5]) and part.is_contiguous(memory_format=layout)
        seen: list[Tensor] = []
        middle = maps * 1
        middle.register_hook(seen.append)
        crop.of(middle).sum().backward()
        expected = torch.zeros(2, 4, 6, 7)
        expected[:, :, 1:4, :5] = 1
        assert torch.equal(seen[0], expected) and seen[0].is_contiguous(memory_format=layout)


def test_other_values_than_those_of_the_whole_image_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 8, 3, padding=1)).double()
    target = find_target(model, (1, 3, 80, 90), "1")
    assert find_region(model, 3, target).crops
    shifted = forward_region._shifted
    monkeypatch.setattr(forward_region, "_shifted", lambda target, places, left_out: shifted(
        target, [(row + 1, column) for row, column in places], left_out))  # fmt: skip
    assert find_region(model, 3, target) == ForwardRegion(target)


def test_a_measurement_with_crops_has_the_same_numbers_and_record(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = RepLKNet((13, 9), (1, 1), (8, 16), strides=(4, 2), num_classes=10)
    found = {}
    for pixels in (2**30, 2**14):
        monkeypatch.setattr(forward_region, "_LEAST_PIXELS", pixels)
        found[pixels] = measure_erf(model, images=4, size=256, layer="stage2.0", batch_size=4)
    whole, confined = found.values()
    left, right = (torch.tensor(result.contribution) for result in (confined, whole))
    assert not torch.equal(left, right) and difference(left, right) < 1e-5  # some sums have another order
    assert confined.run.config == whole.run.config and confined.notes == whole.notes
    assert confined.center == whole.center
    assert [row.ratio for row in confined.ratios] == [row.ratio for row in whole.ratios]
