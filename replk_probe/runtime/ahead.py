"""Values that threads compute ahead of their use."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


@contextmanager
def computed_ahead(
    function: Callable[[Item], Value], items: Iterable[Item], *, threads: int, waiting: int
) -> Iterator[Iterator[Value]]:
    """Call a function for each item in threads; yields an iterator over the values in the order of the items.

    An error is raised in place of the value. At the end of the context, items whose computation has not begun are
    discarded.

    Args:
        function: Function that can be called in several threads at the same time.
        items: Arguments of the function.
        threads: Number of threads; 0 to call the function when its value is requested.
        waiting: Number of values that are computed ahead.
    """
    if not threads:
        yield map(function, items)
        return
    pool = ThreadPoolExecutor(threads)
    # PIL's warnings are suppressed while a file is decoded. Filters are global: threads may restore them in another
    # order than they replaced them.
    with warnings.catch_warnings():
        try:
            yield _in_order(pool, function, items, waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Value], items: Iterable[Item], waiting: int
) -> Iterator[Value]:
    rest = iter(items)
    computed = deque(pool.submit(function, item) for item in itertools.islice(rest, waiting))
    while computed:
        value = computed.popleft().result()
        computed.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
        yield value
