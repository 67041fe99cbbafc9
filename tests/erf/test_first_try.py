"""Networks as users write them and find them are measured without naming a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replk_probe.erf import contribution_scores, prepare
from replk_probe.erf.probe_layer import find_target
from replk_probe.models.factory import create_skeleton


class SwishFunction(torch.autograd.Function):
    """Swish that keeps only its input, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad * (gate * (1 + x * (1 - gate)))


class MemoryEfficientSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SwishFunction.apply(x)


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation and projection, with one activation for all of them."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self._expand_conv, self._bn0 = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden)
        self._se_reduce, self._se_expand = nn.Conv2d(hidden, 2, 1), nn.Conv2d(2, hidden, 1)
        self._project_conv, self._bn2 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self._swish = MemoryEfficientSwish()
        self._has_shortcut = channels == outputs and stride == 1

    def forward(self, inputs: Tensor, drop_connect_rate: float | None = None) -> Tensor:
        x = self._swish(self._bn0(self._expand_conv(inputs)))
        x = self._swish(self._bn1(self._depthwise_conv(x)))
        squeezed = self._se_expand(self._swish(self._se_reduce(F.adaptive_avg_pool2d(x, 1))))
        x = self._bn2(self._project_conv(torch.sigmoid(squeezed) * x))
        return x + inputs if self._has_shortcut else x


class EfficientNet(nn.Module):
    """An EfficientNet of another package: no forward_features, and one activation module for stem and head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self._conv_stem, self._bn0 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self._blocks = nn.ModuleList([InvertedBottleneck(8, 8, 1), InvertedBottleneck(8, 12, 2)])
        self._conv_head, self._bn1 = nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24)
        self._avg_pooling, self._dropout, self._fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.2), nn.Linear(24, 5)
        self._swish = MemoryEfficientSwish()

    def extract_features(self, inputs: Tensor) -> Tensor:
        x = self._swish(self._bn0(self._conv_stem(inputs)))
        for block in self._blocks:
            x = block(x, drop_connect_rate=0.1)
        return self._swish(self._bn1(self._conv_head(x)))

    def pooled(self, x: Tensor) -> Tensor:
        return self._avg_pooling(x).flatten(start_dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self._fc(self._dropout(self.pooled(self.extract_features(inputs))))


class ByFunction(EfficientNet):
    def pooled(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (1, 1)).squeeze(-1).squeeze(-1)


class ByMean(EfficientNet):
    def pooled(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class BySum(EfficientNet):
    def pooled(self, x: Tensor) -> Tensor:
        return x.sum(dim=(-1, -2)) / (x.shape[-1] * x.shape[-2])


class ByWindow(EfficientNet):
    def pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, x.shape[2:]).view(x.size(0), -1)


class ByView(EfficientNet):
    def pooled(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), -1).mean(2)


class ByEinsum(EfficientNet):
    def pooled(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw->nc", x)


class ByMeanAndLargest(EfficientNet):
    def pooled(self, x: Tensor) -> Tensor:
        return 0.5 * F.adaptive_avg_pool2d(x, 1).flatten(1) + 0.5 * F.adaptive_max_pool2d(x, 1).flatten(1)


class AfterFunctionalReLU(ByMean):
    def pooled(self, x: Tensor) -> Tensor:
        return super().pooled(F.relu(x, inplace=True))


class InSequential(nn.Sequential):
    """One module for all activations and the pooling among the others."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        act = nn.ReLU(inplace=True)
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), act, nn.Conv2d(8, 8, 3, 2, 1), act,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip

    def extract_features(self, x: Tensor) -> Tensor:
        return self[2](self[0](x).relu()).relu()


class HeadInSequential(nn.Module):
    """The pooling at the beginning of a Sequential that ends in the classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def extract_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@pytest.mark.parametrize(
    ("network", "label"),
    [
        (EfficientNet, "_avg_pooling (input)"),
        (ByFunction, "_swish (call 2)"),
        (ByMean, "_swish (call 2)"),
        (BySum, "_swish (call 2)"),
        (ByWindow, "_swish (call 2)"),
        (ByView, "forward (view, operation 1)"),
        (ByEinsum, "_swish (call 2)"),
        (ByMeanAndLargest, "_swish (call 2)"),
        (AfterFunctionalReLU, "forward (relu, operation 1)"),
        (InSequential, "4 (input)"),
        (HeadInSequential, "features"),
    ],
)
def test_the_input_of_the_last_pooling_is_measured(network: Callable[[], Any], label: str) -> None:
    model = network().eval()
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    target = find_target(model, batch.shape)
    assert (target.label, target.layout.size) == (label, (8, 8))
    assert target.note is not None and "measured at its last map before pooling" in target.note
    leaf = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.extract_features(leaf)[:, :, 4, 4].relu().sum(), leaf)
    expected = gradient.clamp_min(0).sum(1)
    assert expected.norm() > 0
    for measured in (model, prepare(model)):
        assert (contribution_scores(measured, batch) - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize(
    ("name", "size", "label", "positions"),
    [
        ("test_byobnet", 96, "forward_features", (3, 3)),
        ("cpubone_nano", 96, "forward_features", (3, 3)),
        ("cs3darknet_s", 96, "forward_features", (3, 3)),
        ("davit_tiny", 96, "norm_pre (input)", (3, 3)),
        ("edgenext_small", 96, "norm_pre (input)", (3, 3)),
        ("efficientformer_l1", 224, "norm (input)", (7, 7)),
        ("efficientvit_m0", 96, "forward_features", (2, 2)),
        ("gmlp_s16_224", 224, "norm (input)", (14, 14)),
        ("hrnet_w18_small", 96, "forward_features", (3, 3)),
        ("inception_v3", 96, "forward_features", (1, 1)),
        ("levit_128s", 224, "forward_features", (4, 4)),
        ("mobilevit_xxs", 96, "forward_features", (3, 3)),
        ("sam2_hiera_tiny", 96, "forward_features", (3, 3)),
        ("swiftformer_xs", 96, "norm (input)", (3, 3)),
        ("volo_d1_224", 224, "norm (input)", (14, 14)),
        ("xcit_nano_12_p8_224", 96, "norm (input)", (12, 12)),
        ("torchvision:alexnet", 96, "features", (2, 2)),
        ("torchvision:googlenet", 96, "inception5b", (3, 3)),
        ("torchvision:inception_v3", 96, "Mixed_7c", (1, 1)),
        ("torchvision:mnasnet0_5", 96, "layers", (3, 3)),
        ("torchvision:mobilenet_v3_small", 96, "features", (3, 3)),
    ],
)
def test_published_networks(name: str, size: int, label: str, positions: tuple[int, int]) -> None:
    model = create_skeleton(name)
    assert model is not None
    target = find_target(model.eval(), (1, 3, size, size))
    assert (target.label, target.layout.size) == (label, positions)
