"""Composed kernels equal the convolutions in series and on parts of the channels, away from the borders."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from replk_probe.models.branches.compose import Composition, find_compositions
from replk_probe.models.branches.recording import stored_tensors

CHANNELS = 6


def depthwise(
    kernel: int | tuple[int, int], channels: int = CHANNELS, dilation: int = 1, **options: object
) -> nn.Conv2d:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    options = {"padding": tuple(dilation * (side - 1) // 2 for side in sides)} | options
    return nn.Conv2d(channels, channels, sides, groups=channels, dilation=dilation, **options)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and eval mode; no parameter and no buffer has its initial value."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, tensor in itertools.chain(
            module.named_parameters(recurse=False), module.named_buffers(recurse=False)
        ):
            if tensor.is_floating_point():
                low = 0.5 if name == "running_var" else -1.0
                tensor.data = low + 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    return model.double().eval()


def check(composition: Composition, model: nn.Module, compute: Callable[[Tensor], Tensor], side: int = 80) -> None:
    """The linear part of ``compute`` is one convolution with the composed kernel where no padding is seen."""
    weight, (top, left) = composition.kernel(stored_tensors(model))
    channels, _, height, width = weight.shape
    down, across = composition.stride
    x = torch.rand(1, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = compute(x) - compute(torch.zeros_like(x))
        # Entry (0, 0) of the kernel applies to the place (top, left) relative to the output times the stride.
        padded = functional.pad(x, (-left, side, -top, side))
        found = functional.conv2d(padded, weight, groups=channels, stride=(down, across))
    # Away from the borders by the extent of the kernel and of the padding.
    rows, columns = (
        slice(edge, size - edge)
        for edge, size in zip(
            ((height - top) // down + 1, (width - left) // across + 1), expected.shape[2:], strict=True
        )
    )
    height, width = expected.shape[2:]
    first, second = (values[..., :height, :width][..., rows, columns] for values in (expected, found))
    assert first.shape == second.shape and min(first.shape[2:]) > 2
    assert float((first - second).abs().max()) <= 1e-12 * float(first.abs().max())


class LKA(nn.Module):
    """In the manner of VAN."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.conv0 = depthwise(5, channels)
        self.conv_spatial = depthwise(7, channels, dilation=3)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


def test_van() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, CHANNELS, 4, stride=4), LKA(), LKA()))
    composed = find_compositions(model)
    assert [(one.path, one.names) for one in composed.found] == [
        ("1", ("conv0", "conv_spatial")),
        ("2", ("conv0", "conv_spatial")),
    ]
    assert composed.is_traced and not composed.separated
    first = composed.found[0]
    weight, place = first.kernel(stored_tensors(model))
    # The published 21 x 21 names the kernel that is decomposed; the two convolutions reach further, 5 + 3 (7 - 1).
    assert weight.shape == (CHANNELS, 1, 23, 23) and place == (-11, -11)
    assert first.modules == ("1.conv0", "1.conv_spatial") and first.norms() == ()
    attention = model[1]
    check(first, model, lambda x: attention.conv_spatial(attention.conv0(x)))


def test_lska_is_separable() -> None:
    pairs = [((1, 5), 1), ((5, 1), 1), ((1, 7), 3), ((7, 1), 3)]
    model = randomized(nn.Sequential(*[depthwise(kernel, dilation=dilation) for kernel, dilation in pairs]))
    (composition,) = find_compositions(model).found
    assert composition.path == "" and composition.names == ("0", "1", "2", "3")
    weight, _ = composition.kernel(stored_tensors(model))
    assert weight.shape == (CHANNELS, 1, 23, 23)
    values = torch.linalg.svdvals(weight[:, 0])
    assert float((values[:, 1] / values[:, 0]).max()) < 1e-14
    check(composition, model, model)


@pytest.mark.parametrize("seed", range(12))
def test_any_geometry(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    layers: list[nn.Module] = []
    for _ in range(pick(2, 3)):
        options = {
            "stride": (pick(1, 2), pick(1, 1, 3)),
            "padding": (pick(0, 1, 4), pick(0, 2)),
            "bias": bool(pick(0, 1)),
        }
        layers.append(depthwise((pick(1, 2, 3, 5), pick(2, 3, 4)), dilation=pick(1, 2), **options))
        layers += [nn.BatchNorm2d(CHANNELS)] * pick(0, 1)
    model = randomized(nn.Sequential(*layers), seed)
    (composition,) = find_compositions(model).found
    check(composition, model, model, side=160)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "zeros"])
def test_padding_modes(mode: str) -> None:
    model = randomized(nn.Sequential(depthwise(3, padding_mode=mode), depthwise(5, dilation=2, padding_mode=mode)))
    (composition,) = find_compositions(model).found
    assert composition.kernel(stored_tensors(model))[0].shape[2:] == (11, 11)
    check(composition, model, model)


def test_named_paddings_and_explicit_borders() -> None:
    model = randomized(
        nn.Sequential(
            depthwise(3, padding="same"), nn.ZeroPad2d((1, 4, 0, 3)), depthwise((4, 6), padding="valid"), depthwise(3)
        )
    )
    (composition,) = find_compositions(model).found
    check(composition, model, model)


def test_norms_before_are_left_out_and_those_between_and_after_are_folded() -> None:
    norms = [nn.BatchNorm2d(CHANNELS) for _ in range(3)]
    model = randomized(nn.Sequential(norms[0], depthwise(3), norms[1], depthwise(5), norms[2], nn.ReLU()))
    (composition,) = find_compositions(model).found
    assert composition.norms() == ("2", "4")
    assert {name.split(".")[0] for name in composition.tensors} == {"1", "2", "3", "4"}
    check(composition, model, model[1:5])


def test_a_dilated_kernel_is_spread_out() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.ReLU(), depthwise(3, dilation=4), nn.ReLU()))
    (composition,) = find_compositions(model).found
    assert composition.path == "2" and not composition.is_series
    weight, place = composition.kernel(stored_tensors(model))
    assert place == (-4, -4)
    torch.testing.assert_close(weight[:, :, ::4, ::4], model[2].weight, rtol=0, atol=0)
    assert int((weight != 0).sum()) == 9 * CHANNELS
    check(composition, model, model[2])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = depthwise(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x))


def test_a_module_that_is_called_twice() -> None:
    model = randomized(Twice())
    (composition,) = find_compositions(model).found
    assert (composition.path, composition.names) == ("conv", ("conv", "conv"))
    check(composition, model, model)


def test_a_module_that_repeats_a_chain_gives_one_kernel() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(depthwise(3), depthwise(5), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x))

    assert [one.path for one in find_compositions(Repeated()).found] == ["inner"]


class Residual(nn.Module):
    """``x + scale * c2(c1(x))``, and further convolutions of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3, self.c4 = depthwise(3), depthwise(5), depthwise(3), depthwise(7)
        self.scale = nn.Parameter(torch.ones(CHANNELS, 1, 1))

    def branch(self, x: Tensor) -> Tensor:
        return self.scale * self.c2(self.c1(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.c4(self.c3(x + self.branch(x)))


def test_residual_connections_are_not_included_and_not_crossed() -> None:
    model = randomized(Residual())
    first, second = find_compositions(model).found
    assert (first.path, first.names, second.names) == ("c2", ("c1", "c2"), ("c3", "c4"))
    check(first, model, model.branch)
    check(second, model, lambda x: model.c4(model.c3(x)))


class RepNeXtLike(nn.Module):
    """Parallel branches, one of which is a series, and an identity with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.tall, self.row, self.column = (
            depthwise(7),
            depthwise((5, 3)),
            depthwise((1, 9)),
            depthwise((9, 1)),
        )
        self.norm, self.after = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.square(x) - self.tall(x) + self.column(self.row(x)) + self.norm(x))


def test_series_in_parallel_branches() -> None:
    model = randomized(RepNeXtLike())
    (composition,) = find_compositions(model).found
    assert {*composition.norms()} == {"norm", "after"}
    assert len(composition.modules) == 4
    assert composition.kernel(stored_tensors(model))[0].shape[2:] == (9, 9)
    check(composition, model, model)


class MogaLike(nn.Module):
    """5 x 5, then dilated kernels on parts of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = depthwise(5), depthwise(5, 2, dilation=2), depthwise(7, 3, dilation=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        one, two, three = torch.split(x, [1, 2, 3], dim=1)
        return torch.cat([one, self.second(two), self.third(three)], dim=1)


def test_parts_of_the_channels_after_a_convolution() -> None:
    model = randomized(MogaLike())
    (composition,) = find_compositions(model).found
    assert [part.channels for part in composition.parts] == [1, 2, 3]
    assert composition.channels == tuple(range(6))
    assert composition.kernel(stored_tensors(model))[0].shape[2:] == (23, 23)
    check(composition, model, model)


@pytest.mark.parametrize("name", ["inception_next_atto", pytest.param("inception_next_tiny", marks=pytest.mark.slow)])
def test_inception_next(name: str) -> None:
    model = randomized(timm.create_model(name))
    composed = find_compositions(model)
    assert len(composed.found) == sum(len(stage.blocks) for stage in model.stages)
    first = composed.found[0]
    mixer, block = model.stages[0].blocks[0].token_mixer, model.stages[0].blocks[0]
    assert first.path == "stages.0.blocks.0.token_mixer" and first.norms() == ("stages.0.blocks.0.norm",)
    assert first.names == ("dwconv_hw", "dwconv_w", "dwconv_h") and not first.is_series
    untouched = [part.is_identity for part in first.parts]
    assert untouched == [True, False, False, False]
    bands = mixer.dwconv_w.weight.shape[-1]
    weight, _ = first.kernel(stored_tensors(model))
    assert weight.shape[2:] == (bands, bands) and len(first.channels) == 3 * mixer.dwconv_w.weight.shape[0]
    check(first, model, lambda x: block.norm(mixer(x)), side=48)


class Aliased(nn.Module):
    """A part of the channels is changed in place before all of them are read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = depthwise(3), depthwise(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x[:, :2].relu_()
        return self.second(x)


class Between(nn.Module):
    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.second = depthwise(3), between, depthwise(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


@pytest.mark.parametrize(
    ("model", "separated"),
    [
        (Between(nn.ReLU()), {"second": "relu lies between it and first"}),
        (Between(nn.GELU()), {"second": "gelu lies between it and first"}),
        (Between(nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.SiLU())), {"second": "silu lies between it and first"}),
        (Between(nn.MaxPool2d(3, 1, 1)), {"second": "max_pool2d lies between it and first"}),
        (Between(nn.ChannelShuffle(2)), {"second": "channel_shuffle lies between it and first"}),
        (Between(nn.Conv2d(CHANNELS, CHANNELS, 1)), {}),
        (Between(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=2)), {}),
        (nn.Sequential(depthwise(3), nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, groups=CHANNELS)), {}),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)), {}),
        (Aliased(), None),
    ],
    ids=str,
)
def test_what_is_not_composed(model: nn.Module, separated: dict[str, str] | None) -> None:
    composed = find_compositions(model)
    assert composed.found == () and composed.is_traced
    assert separated is None or composed.separated == separated


def test_training_mode_batch_norms_are_those_of_eval_mode() -> None:
    model = randomized(Between(nn.BatchNorm2d(CHANNELS))).train()
    (composition,) = find_compositions(model).found
    assert model.training and composition.norms() == ("between",)


def test_a_gate_in_between_and_an_output_that_others_read() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = depthwise(3), depthwise(5), depthwise(7)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            z = self.second(y)  # composed with the first, which is read again
            return self.third(y * torch.sigmoid(z))

    model = randomized(Gated())
    (composition,) = find_compositions(model).found
    assert composition.names == ("first", "second")
    check(composition, model, lambda x: model.second(model.first(x)))


def test_two_chains_of_one_module_have_paths_of_their_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (depthwise(3) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.b(self.a(x))) * self.d(self.c(x))

    assert [one.path for one in find_compositions(Two()).found] == ["b", "d"]


def test_parallel_branches_alone_are_left_to_the_merged_kernels() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = depthwise(3), depthwise(5, dilation=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    assert find_compositions(Parallel()).found == ()


def test_a_network_that_cannot_be_recorded() -> None:
    class Refusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = depthwise(3), depthwise(3)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    composed = find_compositions(Refusing())
    assert composed.found == () and not composed.is_traced


def test_the_network_is_not_changed() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, CHANNELS, 1), LKA()))
    before = {name: value.clone() for name, value in stored_tensors(model).items()}
    find_compositions(model)
    assert all(torch.equal(value, before[name]) for name, value in stored_tensors(model).items())
    assert not any(module._forward_hooks for module in model.modules())
