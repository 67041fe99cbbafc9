"""From outputs to a category: the rule, and that each near miss of it gives other decisions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.decision_mapping import (
    LabelMapping,
    as_mapping,
    category_probabilities,
    decide,
    imagenet_mapping,
    load_mapping,
    mapping_for,
    margins,
)
from replk_probe.shape_bias.stimuli.names import CATEGORIES

# Outputs 0 to 4: a has one, b has three, the last has no category.
SMALL = LabelMapping("small", ("alpha", "beta"), ((0,), (1, 2, 3)), 5)


def test_imagenet_mapping_has_the_published_sizes() -> None:
    mapping = imagenet_mapping()
    sizes = {category: len(members) for category, members in zip(mapping.categories, mapping.indices, strict=True)}
    assert tuple(sizes) == CATEGORIES
    assert tuple(sizes.values()) == (1, 4, 2, 49, 5, 7, 3, 6, 4, 3, 109, 2, 2, 1, 1, 8)
    assert mapping.n_outputs == 1000
    # Neighbors in ImageNet: airliner, warplane (no member); tench is no bird.
    assert mapping.indices[0] == (404,)
    assert 0 not in mapping.indices[3]


def test_probability_is_the_mean_over_the_members_of_a_softmax_over_all_outputs() -> None:
    logits = np.log(np.array([[0.2, 0.1, 0.3, 0.05, 0.35]]))
    np.testing.assert_allclose(category_probabilities(logits, SMALL), [[0.2, 0.45 / 3]], rtol=1e-6)
    assert decide(category_probabilities(logits, SMALL), SMALL.categories) == ("alpha",)


def test_large_outputs_do_not_overflow() -> None:
    np.testing.assert_array_equal(category_probabilities(np.array([[1e30, 0, 0, 0, 0]]), SMALL), [[1, 0]])


def wrong_sum(softmax: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([softmax[0], softmax[1:4].sum()])


def wrong_max(softmax: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([softmax[0], softmax[1:4].max()])


def wrong_mean_of_logits(softmax: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([np.log(softmax[0]), np.log(softmax[1:4]).mean()])


@pytest.mark.parametrize(
    ("wrong", "softmax"),
    [
        (wrong_sum, [0.2, 0.1, 0.1, 0.1, 0.5]),
        (wrong_max, [0.2, 0.3, 0.1, 0.1, 0.3]),
        (wrong_mean_of_logits, [0.1, 0.38, 0.01, 0.01, 0.5]),
    ],
)
def test_other_aggregations_decide_otherwise(
    wrong: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], softmax: list[float]
) -> None:
    values = np.array(softmax)
    (decision,) = decide(category_probabilities(np.log(values)[None], SMALL), SMALL.categories)
    assert decision != SMALL.categories[int(np.argmax(wrong(values)))]


def test_top_1_of_all_outputs_may_belong_to_no_category() -> None:
    logits = np.log(np.array([[0.2, 0.1, 0.1, 0.1, 0.5]]))
    assert int(logits.argmax()) == 4  # without a category
    assert decide(category_probabilities(logits, SMALL), SMALL.categories) == ("alpha",)


def test_ties_go_to_the_last_category() -> None:
    equal = np.array([[0.25, 0.5, 0.5], [0.5, 0.25, 0.5], [0.5, 0.25, 0.25]], dtype=np.float32)
    assert decide(equal, ("alpha", "beta", "gamma")) == ("gamma", "gamma", "alpha")
    np.testing.assert_allclose(margins(equal), [0, 0, 0.5])


def test_rows_do_not_depend_on_their_batch() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (37, 1000)).astype(np.float32)
    together = category_probabilities(logits, imagenet_mapping())
    alone = np.concatenate([category_probabilities(row[None], imagenet_mapping()) for row in logits])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_must_be_finite(bad: float) -> None:
    with pytest.raises(InvalidInputError, match="not finite"):
        category_probabilities(np.array([[0, 0, 0, 0, bad]]), SMALL)


def test_categories_are_put_in_order() -> None:
    mapping = LabelMapping("own", ("dog", "cat"), ((7,), (1, 2)))
    assert (mapping.categories, mapping.indices) == (("cat", "dog"), ((1, 2), (7,)))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (((0,), ()), "'dog' has no class index"),
        (((0,), (0, 1)), "index 0 is given twice"),
        (((0, 0), (1,)), "index 0 is given twice"),
        (((-1,), (1,)), "-1 is below zero"),
    ],
)
def test_unusable_mappings_are_refused(indices: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        LabelMapping("own", ("cat", "dog"), indices)


def test_indices_are_whole_numbers_of_any_kind() -> None:
    mapping = LabelMapping("own", ("cat", "dog"), np.array([[1, 2], [5, 4]]))  # type: ignore[arg-type]
    assert mapping.indices == ((1, 2), (5, 4))
    assert all(type(index) is int for members in mapping.indices for index in members)
    assert mapping == LabelMapping("own", ("cat", "dog"), ([1, 2], [5, np.int64(4)]))  # type: ignore[arg-type]
    hash(mapping)


@pytest.mark.parametrize("indices", [((0,),), ((0,), (1,), (2,)), (("0",), (1,)), ((0.0,), (1,)), (0, 1), 3, "01"])
def test_indices_that_are_none_are_refused(indices: Any) -> None:
    with pytest.raises(InvalidInputError, match="mapping own cannot be used"):
        LabelMapping("own", ("cat", "dog"), indices)
    with pytest.raises(InvalidInputError, match="mapping own cannot be used"):
        LabelMapping("own", ("cat", "dog"), ((True,), (2,)))


def test_a_dictionary_is_a_mapping() -> None:
    mapping = mapping_for(9, ("cat", "dog"), {"dog": [3], "cat": range(2)})
    assert (mapping.name, mapping.categories, mapping.indices) == ("given", ("cat", "dog"), ((0, 1), (3,)))
    for wrong in (3, ["cat", "dog"]):
        with pytest.raises(InvalidInputError, match="is not a mapping"):
            as_mapping(wrong)  # type: ignore[arg-type]


def test_mapping_file(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"dog": [3], "cat": [0, 2]}))
    mapping = load_mapping(path)
    assert (mapping.name, mapping.categories, mapping.indices) == ("file:own.json", ("cat", "dog"), ((0, 2), (3,)))
    assert mapping_for(4, ("cat", "dog"), path) == mapping
    with pytest.raises(InvalidInputError, match="needs at least 4 outputs"):
        mapping_for(3, ("cat", "dog"), path)
    with pytest.raises(InvalidInputError, match="only one of them has cat, cow"):
        mapping_for(4, ("cow", "dog"), path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Cannot read the mapping"),
        ("[1, 2]", "not an object"),
        ("{}", "not an object"),
        ('{"cat": 1, "dog": [2]}', "not an object"),
        ('{"cat": [1.0], "dog": [2]}', "not an object"),
        ('{"cat": [true], "dog": [2]}', "not an object"),
        ('{"cat": [1], "cat": [2]}', "'cat' is given twice"),
        ("[" * 100_000, "Cannot read the mapping"),
    ],
)
def test_unreadable_mapping_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        load_mapping(path)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInputError, match=r"Cannot read the mapping .*pipe\. It is not a regular file\."):
        load_mapping(tmp_path / "pipe")


def test_missing_mapping_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        load_mapping(tmp_path / "none.json")


def test_mapping_is_chosen_by_the_number_of_outputs() -> None:
    own = ("alpha", "beta", "gamma")
    assert mapping_for(1000) == imagenet_mapping()
    assert mapping_for(16).indices == tuple((index,) for index in range(16))
    assert mapping_for(3, own).categories == own


def test_some_of_the_16_categories_need_no_mapping() -> None:
    found = mapping_for(1000, ["dog", "cat"])
    known = dict(zip(imagenet_mapping().categories, imagenet_mapping().indices, strict=True))
    assert found.name == "imagenet-1k" and found.categories == ("cat", "dog")
    assert found.indices == (known["cat"], known["dog"])
    logits = 9 * np.eye(1000)[[281, 151]]
    assert decide(category_probabilities(logits, found), found.categories) == ("cat", "dog")


@pytest.mark.parametrize(
    ("n_outputs", "categories"), [(21841, CATEGORIES), (1001, CATEGORIES), (1000, ("alpha", "beta"))]
)
def test_an_unknown_label_space_names_the_mapping_option(n_outputs: int, categories: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match=rf"has {n_outputs} outputs.*\({categories[0]}, .*Give mapping"):
        mapping_for(n_outputs, categories)
