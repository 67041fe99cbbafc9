"""The images of the sets in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from replk_probe.behaviour import open_sets
from replk_probe.behaviour.image_sets import read_set
from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.stimuli.archive_set import set_dir

Write = Callable[..., Path]


def test_sets_in_a_folder(write_set: Write) -> None:
    root = write_set("edge").parent
    write_set("colour", 1)
    images = open_sets(["colour", "edge"], root, allow_partial=True)
    assert [one.dataset for one in images.sets] == ["edge", "colour"]
    assert len(images) == 160 + 32 and images.size == (224, 224) and images.source == "edge, colour"
    assert [place for _, place in images.rows()] == [slice(0, 160), slice(160, 192)]
    edge, colour = images.sets
    # By category, then by name as text: as in the raw data of model-vs-human.
    assert edge.names[:3] == ("airplane1.png", "airplane10.png", "airplane2.png")
    assert colour.condition == ("cr",) * 16 + ("bw",) * 16
    trials = colour.trials("all knives", ["knife"] * 32)
    assert trials.names == colour.names and trials.correct.sum() == 2
    assert images.load(160).size == (224, 224)
    assert any("The set colour is not complete. It has 32 of 1280 images" in note for note in images.notes)
    assert len(images.notes) == 1  # the images of edge have the names of the published ones
    # The order of the sets, and each content, decide the digest.
    assert images.digest != open_sets("edge", root).digest != edge.digest


def test_images_that_people_did_not_see_are_noted(write_set: Write) -> None:
    folder = write_set("edge")
    (folder / "bear" / "bear1.png").rename(folder / "bear" / "bear11.png")
    (note,) = open_sets(data=folder).notes
    assert "the images of the set edge are not exactly those that people saw" in note


def test_a_set_that_is_not_complete(write_set: Write) -> None:
    folder = write_set("edge")
    (folder / "bear" / "bear1.png").rename(folder / "cat" / "cat11.png")
    for path in (folder, folder.parent):
        with pytest.raises(
            InvalidInputError,
            match=r"160 of 160 images: 9 images of bear, 11 images of cat instead of 10\. Fetch .* set allow_partial\.",
        ):
            open_sets("edge", path)
    assert len(open_sets("edge", folder, allow_partial=True)) == 160
    for index in range(2, 10):
        (folder / "bear" / f"bear{index}.png").unlink()
    assert (
        "It has 152 of 160 images: 1 image of bear, 11 images of cat"
        in open_sets("edge", folder, allow_partial=True).sets[0].differences
    )
    assert "is not the complete set" not in str(open_sets("edge", folder, allow_partial=True).notes)


def test_files_that_do_not_belong(write_set: Write, picture: Callable[[int], bytes]) -> None:
    folder = write_set("edge")
    (folder / "spoon").mkdir()
    (folder / "spoon" / "spoon1.png").write_bytes(picture(0))
    with pytest.raises(InvalidInputError, match=r"image 'spoon/spoon1\.png' of the set edge\. Its folder is not one"):
        read_set("edge", folder)
    other = write_set("colour", 1)
    (other / "dnn" / "session-1" / "extra.png").write_bytes(picture(0))
    with pytest.raises(InvalidInputError, match=r"'extra\.png' of the set colour\. Its name does not contain"):
        read_set("colour", other)
    (other / "dnn" / "session-1" / "extra.png").write_bytes(b"no image")
    with pytest.raises(InvalidInputError):
        read_set("colour", other)


def test_images_of_another_size_are_noted(write_set: Write) -> None:
    images = open_sets(data=write_set("silhouette", side=64))
    assert images.size == (64, 64)
    assert "160 images of the set silhouette are not 224 x 224 px" in images.notes[-1]
    folder = write_set("edge", side=224)
    small = next(folder.rglob("*.png"))
    Image.new("RGB", (64, 48)).save(small)
    (note,) = (note for note in open_sets(data=folder).notes if "px" in note)
    assert note.startswith("1 image of the set edge is not 224 x 224 px") and note.endswith("(1 is 48 x 64 px).")


def test_sets_that_are_not_there(write_set: Write, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"any of the 17 sets in the cache\. .*'replk-probe data fetch all'"):
        open_sets()
    folder = write_set("edge")
    with pytest.raises(InvalidInputError, match=r"the sets silhouette, sketch in .*data fetch silhouette,sketch'"):
        open_sets("edge,silhouette,sketch", folder.parent)
    with pytest.raises(InvalidInputError, match=r"the set sketch in the cache.*data fetch sketch'"):
        open_sets("sketch")
    with pytest.raises(InvalidInputError, match="does not exist"):
        open_sets("edge", tmp_path / "nothing")


def test_sets_in_the_cache(write_set: Write) -> None:
    write_set("edge", root=set_dir("edge").parent)
    assert open_sets().source == "edge" == open_sets("edge").source
