"""`replk-probe data fetch|verify`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from replk_probe.behaviour import download_sets
from replk_probe.shape_bias.stimuli.cue_conflict import cue_conflict_dir

Run = Callable[..., Result]


def test_fetch_prints_the_folder_alone_on_stdout(
    replk_probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def fetch(url: str, **options: object) -> Path:
        asked.append(options)
        return tmp_path

    monkeypatch.setattr(download_sets, "fetch_cue_conflict", fetch)
    result = replk_probe("data", "fetch", "cue-conflict", "--force", "--connect-timeout", "3")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}\n")
    assert "license: CC-BY-4.0" in result.stderr and "github.com/bethgelab/model-vs-human" in result.stderr
    assert asked == [{"force": True, "connect_timeout": 3.0, "show_progress": True}]


def test_fetch_offline(replk_probe: Run) -> None:
    result = replk_probe("data", "fetch", "cue-conflict")
    assert result.exit_code == 1
    assert "Cannot fetch the cue-conflict stimuli from github.com" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_fetch_an_unknown_set(replk_probe: Run) -> None:
    result = replk_probe("data", "fetch", "edge", "sketches")
    assert result.exit_code == 2 and "Unknown set 'sketches' (similar: sketch)" in result.stderr


def test_terms_are_asked_for_before_the_first_download(
    replk_probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(download_sets, "fetch_cue_conflict", lambda url, **options: asked.append(url) or tmp_path)
    monkeypatch.setattr(download_sets, "fetch_set", lambda name, *more, **options: asked.append(name) or tmp_path)
    refused = replk_probe("data", "fetch", "all")
    assert refused.exit_code == 1 and not asked and len(refused.stderr.splitlines()) == 1
    assert "Nothing was downloaded. The images of stylized, colour, " in refused.stderr
    assert "repeat this with --accept-license." in refused.stderr
    assert replk_probe("data", "fetch", "edge", "edge,rotation", "--accept-license").exit_code == 0
    assert asked == ["edge", "rotation"]
    # They have been accepted.
    assert replk_probe("data", "fetch", "all").exit_code == 0 and len(asked) == 2 + 17


def test_names_of_sets_to_verify_are_separated_by_commas(replk_probe: Run) -> None:
    result = replk_probe("data", "verify", "edge", "sketch")
    assert result.exit_code == 1 and "Separate the names of sets by commas: 'edge,sketch'." in result.stderr


def test_verify_a_folder_without_the_name_of_its_set(replk_probe: Run, tmp_path: Path) -> None:
    done = replk_probe("data", "verify", tmp_path)
    assert done.exit_code == 2 and "is a folder. The first argument is the name of a set" in done.stderr


def test_verify_what_was_not_fetched(replk_probe: Run) -> None:
    result = replk_probe("data", "verify", "cue-conflict")
    assert result.exit_code == 1
    assert "not in the cache" in result.stderr and "replk-probe data fetch cue-conflict" in result.stderr


def test_verify_a_folder_that_is_not_there(replk_probe: Run, tmp_path: Path) -> None:
    result = replk_probe("data", "verify", "cue-conflict", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "does not exist" in result.stderr


def test_verify_the_real_stimuli(replk_probe: Run, data_dir: Path) -> None:
    folder = data_dir / "cue-conflict"
    result = replk_probe("data", "verify", "cue-conflict", folder)
    assert result.exit_code == 0
    assert result.stdout == f"{folder}: The stimuli are the 1280 of the published cue-conflict set.\n"
    facts = json.loads(replk_probe("data", "verify", "cue-conflict", folder, "--json").stdout)
    assert (facts["folder"], facts["same"], facts["missing"]) == (str(folder), 1280, [])


def test_verify_a_part_of_the_real_stimuli_in_the_cache(replk_probe: Run, data_dir: Path) -> None:
    shutil.copytree(data_dir / "cue-conflict" / "oven", cue_conflict_dir() / "oven")
    result = replk_probe("data", "verify", "cue-conflict", "--json")
    assert result.exit_code == 1
    assert "1200 missing (airplane/airplane1-bicycle2.png, " in result.stderr and "and 1197 more" in result.stderr
    assert "allow_partial" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["same"], len(facts["missing"])) == (80, 1200)
    # That is of use for the set in the cache alone.
    own = replk_probe("data", "verify", "cue-conflict", data_dir / "cue-conflict" / "oven")
    assert own.exit_code == 1
    assert "give the folder itself as the stimuli" in own.stderr and "allow_partial" not in own.stderr
