"""Arguments that several functions check alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_seed, check_size, whole


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, np.float64(1), [1]])
def test_what_is_no_whole_number(value: Any) -> None:
    assert whole(value) is None
    assert [(whole(good), type(whole(good))) for good in (2, np.int64(2), np.uint8(2))] == [(2, int)] * 3


@pytest.mark.parametrize("seed", [None, "0", 0.0, True, -1, 2**63])
def test_seeds(seed: Any) -> None:
    assert [check_seed(good) for good in (0, np.int64(7), 2**63 - 1)] == [0, 7, 2**63 - 1]
    with pytest.raises(InvalidInputError, match="integer of 63 bits"):
        check_seed(seed)


@pytest.mark.parametrize("size", [None, True, 0, -1, 64.0, "64", (64,), (1, 2, 3), (64, None), (64, np.True_), 9])
def test_sizes(size: Any) -> None:
    assert [check_size(good, 1, 8) for good in (8, (1, 8), [np.int64(2), 3])] == [(8, 8), (1, 8), (2, 3)]
    with pytest.raises(InvalidInputError, match=r"cannot be measured\..*Give a side in pixels"):
        check_size(size, 1, 8)
