"""List a folder of images, and sample from it identically on every machine."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from replk_probe.errors import InvalidInputError

# The suffixes of torchvision's ImageFolder, so that "first" means the same.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})


def list_images(root: Path, option: str = "--data") -> tuple[str, ...]:
    """Every image below ``root``, in the order of torchvision's ImageFolder.

    Hidden files and folders (a leading dot) are left out. Links are followed, each real folder is entered once, so a
    link to a parent does no harm. Images that lie in ``root`` itself, which ImageFolder would not see, come first.

    Args:
        root: The folder.
        option: Name of the option of the folder, for errors.

    Returns:
        Ids: paths relative to ``root``, with forward slashes.

    Raises:
        InvalidInputError: ``root`` is missing, not a folder, not readable, or holds no image.
    """
    if not root.exists():
        raise InvalidInputError(f"Image folder {root} does not exist. Check the path given as {option}.")
    if not root.is_dir():
        raise InvalidInputError(f"{root} is a file. {option} wants the folder that holds the images. Give its folder.")
    try:
        ids = _walk(root)
    except OSError as error:
        raise InvalidInputError(
            f"Cannot list image folder {root}. {error.strerror or error}: {error.filename}. Check its permissions."
        ) from error
    if not ids:
        raise InvalidInputError(
            f"No image in folder {root}. Only files ending in {', '.join(sorted(SUFFIXES))} count, at any depth. "
            f"Point {option} at a folder with such files, or leave it out."
        )
    return tuple(sorted(ids, key=_image_folder_order))


def first_images(ids: Sequence[str], n: int) -> tuple[str, ...]:
    """The first ``n`` in ImageFolder's order, which is how the published script takes them."""
    return tuple(ids[:n])


def stratified_sample(ids: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """``n`` of ``ids``, as evenly over their folders as possible.

    Each image and each folder draws a number by hashing its name with the seed; folders are visited in the order of
    theirs, again and again, and each gives its next image. So the sample depends on the names and the seed alone, not
    on the file system, and a further image in one folder leaves the choice within the others as it was.

    Args:
        ids: Paths relative to a root, with forward slashes; the folder an image lies in is its class.
        n: Number of images.
        seed: Random seed.

    Returns:
        At most ``n`` ids, in the order in which they were drawn.
    """
    classes: dict[str, list[str]] = defaultdict(list)
    for image_id in ids:
        classes[str(PurePosixPath(image_id).parent)].append(image_id)
    drawn = [
        (rank, _draw(seed, "class", name), image_id)
        for name, members in classes.items()
        for rank, image_id in enumerate(sorted(members, key=lambda member: _draw(seed, "image", member)))
    ]
    return tuple(image_id for _, _, image_id in sorted(drawn)[:n])


def _draw(seed: int, kind: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{kind}\0{name}".encode("utf-8", "surrogateescape")).digest()


def _image_folder_order(image_id: str) -> tuple[str, str, str]:
    """Class folder, then folders by their whole path, then names: ``a-b/x`` comes before ``a/x`` inside one class."""
    path = PurePosixPath(image_id)
    return (path.parts[0] if len(path.parts) > 1 else "", str(path.parent), path.name)


def _walk(root: Path) -> list[str]:
    """Ids in no particular order; real folders first, so that a link never takes the name of what it points at."""
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if _leads_to_folder(entry):
                    (links if entry.is_symlink() else folders).append(Path(entry.path))
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    found.append(Path(entry.path).relative_to(root).as_posix())
    return found


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False
