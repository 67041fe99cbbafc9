"""Writing a state dict as safetensors, with the same bytes for the same tensors."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from replk_probe.runtime.atomic_files import temporary_path

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors on the CPU that do not share memory to an existing file, whose mode is kept.

    The entry ``format``, which other programs expect, is added to the metadata of the header.

    Raises:
        OSError: The system cannot write the file; ``filename`` is ``path``.
    """
    texts = {"format": "pt", **metadata}
    mode = path.stat().st_mode
    # safetensors writes to a file with a random name first, which would stay if the process were killed.
    folder = temporary_path(path)
    folder.mkdir()
    try:
        save_file(dict(tensors), folder / path.name, texts)
        (folder / path.name).replace(path)
    except SafetensorError as error:
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    path.chmod(mode)  # only its owner may read a file that safetensors wrote
    _put_in_order(path)


def _put_in_order(path: Path) -> None:
    """Sort the metadata in the header, which safetensors writes in random order."""
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(ordered) <= size:  # padded with spaces, because the tensors must not move
            stream.seek(8)
            stream.write(ordered.ljust(size))
