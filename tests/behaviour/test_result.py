"""The result: its contract, its files, its averages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replk_probe.behaviour import BENCHMARK_SETS, BehaviourResult, Trials
from replk_probe.behaviour.result_notes import NO_DECISIONS
from replk_probe.errors import InvalidInputError

MakeTrials = Callable[..., list[Trials]]
OBSERVERS = ["first", "second", "subject-01", "subject-02", "subject-03"]
NUMBERS = ("accuracy", "accuracy_difference", "observed_consistency", "error_consistency")


@pytest.fixture(scope="module")
def trials(random_trials: MakeTrials) -> list[Trials]:
    """Two networks and three people on two sets; the second network decided on the first only."""
    return [*random_trials(OBSERVERS, "edge", 1, 4), *random_trials(["first", *OBSERVERS[2:]], "contrast", 2, 2)]


@pytest.fixture(scope="module")
def result(trials: list[Trials]) -> BehaviourResult:
    return BehaviourResult.from_trials(trials)


def test_the_record_has_its_contract(result: BehaviourResult) -> None:
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["schema_version"] == 1 and record["run"]["model"] is None
    assert [*record["sets"]] == ["edge", "contrast"]
    assert record["sets"]["contrast"]["conditions"] == ["c50", "c30", "c15", "c10", "c05"]
    for name, each in record["sets"].items():
        for one in each["observers"].values():
            assert {*NUMBERS, "by_condition"} <= {*one}
            assert [*one["by_condition"]] == list(BENCHMARK_SETS[name].levels)
            assert all({*NUMBERS} <= {*numbers} for numbers in one["by_condition"].values())
    assert [*record["overall"]] == ["first", "second", *OBSERVERS[2:]]
    assert all({*NUMBERS, "mean_rank"} <= {*one} for one in record["overall"].values())


def test_averages_are_over_conditions_then_people_then_sets(trials: list[Trials], result: BehaviourResult) -> None:
    on_contrast = next(one for one in result.sets if one.name == "contrast").observer("first")
    assert on_contrast is not None
    for name in NUMBERS:
        of_conditions = [
            getattr(on_contrast.by_condition[level].scores, name) for level in BENCHMARK_SETS["contrast"].conditions
        ]
        assert getattr(on_contrast.scores, name) == pytest.approx(np.mean(of_conditions), abs=1e-15)
        on_sets = [getattr(result.scores("first", dataset), name) for dataset in ("edge", "contrast")]
        assert getattr(result.scores("first"), name) == pytest.approx(np.mean(on_sets), abs=1e-15)
        people = [getattr(result.scores(person, "edge"), name) for person in OBSERVERS[2:]]
        assert getattr(result.sets[0].people, name) == pytest.approx(np.mean(people), abs=1e-15)
    own = next(one for one in trials if (one.observer, one.dataset) == ("first", "contrast"))
    counts = on_contrast.by_condition["c50"]
    rows = np.array(own.condition) == "c50"
    assert (counts.n, counts.correct) == (rows.sum(), own.correct[rows].sum())


def test_only_networks_with_all_sets_are_ranked(trials: list[Trials], result: BehaviourResult) -> None:
    assert all(math.isnan(one.mean_rank) for one in result.overall)  # one network has both sets
    assert [one.n_sets for one in result.overall] == [2, 1, 2, 2, 2]
    third = [replace(one, observer="third") for one in trials if one.observer == "first"]
    found = BehaviourResult.from_trials([*trials, *third])
    ranks = {one.name: one.mean_rank for one in found.overall if not math.isnan(one.mean_rank)}
    assert ranks == {"first": 1.5, "third": 1.5}


def test_the_mean_of_people_is_recorded(result: BehaviourResult, tmp_path: Path) -> None:
    record = result.to_json()
    for name in NUMBERS:
        of_sets = [
            np.mean([getattr(one.scores, name) for one in each.observers if one.kind == "human"])
            for each in result.sets
        ]
        assert record["people"][name] == pytest.approx(np.mean(of_sets), abs=1e-15)
    # A record that was saved without it is read.
    result.save(tmp_path)
    path = tmp_path / "behaviour.json"
    older = json.loads(path.read_text())
    del older["people"]
    path.write_text(json.dumps(older))
    assert BehaviourResult.load(tmp_path) == result


def test_observers_with_fewer_trials_are_noted(random_trials: MakeTrials) -> None:
    network, short, person = random_trials(["network", "subject-01", "subject-02"], "contrast", 2, 2)
    columns = (short.names, short.category, short.condition, short.response)
    short = Trials(short.observer, short.dataset, *(column[:3] for column in columns))
    note = (
        "subject-01 has 3 of 256 trials of contrast. Two observers are compared on their common images; numbers of a "
        "condition without common images are undefined."
    )
    found = BehaviourResult.from_trials([network, short, person])
    few = (
        "The number of images of an observer in a condition of contrast is only 3: bootstrap intervals over them are "
        "too narrow."
    )
    assert found.notes == (few, note)
    # The notes are those of the observers that are there.
    among = BehaviourResult.from_trials([], measured=[network], notes=["Kept."]).with_observers([short, person])
    assert among.notes == ("Kept.", few, note)
    assert BehaviourResult.from_trials([network, person]).notes == ()


def test_the_ranks_of_several_networks(random_trials: MakeTrials) -> None:
    people = random_trials(["subject-01", "subject-02"], "edge", 3, 8)
    like_people, unlike = people[0], random_trials(["x"], "edge", 9, 8)[0]
    found = BehaviourResult.from_trials(
        [replace(like_people, observer="near"), replace(unlike, observer="far"), *people]
    )
    assert {one.name: one.mean_rank for one in found.networks} == {"near": 1.0, "far": 2.0}


def test_intervals_contain_their_numbers(result: BehaviourResult) -> None:
    for one in result.networks:
        for name, found in one.intervals.items():
            value = getattr(one.scores, name)
            assert (found.people is None) == (name == "accuracy")
            for interval in (found.images, found.people):
                # A squared difference is biased upwards when images are resampled.
                if interval is not None and not (name == "accuracy_difference" and interval is found.images):
                    assert interval[0] <= value <= interval[1]


def test_saving_and_loading(result: BehaviourResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    again = BehaviourResult.load(tmp_path)
    assert again == result
    again.save(tmp_path / "again")
    for name in ("behaviour.json", "behaviour.npz", "behaviour.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    table = result.to_dataframe()
    rows = table[(table.observer == "first") & (table.condition == "benchmark")]
    assert rows.set.tolist() == ["all", "edge", "contrast"]
    assert rows.accuracy.tolist() == [result.scores("first", name).accuracy for name in (None, "edge", "contrast")]
    assert len(table) == 5 + 5 + 4 * (1 + 8)
    assert "first" in repr(again._repr_html_()) and "sets=2" in repr(again)


def test_damaged_files(result: BehaviourResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    path = tmp_path / "behaviour.json"
    record = json.loads(path.read_text())
    for change, message in (
        (lambda data: data["sets"].pop("edge"), "unexpected array"),
        (lambda data: data["sets"]["edge"]["observers"].pop("second"), "has shape"),
        (lambda data: data["sets"]["edge"]["observers"]["first"].pop("kind"), "lacks 'kind'"),
        (lambda data: data["overall"]["first"].update(n_sets="two"), "not an integer"),
        (lambda data: data.update(sets={"unknown": {}}), "are not those of the benchmark"),
        (lambda data: data.update(schema_version=9), "schema version"),
    ):
        damaged = json.loads(json.dumps(record))
        change(damaged)
        path.write_text(json.dumps(damaged))
        with pytest.raises(InvalidInputError, match=message):
            BehaviourResult.load(tmp_path)


def test_without_people_and_without_conditions(random_trials: MakeTrials) -> None:
    (whole,) = random_trials(["network"], "contrast", 4, 2)
    rows = [row for row, level in enumerate(whole.condition) if level != "c15"]
    columns = (whole.names, whole.category, whole.condition, whole.response)
    part = Trials("network", "contrast", *(tuple(column[row] for row in rows) for column in columns))
    found = BehaviourResult.from_trials([part])
    assert found.notes == (
        NO_DECISIONS,
        "There are no trials in the condition c15 of the set contrast. Its average over conditions is undefined.",
        "network has 224 of 1120 trials of contrast. Two observers are compared on their common images; numbers of a "
        "condition without common images are undefined. The published accuracies of people are those on all images, "
        "so that the accuracy difference cannot be restricted to common images.",
    )
    assert math.isnan(found.scores("network").accuracy) and found.networks[0].intervals["accuracy"].images is None
    by_condition = found.sets[0].observers[0].by_condition
    assert "c15" not in by_condition and not math.isnan(by_condition["c50"].scores.accuracy_difference)
    json.dumps(found.to_json(), allow_nan=False)
    whole_result = BehaviourResult.from_trials([whole])
    assert not math.isnan(whole_result.scores("network").accuracy_difference)
    assert math.isnan(whole_result.networks[0].mean_rank)  # without consistency
    assert len(whole_result.sets[0].observers) == 5  # with the four published people


def test_what_cannot_be_analyzed(trials: list[Trials], result: BehaviourResult) -> None:
    with pytest.raises(InvalidInputError, match="2 observers named 'first' on the set edge"):
        BehaviourResult.from_trials([trials[0], trials[0]])
    with pytest.raises(InvalidInputError, match="but got none"):
        BehaviourResult.from_trials([])
    with pytest.raises(InvalidInputError, match="object of type str"):
        BehaviourResult.from_trials(["edge"])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="no scores of 'third'"):
        result.scores("third")
    with pytest.raises(InvalidInputError, match="no scores of 'second' on 'contrast'"):
        result.scores("second", "contrast")
    with pytest.raises(InvalidInputError, match="no scores of None"):
        result.scores()


def test_trials_are_checked_and_sorted(trials: list[Trials]) -> None:
    one = trials[0]
    columns = (one.names, one.category, one.condition, one.response)
    backwards = Trials(one.observer, one.dataset, *(column[::-1] for column in columns))
    assert backwards == one and backwards != trials[1]
    for wrong, message in (
        ({"names": one.names[1:]}, "columns have 63, 64, 64, 64 rows"),
        ({"condition": ("1",) * 64}, "'1' is not a condition of the set"),
        ({"category": ("spoon",) * 64}, "'spoon' is not one of the 16"),
        ({"dataset": "edges"}, "Unknown set 'edges'"),
        ({"observer": ""}, "cannot be called ''"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            replace(one, **wrong)  # type: ignore[arg-type]
