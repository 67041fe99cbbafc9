"""Methods of convolutions that are chosen for a run, then fixed, recorded and forced when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from replk_probe import measure_erf, ops
from replk_probe.cli._options import BATCH_SIZE
from replk_probe.erf import ErfConfig
from replk_probe.erf.plan import ErfPlan, plan_erf
from replk_probe.erf.scored_batches import BatchScorer
from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.models.inference import run_methods
from replk_probe.models.inference.run_methods import choose_methods, fixed_methods
from replk_probe.ops.methods import registry
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning import choices, choosing, device, tuner
from replk_probe.ops.tuning.choosing import Choice
from replk_probe.runtime import parts as runtime_parts
from replk_probe.runtime.checkpoint import ResumeWarning
from replk_probe.runtime.devices import may_tune
from replk_probe.runtime.parts import ChosenMethods
from replk_probe.runtime.torchrun import Process
from replk_probe.shape_bias import ShapeBiasConfig

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not ops.native_info().loaded:
        pytest.skip("the native library is not available")
    monkeypatch.setattr(choosing, "LEAST_MULTIPLY_ADDS", {"cpu": 1, "cuda": 1})
    tuner._known.clear()
    yield
    tuner._known.clear()
    assert not choices.state.active


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[ConvProblem]:
    """Chooses the direct method for every problem, and returns the problems."""
    found: list[ConvProblem] = []

    def choose(device: Any, problem: ConvProblem, **options: Any) -> Choice:
        found.append(problem)
        return Choice("direct", "the fastest", {"auto": 2.0, "direct": 1.0}, {}, "auto")

    monkeypatch.setattr(tuner, "choose", choose)
    return found


def network() -> nn.Module:
    torch.manual_seed(0)
    large = ops.DepthwiseConv2d(4, 4, 9, padding=4, groups=4)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), large, nn.ReLU(), nn.Conv2d(4, 4, 1))


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def erf(**options: Any) -> Any:
    return measure_erf(network(), images(), device="cpu", batch_size=2, layer="3", **options)


def test_auto_does_nothing_on_a_cpu(measured: list[ConvProblem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_methods, "TorchDevice", None)  # not even this is made
    one, other = erf(), erf(tune="off")
    assert measured == [] and np.array_equal(one.contribution, other.contribution)
    assert "chosen methods" not in one.run.config and one.run.config == other.run.config


def test_a_run_measures_its_first_batch_and_records_the_methods(measured: list[ConvProblem]) -> None:
    usual, tuned = erf(tune="off"), erf(tune="force")
    chosen = tuned.run.config["chosen methods"]
    assert {*chosen.values()} == {"direct"} and {*map(str, measured)} == {*chosen}
    # Batches of two images; what is chosen for them holds for the last one, of one image, as well.
    assert {problem.n for problem in measured} == {2}
    assert {problem.direction for problem in measured} == {"forward", "grad_input"}
    assert tuned.run.backend == "tuned: direct"
    np.testing.assert_allclose(tuned.contribution, usual.contribution, rtol=1e-4, atol=1e-9)
    assert json.loads(json.dumps(tuned.run.to_json()))["config"]["chosen methods"] == chosen
    again = erf(tune="force")
    assert np.array_equal(again.contribution, tuned.contribution) and len(measured) == len(chosen)


def test_a_run_that_keeps_the_defaults_has_their_record(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Choice("auto", "no other is faster", {"auto": 1.0}, {"direct": "slower: 9 ms"}, default="auto")
    monkeypatch.setattr(tuner, "choose", lambda *args, **options: kept)
    usual, tuned = erf(), erf(tune="force")
    tuning = tuned.run.config.pop("tuning")
    assert tuned.run.config == usual.run.config and np.array_equal(tuned.contribution, usual.contribution)
    # It is recorded that nothing was replaced, and why.
    assert len(tuning) == 2 and {one.pop("problem").split()[0] for one in tuning} == {"forward", "grad_input"}
    assert all(datetime.fromisoformat(one.pop("measured")).tzinfo is not None for one in tuning)
    assert tuning[0] == {
        "method": "auto",
        "default": "auto",
        "reason": "no other is faster",
        "gain": 1.0,
        "seconds": {"auto": 1.0},
        "refused": {"direct": "slower: 9 ms"},
    }


def test_no_batch_size_mixes_methods(measured: list[ConvProblem], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 8 images that are halved twice, and a last one of a single image."""

    def next_batch(self: BatchScorer, count: int, release: Callable[[], object]) -> Any:
        return usual(self, count if measured == [] else min(count, 2), release)

    usual = BatchScorer.next_batch
    monkeypatch.setattr(BatchScorer, "next_batch", next_batch)
    tuned = measure_erf(network(), images(9), device="cpu", batch_size=8, layer="3", tune="force")
    assert tuned.run.config["batch_sizes"] == [8, 2] and {problem.n for problem in measured} == {8}
    assert tuned.run.backend == "tuned: direct"


def test_a_choice_holds_for_all_numbers_of_images() -> None:
    with fixed_methods({"forward float32 nchw 8x4x20x20 9x9": "direct"}, CPU):
        for n in (1, 2, 8, 100):
            assert ops.chosen_method("forward", torch.empty(n, 4, 20, 20), (9, 9)) == "direct"
        assert ops.chosen_method("forward", torch.empty(8, 4, 20, 21), (9, 9)) is None
        assert ops.chosen_method("grad_input", torch.empty(8, 4, 20, 20), (9, 9)) is None
    assert ops.chosen_method("forward", torch.empty(8, 4, 20, 20), (9, 9)) is None


def test_the_largest_number_of_images_of_a_batch_decides(measured: list[ConvProblem]) -> None:
    small, large = (ConvProblem("forward", "float32", False, n, 4, 20, 20, 9, 9) for n in (1, 16))

    def first_batch() -> None:
        for problem in (small, large, small):
            choices.chosen_for("cpu", problem)

    found = choose_methods(first_batch, CPU, tune="force", images=16, batch_size=16)
    assert measured == [large] and found[0] == {str(large): "direct"}


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, *, calls: int = 3) -> None:
    """Interrupt a run after the batch that is tried out and one that counts."""
    usual, left = BatchScorer.next_batch, iter(range(calls - 1))

    def next_batch(*args: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return usual(*args)

    with monkeypatch.context() as patch:
        patch.setattr(BatchScorer, "next_batch", next_batch)
        with pytest.raises(KeyboardInterrupt):
            erf(tune="force", checkpoint=folder)


def test_a_resumed_run_has_the_methods_of_its_beginning(
    measured: list[ConvProblem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = erf(tune="force")
    interrupted(tmp_path, monkeypatch)
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["environment"]["chosen methods"] == whole.run.config["chosen methods"] and state["state"]["done"] == 2
    # Nothing is measured again, and no option and no other choice changes the methods.
    count = len(measured)
    monkeypatch.setattr(tuner, "choose", lambda *args, **options: Choice("fft", "the fastest", default="auto"))
    tuner._known.clear()
    for tune in ("auto", "off"):
        copied = tmp_path.with_name(f"copy-{tune}")
        copy_folder(tmp_path, copied)
        with (
            pytest.warns(ResumeWarning, match="It keeps them although tune is 'off'")
            if tune == "off"
            else nullcontext()
        ):
            resumed = erf(tune=tune, checkpoint=copied, resume=True)
        assert np.array_equal(resumed.contribution, whole.contribution) and resumed.run.config == whole.run.config
    assert len(measured) == count


def copy_folder(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.suffix in (".json", ".npy"):
            (target / path.name).write_bytes(path.read_bytes())


def test_a_run_whose_method_is_gone_is_not_resumed(
    measured: list[ConvProblem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupted(tmp_path, monkeypatch)
    usual = registry.methods_on

    def without_direct(*args: Any, **options: Any) -> Any:
        return usual(*args, **options) | {"direct": "the library has no such method"}

    monkeypatch.setattr(device, "methods_on", without_direct)
    says = r"Cannot resume .* The method direct is not available for the convolution forward .*: the library has no"
    with pytest.raises(ResumeError, match=says):
        erf(checkpoint=tmp_path, resume=True)
    assert (tmp_path / "state.json").exists()


def test_a_run_that_continues_on_another_device_leaves_out_what_is_not_available() -> None:
    chosen = {"forward float32 nchw 1x4x20x20 9x9": "triton-nothing"}
    with fixed_methods(chosen, CPU, other_device=True):
        assert not choices.state.active
    with pytest.raises(ResumeError, match="no method has this name"), fixed_methods(chosen, CPU):
        pass
    with pytest.raises(ResumeError, match="the device is xpu:0"), fixed_methods(chosen, torch.device("xpu", 0)):
        pass


@pytest.mark.parametrize("config", [ErfConfig, ShapeBiasConfig])
def test_values_of_the_option(config: Any) -> None:
    assert config().tune == "auto"
    with pytest.raises(InvalidInputError, match=r"Unknown value of tune 'on'\. Choose from auto, off, force\."):
        config(tune="on")


def test_where_runs_may_be_tuned() -> None:
    cuda, xpu = torch.device("cuda", 0), torch.device("xpu", 0)
    assert [may_tune(tune, CPU) for tune in ("auto", "off", "force")] == [False, False, True]
    assert [may_tune(tune, cuda) for tune in ("auto", "off", "force")] == [True, False, True]
    assert not any(may_tune(tune, xpu) for tune in ("auto", "off", "force"))


class Card:
    """A GPU whose clock advances by a given time for each batch, and which prefers another method."""

    label, default, library = "cuda:0", "aten", "cuDNN 9.24.0"
    forced: str | None = None

    def __init__(self, batch_seconds: float) -> None:
        self.environment = {"device": f"card {batch_seconds}"}
        self.batch_seconds, self.now, self.batches = batch_seconds, 0.0, 0

    def batch(self) -> None:
        self.batches += 1
        self.now += self.batch_seconds
        problem = ConvProblem("forward", "float32", False, 2, 4, 20, 20, 9, 9)
        choices.chosen_for("cuda:0", problem)

    def methods(self, problem: ConvProblem) -> dict[str, str | None]:
        return {"aten": None, "torch-fft": None}

    def check(self, name: str, problem: ConvProblem) -> float:
        return 0.1

    def times(self, name: str, problem: ConvProblem, repeats: int) -> list[float]:
        return [{"aten": 1e-2, "torch-fft": 1e-3}[name]] * repeats

    def workspace_bytes(self, name: str, problem: ConvProblem) -> int:
        return 0

    def free_bytes(self) -> int:
        return 1 << 30

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 39), (1.0, 40), (0.001, 40)])
def test_a_run_on_a_gpu_is_tuned_if_it_is_long_enough(seconds: float, count: int) -> None:
    """One problem takes two seconds: 20 batches of two images of a second each are worth it."""
    card: Any = Card(seconds)
    options: dict[str, Any] = {"tune": "auto", "batch_size": 2, "tunable": card, "clock": lambda: card.now}
    found, record = choose_methods(card.batch, torch.device("cuda", 0), images=count, **options)
    is_long = seconds * count / 2 >= 20
    chosen = {"forward float32 nchw 2x4x20x20 9x9": "torch-fft"}
    assert found == (chosen if is_long else {}) and len(record) == is_long and card.batches == 2
    forced, record = choose_methods(card.batch, torch.device("cuda", 0), images=count, **(options | {"tune": "force"}))
    assert forced == chosen and record[0]["gain"] == 10 and card.batches == 3
    # What is stored is used in short runs, too.
    tuner._known.clear()
    assert (
        choose_methods(card.batch, torch.device("cuda", 0), images=1, **options) == (chosen, record)
        and card.batches == 4
    )


def test_a_run_without_large_convolutions_is_not_timed() -> None:
    card: Any = Card(1.0)
    options: dict[str, Any] = {"tune": "auto", "batch_size": 2, "tunable": card, "images": 99}
    assert choose_methods(lambda: None, torch.device("cuda", 0), **options) == ({}, [])


def agreed(
    plan: ErfPlan, parts: dict[range, Path], monkeypatch: pytest.MonkeyPatch, others: list[Any], rank: int = 0
) -> ChosenMethods | None:
    """What a process agrees on with one other, which answers ``others`` in turn."""
    answers = iter(others)

    def gathered(value: Any) -> list[Any]:
        other = next(answers)
        return [value, other] if rank == 0 else [other, value]

    with monkeypatch.context() as patch:
        patch.setattr(runtime_parts, "this_process", lambda: Process(rank, 2, rank))
        patch.setattr(runtime_parts, "together", nullcontext)
        patch.setattr(runtime_parts, "gathered", gathered)
        plan.agree_on_methods(parts)
    return plan._agreed


def planned(tune: str = "force", count: int = 40) -> ErfPlan:
    return plan_erf(network(), images(count), ErfConfig(device="cpu", layer="3", tune=tune))


def test_processes_of_torchrun_agree_on_methods(
    measured: list[ConvProblem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = planned(), planned()
    one, other = first.parts(2)
    folders = {one: tmp_path / "one", other: tmp_path / "other"}
    chosen = agreed(first, {one: folders[one]}, monkeypatch, [[], None])
    assert chosen and {*chosen.methods.values()} == {"direct"} and len(chosen.tuning) == len(chosen.methods)
    count = len(measured)
    # The second process measures nothing.
    assert agreed(second, {other: folders[other]}, monkeypatch, [[], chosen], rank=1) == chosen
    first.run_part(one, folders[one])
    second.run_part(other, folders[other])
    assert len(measured) == count
    joined = planned("auto").join(folders)
    whole = planned().run()
    assert joined.run.config["chosen methods"] == whole.run.config["chosen methods"] == chosen.methods
    assert joined.run.config["tuning"] == chosen.tuning
    assert np.array_equal(joined.contribution, whole.contribution)
    # Parts that have been begun keep their methods; the processes could not agree on others.
    resumed = planned()
    assert agreed(resumed, {one: folders[one]}, monkeypatch, [[], None]) == chosen
    with pytest.raises(ResumeError, match="different methods"):
        agreed(resumed, {one: folders[one]}, monkeypatch, [[[{}, []]]])
    assert agreed(planned("auto"), folders, monkeypatch, []) is None  # on a CPU, without a word


def test_parts_without_torchrun_are_measured_by_the_usual_methods(
    measured: list[ConvProblem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = planned()
    one, other = plan.parts(2)
    plan.run_part(one, tmp_path / "one")
    assert measured == []
    plan._agreed = ChosenMethods({"forward float32 nchw 1x4x20x20 9x9": "direct"}, [])
    plan.run_part(other, tmp_path / "other")
    with pytest.raises(ResumeError, match=r"Cannot join .* different methods"):
        plan.join({one: tmp_path / "one", other: tmp_path / "other"})


def test_the_options_of_the_commands(replk_probe: Callable[..., Any]) -> None:
    for command in ("erf", "shape-bias"):
        assert "--tune [auto|off|force]" in replk_probe(command, "--help").stdout
        for value in ("x", "0"):
            done = replk_probe(command, "--batch-size", value)
            assert done.exit_code == 2 and f"'{value}' is neither an integer of at least 1 nor auto" in done.stderr
    assert BATCH_SIZE.convert("AUTO", None, None) == "auto" and BATCH_SIZE.convert("3", None, None) == 3
    with pytest.raises(InvalidInputError, match="Use 1 or more, or 'auto'"):
        ErfConfig(batch_size="AUTO")  # type: ignore[arg-type]
