"""The convolution by torch's Fourier transforms against float64, over the shapes of the native kernels."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from replk_probe import ops
from replk_probe.errors import BackendError
from replk_probe.ops.methods import torch_fft
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.methods.torch_fft import TorchFFT

LISTED = runpy.run_path(str(Path(__file__).parents[1] / "numerics" / "test_accuracy.py"))
DIRECTIONS = ("forward", "grad_input", "grad_weight")
METHOD, OPS = TorchFFT(), torch.ops.replk_probe
# Half the distance from 1 to the next number.
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
# With this memory, the planes of the tests below are divided into tiles, the larger ones along both axes.
SMALL = 7_000


@pytest.fixture(params=[None, SMALL], ids=["whole", "tiles"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The limit of the workspace, which forces tiles; None for the limit of the package."""
    if request.param is not None:
        monkeypatch.setattr(torch_fft, "WORKSPACE_BYTES", request.param)
    limit: int | None = request.param
    return limit


def draw(shape: tuple[int, ...], kernel: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Input, weight, gradient of the output."""
    return tuple(torch.randn(size).to(dtype) for size in (shape, (shape[1], 1, *kernel), shape))


def computed(direction: str, x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
    if direction == "forward":
        return METHOD.forward(x, w, None, False)
    if direction == "grad_input":
        return METHOD.grad_input(dy, w)
    return METHOD.grad_weight(x, dy, *w.shape[2:])


def exact(direction: str, x: Tensor, w: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """The result by direct sums in float64, and the product of the norms for every plane (kernel) of it."""
    x, w, dy = x.double(), w.double(), dy.double()
    geometry: dict[str, Any] = {"padding": (w.shape[2] // 2, w.shape[3] // 2), "groups": x.shape[1]}
    if direction == "grad_weight":
        found = torch.nn.grad.conv2d_weight(x, w.shape, dy, **geometry)  # type: ignore[arg-type]
        return found, norm(x, (0, 2, 3)).view(-1, 1, 1, 1) * norm(dy, (0, 2, 3)).view(-1, 1, 1, 1)
    planes, taps = (x, w) if direction == "forward" else (dy, w.flip(2, 3))
    return F.conv2d(planes, taps, **geometry), norm(planes, (2, 3))[..., None, None] * norm(w, (1, 2, 3))[:, None, None]


def norm(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    return tensor.square().sum(axes).sqrt()


def check(found: Tensor, want: Tensor, norms: Tensor, what: object = "") -> None:
    """Compare with the bound of every plane, ``4 u ||x|| ||w||``.

    A transform of N points takes log2(N) passes, each of which adds a relative error of at most about 0.6 u in the root
    mean square, independent of the others. With both transforms of the operands, the inverse, and two roundings of the
    products, the relative error of the spectrum of a result is e = u sqrt(3 * 0.36 log2(N) + 2), 4.2 u for the largest
    tile here (N = 2^14.5). Errors of the frequencies add up independently to e times the root mean square of the
    circular convolution, whose elements are at most ||x|| ||w|| by the inequality of Cauchy and Schwarz; for the random
    operands here, it is ||x|| ||w|| / sqrt(N) in planes and less than half of ||x|| ||w|| from four points on. The
    largest of the N errors is less than five times their root mean square: at most 5 * 4.2 / sqrt(N) = 0.2 u for large
    tiles, and for the smallest ones (N = 4: e = 2 u) less than 2 * 2 * 0.5 u, plus the rounding of the result.
    """
    assert found.shape == want.shape
    error = ((found.double() - want).abs() / norms.clamp_min(1e-300)).amax()
    assert error <= 4 * UNIT[found.dtype], f"{what}: {error / UNIT[found.dtype]:.2f} units"


@pytest.mark.parametrize(
    "kernel", [*LISTED["KERNELS"], (1, 31), (31, 1)], ids=lambda kernel: f"{kernel[0]}x{kernel[1]}"
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_kernels_and_planes(direction: str, kernel: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for index, plane in enumerate(LISTED["planes_for"](kernel)):
        operands = draw((1 + index % 2, (3, 1, 2)[index % 3], *plane), kernel)
        want, norms = exact(direction, *operands)
        for limit in (256 << 20, SMALL):
            monkeypatch.setattr(torch_fft, "WORKSPACE_BYTES", limit)
            check(computed(direction, *operands), want, norms, (plane, kernel, limit))


def test_the_plane_is_divided_where_that_is_faster_or_takes_too_much_memory() -> None:
    def tiles(height: int, width: int, kh: int, kw: int, limit: int = 256 << 20) -> list[tuple[int, int]]:
        plan = torch_fft._plan(height, width, kh, kw, torch.float32, limit)
        assert plan.workspace_bytes(1, 1, True) <= limit
        return [(axis.number, axis.length) for axis in (plan.rows, plan.columns)]

    assert tiles(56, 56, 31, 31) == [(1, 72), (1, 72)]
    assert tiles(256, 256, 31, 31) == [(1, 280), (1, 280)]
    assert tiles(1024, 1024, 31, 31) == [(4, 288), (4, 288)]
    # Only the part of the kernel that reaches another pixel of the plane counts.
    assert tiles(5, 7, 61, 61) == [(1, 10), (1, 14)]
    # Axes on which the kernel has one tap are not transformed, and have no padding.
    assert tiles(11, 40, 1, 7) == [(1, 11), (1, 48)]
    assert tiles(40, 11, 7, 1) == [(1, 48), (1, 11)]
    for sizes in ((15, 18, 5, 7), (15, 18, 1, 7), (15, 18, 5, 1), (15, 18, 15, 5), (20, 21, 7, 9), (40, 37, 13, 31)):
        plan = torch_fft._plan(*sizes, torch.float32, SMALL)
        assert plan.rows.number * plan.columns.number > 1
    assert min(count for count, _ in tiles(56, 56, 5, 5, SMALL)) > 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tiles_in_the_natural_plan_of_a_large_plane(direction: str) -> None:
    x, w, dy = draw((1, 1, 600, 1100), (3, 5))
    plan = torch_fft._plan(600, 1100, 3, 5, torch.float32, 256 << 20)
    assert min(plan.rows.number, plan.columns.number) > 1
    check(computed(direction, x, w, dy), *exact(direction, x, w, dy))


def test_lengths_have_small_factors() -> None:
    lengths = [torch_fft._good_length(least) for least in range(1, 600)]
    for least, length in enumerate(lengths, 1):
        assert length >= least and length % 2 == 0 and 2**9 * 3**6 * 5**4 * 7**4 % length == 0
    assert lengths[10] == 12 and lengths[42] == 48 and lengths[270] == 280


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_float64(direction: str, memory: int | None) -> None:
    operands = draw((2, 3, 33, 20), (13, 9), torch.float64)
    found = computed(direction, *operands)
    assert found.dtype == torch.float64
    check(found, *exact(direction, *operands))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_are_computed_in_float32_and_rounded_once(dtype: torch.dtype, memory: int | None) -> None:
    x, w, dy = draw((2, 3, 20, 21), (7, 9), dtype)
    wide = x.float(), w.float(), dy.float()
    for direction in DIRECTIONS:
        found, same = computed(direction, x, w, dy), computed(direction, *wide)
        assert found.dtype == dtype and torch.equal(found, same.to(dtype))
    bias = torch.randn(3).to(dtype)
    found = METHOD.forward(x, w, bias, True)
    assert torch.equal(found, METHOD.forward(wide[0], wide[1], bias.float(), True).to(dtype))


def test_bias_and_relu(memory: int | None) -> None:
    x, w, dy = draw((2, 3, 20, 21), (7, 9))
    bias = torch.randn(3)
    plain, norms = exact("forward", x, w, dy)
    want = plain + bias.double()[:, None, None]
    # The sum with the bias is rounded once more.
    check(METHOD.forward(x, w, bias, False), want, norms + 0.25 * bias.abs()[:, None, None])
    found = METHOD.forward(x, w, bias, True)
    check(found, want.relu(), norms + 0.25 * bias.abs()[:, None, None])
    assert (found >= 0).all() and (found == 0).any()
    check(METHOD.forward(x, w, None, True), plain.relu(), norms)


def test_a_kernel_of_one_tap_shifts_the_image(memory: int | None) -> None:
    x = torch.randint(-8, 9, (2, 2, 15, 18)).float()
    w = torch.zeros(2, 1, 5, 7)
    w[0, 0, 2, 3], w[1, 0, 1, 5] = 2, -1
    y = METHOD.forward(x, w, None, False)
    torch.testing.assert_close(y[:, 0], 2 * x[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 1, 1:, :-2], -x[:, 1, :-1, 2:], rtol=0, atol=1e-5)
    back = METHOD.grad_input(x, w)
    torch.testing.assert_close(back[:, 1, :-1, 2:], -x[:, 1, 1:, :-2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", [(5, 7), (1, 7), (5, 1)], ids=str)
def test_an_image_of_one_pixel_shows_the_kernel(kernel: tuple[int, int], memory: int | None) -> None:
    w = torch.arange(1.0, 1 + 2 * math.prod(kernel)).view(2, 1, *kernel)
    x = torch.zeros(1, 2, 15, 18)
    x[0, :, 6, 9] = 1
    top, left = 6 - kernel[0] // 2, 9 - kernel[1] // 2
    around = (slice(None), slice(None), slice(top, top + kernel[0]), slice(left, left + kernel[1]))
    shown, flipped = METHOD.grad_input(x, w), METHOD.forward(x, w, None, False)
    torch.testing.assert_close(shown[around].transpose(0, 1), w, rtol=0, atol=1e-4)
    torch.testing.assert_close(flipped[around].transpose(0, 1), w.flip(2, 3), rtol=0, atol=1e-4)
    # The gradient of the weight for a gradient at one pixel is the image around it.
    image = torch.arange(15.0 * 18).view(1, 1, 15, 18).expand(1, 2, -1, -1)
    found = METHOD.grad_weight(image, x, *kernel)
    torch.testing.assert_close(found.transpose(0, 1), image[around], rtol=0, atol=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [(0, 0), (7, 9), (14, 17)], ids=str)
@pytest.mark.parametrize("where", [0, 1, 2], ids=["input", "weight", "gradient"])
def test_what_is_not_finite_never_becomes_finite(
    where: int, position: tuple[int, int], value: float, memory: int | None
) -> None:
    """Every result that depends on it is not finite, also after a ReLU; other planes do not change."""
    operands, marks = draw((2, 3, 15, 18), (15, 5)), draw((2, 3, 15, 18), (15, 5))
    clean = {direction: computed(direction, *operands) for direction in DIRECTIONS}
    spot = (1, 1, *position) if where != 1 else (1, 0, position[0], min(position[1], 4))
    for index, mark in enumerate(marks):
        mark.fill_(0 if index == where else 1)
    operands[where][spot], marks[where][spot] = value, 1
    for direction in DIRECTIONS:
        if where == {"forward": 2, "grad_input": 0, "grad_weight": 1}[direction]:
            continue  # not an operand
        depends = exact(direction, *marks)[0] > 0.5
        assert depends.any()
        found = computed(direction, *operands)
        assert not found[depends].isfinite().any()
        others = torch.ones_like(found, dtype=torch.bool)
        others[(slice(None) if where == 1 else 1, 1) if direction != "grad_weight" else 1] = False
        assert torch.equal(found[others], clean[direction][others])
        if direction == "forward":
            for bias in (None, torch.randn(3)):
                activated = METHOD.forward(operands[0], operands[1], bias, True)
                assert not activated[depends].isfinite().any()
                assert activated[others].isfinite().all()


def test_a_relu_does_not_hide_what_has_spread() -> None:
    x, w = torch.ones(1, 1, 6, 6), torch.full((1, 1, 3, 3), -1.0)
    x[0, 0, 2, 2] = math.inf
    y = METHOD.forward(x, w, torch.full((1,), 20.0), True)
    assert ((y > 0) | y.isnan()).all() and not y[0, 0, 1:4, 1:4].isfinite().any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_results_have_the_memory_format_of_the_first_tensor(layout: torch.memory_format, memory: int | None) -> None:
    x, w, dy = draw((2, 3, 15, 18), (5, 7))
    for direction in DIRECTIONS:
        want = computed(direction, x, w, dy)
        for other in (torch.contiguous_format, torch.channels_last):
            first, second = (x, dy) if direction != "grad_input" else (dy, x)
            first, second = first.contiguous(memory_format=layout), second.contiguous(memory_format=other)
            operands = (first, w, second) if direction != "grad_input" else (second, w, first)
            found = computed(direction, *operands)
            is_weight = direction == "grad_weight"
            assert found.is_contiguous(memory_format=torch.contiguous_format if is_weight else layout)
            torch.testing.assert_close(found, want)


def test_any_strides_are_read(memory: int | None) -> None:
    x = torch.randn(3, 18, 15, 4).permute(3, 0, 2, 1)[::2, :, ::2]
    w = torch.randn(1, 3, 7, 5).permute(1, 0, 3, 2)
    dy = torch.randn(3, 1, 1).expand(x.shape)
    bias = torch.randn(6)[::2]
    dense = x.contiguous(), w.contiguous(), dy.contiguous()
    for direction in DIRECTIONS:
        torch.testing.assert_close(computed(direction, x, w, dy), computed(direction, *dense))
    torch.testing.assert_close(METHOD.forward(x, w, bias, False), METHOD.forward(*dense[:2], bias.contiguous(), False))


@pytest.mark.parametrize("shape", [(0, 3, 9, 8), (2, 3, 0, 8), (2, 3, 9, 0), (2, 0, 9, 8)], ids=str)
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    x, w, dy = draw(shape, (5, 7))
    assert METHOD.forward(x, w, torch.randn(shape[1]), True).shape == METHOD.grad_input(dy, w).shape == shape
    found = METHOD.grad_weight(x, dy, 5, 7)
    assert found.shape == w.shape and not found.any()
    for direction in DIRECTIONS:
        assert METHOD.workspace_bytes(ConvProblem(direction, "float32", False, *shape, 5, 7)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_chunks_stay_within_the_memory_limit(direction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, kernel = (5, 7, 30, 28), (9, 11)
    operands = draw(shape, kernel)
    problem = ConvProblem(direction, "float32", False, *shape, *kernel)
    everything = METHOD.workspace_bytes(problem)
    for limit in (everything - 1, everything // 2, everything // 7, everything // 20, everything // 30):
        monkeypatch.setattr(torch_fft, "WORKSPACE_BYTES", limit)
        planned = METHOD.workspace_bytes(problem)
        assert planned <= limit
        with torch.profiler.profile(profile_memory=True) as profile:
            found = computed(direction, *operands)
        sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        peak = now = 0
        for size in sizes:
            now += size
            peak = max(peak, now)
        assert peak <= planned + found.nbytes
        check(found, *exact(direction, *operands))


def test_problems_that_are_refused() -> None:
    def refusal(dtype: str, device: str = "cpu") -> str | None:
        return METHOD.refusal(ConvProblem("forward", dtype, False, 1, 2, 9, 8, 5, 7), torch.device(device))

    assert [refusal(dtype) for dtype in ("float16", "bfloat16", "float32", "float64")] == [None] * 4
    assert refusal("float32", "cuda") is None and refusal("float32", "meta") == "the device has no memory"
    assert "dtype is torch.complex64 and only floating-point" in str(refusal("complex64"))


def test_results_do_not_depend_on_the_number_of_threads(memory: int | None) -> None:
    operands = draw((2, 3, 24, 21), (13, 31))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([computed(direction, *operands) for direction in DIRECTIONS])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The operators by this method, with or without the library."""
    monkeypatch.setenv("REPLK_PROBE_METHOD", METHOD.name)
    yield


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(("kernel", "activation"), [((3, 5), None), ((9, 9), "relu")], ids=str)
def test_gradients_of_the_operators(kernel: tuple[int, int], activation: Any) -> None:
    x, dy = (torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w = torch.randn(2, 1, *kernel, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found: Tensor = OPS.dwconv2d(x, w, b, activation == "relu")
        return found

    def grad_weight(x: Tensor, dy: Tensor) -> Tensor:
        found: Tensor = OPS.dwconv2d_grad_weight(x, dy, *kernel)
        return found

    for function, operands in ((forward, (x, w, b)), (OPS.dwconv2d_grad_input, (dy, w)), (grad_weight, (x, dy))):
        assert gradcheck(function, operands, fast_mode=True)
        assert gradgradcheck(function, operands, fast_mode=True)


@pytest.mark.usefixtures("forced")
def test_the_operators_compute_by_the_forced_method(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for name in DIRECTIONS:
        real = getattr(TorchFFT, name)
        monkeypatch.setattr(TorchFFT, name, lambda *args, real=real, name=name: (used.append(name), real(*args))[1])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x, w, dy = draw((2, 3, 9, 8), (3, 5), dtype)
        want = [METHOD.forward(x, w, None, False), METHOD.grad_input(dy, w), METHOD.grad_weight(x, dy, 3, 5)]
        used.clear()
        x, w = x.requires_grad_(), w.requires_grad_()
        y = ops.depthwise_conv2d(x, w)
        y.backward(dy)
        assert used == [*DIRECTIONS]
        for found, one in zip((y, x.grad, w.grad), want, strict=True):
            assert found is not None and torch.equal(found, one)
        planned = ops.planned_method((2, 3, 9, 8), (3, 5), dtype)
        assert (planned.method, planned.isa, planned.tile) == ("torch-fft", None, (10, 10))
        assert planned.workspace_bytes > 0 and planned.reason is not None
        assert ops.describe_backend(dtype=dtype).startswith("torch-fft (")
    assert ops.describe_backend() == "torch-fft (REPLK_PROBE_METHOD=torch-fft forces torch's Fourier transforms)"
    with pytest.raises(BackendError, match="REPLK_PROBE_METHOD=torch-fft forces torch's Fourier transforms"):
        ops.depthwise_conv2d(x.float(), w.float(), backend="native")


@pytest.mark.usefixtures("forced")
def test_transforms_compilers_and_autocast_with_the_forced_method(close: Callable[..., None]) -> None:
    x, w, _ = draw((2, 3, 9, 8), (5, 7))
    compiled = torch.compile(ops.depthwise_conv2d, fullgraph=True, backend="aot_eager")
    close(compiled(x, w), x, w)
    torch._dynamo.reset()
    batched = torch.func.vmap(lambda image: ops.depthwise_conv2d(image[None], w)[0])(x)
    close(batched, x, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.depthwise_conv2d(x, w), METHOD.forward(x.bfloat16(), w.bfloat16(), None, False))
    # Recorded programs contain torch's convolution.
    program = torch.export.export(ops.DepthwiseConv2d(3, 3, 5, padding=2, groups=3), (x,))
    assert not any("replk" in str(node.target) for node in program.graph.nodes)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_on_a_gpu(direction: str, dtype: torch.dtype, memory: int | None) -> None:
    for shape, kernel in (((2, 3, 33, 37), (31, 31)), ((3, 2, 14, 14), (1, 7)), ((1, 2, 56, 56), (51, 5))):
        operands = draw(shape, kernel, dtype)
        found = computed(direction, *(operand.cuda() for operand in operands)).cpu()
        check(found, *exact(direction, *operands))
