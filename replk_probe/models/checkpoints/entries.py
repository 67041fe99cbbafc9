"""Entries and prefixes of a weights file, and the state dicts among which a model has to choose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from replk_probe.errors import WeightsError
from replk_probe.runtime.provenance import USUAL_ENTRIES

from .torch_file import StandIn

_AVERAGED_ENTRIES = ("model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema", "params_ema")
# Parts of the names of averages in self-supervised training.
_AVERAGED_PARTS = frozenset({*_AVERAGED_ENTRIES, "encoder_k", "momentum_encoder", "target_encoder", "target_network"})
# Prefixes added by DistributedDataParallel, torch.compile and wrapper classes.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# Deeper entries and prefixes are not searched, nor are more of them listed or compared with a model.
_DEEPEST = 16
_MOST_CANDIDATES = 12
# Types of one number per element, from which weights can be converted.
_TYPES = frozenset(
    getattr(torch, name)
    for name in (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz complex64 "
        "complex128 complex32 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
    ).split()
)
_LARGEST = 1 << 32

Entry = tuple[str, ...]  # names of nested dictionaries


@dataclass(frozen=True)
class StateFile:
    """A flat state dict of a file, and its location in the file.

    Attributes:
        state: Tensors by name, without prefixes.
        wrapper: Entry that was read, nested ones joined by dots; the prefix if the file has no entries; None for a flat
            file.
        prefix: Beginning that was removed from the names in the entry; "" if none was.
        averaged: Whether it is an average over training steps.
        ignored: Names in the entry that were left out.
        is_usual: Whether the entry and prefix follow from their usual names or from the arguments, and not from those
            of a model.
        selection: Arguments that select it, such as ``entry='teacher', prefix='backbone.'``.
    """

    state: dict[str, Tensor]
    wrapper: str | None
    prefix: str
    averaged: bool
    ignored: tuple[str, ...]
    is_usual: bool
    selection: str

    def __str__(self) -> str:
        """Selection and number of tensors."""
        return f"{self.selection or 'no entry or prefix'} ({_counted(len(self.state))})"


def state_files(
    content: object, path: Path, own: Collection[str], *, ema: bool, entry: str | None, prefix: str | None
) -> Iterator[StateFile]:
    """The state dicts in a file that may be meant, the most likely one first.

    Args:
        content: Content of the file.
        path: Path of the file, for messages.
        own: Names in the model, which select among the prefixes; may be empty.
        ema: Whether to take an averaged entry instead of the default one.
        entry: Entry to take, nested ones joined by dots, or None.
        prefix: Prefix of the names to take, which is removed from them, or None.

    Raises:
        WeightsError: There is no such entry or prefix, or a tensor cannot be loaded.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path.name} has no weights. It contains one {type(content).__qualname__} instead of named tensors. "
            "Save model.state_dict() and pass that file."
        )
    for names, level, averaged, is_usual in _entries(content, path, ema, entry):
        tensors = {name: value for name, value in level.items() if isinstance(name, str) and isinstance(value, Tensor)}
        for index, chosen in enumerate(_choices(tensors, own, prefix)):
            taken = {name.removeprefix(chosen.prefix): name for name in chosen.names}
            if not taken:
                starts = Counter(name.partition(".")[0] + "." * ("." in name) for name in tensors)
                found = ", ".join(f"{start} ({count})" for start, count in starts.most_common(5))
                raise WeightsError(
                    f"{path.name} has no tensor with the prefix {prefix!r}. Its names start with {found}. "
                    "Choose another prefix."
                )
            usual = "" if prefix is not None else _usual_prefix(taken, own)
            state = {name.removeprefix(usual): tensors[full] for name, full in taken.items()}
            kept = set(chosen.names)
            unread = {
                name: value
                for name, value in level.items()
                if isinstance(value, StandIn) and str(name).removeprefix(chosen.prefix + usual) in own
            }
            _check_loadable({**{name: tensors[name] for name in chosen.names}, **unread}, path)
            given = (("entry", ".".join(names)), ("prefix", chosen.prefix))
            yield StateFile(
                state,
                ".".join(names) or chosen.prefix + usual or None,
                chosen.prefix + usual,
                averaged or _is_averaged(chosen.prefix.split(".")),
                tuple(str(name) for name in level if name not in kept),
                is_usual and index == 0,
                ", ".join(f"{option}={value!r}" for option, value in given if value),
            )


@dataclass(frozen=True)
class _Choice:
    prefix: str
    names: Collection[str]  # names in the file


def _choices(tensors: Mapping[str, Tensor], own: Collection[str], prefix: str | None) -> list[_Choice]:
    """All names of an entry; those with each prefix of a copy of the model's names; and the rest."""

    def beginning(start: str) -> _Choice:
        return _Choice(start, [name for name in tensors if name.startswith(start)])

    if prefix is not None:
        return [beginning(prefix)]
    found = _prefixes(tensors, own)
    rest = [name for name in tensors if not name.startswith(tuple(found))] if found else []
    return [_Choice("", list(tensors)), *map(beginning, found), *([_Choice("", rest)] if rest else [])]


def _prefixes(names: Iterable[str], own: Collection[str]) -> list[str]:
    """Prefixes with which many names of the model occur, the most frequent and longest ones first."""
    counts: Counter[str] = Counter()
    for name in names if own else ():
        at = name.find(".")
        for _ in range(_DEEPEST):
            if at < 0:
                break
            if name[at + 1 :] in own:
                counts[name[: at + 1]] += 1
            at = name.find(".", at + 1)
    # Names of layers recur inside blocks, and those of the authors' files are partly others.
    least = max(max(counts.values(), default=0) / 2, len(own) / 4)
    usable = (prefix for prefix, count in counts.items() if count >= least)
    return sorted(usable, key=lambda prefix: (-counts[prefix], -len(prefix)))[:_MOST_CANDIDATES]


def _usual_prefix(names: Collection[str], own: Collection[str]) -> str:
    """Prefixes of wrapper classes that all names share, unless names of the model have them as well."""
    prefix = ""
    for _ in range(_DEEPEST):
        found = next((p for p in _PREFIXES if all(name.startswith(prefix + p) for name in names)), None)
        if found is None or any(name.startswith(found) for name in own):
            break
        prefix += found
    return prefix


def _entries(
    content: Mapping[Any, Any], path: Path, ema: bool, entry: str | None
) -> Iterator[tuple[Entry, Mapping[Any, Any], bool, bool]]:
    """Name and content of the entries that may be meant, whether each is averaged, and whether its name is usual."""
    start: Entry = ()
    if entry is not None:
        nested = _nested(content)
        start = next((name for name in nested if len(entry) == len(".".join(name)) and ".".join(name) == entry), ())
        if not start:
            raise WeightsError(f"{path.name} has no entry {entry!r}. {_listed(nested)}")
        content = nested[start]
    names, level, averaged = _unwrap(content, path, ema, start)
    has_tensors = _tensors_in(level) > 0
    if has_tensors:
        yield names, level, averaged, True
    if has_tensors and names:
        return
    inside = {
        name: inner for name, inner in _nested(level).items() if _tensors_in(inner) and not name[0].startswith("optim")
    }
    if not inside and not has_tensors:
        found = ", ".join(_described(name, value) for name, value in list(level.items())[:5]) or "nothing"
        raise WeightsError(f"{path.name} has no weights. It contains no tensors (found: {found}). Pass another file.")
    for name, inner in inside.items():
        is_only = len(inside) == 1 and not has_tensors
        yield (*names, *name), inner, averaged or _is_averaged(name), is_only


def _unwrap(content: Mapping[Any, Any], path: Path, ema: bool, start: Entry) -> tuple[Entry, Mapping[Any, Any], bool]:
    """Follow the usual names of entries as far as they lead."""
    names, level, averaged = start, content, _is_averaged(start)
    for _ in range(_DEEPEST):
        inside = {name for name, value in level.items() if isinstance(name, str) and isinstance(value, Mapping)}
        averages = [name for name in _AVERAGED_ENTRIES if name in inside]
        plain = [name for name in USUAL_ENTRIES if name in inside]
        if averages and not averaged and (ema or not plain):
            name, averaged = averages[0], True
        elif plain:
            name = plain[0]
        else:
            break
        names, level = (*names, name), level[name]
    if ema and not averaged and not any(_is_averaged(str(name).split(".", 4)[:4]) for name in level):
        found = ", ".join(repr(name) for name in list(content)[:5])
        raise WeightsError(
            f"{path.name} has no averaged weights. None of its entries ({found}, ...) is one of "
            f"{', '.join(_AVERAGED_ENTRIES)}. Leave out ema."
        )
    return names, level, averaged


def _nested(content: Mapping[Any, Any]) -> dict[Entry, Mapping[Any, Any]]:
    """The dictionaries inside others; each one is visited once, even if the file refers to it repeatedly."""
    found: dict[Entry, Mapping[Any, Any]] = {}
    seen = {id(content)}
    level: list[tuple[Entry, Mapping[Any, Any]]] = [((), content)]
    for _ in range(_DEEPEST):
        following = []
        for before, outer in level:
            for name, inner in outer.items():
                if isinstance(name, str) and isinstance(inner, Mapping) and id(inner) not in seen:
                    seen.add(id(inner))
                    following.append(((*before, name), inner))
        found.update(following)
        level = following
    return found


def _listed(nested: Mapping[Entry, Mapping[Any, Any]]) -> str:
    """The entries with tensors, with the number of them."""
    counts = [(".".join(name), count) for name, inner in nested.items() if (count := _tensors_in(inner))]
    if not counts:
        return "Its tensors are not in entries. Leave out the entry."
    shown = ", ".join(f"{name} ({_counted(count)})" for name, count in counts[:_MOST_CANDIDATES])
    return f"Its entries are {shown}{', ...' * (len(counts) > _MOST_CANDIDATES)}. Choose one of them."


def _tensors_in(level: Mapping[Any, Any]) -> int:
    return sum(isinstance(name, str) and isinstance(value, Tensor) for name, value in level.items())


def _counted(tensors: int) -> str:
    return f"{tensors} tensor{'s' * (tensors != 1)}"


def _is_averaged(names: Iterable[str]) -> bool:
    return any(name in _AVERAGED_PARTS for name in names)


def _described(name: object, value: object) -> str:
    return repr(name) + (f", an object of the class {type(value).__qualname__}" if isinstance(value, StandIn) else "")


def _check_loadable(values: Mapping[str, object], path: Path) -> None:
    """Raise WeightsError for the first value that cannot be converted to a dense tensor of moderate size."""
    for name, value in values.items():
        if reason := _hindrance(value):
            raise WeightsError(
                f"{path.name} has a tensor that cannot be loaded. {name} is {reason}. "
                "Save it as a dense tensor of floating-point numbers."
            )


def _hindrance(value: object) -> str | None:
    if not isinstance(value, Tensor):
        return f"an object of the class {type(value).__qualname__}"
    if value.is_nested:
        return "nested"
    if value.layout != torch.strided:
        return f"sparse ({value.layout})"
    if value.is_meta:
        return "on the meta device, without values"
    if value.is_quantized:
        return f"quantized ({value.dtype})"
    if value.dtype not in _TYPES:
        return f"of the type {value.dtype}"
    # A few bytes in a file can be expanded to any size.
    elements = math.prod(value.shape)
    return f"of {elements:,} elements" if elements > _LARGEST else None
