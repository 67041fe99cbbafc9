"""`replk-probe behaviour`: its files, its words, its errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from replk_probe.behaviour import BehaviourResult, Trials
from replk_probe.behaviour.raw_data import raw_path, trials_csv
from replk_probe.shape_bias.stimuli.names import CATEGORIES

Run = Callable[..., Result]

FILES = {
    "behaviour.json",
    "behaviour.npz",
    "behaviour.csv",
    *(f"{stem}.{suffix}" for stem in ("benchmark", "sets", "consistency") for suffix in ("png", "pdf")),
}
NETWORKS = '''
import torch
from torch import nn

class Red(nn.Module):
    """A classifier of red alone: output k is higher, the closer the mean red of the picture is to k sixteenths."""
    at = None
    calls = 0

    def __init__(self):
        super().__init__()
        self.color = nn.Parameter(torch.linspace(-2, 2, 16))

    def forward(self, x):
        if torch.is_tensor(x) and x.shape[0] == 5:
            if Red.calls == Red.at:
                raise KeyboardInterrupt
            Red.calls += 1
        return -(x[:, 0].mean((1, 2))[:, None] - self.color).square()

class Green(Red):
    def forward(self, x):
        return super().forward(x[:, 1:])

def red(): return Red()
def green(): return Green()
'''
OPTIONS = ("--size", 32, "--device", "cpu", "--workers", 0, "--batch-size", 5, "--allow-partial")


@pytest.fixture
def networks(tmp_path: Path) -> str:
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return str(path)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Ten images of the set edge, and eight of rotation."""
    random = np.random.default_rng(0)
    names = [f"edge/{category}/{category}1.png" for category in CATEGORIES[:10]]
    names += [
        f"rotation/dnn/session-1/000{index}_rot_dnn_{level}_cat_20_n00000001_{index}.png"
        for index, level in enumerate(("0", "90", "180", "270") * 2)
    ]
    for name in names:
        path = tmp_path / "sets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (1, 1, 3), dtype=np.uint8)).resize((32, 32)).save(path)
    return tmp_path / "sets"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Raw data of three people on these sets."""
    random = np.random.default_rng(1)
    for number in (1, 2, 3):
        observer = f"subject-0{number}"
        names = [f"{category}1.png" for category in CATEGORIES[:10]]
        answers = [CATEGORIES[index] for index in random.integers(0, 3, 10)]
        edge = Trials.from_names(observer, "edge", names, answers, CATEGORIES[:10])
        names = [
            f"0_rot_s01_{level}_cat_20_n00000001_{index}.png"
            for index, level in enumerate(("0", "90", "180", "270") * 2)
        ]
        answers = [("cat", "dog")[index] for index in random.integers(0, 2, 8)]
        for one in (edge, Trials.from_names(observer, "rotation", names, answers)):
            path = tmp_path / raw_path(one.observer, one.dataset)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(trials_csv(one))
    return tmp_path / "raw-data"


def test_two_networks_and_people(
    replk_probe: Run, networks: str, sets: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models = ("--model", "networks.py:red", "--model", "networks.py:green")
    out = tmp_path / "out"
    found = replk_probe("behaviour", *models, "--data", sets, "--import", people, *OPTIONS, "-o", out)
    assert found.exit_code == 0, found.output
    assert "36 decisions in" in found.stderr
    assert max(map(len, found.stdout.splitlines())) <= 110
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert len(folders) == 2
    green, red = (BehaviourResult.load(folder) for folder in folders)
    for folder in folders:
        assert {path.name for path in folder.iterdir()} >= FILES | {"images.png", "raw-data"}
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        name for name in FILES if name[-4:] in (".png", ".pdf")
    }
    assert [one.name for one in red.networks] == ["red", "green"] and [one.name for one in green.networks] == [
        "green",
        "red",
    ]
    # Each result has the same numbers of both, among them the rank.
    for name in ("red", "green"):
        ranks = [one.mean_rank for result in (red, green) for one in result.overall if one.name == name]
        assert ranks[0] == ranks[1]
        assert red.scores(name) == green.scores(name)
        # Tables have the names as they were given, files for the toolbox the short ones.
        assert f"\nnetworks.py:{name} " in found.stdout and f"\n{name} " not in found.stdout
    assert red.people == green.people
    record = json.loads((folders[0] / "behaviour.json").read_text())
    assert [*record["sets"]] == ["edge", "rotation"] and record["run"]["image_source"] == "edge, rotation"
    rows = list(csv.DictReader((folders[0] / "behaviour.csv").read_text().splitlines()))
    assert {row["set"] for row in rows} == {"all", "edge", "rotation"}


def test_an_interrupted_command_is_resumed(replk_probe: Run, networks: str, sets: Path, tmp_path: Path) -> None:
    line = ["behaviour", "--model", f"{networks}:red", "--data", sets, *OPTIONS]
    whole = replk_probe(*line, "-o", tmp_path / "whole")
    assert whole.exit_code == 0
    path = Path(networks)
    path.write_text(NETWORKS.replace("at = None", "at = 1"))
    out = tmp_path / "out"
    stopped = replk_probe(*line, "-o", out)
    assert stopped.exit_code == 130 and "--resume" in stopped.stderr
    path.write_text(NETWORKS)
    resumed = replk_probe(*line, "-o", out, "--resume")
    assert resumed.exit_code == 0
    for name in ("behaviour.npz", "behaviour.csv", "raw-data/edge/edge_red_session-1.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (out / "behaviour.ckpt").exists()
    assert "already measured" in replk_probe(*line, "-o", out, "--resume").stderr
    other = replk_probe(*line, "--sets", "edge", "-o", out, "--resume")
    assert other.exit_code == 1 and "Give --sets 'edge, rotation', or start again without --resume" in other.stderr


def test_a_finished_result_keeps_the_people_it_was_compared_with(
    replk_probe: Run, networks: str, sets: Path, people: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = ["behaviour", "--model", f"{networks}:red", "--data", sets, *OPTIONS, "-o", out]
    assert replk_probe(*line, "--import", people).exit_code == 0
    written = (out / "behaviour.json").read_bytes()
    refused = replk_probe(*line, "--resume")
    assert refused.exit_code == 1 and "Give --import with the folder raw-data, or start again" in refused.stderr
    assert (out / "behaviour.json").read_bytes() == written
    again = replk_probe(*line, "--import", people, "--resume")
    assert again.exit_code == 0 and "already measured" in again.stderr
    assert (out / "behaviour.json").read_bytes() == written


def test_only_imported(replk_probe: Run, people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = replk_probe("behaviour", "--import", people, "-o", out)
    assert found.exit_code == 0 and {path.name for path in out.iterdir()} == FILES
    result = BehaviourResult.load(out)
    assert [one.name for one in result.overall] == ["subject-01", "subject-02", "subject-03"]
    assert len(result.run.to_json()["files"]) == 6
    assert "people (mean)" in found.stdout and len(found.stdout.splitlines()) <= 20
    one = replk_probe("behaviour", "--import", people, "--sets", "rotation", "-o", tmp_path / "one")
    assert [each.name for each in BehaviourResult.load(tmp_path / "one").sets] == ["rotation"]
    assert one.exit_code == 0
    (people / "sketch").mkdir()
    skipped = replk_probe("behaviour", "--import", people, "-o", tmp_path / "skipped")
    assert skipped.exit_code == 0 and "Skipped the folder sketch" in skipped.stderr
    assert len(BehaviourResult.load(tmp_path / "skipped").sets) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Neither --model nor --import was given"),
        (("--import", "raw-data", "--size", 32), "--size was given with --import but without --model"),
        (("--sets", "edges", "--import", "raw-data"), "Unknown set 'edges'"),
        (("--import", "nothing"), "does not exist"),
        (
            ("--import", "empty"),
            "The folders of sets in it have no .csv file. Give the folder raw-data of model-vs-human, or one of its "
            "folders, such as raw-data/contrast.",
        ),
        (
            ("--import", "raw-data", "--sets", "edge,contrast"),
            "no raw data for the set contrast, but for edge, rotation",
        ),
        (("--model", "resnet18", "--sets", "sketch"), "Cannot find the set sketch in the cache"),
        (("--model", "resnet18", "--data", "raw-data"), "No image in the folder"),
    ],
)
def test_mistakes_are_explained(
    replk_probe: Run, people: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(people.parent)
    Path("empty/edge").mkdir(parents=True)
    found = replk_probe("behaviour", *arguments)
    assert found.exit_code == 1 and message in found.stderr and found.stderr.count("\n") == 1
