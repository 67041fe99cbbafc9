"""States of unfinished runs: complete or absent, and only for the run that they belong to."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from replk_probe.errors import ResumeError
from replk_probe.runtime.checkpoint import Checkpoint, discard, exists

CONFIG = {"seed": 0, "layer": None, "size": (4, 4)}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    assert store.load({"done": int}) is None and not exists(store.folder)
    store.save({"done": 1}, {"a": np.arange(3.0), "b": np.eye(2)})
    store.save({"done": 2}, {"a": np.arange(3.0) + 1})
    saved = Checkpoint(tmp_path / "ckpt", CONFIG).load({"done": int})
    assert saved is not None and saved.state == {"done": 2}
    assert saved.arrays["a"].tolist() == [1, 2, 3] and saved.arrays["b"].tolist() == [[1, 0], [0, 1]]
    assert len(list((tmp_path / "ckpt").iterdir())) == 3, "arrays of older states are removed"
    discard(tmp_path / "ckpt")
    assert not (tmp_path / "ckpt").exists()
    discard(tmp_path / "ckpt")


def test_a_process_that_dies_between_arrays_and_state_leaves_the_older_state(
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
        '{"schema_version": 1, "version": 1, "config": {}, "state": {"done": NaN}, "arrays": {}}',
        '{"schema_version": 1, "version": "1", "config": {}, "state": {"done": 0}, "arrays": {}}',
        '{"schema_version": 1, "version": 1, "config": [], "state": {"done": 0}, "arrays": {}}',
        '{"schema_version": 1, "version": 1, "config": {}, "state": {"done": 0}, "arrays": {"a": 3}}',
        '{"schema_version": 1, "version": 1, "config": {}, "state": {"done": "0"}, "arrays": {}}',
        '{"schema_version": 1, "version": 1, "config": {}, "state": {}, "arrays": {}}',
    ],
)
def test_a_damaged_state_is_an_error(tmp_path: Path, content: str) -> None:
    store = Checkpoint(tmp_path, CONFIG)
    (tmp_path / "state.json").write_text(content)
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
