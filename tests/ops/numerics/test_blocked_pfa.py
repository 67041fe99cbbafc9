"""The prime-factor FFT of whole small planes: properties of that method only."""

from __future__ import annotations

import pytest
import torch

METHOD = "blocked-pfa"
# A plane just as large as a length takes with its kernel, and one more; both axes on their own; odd and even lengths.
FITTING = [
    ((1, 3, 9, 9), (13, 13)),
    ((1, 3, 10, 10), (13, 13)),
    ((1, 3, 14, 14), (13, 13)),
    ((1, 3, 15, 14), (13, 13)),
    ((1, 3, 18, 17), (13, 13)),
    ((1, 3, 24, 25), (13, 13)),
    ((1, 3, 34, 33), (13, 13)),
    ((1, 3, 9, 34), (13, 3)),
    ((1, 3, 40, 8), (1, 15)),
    ((1, 3, 20, 20), (5, 41)),
]


def outcomes(numerics, operands, **options):
    """What this method makes of it, on every instruction set; at least one."""
    found = [numerics.native.run(operands, method=METHOD, isa=isa, **options) for isa in numerics.isas]
    assert all(outcome is not None for outcome in found), "the method refuses"
    return found


@pytest.mark.parametrize(("shape", "kernel"), FITTING, ids=str)
@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_every_pair_of_lengths_at_its_edge(numerics, pass_name, shape, kernel):
    operands = numerics.draw(pass_name, shape, kernel)
    exact = numerics.exact(operands)
    for packed in ("none", "fresh", "stale"):
        for outcome in outcomes(numerics, operands, packed=packed):
            exact.check(outcome, packed)
            assert outcome.was_stale == (packed == "stale")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 9, 15, 16, 17, 33])
def test_groups_of_channels_that_are_not_whole(numerics, channels, dtype):
    for kernel in ((13, 13), (27, 27), (5, 9)):
        operands = numerics.draw("forward", (2, channels, 12, 11), kernel, bias=True, relu=True, dtype=dtype)
        exact = numerics.exact(operands)
        for outcome in outcomes(numerics, operands, packed="fresh"):
            exact.check(outcome, channels)
            assert not outcome.was_stale


@pytest.mark.parametrize("pass_name", ("forward", "grad_input"))
def test_groups_shared_by_threads(numerics, pass_name):
    """The bits of one thread, whether a group's spectrum is made by one of them or by each."""
    operands = numerics.draw(pass_name, (3, 40, 14, 14), (13, 13))
    for packed in ("none", "fresh", "stale"):
        alone = outcomes(numerics, operands, packed=packed)
        for outcome, before in zip(outcomes(numerics, operands, packed=packed, threads=4), alone, strict=True):
            assert torch.equal(outcome.output, before.output) and outcome.was_stale == (packed == "stale")


def test_nan_affects_its_whole_plane_and_no_other(numerics):
    """What is not finite spreads in its plane, by the sums of its spectrum, and never into a neighboring lane."""
    operands = numerics.draw("forward", (2, 16, 14, 14), (5, 5))
    clean = outcomes(numerics, operands)
    for value in (float("nan"), float("inf"), -float("inf")):
        operands.x[1, 6, 3, 4] = value
        for before, outcome in zip(clean, outcomes(numerics, operands), strict=True):
            assert not torch.isfinite(outcome.output[1, 6]).any()
            kept = torch.ones(2, 16, dtype=torch.bool)
            kept[1, 6] = False
            assert torch.equal(outcome.output[kept], before.output[kept])


def test_what_it_does_not_take_is_refused(numerics):
    native = numerics.native
    assert native.plan(native.problem("forward", (1, 16, 60, 60), (13, 13), method=METHOD)) is None
    assert native.plan(native.problem("grad_weight", (1, 16, 14, 14), (13, 13), method=METHOD)) is None
    plan = native.plan(native.problem("forward", (1, 16, 14, 18), (13, 13), method=METHOD))
    assert (plan.tile_h, plan.tile_w) == (20, 24) and plan.packed_bytes > 0


def test_it_is_chosen_where_it_is_fastest(numerics):
    """The planes of a network's late stages at 224 pixels; at 7x7 sums are faster."""
    for isa in numerics.isas:
        chosen = {}
        for shape, kernel in (((1, 384, 14, 14), 13), ((1, 512, 14, 14), 27), ((1, 1536, 7, 7), 13)):
            plan = numerics.native.plan(numerics.native.problem("forward", shape, (kernel, kernel), isa=isa))
            chosen[shape[2], kernel] = plan.method
        assert chosen == {(14, 13): 4, (14, 27): 4, (7, 13): 3}, isa
