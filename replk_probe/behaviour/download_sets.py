"""Download of the sets of model-vs-human to the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.formatting import counted
from replk_probe.shape_bias.stimuli.archive_set import fetch_set, set_dir
from replk_probe.shape_bias.stimuli.cue_conflict import fetch_cue_conflict
from replk_probe.shape_bias.stimuli.names import CATEGORIES

from .benchmark_sets import BENCHMARK_SETS, CUE_CONFLICT, IMAGENET_TERMS, SIDE, BenchmarkSet
from .image_sets import read_set

URL = "https://github.com/bethgelab/model-vs-human/releases/download/v0.1/{name}.tar.gz"
CITATION = "Geirhos et al., NeurIPS 2021, arXiv:2106.07411"
TERMS_URL = "https://www.image-net.org/download.php"

# File in the cache that records that the terms were accepted.
_ACCEPTED = "imagenet-terms-accepted.txt"
# A folder in the top folder of a set with conditions: NAME/dnn/session-1/*.png
_OF_NETWORKS = "dnn"


def fetch_benchmark_set(
    name: str,
    *,
    url: str = URL,
    accept_license: bool = False,
    force: bool = False,
    connect_timeout: float = 15.0,
    show_progress: bool = True,
) -> Path:
    """Download a set into the cache, unless it is there and complete.

    An interrupted download is resumed. The set is moved to its place once its number of images, their names and their
    sizes are verified; cue-conflict is compared with its manifest instead. No digests of the other sets are published:
    that of the first verified archive is recorded, and any other archive is refused later.

    Args:
        name: Name of the set.
        url: URL of the archive, in which ``{name}`` is replaced.
        accept_license: Whether the terms of ImageNet are accepted, under which some sets are. This is recorded in the
            cache, so that it is needed only once.
        force: Whether to download the set again even if it is in the cache.
        connect_timeout: Seconds to wait for the first response.
        show_progress: Whether to draw progress bars on stderr if that is a terminal.

    Returns:
        The folder of the set.

    Raises:
        InvalidInputError: The terms were not accepted, or the archive is damaged or unsafe, or does not contain the
            published set.
        WeightsError: The connection fails, the server responds with an error, the archive is not the recorded one, or
            there is no space left.
    """
    known = BENCHMARK_SETS[name]
    check_terms([name], accept_license)
    address = url.format(name=name)
    if name == CUE_CONFLICT:
        return fetch_cue_conflict(address, force=force, connect_timeout=connect_timeout, show_progress=show_progress)
    return fetch_set(
        name,
        address,
        lambda folder: problems_of(known, folder, show_progress),
        marker=_OF_NETWORKS if known.has_conditions else CATEGORIES[0],
        record=True,
        force=force,
        connect_timeout=connect_timeout,
        show_progress=show_progress,
    )


def check_terms(names: Sequence[str], accept_license: bool) -> None:
    """Record that the terms of ImageNet are accepted, if some of the sets need it.

    Raises:
        InvalidInputError: They were not accepted.
    """
    concerned = [name for name in names if terms_are_open(BENCHMARK_SETS[name])]
    if not concerned:
        return
    if not accept_license:
        raise InvalidInputError(
            f"Nothing was downloaded. The images of {', '.join(concerned)} are under the ImageNet terms of access "
            f"({TERMS_URL}), which must be accepted once. Read them, and repeat this with accept_license."
        )
    atomic_write_text(set_dir(_ACCEPTED), f"The ImageNet terms of access ({TERMS_URL}) were accepted.\n")


def terms_are_open(known: BenchmarkSet) -> bool:
    """Whether the images of a set are under the terms of ImageNet and these were not accepted yet."""
    return known.license == IMAGENET_TERMS and not set_dir(_ACCEPTED).is_file()


def problems_of(known: BenchmarkSet, folder: Path, show_progress: bool = True) -> str:
    """Differences of a folder from the published set, as sentences without a final period; empty if there are none."""
    try:
        found = read_set(known.name, folder, show_progress)
    except ReplkProbeError as error:
        return str(error).rstrip(".")
    others = sum(count for size, count in found.sizes.items() if size != (SIDE, SIDE))
    sizes = f"{counted(others, 'image')} {'is' if others == 1 else 'are'} not {SIDE} x {SIDE} px" if others else ""
    return ". ".join(text for text in (found.differences, sizes) if text)
