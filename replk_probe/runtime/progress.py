"""A progress bar on standard error, shown only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from typing import Any, TypeVar

from tqdm import tqdm

from .escaping import printable

Item = TypeVar("Item")

# Items per second also for slow items, where tqdm would show seconds per item.
_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
_WITHOUT_TOTAL = "{desc}: {n_fmt} [{elapsed}, {rate_noinv_fmt}]"


def progress(
    iterable: Iterable[Item] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    unit: str = "image",
    initial: int = 0,
    disable: bool = False,
) -> tqdm[Item]:
    """Show the number of completed items and their rate.

    Wrap an iterable, or use it as a context manager and call ``update(1)`` for each completed item. Items completed by
    the run that this one resumes (``initial``) do not count for the rate; bytes (``unit="B"``) are shown in kB and MB.
    """
    stream = sys.stderr  # not a default argument: a test or a notebook may replace it after the import
    watched = stream is not None and stream.isatty()
    settings: dict[str, Any] = {"unit": "B", "unit_scale": True} if unit == "B" else {"unit": f" {unit}s"}
    known = total is not None or isinstance(iterable, Sized)
    bar: tqdm[Any] = tqdm(
        iterable,
        total=total,
        desc=printable(desc),
        initial=initial,
        disable=disable or not watched,
        file=stream,
        dynamic_ncols=True,
        leave=False,
        smoothing=0.1,
        bar_format=_FORMAT if known else _WITHOUT_TOTAL,
        **settings,
    )
    return bar
