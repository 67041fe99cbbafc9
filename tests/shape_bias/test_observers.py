"""Decisions of several observers, side by side."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.observers import Observer, analyze, compare, consistency_matrix, consistency_with
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.stimuli.names import CATEGORIES

NAMES = tuple(
    f"{shape}{number}-{texture}1.png" for shape in CATEGORIES for texture in CATEGORIES for number in range(1, 6)
)


def observer(name: str, seed: int, names: tuple[str, ...] = NAMES) -> Decisions:
    random = np.random.default_rng(seed)
    return Decisions.from_names(name, names, tuple(CATEGORIES[index] for index in random.integers(0, 16, len(names))))


def test_any_order_of_rows_gives_the_same_decisions() -> None:
    first = observer("net", 0)
    shuffled = np.random.default_rng(3).permutation(len(NAMES))
    second = Decisions.from_names(
        "net", [first.names[index] for index in shuffled], [first.response[index] for index in shuffled]
    )
    assert second == first
    assert analyze([second]) == analyze([first])
    assert list(first.names) == sorted(first.names)  # folders and names sort alike here
    assert first.names[5:7] == ("airplane1-bottle1.png", "airplane1-car1.png")


def test_names_with_a_prefix_are_paired_by_the_rest() -> None:
    plain = observer("net", 0)
    prefixed = Decisions.from_names(
        "other", [f"{trial:04d}_s5n_s01_0_bird_00_{name}" for trial, name in enumerate(plain.names)], plain.response
    )
    assert consistency_matrix([plain, prefixed])[0, 1] == 1
    assert prefixed.counts() == plain.counts()
    assert prefixed.image_ids == plain.image_ids


def test_humans_are_pooled_and_come_first() -> None:
    individuals = [observer(f"subject-0{number}", number) for number in (1, 2, 3)]
    net = observer("net", 9)
    found = {one.name: one for one in analyze([net, *individuals])}
    assert list(found) == ["humans", "net", "subject-01", "subject-02", "subject-03"]
    kappa = consistency_matrix([net, *individuals])
    assert found["humans"].counts.n_conflict == 3 * 1200
    assert found["humans"].consistency.mean_human == pytest.approx((kappa[1, 2] + kappa[1, 3] + kappa[2, 3]) / 3)
    assert found["humans"].consistency.by_observer == {"net": pytest.approx(kappa[0, 1:].mean())}
    assert found["net"].consistency.mean_human == pytest.approx(kappa[0, 1:].mean())
    assert found["subject-01"].consistency.mean_human == pytest.approx(kappa[1, 2:].mean())
    assert set(found["subject-01"].consistency.by_observer) == {"net", "subject-02", "subject-03"}
    assert (found["humans"].ci95_method, found["net"].ci95_method) == ("bootstrap over 3 observers", "Wilson")


def test_one_human_has_no_error_consistency() -> None:
    humans, individual = analyze([observer("subject-01", 1)])
    assert math.isnan(humans.consistency.mean_human) and math.isnan(individual.consistency.mean_human)
    assert humans.counts == individual.counts


def test_observers_of_other_stimuli_have_no_error_consistency() -> None:
    other = Decisions.from_names("other", ["bear77-cat1.png"], ["bear"])
    found = consistency_with(observer("net", 0), [other, observer("subject-01", 1)])
    assert math.isnan(found.by_observer["other"]) and not math.isnan(found.mean_human)
    one = Observer.from_counts("other", "model", other.counts(), consistency=found)
    assert one.to_json()["error_consistency"]["by_observer"]["other"] is None
    assert Observer.from_json(one.to_json()).to_json() == one.to_json()


def test_two_observers_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 observers named 'net'"):
        analyze([observer("net", 0), observer("net", 1)])
    with pytest.raises(InvalidInputError, match="name 'humans'"):
        analyze([observer("humans", 0), observer("subject-01", 1)])


def test_two_models_are_compared_on_the_stimuli_they_share() -> None:
    names = ("bear1-cat1.png", "bear2-cat1.png", "bear3-cat1.png", "cat1-cat2.png")
    first = Decisions.from_names("first", names, ("bear", "bear", "cat", "cat"))
    second = Decisions.from_names("second", names[1:], ("cat", "cat", "cat"))
    found = compare(first, second)
    assert (found.n_pairs, found.first_only, found.second_only, found.p_value) == (2, 1, 0, 1.0)
    assert found.difference == 0.5
    with pytest.raises(InvalidInputError, match="no stimulus with a cue conflict in common"):
        compare(first, Decisions.from_names("third", names[3:], ("cat",)))


@pytest.mark.parametrize(
    ("names", "response", "message"),
    [
        ((), (), "has no decisions"),
        (("bear1-cat1.png",), (), "unequal length"),
        (("bear1-cat1.png",), ("cow",), "category 'cow'"),
        (("bear1-cow1.png",), ("bear",), "'cow' is not one of the 16"),
        (("bear1.png",), ("bear",), "does not contain shape and texture"),
        (("bear1-cat1.png", "9_bear1-cat1.png"), ("bear", "cat"), "two decisions on stimulus 'bear1-cat1.png'"),
    ],
)
def test_unusable_decisions_are_refused(names: tuple[str, ...], response: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Decisions.from_names("net", names, response)


@pytest.mark.parametrize("response", [None, 3, ["bear"]])
def test_a_response_is_a_category(response: Any) -> None:
    with pytest.raises(InvalidInputError, match="has the category"):
        Decisions.from_names("net", ["bear1-cat1.png", "bear2-cat1.png"], ["bear", response])


@pytest.mark.parametrize("name", ["", " ", "a\0", "a\nb", None, 3, "\udcff", "humans"])
def test_names_that_observers_cannot_have(name: Any) -> None:
    with pytest.raises(InvalidInputError, match="An observer"):
        Decisions.from_names(name, ["bear1-cat1.png"], ["bear"])


def test_stimuli_have_names_that_can_be_written() -> None:
    with pytest.raises(InvalidInputError, match="UTF-8"):
        Decisions("net", ("\udcff.png",), ("bear",), ("cat",), ("bear",))


@pytest.mark.parametrize("wrong", [observer("net", 0), "net", analyze([observer("net", 0)]), 3, [None]])
def test_observers_are_a_sequence_of_decisions(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="Expected observers as a sequence"):
        ShapeBiasResult.from_decisions(observers=wrong)


def test_the_matrix_is_that_of_the_pairs() -> None:
    """Of 24 observers, some of whom saw a part of the stimuli: as if each pair were taken by itself."""
    decisions = [observer(f"net-{number}", number, NAMES[5 * number : 1280 - 9 * number]) for number in range(24)]
    matrix = consistency_matrix(decisions)
    assert matrix.shape == (24, 24)
    for first, second in itertools.combinations(range(24), 2):
        right = [dict(zip(decisions[one].names, decisions[one].correct, strict=True)) for one in (first, second)]
        shared = [name for name in decisions[first].names if name in right[1]]
        pairs = [(bool(right[0][name]), bool(right[1][name])) for name in shared]
        p1, p2 = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        expected = p1 * p2 + (1 - p1) * (1 - p2)
        kappa = (sum(one == other for one, other in pairs) / len(pairs) - expected) / (1 - expected)
        assert matrix[first, second] == matrix[second, first] == pytest.approx(kappa, abs=1e-12)
