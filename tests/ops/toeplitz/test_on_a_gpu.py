"""The Triton method on a real card: against float64, with every layout, on streams, with poisoned memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.ops import is_channels_last
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.methods.triton_toeplitz import TritonToeplitz

pytestmark = pytest.mark.cuda

SHAPES = (
    (1, 1, 1, 1, 3, 3),
    (2, 3, 7, 5, 7, 7),
    (64, 8, 32, 32, 31, 31),
    (4, 16, 57, 57, 21, 21),
    (2, 4, 33, 129, 13, 61),
    (1, 4, 200, 200, 61, 31),
    (3, 2, 64, 256, 31, 31),
)
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Results and scratch memory are full of NaN before a kernel writes to them."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def method() -> TritonToeplitz:
    """The method; skipped with its own reason where it does not run."""
    found = TritonToeplitz()
    reason = found.refusal(ConvProblem("forward", "float16", False, 1, 1, 8, 8, 3, 3), torch.device("cuda", 0))
    if reason is not None:
        pytest.skip(reason)
    return found


def gradients(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output and both gradients on the CPU in float64."""
    x, weight, grad = (tensor.double().cpu() for tensor in (x, weight, grad))
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    output = F.conv2d(x, weight, padding=padding, groups=x.shape[1])
    geometry = ([1, 1], padding, [1, 1], False, [0, 0], x.shape[1], (True, True, False))
    grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry)
    return output, grad_input, grad_weight


def check(found: Tensor, expected: Tensor, magnitude: Tensor) -> None:
    """At most eight units of float32 of the sum of magnitudes, and one rounding to a shorter dtype on top."""
    rounding = ROUNDING[found.dtype]
    bound = 8 * 2.0**-24 * magnitude * (1 + rounding) + rounding * expected.abs()
    assert bool(((found.double().cpu() - expected).abs() <= bound).all())


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_directions(method: TritonToeplitz, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, c, h, w, kh, kw = shape
    x, grad = torch.randn(2, n, c, h, w, device="cuda").to(dtype)
    weight = torch.randn(c, 1, kh, kw, device="cuda").to(dtype)
    bias = torch.randn(c, device="cuda").to(dtype)
    output, grad_input, grad_weight = gradients(x, weight, grad)
    sizes = gradients(x.abs(), weight.abs(), grad.abs())
    shift = bias.double().cpu().view(-1, 1, 1)
    check(method.forward(x, weight, bias, True), (output + shift).relu(), sizes[0] + shift.abs())
    check(method.forward(x, weight, None, False), output, sizes[0])
    check(method.grad_input(grad, weight), grad_input, sizes[1])
    check(method.grad_weight(x, grad, kh, kw), grad_weight, sizes[2])


def test_results_are_the_same_after_another_size(method: TritonToeplitz) -> None:
    x, weight = torch.randn(8, 4, 40, 40, device="cuda").half(), torch.randn(4, 1, 31, 31, device="cuda").half()
    first = method.forward(x, weight, None, False), method.grad_weight(x, x, 31, 31)
    method.forward(x[:, :, :7, :9], weight[:, :, 9:22, 9:22], None, False)
    second = method.forward(x, weight, None, False), method.grad_weight(x, x, 31, 31)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("width", [64, 57])
def test_strides_do_not_change_results(method: TritonToeplitz, width: int) -> None:
    x, weight = (
        torch.randn(4, 8, 20, width, device="cuda").bfloat16(),
        torch.randn(8, 1, 13, 13, device="cuda").bfloat16(),
    )
    expected, expected_weight = method.forward(x, weight, None, False), method.grad_weight(x, x, 13, 13)
    for other in (x.contiguous(memory_format=torch.channels_last), F.pad(x, (8, 8, 1, 1))[:, :, 1:-1, 8:-8]):
        found = method.forward(other, weight, None, False)
        assert torch.equal(found, expected) and is_channels_last(found) == is_channels_last(other)
        assert torch.equal(method.grad_weight(other, x, 13, 13), expected_weight)


def test_kernels_run_on_the_current_stream(method: TritonToeplitz) -> None:
    x, weight = torch.randn(16, 32, 64, 64, device="cuda").half(), torch.randn(32, 1, 31, 31, device="cuda").half()
    expected = method.forward(x, weight, None, False)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(x)
        found = method.forward(late, weight, None, False)
    stream.synchronize()
    assert torch.equal(found, expected)


def test_capture_and_replay(method: TritonToeplitz) -> None:
    x, weight = torch.randn(4, 8, 32, 32, device="cuda").half(), torch.randn(8, 1, 13, 13, device="cuda").half()
    method.forward(x, weight, None, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = method.forward(x, weight, None, False)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, method.forward(x, weight, None, False))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_on_the_device_of_the_tensors(method: TritonToeplitz) -> None:
    x, weight = torch.randn(2, 4, 16, 16, device="cuda:1"), torch.randn(4, 1, 7, 7, device="cuda:1")
    found = method.forward(x, weight, None, False)
    assert found.device == x.device and torch.cuda.current_device() == 0
    check(found, *(one[0] for one in (gradients(x, weight, x), gradients(x.abs(), weight.abs(), x))))


@pytest.mark.parametrize("direction", ["forward", "grad_weight"])
@pytest.mark.parametrize("width", [64, 57])
def test_workspace_is_an_upper_bound(method: TritonToeplitz, direction: str, width: int) -> None:
    x = torch.randn(16, 32, 64, width, device="cuda").half().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(32, 1, 31, 31, device="cuda").half()

    def call() -> Tensor:
        return method.forward(x, weight, None, False) if direction == "forward" else method.grad_weight(x, x, 31, 31)

    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = call()
    used = torch.cuda.max_memory_allocated() - before - found.numel() * found.element_size()
    problem = ConvProblem(direction, "float16", True, 16, 32, 64, width, 31, 31)  # type: ignore[arg-type]
    assert used <= method.workspace_bytes(problem) + 16 * 512  # the allocator rounds up


def test_planes_of_more_than_2_to_31_elements(method: TritonToeplitz) -> None:
    if torch.cuda.mem_get_info()[0] < 16 << 30:
        pytest.skip("needs 16 GB of free GPU memory")
    x = torch.zeros(2, 1, 32784, 32784, device="cuda", dtype=torch.float16)
    x[-1, 0, -3:, -8:] = torch.randn(3, 8, device="cuda").half()
    weight = torch.randn(1, 1, 5, 5, device="cuda").half()
    found = method.forward(x, weight, None, False)[-1:, :, -5:, -10:]
    edge = x[-1:, :, -8:, -16:].contiguous()
    expected = method.forward(edge, weight, None, False)[:, :, -5:, -10:]
    assert torch.equal(found, expected)
