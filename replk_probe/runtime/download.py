"""Resumable, verified downloads into a cache, over HTTP and from Google Drive."""

from __future__ import annotations

import contextlib
import email.message
import errno
import http.client
import importlib
import json
import logging
import os
import queue
import shutil
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.runtime.atomic_files import DISK_FULL, atomic_path, atomic_write_text, sha256_of

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 18
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0)
_LOCK_POLL_SECONDS = 0.2
_STALL_SECONDS = 30.0
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_DRIVE = "https://drive.google.com/"


class _InterruptedError(Exception):
    """The transfer stopped early for a reason that may be temporary."""


class _StartOverError(Exception):
    """The part file does not match the current file on the server."""


def cache_dir() -> Path:
    """Folder for downloads: ``REPLK_PROBE_CACHE``, else the cache folder of the platform. It is not created."""
    if chosen := os.environ.get("REPLK_PROBE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "replk-probe"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "replk-probe" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "replk-probe"


def fetch(
    url: str,
    dest: str | os.PathLike[str],
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    connect_timeout: float = 5.0,
    retries: int = 3,
    force: bool = False,
) -> Path:
    """Download ``url`` to ``dest``, whose folder is created, resuming an interrupted download.

    Data is written to ``dest`` + ``.part``; only a complete, verified file gets the final name. An existing file is
    kept if its digest and size are correct. On systems with ``flock``, a second process waits for the first.

    Args:
        url: An ``http`` or ``https`` address.
        dest: Path of the file.
        sha256: Expected digest in hex, complete or its first digits; None to skip the check.
        size: Expected length in bytes; None to check only against the length announced by the server.
        progress: Whether to show a progress bar on stderr, if that is a terminal.
        connect_timeout: Total seconds for name lookup, connection, redirects and the first response.
        retries: Maximum number of consecutive attempts without new data, once the server has responded.
        force: Whether to download again even if a correct file exists; it is kept until the new one is complete.

    Raises:
        WeightsError: The part file is kept if the download can be resumed from it.
    """
    target = Path(dest)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"Cannot download {url}. Only http and https addresses are supported. Check the address.")
    if not force and _is_good(target, sha256, size):
        return target
    part_path = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(part_path, lambda: not force and _is_good(target, sha256, size)) as part:
            if part is not None:
                if force:
                    part.truncate(0)
                _Transfer(url, target, part_path, part, sha256, size, progress, connect_timeout, retries).run()
    except OSError as error:
        raise _disk_error(target, error) from error
    return target


def _is_good(target: Path, sha256: str | None, size: int | None) -> bool:
    if not target.is_file() or (size is not None and target.stat().st_size != size):
        return False
    return sha256 is None or sha256_of(target).startswith(sha256.lower())


def check_digest(path: Path, name: str, sha256: str | None) -> None:
    """Raise a :class:`WeightsError` if the file's digest does not start with ``sha256``; None skips the check."""
    if sha256 is None:
        return
    found = sha256_of(path)
    if not found.startswith(sha256.lower()):
        raise WeightsError(
            f"{name} has the wrong content. Its SHA-256 is {found[: max(len(sha256), 12)]}... but should start with "
            f"{sha256}. Try again; if the error persists, the file on the server has changed."
        )


@dataclass
class _Transfer:
    """One download into an open, locked part file."""

    url: str
    target: Path
    path: Path
    part: IO[bytes]
    sha256: str | None
    size: int | None
    progress: bool
    connect_timeout: float
    retries: int

    def run(self) -> None:
        resumed = self._receive()
        try:
            self._verify()
        except WeightsError:
            self._forget()
            if not resumed:
                raise
            # The parts may come from two versions of the file: retry from the start once.
            self._receive()
            try:
                self._verify()
            except WeightsError:
                self._forget()
                raise
        self.part.flush()
        os.fsync(self.part.fileno())
        if os.name == "nt":  # Windows cannot rename an open file.
            self.part.close()
        self.path.replace(self.target)
        self._notes.unlink(missing_ok=True)

    @property
    def _notes(self) -> Path:
        """Path of the record of the response that the part file belongs to."""
        return self.path.with_name(self.path.name + ".json")

    def _have(self) -> int:
        return self.part.seek(0, os.SEEK_END)

    def _forget(self) -> None:
        self.part.truncate(0)
        self.part.seek(0)
        self._notes.unlink(missing_ok=True)

    def _receive(self) -> bool:
        """Complete the part file; return whether data of an earlier attempt was used."""
        resumed = False
        idle = 0
        answered = False
        while True:
            before = self._have()
            try:
                resumed = self._attempt() or resumed
                return resumed
            except _StartOverError:
                self._forget()
                resumed = False
                reason = "the file changed on the server"
            except _InterruptedError as error:
                answered = True
                reason = str(error)
            except UnreachableError:
                # An unreachable server is reported at once; a connection that is lost later is retried.
                if not answered:
                    raise
                reason = "the server no longer responds"
            idle = 0 if self._have() > before else idle + 1
            resumed = resumed or self._have() > 0
            if idle > self.retries:
                raise WeightsError(
                    f"The download of {self.target.name} stopped at {self._have():,} bytes. {reason.capitalize()}. "
                    f"Run the same command again to resume it."
                )
            time.sleep(_BACKOFF_SECONDS[min(idle, len(_BACKOFF_SECONDS) - 1)] if idle else 0.0)

    def _attempt(self) -> bool:
        """Send one request; return whether it resumed from existing data."""
        request = urllib.request.Request(
            self.url, headers={"User-Agent": "replk-probe", "Accept-Encoding": "identity", "Accept": "*/*"}
        )
        have = self._have()
        notes = self._read_notes()
        validator = notes.get("validator")
        if have and (validator or self.sha256):
            request.add_header("Range", f"bytes={have}-")
            if validator:
                request.add_header("If-Range", validator)
        elif have:
            self._forget()
            have = 0
        try:
            response = open_url(request, self.connect_timeout)
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                if error.code == 416 and have:
                    total = _content_range(error.headers.get("Content-Range"))[1]
                    if total == have:
                        return True
                    raise _StartOverError from error
                if error.code in _RETRY_STATUS:
                    raise _InterruptedError(f"the server returned {error.code} {error.reason}") from error
            raise WeightsError(
                f"Cannot download {self.target.name}. The server returned {error.code} {error.reason} for {self.url}. "
                f"Download the file manually and pass its path."
            ) from error
        with contextlib.closing(response):
            if response.status == 206:
                start, total = _content_range(response.headers.get("Content-Range"))
                if start != have or (notes.get("total") is not None and total != notes["total"]):
                    raise _StartOverError
            else:
                self._forget()
                have = 0
                total = _length(response.headers)
            self._refuse_early(response, have, total)
            self._write_notes(response.headers, total)
            self._copy(response, have, total)
        return have > 0

    def _refuse_early(self, response: Response, have: int, total: int | None) -> None:
        if self.size is not None and total is not None and total != self.size:
            raise WeightsError(
                f"Refused to download {self.target.name}. The server offers {total:,} bytes, but the file should have "
                f"{self.size:,}. The file on the server has changed; download it manually and pass its path."
            )
        if self.sha256 is None and response.headers.get_content_type() == "text/html":
            raise WeightsError(
                f"Cannot download {self.target.name}. The server returned an HTML page instead of a file for "
                f"{self.url}. Download the file manually and pass its path."
            )
        if total is not None:
            free = shutil.disk_usage(self.target.parent).free
            if total - have > free:
                raise OSError(errno.ENOSPC, f"{total - have:,} bytes are needed and {free:,} are free")

    def _copy(self, response: Response, have: int, total: int | None) -> None:
        with _bar(self.target.name, have, total, self.progress) as advance:
            self.part.seek(have)
            while True:
                try:
                    chunk = response.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _InterruptedError(f"the connection was lost ({one_line(error)})") from error
                if not chunk:
                    break
                self.part.write(chunk)
                have += len(chunk)
                advance(len(chunk))
            self.part.flush()
        if total is not None and have < total:
            raise _InterruptedError(f"the connection closed before byte {total:,}")

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self._notes.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) and notes.get("url") == self.url else {}

    def _write_notes(self, headers: email.message.Message, total: int | None) -> None:
        validator = headers.get("ETag") or ""
        if not validator or validator.startswith("W/"):  # A weak tag does not guarantee equal bytes.
            validator = headers.get("Last-Modified") or ""
        notes = {"url": self.url, "validator": validator, "total": total}
        if notes != self._read_notes():
            self._notes.write_text(json.dumps(notes), "utf-8")

    def _verify(self) -> None:
        self.part.flush()
        have = self._have()
        if self.size is not None and have != self.size:
            raise WeightsError(
                f"{self.target.name} has {have:,} bytes but should have {self.size:,}. The file on the server has "
                f"changed. Download it manually and pass its path."
            )
        check_digest(self.path, self.target.name, self.sha256)


@contextlib.contextmanager
def _claimed(path: Path, done: Callable[[], bool]) -> Iterator[IO[bytes] | None]:
    """The open part file ``path``, locked against other processes; None if one of them finished in the meantime.

    The lock is on the part file itself, so that no lock file remains. If the locked file was renamed to its final name
    while this process waited, the lock is acquired again.
    """
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as part:
            if _lock(part) and not _is_same_file(path, part):
                continue
            try:
                yield None if done() else part
            finally:
                # No data was received, or another process completed the file: remove the empty file.
                if not part.closed and os.fstat(part.fileno()).st_size == 0 and _is_same_file(path, part):
                    path.unlink()
            return


def _lock(part: IO[bytes]) -> bool:
    """Wait for the lock; return False if the platform or the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    warned = False
    while True:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not warned:
                _LOG.warning("Waiting for another process that is downloading the same file.")
            warned = True
            time.sleep(_LOCK_POLL_SECONDS)
        except OSError:
            return False


def _is_same_file(path: Path, part: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(part.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _bar(name: str, have: int, total: int | None, wanted: bool) -> Iterator[Callable[[int], object]]:
    if not (wanted and sys.stderr.isatty()):
        yield lambda _count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        yield bar.update


def _content_range(header: str | None) -> tuple[int | None, int | None]:
    """``"bytes 5-9/10"`` -> (5, 10); ``"bytes */10"`` -> (None, 10); anything else -> (None, None)."""
    try:
        span, total = (header or "").removeprefix("bytes").strip().split("/")
        start = None if span.strip() == "*" else int(span.split("-")[0])
        return start, None if total.strip() == "*" else int(total)
    except ValueError:
        return None, None


def _length(headers: email.message.Message) -> int | None:
    text = headers.get("Content-Length") or ""
    return int(text) if text.isdigit() else None


def _disk_error(target: Path, error: OSError) -> WeightsError:
    if error.errno in DISK_FULL:
        return WeightsError(
            f"No space left for {target.name} in {target.parent} ({error.strerror}). "
            f"Free some space, or set REPLK_PROBE_CACHE to a folder on another disk, and run the same command again."
        )
    return WeightsError(
        f"Cannot write {target}. {error.strerror or error}. Set REPLK_PROBE_CACHE to a writable folder."
    )


def fetch_drive(
    file_id: str,
    dest: str | os.PathLike[str],
    sha256: str | None = None,
    progress: bool = True,
    connect_timeout: float = 5.0,
    force: bool = False,
) -> Path:
    """Download a Google Drive file with ``gdown``, which handles the confirmation page of large files.

    Drive publishes no digests. The digest of the downloaded file is stored in ``dest`` + ``.sha256``, so that a file
    that was damaged later is downloaded again. A file without a stored digest is accepted without a check. The other
    arguments and errors are those of :func:`fetch`.
    """
    target = Path(dest)
    if not force and is_intact(target, sha256):
        return target
    manual = f"https://drive.google.com/file/d/{file_id}/view"
    try:
        gdown = importlib.import_module("gdown")
    except ImportError as error:
        raise WeightsError(
            f"Cannot fetch {target.name}. It is on Google Drive, and the optional package gdown is not installed. "
            f"Install it with: pip install gdown (or download {manual} manually and pass its path)."
        ) from error
    check_reachable(_DRIVE, connect_timeout)
    with _writing(target) as temporary:
        try:
            answer = gdown.download(id=file_id, output=str(temporary), quiet=not (progress and sys.stderr.isatty()))
        except Exception as error:
            # gdown raises its own errors and those of requests.
            raise WeightsError(
                f"Google Drive did not return {target.name}. {one_line(error)}. "
                f"Download it manually from {manual} and pass its path."
            ) from error
        with temporary.open("rb") as stream:
            start = stream.read(512)
        if answer is None or not start or _is_html(start):
            raise WeightsError(
                f"Google Drive did not return {target.name}. It returned a page instead of the file (often because of "
                f"its daily quota). Download it manually from {manual} and pass its path."
            )
        check_digest(temporary, target.name, sha256)
        digest = sha256_of(temporary)
        # Remove the old digest first: a new file without a digest is better than one with the wrong digest.
        _note(target).unlink(missing_ok=True)
    # In the format of sha256sum, so that ``sha256sum -c`` can check it.
    atomic_write_text(_note(target), f"{digest}  {target.name}\n")
    return target


def is_intact(target: Path, sha256: str | None = None) -> bool:
    """Whether the file exists and has the given or stored digest, if there is one."""
    if not target.is_file():
        return False
    expected = sha256 or noted_digest(target)
    return expected is None or sha256_of(target).startswith(expected.lower())


def noted_digest(target: Path) -> str | None:
    """SHA-256 of the file stored when it was downloaded, or None."""
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


class Response(Protocol):
    """The part of an open HTTP response that this module uses."""

    status: int
    headers: email.message.Message

    def read(self, amount: int = ...) -> bytes:
        """Read at most ``amount`` bytes; empty at the end."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class UnreachableError(WeightsError):
    """The host did not respond.

    Attributes:
        host: Name of the host.
        reason: Reason, as a sentence without the period.
    """

    def __init__(self, host: str, reason: str = "No response") -> None:
        """Compose the message."""
        super().__init__(f"Cannot reach {host}. {reason}. Check the network, or pass a file or random weights.")
        self.host = host
        self.reason = reason


def check_reachable(url: str, timeout: float = 5.0) -> None:
    """Raise an error if the host of ``url`` does not respond within ``timeout`` seconds in total; proxies are used."""
    try:
        open_url(urllib.request.Request(url, method="HEAD"), timeout).close()
    except urllib.error.HTTPError as error:  # An error status is a response.
        error.close()


def open_url(request: urllib.request.Request, budget: float) -> Response:
    """Open ``request`` within ``budget`` seconds in total.

    Socket timeouts apply per address and per packet, and do not cover name lookup, which blocks on an offline machine.
    Therefore the connection is opened in a thread that can be abandoned.
    """
    answers: queue.Queue[Response | BaseException] = queue.Queue()
    abandoned = threading.Event()

    def work() -> None:
        try:
            answer: Response | BaseException = _opener().open(request, timeout=_STALL_SECONDS)
        except BaseException as error:
            answer = error
        answers.put(answer)
        if abandoned.is_set():
            _discard(answers)

    threading.Thread(target=work, name="replk-probe-connect", daemon=True).start()
    host = urllib.parse.urlsplit(request.full_url).netloc
    try:
        answer = answers.get(timeout=budget)
    except queue.Empty:
        abandoned.set()
        _discard(answers)
        raise UnreachableError(host, f"No response within {budget:g} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        raise answer
    if isinstance(answer, OSError | http.client.HTTPException | ValueError):
        reason = getattr(answer, "reason", None) or answer
        reason = getattr(reason, "strerror", None) or reason
        raise UnreachableError(host, one_line(reason)) from answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _discard(answers: queue.Queue[Response | BaseException]) -> None:
    with contextlib.suppress(queue.Empty):
        late = answers.get_nowait()
        if not isinstance(late, BaseException) or isinstance(late, urllib.error.HTTPError):
            late.close()


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, except from https to an insecure address."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request for ``newurl``."""
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            fp.close()
            raise WeightsError(
                f"Refused to follow a redirect from {old.netloc} to {new.scheme}://{new.netloc}. The connection would "
                f"no longer be secured by https. Download the file manually and pass its path."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener for HTTP and HTTPS only: a redirect to ``file:`` or ``ftp:`` has no handler."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _NoDowngrade(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def one_line(error: object) -> str:
    """The message of another library's error on one line without the final period."""
    text = " ".join((str(error) or type(error).__name__).split()).rstrip(".")
    return text[:1].upper() + text[1:200]
