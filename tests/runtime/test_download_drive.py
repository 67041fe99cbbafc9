"""Downloads from Google Drive, with a stand-in for gdown."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from replk_probe.errors import WeightsError
from replk_probe.runtime import download
from replk_probe.runtime.download import fetch_drive, is_intact, noted_digest

CONTENT = bytes(range(256)) * 8
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_drive_without_gdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(WeightsError, match=r"with: pip install gdown \(or"):
        fetch_drive("id", tmp_path / "w")


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for gdown that writes ``content``, or raises ``error``."""
    state: dict[str, Any] = {"content": CONTENT, "times": 0}

    def fake(*, id: str, output: str, quiet: bool) -> str:
        if "error" in state:
            raise state["error"]
        state["id"] = id
        state["times"] += 1
        Path(output).write_bytes(state["content"])
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=fake))
    monkeypatch.setattr(download, "check_reachable", lambda *_: None)
    return state


def test_drive_file(tmp_path: Path, drive: dict[str, Any]) -> None:
    assert fetch_drive("some-id", tmp_path / "w", DIGEST).read_bytes() == CONTENT
    assert drive["id"] == "some-id"
    assert leftovers(tmp_path) == ["w", "w.sha256"]
    assert (tmp_path / "w.sha256").read_text() == f"{DIGEST}  w\n"
    fetch_drive("some-id", tmp_path / "w")
    assert drive["times"] == 1


def test_drive_file_damaged_since_it_was_fetched(tmp_path: Path, drive: dict[str, Any]) -> None:
    path = fetch_drive("some-id", tmp_path / "w")
    path.write_bytes(CONTENT[:-1])
    assert not is_intact(path)
    assert fetch_drive("some-id", path).read_bytes() == CONTENT
    assert drive["times"] == 2 and is_intact(path)


def test_drive_file_put_there_by_hand(tmp_path: Path, drive: dict[str, Any]) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"mine")
    (tmp_path / "w.sha256").write_text("no digest at all")
    assert fetch_drive("some-id", path).read_bytes() == b"mine"
    assert fetch_drive("some-id", path, force=True).read_bytes() == CONTENT
    assert noted_digest(path) == DIGEST


def test_drive_failure_keeps_the_old_file_and_its_digest(tmp_path: Path, drive: dict[str, Any]) -> None:
    path = fetch_drive("some-id", tmp_path / "w")
    drive["content"] = b"<html>Quota exceeded"
    with pytest.raises(WeightsError, match="page instead of the file"):
        fetch_drive("some-id", path, force=True)
    assert path.read_bytes() == CONTENT and noted_digest(path) == DIGEST


def test_drive_quota_page(tmp_path: Path, drive: dict[str, Any]) -> None:
    drive["content"] = b"<!DOCTYPE html><html><head><title>Quota exceeded</title>"
    with pytest.raises(WeightsError, match=r"page instead of the file.*drive\.google\.com/file/d/some-id"):
        fetch_drive("some-id", tmp_path / "w")
    assert leftovers(tmp_path) == []


def test_drive_failure_explains_the_alternative(tmp_path: Path, drive: dict[str, Any]) -> None:
    drive["error"] = RuntimeError("Too many users\nhave viewed it.")
    with pytest.raises(WeightsError, match=r"Too many users have viewed it\. Download it manually"):
        fetch_drive("some-id", tmp_path / "w")


def test_drive_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace())
    with pytest.raises(WeightsError, match=r"Cannot reach drive\.google\.com"):
        fetch_drive("some-id", tmp_path / "w")
