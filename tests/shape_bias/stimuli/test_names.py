"""Shape and texture from a file name."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias import CATEGORIES, Stimulus, parse_stimulus_name
from replk_probe.shape_bias.stimuli.names import check_categories, image_id_of


@pytest.mark.parametrize(
    ("name", "shape", "texture", "image_id"),
    [
        ("airplane1-bicycle2.png", "airplane", "bicycle", "airplane1-bicycle2.png"),
        ("airplane10-airplane1.png", "airplane", "airplane", "airplane10-airplane1.png"),
        ("0001_s5n_s01_0_bird_00_bird3-bird2.png", "bird", "bird", "bird3-bird2.png"),
        ("0001_s5n_dnn_0_airplane_00_airplane1-chair2.png", "airplane", "chair", "airplane1-chair2.png"),
        ("cat-dog.jpeg", "cat", "dog", "cat-dog.jpeg"),
        ("truck123-oven7.tar.png", "truck", "oven", "truck123-oven7.tar.png"),
        ("knife4-keyboard2", "knife", "keyboard", "knife4-keyboard2"),
    ],
)
def test_names(name: str, shape: str, texture: str, image_id: str) -> None:
    stimulus = parse_stimulus_name(name)
    assert stimulus == Stimulus(name, shape, texture)
    assert stimulus.image_id == image_id
    assert stimulus.is_conflict == (shape != texture)


@pytest.mark.parametrize(
    "name", ["", "cat.png", "cat3.png", "-dog1.png", "cat1-.png", "1-2.png", "cat1_dog2.png", "cat1.-dog1.png"]
)
def test_a_name_that_does_not_parse(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"does not contain shape and texture.*Rename it") as caught:
        parse_stimulus_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "cue", "category"),
    [
        ("zebra1-dog2.png", "shape", "zebra"),
        ("dog1-zebra2.png", "texture", "zebra"),
        ("Dog1-cat2.png", "shape", "Dog"),
        ("bear1-dog1-cat2.png", "shape", "bear-dog"),
    ],
)
def test_a_category_that_is_not_among_the_sixteen(name: str, cue: str, category: str) -> None:
    says = rf"{cue} '{category}' is not one of the 16 categories.*or give mapping, with"
    with pytest.raises(InvalidInputError, match=says):
        parse_stimulus_name(name)


@pytest.mark.parametrize("name", ["\udcff\udcfe_cat5-dog3.png", None, 3])
def test_a_name_that_no_result_file_can_hold(name: Any) -> None:
    with pytest.raises(InvalidInputError, match="UTF-8"):
        parse_stimulus_name(name)


def test_digits_are_omitted_at_any_position() -> None:
    assert parse_stimulus_name("c1at-dog7.png") == Stimulus("c1at-dog7.png", "cat", "dog")


def test_own_categories() -> None:
    assert parse_stimulus_name("disc2-dots1.png", ("disc", "dots")) == Stimulus("disc2-dots1.png", "disc", "dots")
    with pytest.raises(InvalidInputError, match=r"not one of the 2 categories \(disc, dots\)"):
        parse_stimulus_name("cat1-dog2.png", ("disc", "dots"))


def test_the_sixteen_are_in_alphabetical_order() -> None:
    assert len(CATEGORIES) == 16 and list(CATEGORIES) == sorted(CATEGORIES)
    assert check_categories(CATEGORIES) == CATEGORIES


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (["cat"], "Expected at least two categories, got 1"),
        (["cat", "dog2"], "Cannot use category 'dog2'"),
        (["cat", "hot-dog"], "Cannot use category 'hot-dog'"),
        (["cat", "hot_dog"], "Cannot use category 'hot_dog'"),
        (["cat", ""], "Cannot use category ''"),
        (["cat", "dog", "cat"], "'cat' is given twice"),
    ],
)
def test_categories_that_no_name_could_carry(categories: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_categories(categories)


def test_every_name_of_the_published_data_parses(data_dir: Path) -> None:
    """Human and older files name the parent folder's category apart from the image: both must agree."""
    images = {path.name: path.parent.name for path in (data_dir / "cue-conflict").glob("*/*.png")}
    assert len(images) == 1280
    seen = 0
    for file in (data_dir / "raw-data" / "cue-conflict").glob("*.csv"):
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                stimulus = parse_stimulus_name(row["imagename"])
                assert images[image_id_of(row["imagename"])] == stimulus.shape == row["category"]
                seen += 1
    assert seen == 14 * 1280
    assert sum(parse_stimulus_name(name).is_conflict for name in images) == 1200
