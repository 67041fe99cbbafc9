"""Small networks in the manner of published families, as a user's checkout would define them.

Each factory returns a network whose block is surrounded by a stem and a classifier. Parameters and buffers are random.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 8


def depthwise(
    size: int | tuple[int, int], dilation: int = 1, channels: int = CHANNELS, bias: bool = False
) -> nn.Conv2d:
    """A depthwise convolution that keeps the size of the map."""
    height, width = (size, size) if isinstance(size, int) else size
    padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
    return nn.Conv2d(channels, channels, (height, width), 1, padding, dilation, channels, bias=bias)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution and the batch norm after it."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


class Net(nn.Module):
    """A stem of stride 2, two blocks and a classifier."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, 2, 1)
        self.blocks = nn.ModuleList([first, second])
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.head = nn.Linear(CHANNELS, 5)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.head(self.forward_features(x).mean((2, 3)))


class Deployable(nn.Module):
    """A 3 x 3 and a 1 x 1 convolution and an identity, each with a batch norm; ``switch_to_deploy`` as in RepVGG."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS))
        self.pointwise = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))
        self.identity = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branches, or the merged convolution."""
        if hasattr(self, "deployed"):
            return self.deployed(x).relu()
        return (self.dense(x) + self.pointwise(x) + self.identity(x)).relu()

    def switch_to_deploy(self) -> None:
        """Replace the branches by one convolution."""
        if hasattr(self, "deployed"):
            return
        eye = np.zeros((CHANNELS, CHANNELS, 3, 3), dtype=np.float32)
        eye[np.arange(CHANNELS), np.arange(CHANNELS), 1, 1] = 1
        same = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        same.weight.data = torch.from_numpy(eye)
        parts = [folded(*self.dense), folded(*self.pointwise), folded(same, self.identity)]
        self.deployed = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.deployed.weight.data = parts[0][0] + F.pad(parts[1][0], [1, 1, 1, 1]) + parts[2][0]
        self.deployed.bias.data = parts[0][1] + parts[1][1] + parts[2][1]
        del self.dense, self.pointwise, self.identity


class Dilated(nn.Module):
    """A 13 x 13 kernel with dilated branches; ``merge_dilated_branches`` as in OverLoCK and UniRepLKNet."""

    BRANCHES = ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))
    # As in these, where kernels of ones are float32 whatever the weights are: float64 raises.
    dtype: torch.dtype | None = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.origin, self.origin_bn = depthwise(13), nn.BatchNorm2d(CHANNELS)
        for size, rate in self.BRANCHES:
            self.add_module(f"dilated_{size}_{rate}", depthwise(size, rate))
            self.add_module(f"norm_{size}_{rate}", nn.BatchNorm2d(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branches, or the merged convolution."""
        if not hasattr(self, "origin_bn"):
            return self.origin(x)
        y = self.origin_bn(self.origin(x))
        for size, rate in self.BRANCHES:
            y = y + self.get_submodule(f"norm_{size}_{rate}")(self.get_submodule(f"dilated_{size}_{rate}")(x))
        return y

    def merge_dilated_branches(self) -> None:
        """Replace the branches by one convolution of the same name as the large one."""
        if not hasattr(self, "origin_bn"):
            return
        kernel, bias = folded(self.origin, self.origin_bn)
        for size, rate in self.BRANCHES:
            part, shift = folded(
                self.get_submodule(f"dilated_{size}_{rate}"), self.get_submodule(f"norm_{size}_{rate}")
            )
            spread = F.conv_transpose2d(part, torch.ones(1, 1, 1, 1, dtype=self.dtype), stride=rate)
            margin = (13 - spread.shape[-1]) // 2
            kernel, bias = kernel + F.pad(spread, [margin] * 4), bias + shift
            delattr(self, f"dilated_{size}_{rate}")
            delattr(self, f"norm_{size}_{rate}")
        self.origin = depthwise(13, bias=True)
        self.origin.weight.data, self.origin.bias.data = kernel, bias
        del self.origin_bn


class DilatedOfAnyType(Dilated):
    """The same, with kernels of ones of torch's default type."""

    dtype = None


class Fusing(nn.Module):
    """A 7 x 7 kernel, bands, and bands in series; ``fuse`` returns a convolution, as in RepNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.wide, self.tall = depthwise(7), depthwise((3, 5)), depthwise((5, 3))
        self.row, self.column = depthwise((1, 7)), depthwise((7, 1))
        self.bn = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branches, normalized."""
        return self.bn(self.large(x) + self.wide(x) + self.tall(x) + self.column(self.row(x)))

    def fuse(self) -> nn.Conv2d:
        """The convolution that the branches amount to."""
        kernel = self.large.weight + F.pad(self.wide.weight, [1, 1, 2, 2]) + F.pad(self.tall.weight, [2, 2, 1, 1])
        whole = depthwise(7)
        whole.weight.data = kernel + self.column.weight * self.row.weight
        conv = depthwise(7, bias=True)
        conv.weight.data, conv.bias.data = folded(whole, self.bn)
        return conv


class SeveralOrders(nn.Module):
    """A 5 x 5 kernel, then dilated kernels on parts of the channels, as in MogaNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = depthwise(5, bias=True)
        self.middle, self.last = depthwise(5, 2, 3, bias=True), depthwise(7, 3, 4, bias=True)
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Channels in the ratio 1 : 3 : 4."""
        y = self.first(x)
        return self.mix(torch.cat([y[:, :1], self.middle(y[:, 1:4]), self.last(y[:, 4:])], 1))


class InSeries(nn.Module):
    """A 5 x 5 and a dilated 7 x 7 kernel in series, which scale the input, as in VAN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv_spatial = depthwise(5, bias=True), depthwise(7, 3, bias=True)
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The input times its large-kernel attention."""
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class Bands(nn.Module):
    """A square, two bands and an identity on parts of the channels, as in InceptionNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.row, self.column = depthwise(3, 1, 1), depthwise((1, 11), 1, 1), depthwise((11, 1), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Five channels remain as they are."""
        same, square, row, column = x.split([5, 1, 1, 1], 1)
        return torch.cat([same, self.square(square), self.row(row), self.column(column)], 1)


class Wavelets(nn.Module):
    """A 5 x 5 kernel on the map and one on its Haar wavelets, as in WTConv."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.wavelets = depthwise(5), depthwise(5, channels=4 * CHANNELS)
        signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
        self.register_buffer("haar", signs.reshape(4, 1, 2, 2).repeat(CHANNELS, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        y = self.wavelets(F.conv2d(x, self.haar, stride=2, groups=CHANNELS))
        return self.base(x) + F.conv_transpose2d(y, self.haar, stride=2, groups=CHANNELS)


def _network(kind: type[nn.Module]) -> nn.Module:
    model = Net(kind(), kind())
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data = torch.rand(norm.weight.shape, generator=generator) + 0.5
            norm.running_mean = 0.3 * torch.randn(norm.running_mean.shape, generator=generator)
            norm.running_var = torch.rand(norm.running_var.shape, generator=generator) + 0.5
    return model.eval()


def repvgg() -> nn.Module:
    """In the manner of RepVGG."""
    return _network(Deployable)


def overlock() -> nn.Module:
    """In the manner of OverLoCK."""
    return _network(Dilated)


def dilated_of_any_type() -> nn.Module:
    """The same, merged in the type of the weights."""
    return _network(DilatedOfAnyType)


def repnext() -> nn.Module:
    """In the manner of RepNeXt."""
    return _network(Fusing)


def moganet() -> nn.Module:
    """In the manner of MogaNet."""
    return _network(SeveralOrders)


def van() -> nn.Module:
    """In the manner of VAN."""
    return _network(InSeries)


def inceptionnext() -> nn.Module:
    """In the manner of InceptionNeXt."""
    return _network(Bands)


def wtconvnext() -> nn.Module:
    """In the manner of WTConvNeXt."""
    return _network(Wavelets)
