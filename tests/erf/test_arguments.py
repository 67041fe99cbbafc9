"""Arguments of the wrong kind are told so, before anything slow begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import replk_probe
from replk_probe.erf import ErfConfig
from replk_probe.erf.arguments import check_thresholds
from replk_probe.erf.config import LARGEST_SIDE
from replk_probe.errors import InvalidInputError


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (64.5, "whole number of pixels"),
        ("64", "'64' cannot be measured. A size is a whole number"),
        (b"64", "whole number"),
        (None, "whole number"),
        (True, "whole number"),
        ((64, True), "whole number"),
        ((64, 64.0), "whole number"),
        ((64,), "whole number"),
        ((3, 64, 64), "whole number"),
        (2, "smallest side is 3 px"),
        (-1, "smallest side is 3 px"),
        ((64, 0), "smallest side is 3 px"),
        (LARGEST_SIDE + 1, "Sides above 16384 px need too much memory"),
        ((64, 10**30), "too much memory"),
    ],
)
def test_sizes_that_cannot_be_measured(size: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        ErfConfig(size=size)


@pytest.mark.parametrize(
    ("size", "pair"),
    [(3, (3, 3)), (LARGEST_SIDE, (LARGEST_SIDE,) * 2), ([64, 96], (64, 96)), (np.int64(64), (64, 64))],
)
def test_sizes(size: Any, pair: tuple[int, int]) -> None:
    found = ErfConfig(size=size).size
    assert isinstance(found, tuple)
    assert (found, {type(side) for side in found}) == (pair, {int})


@pytest.mark.parametrize("thresholds", [0.5, "0.5", b"0.5", None, np.float64(0.5), 1])
def test_thresholds_are_a_sequence(thresholds: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"Expected a sequence of thresholds, got .*Give a list"):
        check_thresholds(thresholds)


@pytest.mark.parametrize("thresholds", [[0.5, 0.2, 0.5], (0.5, 0.2), np.array([0.5, 0.2])])
def test_thresholds_once_each_in_their_order(thresholds: Any) -> None:
    assert check_thresholds(thresholds) == (0.5, 0.2)


@pytest.mark.parametrize("thresholds", [[], [None], [[0.5]], [0.0], [1.0], [float("nan")], ["half"]])
def test_thresholds_that_are_no_shares(thresholds: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"[Tt]hreshold"):
        check_thresholds(thresholds)


@pytest.mark.parametrize("options", [{"thresholds": 0.5}, {"thresholds": "0.5"}, {"size": 64.5}, {"size": "64"}])
def test_the_measurement_says_the_same(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        replk_probe.measure_erf("test_resnet", images=1, **options)
