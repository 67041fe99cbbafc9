"""Download and verification of the published cue-conflict stimuli.

Source: the release of bethgelab/model-vs-human; stimuli by Geirhos et al., ICLR 2019, arXiv:1811.12231 (CC-BY-4.0).
"""

from __future__ import annotations

from pathlib import Path

from replk_probe.errors import InvalidInputError
from replk_probe.images import list_images

from .archive_set import fetch_set, set_dir
from .manifest import Comparison, Found, compare, read_folder
from .names import CATEGORIES

NAME = "cue-conflict"
URL = "https://github.com/bethgelab/model-vs-human/releases/download/v0.1/cue-conflict.tar.gz"
LICENSE = "CC-BY-4.0"
CITATION = "Geirhos et al., ICLR 2019, arXiv:1811.12231"


def cue_conflict_dir() -> Path:
    """Path of the set in the cache, whether it exists or not."""
    return set_dir(NAME)


def cached_cue_conflict() -> Path | None:
    """Folder of the set if it is in the cache, without verification."""
    folder = cue_conflict_dir()
    return folder if folder.is_dir() else None


def fetch_cue_conflict(
    url: str = URL, *, force: bool = False, connect_timeout: float = 15.0, show_progress: bool = True
) -> Path:
    """Download the published set into the cache, unless it is there and complete.

    An interrupted download is resumed. The set is moved to its place once all of it is verified; then the archive is
    deleted.

    Args:
        url: URL of the archive.
        force: Whether to download it again even if it is in the cache.
        connect_timeout: Seconds to wait for the first response.
        show_progress: Whether to draw progress bars on stderr if that is a terminal.

    Returns:
        The folder, which contains one folder per shape.

    Raises:
        InvalidInputError: The archive is damaged or unsafe, or does not contain the published set.
        WeightsError: The connection fails, the server responds with an error, or there is no space left.
    """
    return fetch_set(
        NAME,
        url,
        lambda content: _problems(content, show_progress),
        marker=CATEGORIES[0],
        force=force,
        connect_timeout=connect_timeout,
        show_progress=show_progress,
    )


def verify_cue_conflict(folder: Path, show_progress: bool = True) -> tuple[Comparison, dict[str, Found]]:
    """Compare a folder, which has one folder per shape, with the published set, file by file.

    Returns:
        The comparison with the published set, and the files by their path in the set.

    Raises:
        InvalidInputError: The folder is missing or empty, or a file cannot be read.
    """
    found = read_folder(folder, list_images(folder, "stimuli"), show_progress)
    return compare(found), found


def incomplete_error(folder: Path, comparison: Comparison) -> InvalidInputError:
    """Error for a folder that is not exactly the published set."""
    fetched = folder.absolute() == cue_conflict_dir().absolute()
    partially = " evaluate the intact part with allow_partial," if comparison.intact and fetched else ""
    return InvalidInputError(
        f"{folder} is not the published cue-conflict set. {comparison.problems}. "
        f"Fetch it with 'replk-probe data fetch {NAME}',{partially} or give the folder itself as the stimuli."
    )


def _problems(folder: Path, show_progress: bool) -> str:
    """Differences of a folder from the published set; empty if there are none."""
    try:
        return verify_cue_conflict(folder, show_progress)[0].problems
    except InvalidInputError:
        return "It contains no image"
