"""Names of suppressions."""

from __future__ import annotations

from typing import Any

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.reliance import CUES, parse_suppressions
from replk_probe.reliance.suppressions import METHODS


def names(given: Any) -> list[str]:
    return [one.name for one in parse_suppressions(given)]


def test_all_methods_at_all_strengths_and_all_pairs_of_cues() -> None:
    found = parse_suppressions()
    single = [one for one in found if len(one.steps) == 1]
    assert [one.name for one in single] == [
        f"{name}:{strength:g}" if strength else name
        for name, method in METHODS.items()
        for strength in method.strengths or (None,)
    ]
    pairs = {frozenset(one.method.split("+")) for one in found if len(one.steps) == 2}
    expected = {
        frozenset((one.name, other.name)) for one in METHODS.values() for other in METHODS.values()
        if one.cue != other.cue
    }  # fmt: skip
    assert pairs == expected and len(pairs) == 16 == len(found) - len(single)
    assert {one.cues for one in found} == {*CUES, "shape+texture", "shape+color", "texture+color"}
    assert {method.strengths[0] for method in METHODS.values() if method.cue == "shape"} == {2}
    assert {method.strengths[-1] for method in METHODS.values() if method.cue == "shape"} == {16}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("patch-shuffle:3", ["patch-shuffle:3"]),
        ("gaussian-blur:0.50, grayscale", ["gaussian-blur:0.5", "grayscale"]),
        (["grayscale", "grayscale"], ["grayscale"]),
        ("patch-rotation:8 + bilateral", ["bilateral:100+patch-rotation:8"]),
        (["grayscale+patch-shuffle+gaussian-blur:2"], ["gaussian-blur:2+grayscale+patch-shuffle:4"]),
    ],
)
def test_names_are_read(given: Any, expected: list[str]) -> None:
    assert names(given) == expected
    assert names(expected) == expected  # what was read is written in a form that is read as the same


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("patch-shufle", r"There is no method 'patch-shufle' \(similar: patch-shuffle"),
        ("patch-shuffle:2.5", "It is an integer from 2 to 64"),
        ("patch-shuffle:1", "cannot have the strength '1'"),
        ("gaussian-blur:nan", "It is a number from 0.1 to 32"),
        ("gaussian-blur:x", "cannot have the strength 'x'"),
        ("grayscale:2", "has no strength, but '2' was given"),
        ("bilateral+gaussian-blur", "Two of its methods suppress the same cue"),
        ([], "There are no suppressions"),
        ([5], "Expected the name of a suppression, but got an object of type int"),
        (5, "Expected the name of a suppression"),
        ("", "There is no method ''"),
    ],
)
def test_other_names_are_errors(given: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse_suppressions(given)


def test_names_have_all_digits_of_the_strength() -> None:
    found = parse_suppressions("gaussian-blur:3.14159,gaussian-blur:3.1415926,patch-shuffle:4,gaussian-blur:2.0")
    names = [one.name for one in found]
    assert names == ["gaussian-blur:3.14159", "gaussian-blur:3.1415926", "patch-shuffle:4", "gaussian-blur:2"]
    assert parse_suppressions(",".join(names)) == found
