"""Writing a state dict as safetensors: whole or not at all, and the same bytes for the same tensors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``path``, which is best a temporary file of :func:`~replk_probe.runtime.atomic_files.atomic_path`.

    Args:
        tensors: On the CPU, contiguous, none sharing memory with another.
        path: An existing file, whose mode is kept.
        metadata: Texts for the file's header; ``format`` is added, which other programs look for.

    Raises:
        OSError: The system cannot write the file; ``filename`` is ``path``.
    """
    texts = {"format": "pt", **metadata}
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, texts)
    except SafetensorError as error:
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    path.chmod(mode)  # safetensors puts a file of its own there, which nobody else may read
    _put_in_order(path)


def _put_in_order(path: Path) -> None:
    """Sort the texts in the header, which safetensors writes in an order of chance."""
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(ordered) <= size:  # spaces may follow; the tensors must stay where they are
            stream.seek(8)
            stream.write(ordered.ljust(size))
