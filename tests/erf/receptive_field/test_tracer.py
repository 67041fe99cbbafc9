"""Receptive fields followed through networks, against those counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from replk_probe.erf import contribution_scores
from replk_probe.erf.probe_layer import find_target
from replk_probe.erf.receptive_field.tracer import Field, Lost, stride_rule


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without values, on which the receptive field does not depend."""
    with torch.device("meta"):
        return build()


def field_of(model: nn.Module, size: int | tuple[int, int] = 1024, layer: str | None = None) -> Field | Lost:
    pair = (size, size) if isinstance(size, int) else size
    return find_target(model, (1, 3, *pair), layer).field


@pytest.mark.parametrize(
    ("name", "center", "extent"),
    [
        # (kernel - 1) * jump summed by hand; the first 3x3 of a stage has the stride, as in torchvision and timm.
        # (Where the last one has it, as in TF-Slim, ResNet-101 has the 1027 px that are often quoted.)
        ("resnet101", 512.0, 1 + 6 + 4 + 3 * 8 + 8 + 3 * 16 + 16 + 22 * 32 + 32 + 2 * 64),
        ("convnext_tiny", 527.5, 1 + 3 + 4 + 8 + 16 + 6 * (3 * 4 + 3 * 8 + 9 * 16 + 3 * 32)),
        ("vgg16", 527.5, 212),
    ],
)
def test_networks_whose_receptive_field_is_known(name: str, center: float, extent: int) -> None:
    # Of a ResNet on the meta device, the field is lost; it does not depend on the number of channels.
    narrow = {"channels": (8, 8, 8, 8)} if name == "resnet101" else {}
    model = timm.create_model(name, **narrow) if narrow else on_meta(lambda: timm.create_model(name))
    field = field_of(model)
    assert isinstance(field, Field) and not field.everywhere
    assert field.center((16, 16)) == (center, center)
    assert field.extent == extent


def test_vgg16_before_its_last_pool() -> None:
    field = field_of(on_meta(lambda: torchvision.models.vgg16(weights=None)), 224, "features.28")
    assert isinstance(field, Field)
    assert field.extent == 196  # a figure of many textbooks


def test_replknet_is_centered() -> None:
    import replk_probe.models  # noqa: F401

    field = field_of(timm.create_model("replknet31b", channels=(8, 8, 8, 8)))
    assert isinstance(field, Field)
    assert field.center((16, 16)) == (512.0, 512.0)
    # Stem 3 (stride 2) + 3 + 3 (stride 2) = 1 + 2 + 4 + 4; each depthwise kernel k adds (k - 1) * jump.
    stem = 1 + 2 + 2 * 2 + 2 * 2
    stages = 2 * 30 * 4 + 2 * 28 * 8 + 18 * 26 * 16 + 2 * 12 * 32
    transitions = 2 * 4 + 2 * 8 + 2 * 16
    assert field.extent == stem + stages + transitions


def test_stride_rule_is_the_middle_of_a_patch() -> None:
    assert stride_rule((32, 32), (64, 64), (1024, 1024)) == (519.5, 519.5)  # ViT/16: 7.5 off the middle
    assert stride_rule((16, 8), (32, 16), (1024, 512)) == (527.5, 271.5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: timm.create_model("vit_tiny_patch16_224", depth=1), "tokens"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 1, 1, 1)), "windows"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3)), "upsample"),
    ],
    ids=["vit", "swin", "upsample"],
)
def test_unsupported_operations_are_reported(model: Callable[[], nn.Module], message: str) -> None:
    field = field_of(model(), 224)
    assert isinstance(field, Lost) and message in field.reason


def test_gates_have_the_full_field_and_do_not_move_the_center() -> None:
    field = field_of(timm.create_model("regnety_002"))
    assert isinstance(field, Field)
    assert field.everywhere and field.extent is None
    assert field.center((16, 16)) == (512.0, 512.0)


class Mixed(nn.Module):
    """Branches, slices, shuffles, linear layers on channels-last maps: everything that keeps places apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 8, (3, 7), padding=(1, 3))
        self.right = nn.Conv2d(4, 8, 5, padding=4, dilation=2)
        self.linear = nn.Linear(16, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 2, 3, 0))[:, :, ::2, 1::2]
        x = torch.cat([x, x[:, :1]], dim=1)
        left, right = self.left(x), F.avg_pool2d(self.right(x), 3, 1, 1)
        x = torch.cat([left, right], dim=1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = self.norm(self.linear(x.permute(0, 2, 3, 1)))
        x = x.flatten(1, 2).transpose(1, 2).reshape(n, 6, h, w)
        x += x.clone().relu_()
        return F.pixel_unshuffle(F.max_pool2d(x, 3, 1, 1), 2)


def test_the_field_is_where_the_gradient_is() -> None:
    torch.manual_seed(0)
    model = Mixed().double()
    for size in ((45, 46), (41, 62)):
        field = field_of(model, size)
        assert isinstance(field, Field) and not field.everywhere
        # Many random images, so that no pixel of the field stays without a positive gradient by chance.
        scores = contribution_scores(model, torch.randn(200, 3, *size, dtype=torch.float64)).sum(0)
        feature = find_target(model, (1, 3, *size))
        rows, columns = scores.nonzero(as_tuple=True)
        for found, span, place in (
            (rows, field.y, feature.layout.middle[0]),
            (columns, field.x, feature.layout.middle[1]),
        ):
            assert found.min() == span.jump * place + span.low
            assert found.max() == span.jump * place + span.high


def test_writes_into_part_of_a_tensor_are_detected() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.wide = nn.Conv2d(4, 2, 9, padding=4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x[:, :2] += self.wide(x)
            return x

    field = field_of(Partial(), 32)
    assert isinstance(field, Lost) or field.extent == 11


def test_weights_are_neither_copied_nor_moved() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    field_of(model, 32)
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
