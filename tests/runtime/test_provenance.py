from __future__ import annotations

import json
from dataclasses import replace

import pytest

from replk_probe import __version__
from replk_probe.runtime.file_reading import decode
from replk_probe.runtime.provenance import RANDOM_INIT, HeadInfo, RunInfo, WeightsInfo, software_versions

RUN = RunInfo(
    model="replknet31b",
    weights=WeightsInfo(source="file:a.pth", sha256="ab" * 32, form="train", wrapper="model", dropped=("head.x",)),
    image_source="folder:photos",
    image_ids=("a/1.jpg", "b/2.jpg"),
    input_size=(1024, 768),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    seed=3,
    device="cpu",
    precision="fp32",
    backend="torch",
    seconds=1.5,
    skipped=({"id": "c/3.jpg", "reason": "not an image"},),
    config={"thresholds": [0.2, 0.5]},
)


def test_a_record_is_unchanged_by_json() -> None:
    assert decode(RunInfo, json.loads(json.dumps(RUN.to_json()))) == RUN


def test_random_weights_are_prominent() -> None:
    random = WeightsInfo(source=RANDOM_INIT, seed=7)
    assert random.is_random
    assert random.label == "RANDOM WEIGHTS (seed 7)"
    assert WeightsInfo(source=RANDOM_INIT).label == "RANDOM WEIGHTS"


def test_weights_from_a_file_are_named_with_their_digest() -> None:
    assert not RUN.weights.is_random
    assert RUN.weights.label == "file:a.pth [abababab]"
    assert replace(RUN.weights, wrapper="model").label == RUN.weights.label
    assert replace(RUN.weights, wrapper="model_ema").label == "file:a.pth, model_ema [abababab]"


def test_versions_name_what_decides_the_numbers() -> None:
    versions = software_versions()
    assert versions["replk-probe"] == __version__
    assert {"python", "torch", "torchvision", "timm", "numpy"} <= set(versions)


def test_results_from_before_heads_can_be_read() -> None:
    record = RUN.to_json()
    del record["weights"]["head"]
    assert decode(RunInfo, json.loads(json.dumps(record))) == RUN
    del record["weights"]["seed"]
    with pytest.raises(ValueError, match="it lacks 'seed'"):
        decode(RunInfo, record)


def test_heads_are_part_of_the_provenance() -> None:
    linear = HeadInfo("linear", "file:head.safetensors", "0123456789", 10)
    text = HeadInfo("text", "text tower", "abcdefabcd", 2, ("cat", "dog"), ("a {}.",), 4.6, 0.0)
    weights = WeightsInfo("timm:a1_in1k", head=linear)
    assert weights.label == "timm:a1_in1k, linear head file:head.safetensors [01234567]"
    run = replace(RUN, weights=replace(weights, head=text))
    assert decode(RunInfo, json.loads(json.dumps(run.to_json()))) == run
    assert run.weights.label.endswith("zero-shot with 2 class names in 1 template [abcdefab]")
