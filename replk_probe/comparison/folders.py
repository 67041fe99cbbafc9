"""Comparison of the results in two folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from replk_probe.collection import Collection, Saved, find_results
from replk_probe.errors import InvalidInputError
from replk_probe.results import Result

from .differences import Comparison, compare_results

ANALYZERS = {
    "erf": "erf",
    "shape_bias": "shape-bias",
    "behaviour": "behaviour",
    "reliance": "reliance",
    "kernels": "kernels",
    "bench": "bench",
}


def compare_folders(first: str | Path, second: str | Path) -> tuple[Comparison, ...]:
    """Compare the results of every analyzer that both folders have.

    If a folder has one result of an analyzer, it is compared with the one of the other folder. If it has several, the
    results of the same model are compared.

    Args:
        first: A folder, with results in it or in its subfolders.
        second: Another folder.

    Returns:
        The comparisons, first minus second.

    Raises:
        InvalidInputError: A result cannot be read, the folders have no analyzer in common, it cannot be known which
            results to compare, or as for :func:`compare_results`.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.comparison import compare_folders
        >>> from replk_probe.erf import import_erf
        >>> small, large = (import_erf(np.pad(np.ones((n, n)), 16 - n // 2), name=f"{n}x{n}") for n in (8, 16))
        >>> small.save("small"), large.save("large")
        (None, None)
        >>> [(one.analyzer, one.first, one.second) for one in compare_folders("large", "small")]
        [('erf', '16x16', '8x8')]
    """
    collections = find_results(first), find_results(second)
    for one in collections:
        if one.unreadable:
            raise InvalidInputError(one.unreadable[0][1])
    pairs = [pair for name in ANALYZERS for pair in _pairs(name, first, second, *collections)]
    if not pairs:
        found = [" and ".join(label for name, label in ANALYZERS.items() if getattr(one, name)) for one in collections]
        raise InvalidInputError(
            f"Cannot compare {first} and {second}. The first has results of {found[0]}, the second of {found[1]}. Give "
            "two folders with results of one analyzer."
        )
    return tuple(compare_results(*pair) for pair in pairs)


def _pairs(
    name: str, first: str | Path, second: str | Path, one: Collection, other: Collection
) -> Iterator[tuple[Result, Result]]:
    left: Sequence[Saved[Any]] = getattr(one, name)
    right: Sequence[Saved[Any]] = getattr(other, name)
    if len(left) == len(right) == 1:
        yield left[0].result, right[0].result
        return
    if not left or not right:
        return
    counted = [Counter(map(_model, side)) for side in (left, right)]
    common = [model for model in counted[0] if model is not None and counted[0][model] == counted[1][model] == 1]
    if not common:
        raise InvalidInputError(
            f"Cannot compare {first} and {second}. They have {len(left)} and {len(right)} results of "
            f"{ANALYZERS[name]}, and no model that occurs once in each. Give the folders of two of these results."
        )
    for model in common:
        (a,), (b,) = ([saved.result for saved in side if _model(saved) == model] for side in (left, right))
        yield a, b


def _model(saved: Saved[Any]) -> str | None:
    return getattr(getattr(saved.result, "run", None), "model", None)
