"""The decisions of the tuner on scripted cards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning.choices import TuningWarning
from replk_probe.ops.tuning.choosing import Choice, choose, is_worthwhile
from replk_probe.ops.tuning.store import stored_choices
from replk_probe.ops.tuning.tuner import tune_problems, tune_together

PROBLEM = ConvProblem("forward", "float32", False, 64, 384, 32, 32, 31, 31)
Card = Callable[..., Any]


def decided(card: Any, **options: Any) -> Choice:
    return choose(card, PROBLEM, clock=card.clock, **options)


# Six scripted cards -----------------------------------------------------------------------------------------------


def test_card_1_the_default_is_wrong(card: Card, tmp_path: Path) -> None:
    wrong = card({"aten": 1e-3, "aten-nchw": 9e-3, "torch-fft": 8e-3}, shares={"aten": 50.0})
    with pytest.warns(TuningWarning, match=r"'aten' gave wrong results .* \(cuDNN 9\.19\.0\)\. .*'torch-fft' is used"):
        found = tune_problems(wrong, [PROBLEM], folder=tmp_path, clock=wrong.clock)
    # It is used although it is slower, and the wrong one is never timed.
    choice = found[PROBLEM.bucket]
    assert choice.method == "torch-fft" and choice.reason == "the default gives wrong results"
    assert choice.refused == {"aten": "wrong results: 50 times the bound"} and "aten" not in wrong.timed


def test_a_wrong_default_is_reported_once_in_each_process(card: Card, tmp_path: Path) -> None:
    wrong = card({"aten": 1e-3, "torch-fft": 8e-3}, shares={"aten": 50.0})
    user = replace(PROBLEM, n=50)
    # Not 42 images, those of the bucket.
    sizes = r"forward convolutions \(float32, contiguous\) of 384 channels of 32x32 with kernels of 31x31 \(cuDNN"
    for _ in range(2):
        forget()
        with pytest.warns(TuningWarning, match=sizes) as warned:
            tune_problems(wrong, [user], folder=tmp_path, clock=wrong.clock)
            tune_problems(wrong, [user], folder=tmp_path, clock=wrong.clock)
        assert len(warned) == 1
    assert wrong.log[-1] == ("check", "torch-fft")  # the choice of the second process was a stored one


@pytest.mark.parametrize("share", [1.01, math.inf, math.nan])
def test_card_2_a_candidate_is_wrong(card: Card, share: float) -> None:
    fast = card({"aten": 1e-2, "triton-toeplitz": 1e-4}, shares={"triton-toeplitz": share})
    choice = decided(fast)
    assert choice.method == "aten" and "wrong results" in choice.refused["triton-toeplitz"]
    assert "triton-toeplitz" not in fast.timed and choice.warning is None


def test_card_3_a_candidate_is_slower(card: Card) -> None:
    choice = decided(card({"aten": 1e-3, "torch-fft": 2e-3}))
    assert (choice.method, choice.reason, choice.gain) == ("aten", "no other method is faster", 1.0)
    hopeless = decided(card({"aten": 1e-3, "torch-fft": 2e-2}))
    assert hopeless.refused == {"torch-fft": "slower: 20 ms"} and hopeless.seconds["torch-fft"] == 2e-2


def test_card_4_no_memory(card: Card, tmp_path: Path) -> None:
    small = card({"aten": 1e-2, "torch-fft": 1e-3}, memory=100 << 20, workspaces={"torch-fft": 60 << 20})
    choice = decided(small)
    assert choice.method == "aten"
    assert choice.refused == {"torch-fft": "not enough memory: it needs 60 MB, more than half of what is free"}
    full = card({"aten": 1e-2, "torch-fft": 1e-3}, errors={"torch-fft": torch.OutOfMemoryError("CUDA out of memory")})
    assert decided(full).refused == {"torch-fft": "not enough memory"}
    nothing = card({"aten": 1e-2}, errors={"aten": torch.OutOfMemoryError("CUDA out of memory")})
    assert (decided(nothing).method, decided(nothing).warning) == ("aten", None)
    cramped = [
        card({"aten": 1e-2, "torch-fft": 1e-1}, **{when: {"aten": RuntimeError(f"cuDNN error: {status}")}})
        for when in ("errors", "late")
        for status in ("CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
    ]
    for device in cramped:
        assert decided(device).reason == "the default failed (not enough memory)"
    # There may be more memory in another process.
    for device in (small, full, nothing, *cramped):
        forget()
        tune_problems(device, [PROBLEM], folder=tmp_path, clock=device.clock)
    assert stored_choices(tmp_path) == []
    # Or in this one later.
    small.memory, small.log[:] = 1 << 30, []
    assert tune_problems(small, [PROBLEM], folder=tmp_path, clock=small.clock)[PROBLEM.bucket].method == "torch-fft"
    assert small.timed and len(stored_choices(tmp_path)) == 1


def test_card_5_the_cache_is_damaged(card: Card, tmp_path: Path) -> None:
    first = card({"aten": 1e-2, "torch-fft": 1e-3})
    tune_problems(first, [PROBLEM], folder=tmp_path, clock=first.clock)
    (path,) = tmp_path.iterdir()
    for damage in (path.read_text()[:100], "", "[]", '{"schema_version": 1}', path.read_text().replace("0.001", '"x"')):
        forget()
        path.write_text(damage)
        again = card({"aten": 1e-2, "torch-fft": 1e-3})
        found = tune_problems(again, [PROBLEM], folder=tmp_path, clock=again.clock)
        assert found[PROBLEM.bucket].method == "torch-fft" and "torch-fft" in again.timed
        assert len(stored_choices(tmp_path)) == 1


def test_card_6_two_ranks(card: Card, tmp_path: Path, ranks: Callable[..., Any]) -> None:
    # The second process would choose otherwise, and meets another problem.
    other = replace(PROBLEM, h=16)
    cards = [card({"aten": 1e-2, "torch-fft": 1e-3}), card({"aten": 1e-3, "torch-fft": 1e-2})]

    def work(rank: int) -> Any:
        mine = [PROBLEM] if rank == 0 else [PROBLEM, other]
        return tune_together(cards[rank], mine, folder=tmp_path, clock=cards[rank].clock)

    first, second = ranks(work)
    assert first == second and {one.bucket for one in (PROBLEM, other)} == {*first}
    assert {choice.method for choice in first.values()} == {"torch-fft"}
    assert cards[0].timed and not cards[1].log


# Rules ------------------------------------------------------------------------------------------------------------


def test_the_fastest_is_chosen(card: Card) -> None:
    choice = decided(card({"aten": 1e-2, "torch-fft": 4e-3, "triton-toeplitz": 3e-3}))
    assert choice.method == "triton-toeplitz" and choice.gain == pytest.approx(10 / 3)
    assert choice.seconds == {"aten": 1e-2, "torch-fft": 4e-3, "triton-toeplitz": 3e-3}


@pytest.mark.parametrize(("seconds", "method"), [(0.91e-3, "aten"), (0.89e-3, "torch-fft")])
def test_the_gain_has_to_be_a_tenth(card: Card, seconds: float, method: str) -> None:
    assert decided(card({"aten": 1e-3, "torch-fft": seconds})).method == method


def test_the_upper_quartile_has_to_be_below_the_median_of_the_default(
    card: Card, noisy: Callable[..., Iterator[float]]
) -> None:
    # Medians of 0.7 ms; one call of three takes longer than torch's.
    noise = decided(card({"aten": 1e-3, "torch-fft": noisy(0.7e-3, 0.7e-3, 1.2e-3)}))
    assert (noise.method, noise.reason) == ("aten", "no other method is clearly faster")
    assert decided(card({"aten": 1e-3, "torch-fft": noisy(0.7e-3, 0.7e-3, 0.9e-3)})).method == "torch-fft"
    # The next one is chosen instead.
    steady = card({"aten": 1e-3, "torch-fft": noisy(0.7e-3, 0.7e-3, 1.2e-3), "triton-toeplitz": 0.8e-3})
    assert decided(steady).method == "triton-toeplitz"


def test_all_methods_are_wrong(card: Card) -> None:
    choice = decided(card({"aten": 1e-3, "torch-fft": 1e-3}, shares={"aten": 9.0, "torch-fft": 9.0}))
    assert choice.method == "aten" and choice.warning is not None and "No other method is right" in choice.warning


def test_exceptions_refuse_a_method(card: Card) -> None:
    broken = card(
        {"aten": 1e-2, "torch-fft": 1e-3, "triton-toeplitz": 1e-3},
        errors={"triton-toeplitz": RuntimeError("Failed to find C compiler.\nPlease specify via CC.")},
        late={"torch-fft": ValueError("cuFFT error")},
    )
    choice = decided(broken)
    assert choice.method == "aten" and "torch-fft" not in choice.seconds
    assert choice.refused == {
        "triton-toeplitz": "RuntimeError: Failed to find C compiler. Please specify via CC",
        "torch-fft": "ValueError: cuFFT error",
    }


def test_a_refused_method_is_neither_checked_nor_timed(card: Card) -> None:
    refusing = card({"aten": 1e-2, "triton-toeplitz": 1e-3}, refused={"triton-toeplitz": "Triton is not installed"})
    assert decided(refusing).refused == {"triton-toeplitz": "Triton is not installed"}
    assert {name for _, name in refusing.log} == {"aten"}


def test_a_default_that_cannot_run_is_replaced_without_a_warning(card: Card) -> None:
    broken = card({"aten": 1e-3, "aten-nchw": 1e-2}, errors={"aten": RuntimeError("unable to find an engine")})
    choice = decided(broken)
    assert choice.method == "aten-nchw" and choice.warning is None and "unable to find an engine" in choice.reason


def test_the_budget_ends_checks_and_timing(card: Card) -> None:
    slow = card({"aten": 1e-3, "torch-fft": 1e-4, "triton-toeplitz": 1e-4}, check_seconds=1.5)
    choice = decided(slow)
    assert choice.refused == {"triton-toeplitz": "no time was left to check it"} and choice.method == "torch-fft"
    # If the default is wrong, the search goes on until a method is right.
    late = card({"aten": 1e-3, "torch-fft": 1e-3, "aten-nchw": 1e-3}, shares={"aten": 2.0}, check_seconds=1.5)
    late.shares["torch-fft"] = 2.0
    assert decided(late).method == "aten-nchw"
    # Calls of seconds: one of each, which is enough for a factor of ten but not for a tenth.
    long = card({"aten": 5.0, "torch-fft": 0.5})
    assert decided(long).method == "torch-fft" and long.timed.count("aten") == 1
    assert decided(card({"aten": 5.0, "torch-fft": 4.0})).method == "aten"


def test_time_is_spent_within_the_budget(card: Card) -> None:
    device = card({"aten": 0.05, "torch-fft": 0.04, "aten-nchw": 0.045})
    decided(device, budget=2.0)
    assert 0.4 < device.now < 2.2 and set(device.timed) == {"aten", "torch-fft", "aten-nchw"}


def test_methods_take_turns(card: Card) -> None:
    device = card({"aten": 1e-3, "torch-fft": 1e-3})
    decided(device)
    assert device.timed[:4] == ["aten", "torch-fft", "aten", "torch-fft"]


def test_small_problems_and_small_kernels_are_not_measured(card: Card, tmp_path: Path) -> None:
    assert is_worthwhile(PROBLEM, "cuda") and not is_worthwhile(replace(PROBLEM, kh=5, kw=5), "cuda")
    assert is_worthwhile(replace(PROBLEM, kh=7, kw=7), "cuda")
    small = replace(PROBLEM, n=1, c=2)
    assert not is_worthwhile(small, "cuda") and is_worthwhile(small, "cpu")
    assert not is_worthwhile(replace(small, kh=5, kw=5), "cpu")
    device = card({"aten": 1e-3})
    assert tune_problems(device, [replace(PROBLEM, kh=5, kw=5)], folder=tmp_path) == {} and device.log == []


def test_one_measurement_holds_for_a_bucket(card: Card, tmp_path: Path) -> None:
    def images(n: int) -> ConvProblem:
        return replace(PROBLEM, n=n)

    assert images(33).bucket == images(42).bucket != images(43).bucket and images(1).bucket.n == 1
    device = card({"aten": 1e-2, "torch-fft": 1e-3})
    found = tune_problems(device, [images(33), images(42), images(43)], folder=tmp_path, clock=device.clock)
    assert len(found) == 2 and len([*tmp_path.iterdir()]) == 2


def forget() -> None:
    """As in another process."""
    from replk_probe.ops.tuning import tuner

    tuner._known.clear()
