"""Reading the flat state dict of a weights file, and recognizing other kinds of files."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replk_probe.errors import WeightsError

# In this order: training scripts of RepLKNet and SLaK write "model", most others "state_dict"; both may nest.
_ENTRIES = ("model", "state_dict", "model_state_dict", "module", "net", "params")
_AVERAGED_ENTRIES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "params_ema")
# Prefixes added by DistributedDataParallel, torch.compile and wrapper classes.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SNIFFED_BYTES = 4096
_FETCH_AGAIN = (
    "Fetch it again ('replk-probe weights fetch NAME --force' for weights in the catalog) and compare its SHA-256."
)
# First pickle of the pre-1.6 serialization: the number 0x1950a86a20f9469cfc6c, little-endian.
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")


@dataclass(frozen=True)
class StateFile:
    """The flat state dict of a file, and its location in the file.

    Attributes:
        state: Tensors by name, without prefixes.
        wrapper: Entry that was read, nested ones joined by a dot; ``"module."`` or the like if names only have a
            prefix; None for a flat file.
        averaged: Whether ``wrapper`` is an average over training steps.
        ignored: Names in the state dict whose values are not tensors.
    """

    state: dict[str, Tensor]
    wrapper: str | None
    averaged: bool
    ignored: tuple[str, ...]


def read_state_file(path: Path, *, ema: bool = False, own_keys: Iterable[str] = ()) -> StateFile:
    """Read ``path`` (safetensors, or ``.pth`` in either serialization) without running any code in it.

    Args:
        path: Path of the file.
        ema: Whether to read the averaged entry instead of the default one.
        own_keys: Names in the model that the file is for; a prefix that they share is kept.

    Returns:
        Tensors on the CPU, possibly memory-mapped: copy them before the file changes.

    Raises:
        WeightsError: The file does not exist, contains no weights or no averaged entry, or is refused.
    """
    content = _read(path)
    state, entries, averaged = _unwrap(content, ema, path)
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        found = ", ".join(repr(name) for name in list(state)[:5]) or "nothing"
        raise WeightsError(f"{path.name} has no weights. It contains no tensors (found: {found}). Pass another file.")
    ignored = tuple(str(name) for name in state if name not in tensors)
    prefix = ""
    own = tuple(own_keys)
    while stripped := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        if any(name.startswith(stripped) for name in own):
            break
        tensors = {name.removeprefix(stripped): value for name, value in tensors.items()}
        prefix += stripped
    return StateFile(tensors, ".".join(entries) or prefix or None, averaged, ignored)


def _unwrap(content: object, ema: bool, path: Path) -> tuple[Mapping[Any, Any], list[str], bool]:
    entries: list[str] = []
    averaged = False
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path.name} has no weights. It contains one {type(content).__name__} instead of named tensors. "
            "Save model.state_dict() and pass that file."
        )
    level: Mapping[Any, Any] = content
    while True:
        inside = {name for name, value in level.items() if isinstance(value, Mapping)}
        averages = [name for name in _AVERAGED_ENTRIES if name in inside]
        plain = [name for name in _ENTRIES if name in inside]
        if averages and not averaged and (ema or not plain):
            entry, averaged = averages[0], True
        elif plain:
            entry = plain[0]
        else:
            break
        entries.append(entry)
        level = level[entry]
    if ema and not averaged:
        found = ", ".join(repr(name) for name in list(content)[:5])
        raise WeightsError(
            f"{path.name} has no averaged weights. None of its entries ({found}, ...) is one of "
            f"{', '.join(_AVERAGED_ENTRIES)}. Leave out ema."
        )
    return level, entries, averaged


def _read(path: Path) -> object:
    if path.is_dir():
        raise WeightsError(f"Cannot read weights from {path}. It is a folder. Pass the file in it.")
    try:
        with path.open("rb") as stream:
            start = stream.read(_SNIFFED_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"Cannot read weights from {path}. {error.strerror or error}. Check the path.") from error
    kind = _what_else(path, start, size)
    if kind:
        raise WeightsError(f"{path.name} is not a weights file. It appears to be {kind}. {_advice(kind)}")
    try:
        return _read_safetensors(path) if _is_safetensors(start, size) else _read_torch(path, start)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None or wanted[1].endswith("."):  # The file ends in the middle of a name.
            raise _damaged(path, error) from error
        raise WeightsError(
            f"Refused to read {path.name}. Loading it would run {wanted[1]}, which a state dict does not need. "
            "Ask its author to save a plain state dict or safetensors."
        ) from error
    except Exception as error:
        # Parsers raise all kinds of exceptions for damaged files; each of them means that the file cannot be used.
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return WeightsError(f"Cannot read {path.name}. It is damaged or incomplete ({reason[:120]}). {_FETCH_AGAIN}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path, device="cpu")


def _read_torch(path: Path, start: bytes) -> object:
    safe: list[Any] = [argparse.Namespace, np.dtype, (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar")]
    # Scalars of numpy that training scripts save with the weights; no arrays.
    safe += [np.float64(0).__reduce__()[0], *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1"))]
    with torch.serialization.safe_globals(safe):
        # Memory mapping needs the zip container; the older serialization is one stream.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file starts with eight bytes of header length, followed by JSON."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100_000_000


def _what_else(path: Path, start: bytes, size: int) -> str | None:
    """The apparent kind of a file that cannot hold weights, or None for one that may."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if size == 0:
        return "an empty file"
    if text[:64].lower().startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if start.startswith(b"\x89HDF\r\n"):
        return "a Keras .h5 file"
    if start.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if start.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    if _is_safetensors(start, size):
        wanted = 8 + int.from_bytes(start[:8], "little")
        return f"a truncated safetensors file ({size:,} bytes)" if wanted > size else None
    if start.startswith(b"\x80"):
        return None if _LEGACY_MAGIC in start[:32] else _pickle_kind(start)
    if start[257:262] == b"ustar":
        return "a tar archive"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start[:512]):
        return "a text file"
    return "an unknown format"


def _zip_kind(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return f"a truncated zip archive ({path.stat().st_size:,} bytes, without the central directory at its end)"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "a TorchScript archive"
    if any(name.endswith("/data.pkl") for name in names):
        return None
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras .keras file"
    return "a NumPy .npz archive" if any(name.endswith(".npy") for name in names) else "a zip archive without weights"


def _pickle_kind(start: bytes) -> str | None:
    if b"megengine" in start or b"numpy" in start:
        return "a pickle of NumPy arrays, as MegEngine writes them"
    return "a bare pickle, not written by torch.save"


def _advice(kind: str) -> str:
    if "HTML" in kind:
        return "Download it in a browser (the page may ask for a confirmation) and pass that file."
    if "truncated" in kind or "empty" in kind:
        return _FETCH_AGAIN
    if "LFS" in kind:
        return "Run 'git lfs pull' in the repository of the file."
    return "Pass a .pth or .safetensors file."
