"""Resumable, verified downloads into a cache, over HTTP and from Google Drive."""

from __future__ import annotations

import contextlib
import email.message
import errno
import http.client
import importlib
import io
import json
import logging
import os
import queue
import re
import shutil
import socket
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

from replk_probe.errors import InvalidInputError, ReplkProbeError, WeightsError
from replk_probe.runtime.atomic_files import DISK_FULL, atomic_path, atomic_write_text, is_same_file, sha256_of
from replk_probe.runtime.escaping import printable
from replk_probe.runtime.paths import usable_path

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 18
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0)
_LOCK_POLL_SECONDS = 0.2
_STALL_SECONDS = 30.0
# A server that sends fewer bytes per second, averaged over a period of waiting, is given up.
_SLOWEST = 1024
_PERIOD_SECONDS = 60.0
# Maximum size of the headers and chunk sizes before the first and between two pieces of a body.
_MOST_HEADER_BYTES = 8 << 20
# A failed attempt counts as progress if it brought the download this much further.
_PROGRESS_BYTES = 1 << 16
# Maximum size of a file of unknown size: the largest weights in one file have about 20 GB.
_MOST_BYTES = 32 << 30
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_DRIVE = "https://drive.google.com/"
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/(?:([0-9]{1,18})|\*)", re.ASCII | re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_VALIDATOR = re.compile(r"[ -~]{1,1000}", re.ASCII)


class _InterruptedError(Exception):
    """The transfer stopped early for a reason that may be temporary."""


class _StartOverError(Exception):
    """The part file does not match the current file on the server."""


class _TooSlowError(OSError):
    """The server sends data more slowly than the minimum rate."""


def cache_dir() -> Path:
    """Folder for downloads: ``REPLK_PROBE_CACHE``, else the cache folder of the platform. It is not created."""
    if chosen := os.environ.get("REPLK_PROBE_CACHE"):
        return usable_path(chosen, "REPLK_PROBE_CACHE")
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
    max_size: int = _MOST_BYTES,
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
        retries: Maximum number of consecutive attempts without progress once the server has responded, and of times
            that the server may make the download start again from the first byte.
        force: Whether to download again even if a correct file exists; it is kept until the new one is complete.
        max_size: Maximum length in bytes if ``size`` is None.

    Raises:
        WeightsError: Offline, refused, not found, too slow (less than 1 KiB per second over a minute), too large, disk
            full, wrong digest or wrong size. The part file is kept if the download can be resumed from it.
    """
    target = Path(dest)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"Cannot download {url}. Only http and https addresses are supported. Check the address.")
    try:
        if not force and _is_good(target, sha256, size):
            return target
        part_path = target.with_name(target.name + ".part")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(part_path, lambda: not force and _is_good(target, sha256, size)) as part:
            if part is not None:
                if force:
                    part.truncate(0)
                most = max_size if size is None else size
                _Transfer(url, target, part_path, part, sha256, size, most, progress, connect_timeout, retries).run()
    except ReplkProbeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
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
    most: int
    progress: bool
    connect_timeout: float
    retries: int
    restarts: int = 0

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

    def _start_over(self) -> None:
        """Discard the received data; a server that requires this every time is not asked for ever."""
        self._forget()
        self.restarts += 1
        if self.restarts > max(self.retries, 1):
            raise self._refused("The server does not resume an interrupted download")

    def _receive(self) -> bool:
        """Complete the part file; return whether data of an earlier attempt was used."""
        resumed = False
        answered = False
        idle, furthest = 0, self._have()
        while True:
            try:
                resumed = self._attempt() or resumed
                return resumed
            except _StartOverError:
                self._start_over()
                resumed = False
                continue
            except _InterruptedError as error:
                answered = True
                reason = str(error)
            except UnreachableError:
                # An unreachable server is reported at once; a connection that is lost later is retried.
                if not answered:
                    raise
                reason = "the server no longer responds"
            # Compared with the furthest byte of all attempts, because the part file may have been emptied.
            if self._have() >= furthest + _PROGRESS_BYTES:
                idle, furthest = 0, self._have()
            else:
                idle += 1
            resumed = resumed or self._have() > 0
            if idle > self.retries:
                raise self._stopped(reason)
            time.sleep(_BACKOFF_SECONDS[min(idle, len(_BACKOFF_SECONDS) - 1)] if idle else 0.0)

    def _stopped(self, reason: str) -> WeightsError:
        return WeightsError(
            f"The download of {self.target.name} stopped at {self._have():,} bytes. {reason[:1].upper()}{reason[1:]}. "
            "Run the same command again to resume it."
        )

    def _refused(self, reason: str) -> WeightsError:
        return WeightsError(
            f"Cannot download {self.target.name}. {reason}. Download {self.url} manually and pass the path of the file."
        )

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
                status = f"{error.code} {one_line(error.reason)}"
                if error.code in _RETRY_STATUS:
                    raise _InterruptedError(f"the server returned {status}") from error
            raise self._refused(f"The server returned {status}") from error
        with contextlib.closing(response):
            if response.status == 206:
                start, total = _content_range(response.headers.get("Content-Range"))
                changed = notes.get("total") is not None and total != notes["total"]
                if start != have or changed or (total is not None and total < have):
                    raise _StartOverError
            elif response.status != 200:
                raise self._refused(f"The server returned {response.status} {one_line(response.reason)}")
            else:
                if have:
                    self._start_over()
                have = 0
                total = self._announced(response.headers)
            self._refuse_early(response, have, total)
            self._write_notes(response.headers, total)
            self._copy(response, have, total)
        return have > 0

    def _announced(self, headers: email.message.Message) -> int | None:
        """The length announced by a complete response, or None if it announces none."""
        text = str(headers.get("Content-Length") or "").strip()
        if text and not _LENGTH.fullmatch(text):
            raise self._refused(f"The server announces an invalid length ({one_line(text)[:40]})")
        return int(text) if text else None

    def _refuse_early(self, response: Response, have: int, total: int | None) -> None:
        for header, accepted in (("Content-Encoding", ("", "identity")), ("Transfer-Encoding", ("", "chunked"))):
            encoding = str(response.headers.get(header) or "").strip()
            if encoding.lower() not in accepted:  # The request accepts nothing but the file itself.
                raise self._refused(f"The server sends it in an encoded form ({header}: {one_line(encoding)})")
        if self.size is not None and total is not None and total != self.size:
            raise WeightsError(
                f"Refused to download {self.target.name}. The server offers {total:,} bytes, but the file should have "
                f"{self.size:,}. The file on the server has changed; download it manually and pass its path."
            )
        if total is not None and total > self.most:
            raise self._refused(f"The server offers {total:,} bytes, more than the maximum of {self.most:,}")
        if self.sha256 is None and response.headers.get_content_type() == "text/html":
            raise self._refused("The server returned an HTML page instead of a file")
        if total is not None:
            free = shutil.disk_usage(self.target.parent).free
            if total - have > free:
                raise OSError(errno.ENOSPC, f"{total - have:,} bytes are needed and {free:,} are free")

    def _copy(self, response: Response, have: int, total: int | None) -> None:
        limit = self.most if total is None else total
        with _bar(self.target.name, have, total, self.progress) as advance:
            self.part.seek(have)
            while True:
                try:
                    # Not read, which waits until all of these bytes have arrived.
                    chunk = response.read1(_CHUNK)
                except _TooSlowError as error:
                    raise self._stopped(str(error)) from error
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise _InterruptedError(f"the connection was lost ({one_line(error)})") from error
                if not chunk:
                    break
                have += len(chunk)
                if have > limit:
                    self._forget()
                    known = self.size is not None or total is not None
                    raise self._refused(
                        f"The server sent more than the {limit:,} bytes "
                        + ("that the file should have" if known else "allowed for a file of unknown size")
                    )
                self.part.write(chunk)
                advance(len(chunk))
            self.part.flush()
        if total is not None and have < total:
            raise _InterruptedError(f"the connection closed before byte {total:,}")

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self._notes.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        valid = isinstance(notes, dict) and notes.get("url") == self.url and isinstance(notes.get("validator"), str)
        return notes if valid else {}

    def _write_notes(self, headers: email.message.Message, total: int | None) -> None:
        validator = headers.get("ETag") or ""
        if not validator or validator.startswith("W/"):  # A weak tag does not guarantee equal bytes.
            validator = headers.get("Last-Modified") or ""
        if not _VALIDATOR.fullmatch(validator):  # It could not be sent back.
            validator = ""
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
            if _lock(part) and not is_same_file(path, part.fileno()):
                continue
            try:
                yield None if done() else part
            finally:
                # No data was received, or another process completed the file: remove the empty file.
                if not part.closed and os.fstat(part.fileno()).st_size == 0 and is_same_file(path, part.fileno()):
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
    found = _CONTENT_RANGE.fullmatch((header or "").strip())
    start, total = found.groups() if found else (None, None)
    return None if start is None else int(start), None if total is None else int(total)


def _disk_error(target: Path, error: OSError | ValueError) -> WeightsError:
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return WeightsError(
            f"No space left for {target.name} in {target.parent} ({reason}). "
            f"Free some space, or set REPLK_PROBE_CACHE to a folder on another disk, and run the same command again."
        )
    return WeightsError(f"Cannot write {target}. {reason}. Set REPLK_PROBE_CACHE to a writable folder.")


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
    reason: str
    headers: email.message.Message

    def read1(self, amount: int = ...) -> bytes:
        """Read at most ``amount`` bytes, without waiting for more if there are some; empty at the end."""
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
    if not 0 < budget <= threading.TIMEOUT_MAX:
        raise InvalidInputError(f"The connection timeout is {budget:g} seconds. Choose a positive number, such as 15.")
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


class _Metered(io.RawIOBase):
    """All bytes of a connection, which must arrive at a minimum rate and must not consist of headers only.

    A timeout of the socket applies to each packet: it never ends a connection that delivers one byte per second.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._waited = 0.0
        self._received = 0
        self._header_bytes = 0

    def readable(self) -> bool:
        """Whether the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Receive some bytes."""
        start = time.monotonic()
        count = self._raw.readinto(buffer)
        # Only the time of waiting for the server counts, not that of writing to a slow disk.
        self._waited += time.monotonic() - start
        self._received += count or 0
        self._header_bytes += count or 0
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise OSError(f"the server sent more than {_MOST_HEADER_BYTES:,} bytes of headers")
        if self._waited >= _PERIOD_SECONDS:
            if self._received < _SLOWEST * self._waited:
                raise _TooSlowError(
                    f"the server sent {self._received:,} bytes in {self._waited:.3g} s, less than {_SLOWEST:,} per s"
                )
            self._waited, self._received = 0.0, 0
        return count

    def body_received(self) -> None:
        """Note that what was received up to now includes a piece of the body."""
        self._header_bytes = 0

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()
        super().close()


class _MeteredResponse(http.client.HTTPResponse):
    """A response that ends with an error if the server is too slow or sends endless headers."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._meter = _Metered(self.fp.detach())
        self.fp = io.BufferedReader(self._meter)

    def read1(self, n: int = -1) -> bytes:
        """Read at most ``n`` bytes of the body."""
        chunk = super().read1(n)
        self._meter.body_received()
        return chunk


class _MeteredHandler(urllib.request.AbstractHTTPHandler):
    """Opens connections whose responses are metered."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **http_conn_args: Any) -> http.client.HTTPResponse:
        """The response to ``req``."""

        def connect(host: str, **options: Any) -> http.client.HTTPConnection:
            connection: http.client.HTTPConnection = http_class(host, **options)
            connection.response_class = _MeteredResponse
            return connection

        return super().do_open(connect, req, **http_conn_args)


class _HTTPHandler(_MeteredHandler, urllib.request.HTTPHandler):
    """Opens ``http`` addresses."""


class _HTTPSHandler(_MeteredHandler, urllib.request.HTTPSHandler):
    """Opens ``https`` addresses."""


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
        fp.close()  # The base class would read the body of the redirect, whatever its length.
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener for HTTP and HTTPS only: a redirect to ``file:`` or ``ftp:`` has no handler."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _HTTPHandler(),
        _HTTPSHandler(),
        _NoDowngrade(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def one_line(error: object) -> str:
    """The message of another library's error on one line, escaped and without the final period."""
    text = printable(" ".join((str(error) or type(error).__name__).split()).rstrip("."))
    return text[:1].upper() + text[1:200]
