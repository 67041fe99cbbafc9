"""A prepared weight serves as long as it is true, takes bounded memory, and goes with its owner."""

from __future__ import annotations

import copy
import gc
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from replk_probe.errors import BackendError
from replk_probe.ops import DepthwiseConv2d, PreparedKernel, _prepared_weights, conv_input_gradient
from replk_probe.ops._prepared_weights import used_bytes

Close = Callable[..., None]

pytestmark = pytest.mark.usefixtures("fft")

K, C, H = 15, 3, 30


def layer(channels: int = C) -> DepthwiseConv2d:
    return DepthwiseConv2d(channels, channels, K, padding=K // 2, groups=channels).eval().requires_grad_(False)


def kept(conv: DepthwiseConv2d) -> int:
    return 0 if conv._prepared is None else conv._prepared.size


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """What other tests may still hold does not count here."""
    gc.collect()
    _prepared_weights._sizes.clear()


def step(conv: DepthwiseConv2d) -> None:
    conv.requires_grad_(True)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    conv(torch.randn(1, C, H, H)).sum().backward()
    optimizer.step()
    conv.requires_grad_(False)


def write_numpy(conv: DepthwiseConv2d) -> None:
    conv.weight.detach().numpy()[1, 0, 3, 4] += 1


def write_in_inference_mode(conv: DepthwiseConv2d) -> None:
    with torch.inference_mode():
        conv.weight.data[2, 0, 0, 0] -= 1


def there_and_back(conv: DepthwiseConv2d) -> None:
    conv.bfloat16()
    conv(torch.randn(1, C, H, H, dtype=torch.bfloat16))
    conv.float()


def grow_in_place(conv: DepthwiseConv2d) -> None:
    conv.weight.data.set_(torch.randn(C, 1, K, K))


def next_address(conv: DepthwiseConv2d) -> None:
    """A new weight, most likely in the memory of the old one."""
    conv.weight = None  # type: ignore[assignment]
    gc.collect()
    conv.weight = nn.Parameter(torch.randn(C, 1, K, K), requires_grad=False)


STALE: dict[str, Callable[[DepthwiseConv2d], object]] = {
    "optimizer step": step,
    "load_state_dict": lambda conv: conv.load_state_dict({"weight": torch.randn(C, 1, K, K), "bias": torch.ones(C)}),
    "load_state_dict, assigned": lambda conv: conv.load_state_dict(
        {"weight": torch.randn(C, 1, K, K), "bias": torch.ones(C)}, assign=True
    ),
    ".data write": lambda conv: conv.weight.data.mul_(2),
    ".data of one tap": lambda conv: conv.weight.data[0, 0, 7, 7].add_(1),
    ".data replaced": grow_in_place,
    "numpy write": write_numpy,
    "inference_mode": write_in_inference_mode,
    "move to bfloat16 and back": there_and_back,
    "move to float64 and back": lambda conv: conv.double().float().weight.data.neg_(),
    "new parameter": next_address,
    "copy_": lambda conv: conv.weight.copy_(torch.randn(C, 1, K, K)),
    "sign of zeros": lambda conv: conv.weight.zero_().mul_(-1),
    "NaN": lambda conv: conv.weight[1].fill_(float("nan")),
}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_spectrum_is_never_used(name: str) -> None:
    conv = layer()
    x, dy = torch.randn(2, C, H, H), torch.randn(2, C, H, H)
    conv(x)
    assert kept(conv) > 0
    STALE[name](conv)
    fresh = layer()
    fresh.load_state_dict(conv.state_dict())
    for _ in range(3):  # stale, made anew, used
        torch.testing.assert_close(conv(x), fresh(x), rtol=0, atol=0, equal_nan=True)
        assert conv._prepared is not None
        want = conv_input_gradient(dy, fresh.weight)
        found = conv._prepared.input_gradient(dy, conv.weight)
        torch.testing.assert_close(found, want, rtol=0, atol=0, equal_nan=True)
    assert kept(conv) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_or_not_the_result_is_the_same(dtype: torch.dtype) -> None:
    prepared = PreparedKernel()
    w, b = torch.randn(C, 1, K, K, dtype=dtype), torch.randn(C, dtype=dtype)
    from replk_probe.ops import depthwise_conv2d

    for n in (1, 3):
        x = torch.randn(n, C, H, H, dtype=dtype)
        for _ in range(2):
            assert torch.equal(prepared.forward(x, w, b, "relu"), depthwise_conv2d(x, w, b, activation="relu"))
            assert torch.equal(prepared.input_gradient(x, w), conv_input_gradient(x, w))
            assert torch.equal(conv_input_gradient(x, w, prepared=prepared), conv_input_gradient(x, w))
    # One spectrum serves both directions and every batch size.
    assert len(prepared.weights._entries) == 1 and prepared.size > 0


def test_gradients_use_what_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = layer()
    x = torch.randn(1, C, H, H, requires_grad=True)
    y = conv(x)
    before = conv._prepared.weights._entries  # type: ignore[union-attr]
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert conv._prepared.weights._entries == before and len(before) == 1  # type: ignore[union-attr]
    assert torch.equal(dx, conv_input_gradient(torch.ones_like(y), conv.weight))


def test_training_keeps_nothing() -> None:
    conv = layer().train()
    conv(torch.randn(1, C, H, H))
    assert kept(conv) == 0
    conv.eval()(torch.randn(1, C, H, H))
    assert used_bytes() == kept(conv) > 0
    conv.train()
    assert used_bytes() == kept(conv) == 0


def test_memory_goes_with_the_module() -> None:
    conv = layer()
    conv(torch.randn(1, C, H, H))
    assert used_bytes() == kept(conv) > 0
    other = copy.deepcopy(conv)
    assert used_bytes() == kept(conv)
    other(torch.randn(1, C, H, H))
    assert used_bytes() == kept(conv) + kept(other)
    del conv, other
    gc.collect()
    assert used_bytes() == 0


def test_memory_goes_with_a_replaced_weight() -> None:
    conv = layer()
    x = torch.randn(1, C, H, H)
    conv(x)
    first = used_bytes()
    for _ in range(5):
        conv.weight.data.normal_()
        conv(x)
        conv(x)
    assert used_bytes() == first
    conv._prepared.clear()  # type: ignore[union-attr]
    assert used_bytes() == 0


def test_the_geometries_used_last_are_kept() -> None:
    conv = layer()
    for side in (30, 40, 50, 60, 30, 60, 40):
        conv(torch.randn(1, C, side, side))
    assert [packed.key[2] for packed in conv._prepared.weights._entries] == [40, 60]  # type: ignore[union-attr]


def test_no_lock_is_left_behind_in_a_signal_handler_or_a_fork(monkeypatch: pytest.MonkeyPatch, close: Close) -> None:
    """Whoever comes in between, while a weight is being prepared, can prepare another."""
    x, other = torch.randn(1, C, H, H), layer()
    calls = []
    used = _prepared_weights.used_bytes

    def interrupted() -> int:
        calls.append(None)
        if len(calls) == 1:
            close(other(x), x, other.weight, other.bias)  # as a handler would
        return used()

    monkeypatch.setattr(_prepared_weights, "used_bytes", interrupted)
    conv = layer()
    close(conv(x), x, conv.weight, conv.bias)
    assert len(calls) == 2 and kept(conv) == kept(other) > 0


def test_memory_is_counted_while_threads_come_and_go() -> None:
    stop = threading.Event()
    before = sys.getswitchinterval()

    def work() -> None:
        while not stop.is_set():
            layer(2)(torch.randn(1, 2, H, H))

    alive = [layer(2) for _ in range(300)]
    for conv in alive:
        conv(torch.randn(1, 2, H, H))
    threads = [threading.Thread(target=work) for _ in range(2)]
    try:
        sys.setswitchinterval(1e-5)
        for thread in threads:
            thread.start()
        counts = [used_bytes() for _ in range(2000)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    gc.collect()
    assert min(counts) >= sum(map(kept, alive)) and used_bytes() == sum(map(kept, alive))


def test_the_memory_of_the_process_is_bounded(monkeypatch: pytest.MonkeyPatch, close: Close) -> None:
    x = torch.randn(1, 64, 60, 60)
    first = layer(64)
    first(x)
    size = kept(first)
    assert 100_000 < size < 10 << 20
    megabytes = -(-2 * size // (1 << 20))
    monkeypatch.setenv("REPLK_PROBE_SPECTRA_MB", str(megabytes))
    layers = [layer(64) for _ in range(6)]
    for _ in range(2):
        for conv in layers:
            close(conv(x), x, conv.weight, conv.bias)
    assert used_bytes() <= megabytes << 20
    assert kept(layers[-1]) == 0
    monkeypatch.setenv("REPLK_PROBE_SPECTRA_MB", "0")
    last = layer(64)
    close(last(x), x, last.weight, last.bias)
    assert kept(last) == 0
    monkeypatch.setenv("REPLK_PROBE_SPECTRA_MB", "lots")
    with pytest.raises(BackendError, match="REPLK_PROBE_SPECTRA_MB is 'lots'"):
        last(x)


def test_threads_share_a_prepared_kernel_with_different_weights() -> None:
    conv = layer(8)
    x = torch.randn(1, 8, H, H)
    weights = [torch.randn(8, 1, K, K) for _ in range(2)]
    wants = []
    for weight in weights:
        conv.load_state_dict({"weight": weight, "bias": torch.zeros(8)})
        wants.append(conv(x))
    # A module's parameters may not be swapped by two threads at once; what is prepared may.
    prepared, wrong = PreparedKernel(), []

    def work(start: int) -> None:
        for i in range(200):
            which = (start + i // 3) % 2
            if not torch.equal(prepared.forward(x, weights[which]), wants[which]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert used_bytes() == prepared.size + kept(conv)


def test_functional_call_and_autocast_stay_right(close: Close) -> None:
    conv = layer()
    x = torch.randn(1, C, H, H)
    for _ in range(3):
        state = {"weight": torch.randn(C, 1, K, K), "bias": torch.randn(C)}
        close(torch.func.functional_call(conv, state, (x,)), x, *state.values())
        close(conv(x), x, conv.weight, conv.bias)
        with torch.autocast("cpu"):
            assert conv(x).dtype == torch.bfloat16


def test_many_sizes_leave_bounded_traces() -> None:
    from replk_probe.ops import _cpu

    conv = layer(1)
    for width in range(1, _cpu._MOST_CALLS + 50):
        conv(torch.zeros(1, 1, 1, width))
    assert len(_cpu._thread.calls) <= _cpu._MOST_CALLS


def test_scratch_memory_is_reused_and_bounded() -> None:
    from replk_probe.ops import _cpu

    def run(x: Tensor) -> int:
        layer(x.shape[1])(x)
        return _cpu._thread.workspace_bytes

    large = run(torch.randn(1, 2, 200, 200))
    address = _cpu._thread.workspace.data_ptr()
    assert run(torch.randn(1, 2, 20, 20)) == large and _cpu._thread.workspace.data_ptr() == address
    assert large <= 64 << 20
