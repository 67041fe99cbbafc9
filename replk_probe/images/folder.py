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


def list_images(root: Path, option: str = "data") -> tuple[str, ...]:
    """List every image below ``root``, in the order of torchvision's ImageFolder.

    Hidden files and folders (with a leading dot) are left out. Links are followed, and each real folder is visited
    once, so that links to a parent folder are harmless. Images in ``root`` itself, which ImageFolder ignores, come
    first.

    Args:
        root: The folder.
        option: Name of the argument for the folder, for errors.

    Returns:
        Image ids, which are paths relative to ``root`` with forward slashes.

    Raises:
        InvalidInputError: ``root`` is missing, not a folder, not readable, or contains no image.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe.images import list_images
        >>> Path("photos/cats").mkdir(parents=True)
        >>> for name in ("b.png", "cats/c.png", "cats/a.png"):
        ...     Image.new("RGB", (64, 48)).save(f"photos/{name}")
        >>> list_images(Path("photos"))
        ('b.png', 'cats/a.png', 'cats/c.png')
    """
    if not root.exists():
        raise InvalidInputError(f"Image folder {root} does not exist. Check the path given as {option}.")
    if not root.is_dir():
        raise InvalidInputError(f"{root} is a file. {option} must be the folder of the images. Give its folder.")
    try:
        ids = _walk(root)
    except OSError as error:
        raise InvalidInputError(
            f"Cannot list image folder {root}. {error.strerror or error}: {error.filename}. Check its permissions."
        ) from error
    if not ids:
        raise InvalidInputError(
            f"No image in the folder {str(root)!r}. Images are files ending in {', '.join(sorted(SUFFIXES))}, at any "
            f"depth. Set {option} to a folder with such files, or omit it."
        )
    return tuple(sorted(ids, key=_image_folder_order))


def stratified_sample(ids: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """``n`` of ``ids``, as evenly over their folders as possible.

    Names are hashed with the seed. One image is taken from each folder in turn, with folders and the images in each
    folder in the order of their hashes. The sample therefore depends only on the names and the seed, not on the file
    system, and an additional image in one folder does not change the order within other folders. Ids are paths relative
    to a root, with forward slashes; they are returned in the order in which they were sampled.
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
    """Sort key: class folder, whole path of the folder, name; ``a-b/x`` comes before ``a/x`` in the same class."""
    path = PurePosixPath(image_id)
    return (path.parts[0] if len(path.parts) > 1 else "", str(path.parent), path.name)


def _walk(root: Path) -> list[str]:
    """Ids in no particular order; real folders are visited before links to them, so that ids contain real names."""
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
