"""Requirements of torch for operators, and of users for convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, func
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.ops import (
    DepthwiseConv2d,
    PreparedKernel,
    _cpu,
    _fallback,
    conv_input_gradient,
    depthwise_conv2d,
    describe_backend,
    planned_method,
    unsupported_reason,
)

Close = Callable[..., None]

OPS = torch.ops.replk_probe
SHAPE, KERNEL = (2, 3, 9, 8), (5, 7)


def problem(*, grad: bool = False, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight, bias."""
    tensors = torch.randn(SHAPE, dtype=dtype), torch.randn(3, 1, *KERNEL, dtype=dtype), torch.randn(3, dtype=dtype)
    return tuple(tensor.requires_grad_(grad) for tensor in tensors)


def small(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


# opcheck reads .grad of tensors that are no leaves, which torch warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["plain", "bias", "relu", "grad_input", "grad_weight"])
def test_opcheck(name: str, grad: bool, device: str) -> None:
    x, w, b = (tensor.detach().to(device).requires_grad_(grad) for tensor in problem())
    dy = torch.randn(SHAPE, device=device, requires_grad=grad)
    operator, args = {
        "plain": (OPS.dwconv2d, (x, w, None, False)),
        "bias": (OPS.dwconv2d, (x, w, b, False)),
        "relu": (OPS.dwconv2d, (x, w, b, True)),
        "grad_input": (OPS.dwconv2d_grad_input, (dy, w)),
        "grad_weight": (OPS.dwconv2d_grad_weight, (x, dy, *KERNEL)),
    }[name]
    found = opcheck(operator.default, args)
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("kernel", [(3, 5), (1, 1), (7, 3)])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients_in_float64(kernel: tuple[int, int], activation: Any) -> None:
    x, w, b, dy = small((2, 2, 4, 3)), small((2, 1, *kernel)), small((2,)), small((2, 2, 4, 3))

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return depthwise_conv2d(x, w, b, activation=activation)

    def grad_weight(x: Tensor, dy: Tensor) -> Tensor:
        return OPS.dwconv2d_grad_weight(x, dy, *kernel)

    assert gradcheck(forward, (x, w, b)) and gradgradcheck(forward, (x, w, b))
    if activation is None:  # the other operators have no activation
        assert gradcheck(conv_input_gradient, (dy, w)) and gradgradcheck(conv_input_gradient, (dy, w))
        assert gradcheck(grad_weight, (x, dy)) and gradgradcheck(grad_weight, (x, dy))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_first_and_second_derivatives_are_those_of_float64(activation: Any) -> None:
    def derivatives(dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(1)
        x, w, b = problem(dtype=torch.float64)
        x, w, b = (tensor.detach().to(dtype).requires_grad_() for tensor in (x, w, b))
        y = depthwise_conv2d(x, w, b, activation=activation)
        first = torch.autograd.grad((y * y).sum(), (x, w, b), create_graph=True)
        return [y, *first, *torch.autograd.grad(sum((g * g).sum() for g in first), (x, w, b))]

    for found, want in zip(derivatives(torch.float32), derivatives(torch.float64), strict=True):
        assert (found - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("through_dispatcher", [False, True])
def test_only_what_is_asked_for_is_computed(
    wanted: tuple[bool, bool, bool], through_dispatcher: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replk_probe.ops import _cpu

    ran: list[str] = []
    for name in ("grad_input", "grad_weight"):
        real = getattr(_cpu, name)
        monkeypatch.setattr(_cpu, name, lambda *args, real=real, name=name: (ran.append(name), real(*args))[1])
    x, w, b = (t.requires_grad_(wants) for t, wants in zip(problem(), wanted, strict=True))
    y = OPS.dwconv2d(x, w, b, False) if through_dispatcher else depthwise_conv2d(x, w, b)
    saved = [t for t in y.grad_fn.saved_tensors if t is not None]  # type: ignore[union-attr]
    assert len(saved) == wanted[0] + wanted[1]
    y.sum().backward()
    assert ran == [name for name, wants in zip(("grad_input", "grad_weight"), wanted, strict=False) if wants]
    assert tuple(t.grad is not None for t in (x, w, b)) == wanted


def test_the_gradient_of_the_fused_relu_is_that_of_torch() -> None:
    x, w, b = problem(grad=True)
    y = F.conv2d(x, w, b, padding=(2, 3), groups=3).relu()
    dy = torch.randn(SHAPE)
    want = torch.autograd.grad(y, (x, w, b), dy)
    found = torch.autograd.grad(depthwise_conv2d(x, w, b, activation="relu"), (x, w, b), dy)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_a_nan_passes_the_relu_and_its_gradient() -> None:
    x, w, _ = problem()
    x[0, 1, 4, 4] = float("nan")
    x.requires_grad_()
    y = depthwise_conv2d(x, w, activation="relu")
    assert y[0, 1, 4, 4].isnan() and y[1].isfinite().all()
    (dx,) = torch.autograd.grad(y[0, 1, 4, 4], x)
    assert dx[0, 1, 4, 4] == w[1, 0, 2, 3]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(mode: str, dynamic: bool, close: Close) -> None:
    layer = DepthwiseConv2d(3, 3, KERNEL, padding=(2, 3), groups=3).train(mode == "train")
    layer.activation = "relu"
    # aot_eager traces forward and backward as inductor does, and needs no C++ compiler at run time.
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for height in (9, 11):
        x = torch.randn(2, 3, height, 8, requires_grad=True)
        y = compiled(x)
        close(y, x, layer.weight, layer.bias, relu=True)
        wants = torch.autograd.grad(layer(x).sum(), (x, layer.weight))
        for found, want in zip(torch.autograd.grad(y.sum(), (x, layer.weight)), wants, strict=True):
            torch.testing.assert_close(found, want)
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["auto", "aten", "native"])
def test_the_function_compiles_with_every_backend(backend: Any, native: object, close: Close) -> None:
    x, w, b = problem()
    compiled = torch.compile(depthwise_conv2d, fullgraph=True, backend="aot_eager")
    close(compiled(x, w, b, backend=backend), x, w, b)
    torch._dynamo.reset()


def test_autocast_casts_as_a_convolution_does() -> None:
    x, w, b = problem(grad=True)
    layer = DepthwiseConv2d(3, 3, KERNEL, padding=(2, 3), groups=3).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, want = depthwise_conv2d(x, w, b), F.conv2d(x, w, b, padding=(2, 3), groups=3)
        assert y.dtype == want.dtype == layer(x).dtype == torch.bfloat16
        # float64 was asked for on purpose, and stays.
        assert depthwise_conv2d(x.double(), w.double()).dtype == torch.float64
        assert depthwise_conv2d(x.bfloat16(), w).dtype == torch.bfloat16
    torch.testing.assert_close(y, want, rtol=2e-2, atol=2e-2)
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == w.grad.dtype == torch.float32  # type: ignore[union-attr]
    with torch.autocast("cpu", dtype=torch.float16):
        assert depthwise_conv2d(x, w, b).dtype == torch.float16


@pytest.mark.parametrize("device", ["CPU", "CUDA", "MPS", "XPU"])
def test_autocast_is_registered_for_every_device(device: str) -> None:
    for name in ("dwconv2d", "dwconv2d_grad_input", "dwconv2d_grad_weight"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"replk_probe::{name}", f"Autocast{device}")


def test_autocast_within_a_transform_of_torch_func() -> None:
    x, w, _ = problem()

    def energy(w: Tensor, convolve: Callable[..., Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return convolve(x, w).float().square().mean()

    def plain(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, padding=(2, 3), groups=3)

    found, want = (func.grad(energy)(w, convolve) for convolve in (depthwise_conv2d, plain))
    torch.testing.assert_close(found, want, rtol=2e-2, atol=2e-2)


def test_float16_is_computed_in_float32_and_rounded_once(native: object) -> None:
    x, w, b = (tensor.half().requires_grad_() for tensor in problem())
    wide = [tensor.detach().float().requires_grad_() for tensor in (x, w, b)]
    dy = torch.randn(SHAPE)
    for backend in ("auto", "native"):
        y = depthwise_conv2d(x, w, b, activation="relu", backend=backend)  # type: ignore[arg-type]
        want = depthwise_conv2d(*wide, activation="relu")
        assert y.dtype == torch.float16 and torch.equal(y, want.half())
        found = torch.autograd.grad(y, (x, w), dy.half())
        wants = torch.autograd.grad(want, wide[:2], torch.where(y > 0, dy.half().float(), 0))
        assert all(torch.equal(one, other.half()) for one, other in zip(found, wants, strict=True))
    layer = DepthwiseConv2d(3, 3, KERNEL, padding=(2, 3), groups=3).half().eval()
    for _ in range(2):
        assert torch.equal(layer(x), depthwise_conv2d(x, layer.weight, layer.bias))
    # The way over torch would be ten thousand times slower at 31x31.
    assert unsupported_reason(x, w) is None and planned_method((1, 64, 32, 32), 31, torch.float16).method == "fft"
    assert describe_backend(dtype=torch.float16).endswith(", computed in float32")


def test_functional_call_uses_the_parameters_given(close: Close) -> None:
    layer = DepthwiseConv2d(3, 3, KERNEL, padding=(2, 3), groups=3)
    x = torch.randn(SHAPE)
    for mode in (True, False):
        layer.train(mode)
        layer(x)
        other = {name: torch.randn_like(value) for name, value in layer.state_dict().items()}
        close(torch.func.functional_call(layer, other, (x,)), x, other["weight"], other["bias"])
        close(layer(x), x, layer.weight, layer.bias)


@pytest.mark.parametrize("kernel", [KERNEL, (15, 15)])
def test_transforms_of_torch_func(kernel: tuple[int, int]) -> None:
    x, w = torch.randn(SHAPE), torch.randn(3, 1, *kernel)

    def energy(convolve: Callable[..., Tensor], weight: Tensor, image: Tensor) -> Tensor:
        return convolve(image[None], weight).square().sum()

    def plain(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, padding=(kernel[0] // 2, kernel[1] // 2), groups=3)

    found, want = (
        torch.func.vmap(torch.func.grad(lambda w, x, f=f: energy(f, w, x)), (None, 0))(w, x)
        for f in (depthwise_conv2d, plain)
    )
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-2)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "vmap of grad": lambda f, x, w, b: func.vmap(func.grad(f, (0, 1, 2)), (0, None, None))(x, w, b),
    "grad of vmap": lambda f, x, w, b: func.grad(lambda w: func.vmap(lambda x: f(x, w, b))(x).sum())(w),
    "vmap over weights": lambda f, x, w, b: func.vmap(f, (None, 0, None))(x[0], torch.stack([w, -w]), b),
    "grad of grad": lambda f, x, w, b: func.grad(lambda x: func.grad(f)(x, w, b).square().sum())(x[0]),
    "jvp": lambda f, x, w, b: func.jvp(f, (x[0], w, b), (x[1], -w, b)),
    "jacfwd": lambda f, x, w, b: func.jacfwd(f, 2)(x[0], w, b),
    "hessian": lambda f, x, w, b: func.hessian(f, 2)(x[0], w, b),
    "hessian of a scale": lambda f, x, w, b: func.hessian(lambda s: f(x[0], w * s, b))(torch.ones(())),
    "jacrev of jacrev": lambda f, x, w, b: func.jacrev(func.jacrev(lambda s: f(x[0] * s, w, b)))(torch.ones(())),
}


# The first forward-mode level of a process makes torch.jit warn.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_torch_func_can_be_composed(name: str) -> None:
    x, w, b = torch.randn(4, *SHAPE), torch.randn(3, 1, *KERNEL), torch.randn(3)

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return depthwise_conv2d(x, w, b, activation="relu").square().sum()

    def plain(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x, w, b, padding=(2, 3), groups=3).relu().square().sum()

    found, want = (TRANSFORMS[name](function, x, w, b) for function in (ours, plain))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
# The Hessian composes both modes of differentiation, and vmap.
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "auto") for name in ("vmap of grad", "grad of grad", "jvp", "jacfwd", "hessian", "jacrev", "vjp")),
        ("hessian", "native"),
        ("hessian", "aten"),
    ],
)
def test_transforms_of_torch_func_compile_in_one_graph(name: str, backend: Any, native: object) -> None:
    x, w, b = torch.randn(4, *SHAPE), torch.randn(3, 1, *KERNEL), torch.randn(3)
    transforms: dict[str, Callable[..., Any]] = {
        **TRANSFORMS,
        "jacrev": lambda f, x, w, b: func.jacrev(f, 2)(x[0], w, b),
        "vjp": lambda f, x, w, b: func.vjp(f, x[0], w, b)[1](torch.tensor(2.0)),
    }

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return depthwise_conv2d(x, w, b, activation="relu", backend=backend).square().sum()

    def plain(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x, w, b, padding=(2, 3), groups=3).relu().square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w, b: transforms[name](ours, x, w, b), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, w, b), transforms[name](plain, x, w, b), rtol=1e-4, atol=1e-2)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("backend", ["auto", "native", "aten"])
def test_forward_mode_derivatives(backend: Any, native: object) -> None:
    x, w, b = problem()

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return depthwise_conv2d(x, w, b, activation="relu", backend=backend)

    def plain(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x, w, b, padding=(2, 3), groups=3).relu()

    tangents = (torch.randn_like(x), torch.randn_like(w), torch.randn_like(b))
    want = func.jvp(plain, (x, w, b), tangents)
    torch.testing.assert_close(func.jvp(ours, (x, w, b), tangents), want, rtol=1e-4, atol=1e-4)
    direct = func.jvp(lambda x, w, b: OPS.dwconv2d(x, w, b, True), (x, w, b), tangents)
    torch.testing.assert_close(direct, want, rtol=1e-4, atol=1e-4)
    if backend != "native":  # float32 and bfloat16 only
        x, w, b = small((2, 3, 4, 3)), small((3, 1, 3, 5)), small((3,))
        assert gradcheck(ours, (x, w, b), check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_counted_as_those_of_a_convolution(device: str) -> None:
    n, c, h, w_ = SHAPE
    one = 2 * n * c * h * w_ * KERNEL[0] * KERNEL[1]
    x, w, b = (tensor.detach().to(device).requires_grad_() for tensor in problem())

    def count(function: Callable[[], Tensor]) -> int:
        with FlopCounterMode(display=False) as counter:
            function()
        return int(counter.get_total_flops())

    plain = count(lambda: F.conv2d(x, w, b, padding=(2, 3), groups=3))
    assert count(lambda: depthwise_conv2d(x, w, b)) == plain == one
    assert count(lambda: depthwise_conv2d(x, w, b).sum().backward()) == 3 * one


# Torch 2.10's profiler warns about options that are not used here.
@pytest.mark.filterwarnings("ignore:.*Profiler clears events:UserWarning")
def test_torch_modes_and_profilers_see_the_operator() -> None:
    x, w, _ = problem()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        depthwise_conv2d(x, w)
    assert "replk_probe::dwconv2d" in {event.key for event in profile.key_averages()}
    with torch.device("meta"):
        assert depthwise_conv2d(x, w).device.type == "cpu"

    class Tagged(Tensor):
        pass

    assert isinstance(depthwise_conv2d(x.as_subclass(Tagged), w), Tagged)


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The values of ``x`` ``[2, 3, 9, 8]`` in other memory, and views of other values."""
    wide = torch.randn(4, 5, 13, 20)
    odd = torch.frombuffer(bytearray(1 + 4 * x.numel()), dtype=torch.float32, offset=1).view(x.shape)
    return {
        "channels_last": x.to(memory_format=torch.channels_last),
        "sliced": wide[1:3, 1:4, 2:11, 5:13],
        "every other image and row": wide[::2, :3, ::2, :8].expand(2, 3, 7, 8)[:, :, :7],
        "every other column": wide[:2, :3, :9, 2:18:2],
        "transposed": torch.randn(2, 3, 8, 9).transpose(2, 3),
        "expanded over images": torch.randn(1, 3, 9, 8).expand(2, 3, 9, 8),
        "expanded over channels": torch.randn(2, 1, 9, 8).expand(2, 3, 9, 8),
        "expanded over rows": torch.randn(2, 3, 1, 8).expand(2, 3, 9, 8),
        "expanded over columns": torch.randn(2, 3, 9, 1).expand(2, 3, 9, 8),
        "offset by one element": torch.randn(2 * 3 * 9 * 8 + 1)[1:].view(2, 3, 9, 8),
        "offset by one byte": odd.copy_(x),
        "one column": torch.randn(2, 3, 9, 4)[..., 1:2],
        "one row": torch.randn(2, 3, 4, 8)[:, :, 1:2],
    }


@pytest.mark.parametrize("kernel", [KERNEL, (11, 9)])
@pytest.mark.parametrize("layout", layouts(torch.zeros(SHAPE)))
def test_every_layout_gives_the_same(layout: str, kernel: tuple[int, int], close: Close) -> None:
    w, b = torch.randn(3, 1, *kernel), torch.randn(3)
    x = layouts(torch.randn(SHAPE))[layout]
    before = x.clone()
    close(depthwise_conv2d(x, w, b), x, w, b)
    assert torch.equal(x, before)
    dense = x.contiguous()
    dy = torch.randn(x.shape)
    grad_weight = OPS.dwconv2d_grad_weight
    assert torch.equal(grad_weight(x, dy, *kernel), grad_weight(dense, dy, *kernel))
    assert torch.equal(grad_weight(dy, x, *kernel), grad_weight(dy, dense, *kernel))
    if layout == "channels_last":
        close(conv_input_gradient(x, w), x, w.flip(2, 3))  # another method may be used, which adds up in another order
        return
    assert torch.equal(depthwise_conv2d(x, w, b), depthwise_conv2d(dense, w, b))
    assert torch.equal(conv_input_gradient(x, w), conv_input_gradient(dense, w))


def test_weights_and_biases_may_be_views(close: Close) -> None:
    x = torch.randn(SHAPE)
    views = torch.randn(1, 3, 7, 5).permute(1, 0, 3, 2), torch.randn(6)[::2]
    close(depthwise_conv2d(x, *views), x, *views)
    # Input, weight and bias in one piece of memory.
    memory = torch.randn(3 * 5 * 7)
    x, w = memory[: 3 * 5 * 7].view(1, 3, 5, 7), memory.view(3, 1, 5, 7)
    before = memory.clone()
    close(depthwise_conv2d(x, w, memory[2:5]), x, w, memory[2:5])
    assert torch.equal(memory, before)


def test_negated_views_are_read_right(close: Close) -> None:
    _, w, _ = problem()
    x = torch.randn(SHAPE, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    close(depthwise_conv2d(x[..., :].expand(SHAPE), w), x.resolve_neg(), w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3, 9, 8), (2, 3, 0, 8), (2, 3, 9, 0), (2, 0, 9, 8)])
def test_empty_tensors(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    w = torch.randn(shape[1], 1, *KERNEL, dtype=dtype, requires_grad=True)
    b = torch.randn(shape[1], dtype=dtype, requires_grad=True)
    y = depthwise_conv2d(x, w, b, activation="relu")
    assert y.shape == shape and y.dtype == dtype
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == shape
    assert w.grad is not None and not w.grad.any() and b.grad is not None and not b.grad.any()
    assert depthwise_conv2d(x, w, b, backend="aten").shape == shape


@pytest.mark.parametrize("shape", [(1, 1, 6, 6), (1, 1, 1, 1), (3, 1, 1, 7), (2, 5, 7, 1), (1, 2, 3, 4)])
@pytest.mark.parametrize("kernel", [(3, 3), (7, 7), (51, 5), (5, 51), (61, 61)])
def test_one_channel_and_kernels_above_the_plane(shape: tuple[int, ...], kernel: tuple[int, int], close: Close) -> None:
    x, w = torch.randn(shape), torch.randn(shape[1], 1, *kernel)
    close(depthwise_conv2d(x, w), x, w)
    close(conv_input_gradient(x, w), x, w.flip(2, 3))


@pytest.mark.parametrize("kernel", [(4, 4), (3, 4), (2, 7)])
def test_even_kernels_are_padded_as_torch_pads_them(kernel: tuple[int, int]) -> None:
    x, w, b = small(SHAPE), small((3, 1, *kernel)), small((3,))
    assert gradcheck(depthwise_conv2d, (x[:, :, :3, :3], w, b))
    left, top = (kernel[1] - 1) // 2, (kernel[0] - 1) // 2
    padded = F.pad(x, (left, kernel[1] // 2, top, kernel[0] // 2))
    torch.testing.assert_close(depthwise_conv2d(x, w, b), F.conv2d(padded, w, b, groups=3))


def test_aten_is_the_same_function(close: Close) -> None:
    for kernel in (KERNEL, (15, 15)):
        x, w, b = torch.randn(SHAPE), torch.randn(3, 1, *kernel), torch.randn(3)
        close(depthwise_conv2d(x, w, b, activation="relu", backend="aten"), x, w, b, relu=True)
        x64 = x.double().requires_grad_()
        (want,) = torch.autograd.grad(depthwise_conv2d(x64, w.double(), backend="aten").sin().sum(), x64)
        (found,) = torch.autograd.grad(depthwise_conv2d(x64, w.double()).sin().sum(), x64)
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input": torch.zeros(3, 9, 8)}, r"input is \[3, 9, 8\]. Four dimensions"),
        ({"weight": torch.zeros(4, 1, 5, 7)}, r"weight is \[4, 1, 5, 7\] for 3 channels"),
        ({"weight": torch.zeros(3, 2, 5, 7)}, r"Use the shape \[3, 1, Kh, Kw\]"),
        ({"weight": torch.zeros(3, 5, 7)}, r"weight is \[3, 5, 7\] for 3 channels"),
        ({"weight": torch.zeros(3, 1, 0, 3)}, r"weight is \[3, 1, 0, 3\]. Kernel sizes must be positive"),
        ({"weight": torch.zeros(3, 1, 5, 7, dtype=torch.bfloat16)}, "input is float32 on cpu and weight is bfloat16"),
        ({"weight": torch.zeros(3, 1, 5, 7, device="meta")}, "weight is float32 on meta"),
        ({"bias": torch.zeros(2)}, r"bias is \[2\]. One element per channel"),
        ({"bias": torch.zeros(3, dtype=torch.float64)}, "bias is float64 on cpu"),
        ({"activation": "gelu"}, "Unknown activation 'gelu'. Only ReLU"),
        ({"input": torch.zeros(SHAPE).numpy()}, "input is of type numpy.ndarray. A torch.Tensor is required"),
        ({"weight": [1.0]}, "weight is of type list. A torch.Tensor is required"),
        ({"weight": None}, "weight is of type NoneType"),
        ({"bias": torch.zeros(3).numpy()}, "bias is of type numpy.ndarray"),
        ({"backend": "cudnn"}, "Unknown backend 'cudnn'. Choose from 'auto', 'native', 'aten'"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("backend", ["auto", "native", "aten"])
def test_wrong_arguments_are_clear_errors(
    arguments: dict[str, Any], words: str, grad: bool, backend: str, native: object
) -> None:
    x, w, b = problem(grad=grad)
    with pytest.raises(InvalidInputError, match=words):
        depthwise_conv2d(**{"input": x, "weight": w, "bias": b, "backend": backend, **arguments})


@pytest.mark.parametrize("arguments", [{"input": None}, {"weight": [1.0]}, {"bias": 1}, {"activation": "gelu"}])
def test_wrong_arguments_of_a_prepared_kernel(arguments: dict[str, Any]) -> None:
    x, w, b = problem()
    name, kernel = next(iter(arguments)), PreparedKernel()
    with pytest.raises(InvalidInputError, match=name):
        kernel.forward(**{"input": x, "weight": w, "bias": b, **arguments})
    if name in ("input", "weight"):
        with pytest.raises(InvalidInputError, match="is of type"):
            kernel.input_gradient(arguments.get("input", x), arguments.get("weight", w))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", [True, False])
def test_wrong_arguments_of_the_module(stride: int, mode: bool) -> None:
    layer = DepthwiseConv2d(3, 3, KERNEL, padding=(2, 3), groups=3, stride=stride).train(mode)
    with pytest.raises(InvalidInputError, match=r"input is of type numpy\.ndarray"):
        layer(torch.zeros(SHAPE).numpy())
    layer.activation = "gelu"  # type: ignore[assignment]
    with pytest.raises(InvalidInputError, match="Unknown activation 'gelu'"):
        layer(torch.zeros(SHAPE))
    with pytest.raises(InvalidInputError, match="Unknown activation 'gelu'"):
        DepthwiseConv2d.from_conv(layer, "gelu")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="conv is of type Linear"):
        DepthwiseConv2d.from_conv(torch.nn.Linear(3, 3))  # type: ignore[arg-type]


def test_wrong_arguments_of_the_gradients() -> None:
    x = torch.randn(SHAPE)
    with pytest.raises(InvalidInputError, match="grad is"):
        OPS.dwconv2d_grad_weight(x, torch.zeros(1, 3, 9, 8), *KERNEL)
    with pytest.raises(InvalidInputError, match="Symmetric padding requires odd sizes"):
        OPS.dwconv2d_grad_weight(x, x, 4, 5)
    with pytest.raises(InvalidInputError, match="Symmetric padding requires odd sizes"):
        conv_input_gradient(x, torch.zeros(3, 1, 4, 5))


@pytest.mark.parametrize(
    ("dtype", "device", "words"),
    [
        (torch.float64, "cpu", "Native kernel refused: dtype is torch.float64 and only float32, bfloat16"),
        (torch.float32, "meta", "Native kernel refused: the device is meta"),
    ],
)
def test_a_required_native_kernel_that_is_not_available(dtype: torch.dtype, device: str, words: str) -> None:
    x, w = torch.zeros(SHAPE, dtype=dtype, device=device), torch.zeros(3, 1, *KERNEL, dtype=dtype, device=device)
    with pytest.raises(BackendError, match=words):
        depthwise_conv2d(x, w, backend="native")
    with pytest.raises(BackendError, match=r"weight is \[3, 1, 4, 4\] and only odd kernels are compiled. Use backend"):
        depthwise_conv2d(x, torch.zeros(3, 1, 4, 4, dtype=dtype, device=device), backend="native")


@pytest.mark.parametrize("kernel", [(7, 7), (31, 31), (51, 5)])
@pytest.mark.parametrize("shape", [(2, 5, 40, 37), (1, 19, 14, 14), (3, 1, 64, 64)])
def test_results_do_not_depend_on_the_number_of_threads(shape: tuple[int, ...], kernel: tuple[int, int]) -> None:
    x, dy, w = torch.randn(shape), torch.randn(shape), torch.randn(shape[1], 1, *kernel)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append((depthwise_conv2d(x, w), conv_input_gradient(dy, w), OPS.dwconv2d_grad_weight(x, dy, *kernel)))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("backend", ["auto", "native", "aten"])
@pytest.mark.parametrize("kernel", [3, 9])
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (1, 3, 6, 1), (2, 3, 1, 6), (1, 1, 6, 6), (2, 4, 1, 1)])
def test_results_have_the_layout_of_torch(shape: tuple[int, ...], kernel: int, backend: Any, close: Close) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
        w = torch.randn(shape[1], 1, kernel, kernel, requires_grad=True)
        found = depthwise_conv2d(x, w, activation="relu", backend=backend)
        close(found, x, w, relu=True)
        want = F.conv2d(x, w, padding=kernel // 2, groups=shape[1]).relu()
        assert found.is_contiguous(memory_format=layout)
        cropped = torch.randn(*shape[:2], shape[2] + 2, shape[3] + 2).contiguous(memory_format=layout)[..., 1:-1, 1:-1]
        theirs = F.conv2d(cropped, w, padding=kernel // 2, groups=shape[1])
        assert theirs.is_contiguous(memory_format=layout)
        assert depthwise_conv2d(cropped, w, backend=backend).is_contiguous(memory_format=layout)
        dy = torch.randn(shape).contiguous(memory_format=layout)
        for mine, other in zip(*(torch.autograd.grad(y, (x, w), dy) for y in (found, want)), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
            assert mine.is_contiguous(memory_format=layout) or mine.shape != x.shape
        half = depthwise_conv2d(x.half(), w.half(), backend=backend)
        assert half.is_contiguous(memory_format=layout) and half.dtype == torch.float16


@pytest.mark.parametrize("kernel", [3, 9])
def test_the_compiler_knows_the_layout_of_results(kernel: int) -> None:
    x = torch.randn(2, 5, 6, 7).to(memory_format=torch.channels_last)
    w = torch.randn(5, 1, kernel, kernel)
    opcheck(OPS.dwconv2d, (x, w, None, True))
    opcheck(OPS.dwconv2d_grad_input, (x, w))
    opcheck(OPS.dwconv2d_grad_weight, (x, x.clone(), kernel, kernel))
    compiled = torch.compile(lambda x, w: depthwise_conv2d(x, w) * 2, backend="aot_eager", fullgraph=True)
    assert compiled(x, w).stride() == x.stride()
    torch.testing.assert_close(compiled(x, w), 2 * depthwise_conv2d(x, w))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("kernel", "method"), [(7, "blocked"), (13, "blocked-pfa")])
def test_channels_last_tensors_are_not_transposed(
    kernel: int, method: str, monkeypatch: pytest.MonkeyPatch, close: Close
) -> None:
    monkeypatch.setenv("REPLK_PROBE_METHOD", method)
    monkeypatch.setattr(_cpu, "in_planes", None)
    monkeypatch.setattr(_cpu, "in_channels_last", None)
    whole = torch.randn(2, 40, 14, 18).to(memory_format=torch.channels_last)
    # The third one is copied, because its channels are not adjacent.
    for x in (whole, whole[:, 3:, 2:, 1:-3], whole[:, ::2]):
        w, b = torch.randn(x.shape[1], 1, kernel, kernel), torch.randn(x.shape[1])
        close(depthwise_conv2d(x, w, b, activation="relu"), x, w, b, relu=True)
        close(conv_input_gradient(x, w), x, w.flip(2, 3))


@pytest.mark.usefixtures("native")
def test_the_conversion_of_channels_last_tensors_counts() -> None:
    def planned(size: int, kernel: int) -> str:
        return planned_method((1, 128, size, size), kernel, channels_last=True).method

    assert (planned(56, 7), planned(14, 13), planned(256, 31)) == ("blocked", "blocked-pfa", "fft")
    # Direct sums are slower than transforms of planes, but faster than two conversions and these.
    assert planned_method((1, 128, 56, 56), 11).method == "fft" and planned(56, 11) == "blocked"


@pytest.mark.usefixtures("native")
def test_torch_computes_the_smallest_channels_last_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(kernel: Any, direction: Any, dtype: torch.dtype = torch.float32) -> Any:
        return planned_method((1, 64, 28, 28), kernel, direction=direction, dtype=dtype, channels_last=True)

    for direction, dtype, side in (
        ("forward", torch.float32, 7), ("forward", torch.float16, 7), ("forward", torch.bfloat16, 9),
        ("grad_input", torch.bfloat16, 5), ("grad_input", torch.float32, 5), ("grad_weight", torch.float32, 5),
    ):  # fmt: skip
        assert planned(side - 2, direction, dtype).reason == "torch is faster for small channels-last kernels"
        assert planned(side, direction, dtype).reason is None
    assert planned((3, 5), "grad_weight").reason is planned((1, 11), "grad_input").reason is None
    monkeypatch.setenv("REPLK_PROBE_METHOD", "direct")
    assert planned(3, "forward").method == "direct"


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_what_is_planned_is_what_computes(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch computes only small channels-last kernels."""
    by_torch: list[str] = []

    def watched(name: str) -> Callable[..., Tensor]:
        function = getattr(_fallback, name)
        return lambda *args: (by_torch.append(name), function(*args))[1]

    for name in ("forward", "grad_input", "grad_weight"):
        monkeypatch.setattr(_fallback, name, watched(name))
    w = torch.randn(5, 1, kernel, kernel)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 5, 12, 12).contiguous(memory_format=layout)
        calls: dict[Any, Callable[[], Tensor]] = {
            "forward": lambda x=x: depthwise_conv2d(x, w),
            "grad_input": lambda x=x: conv_input_gradient(x, w),
            "grad_weight": lambda x=x: OPS.dwconv2d_grad_weight(x, x, kernel, kernel),
        }
        for direction, call in calls.items():
            by_torch.clear()
            call()
            is_last = layout == torch.channels_last
            planned = planned_method(x.shape, kernel, direction=direction, channels_last=is_last)
            least = 7 if direction == "forward" else 5
            assert (planned.method == "aten") == bool(by_torch) == (is_last and kernel < least)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kernel", [5, 7])
def test_small_channels_last_kernels_of_a_module_are_a_plain_convolution(
    kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = DepthwiseConv2d(5, 5, kernel, padding=kernel // 2, groups=5).eval()
    x = torch.randn(2, 5, 12, 12).to(memory_format=torch.channels_last)
    monkeypatch.setattr(PreparedKernel, "forward", lambda *args: None)
    with torch.no_grad():
        assert (conv(x) is None) == (kernel == 7)


@pytest.mark.usefixtures("native")
def test_a_kernel_that_is_not_prepared_is_planned_for_what_it_costs() -> None:
    ready, made = (planned_method((1, 1024, 28, 28), 5, prepared=prepared) for prepared in (True, False))
    assert made.method == "direct" and ready.method != "aten"
    x, w = torch.randn(1, 16, 28, 28), torch.randn(16, 1, 5, 5)
    _cpu._thread.calls.clear()
    depthwise_conv2d(x, w)
    PreparedKernel().forward(x, w)
    assert [call.problem.prepared for call in _cpu._thread.calls.values()] == [0, 1]


def test_sizes_beyond_the_library_are_left_to_torch() -> None:
    x, w = torch.randn(1, 1, 2, 2), torch.zeros(1, 1, 1, (1 << 20) + 1)
    w[..., 1 << 19] = 2
    torch.testing.assert_close(depthwise_conv2d(x, w), 2 * x)
    with pytest.raises(BackendError, match="invalid argument"):
        depthwise_conv2d(x, w, backend="native")


def test_wrong_dtypes_are_clear_errors_in_every_layout() -> None:
    conv = DepthwiseConv2d(8, 8, 3, padding=1, groups=8).eval()
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad(), pytest.raises(InvalidInputError, match="Convert one of them"):
            conv(torch.randn(1, 8, 6, 6, dtype=torch.bfloat16).contiguous(memory_format=layout))
        with torch.no_grad(), pytest.raises(InvalidInputError, match="7 channels"):
            conv(torch.randn(1, 7, 6, 6).contiguous(memory_format=layout))
