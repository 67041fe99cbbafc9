"""The channel-blocked direct sums, if the kernel covers the whole plane: Karatsuba saves a product."""

from __future__ import annotations

import pytest
import torch

METHOD = "blocked"


def outcomes(numerics, operands):
    """What this method makes of it, on every instruction set; at least one."""
    found = [numerics.native.run(operands, method=METHOD, isa=isa) for isa in numerics.isas]
    assert all(outcome is not None for outcome in found), "the method refuses"
    return found


@pytest.mark.parametrize("width", [7, 8])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 6, 7, 8, 9, 14])
@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_complete_kernels(numerics, pass_name, height, width):
    """The least kernel that reaches everything, one less along either axis, and one that is cropped."""
    least = (2 * height - 1, 2 * width - 1)
    for kernel in (least, (max(least[0] - 2, 1), least[1]), (least[0], least[1] - 2), (least[0] + 8, least[1] + 2)):
        is_forward = pass_name == "forward"
        operands = numerics.draw(pass_name, (2, 19, height, width), kernel, bias=is_forward, relu=is_forward)
        exact = numerics.exact(operands)
        for outcome in outcomes(numerics, operands):
            exact.check(outcome, kernel)


@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
@pytest.mark.parametrize("pixel", [(0, 0), (3, 3), (4, 0), (6, 6)])
def test_one_pixel_far_above_the_others(numerics, pass_name, pixel):
    """Canceling terms must not exceed the result; each channel is compared relative to its largest value."""
    operands = numerics.draw(pass_name, (1, 16, 7, 7), (13, 13))
    operands.x[:, :, pixel[0], pixel[1]] *= 1e6
    operands.weight[:, :, 6, 6] *= 1e3
    value = numerics.exact(operands).value
    for outcome in outcomes(numerics, operands):
        error = (outcome.output.double() - value).abs().amax((2, 3))
        assert (error <= 1e-6 * value.abs().amax((2, 3))).all(), outcome.isa


def test_what_is_not_finite_reaches_everything(numerics):
    for value in (float("nan"), float("inf"), -float("inf")):
        for row in range(7):
            operands = numerics.draw("forward", (1, 17, 7, 7), (13, 13))
            operands.x[0, 4, row, 2] = value
            for outcome in outcomes(numerics, operands):
                finite = torch.isfinite(outcome.output[0])
                assert not finite[4].any() and finite[:4].all() and finite[5:].all()
