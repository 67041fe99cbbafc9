"""Shapes and circumstances that once went wrong, or that only just fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from replk_probe import ops

pytestmark = pytest.mark.skipif(not ops.native_info().loaded, reason="the native library was not built")


@pytest.mark.parametrize("width", [256, 1100])
@pytest.mark.parametrize("height", [241, 242, 257])
@pytest.mark.parametrize("kernel", [3, 5])
def test_last_band_of_rows_is_lower_than_the_kernels_reach(height: int, width: int, kernel: int) -> None:
    x = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(2, 1, kernel, kernel, generator=torch.Generator().manual_seed(1))
    expected = F.conv2d(x.double(), weight.double(), padding=kernel // 2, groups=2)
    bound = kernel * kernel * 2**-23 * F.conv2d(x.double().abs(), weight.double().abs(), padding=kernel // 2, groups=2)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert ((ops.depthwise_conv2d(x, weight) - expected).abs() <= bound).all()
    finally:
        torch.set_num_threads(before)


# The first dual level of a process loads torch's own decompositions by way of torch.jit, which warns.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_forward_mode_keeps_the_tangent() -> None:
    x, tangent, weight = torch.randn(1, 2, 9, 9), torch.randn(1, 2, 9, 9), torch.randn(2, 1, 5, 5)
    module = ops.DepthwiseConv2d(2, 2, 5, padding=2, groups=2, bias=False).eval()
    with forward_ad.dual_level(), torch.no_grad():
        for found, used in (
            (ops.depthwise_conv2d(forward_ad.make_dual(x, tangent), weight), weight),
            (module(forward_ad.make_dual(x, tangent)), module.weight),
        ):
            moved = forward_ad.unpack_dual(found).tangent
            assert moved is not None
            torch.testing.assert_close(moved, F.conv2d(tangent, used, padding=2, groups=2))


def test_kernel_that_no_method_takes_is_left_to_torch() -> None:
    assert ops.planned_method((1, 1, 1024, 1024), 1001).method == "aten"
    x, weight = torch.randn(1, 1, 128, 128), torch.randn(1, 1, 255, 255, requires_grad=True)
    assert ops.planned_method(x.shape, 255).method != "aten"
    assert ops.planned_method(x.shape, 255, direction="grad_weight").method == "aten"
    ops.depthwise_conv2d(x, weight).square().sum().backward()
    # By transforms in float64, in a hundredth of the time: the convolution, and the correlation of its gradient.
    size = (383, 383)
    planes = (x, weight.detach().flip(2, 3), F.pad(x, (127, 0, 127, 0)))
    image, kernel, moved = (torch.fft.rfft2(plane.double(), s=size) for plane in planes)
    output = torch.fft.irfft2(image * kernel, s=size)[..., 127:255, 127:255]
    gradient = torch.fft.rfft2(2 * output, s=size)
    expected = torch.fft.irfft2(moved * gradient.conj(), s=size)[..., :255, :255]
    assert weight.grad is not None
    assert (weight.grad - expected).norm() <= 1e-5 * expected.norm()


def test_empty_input_gives_gradients_of_zero_either_way() -> None:
    for backend in ("native", "aten"):
        weight = torch.randn(3, 1, 5, 5, requires_grad=True)
        ops.depthwise_conv2d(torch.randn(0, 3, 8, 8), weight, backend=backend).sum().backward()  # type: ignore[arg-type]
        assert weight.grad is not None and not weight.grad.any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_child_that_opens_the_library_does_not_wait_for_the_parents_threads() -> None:
    script = (
        "import os, warnings, torch\n"
        "from replk_probe import ops\n"
        "warnings.simplefilter('ignore')\n"
        "torch.set_num_threads(2)\n"
        "torch.sin(torch.randn(1000, 1000))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    ops.depthwise_conv2d(torch.randn(2, 64, 32, 32), torch.randn(64, 1, 13, 13))\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert done.stdout.strip() == "7"


def test_symbolic_trace_records_the_convolution() -> None:
    module = torch.nn.Sequential(ops.DepthwiseConv2d(4, 4, 7, padding=3, groups=4)).eval()
    x = torch.randn(1, 4, 12, 12)
    traced = torch.fx.symbolic_trace(module)
    torch.testing.assert_close(traced(x), module(x))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_convolution_in_a_signal_handler_leaves_the_interrupted_one_right() -> None:
    module = ops.DepthwiseConv2d(16, 16, 31, padding=15, groups=16).eval()
    x, other = torch.randn(1, 16, 48, 48), torch.randn(1, 16, 48, 48)
    interrupted = depth = 0

    def handler(number: int, frame: object) -> None:
        nonlocal interrupted, depth
        if depth == 5:  # on a slow machine the timer is faster than the convolution
            return
        interrupted, depth = interrupted + 1, depth + 1
        module(other)
        depth -= 1

    with torch.no_grad():
        expected = module(x)
        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0007)
            found = [module(x) for _ in range(1500)]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert interrupted
    assert all(torch.equal(output, expected) for output in found)


@pytest.mark.parametrize("geometry", [{"stride": 2, "padding": 2}, {"padding": 2, "padding_mode": "reflect"}, {}])
def test_module_that_torch_computes_compiles_too(geometry: dict[str, Any]) -> None:
    module = ops.DepthwiseConv2d(8, 8, 5, groups=8, **geometry).eval()
    x = torch.randn(1, 8, 12, 12)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))
