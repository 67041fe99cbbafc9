"""States of unfinished runs: complete or absent, and only for the run that they belong to."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replk_probe.erf.accumulator import BlockSums, RunState
from replk_probe.errors import ResumeError
from replk_probe.runtime.atomic_files import atomic_path
from replk_probe.runtime.checkpoint import Checkpoint, ResumeWarning, difference, discard, exists
from replk_probe.runtime.locks import LOCK_NAME
from replk_probe.runtime.processes import HOST

CONFIG = {"seed": 0, "layer": None, "size": (4, 4)}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    assert store.load({"done": int}) is None and not exists(store.folder)
    store.save({"done": 1}, {"a": np.arange(3.0), "b": np.eye(2)})
    store.save({"done": 2}, {"a": np.arange(3.0) + 1})
    saved = Checkpoint(tmp_path / "ckpt", CONFIG).load({"done": int})
    assert saved is not None and saved.state == {"done": 2}
    assert saved.arrays["a"].tolist() == [1, 2, 3] and saved.arrays["b"].tolist() == [[1, 0], [0, 1]]
    names = sorted(path.name for path in (tmp_path / "ckpt").iterdir())
    assert names == [LOCK_NAME, "a.1.npy", "a.2.npy", "b.1.npy", "previous.json", "state.json"]
    store.save({"done": 3}, {"a": np.arange(3.0)})
    names = sorted(path.name for path in (tmp_path / "ckpt").iterdir())
    assert names == [LOCK_NAME, "a.2.npy", "a.3.npy", "b.1.npy", "previous.json", "state.json"], "two states are kept"
    discard(tmp_path / "ckpt")
    assert not (tmp_path / "ckpt").exists()
    discard(tmp_path / "ckpt")


def test_a_process_killed_between_arrays_and_state_leaves_the_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    store.save({"done": 1}, {"a": np.zeros(2)})
    with monkeypatch.context() as patch:
        patch.setattr("replk_probe.runtime.checkpoint.atomic_write_text", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.save({"done": 2}, {"a": np.ones(2)})
    again = Checkpoint(tmp_path / "ckpt", CONFIG)
    saved = again.load({"done": int})
    assert saved is not None and saved.state == {"done": 1} and saved.arrays["a"].tolist() == [0, 0]
    again.save({"done": 2}, {"a": np.ones(2)})
    assert again.load({"done": int}) is not None


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "ckpt", CONFIG).save({"done": 0})
    other = Checkpoint(tmp_path / "ckpt", {**CONFIG, "seed": 1}, {"seed"})
    with pytest.raises(ResumeError, match=r"created with seed 0, but this run has seed 1\. Give seed 0"):
        other.load({"done": int})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        '{"schema_version": 9}',
        "[" * 100_000,
        '{"schema_version": 3, DIGESTS "version": 1, "config": {}, "state": {"done": NaN}, "arrays": {}}',
        '{"schema_version": 3, DIGESTS "version": "1", "config": {}, "state": {"done": 0}, "arrays": {}}',
        '{"schema_version": 3, DIGESTS "version": 1, "config": [], "state": {"done": 0}, "arrays": {}}',
        '{"schema_version": 3, DIGESTS "version": 1, "config": {}, "state": {"done": 0}, "arrays": {"a": 3}}',
        '{"schema_version": 3, DIGESTS "version": 1, "config": {}, "state": {"done": "0"}, "arrays": {}}',
        '{"schema_version": 3, DIGESTS "version": 1, "config": {}, "state": {}, "arrays": {}}',
    ],
)
def test_a_damaged_state_is_an_error(tmp_path: Path, content: str) -> None:
    store = Checkpoint(tmp_path, CONFIG)
    (tmp_path / "state.json").write_text(content.replace("DIGESTS", '"environment": {}, "sha256": {}, "digest": "",'))
    with pytest.raises(ResumeError, match=r"Its state is damaged\. .*state\.json"):
        store.load({"done": int})


def test_a_missing_array_is_an_error(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    store.save({"done": 0}, {"a": np.zeros(2)})
    next((tmp_path / "ckpt").glob("*.npy")).unlink()
    with pytest.raises(ResumeError, match="damaged"):
        store.load({"done": int})


def header(shape: str, kind: str = "'<f8'") -> bytes:
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        header("(2,)") + bytes(8),
        header("(80000, 80000)"),
        header("(1,)", "'|O'") + pickle.dumps([1]),
    ],
)
def test_a_damaged_array_is_an_error(tmp_path: Path, content: bytes) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    store.save({"done": 0}, {"a": np.zeros(2)})
    path = next((tmp_path / "ckpt").glob("*.npy"))
    path.write_bytes(content)
    with pytest.raises(ResumeError, match=f"damaged.*{path.name}.*Start again without resume"):
        store.load({"done": int})


def test_a_run_that_is_not_resumed_discards_the_state(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "ckpt", CONFIG).save({"done": 1})
    assert Checkpoint(tmp_path / "ckpt", CONFIG, resume=False).load({"done": int}) is None
    assert not (tmp_path / "ckpt").exists()


def maps(index: int) -> Any:
    """The scores of an image; the second one cannot be used."""
    return "It is broken." if index == 1 else np.full((2, 2), 1.1) ** index


def restored(folder: Path) -> tuple[bytes, list[str], list[dict[str, str]]]:
    """The result of a run that is resumed from its state."""
    state = RunState(BlockSums(len(IDS), (2, 2)))
    state.restore(Checkpoint(folder, CONFIG), IDS, len(IDS))
    for index in range(state.sums.done, len(IDS)):
        state.add(IDS[index], maps(index))
    return state.sums.mean().tobytes(), state.used, state.skipped


IDS = ["a", "b", "c", "d"]


def test_a_change_of_any_byte_is_an_error_or_harmless(tmp_path: Path) -> None:
    state, store = RunState(BlockSums(len(IDS), (2, 2)), seconds=0.5), Checkpoint(tmp_path, CONFIG)
    for first, last in ((0, 2), (2, 3), (3, 3)):
        for index in range(first, last):
            state.add(IDS[index], maps(index))
        state.save(store)
    whole = restored(tmp_path)
    # Its lock is kept, so that the states are loaded faster.
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != LOCK_NAME}
    assert {path.name for path in files} == {
        "state.json", "previous.json", "block-00.1.npy", "block-02.2.npy",
    }  # fmt: skip
    outcomes = Counter[tuple[str, str]]()
    for path, content in files.items():
        for at in range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
            outcome = "unnoticed"
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    assert restored(tmp_path) == whole
                if caught:
                    assert "is damaged, and the one before it is used" in str(caught[0].message)
                    outcome = "set aside"
            except ResumeError as error:
                assert str(tmp_path) in str(error)
                outcome = "refused"
            outcomes[path.name, outcome] += 1
            for other in tmp_path.glob("*.damaged"):
                other.unlink()
            for other in files:
                if other == path or not other.exists():
                    other.write_bytes(files[other])
    # Only spaces between entries may differ. Both states refer to all arrays.
    assert outcomes["state.json", "set aside"] > 20 * outcomes["state.json", "unnoticed"]
    assert outcomes["state.json", "refused"] == 0
    assert {outcome for name, outcome in outcomes if name == "previous.json"} == {"unnoticed"}
    assert {outcome for name, outcome in outcomes if name.endswith(".npy")} == {"refused"}


def test_a_damaged_state_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path, CONFIG)
    store.save({"done": 1}, {"a": np.zeros(1), "b": np.ones(1)})
    store.save({"done": 2}, {"a": np.ones(1)})
    (tmp_path / "a.2.npy").write_bytes((tmp_path / "a.1.npy").read_bytes())
    store = Checkpoint(tmp_path, CONFIG)
    with pytest.warns(ResumeWarning, match=r"a\.2\.npy\. Its digest .* renamed to end in \.damaged"):
        saved = store.load({"done": int})
    assert saved is not None and saved.state == {"done": 1} and saved.arrays["a"].tolist() == [0]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        LOCK_NAME, "a.1.npy", "a.2.npy.damaged", "b.1.npy", "previous.json", "state.json.damaged",
    }  # fmt: skip
    assert exists(tmp_path)
    store.save({"done": 2}, {"a": np.ones(1)})
    saved = Checkpoint(tmp_path, CONFIG).load({"done": int})
    assert saved is not None and saved.state == {"done": 2} and saved.arrays["a"].tolist() == [1]
    with pytest.warns(ResumeWarning, match="It cannot be"):
        saved = Checkpoint(tmp_path, CONFIG).load(
            {"done": int}, lambda saved: "It cannot be." if saved.state["done"] > 1 else None
        )
    assert saved is not None and saved.state == {"done": 1}
    # The state that was set aside does not count.
    saved = Checkpoint(tmp_path, CONFIG).load({"done": int})
    assert saved is not None and saved.state == {"done": 1}
    with pytest.raises(ResumeError, match=r"damaged\. It cannot be\. Start again"):
        Checkpoint(tmp_path, CONFIG).load({"done": int}, lambda saved: "It cannot be.")


OTHER = """
import sys
from replk_probe.errors import ResumeError
from replk_probe.runtime.atomic_files import atomic_path
from replk_probe.runtime.checkpoint import Checkpoint
store = Checkpoint(sys.argv[1], {"seed": 0})
store.save({"done": 1})
print("saved", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "saved\n"
        store = Checkpoint(tmp_path, {"seed": 0})
        for use in (
            lambda: store.load({"done": int}),
            lambda: store.save({"done": 2}),
            lambda: Checkpoint(tmp_path, {"seed": 0}, resume=False),
        ):
            with pytest.raises(ResumeError, match=rf"Cannot use .*in use by process {other.pid} on .*\. Wait"):
                use()
        other.kill()
    saved = store.load({"done": int})
    assert saved is not None and saved.state == {"done": 1}, "the lock ends with its process"
    store.save({"done": 2})


FULL = """
import resource, sys
import numpy as np
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_path
from replk_probe.runtime.checkpoint import Checkpoint
store = Checkpoint(sys.argv[1], {})
store.save({"done": 1}, {"a": np.zeros(1000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.save({"done": 2}, {"a": np.zeros(100_000)})
except InvalidInputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_full_disk_keeps_the_last_state(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "The disk is full" in done.stdout and "Free some space" in done.stdout and not done.stderr
    saved = Checkpoint(tmp_path, {}).load({"done": int})
    assert saved is not None and saved.state == {"done": 1} and saved.arrays["a"].shape == (1000,)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.1.npy", "state.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from replk_probe.runtime.atomic_files import atomic_path, temporary_path
temporary_path(Path(sys.argv[1])).mkdir()
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "erf.json"
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "table.csv")], check=False)
    orphans = [*tmp_path.iterdir()]
    assert len(orphans) == 2 and all(orphan.name.startswith(f".table.{HOST}-") for orphan in orphans)
    elsewhere = tmp_path / orphans[0].name.replace(f"{HOST}-", "another-")
    elsewhere.write_text("of another machine, whose processes are not known")
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not any(orphan.exists() for orphan in orphans), "whatever file they were for"
        with atomic_path(path) as other:
            assert temporary.exists(), "that of a running process is kept"
            other.write_text("other")
    elsewhere.unlink()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("erf.json", "whole")]


def test_a_size_in_advice_can_be_typed(tmp_path: Path) -> None:
    Checkpoint(tmp_path, {"size": (64, 64)}).save({})
    with pytest.raises(ResumeError, match=r"created with size 64, but this run has size 32x96\. Give size 64, or"):
        Checkpoint(tmp_path, {"size": (32, 96)}, {"size"}).load({})


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("sets", "edge, contrast", "sets 'edge, contrast'"),
        ("suppressions", ["grayscale", "patch-shuffle:4"], "suppressions 'grayscale,patch-shuffle:4'"),
        ("mean", [0.5, 0.25, 1], "mean 0.5,0.25,1"),
        ("position", "3,4", "position 3,4"),
        ("bgr", True, "bgr"),
        ("suppressions", [f"patch-shuffle:{count}" for count in range(2, 9)], "the same suppressions"),
        ("data", "folder:photos", "the same data"),
        ("rule", {"name": "own"}, "the same rule"),
        ("layer", "stages.3 (input)", "layer 'stages.3'"),
    ],
)
def test_a_value_in_advice_can_be_typed(name: str, value: object, advice: str) -> None:
    found = difference([name], {name: value}, {name: None}, {name}, allow_other_device=False)
    assert found is not None and f" Give {advice}, or start again without resume" in found
    assert "[" not in found and '"' not in found
