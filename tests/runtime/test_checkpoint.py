"""States of unfinished runs: complete or absent, and only for the run that they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replk_probe.errors import ResumeError
from replk_probe.runtime.checkpoint import Checkpoint, discard, exists

CONFIG = {"seed": 0, "layer": None, "size": (4, 4)}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    assert store.load() is None and not exists(store.folder)
    store.save({"done": 1}, {"a": np.arange(3.0), "b": np.eye(2)})
    store.save({"done": 2}, {"a": np.arange(3.0) + 1})
    saved = Checkpoint(tmp_path / "ckpt", CONFIG).load()
    assert saved is not None and saved.state == {"done": 2}
    assert saved.arrays["a"].tolist() == [1, 2, 3] and saved.arrays["b"].tolist() == [[1, 0], [0, 1]]
    assert len(list((tmp_path / "ckpt").iterdir())) == 3, "arrays of older states are removed"
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
    saved = again.load()
    assert saved is not None and saved.state == {"done": 1} and saved.arrays["a"].tolist() == [0, 0]
    again.save({"done": 2}, {"a": np.ones(2)})
    assert again.load() is not None


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "ckpt", CONFIG).save({})
    other = Checkpoint(tmp_path / "ckpt", {**CONFIG, "seed": 1}, {"seed": "--seed"})
    with pytest.raises(ResumeError, match=r"created with seed 0, but this run has seed 1\. Pass --seed 0"):
        other.load()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema_version": 9}'])
def test_a_damaged_state_is_an_error(tmp_path: Path, content: str) -> None:
    store = Checkpoint(tmp_path, CONFIG)
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ResumeError, match="damaged"):
        store.load()


def test_a_missing_array_is_an_error(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path / "ckpt", CONFIG)
    store.save({}, {"a": np.zeros(2)})
    next((tmp_path / "ckpt").glob("*.npy")).unlink()
    with pytest.raises(ResumeError, match="damaged"):
        store.load()
