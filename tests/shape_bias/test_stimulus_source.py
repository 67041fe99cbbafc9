"""Folders of stimuli: their order, their names, their damage."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replk_probe.errors import InvalidInputError
from replk_probe.images import UnreadableImageError
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.shape_bias import open_stimuli, parse_stimulus_name
from replk_probe.shape_bias.stimuli.stimulus_set import StimulusSet
from replk_probe.shape_bias.stimulus_source import scan

NAMES = (
    "airplane/airplane91-bicycle2.png",
    "airplane/airplane910-bear3.png",
    "airplane/airplane92-airplane1.png",
    "bear/bear91-dog2.png",
    "cat/cat91-dog1.png",
)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        draw(root / name, seed)
    return root


def names_of(stimuli: StimulusSet) -> list[str]:
    return [f"{stimulus.shape}/{stimulus.name}" for stimulus in stimuli.stimuli]


def test_a_user_folder(tmp_path: Path) -> None:
    stimuli = open_stimuli(make(tmp_path / "mine", *NAMES))
    assert (stimuli.source, len(stimuli), stimuli.size) == ("folder:mine", 5, (20, 16))
    assert stimuli.notes == ("None of the stimuli is one of the published cue-conflict set.",)
    assert stimuli.record == {"manifest": None}
    assert [stimulus.is_conflict for stimulus in stimuli.stimuli] == [True, True, False, True, True]
    image = stimuli.load(3)
    assert (image.mode, image.size) == ("RGB", (16, 20))
    expected = np.random.default_rng(3).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(image), expected)
    for index in (-1, 5):
        with pytest.raises(IndexError):
            stimuli.load(index)


def test_the_order_is_that_of_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    names = [
        f"{a}/{a}{i}-{b}{j}.png"
        for a in ("car", "bear", "cat")
        for b in ("dog", "boat")
        for i in (1, 2, 10)
        for j in (3, 1)
    ]
    make(tmp_path, *random.Random(0).sample(names, len(names)))
    expected = [Path(path).relative_to(tmp_path).as_posix() for path, _ in datasets.ImageFolder(str(tmp_path)).samples]
    stimuli = scan(tmp_path)
    assert names_of(stimuli) == expected
    assert expected.index("car/car10-dog1.png") < expected.index("car/car2-dog1.png")


def test_folders_inside_and_no_folders_make_no_difference(tmp_path: Path) -> None:
    deep = scan(make(tmp_path / "deep", *(f"session-1/{name}" for name in NAMES)))
    flat = scan(make(tmp_path / "flat", *(name.rpartition("/")[2] for name in NAMES)))
    usual = scan(make(tmp_path / "usual", *NAMES))
    assert deep.stimuli == flat.stimuli == usual.stimuli
    assert deep.digest == flat.digest == usual.digest


def test_the_digest_follows_names_and_contents(tmp_path: Path) -> None:
    first = scan(make(tmp_path, *NAMES)).digest
    assert scan(tmp_path).digest == first
    other = scan(draw(tmp_path / NAMES[2], seed=99).parents[1]).digest
    assert other != first
    (tmp_path / NAMES[2]).rename(tmp_path / "airplane" / "airplane93-airplane1.png")
    assert scan(tmp_path).digest not in (first, other)


def test_other_processes_can_acquire_it(tmp_path: Path) -> None:
    stimuli = scan(make(tmp_path, *NAMES))
    copy = pickle.loads(pickle.dumps(stimuli))
    assert copy == stimuli
    assert copy.load(4).tobytes() == stimuli.load(4).tobytes()


def test_human_names_are_stimuli_too(tmp_path: Path) -> None:
    stimuli = scan(make(tmp_path, "0001_s5n_s01_0_bird_00_bird3-dog2.png")).stimuli
    assert [(stimulus.shape, stimulus.image_id) for stimulus in stimuli] == [("bird", "bird3-dog2.png")]


def test_own_categories(tmp_path: Path) -> None:
    root = make(tmp_path, "disc/disc1-dots1.png", "dots/dots1-disc1.png")
    with pytest.raises(InvalidInputError, match=r"'disc' is not one of the 16 categories.*or give mapping, with"):
        open_stimuli(root)
    stimuli = open_stimuli(root, categories=["disc", "dots"])
    assert (stimuli.categories, len(stimuli)) == (("disc", "dots"), 2)


def test_differing_input_sizes_are_reported(tmp_path: Path) -> None:
    draw(make(tmp_path, *NAMES) / NAMES[0], size=(8, 8))
    stimuli = scan(tmp_path)
    assert stimuli.size is None
    assert stimuli.notes[-1] == "The stimuli are of 2 sizes (20 x 16, 8 x 8)."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bear/holiday.png", "/bear: .*'holiday.png'.*does not contain shape and texture"),
        ("bear/unicorn1-dog1.png", "'unicorn' is not one of the 16 categories"),
        ("bear/cat1-dog3.png", "'bear/cat1-dog3.png'.*the shape 'cat' and its folder is 'bear'"),
        ("other/bear91-dog2.png", r"Several files have the same name: bear/bear91-dog2.png, other/bear91-dog2.png"),
    ],
)
def test_one_bad_name_is_one_clear_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        open_stimuli(make(tmp_path, *NAMES, name))


@pytest.mark.parametrize("keep", [0, 30, 200, -20])
def test_a_truncated_file_is_found_before_anything_is_measured(tmp_path: Path, keep: int) -> None:
    victim = make(tmp_path, *NAMES) / NAMES[1]
    victim.write_bytes(victim.read_bytes()[:keep])
    with pytest.raises(UnreadableImageError, match=r"airplane/airplane910-bear3\.png.*Remove or replace it"):
        open_stimuli(tmp_path)


def test_a_page_is_no_stimulus(tmp_path: Path) -> None:
    (make(tmp_path, *NAMES) / NAMES[1]).write_text("<html>not found</html>")
    with pytest.raises(UnreadableImageError, match="not an image"):
        open_stimuli(tmp_path)


def test_a_file_that_vanishes_is_one_clear_error(tmp_path: Path) -> None:
    stimuli = scan(make(tmp_path, *NAMES))
    (tmp_path / NAMES[0]).unlink()
    with pytest.raises(UnreadableImageError, match=r"airplane91-bicycle2\.png.*no such file"):
        stimuli.load(0)


def test_the_set_that_is_drawn() -> None:
    stimuli = open_stimuli("synthetic", size=32, seed=3)
    assert (stimuli.source, len(stimuli), stimuli.size) == ("synthetic", 1280, (32, 32))
    assert stimuli.load(5).size == (32, 32)
    assert stimuli.digest == open_stimuli("synthetic", size=32, seed=3).digest
    assert stimuli.digest not in {open_stimuli("synthetic", size=32, seed=4).digest, open_stimuli("synthetic").digest}
    # As if it lay in a folder.
    assert names_of(stimuli) == sorted(names_of(stimuli))
    for stimulus in stimuli.stimuli:
        assert parse_stimulus_name(stimulus.name, stimuli.categories) == stimulus


def test_only_the_published_set_can_be_taken_in_part(tmp_path: Path) -> None:
    for where in (make(tmp_path, *NAMES), "synthetic"):
        with pytest.raises(InvalidInputError, match="Leave allow_partial out"):
            open_stimuli(where, allow_partial=True)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"It does not exist.*cue-conflict, synthetic, or a described set"):
        open_stimuli(tmp_path / "nothing")
    file = draw(tmp_path / "cat91-dog1.png")
    with pytest.raises(InvalidInputError, match="It is a file"):
        open_stimuli(file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=r"No image in the folder.*Set stimuli"):
        open_stimuli(tmp_path / "empty")


def test_the_real_stimuli(data_dir: Path) -> None:
    stimuli = open_stimuli(data_dir / "cue-conflict")
    assert (len(stimuli), stimuli.size, stimuli.source) == (1280, (224, 224), "folder:cue-conflict")
    assert sum(stimulus.is_conflict for stimulus in stimuli.stimuli) == 1200
    assert stimuli.notes == ("The stimuli are the 1280 of the published cue-conflict set.",)
    assert stimuli.stimuli[0].name == "airplane1-bicycle2.png"
    first = data_dir / "cue-conflict" / "airplane" / "airplane1-bicycle2.png"
    assert sha256_of(first) and stimuli.load(0).tobytes() == Image.open(first).convert("RGB").tobytes()
