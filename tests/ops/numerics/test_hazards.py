"""Inputs that fast convolutions get wrong: neighbors of another scale, extreme and non-finite numbers."""

from __future__ import annotations

import math

import pytest
import torch

PASSES = ("forward", "grad_input", "grad_weight")
# Small planes (channel-blocked), whole planes (channels or images in pairs), several tiles, strips.
SHAPES = [((2, 6, 7, 7), (13, 13)), ((2, 5, 30, 31), (31, 31)), ((1, 4, 150, 140), (29, 29)), ((1, 4, 56, 56), (51, 5))]


def scaled(numerics, operands, factors):
    """The operands with input (and gradient) of each image and channel multiplied; ``factors`` is ``[N, C]``."""
    factors = factors[:, :, None, None]
    return numerics.operands(
        operands.pass_name, operands.x * factors, operands.weight, operands.grad, kernel=operands.kernel
    )


@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize("ratio", [1e6, 1e-6, 1e4])
def test_channels_of_very_different_scale_do_not_disturb_each_other(numerics, ratio, pass_name, shape, kernel):
    operands = numerics.draw(pass_name, shape, kernel)
    factors = torch.ones(shape[:2])
    factors[:, ::2] = ratio
    operands = scaled(numerics, operands, factors)
    exact = numerics.exact(operands)
    for outcome in numerics.native.run_all(operands):
        exact.check(outcome, f"ratio {ratio:g}")


@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
def test_weights_of_very_different_scale_do_not_disturb_each_other(numerics, pass_name, shape, kernel):
    if pass_name == "grad_weight":
        pytest.skip("takes no weight")
    operands = numerics.draw(pass_name, shape, kernel)
    operands.weight[::2] *= 1e6
    exact = numerics.exact(operands)
    for packed in ("none", "fresh"):
        for outcome in numerics.native.run_all(operands, packed=packed):
            exact.check(outcome, "weights 1e6 apart")


@pytest.mark.parametrize(
    ("shape", "kernel"), [((3, 3, 30, 31), (31, 31)), ((2, 4, 7, 7), (13, 13)), ((2, 3, 90, 70), (13, 13))], ids=str
)
@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_images_of_very_different_scale_do_not_disturb_each_other(numerics, pass_name, shape, kernel):
    operands = numerics.draw(pass_name, shape, kernel)
    factors = torch.ones(shape[:2])
    factors[0] = 1e6
    operands = scaled(numerics, operands, factors)
    exact = numerics.exact(operands)
    for outcome in numerics.native.run_all(operands):
        exact.check(outcome)
        error = (outcome.output.double() - exact.value).abs().amax((2, 3))
        assert (error <= 1e-5 * exact.value.abs().amax((2, 3))).all(), f"{outcome.method} on {outcome.isa}"


@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize("exponent", [100, -80, -30])
def test_the_scale_of_everything_does_not_matter(numerics, exponent, pass_name, shape, kernel):
    """Powers of two are exact, so only overflow and underflow inside a method could make a difference."""
    operands = numerics.draw(pass_name, shape, kernel)
    exact = numerics.exact(operands)
    large = numerics.operands(
        pass_name, operands.x * 2.0**exponent, operands.weight, operands.grad, kernel=operands.kernel
    )
    for outcome in numerics.native.run_all(large):
        outcome.output.mul_(2.0**-exponent)
        exact.check(outcome, f"scale 2^{exponent}")


@pytest.mark.parametrize("pass_name", PASSES)
def test_zeros_give_zeros(numerics, pass_name):
    for shape, kernel in SHAPES:
        operands = numerics.draw(pass_name, shape, kernel)
        operands.x[:, 1] = 0
        for outcome in numerics.native.run_all(operands):
            zeros = outcome.output[1] if pass_name == "grad_weight" else outcome.output[:, 1]
            assert (zeros == 0).all(), f"{outcome.method} on {outcome.isa}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", PASSES)
def test_what_is_not_finite_never_becomes_finite(numerics, pass_name, shape, kernel, value):
    """Every output that depends on it is not finite; other channels and other images are right."""
    n, c, i, j = shape[0] - 1, 2, shape[2] // 3, shape[3] // 2
    operands = numerics.draw(pass_name, shape, kernel)
    exact = numerics.exact(operands)
    clean = {(o.method, o.isa): o.output for o in numerics.native.run_all(operands)}
    operands.x[n, c, i, j] = value
    marked = torch.zeros(shape)
    marked[n, c, i, j] = 1
    reach = numerics.exact(
        numerics.operands(
            pass_name,
            marked,
            None if operands.weight is None else torch.ones_like(operands.weight),
            None if operands.grad is None else torch.ones_like(operands.grad),
            kernel=kernel,
        )
    )
    depends = reach.value > 0.5
    assert depends.any()
    for outcome in numerics.native.run_all(operands):
        label = f"{outcome.method} on {outcome.isa}"
        assert not torch.isfinite(outcome.output[depends]).any(), label
        same = torch.ones(outcome.output.shape, dtype=torch.bool)
        if pass_name == "grad_weight":
            same[c] = False
        else:
            same[n, c] = False
        untouched = clean[outcome.method, outcome.isa]
        outcome.output[~same] = untouched[~same]
        exact.check(outcome, "other planes")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_weights_that_are_not_finite(numerics, pass_name, shape, kernel, value):
    operands = numerics.draw(pass_name, shape, kernel)
    exact = numerics.exact(operands)
    clean = {(o.method, o.isa): o.output for o in numerics.native.run_all(operands)}
    operands.weight[1, 0, kernel[0] // 2, kernel[1] // 2] = value  # the middle tap reaches every output
    for packed in ("none", "fresh", "stale"):
        for outcome in numerics.native.run_all(operands, packed=packed):
            label = f"{outcome.method} on {outcome.isa}, packed {packed}"
            assert not torch.isfinite(outcome.output[:, 1]).any(), label
            outcome.output[:, 1] = clean[outcome.method, outcome.isa][:, 1]
            exact.check(outcome, label)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("where", ["input", "weight", "bias"])
def test_nan_survives_relu(numerics, where, dtype):
    for shape, kernel in SHAPES:
        operands = numerics.draw("forward", shape, kernel, bias=True, relu=True, dtype=dtype)
        if where == "input":
            operands.x[0, 1, shape[2] // 2, shape[3] // 2] = math.nan
            rows = slice(max(shape[2] // 2 - kernel[0] // 2, 0), shape[2] // 2 + kernel[0] // 2 + 1)
            columns = slice(max(shape[3] // 2 - kernel[1] // 2, 0), shape[3] // 2 + kernel[1] // 2 + 1)
        else:
            (operands.weight[1, 0] if where == "weight" else operands.bias[1:2]).fill_(math.nan)
            rows = columns = slice(None)
        for outcome in numerics.native.run_all(operands):
            assert outcome.output[0, 1, rows, columns].isnan().all(), f"{outcome.method} on {outcome.isa}"
            assert torch.isfinite(outcome.output[:, [0, 2, 3]]).all(), f"{outcome.method} on {outcome.isa}"


def test_a_result_that_is_too_large_is_infinite_or_nan(numerics):
    for shape, kernel in SHAPES:
        operands = numerics.operands("forward", torch.full(shape, 1e38), torch.full((shape[1], 1, *kernel), 1.0))
        for outcome in numerics.native.run_all(operands):
            middle = outcome.output[:, :, shape[2] // 2, shape[3] // 2]
            assert not torch.isfinite(middle).any(), f"{outcome.method} on {outcome.isa}"
