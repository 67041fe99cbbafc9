"""Batch norms that follow convolutions, in networks that torch.fx cannot trace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replk_probe.kernels import measure_kernels
from replk_probe.models.inference.fold_bn import traced
from replk_probe.models.inference.norms import norms_behind


class SameConv(nn.Conv2d):
    """Pads according to the size of the image, as in networks that were converted from TensorFlow."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (max((-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
                         for side in x.shape[-2:])  # fmt: skip
        if rows > 0 or columns > 0:  # torch.fx cannot decide this
            x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class MobileBlock(nn.Module):
    """An expansion, a depthwise convolution and a projection, as in EfficientNet."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.expand, self.bn0 = SameConv(channels, 2 * channels, 1, bias=False), nn.BatchNorm2d(2 * channels)
        self.depthwise = SameConv(2 * channels, 2 * channels, 5, groups=2 * channels, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * channels)
        self.project, self.bn2 = SameConv(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2:  # nor this
            x = x[..., 1:]
        y = _Swish.apply(self.bn0(self.expand(x)))
        y = _Swish.apply(self.bn1(self.depthwise(y)))
        return x + self.bn2(self.project(y))


def network(*blocks: nn.Module) -> nn.Module:
    model = nn.Sequential(SameConv(3, 6, 3, 2), nn.BatchNorm2d(6), *blocks).eval()
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data = torch.rand(norm.weight.shape, generator=generator) + 0.5
            norm.running_var = torch.rand(norm.weight.shape, generator=generator) + 0.5
    return model


def test_an_efficientnet_of_another_package() -> None:
    model = network(MobileBlock(), MobileBlock())
    assert traced(model) is None and traced(model[2]) is None
    kernels = measure_kernels(model).kernels
    assert [(kernel.layer, kernel.batch_norm) for kernel in kernels] == [
        ("2.depthwise", ("2.bn1",)), ("3.depthwise", ("3.bn1",)),
    ]  # fmt: skip
    assert not any("No batch norm was folded" in note for kernel in kernels for note in kernel.notes)
    conv, norm = model.get_submodule("2.depthwise"), model.get_submodule("2.bn1")
    assert isinstance(conv, SameConv) and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    scale = (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()).detach()
    weight = conv.weight.detach().double() * scale[:, None, None, None]
    np.testing.assert_allclose(kernels[0].magnitude, weight.abs().sum((0, 1)).numpy(), rtol=1e-12)


class Reading(nn.Module):
    """A convolution and a norm in code that torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.conv(x)) if x.shape[-1] > 1 else x

    def read(self, y: Tensor) -> Tensor:
        return self.norm(self.other(y))


class AlsoAdded(Reading):
    def read(self, y: Tensor) -> Tensor:
        return self.norm(y) + y


class TwoNorms(Reading):
    def read(self, y: Tensor) -> Tensor:
        return self.norm(y) + self.norm(y * 2)


class Activated(Reading):
    def read(self, y: Tensor) -> Tensor:
        return self.norm(y.relu())


class ReadInPlace(Reading):
    def read(self, y: Tensor) -> Tensor:
        return self.norm(y.mul_(2))


class Twice(Reading):
    """The convolution is used twice."""

    def read(self, y: Tensor) -> Tensor:
        return self.norm(y) + self.conv(y.tanh())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Reading, {"2.conv": "2.norm"}),
        (AlsoAdded, {"2.conv": None}),
        (TwoNorms, {"2.conv": None}),
        (Activated, {"2.conv": None}),
        (ReadInPlace, {"2.conv": None}),
        (Twice, {}),
    ],
)
def test_a_norm_counts_if_it_alone_reads_the_convolution(
    kind: Callable[[], nn.Module], expected: dict[str, str | None]
) -> None:
    model = network(kind())
    assert traced(model[2]) is None
    assert norms_behind(model, ["2.conv"]) == expected


class ByValue(nn.Module):
    """Depends on the values of the image, so that only its modules can be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.conv, self.norm = MobileBlock(3), nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.norm(self.conv(x)) if float(x.sum()) > 0 else x


def test_decisions_by_value() -> None:
    kernels = {kernel.layer: kernel for kernel in measure_kernels(ByValue().eval()).kernels}
    assert kernels["block.depthwise"].batch_norm == ("block.bn1",)
    assert kernels["conv"].batch_norm == () and "cannot be traced" in kernels["conv"].notes[0]
