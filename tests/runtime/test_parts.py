"""Parts of a measurement, and values computed ahead of their use."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path

import pytest

from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.runtime.ahead import computed_ahead
from replk_probe.runtime.checkpoint import Checkpoint
from replk_probe.runtime.parts import check_part, in_order, part_folders, saved_parts, split


@pytest.mark.parametrize("bounds", [[0, 1], [0, 3, 6, 7], [0, 2, 5, 7, 10], [*range(51)], [0, 90, 100]])
def test_parts_cover_everything_once(bounds: list[int]) -> None:
    for count in range(1, 60):
        parts = split(bounds, count)
        assert [index for part in parts for index in part] == [*range(bounds[-1])]
        assert len(parts) <= count and all({part.start, part.stop} <= {*bounds} for part in parts)
        assert in_order(bounds, reversed(parts)) == parts


def test_parts_are_of_about_equal_length() -> None:
    assert [len(part) for part in split(range(101), 3)] == [33, 34, 33]
    assert split([0, 90, 100], 2) == [range(90), range(90, 100)]
    with pytest.raises(InvalidInputError, match="The number of parts cannot be 0"):
        split([0, 1], 0)


@pytest.mark.parametrize("part", [range(1, 5), range(2, 6), range(2, 2), range(5, 2), range(0, 5, 5)])
def test_other_ranges_are_no_parts(part: range) -> None:
    with pytest.raises(InvalidInputError, match="is not a part of this measurement"):
        check_part([0, 2, 5], part)


@pytest.mark.parametrize("parts", [[], [range(2)], [range(2, 5)], [range(2), range(5)], [range(2), range(2)]])
def test_parts_must_form_a_whole(parts: list[range]) -> None:
    with pytest.raises(InvalidInputError, match="do not form a whole"):
        in_order([0, 2, 5], parts)


def test_parts_are_found_by_their_states(tmp_path: Path) -> None:
    assert saved_parts(tmp_path, 9) == []
    for part in (range(2, 4), range(4, 6)):
        (folder,) = part_folders(tmp_path, [part]).values()
        Checkpoint(folder, {}).save({})
    (tmp_path / "part-6-9").mkdir()
    assert saved_parts(tmp_path, 9) == [range(2), range(2, 4), range(4, 6), range(6, 9)]
    with pytest.raises(ResumeError, match="divided in several ways"):
        saved_parts(tmp_path, 5)
    Checkpoint(tmp_path / "part-3-5", {}).save({})
    with pytest.raises(ResumeError, match="divided in several ways"):
        saved_parts(tmp_path, 9)


def test_values_are_in_order_and_at_most_a_few_ahead() -> None:
    begun: list[int] = []

    def function(item: int) -> int:
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return 10 * item

    before = threading.active_count()
    with computed_ahead(function, range(20), threads=2, waiting=3) as values:
        for item, value in enumerate(values):
            assert value == 10 * item and len(begun) <= item + 4
    assert sorted(begun) == [*range(20)] and threading.active_count() == before


def test_an_error_is_raised_in_place_of_its_value() -> None:
    filters = warnings.filters[:]

    def function(item: int) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return 1 // (item - 2)

    for threads in (0, 2):
        with computed_ahead(function, range(9), threads=threads, waiting=4) as values:
            assert [next(values), next(values)] == [-1, -1]
            with pytest.raises(ZeroDivisionError):
                next(values)
    assert warnings.filters == filters


def test_nothing_more_is_computed_after_an_interrupt() -> None:
    begun: list[int] = []

    def function(item: int) -> None:
        begun.append(item)
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt), computed_ahead(function, range(50), threads=2, waiting=20) as values:
        next(values)
        raise KeyboardInterrupt
    assert len(begun) <= 5
