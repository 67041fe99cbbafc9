"""Files under a URL, such as ``s3://bucket/folder``, by fsspec."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from replk_probe.errors import InvalidInputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is given as a URL; other ones are paths."""
    return isinstance(folder, str) and _SCHEME.match(folder) is not None


class Storage:
    """The files under a URL. Names are relative to it, with ``/`` between their parts.

    Args:
        url: URL of a folder, which need not exist.

    Raises:
        InvalidInputError: The scheme is unknown or needs a package that is not installed. All methods raise it if the
            storage cannot be used.
    """

    def __init__(self, url: str) -> None:  # noqa: D107
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        # Object stores have no folders; in a file system they must be created.
        options = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
        try:
            self._files, self._root = url_to_fs(self.url, **options)
        except ImportError as error:  # "Install s3fs to access S3"
            raise InvalidInputError(
                f"Cannot use {url}. {str(error).rstrip('.')}. Install the package with pip on all machines."
            ) from error
        except Exception as error:
            raise _unusable(self.url, error) from error

    def location(self, name: str) -> str:
        """URL of a file."""
        return f"{self.url}/{name}" if name else self.url

    def names(self, folder: str = "") -> list[str]:
        """Names of all files, or of those in a folder."""
        with self._usable(folder):
            self._files.invalidate_cache()  # other processes write as well
            found = self._files.find(self._path(folder))
            return sorted(name.removeprefix(f"{self._root}/") for name in found)

    def read(self, name: str) -> bytes | None:
        """Content of a file, or None if there is none."""
        with self._usable(name):
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self._usable(name):
            self._files.pipe_file(self._path(name), content)

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Copy files into a folder on this machine, under the same names."""
        for parent in {(folder / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)
        with self._usable(names[0] if names else ""):
            if names:
                self._files.get([self._path(name) for name in names], [str(folder / name) for name in names])

    def upload(self, folder: Path, name: str, last: str | None = None) -> None:
        """Replace a folder by one on this machine.

        Args:
            folder: Folder on this machine.
            name: Name of the folder here.
            last: Name of the file in it that is written after all others, and removed before them.
        """
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        there = [one.removeprefix(f"{name}/") for one in self.names(name)]
        if last in there:
            self.delete(f"{name}/{last}")
        for file in there:
            if file not in files:
                self.delete(f"{name}/{file}")
        first = [file for file in files if file != last]
        with self._usable(name):
            self._files.put([str(folder / file) for file in first], [self._path(f"{name}/{file}") for file in first])
        if last is not None:
            self.write(f"{name}/{last}", (folder / last).read_bytes())

    def delete(self, name: str) -> None:
        """Remove a file or folder, if there is one."""
        with self._usable(name), contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()
            self._files.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    @contextlib.contextmanager
    def _usable(self, name: str) -> Iterator[None]:
        """Turn all errors into one that names the file: each kind of storage has its own."""
        try:
            yield
        except Exception as error:
            raise _unusable(self.location(name), error) from error


def _unusable(url: str, error: Any) -> InvalidInputError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return InvalidInputError(f"Cannot use {url}. {reason}. Check the address, the credentials and the network.")
