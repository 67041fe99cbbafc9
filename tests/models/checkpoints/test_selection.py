"""Entries and prefixes of checkpoints, other objects beside the weights, and hostile files."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import replk_probe.models
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.models.checkpoints.load import inspect_checkpoint, load_checkpoint

State = dict[str, Tensor]


def network(seed: int = 0, classes: int = 5) -> Any:
    torch.manual_seed(seed)
    parts: Any = collections.OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), pool=nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(collections.OrderedDict(**parts, flat=nn.Flatten(), fc=nn.Linear(4, classes))).eval()


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def equal(model: nn.Module, other: nn.Module, without: str = "?") -> bool:
    theirs = other.state_dict()
    return all(torch.equal(t, theirs[n]) for n, t in model.state_dict().items() if not n.startswith(without))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


STATE, OTHER = network(1).state_dict(), network(2).state_dict()


@pytest.mark.parametrize(
    ("content", "wrapper", "prefix"),
    [
        ({"teacher": STATE, "epoch": 3}, "teacher", None),
        ({"teacher": STATE, "loss": torch.tensor(3.0)}, "teacher", None),
        ({"model_weights": STATE}, "model_weights", None),
        ({"a": {"b": STATE}, "optimizer": {"x": torch.zeros(3)}}, "a.b", None),
        ({"ema_model": STATE}, "ema_model", None),
        (under("net.", STATE), "net.", "net."),
        (under("encoder.", STATE), "encoder.", "encoder."),
        ({**under("encoder.", STATE), "decoder.weight": torch.zeros(3)}, "encoder.", "encoder."),
        ({"state_dict": under("module.", STATE)}, "state_dict", "module."),
        ({"state_dict": under("model.backbone.", STATE)}, "state_dict", "model.backbone."),
        ({"state_dict": {**under("module.encoder_q.", STATE), **under("module.encoder_k.", OTHER),
                         "module.queue": torch.zeros(3)}}, "state_dict", "module.encoder_q."),
        ({"student": {**under("module.backbone.", STATE), "module.head.mlp.0.weight": torch.zeros(2)}},
         "student", "module.backbone."),
        ({**STATE, **under("ema.", OTHER)}, None, None),
        ({**under("model.", STATE), **under("model_ema.", OTHER)}, "model.", "model."),
    ],
)  # fmt: skip
def test_prefixes_and_entries_are_found(file: Path, content: Any, wrapper: str | None, prefix: str | None) -> None:
    torch.save(content, file)
    model = network(3)
    report = replk_probe.models.load_checkpoint(model, file)
    assert equal(model, network(1))
    info = replk_probe.models.weights_info(model)
    assert (report.wrapper, report.prefix) == (info.wrapper, info.prefix) == (wrapper, prefix)


def test_momentum_encoder_and_copies_beside_the_weights_are_averages(file: Path) -> None:
    for prefix in ("module.encoder_k.", "ema."):
        plain = STATE if prefix == "ema." else under("module.encoder_q.", STATE)
        torch.save({**plain, **under(prefix, OTHER)}, file)
        model = network(3)
        report = load_checkpoint(model, file, ema=True)
        assert equal(model, network(2))
        assert report.averaged and report.wrapper == prefix


def test_ambiguous_files_list_the_candidates(file: Path) -> None:
    torch.save({"teacher": under("backbone.", OTHER), "student": under("backbone.", STATE)}, file)
    model = network(3)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(model, file)
    for part in ("entry='teacher' (9 tensors)", "entry='student' (9 tensors)"):
        assert part in str(caught.value)
    assert equal(model, network(3))
    assert load_checkpoint(model, file, entry="teacher").wrapper == "teacher"
    assert equal(model, network(2))
    load_checkpoint(model, file, entry="student", prefix="backbone.")
    assert equal(model, network(1))
    with pytest.raises(WeightsError, match=r"no entry 'net'.*teacher \(9 tensors\), student \(9 tensors\)"):
        load_checkpoint(model, file, entry="net")
    with pytest.raises(WeightsError, match=r"no tensor with the prefix 'net\.'.*backbone\. \(9\)"):
        load_checkpoint(model, file, entry="student", prefix="net.")
    with pytest.raises(WeightsError, match=r"entry='teacher' \(9 tensors\); entry='student' \(9 tensors\)"):
        inspect_checkpoint(file)
    assert inspect_checkpoint(file, entry="teacher").tensors == 9


def test_an_entry_may_hold_entries(file: Path) -> None:
    torch.save({"old": {"state": {"net": OTHER}}, "new": {"state": {"net": STATE, "ema": OTHER}}}, file)
    for options in ({"entry": "new"}, {"entry": "new.state"}, {"entry": "new.state.net"}):
        model = network(3)
        load_checkpoint(model, file, **options)
        assert equal(model, network(1))
    model = network(3)
    assert load_checkpoint(model, file, entry="new.state", ema=True).wrapper == "new.state.ema"
    assert equal(model, network(2))


@pytest.mark.parametrize("options", [{"entry": 3}, {"entry": ""}, {"prefix": b"net."}, {"ema": 1}])
def test_options_of_other_types(file: Path, options: dict[str, Any]) -> None:
    torch.save(STATE, file)
    with pytest.raises(InvalidInputError, match=f"The option {next(iter(options))} cannot be"):
        replk_probe.models.load_checkpoint(network(3), file, **options)
    with pytest.raises(InvalidInputError, match=f"The option {next(iter(options))} cannot be"):
        replk_probe.measure_erf("replknet_micro_k3", weights=file, **options)


def test_projection_head_is_dropped(file: Path) -> None:
    state = {name: value for name, value in STATE.items() if not name.startswith("fc.")}
    state |= {"fc.0.weight": torch.zeros(4, 4), "fc.2.weight": torch.zeros(9, 4)}
    torch.save(under("module.encoder_q.", state), file)
    model = network(3)
    report = load_checkpoint(model, file)
    assert (report.head, report.missing) == ("missing", ("fc.weight", "fc.bias"))
    assert equal(model, network(1), without="fc.")


class History:
    """A class of a training framework, which must not be needed to read the file."""

    def __init__(self) -> None:
        self.losses = collections.deque([1.0], maxlen=3)

    def __setstate__(self, state: object) -> None:
        raise AssertionError("the state was set")


class Settings(dict[str, Any]):
    """A dictionary with attributes."""


SETTINGS = Settings(lr=0.1)
SETTINGS.path = Path("run")  # type: ignore[attr-defined]
HARMLESS: dict[str, Any] = {
    "path": Path("run"),
    "date": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "array": np.arange(3),
    "objects": np.array([None, {"a": Path("x")}], dtype=object),
    "scalar": np.float32(1.5),
    "dtype": np.dtype("f4"),
    "random state": np.random.default_rng(1),
    "args": argparse.Namespace(lr=0.1),
    "counts": collections.Counter("ab"),
    "defaults": collections.defaultdict(list, a=[1]),
    "queue": collections.deque([1, 2], maxlen=4),
    "settings": SETTINGS,
    "set": {1, (2, 3), frozenset({4})},
    "history": History(),
    "pattern": re.compile("a"),
    "complex": 1j,
    "slice": slice(1, 2),
    "class": History,
    "function": time.time,
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", [*HARMLESS, "all"])
def test_other_objects_are_ignored(file: Path, legacy: bool, name: str) -> None:
    others = HARMLESS if name == "all" else {name: HARMLESS[name]}
    content = {"epoch": 3, **others, "model": {**STATE, "extra": others}}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    model, allowed = network(3), set(torch.serialization.get_safe_globals())
    report = load_checkpoint(model, file)
    assert (report.wrapper, report.dropped) == ("model", ("extra",))
    assert equal(model, network(1))
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_weights_in_a_dictionary_of_another_class(file: Path) -> None:
    torch.save(Settings(model=Settings(STATE)), file)
    model = network(3)
    load_checkpoint(model, file)
    assert equal(model, network(1))


@pytest.mark.filterwarnings("ignore")  # of torch, when it saves the source of a module
def test_whole_modules_are_described(file: Path) -> None:
    torch.save(network(), file)
    with pytest.raises(WeightsError, match=r"contains one torch\.nn\.modules\.container\.Sequential instead of named"):
        load_checkpoint(network(3), file)
    torch.save({"model": network(), "epoch": 1}, file)
    with pytest.raises(WeightsError, match=r"found: 'model', an object of the class torch\.nn\.modules\."):
        load_checkpoint(network(3), file)


class Call:
    """An object whose pickle is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CALLS = [
    Call(eval, "open('pwned', 'w')"),
    Call(exec, "open('pwned', 'w')"),
    Call(open, "pwned", "w"),
    Call(getattr, Call(Path, "pwned"), "touch"),
    Call(functools.partial, Call(eval, "open('pwned', 'w')")),
    Call(subprocess.check_output, ["touch", "pwned"]),
    Call(torch.load, "weights.pth"),
    Call(torch.hub.load, "a/b", "c"),
    Call(np.lib.format.open_memmap, "pwned", "w+", "f4", (1,)),
    Call(__import__, "this"),
]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_in_a_file_is_called(file: Path, monkeypatch: pytest.MonkeyPatch, call: Call, legacy: bool) -> None:
    monkeypatch.chdir(file.parent)
    content = {"more": [call], "model": STATE, "even more": {"a": call}}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    model = network(3)
    load_checkpoint(model, file)
    assert equal(model, network(1))
    assert not Path("pwned").exists() and "this" not in sys.modules


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("call", [Call(os.system, "touch pwned"), Call(os.mkdir, "pwned"), Call(sys.exit, 3)])
def test_functions_of_the_system_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, call: Call, legacy: bool
) -> None:
    monkeypatch.chdir(file.parent)
    torch.save({"model": STATE, "more": [call, Path("a")]}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"Refused to read weights\.pth\. Loading it would run (posix|sys)\."):
        load_checkpoint(network(3), file)
    assert not Path("pwned").exists()


class Numbers(list[int]):
    """A list with attributes, which torch cannot read."""


def test_what_torch_cannot_read_is_one_line(file: Path) -> None:
    numbers = Numbers([1])
    numbers.unit = "px"  # type: ignore[attr-defined]
    for content, protocol in (({"model": STATE, "more": numbers}, 2), (STATE, 4)):
        torch.save(content, file, pickle_protocol=protocol)
        with pytest.raises(WeightsError, match="objects that a state dict does not need") as caught:
            load_checkpoint(network(3), file)
        assert "\n" not in str(caught.value) and "PyTorch 2.6" not in str(caught.value)


def test_tensors_stay_inside_their_storages(file: Path) -> None:
    def rebuilt(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        values = torch.arange(4.0)
        rebuild = torch._utils._rebuild_tensor_v2
        torch.save({"w": Call(rebuild, values._typed_storage(), offset, size, stride, False, {})}, file)

    rebuilt((2, 2), (2, 1))
    assert inspect_checkpoint(file).tensors == 1
    for size, stride, offset in (
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (9, 1), 0),
        ((2,), (1,), -1),
        ((2,), (-1,), 1),
        ((-2,), (1,), 0),
        ((2, 2), (1,), 0),
        ((4,), (1,), 1 << 62),
    ):
        rebuilt(size, stride, offset)
        with pytest.raises(WeightsError, match="damaged or incomplete"):
            inspect_checkpoint(file)
    rebuilt((1 << 20, 1 << 20), (0, 0))  # 4 TB in four bytes
    with pytest.raises(WeightsError, match="w is of 1,099,511,627,776 elements"):
        inspect_checkpoint(file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: w.to_sparse(), "conv.weight is sparse"),
        (lambda w: w.flatten(1).to_sparse_csr(), "conv.weight is sparse"),
        # Since torch 2.15 it is an object of the class torch._utils._rebuild_nested_tensor.
        (lambda w: torch.nested.nested_tensor([w[0], w[1]]), "nested"),
        (lambda w: w.to("meta"), "conv.weight is on the meta device"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "conv.weight is quantized"),
        (lambda w: w.to(torch.complex64), "contains complex weights. conv.weight is torch.complex64"),
        (lambda w: torch.tensor(1.0), "conv.weight [] for [4, 3, 3, 3]"),
    ],
)
def test_unusual_tensors_are_named(file: Path, make: Callable[[Tensor], Any], message: str) -> None:
    torch.save({**STATE, "conv.weight": make(STATE["conv.weight"])}, file)
    model = network(3)
    with pytest.raises(WeightsError, match=re.escape(message)) as caught:
        load_checkpoint(model, file)
    assert "\n" not in str(caught.value)
    assert equal(model, network(3))


def test_float8_is_converted(file: Path) -> None:
    small = {n: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for n, t in STATE.items()}
    torch.save(small, file)
    model = network(3)
    load_checkpoint(model, file)
    assert torch.equal(model.conv.weight, small["conv.weight"].float())


def test_negative_variances_are_refused(file: Path) -> None:
    torch.save({**STATE, "bn.running_var": torch.tensor([1.0, 1.0, -0.1, 1.0])}, file)
    model = network(3)
    with pytest.raises(WeightsError, match=r"negative variances\. 1 tensor \(bn\.running_var\) is below zero"):
        load_checkpoint(model, file)
    assert equal(model, network(3))
    load_checkpoint(model, file, only=["conv"])  # the broken tensor is not used


def test_a_file_that_contains_itself(file: Path) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content["state_dict"] = content
    torch.save(content, file)
    with pytest.raises(WeightsError, match="contains no tensors"):
        load_checkpoint(network(), file)
    content["net"] = {"weights": STATE, "again": content}
    torch.save(content, file)
    model = network(3)
    load_checkpoint(model, file)
    assert equal(model, network(1))


def test_deep_nesting_is_bounded(file: Path) -> None:
    content: dict[str, Any] = {"weights": STATE}
    for _ in range(200):
        content = {"model": content}
    torch.save(content, file)
    with pytest.raises(WeightsError, match="contains no tensors"):
        load_checkpoint(network(), file)


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(WeightsError, match="not a regular file"):
            load_checkpoint(network(), path)
        with pytest.raises(WeightsError, match="not a regular file"):
            replk_probe.measure_kernels("replknet_micro_k3", weights=path)


def test_time_is_linear_in_the_number_of_names(file: Path) -> None:
    model = network()
    seconds = []
    for count in (2_000, 16_000):
        values = torch.zeros(count)
        torch.save({f"layer{i}.weight": values[i : i + 1] for i in range(count)}, file)
        start = time.process_time()
        with pytest.raises(WeightsError, match="does not match"):
            load_checkpoint(model, file)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * 3 * seconds[0]  # quadratic time would be 64 times as long
