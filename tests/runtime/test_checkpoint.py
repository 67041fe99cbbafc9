"""States of unfinished runs: complete or absent, and only for the run that they belong to."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from replk_probe.errors import ResumeError
from replk_probe.runtime.atomic_files import atomic_path
from replk_probe.runtime.checkpoint import Checkpoint, discard, exists
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
    assert names == ["a.2.npy", "b.1.npy", "lock", "state.json"], "arrays of older states are removed"
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
        '{"schema_version": 2, DIGESTS "version": 1, "config": {}, "state": {"done": NaN}, "arrays": {}}',
        '{"schema_version": 2, DIGESTS "version": "1", "config": {}, "state": {"done": 0}, "arrays": {}}',
        '{"schema_version": 2, DIGESTS "version": 1, "config": [], "state": {"done": 0}, "arrays": {}}',
        '{"schema_version": 2, DIGESTS "version": 1, "config": {}, "state": {"done": 0}, "arrays": {"a": 3}}',
        '{"schema_version": 2, DIGESTS "version": 1, "config": {}, "state": {"done": "0"}, "arrays": {}}',
        '{"schema_version": 2, DIGESTS "version": 1, "config": {}, "state": {}, "arrays": {}}',
    ],
)
def test_a_damaged_state_is_an_error(tmp_path: Path, content: str) -> None:
    store = Checkpoint(tmp_path, CONFIG)
    (tmp_path / "state.json").write_text(content.replace("DIGESTS", '"sha256": {}, "digest": "",'))
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


def test_a_change_of_any_byte_is_an_error(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    store.save({"done": 1}, {"a": np.arange(4.0)})
    for path in ((tmp_path / "ckpt" / "state.json"), (tmp_path / "ckpt" / "a.1.npy")):
        content = path.read_bytes()
        for at in range(0, len(content), 7 if path.suffix == ".json" else 1):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            try:
                saved = Checkpoint(tmp_path / "ckpt", CONFIG).load({"done": int})
            except ResumeError:
                continue
            assert saved is not None and saved.state == {"done": 1}, "only spaces between entries may differ"
            assert saved.arrays["a"].tolist() == [0, 1, 2, 3] and path.suffix == ".json"
        path.write_bytes(content)
    state = json.loads((tmp_path / "ckpt" / "state.json").read_text())
    state["state"]["done"] = -1
    (tmp_path / "ckpt" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ResumeError, match="its digest does not match its content"):
        Checkpoint(tmp_path / "ckpt", CONFIG).load({"done": int})


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
            with pytest.raises(ResumeError, match=r"Cannot use .*Another process is measuring into it\. Wait"):
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.1.npy", "lock", "state.json"]


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
