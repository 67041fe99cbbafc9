"""The counts that the package ships against the raw data they were taken from."""

from __future__ import annotations

from pathlib import Path

import pytest

from replk_probe.shape_bias.model_vs_human.raw_data import read_folder
from replk_probe.shape_bias.observers import analyze
from replk_probe.shape_bias.published import TITLES, published_observers


def test_the_published_shape_biases() -> None:
    found = {one.name: one.counts.overall for one in published_observers()}
    assert [round(100 * found[name], 1) for name in ("humans", "alexnet", "vgg", "googlenet", "resnet50")] == [
        95.9,
        42.9,
        17.2,
        31.2,
        22.1,
    ]
    assert set(TITLES) < set(found)
    assert sum(one.kind == "human" for one in published_observers()) == 10


def test_shipped_counts_are_those_of_the_raw_data(data_dir: Path) -> None:
    counted = analyze(read_folder(data_dir / "raw-data" / "cue-conflict"))
    shipped = published_observers()
    assert [one.name for one in shipped] == [one.name for one in counted]
    for ours, theirs in zip(shipped, counted, strict=True):
        assert (ours.kind, ours.counts, ours.ci95, ours.bootstrap) == (
            theirs.kind,
            theirs.counts,
            theirs.ci95,
            theirs.bootstrap,
        )
        assert ours.consistency.mean_human == pytest.approx(theirs.consistency.mean_human, rel=0, abs=5e-7)
        assert not ours.consistency.by_observer
