from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from replk_probe.errors import InvalidInputError
from replk_probe.images import sample_images
from replk_probe.images.folder import list_images


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def classes(ids) -> Counter[str]:
    return Counter(image_id.rpartition("/")[0] for image_id in ids)


def test_a_flat_folder_with_wordnet_names_is_one_class(tmp_path):
    names = [f"n{i:08d}_{i}.JPEG" for i in range(20)]
    images = sample_images(touch(tmp_path / "val", *names), n=5)
    assert images.source == "folder:val"
    assert (images.requested, images.available, len(images)) == (5, 20, 5)
    assert set(images.ids) <= set(names) and images.shortfall_note is None


def test_only_images_count_whatever_the_case_of_their_suffix(tmp_path):
    touch(
        tmp_path, "a.JPEG", "b.Png", "c.webp", "d.jpg", "e.txt", "f", "g.jpg.bak", ".h.jpg", "._i.jpg", ".cache/j.jpg"
    )
    assert set(list_images(tmp_path)) == {"a.JPEG", "b.Png", "c.webp", "d.jpg"}


@pytest.mark.parametrize("n", [1, 3, 7, 10, 14, 18, 40])
def test_a_stratified_sample_is_as_even_as_the_classes_allow(tmp_path, n):
    sizes = {"a": 1, "b": 10, "c": 4, "d": 3}
    touch(tmp_path, *(f"{name}/{i}.png" for name, count in sizes.items() for i in range(count)))
    images = sample_images(tmp_path, n=n)
    taken = classes(images.ids)
    assert len(set(images.ids)) == len(images) == min(n, 18)
    most = max(taken.values())
    assert all(taken[name] >= min(most - 1, count) for name, count in sizes.items())


def test_fewer_images_than_requested_are_reported(tmp_path):
    images = sample_images(touch(tmp_path / "few", "a.jpg", "b.jpg"), n=50)
    assert images.shortfall_note == "50 images were requested, but folder:few has only 2."


def test_the_sample_depends_only_on_the_seed(tmp_path):
    names = [f"{c}/{i}.jpg" for c in "abc" for i in range(30)]
    shuffled = random.Random(1).sample(names, len(names))
    one, two = touch(tmp_path / "one", *names), touch(tmp_path / "two", *shuffled)
    assert sample_images(one, 20, seed=4).ids == sample_images(two, 20, seed=4).ids
    assert sample_images(one, 20, seed=4).ids != sample_images(one, 20, seed=5).ids
    # A smaller sample is the beginning of a larger one.
    assert sample_images(one, 20).ids[:7] == sample_images(one, 7).ids
    # The choice is fixed for good, not only within this process.
    assert sample_images(one, 4).ids == ("a/16.jpg", "c/8.jpg", "b/9.jpg", "a/9.jpg")


def test_first_is_the_order_of_torchvision(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    touch(
        tmp_path,
        *(f"{c}/{s}{i}.jpg" for c in ("b", "a", "a-b", "Z") for s in ("", "x/", "x-y/", "x/z/") for i in (10, 9)),
    )
    expected = [Path(path).relative_to(tmp_path).as_posix() for path, _ in datasets.ImageFolder(str(tmp_path)).samples]
    assert list(sample_images(tmp_path, n=1000, sampling="first").ids) == expected
    assert list(sample_images(tmp_path, n=5, sampling="first").ids) == expected[:5]


def test_links_are_followed_once_and_loops_end(tmp_path):
    root = touch(tmp_path / "root", "a/1.jpg", "b/2.jpg")
    touch(tmp_path / "outside", "3.jpg")
    try:
        (root / "a" / "up").symlink_to(root, target_is_directory=True)
        (root / "0-again").symlink_to(root / "b", target_is_directory=True)
        (root / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
        (root / "self.jpg").symlink_to(root / "self.jpg")
        (root / "broken.jpg").symlink_to(root / "nothing")
    except OSError:
        pytest.skip("no symbolic links here")
    assert set(list_images(root)) == {"a/1.jpg", "b/2.jpg", "linked/3.jpg", "self.jpg", "broken.jpg"}


def test_folders_that_cannot_be_used_are_one_clear_error(tmp_path):
    with pytest.raises(InvalidInputError, match="does not exist"):
        sample_images(tmp_path / "missing")
    (tmp_path / "file.jpg").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="is a file"):
        sample_images(tmp_path / "file.jpg")
    with pytest.raises(InvalidInputError, match="No image in the folder"):
        sample_images(touch(tmp_path / "texts", "a.txt"))


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None, "3"])
def test_a_number_of_images_that_makes_no_sense_is_one_clear_error(n):
    with pytest.raises(InvalidInputError, match=f"The number of images cannot be {n!r}"):
        sample_images(None, n=n)


def test_an_unknown_sampling_is_one_clear_error():
    with pytest.raises(InvalidInputError, match=r"'random'.*stratified, first"):
        sample_images(None, sampling="random")


def test_a_relative_folder_is_named_by_its_real_name(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(touch(tmp_path / "photos", "x.txt") / "a.png")
    monkeypatch.chdir(tmp_path / "photos")
    assert sample_images(".", n=1).source == "folder:photos"


def test_the_real_images_are_one_class_each(data_dir):
    images = sample_images(data_dir / "images", n=50)
    assert images.available == 50 and images.source == "folder:images"
    assert images.load(images.ids[0], (64, 64)).shape == (64, 64, 3)
