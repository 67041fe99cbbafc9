"""Operator calls look up what was chosen.

The kernels for other devices than a CPU are called with tensors on a CPU where no GPU is needed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replk_probe import ops
from replk_probe.errors import BackendError
from replk_probe.ops import _cpu, _fallback, _schema
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning import choices

Method = Callable[..., Any]
DIRECTIONS = ("forward", "grad_input", "grad_weight")


def operands(n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(n, 3, 9, 8), torch.randn(3, 1, 7, 7), torch.randn(n, 3, 9, 8)


def key(direction: Any, n: int = 2, **more: Any) -> choices.Key:
    return "cpu", ConvProblem(direction, "float32", more.get("last", False), n, 3, 9, 8, 7, 7).bucket


def elsewhere(direction: str, x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The result of the kernel for other devices, and torch's."""
    args: tuple[Any, ...] = (x, weight, None, True) if direction == "forward" else (grad, weight)
    args = (x, grad, 7, 7) if direction == "grad_weight" else args
    return getattr(_schema, f"_{direction}_elsewhere")(*args), getattr(_fallback, direction)(*args)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_without_choices_torch_computes(direction: str) -> None:
    assert not choices.state.active
    found, want = elsewhere(direction, *operands())
    assert torch.equal(found, want) and choices.state.entries == {}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_call_uses_what_was_chosen_for_its_problem_only(direction: str, method: Method) -> None:
    one = method("one")
    with choices.fixed({key(direction): one}):
        found, want = elsewhere(direction, *operands())
        assert torch.equal(found, want + 1) and one.calls == [direction]
        # Another direction, another number of images.
        other = DIRECTIONS[DIRECTIONS.index(direction) - 1]
        for found, want in (elsewhere(other, *operands()), elsewhere(direction, *operands(9))):
            assert torch.equal(found, want)
        channels_last = [one.contiguous(memory_format=torch.channels_last) for one in operands()]
        found, want = elsewhere(direction, *channels_last)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    assert not choices.state.active and torch.equal(*elsewhere(direction, *operands()))


def test_a_call_does_nothing_but_look_up(monkeypatch: pytest.MonkeyPatch, method: Method) -> None:
    def forbidden(*args: Any, **options: Any) -> Any:
        raise AssertionError("used inside a call")

    for module, name in ((torch.cuda, "synchronize"), (torch.cuda, "Event"), (torch.cuda, "mem_get_info")):
        monkeypatch.setattr(module, name, forbidden)
    one = method("one")
    with choices.fixed({key("forward"): one}):
        monkeypatch.setattr("builtins.open", forbidden)
        for _ in range(3):
            elsewhere("forward", *operands())
        monkeypatch.undo()
        # One entry for calls of the same shapes.
        assert len(choices.state.entries) == 1 and len(one.calls) == 3


def test_a_method_that_refuses_a_call_is_not_used(method: Method) -> None:
    one = method("one")
    one.refused = "it is odd"
    with choices.fixed({key("forward"): one}):
        assert torch.equal(*elsewhere("forward", *operands())) and one.calls == []
        assert ops.chosen_method("forward", operands()[0], (7, 7)) is None


def test_during_a_capture_a_method_that_has_not_run_is_not_used(
    monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    one = method("one")
    with choices.fixed({key("forward"): one}):
        monkeypatch.setattr(choices, "_is_capturing", lambda device: True)
        assert torch.equal(*elsewhere("forward", *operands())) and one.calls == []
        monkeypatch.setattr(choices, "_is_capturing", lambda device: False)
        elsewhere("forward", *operands())
        monkeypatch.setattr(choices, "_is_capturing", lambda device: True)
        found, want = elsewhere("forward", *operands())
        assert torch.equal(found, want + 1)


def test_a_method_that_fails_is_replaced_for_users_of_a_layer(method: Method) -> None:
    one = method("one")
    one.error = RuntimeError("a launch failed")
    choices.install({key("forward"): one})
    with pytest.warns(ops.TuningWarning, match=r"'one' .* failed \(forward\)\. a launch failed\. The default method"):
        assert torch.equal(*elsewhere("forward", *operands()))
    # Once.
    assert torch.equal(*elsewhere("forward", *operands())) and one.calls == ["forward"]


def test_a_method_that_fails_in_a_run_is_an_error(method: Method) -> None:
    one = method("one")
    one.error = RuntimeError("a launch failed")
    with choices.fixed({key("forward"): one}), pytest.raises(BackendError, match=r"'one' .* Set tune to 'off'"):
        elsewhere("forward", *operands())


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError("no memory"),
    ],
)
def test_a_lack_of_memory_is_not_hidden(method: Method, error: Exception, on_cpu: bool) -> None:
    """The caller halves its batches; the method is not at fault and stays in use."""
    one = method("one")
    x, weight, _ = operands()
    choices.install({key("forward"): one})

    def call() -> Tensor:
        return ops.depthwise_conv2d(x, weight) if on_cpu else _schema._forward_elsewhere(x, weight, None, False)

    for scope in (choices.fixed({key("forward"): one}), nullcontext()):
        with scope:
            one.error = error
            with pytest.raises(type(error), match=re.escape(str(error))):
                call()
            one.error = None
            assert torch.equal(call(), _fallback.forward(x, weight, None, False) + 1)


def test_a_run_hides_what_the_user_installed(method: Method) -> None:
    mine, runs = method("mine"), method("run's", plus=2.0)
    choices.install({key("forward"): mine})
    with choices.fixed({}):
        assert torch.equal(*elsewhere("forward", *operands())) and not choices.state.active
    with choices.fixed({key("grad_input"): runs}):
        assert torch.equal(*elsewhere("forward", *operands()))
    found, want = elsewhere("forward", *operands())
    assert torch.equal(found, want + 1)
    choices.install({key("forward"): None})
    assert torch.equal(*elsewhere("forward", *operands())) and not choices.state.active


def test_choices_apply_in_all_threads(method: Method) -> None:
    """Autograd runs the backward pass of a GPU in a thread of its own."""
    found: list[Tensor] = []
    with choices.fixed({key("forward"): method("one")}):
        thread = threading.Thread(target=lambda: found.extend(elsewhere("forward", *operands())))
        thread.start()
        thread.join()
    assert torch.equal(found[0], found[1] + 1)


def test_problems_are_collected_in_the_order_of_their_calls(method: Method) -> None:
    with choices.collecting() as outer, choices.collecting() as noted:
        for direction in (*DIRECTIONS, "forward"):
            elsewhere(direction, *operands())
    assert [str(problem) for problem in noted] == [f"{direction} float32 nchw 2x3x9x8 7x7" for direction in DIRECTIONS]
    assert outer == noted and not choices.state.active


# On a CPU ---------------------------------------------------------------------------------------------------------


def test_the_operators_on_a_cpu_use_what_was_chosen(method: Method, native: ops.NativeInfo) -> None:
    x, weight, _ = operands()
    x.requires_grad_()
    weight.requires_grad_()

    def results() -> list[Tensor]:
        y = ops.depthwise_conv2d(x, weight)
        return [y, *torch.autograd.grad(y.sum(), (x, weight))]

    before = results()
    chosen = {key(direction): method(direction, plus=1.0 + index) for index, direction in enumerate(DIRECTIONS)}
    with choices.fixed(chosen):
        for index, (found, want) in enumerate(zip(results(), before, strict=True)):
            torch.testing.assert_close(found, want + index + 1, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(results(), before, strict=True))


def on_cpu(direction: str, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """The result of the kernel for a CPU."""
    args: tuple[Any, ...] = (x, weight, None, True) if direction == "forward" else (grad, weight)
    found: Tensor = getattr(_schema, f"_{direction}_on_cpu")(*((x, grad, 7, 7) if direction == "grad_weight" else args))
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_method_that_fails_on_a_cpu_is_replaced_or_is_an_error_in_a_run(direction: Any, method: Method) -> None:
    tensors = operands()
    want = on_cpu(direction, *tensors)
    one = method("one")
    one.error = ValueError("it is broken")
    text = rf"'one' .* failed \({direction}\)\. it is broken\."
    with choices.fixed({key(direction): one}), pytest.raises(BackendError, match=f"{text} Set tune to 'off'"):
        on_cpu(direction, *tensors)
    choices.install({key(direction): one})
    with pytest.warns(ops.TuningWarning, match=f"{text} The default method is used") as warned:
        # What the library chooses, not torch's convolution.
        assert torch.equal(on_cpu(direction, *tensors), want)
    # Once, and without another warning.
    assert torch.equal(on_cpu(direction, *tensors), want) and one.calls == [direction] * 2 and len(warned) == 1


@pytest.mark.parametrize("last", [False, True])
def test_a_method_of_the_library_is_planned(native: ops.NativeInfo, method: Method, last: bool) -> None:
    from replk_probe.ops import _loader

    x, weight, _ = operands()
    layout = torch.channels_last if last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    want = ops.depthwise_conv2d(x, weight, backend="aten")
    for name in ("direct", "fft", "aten"):
        with choices.fixed({key("forward", last=last): method(name, plus=0.0)}):
            found = ops.depthwise_conv2d(x, weight)
            (call, *_) = reversed(_cpu._thread.calls.values())
            assert call.host if name == "aten" else call.plan.method == _loader.METHODS[name]
            assert ops.chosen_method("forward", x, (7, 7)) == name
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
        assert found.is_contiguous(memory_format=layout)


def test_what_the_environment_or_the_caller_forces_takes_precedence(
    native: ops.NativeInfo, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = method("one")
    x, weight, _ = operands()
    with choices.fixed({key("forward"): one}):
        ops.depthwise_conv2d(x, weight, backend="native")
        ops.depthwise_conv2d(x, weight, backend="aten")
        monkeypatch.setenv("REPLK_PROBE_METHOD", "fft")
        ops.depthwise_conv2d(x, weight)
        assert one.calls == []
        monkeypatch.delenv("REPLK_PROBE_METHOD")
        ops.depthwise_conv2d(x, weight)
        assert one.calls == ["forward"]


def test_a_module_that_leaves_small_kernels_to_torch_uses_what_was_chosen(method: Method) -> None:
    module = ops.DepthwiseConv2d(3, 3, 7, padding=3, groups=3, bias=False).eval()
    x = operands()[0].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        before = module(x)
        with choices.fixed({key("forward", last=True): method("one")}):
            torch.testing.assert_close(module(x), before + 1)


def test_compiled_code_looks_the_choice_up_in_the_operator(method: Method) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ops.DepthwiseConv2d(3, 3, 7, padding=3, groups=3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.conv(x) * 2
            return found

    layer, x = Layer(), operands()[0]
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    before = compiled(x)
    one = method("one")
    with choices.fixed({key("forward"): one}):
        torch.testing.assert_close(compiled(x), before + 2)
    assert one.calls == ["forward"] and torch.equal(compiled(x), before)


@pytest.mark.cuda
def test_on_a_card_every_method_is_checked_and_captured(tmp_path: Any) -> None:
    device = torch.device("cuda", 0)
    module = ops.DepthwiseConv2d(256, 256, 31, padding=15, groups=256).to(device).eval()
    x = torch.randn(4, 256, 32, 32, device=device)
    with torch.no_grad():
        before = module(x)
        found = ops.tune(module, x)
        assert [one.problem.partition(" ")[0] for one in found.convolutions] == ["forward"]
        torch.testing.assert_close(module(x), before, rtol=1e-3, atol=1e-3)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = module(x)
        graph.replay()
        torch.testing.assert_close(captured, before, rtol=1e-3, atol=1e-3)
