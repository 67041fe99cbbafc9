"""Reading files of ``torch.save`` with torch's restricted unpickler, without objects of the classes it refuses."""

from __future__ import annotations

import gc
import pickle
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# An instruction of a pickle that names a class or a function. The lookahead also finds one that starts inside another
# match; names that only look like one do no harm.
_NAMES = re.compile(rb"(?=c([\w.]{1,200})\n([\w.]{1,200})\n)")
_MOST_NAMES = 512
# The older serialization starts with its pickle, which is followed by the numbers.
_LARGEST_PICKLE = 1 << 28
# torch's refusal to fill an object that is neither a list nor a dictionary.
_REFUSED_ITEMS = re.compile(r"Can only (append|extend|SETITEMS?)\b.* but got <class '([^']+)'>")
_MOST_ATTEMPTS = 16


class StandIn:
    """An object of a class or function that is named in a file, of which nothing is imported, executed or kept."""

    def __new__(cls, *args: object, **kwargs: object) -> StandIn:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:  # noqa: D107
        pass

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


class _List(StandIn):
    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return []


class _Dictionary(StandIn):
    def __new__(cls, *args: object, **kwargs: object) -> Any:
        # Of the dictionaries that the unpickler fills, the one whose attributes it sets in every form of a state.
        return Counter()


def read_torch_file(path: Path, *, is_zip: bool) -> object:
    """The content of a file of ``torch.save``, with tensors on the CPU, memory-mapped if possible.

    ``torch.load(weights_only=True)`` reads it. If it refuses the file because of classes or functions outside its list,
    it reads the file again with a :class:`StandIn` for each of them. Lists and dictionaries of other classes become
    plain ones.

    Raises:
        pickle.UnpicklingError: The file is refused nevertheless, such as for a function of the module ``os``.
        Exception: The file is damaged; parsers raise errors of any type.
    """
    stand_ins: dict[str, type[StandIn]] = {}
    for _ in range(_MOST_ATTEMPTS):
        known: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(known), _undisturbed():
                # Memory mapping needs the zip container; the older serialization is one stream.
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            refused = _REFUSED_ITEMS.search(str(error))
            if refused is not None and refused[2] in stand_ins:
                base = _Dictionary if refused[1].startswith("SETITEM") else _List
                stand_ins[refused[2]] = _stand_in(refused[2], base)
            elif not stand_ins and (names := _names_in(path, is_zip=is_zip)):
                stand_ins = {name: _stand_in(name, _BASES.get(name, StandIn)) for name in names}
            else:
                raise
    raise pickle.UnpicklingError("It has too many classes that are lists or dictionaries")


_BASES = {"collections.defaultdict": _Dictionary, "collections.deque": _List}


def _stand_in(name: str, base: type[StandIn]) -> type[StandIn]:
    """A class whose instances torch's errors describe as ``<class 'NAME'>``."""
    return type(name, (base,), {"__module__": "builtins"})


def _names_in(path: Path, *, is_zip: bool) -> set[str]:
    """Names of everything that the file's pickle may ask for, and harmless others; none if there are too many."""
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    else:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_PICKLE)
    names = set()
    for found in _NAMES.finditer(content):
        module, name = found[1].decode(), found[2].decode()
        # Pickles of torch have the names of Python 2, of which torch translates most.
        new_module, new_name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        names |= {f"{module}.{name}", f"{new_module}.{new_name}"}
        if len(names) > _MOST_NAMES:
            return set()
    return names


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without warnings, and without the garbage collector, whose passes over many new objects take most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if enabled:
            gc.enable()
