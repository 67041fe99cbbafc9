"""Reading the flat state dict of a weights file, and recognizing other kinds of files."""

from __future__ import annotations

import pickle
import re
import stat
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors.torch import load_file

from replk_probe.errors import WeightsError

from .entries import StateFile, state_files
from .torch_file import read_torch_file

_SNIFFED_BYTES = 4096
_ZIP = b"PK\x03\x04"
_FETCH_AGAIN = (
    "Fetch it again ('replk-probe weights fetch NAME --force' for weights in the catalog) and compare its SHA-256."
)
# First pickle of the pre-1.6 serialization: the number 0x1950a86a20f9469cfc6c, little-endian.
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")


def read_state_files(
    path: Path,
    *,
    ema: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
    own: Collection[str] = (),
) -> Iterator[StateFile]:
    """Read ``path`` (safetensors, or ``.pth`` in either serialization) without running any code in it.

    Args:
        path: Path of the file.
        ema: Whether to read the averaged entry instead of the default one.
        entry: Entry to read, or None.
        prefix: Prefix of the names to read, or None.
        own: Names in the model that the file is for; a prefix that they share is kept.

    Returns:
        The state dicts that may be meant, as from :func:`~.entries.state_files`. Tensors are on the CPU, possibly
        memory-mapped: copy them before the file changes.

    Raises:
        WeightsError: The file does not exist, contains no weights or no averaged entry, or is refused.
    """
    return state_files(_read(path), path, own, ema=ema, entry=entry, prefix=prefix)


def _read(path: Path) -> object:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise WeightsError(f"Cannot read weights from {path}. It is a folder. Pass the file in it.")
        if not stat.S_ISREG(status.st_mode):  # Reading from a pipe or a device may never end.
            raise WeightsError(f"Cannot read weights from {path}. It is not a regular file. Pass a file on a disk.")
        with path.open("rb") as stream:
            start = stream.read(_SNIFFED_BYTES)
    except OSError as error:
        raise WeightsError(f"Cannot read weights from {path}. {error.strerror or error}. Check the path.") from error
    kind = _what_else(start, status.st_size)
    if kind:
        raise _no_weights_file(path, kind)
    try:
        if _is_safetensors(start):
            return load_file(path, device="cpu")
        return read_torch_file(path, is_zip=start.startswith(_ZIP))
    except Exception as error:
        # Parsers raise all kinds of exceptions for damaged files; each of them means that the file cannot be used.
        raise _unreadable(path, start, error) from error


def _no_weights_file(path: Path, kind: str) -> WeightsError:
    return WeightsError(f"{path.name} is not a weights file. It appears to be {kind}. {_advice(kind)}")


def _unreadable(path: Path, start: bytes, error: Exception) -> WeightsError:
    kind = _zip_kind(path) if start.startswith(_ZIP) else None
    if kind:
        return _no_weights_file(path, kind)
    reason = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, pickle.UnpicklingError):
        return WeightsError(f"Cannot read {path.name}. It is damaged or incomplete ({reason[:120]}). {_FETCH_AGAIN}")
    wanted = re.search(r"GLOBAL ([\w.]+)", reason)
    if wanted is not None and not wanted[1].endswith("."):  # The file may end in the middle of a name.
        return WeightsError(
            f"Refused to read {path.name}. Loading it would run {wanted[1]}, which a state dict does not need. "
            "Ask its author to save a plain state dict or safetensors."
        )
    # torch puts its general advice around the reason.
    reason = reason.rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
    return WeightsError(
        f"Cannot read {path.name}. It is damaged or incomplete, or contains objects that a state dict does not "
        f"need ({reason[:120]}). Fetch it again, or ask its author to save a plain state dict or safetensors."
    )


def _is_safetensors(start: bytes) -> bool:
    """Whether a file starts with eight bytes of header length, followed by JSON."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100_000_000


def _what_else(start: bytes, size: int) -> str | None:
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
    if start.startswith(_ZIP):
        return None
    if start.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    if _is_safetensors(start):
        wanted = 8 + int.from_bytes(start[:8], "little")
        return f"a truncated safetensors file ({size:,} bytes)" if wanted > size else None
    if start.startswith(b"\x80"):
        if _LEGACY_MAGIC in start[:32]:
            return None
        if b"megengine" in start or b"numpy" in start:
            return "a pickle of NumPy arrays, as MegEngine writes them"
        return "a bare pickle, not written by torch.save"
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
    except (OSError, ValueError, NotImplementedError, RuntimeError):
        return "a damaged zip archive"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "a TorchScript archive"
    if any(name.endswith("/data.pkl") for name in names):
        return None
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras .keras file"
    return "a NumPy .npz archive" if any(name.endswith(".npy") for name in names) else "a zip archive without weights"


def _advice(kind: str) -> str:
    if "HTML" in kind:
        return "Download it in a browser (the page may ask for a confirmation) and pass that file."
    if any(word in kind for word in ("truncated", "damaged", "empty")):
        return _FETCH_AGAIN
    if "LFS" in kind:
        return "Run 'git lfs pull' in the repository of the file."
    return "Pass a .pth or .safetensors file."
