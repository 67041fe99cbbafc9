"""Every method, instruction set and pass against float64, over the shapes that break convolutions."""

from __future__ import annotations

import pytest
import torch

PASSES = ("forward", "grad_input", "grad_weight")
SQUARE = [(k, k) for k in (1, 3, 5, 7, 13, 27, 29, 31, 51, 61)]
KERNELS = [*SQUARE, (51, 5), (5, 51), (3, 31)]
# One, thin, vectors of 4, 8 and 16 lanes less and more one, the planes of the models, primes.
PLANES = [(1, 1), (1, 19), (23, 1), (7, 7), (14, 14), (15, 17), (33, 31), (37, 41), (56, 56)]


def planes_for(kernel):
    """The list above, and the planes just smaller and just larger than the kernel; all of them where K > H too."""
    around = {(max(kernel[0] + d, 1), max(kernel[1] + d, 1)) for d in (-1, 0, 1)}
    return [*PLANES, *sorted(around - set(PLANES))]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel[0]}x{kernel[1]}")
@pytest.mark.parametrize("pass_name", PASSES)
def test_kernels_and_planes(numerics, pass_name, kernel):
    methods = set()
    for index, plane in enumerate(planes_for(kernel)):
        shape = (1 + index % 2, (3, 1, 2)[index % 3], *plane)
        operands = numerics.draw(pass_name, shape, kernel, seed=index)
        exact = numerics.exact(operands)
        for outcome in numerics.native.run_all(operands):
            exact.check(outcome, kernel)
            methods.add(outcome.method)
    assert methods


@pytest.mark.parametrize("kernel", [(7, 7), (31, 31), (51, 5), (13, 13)], ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
def test_around_the_edges_of_tiles(numerics, pass_name, kernel):
    rows, columns = numerics.tile(pass_name, kernel)
    assert rows > 0 and columns > 0
    planes = [
        (rows - 1, columns + 1),
        (rows, columns),
        (rows + 1, columns - 1),
        (2 * rows + 1, columns),
        (3, 2 * columns),
    ]
    for index, plane in enumerate(planes):
        operands = numerics.draw(pass_name, (1, 2, *plane), kernel, seed=index)
        exact = numerics.exact(operands)
        for outcome in numerics.native.run_all(operands):
            exact.check(outcome, kernel)


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((2, 17, 7, 7), (13, 13)),
        ((1, 64, 7, 7), (7, 7)),
        ((3, 65, 14, 14), (13, 13)),
        ((2, 33, 12, 5), (5, 9)),
        ((1, 64, 32, 32), (31, 31)),
        ((2, 17, 33, 18), (5, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("pass_name", PASSES)
def test_many_channels(numerics, pass_name, shape, kernel):
    operands = numerics.draw(pass_name, shape, kernel)
    exact = numerics.exact(operands)
    for outcome in numerics.native.run_all(operands):
        exact.check(outcome, kernel)


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((1, 3, 256, 256), (31, 31)),
        ((1, 2, 211, 131), (51, 51)),
        ((1, 2, 128, 300), (5, 51)),
        ((2, 2, 112, 112), (3, 3)),
        ((1, 2, 150, 300), (7, 7)),
        ((1, 2, 70, 112), (7, 7)),
    ],
    ids=str,
)
@pytest.mark.parametrize("pass_name", PASSES)
def test_large_planes(numerics, pass_name, shape, kernel):
    operands = numerics.draw(pass_name, shape, kernel)
    exact = numerics.exact(operands)
    # The portable kernels take the same paths; three times the time would show nothing more.
    for outcome in numerics.native.run_all(operands, isas=numerics.isas[-1:]):
        exact.check(outcome, kernel)


@pytest.mark.parametrize("shape", [(2, 3, 14, 14), (1, 17, 7, 7), (1, 3, 37, 41), (1, 2, 90, 100)], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (13, 13), (31, 31)], ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
def test_bfloat16(numerics, pass_name, shape, kernel):
    operands = numerics.draw(pass_name, shape, kernel, dtype=torch.bfloat16)
    exact = numerics.exact(operands)
    for outcome in numerics.native.run_all(operands):
        assert outcome.output.dtype == torch.bfloat16
        exact.check(outcome, kernel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_bias_and_relu(numerics, dtype, bias, relu):
    for shape, kernel in [
        ((2, 5, 7, 9), (13, 13)),
        ((1, 3, 40, 37), (7, 7)),
        ((1, 3, 70, 81), (31, 31)),
        ((1, 3, 1, 9), (3, 3)),
    ]:
        operands = numerics.draw("forward", shape, kernel, dtype=dtype, bias=bias, relu=relu)
        exact = numerics.exact(operands)
        for packed in ("none", "fresh"):
            for outcome in numerics.native.run_all(operands, packed=packed):
                exact.check(outcome, (kernel, packed))
                assert not relu or (outcome.output >= 0).all()


@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_a_kernel_larger_than_twice_the_plane_uses_its_middle_only(numerics, pass_name):
    operands = numerics.draw(pass_name, (1, 5, 4, 6), (61, 61))
    # What never meets the plane may be anything finite.
    weight = operands.weight.clone()
    weight[:, :, :26] = weight[:, :, 35:] = 1e30
    weight[:, :, :, :24] = weight[:, :, :, 37:] = -1e30
    changed = numerics.operands(pass_name, operands.x, weight)
    exact = numerics.exact(operands)
    for outcome in numerics.native.run_all(changed):
        exact.check(outcome, "outer taps 1e30")


@pytest.mark.parametrize("pass_name", PASSES)
def test_an_empty_batch(numerics, pass_name):
    for shape in [(0, 3, 14, 14), (0, 3, 60, 60), (2, 0, 9, 9)]:
        operands = numerics.draw(pass_name, shape, (13, 13))
        for outcome in numerics.native.run_all(operands):
            assert (outcome.output == 0).all()  # no outputs, or the gradient of nothing


@pytest.mark.parametrize("pass_name", PASSES)
def test_the_library_has_a_method_for_every_problem(numerics, pass_name):
    for isa in numerics.isas:
        for kernel in KERNELS:
            for shape in [(1, 1, 1, 1), (2, 17, 7, 7), (1, 3, 20, 61)]:
                operands = numerics.draw(pass_name, shape, kernel)
                outcome = numerics.native.run(operands, isa=isa)
                if outcome is not None:
                    assert outcome.isa == isa
                    numerics.exact(operands).check(outcome, kernel)


def test_the_check_itself_refuses_small_errors(numerics):
    operands = numerics.draw("forward", (1, 3, 56, 56), (31, 31))
    exact = numerics.exact(operands)
    (outcome, *_) = numerics.native.run_all(operands)
    exact.check(outcome)
    outcome.output[0, 1, 5, 7] += 0.01
    with pytest.raises(AssertionError):
        exact.check(outcome)
