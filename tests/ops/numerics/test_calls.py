"""How a call may be made: threads, strides, prepared weights, memory, sizes beyond 32 bits."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
import threading

import numpy as np
import pytest
import torch

PASSES = ("forward", "grad_input", "grad_weight")
ISAS = ("auto", "portable", "avx2", "avx512", "neon")
SHAPES = [
    ((2, 19, 7, 7), (13, 13)),
    ((1, 5, 33, 37), (7, 7)),
    ((2, 3, 56, 56), (31, 31)),
    ((1, 3, 130, 90), (13, 13)),
    ((1, 3, 60, 100), (51, 5)),
]
MEGABYTE = 1 << 20


@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
def test_the_number_of_threads_changes_no_bit(numerics, pass_name, shape, kernel):
    operands = numerics.draw(pass_name, shape, kernel)
    one = {(o.method, o.isa): o.output for o in numerics.native.run_all(operands)}
    for threads in (1, 2, 3, 64):
        for outcome in numerics.native.run_all(operands, threads=threads):
            assert torch.equal(outcome.output, one[outcome.method, outcome.isa]), (outcome.method, outcome.isa, threads)


@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
def test_threads_that_call_at_once_get_their_own_answers(numerics, pass_name, shape, kernel):
    inputs = [numerics.draw(pass_name, shape, kernel, seed=seed) for seed in range(3)]
    isa = numerics.isas[-1]
    for method in numerics.native.fast_methods:
        alone = [numerics.native.run(operands, method=method, isa=isa) for operands in inputs]
        if alone[0] is None:
            continue
        wrong = []

        def call(index, method=method, alone=alone, wrong=wrong):
            for _ in range(3):
                outcome = numerics.native.run(inputs[index], method=method, isa=isa, threads=2)
                if outcome is None or not torch.equal(outcome.output, alone[index].output):
                    wrong.append(index)

        callers = [threading.Thread(target=call, args=(index,)) for index in range(len(inputs))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert not wrong, method


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_a_prepared_weight_changes_no_bit(numerics, pass_name, shape, kernel, dtype):
    operands = numerics.draw(pass_name, shape, kernel, dtype=dtype)
    plain = {(o.method, o.isa): o.output for o in numerics.native.run_all(operands)}
    for packed in ("fresh", "stale"):
        for outcome in numerics.native.run_all(operands, packed=packed):
            assert torch.equal(outcome.output, plain[outcome.method, outcome.isa]), (
                outcome.method,
                outcome.isa,
                packed,
            )


def test_a_prepared_weight_serves_both_passes_and_every_batch(numerics):
    """The same bytes for forward and grad input, whatever N is, as the header states."""
    native = numerics.native
    for shape, kernel in SHAPES:
        weight = numerics.draw("forward", shape, kernel).weight
        for isa, method in itertools.product(numerics.isas, numerics.native.fft_methods):
            found = []
            for pass_name, images in (("forward", 1), ("forward", 3), ("grad_input", 1)):
                problem = native.problem(pass_name, (images, *shape[1:]), kernel, method=method, isa=isa)
                plan = native.plan(problem)
                if plan is None or not plan.packed_bytes:
                    continue
                buffer = torch.zeros(plan.packed_bytes + 64, dtype=torch.uint8)
                packed = buffer[-buffer.data_ptr() % 64 :][: plan.packed_bytes]
                assert not native.library.replk_dwconv2d_pack(
                    ctypes.addressof(problem), ctypes.addressof(plan), weight.data_ptr(), packed.data_ptr()
                )
                found.append((plan.tile_h, plan.tile_w, bytes(packed.numpy())))
            assert all(entry == found[0] for entry in found)


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize(("method", "size", "k"), [("fft", 40, 31), ("blocked-pfa", 14, 27)])
@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_a_weight_changed_in_one_place_is_noticed(numerics, pass_name, method, size, k, isa):
    if isa not in numerics.isas:
        pytest.skip(f"this machine has no {isa}")
    native = numerics.native
    for place in [(0, 0, 0), (2, k - 1, k - 1), (1, k // 2, k // 2)]:
        operands = numerics.draw(pass_name, (1, 3, size, size), (k, k))
        problem = native.problem(pass_name, (1, 3, size, size), (k, k), method=method, isa=isa)
        plan = native.plan(problem)
        if plan is None or not plan.packed_bytes:
            pytest.skip("this method prepares nothing")
        stale = native.run(operands, method=method, isa=isa, packed="fresh")
        assert not stale.was_stale
        buffer = torch.zeros(plan.packed_bytes + 64, dtype=torch.uint8)
        packed = buffer[-buffer.data_ptr() % 64 :]
        native.library.replk_dwconv2d_pack(
            ctypes.addressof(problem), ctypes.addressof(plan), operands.weight.data_ptr(), packed.data_ptr()
        )
        channel, u, v = place
        operands.weight[channel, 0, u, v] *= 1 + 2.0**-23
        outcome = run_packed(native, operands, problem, plan, packed)
        assert outcome[1] == 1
        fresh = native.run(operands, method=method, isa=isa)
        assert torch.equal(outcome[0], fresh.output)


def run_packed(native, operands, problem, plan, packed, status=0):
    """One call with these very bytes; output and staleness."""
    out = torch.full_like(operands.x, float("nan"))
    workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8)
    x = operands.x
    # Field by field as the header has them: three strides behind each of input, grad and output.
    fields = [
        x.data_ptr(),
        *x.stride()[:3],
        0,
        0,
        0,
        0,
        operands.weight.data_ptr(),
        0,
        out.data_ptr(),
        *out.stride()[:3],
    ]
    fields += [packed.data_ptr(), workspace.data_ptr(), plan.workspace_bytes, 0]
    buffers = (ctypes.c_int64 * len(fields))(*fields)
    found = native.library.replk_dwconv2d_run(ctypes.byref(problem), ctypes.byref(plan), ctypes.byref(buffers))
    assert found == status
    return out, buffers[-1]


def spaced(tensor, *, rows=0, planes=0, offset=0):
    """The same values with gaps of NaN: ``rows`` elements behind each row, ``planes`` rows behind each plane."""
    n, c, h, w = tensor.shape
    memory = torch.full((n * c * (h + planes) * (w + rows) + offset + 8,), float("nan"), dtype=tensor.dtype)
    row = w + rows
    view = memory[offset:].as_strided((n, c, h, w), (c * (h + planes) * row, (h + planes) * row, row, 1))
    return view.copy_(tensor)


LAYOUTS = {
    "misaligned": lambda tensor: spaced(tensor, offset=1),
    "gaps": lambda tensor: spaced(tensor, rows=3, planes=2, offset=5),
    "channels outside": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
    "slice of channels": lambda tensor: torch.cat([torch.full_like(tensor, torch.nan), tensor], 1)[
        :, tensor.shape[1] :
    ],
    "reversed order": lambda tensor: tensor.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_name", PASSES)
def test_strides_change_no_bit(numerics, pass_name, layout, dtype):
    for shape, kernel in SHAPES:
        operands = numerics.draw(pass_name, shape, kernel, dtype=dtype)
        dense = {(o.method, o.isa): o.output for o in numerics.native.run_all(operands)}
        change = LAYOUTS[layout]
        strided = numerics.operands(
            pass_name,
            change(operands.x),
            operands.weight,
            None if operands.grad is None else change(operands.grad),
            kernel=operands.kernel,
        )
        assert torch.equal(strided.x, operands.x)
        out = torch.full(shape, float("nan"), dtype=dtype)
        for isa in numerics.isas:
            for method in numerics.native.fast_methods:
                target = change(out) if pass_name != "grad_weight" else None
                outcome = numerics.native.run(strided, method=method, isa=isa, out=target)
                if outcome is not None:
                    assert torch.equal(outcome.output, dense[method, isa]), (method, isa, shape)


def test_gaps_of_the_output_are_unchanged(numerics):
    for shape, kernel in SHAPES:
        operands = numerics.draw("forward", shape, kernel)
        for isa in numerics.isas:
            for method in numerics.native.fast_methods:
                n, c, h, w = shape
                memory = torch.full((n, c, h + 1, w + 5), 7.0)
                outcome = numerics.native.run(operands, method=method, isa=isa, out=memory[:, :, :h, :w])
                if outcome is not None:
                    assert (memory[:, :, h:] == 7).all() and (memory[:, :, :, w:] == 7).all(), (method, isa)


def test_one_image_read_many_times(numerics):
    """An expanded tensor has stride 0."""
    for shape, kernel in SHAPES:
        operands = numerics.draw("forward", (1, *shape[1:]), kernel)
        expanded = numerics.operands("forward", operands.x.expand(3, -1, -1, -1), operands.weight)
        exact = numerics.exact(expanded)
        for outcome in numerics.native.run_all(expanded):
            exact.check(outcome, "stride 0")


@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_workspace_stays_below_64_megabytes(numerics, pass_name, dtype):
    shapes = [(1, 1, 8192, 8192), (1, 1, 1, 1 << 20), (1, 1, 1 << 20, 1), (64, 2048, 7, 7), (1, 128, 256, 256)]
    kernels = [(3, 3), (13, 13), (31, 31), (61, 61), (51, 5), (5, 51), (255, 255), (999, 3), (1, 2001), (1023, 1023)]
    for shape in [*shapes, (1, 4096, 14, 14), (256, 64, 56, 56)]:
        for kernel in kernels:
            for isa in numerics.isas:
                for method in ("auto", *numerics.native.fast_methods):
                    problem = numerics.native.problem(
                        pass_name, shape, kernel, dtype=dtype, method=method, isa=isa, threads=64
                    )
                    plan = numerics.native.plan(problem)
                    if plan is not None:
                        assert 0 <= plan.workspace_bytes <= 64 * MEGABYTE, (shape, kernel, isa, method)


@pytest.mark.parametrize("big", ["image", "channel", "row"])
def test_indices_beyond_32_bits(numerics, big):
    """Strides of more than 2^31 elements, in memory that is reserved but, apart from the planes, never touched."""
    stride = 2**31 + 40
    count = {"image": 2, "channel": 2, "row": 9}[big]
    shape = {"image": (2, 1, 9, 20), "channel": (1, 2, 9, 20), "row": (1, 1, 9, 20)}[big]
    strides = {"image": (stride, 200, 20, 1), "channel": (500, stride, 20, 1), "row": (500, 500, stride, 1)}[big]
    try:
        # The constant has a name from Python 3.13 on.
        no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        memory = mmap.mmap(-1, 4 * stride * count, flags=flags)
    except (OSError, AttributeError, OverflowError) as error:
        pytest.skip(f"this system does not reserve {4 * stride * count / 1e9:.0f} GB: {error}")
    floats = torch.from_numpy(np.frombuffer(memory, dtype=np.float32))
    view = floats.as_strided(shape, strides)
    for pass_name in PASSES:
        for kernel in [(3, 3), (13, 13)]:
            operands = numerics.draw(pass_name, shape, kernel)
            exact = numerics.exact(operands)
            for isa in numerics.isas:
                for method in numerics.native.fast_methods:
                    view.copy_(operands.x)
                    far = numerics.operands(pass_name, view, operands.weight, operands.grad, kernel=operands.kernel)
                    outcome = numerics.native.run(far, method=method, isa=isa)
                    if outcome is None:
                        continue
                    exact.check(outcome, "far input")
                    if pass_name == "grad_weight":
                        far = numerics.operands(pass_name, operands.x, None, view.copy_(operands.grad), kernel=kernel)
                        exact.check(numerics.native.run(far, method=method, isa=isa), "far gradient")
                    else:
                        exact.check(numerics.native.run(operands, method=method, isa=isa, out=view), "far output")


@pytest.mark.parametrize(
    "change",
    [
        {"n": -1}, {"c": -5}, {"h": -1}, {"kh": 4}, {"kw": 0}, {"kh": -3}, {"threads": 0}, {"pass_": 3}, {"dtype": 2},
        {"method": 7}, {"isa": 9}, {"activation": 2}, {"h": 2**62, "w": 2**62}, {"n": 2**40, "c": 2**40},
    ],
    ids=str,
)  # fmt: skip
def test_invalid_values_are_refused(numerics, change):
    problem = numerics.native.problem("forward", (1, 3, 9, 9), (3, 3))
    for name, value in change.items():
        setattr(problem, name, value)
    plan = (ctypes.c_int64 * 8)()
    assert numerics.native.library.replk_dwconv2d_plan(ctypes.byref(problem), ctypes.byref(plan)) == 1
    assert numerics.native.library.replk_dwconv2d_plan(None, ctypes.byref(plan)) == 1


def test_a_workspace_that_is_too_small_is_refused(numerics):
    native = numerics.native
    for pass_name in PASSES:
        for method in numerics.native.fast_methods:
            operands = numerics.draw(pass_name, (1, 16, 14, 14), (13, 13))
            problem = native.problem(pass_name, (1, 16, 14, 14), (13, 13), method=method)
            plan = native.plan(problem)
            if plan is None or not plan.workspace_bytes or pass_name == "grad_weight":
                continue
            out = torch.zeros_like(operands.x)
            strides = (16 * 196, 196, 14)
            fields = [
                operands.x.data_ptr(),
                *strides,
                0,
                0,
                0,
                0,
                operands.weight.data_ptr(),
                0,
                out.data_ptr(),
                *strides,
            ]
            workspace = torch.zeros(plan.workspace_bytes, dtype=torch.uint8)
            for pointer, size in ((workspace.data_ptr(), plan.workspace_bytes - 1), (0, plan.workspace_bytes)):
                buffers = (ctypes.c_int64 * 18)(*fields, 0, pointer, size, 0)
                assert native.library.replk_dwconv2d_run(*map(ctypes.byref, (problem, plan, buffers))) == 3
            assert not out.any()


def test_a_plan_of_another_problem_is_refused(numerics):
    """Before anything is read: there are no buffers here at all."""
    native = numerics.native
    for kernel in native.kernels:
        arguments = native.problem(
            PASSES[kernel.pass_], (2, 17, 9, 11), (5, 7), method=native.methods[kernel.method], isa=ISAS[kernel.isa]
        )
        plan = native.plan(arguments)
        buffers = (ctypes.c_int64 * 18)(*[64] * 18)
        for name, value in {
            "pass_": (kernel.pass_ + 1) % 3,
            "dtype": 1,
            "threads": 9,
            "n": 3,
            "c": 400,
            "h": 300,
        }.items():
            other = type(arguments).from_buffer_copy(arguments)
            setattr(other, name, value)
            assert native.library.replk_dwconv2d_run(*map(ctypes.byref, (other, plan, buffers))) == 5, name
            assert native.library.replk_dwconv2d_pack(ctypes.addressof(other), ctypes.addressof(plan), 64, 64) == 5, (
                name
            )
        for name, value in {
            "method": kernel.method % 5 + 1,
            "isa": kernel.isa % 4 + 1,
            "tile_h": 7,
            "packed_bytes": 1,
        }.items():
            changed = type(plan).from_buffer_copy(plan)
            setattr(changed, name, value)
            assert native.library.replk_dwconv2d_run(*map(ctypes.byref, (arguments, changed, buffers))) == 5, name


def test_a_prepared_weight_of_another_plan_is_refused(numerics):
    native = numerics.native
    operands = numerics.draw("forward", (1, 3, 14, 14), (13, 13))
    for method in native.fast_methods:
        problem = native.problem("forward", (1, 3, 14, 14), (13, 13), method=method)
        plan = native.plan(problem)
        other = native.problem("forward", (1, 3, 13, 14), (13, 13), method="fft")
        other_plan = native.plan(other)
        memory = torch.zeros(other_plan.packed_bytes + 64, dtype=torch.uint8)
        packed = memory[-memory.data_ptr() % 64 :]
        assert not native.library.replk_dwconv2d_pack(
            ctypes.addressof(other), ctypes.addressof(other_plan), operands.weight.data_ptr(), packed.data_ptr()
        )
        assert run_packed(native, operands, problem, plan, packed, status=6)[0].isnan().all()
