"""Behaviour as an analyzer of a sweep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from replk_probe.behaviour import Trials
from replk_probe.behaviour.raw_data import raw_path, trials_csv
from replk_probe.errors import InvalidInputError
from replk_probe.sweeps.analyzers import ANALYZERS, forget_files
from replk_probe.sweeps.document import read_document
from replk_probe.sweeps.job import Job
from replk_probe.sweeps.plan import plan_jobs

ANSWERS = ("cat", "dog", "bear", "car")
NETWORK = """
import torch
from torch import nn

class Red(nn.Module):
    def __init__(self):
        super().__init__()
        self.color = nn.Parameter(torch.linspace(-2, 2, 16))

    def forward(self, x):
        return -(x[:, 0].mean((1, 2))[:, None] - self.color).square()
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options of a job on four images, with a person."""
    forget_files()
    names = [f"{category}1.png" for category in ANSWERS]
    for seed, (category, name) in enumerate(zip(ANSWERS, names, strict=True)):
        path = tmp_path / "sets" / "edge" / category / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), (60 * seed, 0, 0)).save(path)
    person = Trials.from_names("subject-01", "edge", names, ANSWERS, ANSWERS)
    path = tmp_path / raw_path(person.observer, person.dataset)
    path.parent.mkdir(parents=True)
    path.write_bytes(trials_csv(person))
    (tmp_path / "net.py").write_text(NETWORK)
    data = str(tmp_path / "sets")
    return {"data": data, "sets": "edge", "import": str(tmp_path / "raw-data"), "allow_partial": True, "size": 32}


def test_described_sets(tmp_path: Path) -> None:
    """A set of images with one cue each has no decisions; a set of the package is given as NAME=FOLDER."""
    forget_files()
    (tmp_path / "one" / "shapes" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "one" / "shapes" / "cat" / "1.png")
    (tmp_path / "one" / "set.toml").write_text(
        'schema_version = 1\nname = "one"\ncues = ["shape", "texture"]\nlabels = ["cat", "dog"]\n'
        'layout = ["shapes/{shape}/{file}", "textures/{texture}/{file}"]\n'
    )
    analyzer = ANALYZERS["shape-bias"]
    options = {"stimuli": str(tmp_path / "one")}
    with pytest.raises(InvalidInputError, match=r"cannot measure one\. Each of its images has one cue"):
        analyzer.digests(options, analyzer.configure(options))
    (tmp_path / "a.toml").write_text('models = ["resnet18"]\n[shape-bias]\nstimuli = "frequency-conflict=set"\n')
    with pytest.raises(InvalidInputError, match=re.escape(f"{tmp_path}/set")):
        plan_jobs(read_document(tmp_path / "a.toml"))


def test_a_job_is_measured_beside_people(options: dict[str, Any], tmp_path: Path) -> None:
    analyzer = ANALYZERS["behaviour"]
    job = Job("0" * 16, "behaviour", f"{tmp_path}/net.py:Red", "net.py:Red", options, {})
    result = analyzer.complete(job, analyzer.plan(job).run())
    assert [one.name for one in result.overall] == ["Red", "subject-01"]  # type: ignore[attr-defined]
    assert not np.isnan(result.scores().error_consistency)  # type: ignore[attr-defined]
    assert analyzer.pixels(options, analyzer.configure(options)) == 4 * 32 * 32
    assert {*options} <= {*analyzer.options}


def test_the_digests_change_with_images_and_people(options: dict[str, Any], tmp_path: Path) -> None:
    analyzer = ANALYZERS["behaviour"]

    def digests() -> dict[str, Any]:
        forget_files()
        return analyzer.digests(options, analyzer.configure(options))

    first = digests()
    assert digests() == first
    Image.new("RGB", (32, 32), "white").save(tmp_path / "sets" / "edge" / "cat" / "cat1.png")
    second = digests()
    assert second["data"] != first["data"] and second["import"] == first["import"]
    path = next((tmp_path / "raw-data" / "edge").iterdir())
    path.write_bytes(path.read_bytes().replace(b",bear,bear,", b",car,bear,"))
    assert digests()["import"] != first["import"]
    with pytest.raises(InvalidInputError, match="not the complete set edge"):
        analyzer.digests(options, analyzer.configure(options | {"allow_partial": False}))
