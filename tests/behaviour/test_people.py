"""The published numbers of people."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from replk_probe.behaviour import BENCHMARK_SETS, BehaviourResult, Trials, published_people, read_raw_data
from replk_probe.behaviour.consistency import by_condition, pairs_of
from replk_probe.behaviour.people import digest_of_images

# Person 01 against the other people: accuracy, accuracy difference, observed and error consistency, computed apart
# from this package.
REFERENCE = {
    "edge": (0.893750, 0.010738, 0.843056, 0.253906),
    "silhouette": (0.800000, 0.006680, 0.814583, 0.474650),
    "sketch": (0.941250, 0.002519, 0.918750, 0.419648),
    "contrast": (0.616250, 0.007086, 0.770417, 0.422631),
    "low-pass": (0.668750, 0.001542, 0.798333, 0.487289),
}


@pytest.fixture(scope="module")
def raw_data(data_dir: Path) -> tuple[Trials, ...]:
    """The decisions of people and of four networks."""
    return read_raw_data(data_dir / "raw-data")


@pytest.fixture(scope="module")
def analyzed(raw_data: tuple[Trials, ...]) -> BehaviourResult:
    """All of them."""
    return BehaviourResult.from_trials(raw_data)


@pytest.mark.parametrize("dataset", REFERENCE)
def test_a_person_among_people(analyzed: BehaviourResult, dataset: str) -> None:
    found = analyzed.scores("subject-01", dataset)
    assert (found.accuracy, *found.paired) == pytest.approx(REFERENCE[dataset], abs=1e-6)


def test_the_published_error_consistencies(analyzed: BehaviourResult) -> None:
    # Of networks with the ten people on cue-conflict, and among these.
    published = {"alexnet": 0.113173, "googlenet": 0.087454, "vgg": 0.060204, "resnet50": 0.067433}
    for name, kappa in published.items():
        assert analyzed.scores(name, "cue-conflict").error_consistency == pytest.approx(kappa, abs=1e-6)
    people = next(one.people for one in analyzed.sets if one.name == "cue-conflict")
    assert people.error_consistency == pytest.approx(0.331052, abs=1e-6)


def test_all_pairs_are_symmetric_and_all_sets_are_complete(analyzed: BehaviourResult) -> None:
    assert [one.name for one in analyzed.sets] == list(BENCHMARK_SETS)
    for one in analyzed.sets:
        assert len([each for each in one.observers if each.kind == "human"]) == BENCHMARK_SETS[one.name].n_people
        for matrix in (one.observed_consistency, one.error_consistency):
            assert np.array_equal(matrix, matrix.T) and (np.diagonal(matrix) == 1).all()
    assert not analyzed.notes


def test_the_published_numbers_are_those_of_the_raw_data(raw_data: tuple[Trials, ...]) -> None:
    published = published_people()
    assert [*published] == list(BENCHMARK_SETS)
    people = [one for one in raw_data if one.is_human]
    for dataset, group in groupby(people, lambda one: one.dataset):
        trials, own = list(group), published[dataset]
        assert [one.observer for one in trials] == list(own.people)
        assert {digest_of_images(one) for one in trials} == {own.images_sha256}
        for condition in by_condition(trials):
            numbers = own.conditions[condition.level]
            assert condition.right.sum(axis=1).tolist() == list(numbers.correct)
            assert condition.seen.all() and condition.seen.shape[1] == numbers.n
            for name in ("observed_consistency", "error_consistency"):
                # They are rounded to nine digits.
                np.testing.assert_allclose(
                    numbers.matrix(name), getattr(pairs_of(condition), name), rtol=0, atol=0.51e-9
                )


def test_a_network_is_compared_with_the_published_accuracy(raw_data: tuple[Trials, ...]) -> None:
    trials = [one for one in raw_data if one.dataset == "cue-conflict"]
    networks = [one for one in trials if not one.is_human]
    alone, among = BehaviourResult.from_trials(networks), BehaviourResult.from_trials(trials)
    for one in networks:
        found, known = alone.scores(one.observer), among.scores(one.observer)
        assert (found.accuracy, found.accuracy_difference) == (known.accuracy, known.accuracy_difference)
        assert np.isnan(found.error_consistency) and not np.isnan(known.error_consistency)
    assert "require their decisions" in alone.notes[0] and not among.notes
    # The numbers among people, and the interval of the difference over people, need no decisions.
    assert [getattr(alone.people, name) for name in vars(alone.people)] == pytest.approx(
        [getattr(among.people, name) for name in vars(among.people)], abs=1e-9
    )
    for one, other in zip(alone.networks, among.networks, strict=True):
        intervals = [found.intervals["accuracy_difference"].people for found in (one, other)]
        assert intervals[0] == pytest.approx(intervals[1], abs=1e-12)


def test_images_have_one_number_of_each_category(raw_data: tuple[Trials, ...]) -> None:
    for one in raw_data:
        cells = {*zip(one.condition, one.category, strict=True)}
        counted = {cell: 0 for cell in cells}
        for cell in zip(one.condition, one.category, strict=True):
            counted[cell] += 1
        assert set(counted.values()) == {one.benchmark_set.n_per_cell}
        assert len(cells) == 16 * len(one.benchmark_set.levels)
