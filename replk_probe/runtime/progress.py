"""A progress bar on standard error, and only where somebody watches it. Free of torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Things per second also where one takes many: tqdm would turn to seconds per thing.
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
    """Count things done, with their number per second.

    Use it around an iterable, or as a context manager with ``update(1)`` for each thing done.

    Args:
        iterable: What to count, or None.
        total: How many there will be; by default the length of ``iterable``.
        desc: What is being done, before the bar.
        unit: One of the things counted; bytes (``"B"``) are shown in kB and MB.
        initial: How many were done before, by a run that this one continues; they do not count for the speed.
        disable: Draw nothing, even on a terminal.
    """
    stream = sys.stderr  # looked up now: a test or a notebook may have replaced it since the import
    watched = stream is not None and stream.isatty()
    settings: dict[str, Any] = {"unit": "B", "unit_scale": True} if unit == "B" else {"unit": f" {unit}s"}
    known = total is not None or isinstance(iterable, Sized)
    bar: tqdm[Any] = tqdm(
        iterable,
        total=total,
        desc=desc,
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
