"""Descriptions of stimulus sets: layouts, names, checks of the files, and descriptions that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from replk_probe import ShapeBiasResult, measure_shape_bias
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias import CATEGORIES, open_stimuli
from replk_probe.shape_bias.decision_mapping import mapping_for
from replk_probe.shape_bias.stimuli.set_description import read_description, shipped_description, shipped_sets

CONFLICT = """
schema_version = 1
name = "pets"
cues = ["coarse", "fine"]
layout = "{coarse}/{coarse}-{fine}-{number}.png"
labels = ["cat", "big dog"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(*paths: str, size: int = 8) -> None:
    for number, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (number, 0, 0)).save(path)


def write(text: str = CONFLICT, path: str = "set.toml", **changes: str) -> Path:
    for old, new in changes.items():
        line = next(line for line in text.splitlines() if line.startswith(old))
        text = text.replace(line, new)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)


def test_a_conflict_set(folder: Path) -> None:
    write(path="pets/set.toml")
    draw("pets/cat/cat-big_dog-1.png", "pets/cat/cat-cat-x.png", "pets/big dog/big dog-cat-.png", "pets/logo.png")
    stimuli = open_stimuli("pets")
    assert stimuli.source == "set:pets" and stimuli.categories == ("big dog", "cat") and stimuli.size == (8, 8)
    # Names as results require them, since those of the files have other forms.
    assert [one.name for one in stimuli.stimuli] == ["big dog1-cat1.png", "cat1-big dog1.png", "cat1-cat1.png"]
    assert [(one.shape, one.texture) for one in stimuli.stimuli][1] == ("cat", "big dog")
    assert stimuli.load(1).getpixel((0, 0)) == (0, 0, 0) and stimuli.load(0).getpixel((0, 0)) == (2, 0, 0)
    assert stimuli.notes == (
        "The cues of pets are coarse and fine: in this result, coarse is called shape, and fine texture.",
        "Files that have no layout of pets are left out: 1 (logo.png).",
    )
    assert stimuli.cues == () and open_stimuli(Path("pets/set.toml")).digest == stimuli.digest


def test_names_of_files_are_kept_where_they_have_shape_and_texture(folder: Path) -> None:
    write(layout='layout = "{coarse}{i}-{fine}{j}.png"', labels='labels = ["cat", "dog"]')
    draw("cat1-dog2.png", "dog7-cat1.png")
    assert [one.name for one in open_stimuli(".").stimuli] == ["cat1-dog2.png", "dog7-cat1.png"]


def test_both_labels_in_a_path_are_the_same(folder: Path) -> None:
    write()
    draw("cat/big dog-cat-1.png")
    with pytest.raises(InvalidInputError, match=r"No image in '.*' belongs to the set pets. Its layout is .*'cat/big"):
        open_stimuli("set.toml")


def test_a_measured_conflict_set(folder: Path) -> None:
    write()
    draw("cat/cat-big_dog-1.png", "big dog/big dog-cat-1.png", size=64)
    result = measure_shape_bias("test_resnet", ".", weights="random", num_classes=2, size=64)
    assert result.decisions is not None and result.decisions.categories == ("big dog", "cat")
    assert isinstance(result.run, RunInfo) and result.run.config["stimuli record"]["set"]["name"] == "pets"
    result.save("out")
    assert ShapeBiasResult.load("out") == result


def test_digest_and_counts_are_checked(folder: Path) -> None:
    draw("cat/cat-cat-1.png")
    digest = open_stimuli(write()).digest
    write(text=CONFLICT + f'digest = "{digest}"\nimages = 2\nimage_size = [4, 8]\n')
    notes = open_stimuli(".").notes
    assert notes[1:] == (
        "The set pets has 2 images, but 1 were found.", "The images of pets are 4x8 px, but these are 8x8 px."
    )  # fmt: skip
    Image.new("RGB", (8, 8), "white").save("cat/cat-cat-1.png")
    with pytest.raises(InvalidInputError, match=f"not those of the set pets. Their digest is .*, not {digest}"):
        open_stimuli(".")


def test_refined_bias(folder: Path) -> None:
    description = shipped_description("refined-bias")
    assert description.is_separate and len(description.labels) == 20 and description.images == 6000
    assert description.image_size == (224, 224)
    draw(
        "data/refined_bias_shape/soccer_ball/soccer_ball_0.png",
        "data/refined_bias_texture/brain_coral/4x4_brain_coral_0.png",
        "data/refined_bias_texture/elephant/4x4_elephant_0.png",
        size=224,
    )
    stimuli = open_stimuli("refined-bias=data")
    assert stimuli.cues == ("shape", "texture", "texture")
    assert [one.shape for one in stimuli.stimuli] == ["soccer ball", "brain coral", "elephant"]
    mapping = mapping_for(1000, stimuli.categories, default=stimuli.mapping)
    assert mapping is stimuli.mapping and mapping.indices[mapping.categories.index("elephant")] == (385, 386)
    with pytest.raises(InvalidInputError, match="The classifier has 10 outputs"):
        mapping_for(10, stimuli.categories, default=stimuli.mapping)


def test_class_indices_of_refined_bias_are_those_of_the_labels() -> None:
    from timm.data.imagenet_info import ImageNetInfo

    description, info = shipped_description("refined-bias"), ImageNetInfo("imagenet-1k")
    words = {"ipod": "iPod"}
    for label, members in zip(description.labels, description.classes, strict=True):
        for index in members:
            assert words.get(label, label) in info.index_to_description(index), (label, index)


def test_frequency_conflict(folder: Path) -> None:
    assert shipped_sets() == ("frequency-conflict", "refined-bias")
    description = shipped_description("frequency-conflict")
    assert description.labels == CATEGORIES and not description.is_separate
    draw("data/car/car-cat-12.png")
    (one,) = open_stimuli("frequency-conflict=data").stimuli
    assert (one.shape, one.texture) == ("car", "cat")


def test_a_folder_with_the_name_of_a_shipped_set(folder: Path) -> None:
    draw("refined-bias/a.png")
    with pytest.raises(InvalidInputError, match="Give the stimuli 'refined-bias=refined-bias'"):
        open_stimuli("refined-bias")


def test_classes_with_the_names_of_the_categories() -> None:
    mapping = mapping_for(4, ("cat", "dog"), names=["dog", "cow", "cat", "dog"])
    assert (mapping.name, mapping.categories, mapping.indices) == ("class names", ("cat", "dog"), ((2,), (0, 3)))
    # Names decide also where the number of outputs is that of the categories.
    assert mapping_for(2, ("cat", "dog"), names=["dog", "cat"]).indices == ((1,), (0,))
    assert mapping_for(2, ("cat", "dog"), names=["cow", "cat"]).name == "one output per category"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "The entry 'name' is missing"),
        ({"name": "name = 5"}, "The entry 'name' is 5, not a line of text"),
        ({"name": 'nam = "x"'}, "There is no entry 'nam' .*name"),
        ({"name": "name ="}, "Invalid value|Unexpected"),
        ({"schema_version": "schema_version = 2"}, "Its schema_version is 2, not 1"),
        ({"cues": 'cues = ["coarse"]'}, "There must be two cues"),
        ({"cues": 'cues = "coarse"'}, "The entry 'cues' is not a list of texts"),
        ({"layout": 'layout = "{coarse}.png"'}, "either both in each layout or one in each"),
        ({"layout": 'layout = ["{coarse}/{f}", "{coarse}/{fine}"]'}, "either both in each layout or one in each"),
        ({"layout": "layout = []"}, "The entry 'layout' is not a list of texts"),
        ({"labels": 'labels = ["cat"]'}, "Expected at least two categories"),
        ({"labels": 'labels = ["cat", "dog1"]'}, "Cannot use category 'dog1'"),
        ({"labels": "labels = { cat = 1, dog = [2] }"}, "need label_space = 'imagenet-1k'"),
        ({"labels": 'labels = { cat = [1000], dog = 2 }\nlabel_space = "imagenet-1k"'}, "class indices from 0 to 999"),
        ({"labels": 'labels = ["cat", "dog"]\nlabel_space = "imagenet-1k"'}, "needs labels with class indices"),
        ({"labels": 'labels = ["cat", "dog"]\nimages = 0'}, "The entry 'images' is 0"),
        ({"labels": 'labels = ["cat", "dog"]\nimage_size = -1'}, "The smallest side is 1 px"),
        ({"labels": 'labels = ["cat", "dog"]\nsources = ["x"]'}, "The entry 'sources' is not a list of tables"),
    ],
)
def test_descriptions_that_cannot_be_used(folder: Path, changes: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"Cannot use the stimulus set set\.toml\..*({says})"):
        read_description(write(**changes))


def test_descriptions_that_cannot_be_read(folder: Path) -> None:
    Path("set.toml").write_bytes(b"\xff")
    for path in ("set.toml", "missing.toml"):
        with pytest.raises(InvalidInputError, match="Cannot use the stimulus set"):
            read_description(Path(path))
    with pytest.raises(InvalidInputError, match=r"Cannot find stimuli at 'missing\.toml'"):
        open_stimuli("missing.toml")
