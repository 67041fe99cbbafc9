"""Parts of a measurement: contiguous ranges of its images that are measured separately and then joined."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from replk_probe.errors import InvalidInputError, ResumeError

from .checkpoint import exists
from .checks import check_integer


def split(bounds: Sequence[int], count: int) -> list[range]:
    """Ranges of about equal length that together cover a measurement.

    Args:
        bounds: Where ranges may begin and end, ascending, from 0 to the number of images.
        count: Number of ranges; there are fewer if the bounds do not suffice.

    Raises:
        InvalidInputError: ``count`` is not a positive integer.
    """
    count = check_integer("number of parts", count, 1)
    total = bounds[-1]
    nearest = {min(bounds, key=lambda bound: abs(bound * count - index * total)) for index in range(count + 1)}
    return [range(*ends) for ends in itertools.pairwise(sorted(nearest))]


def check_part(bounds: Sequence[int], part: range) -> None:
    """Raise InvalidInputError unless a part begins and ends at one of the bounds."""
    if not (part.step == 1 and part.start < part.stop and {part.start, part.stop} <= {*bounds}):
        raise InvalidInputError(
            f"{part} is not a part of this measurement. Parts begin and end where they do not change the result. Use "
            "the ranges that parts() returns."
        )


def in_order(bounds: Sequence[int], parts: Iterable[range]) -> list[range]:
    """The parts in the order of the images.

    Raises:
        InvalidInputError: The parts do not cover every image exactly once.
    """
    found = sorted(parts, key=lambda part: part.start)
    for part in found:
        check_part(bounds, part)
    if [part.start for part in found] + [bounds[-1]] != [0] + [part.stop for part in found]:
        raise InvalidInputError(
            f"The parts {', '.join(map(str, found)) or '(none)'} do not form a whole. They must cover each of "
            f"{bounds[-1]} images exactly once. Give all ranges that one call of parts() returned."
        )
    return found


def saved_parts(folder: Path, total: int) -> list[range]:
    """The parts of a run whose states are in a folder of :func:`part_folders`, and the ranges between them.

    Args:
        folder: Folder of the run.
        total: Number of images of the measurement.

    Returns:
        Ranges that together cover the measurement; empty if there are no states.

    Raises:
        ResumeError: The states belong to runs that were divided in several ways.
    """
    names = (re.fullmatch(r"part-(\d+)-(\d+)", path.name) for path in folder.glob("part-*") if exists(path))
    found = sorted((int(name[1]), int(name[2])) for name in names if name)
    parts, end = [], 0
    for first, last in found:
        if not end <= first < last <= total:
            raise ResumeError(
                f"Cannot resume {folder}. Its states belong to runs that were divided in several ways. Start again "
                "without resume."
            )
        parts += [range(end, first)] * (end < first) + [range(first, last)]
        end = last
    return parts + [range(end, total)] * (0 < end < total)


def part_folders(folder: Path, parts: Iterable[range]) -> dict[range, Path]:
    """A folder for the state of each part; parts of a measurement that was divided otherwise have other folders."""
    return {part: folder / f"part-{part.start}-{part.stop}" for part in parts}
