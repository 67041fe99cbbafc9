"""`replk_probe.ops.tune`, `replk-probe tune` and what `replk-probe info` says of it, on a CPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

from replk_probe import ops
from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning import choices, choosing, description, device, tuner
from replk_probe.ops.tuning.choosing import Choice
from replk_probe.ops.tuning.store import default_folder, write_choice

Run = Callable[..., Result]


class Network(nn.Module):
    """A stem, a large kernel and values that a pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.large = ops.DepthwiseConv2d(4, 4, 9, padding=4, groups=4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"maps": [self.large(self.norm(self.stem(x))).relu()], "size": x.shape}


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch, native: ops.NativeInfo) -> list[ConvProblem]:
    """Measures problems of any size, by choosing the direct method; returns the problems."""
    measured: list[ConvProblem] = []

    def choose(device: Any, problem: ConvProblem, **options: Any) -> Choice:
        measured.append(problem)
        seconds = {"auto": 2e-3, "direct": 1e-3}
        return Choice("direct", "the fastest of the methods that are right", seconds, {"fft": "slower: 9 ms"}, "auto")

    monkeypatch.setitem(choosing.LEAST_MULTIPLY_ADDS, "cpu", 1)
    monkeypatch.setattr(tuner, "choose", choose)
    return measured


def test_a_network_is_tuned_as_it_is_used(direct: list[ConvProblem]) -> None:
    network, x = Network(), torch.randn(2, 3, 10, 12)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seed = torch.get_rng_state()
    found = ops.tune(network, x, force=True)
    sizes = "float32 nchw 2x4x10x12 9x9"
    directions = ("forward", "grad_input", "grad_weight")
    # The backward pass needs the weight gradient before the input gradient or after it.
    assert sorted(one.problem for one in found.convolutions) == [f"{direction} {sizes}" for direction in directions]
    assert found.device == "cpu" and {*found.methods.values()} == {"direct"}
    assert all(
        (one.default, one.gain, one.refused["fft"]) == ("auto", 2.0, "slower: 9 ms") for one in found.convolutions
    )
    # Neither the network nor its gradients nor the random numbers have changed.
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters()) and x.grad is None
    assert torch.equal(torch.get_rng_state(), seed) and network.training
    assert ops.chosen_method("forward", torch.empty(2, 4, 10, 12), (9, 9)) == "direct"
    assert len(direct) == 3 and len(ops.tune(network, x, force=True).convolutions) == 3 and len(direct) == 6
    # The choices of a network in training do not apply to one in eval mode, whose weights are prepared.
    with torch.no_grad():
        found = ops.tune(network.eval(), x, force=True)
    assert [one.problem for one in found.convolutions] == [f"forward {sizes}"] and len(direct) == 7


def test_on_a_cpu_nothing_is_measured_unless_it_is_forced(direct: list[ConvProblem]) -> None:
    found = ops.tune(Network(), torch.randn(1, 3, 8, 8))
    assert found.convolutions == () and direct == []
    says = "On a CPU, convolutions are measured only with force. The native library chooses a method by a table."
    assert found.reason == says
    assert not choices.state.active and not default_folder().exists()


def test_small_convolutions_are_not_measured() -> None:
    found = ops.tune(Network(), [torch.randn(1, 3, 8, 8)], force=True)
    assert found.convolutions == () and found.methods == {}
    says = (
        "from 2^20 (1.05 million) multiply-adds. The largest one of the network has 0.0207 million. Use larger images"
    )
    assert found.reason is not None and says in found.reason


def test_the_reason_why_nothing_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = ops.DepthwiseConv2d(4, 4, (5, 9), padding=(2, 4), groups=4)
    found = ops.tune(layer, torch.randn(1, 4, 8, 8), force=True)
    assert found.reason == ("Depthwise convolutions are measured from 7x7. The largest kernel of the network is 5x9.")
    found = ops.tune(nn.Conv2d(3, 4, 13, padding=6), torch.randn(1, 3, 8, 8), force=True)
    assert found.reason is not None and "calls no depthwise convolution of replk_probe.ops" in found.reason
    monkeypatch.setattr(tuner, "find_library", lambda: "It is missing.")
    found = ops.tune(layer, torch.randn(1, 4, 8, 8))
    assert found.reason is not None and "The native library is not available" in found.reason


def test_a_layer_is_measured_on_this_processor(monkeypatch: pytest.MonkeyPatch, native: ops.NativeInfo) -> None:
    """The methods themselves, with the real clock."""
    monkeypatch.setitem(choosing.LEAST_MULTIPLY_ADDS, "cpu", 1)
    layer = ops.DepthwiseConv2d(8, 8, 13, padding=6, groups=8).eval()
    x = torch.randn(1, 8, 16, 16)
    with torch.no_grad():
        before = layer(x)
        (found,) = ops.tune(layer, x, force=True, budget=0.2).convolutions
        assert {"auto", "aten"} <= {*found.seconds} and all(seconds > 0 for seconds in found.seconds.values())
        assert found.method in ("auto", "aten", "direct", "fft", "blocked", "blocked-pfa", "torch-fft")
        assert not any("wrong" in reason for reason in found.refused.values())
        torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-5)


def test_calls_are_timed_with_the_caches_that_a_network_leaves() -> None:
    first, evicting, seen = torch.tensor([1.0]), torch.ones(4, dtype=torch.uint8), []
    for _ in range(2):
        evicting.fill_(1)
        seconds = device._seconds_in_a_network(
            lambda: seen.append((first.item(), evicting.sum().item())), first, evicting
        )
        assert seconds > 0
    assert seen == [(-1.0, 0), (1.0, 0)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((torch.randn, torch.ones(1)), "module is of type builtin_function_or_method"),
        ((nn.Identity(), []), "example_input has no tensors"),
        ((nn.Identity(), [1]), "example_input has no tensors"),
        ((nn.Identity(), None), "example_input has no tensors"),
        ((nn.Identity(), 3), "example_input has no tensors"),
    ],
)
def test_wrong_arguments(arguments: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        ops.tune(*arguments)


@pytest.mark.parametrize("budget", [0, -1, "x", True, None, float("inf"), float("nan")])
def test_wrong_budgets(budget: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"budget cannot be .* It must be a positive number of seconds"):
        ops.tune(nn.Identity(), torch.ones(1), budget=budget)


def test_force_is_a_bool() -> None:
    force: Any = 3
    with pytest.raises(InvalidInputError, match=r"force cannot be 3\. It must be a bool"):
        ops.tune(nn.Identity(), torch.ones(1), force=force)


def test_other_devices_are_refused() -> None:
    with pytest.raises(BackendError, match="The device is meta"):
        ops.tune(nn.Identity(), torch.ones(1, device="meta"))


def test_texts_of_problems_are_read_back() -> None:
    problem = ConvProblem("grad_weight", "bfloat16", True, 4, 3, 2, 1, 61, 31)
    assert tuner.parse_problem(str(problem)) == problem
    for text in (
        "",
        "forward float32 nchw 1x2x3x4",
        "forward float31 nchw 1x2x3x4 5x6",
        "forward float32 nchw 1x2 5x6",
    ):
        with pytest.raises(InvalidInputError, match="is not a convolution"):
            tuner.parse_problem(text)


# Commands ---------------------------------------------------------------------------------------------------------


def test_the_command_tunes_a_model_and_info_lists_the_choices(
    replk_probe: Run, direct: list[ConvProblem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    arguments = ("tune", "--model", "replknet_micro_k13", "--device", "cpu")
    done = replk_probe(*arguments)
    assert done.exit_code == 0 and "Give --force to measure" in done.stderr and done.stdout == "" and direct == []
    done = replk_probe(*arguments, "--force", "--size", "64x32", "--batch-size", 2)
    *rows, last = done.stdout.splitlines()
    assert last == f"not used: fft: slower ({len(direct)} convolutions)"
    # Nothing is cut: each problem is followed by its choice in two lines.
    assert len(rows) == 3 * len(direct) and rows[::3] == [str(problem) for problem in direct]
    assert {*rows[1::3]} == {"  direct, 1 ms, 2.00 times the speed of auto (2 ms): the"}
    assert {*rows[2::3]} == {"  fastest of the methods that are right"}
    assert all(problem.h == 2 * problem.w for problem in direct)
    text = " ".join(replk_probe("info").stdout.split())
    # In eval mode, images are processed by the forward pass and the input gradient.
    assert f"tuning {len(direct)} choices in" in text
    assert "13x13: direct, 2.00 times the speed of auto (the fastest of the methods that are right; 20" in text
    assert "not used: fft (slower: 9 ms)" in text
    found = json.loads(replk_probe("info", "--json").stdout)["tuning"]
    assert len(found["choices"]) == len(direct) and found["folder"] == str(default_folder())
    one = found["choices"][0]
    assert (one["method"], one["gain"], one["seconds"]["auto"]) == ("direct", 2.0, 2e-3) and one["environment"][
        "device"
    ]
    assert replk_probe("tune", "--clear").stdout == f"Removed {len(direct)} stored choices.\n"
    assert "tuning" not in replk_probe("info").stdout


def test_the_command_says_that_nothing_is_large_enough(replk_probe: Run) -> None:
    done = replk_probe("tune", "--model", "replknet_micro_k3", "--device", "cpu", "--force")
    assert "The largest kernel of the network is 3x3." in " ".join(done.stderr.split()) and done.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "No model was given."),
        (("--force",), "No model was given."),
        (("--clear", "--model", "resnet18"), "--clear takes no other options."),
        (("--clear", "--force"), "--clear takes no other options."),
        (("--model", "resnet18", "--size", "1x2x3"), "Cannot parse size '1x2x3'."),
        (("--model", "replknet_micro_k3", "--channels", "4", "--force"), "Its first layer takes 3 channels, not 4."),
    ],
)
def test_arguments_of_the_command(replk_probe: Run, arguments: tuple[str, ...], says: str) -> None:
    done = replk_probe("tune", *arguments)
    assert done.exit_code == 1 and says in done.stderr


def test_a_size_that_a_network_does_not_accept_is_explained(replk_probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("Kernel size can't be greater than actual input size")

    monkeypatch.setattr(tuner, "_run_once", fail)
    done = replk_probe("tune", "--model", "replknet_micro_k3", "--device", "cpu", "--force", "--size", 8)
    assert done.exit_code == 1 and done.stderr.startswith("Error: ") and "8" in done.stderr


def test_info_says_what_a_gpu_lacks(replk_probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(description, "cudnn_version", lambda: "none")
    monkeypatch.setattr(description, "triton_version", lambda: None)
    text = " ".join(replk_probe("info").stdout.split())
    assert "GPU none, cuDNN none not available: torch finds no NVIDIA GPU (" in text
    assert "there is no cuDNN; Triton is not installed" in text
    found = json.loads(replk_probe("info", "--json").stdout)["tuning"]
    assert found["gpu"] is None and found["triton"] is None and len(found["missing"]) == 3


def test_info_says_why_triton_cannot_be_imported(replk_probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "triton_version", lambda: "3.8.0")
    monkeypatch.setattr(description, "triton_version", lambda: "3.8.0")
    monkeypatch.delitem(sys.modules, "replk_probe.ops.methods.toeplitz_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)  # an import raises an error
    text = "Triton 3.8.0 cannot be imported: ModuleNotFoundError: import of triton halted; None in sys.modules"
    assert text in " ".join(replk_probe("info").stdout.split())
    assert json.loads(replk_probe("info", "--json").stdout)["tuning"]["missing"][-1] == text


def test_info_counts_damaged_files(replk_probe: Run) -> None:
    default_folder().mkdir(parents=True)
    (default_folder() / ("0" * 32 + ".json")).write_text("[" * 100_000)
    text = " ".join(replk_probe("info").stdout.split())
    assert "tuning 0 choices in" in text and "1 stored file cannot be read; these choices are measured again" in text
    assert json.loads(replk_probe("info", "--json").stdout)["tuning"]["unreadable"] == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("REPLK_PROBE_METHOD", "aten", "REPLK_PROBE_METHOD=aten forces a method"),
        ("REPLK_PROBE_ISA", "portable", "REPLK_PROBE_ISA=portable forces an instruction set"),
        ("REPLK_PROBE_METHOD", "auto", None),
        ("REPLK_PROBE_ISA", "", None),
    ],
)
def test_what_the_environment_forces(
    monkeypatch: pytest.MonkeyPatch, direct: list[ConvProblem], name: str, value: str, says: str | None
) -> None:
    monkeypatch.setenv(name, value)
    assert device.TorchDevice(torch.device("cpu")).forced == says
    if says is None:
        return
    found = ops.tune(Network(), torch.randn(1, 3, 8, 8), force=True)
    assert (found.convolutions, found.reason) == ((), f"{says}.")
    assert direct == [] and not choices.state.active and not default_folder().exists()


def test_the_method_that_the_library_chooses_is_named(native: ops.NativeInfo) -> None:
    problem = ConvProblem("forward", "float32", False, 1, 8, 16, 16, 13, 13)
    chosen = ops.planned_method((1, 8, 16, 16), 13).method
    found = device.TorchDevice(torch.device("cpu")).methods(problem)
    assert found[chosen] == f"auto computes this convolution by {chosen}"


def test_info_lists_the_first_of_many_choices(replk_probe: Run, tmp_path: Path) -> None:
    for size in range(1, 24):
        problem = ConvProblem("forward", "float32", False, 1, 8, size, size, 31, 31)
        write_choice(default_folder(), {"device": "A card"}, problem, Choice("aten", "no other method is faster"))
    text = " ".join(replk_probe("info").stdout.split())
    assert text.count("no other method is faster") == 20 and "and 3 more, see --json" in text
    assert text.count("on A card:") == 1 and "times the speed" not in text
