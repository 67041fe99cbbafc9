"""Files on Google Drive, through the optional package gdown. Free of torch."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.runtime.atomic_files import atomic_path, atomic_write_text, sha256_of
from replk_probe.runtime.download import check_digest
from replk_probe.runtime.reach import check_reachable, one_line

_URL = "https://drive.google.com/"


def fetch_drive(
    file_id: str,
    dest: str | os.PathLike[str],
    sha256: str | None = None,
    progress: bool = True,
    connect_timeout: float = 5.0,
    force: bool = False,
) -> Path:
    """Download a Google Drive file through ``gdown``, which knows the confirmation page of large files.

    Drive publishes no digests. The one of the file that came is kept beside it in ``dest`` + ``.sha256``, so that a
    file damaged later is noticed and fetched again; a file without that note was put there by hand and is believed.

    Args:
        file_id: Drive's own id of the file.
        dest: Final file; its folder is created.
        sha256: Expected digest in hex, whole or its first digits; None: the noted one, if there is one.
        progress: Let ``gdown`` draw its progress bar.
        connect_timeout: Seconds to reach Google Drive at all.
        force: Fetch it again, even if a good file is there; that file stays until the new one is complete.

    Returns:
        ``dest`` as a path.

    Raises:
        WeightsError: ``gdown`` is missing, Drive cannot be reached or refuses the file, or the digest is wrong.
    """
    target = Path(dest)
    if not force and is_intact(target, sha256):
        return target
    manual = f"https://drive.google.com/file/d/{file_id}/view"
    try:
        gdown = importlib.import_module("gdown")
    except ImportError as error:
        raise WeightsError(
            f"Cannot fetch {target.name}. It lies on Google Drive and the optional package gdown is missing. "
            f"Install it with: pip install gdown (or download {manual} by hand and pass its path)."
        ) from error
    check_reachable(_URL, connect_timeout)
    with _writing(target) as temporary:
        try:
            answer = gdown.download(id=file_id, output=str(temporary), quiet=not (progress and sys.stderr.isatty()))
        except Exception as error:
            # gdown lets requests' and its own errors through; whatever it was, the file is not here.
            raise WeightsError(
                f"Google Drive did not hand out {target.name}. {one_line(error)}. "
                f"Download it by hand from {manual} and pass its path."
            ) from error
        with temporary.open("rb") as stream:
            start = stream.read(512)
        if answer is None or not start or _is_html(start):
            raise WeightsError(
                f"Google Drive did not hand out {target.name}. It answered with a page instead of the file (often its "
                f"daily quota). Download it by hand from {manual} and pass its path."
            )
        check_digest(temporary, target.name, sha256)
        digest = sha256_of(temporary)
        # The old note must not outlive the old file: a new file without a note is better than one with a wrong note.
        _note(target).unlink(missing_ok=True)
    # As sha256sum writes it: ``sha256sum -c`` reads it.
    atomic_write_text(_note(target), f"{digest}  {target.name}\n")
    return target


def is_intact(target: Path, sha256: str | None = None) -> bool:
    """Whether the file is there and, where its digest is given or noted beside it, has that digest."""
    if not target.is_file():
        return False
    expected = sha256 or noted_digest(target)
    return expected is None or sha256_of(target).startswith(expected.lower())


def noted_digest(target: Path) -> str | None:
    """SHA-256 that the file had when it was fetched, or None where nothing is noted."""
    try:
        digest = _note(target).read_text("utf-8").split(maxsplit=1)[0].lower()
    except (OSError, ValueError, IndexError):
        return None
    return digest if len(digest) == 64 and set(digest) <= set("0123456789abcdef") else None


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[Path]:
    try:
        with atomic_path(target) as temporary:
            yield temporary
    except InvalidInputError as error:
        raise WeightsError(str(error)) from error


def _is_html(start: bytes) -> bool:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))
