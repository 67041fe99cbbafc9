"""Published raw data against the published numbers; records saved and read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.provenance import RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.model_vs_human.raw_data import read_folder
from replk_probe.shape_bias.result import ShapeBiasResult, with_distinct_names

# S, T and other of the 1200 (pooled humans: 12000), macro and median to four digits, kappa to six.
REFERENCE = {
    "humans": (9236, 398, 2366, 0.9538, 0.9657, 0.331052),
    "alexnet": (283, 376, 541, 0.3710, 0.3729, 0.113173),
    "googlenet": (228, 503, 469, 0.2896, 0.2342, 0.087454),
    "vgg": (130, 625, 445, 0.1570, 0.1043, 0.060204),
    "resnet50": (162, 572, 466, 0.1951, 0.1241, 0.067433),
}
OVERALL = {"humans": 0.958688, "alexnet": 0.429439, "googlenet": 0.311902, "vgg": 0.172185, "resnet50": 0.220708}
SUBJECTS = (0.961717, 0.943809, 0.967308, 0.919090, 0.963981, 0.976000, 0.940810, 0.957688, 0.986603, 0.958861)

RUN = RunInfo(
    model="torchvision:tiny_net",
    weights=WeightsInfo("random-init", seed=0),
    image_source="folder:stimuli",
    image_ids=("bear1-cat1.png",),
    input_size=(224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    seed=0,
    device="cpu",
    precision="fp32",
    backend="torch",
    seconds=1.0,
)
NAMES = ("bear1-cat1.png", "bear2-bear1.png", "cat10-bear1.png", "cat2-dog3.png")
DECISIONS = Decisions.from_names("tiny_net", NAMES, ("bear", "bear", "bear", "oven"))


@pytest.fixture(scope="module")
def published(data_dir: Path) -> tuple[Decisions, ...]:
    return read_folder(data_dir / "raw-data" / "cue-conflict")


@pytest.mark.parametrize("name", REFERENCE)
def test_raw_data_give_the_published_numbers(published: tuple[Decisions, ...], name: str) -> None:
    shape, texture, other, macro, median, kappa = REFERENCE[name]
    observer = ShapeBiasResult.from_decisions(observers=published).observer(name)
    counts = observer.counts
    assert (counts.n_shape, counts.n_texture, counts.n_other) == (shape, texture, other)
    assert counts.na == (118 if name == "humans" else 0)
    assert counts.overall == pytest.approx(shape / (shape + texture), rel=0, abs=1e-12)
    assert round(counts.overall, 6) == OVERALL[name]
    assert (round(counts.macro, 4), round(counts.median, 4)) == (macro, median)
    assert round(observer.consistency.mean_human, 6) == kappa
    assert counts.n_conflict == (12000 if name == "humans" else 1200)
    assert counts.cue_accuracy == pytest.approx((shape + texture) / counts.n_conflict, rel=0, abs=1e-12)


def test_raw_data_give_the_published_numbers_of_each_human(published: tuple[Decisions, ...]) -> None:
    result = ShapeBiasResult.from_decisions(observers=published)
    found = [round(result.observer(f"subject-{number:02d}").counts.overall, 6) for number in range(1, 11)]
    assert tuple(found) == SUBJECTS


def test_a_model_may_have_the_name_of_an_imported_observer(published: tuple[Decisions, ...]) -> None:
    resnet = next(one for one in published if one.observer == "resnet50")
    result = ShapeBiasResult.from_decisions(resnet, observers=published)
    assert result.model is not None
    consistency = result.model.consistency
    assert consistency.by_observer["resnet50"] == 1.0
    assert consistency.mean_human == result.observers[3].consistency.mean_human


def test_other_models_of_the_run_count_for_the_error_consistency_alone() -> None:
    other = Decisions.from_names("other", NAMES, ("bear", "cat", "cat", "oven"))
    result = ShapeBiasResult.from_decisions(DECISIONS, models=[other], observers=[other])
    assert result.model is not None
    assert set(result.model.consistency.by_observer) == {"other", "other (this run)"}
    assert [one.name for one in result.observers] == ["other"]
    assert math.isnan(result.model.consistency.mean_human)


def test_the_record_has_the_documented_fields() -> None:
    humans = [DECISIONS.renamed(f"subject-0{number}") for number in (1, 2)]
    record = ShapeBiasResult.from_decisions(DECISIONS, run=RUN, observers=humans).to_json()
    assert list(record) == ["schema_version", "run", "shape_bias", "observers", "notes"]
    assert list(record["observers"]) == ["humans", "subject-01", "subject-02"]
    assert record["run"]["model"] == "torchvision:tiny_net"
    for numbers in (record["shape_bias"], *record["observers"].values()):
        assert numbers["overall"] == 0.5 == numbers["macro"] == numbers["median"]
        assert numbers["n_defined"] == 2  # each bear follows the shape, each cat the texture
        assert numbers["congruent_accuracy"] == 1.0
        assert numbers["cue_accuracy"] == 2 / 3
        assert set(numbers["by_category"]["bear"]) == {"shape", "texture", "other", "bias"}
        assert numbers["by_category"]["oven"] == {"shape": 0, "texture": 0, "other": 0, "bias": None}
    assert record["shape_bias"]["error_consistency"] == {
        "mean_human": 1.0,
        "by_observer": {"subject-01": 1.0, "subject-02": 1.0},
    }
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("with_probabilities", [True, False])
def test_what_is_saved_is_read_back(tmp_path: Path, with_probabilities: bool) -> None:
    probabilities = np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 16) if with_probabilities else None
    result = ShapeBiasResult.from_decisions(
        DECISIONS, run=RUN, probabilities=probabilities, observers=[DECISIONS.renamed("subject-01")], notes=["Random."]
    )
    result.save(tmp_path)
    loaded = ShapeBiasResult.load(tmp_path)
    assert loaded.to_json() == result.to_json()
    assert loaded.decisions == DECISIONS
    if probabilities is None:
        assert loaded.probabilities is None
    else:
        np.testing.assert_array_equal(loaded.probabilities, probabilities)
    assert {path.name for path in tmp_path.iterdir()} == {
        "shape_bias.json",
        "shape_bias.csv",
        "decisions.csv",
        "decisions.npz",
    }
    # The folder of a record is itself a folder of raw data.
    assert read_folder(tmp_path) == (DECISIONS,)


def test_equal_results_are_saved_as_equal_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        ShapeBiasResult.from_decisions(DECISIONS, run=RUN).save(tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_without_a_model_the_record_holds_observers_alone(tmp_path: Path) -> None:
    result = ShapeBiasResult.from_decisions(observers=[DECISIONS], source="import:folder")
    result.save(tmp_path)
    record = json.loads((tmp_path / "shape_bias.json").read_text())
    assert record["shape_bias"] is None
    assert record["run"]["model"] is None and record["run"]["source"] == "import:folder"
    assert record["observers"]["tiny_net"]["overall"] == 0.5
    assert math.isnan(result.shape_bias)
    assert ShapeBiasResult.load(tmp_path).to_json() == result.to_json()
    assert {path.name for path in tmp_path.iterdir()} == {"shape_bias.json", "shape_bias.csv"}


def test_a_record_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    ShapeBiasResult.from_decisions(DECISIONS, run=RUN).save(tmp_path)
    path = tmp_path / "decisions.csv"
    path.write_bytes(path.read_bytes().replace(b"oven", b"cat"))
    with pytest.raises(InvalidInputError, match=r"does not contain the decisions"):
        ShapeBiasResult.load(tmp_path)
    (tmp_path / "shape_bias.json").write_text('{"schema_version": 1, "run": {"model": null}, "shape_bias": null}')
    with pytest.raises(InvalidInputError, match="not a complete shape-bias record"):
        ShapeBiasResult.load(tmp_path)
    (tmp_path / "shape_bias.json").write_text('{"schema_version": 99}')
    with pytest.raises(InvalidInputError, match="schema version 99"):
        ShapeBiasResult.load(tmp_path)


def test_nothing_is_written_where_something_cannot_be(tmp_path: Path) -> None:
    result = ShapeBiasResult.from_decisions(DECISIONS, run=replace(RUN, config={"odd": float("nan")}))
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        result.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_decisions_of_a_result_are_of_one_model() -> None:
    with pytest.raises(InvalidInputError, match="decisions is of type list"):
        ShapeBiasResult.from_decisions([DECISIONS])  # type: ignore[arg-type]


def test_what_was_measured_is_a_model() -> None:
    human = DECISIONS.renamed("subject-99")
    for run, kind in ((RUN, "model"), (None, "human")):
        model = ShapeBiasResult.from_decisions(human, run=run).model
        assert model is not None and model.kind == kind


def test_models_of_the_same_name_are_distinguished() -> None:
    results = [
        ShapeBiasResult.from_decisions(DECISIONS.renamed(name), run=replace(RUN, model=model))
        for name, model in (("net", "net"), ("net", "torchvision:net"), ("other", "timm:other"))
    ]
    found = with_distinct_names(results)
    assert [one.model.name for one in found if one.model] == ["net", "torchvision:net", "other"]
    assert [one.decisions.observer for one in found if one.decisions] == ["net", "torchvision:net", "other"]


def test_probabilities_must_fit_the_decisions() -> None:
    with pytest.raises(InvalidInputError, match=r"shape \[3, 16\]"):
        ShapeBiasResult.from_decisions(DECISIONS, probabilities=np.zeros((3, 16), np.float32))
