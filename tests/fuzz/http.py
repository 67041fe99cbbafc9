"""Downloads from a server whose responses are random: correct, damaged or hostile."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from replk_probe.errors import ReplkProbeError
from replk_probe.runtime import download

CONTENT = bytes(range(256)) * 1200  # 300 kB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
# Seconds that one case may take, on a busy machine, and requests that a server may receive.
LONGEST = 30.0
MOST_REQUESTS = 60
MAX_SIZE = 1_000_000

STATUSES = (
    "200", "206", "416 Range", "302 Found", "308 Moved",
    "404 \x1b[2J", "503 Busy", "204 None", "100 Continue", "101 Switch", "299 \x9b\x85", "999 ?", "0 zero", "-1 no", "",
)  # fmt: skip
NUMBERS = ("0", "-1", "²", "9" * 5000, "1e3", "0x10", "", " ", "300000", str(len(CONTENT)), str(10**17), "1, 2", "\x00")
ENCODINGS = ("gzip", "identity", "deflate, gzip", "br", "\x1b[2J", "")
LOCATIONS = (
    "/again", "", "//", "http://[::1", "http://127.0.0.1:9/", "file:///etc/passwd", "ftp://x/", "http://a:b:c/", "\x1b",
    "http://127.0.0.1:99999/", "?" + "x" * 9000, "https://127.0.0.1:9/", "/%00", "javascript:1",
)  # fmt: skip
ENTITY_TAGS = ('"a"', 'W/"a"', '"\x1b"', "é", '"' + "x" * 5000 + '"', "", '"\x00"')

# Lines that no field has, lines without a name, and long ones.
ODD_LINES = ("no colon", ": empty", "A: b\r\n folded: c", "X: " + "y" * 70_000, "\x1b: \x85")
KINDS = ("cut", "cut", "more", "endless", "trickle", "packed", "other", "none")
CHUNK_SIZES = (b"-5", b"zz", b"", b"f" * 99)
TRAILERS = (b"", b"0\r\nA: b\r\n", b"0\r\n" + b"A: b\r\n" * 10_000)


class Hostile:
    """Random responses, each part of which is wrong with a given probability."""

    def __init__(self, generator: random.Random) -> None:
        self.random = generator
        self.wrong = generator.choice((0.03, 0.1, 0.3, 0.8))

    def pick(self, right: str, wrong: Sequence[object]) -> str:
        """The right value or one of the wrong ones."""
        return str(self.random.choice(wrong)) if self.random.random() < self.wrong else right

    def headers(self, first: int, partial: bool) -> list[str]:
        """Lines of the header."""
        last, total = len(CONTENT) - 1, len(CONTENT)
        lines = [f"Content-Length: {self.pick(str(total - first * partial), NUMBERS)}"]
        if partial:
            start = self.pick(str(first), (0, first + 1, "*", "²"))
            span = f"{start}-{self.pick(str(last), (0, -1, 'x'))}/{self.pick(str(total), ('*', first, *NUMBERS))}"
            lines.append(f"Content-Range: bytes {span}")
        for name, values in (
            ("ETag", ENTITY_TAGS),
            ("Content-Encoding", ENCODINGS),
            ("Location", LOCATIONS),
            ("Content-Type", ("text/html", "x", "/", "text/html; charset=²")),
            ("Transfer-Encoding", ("gzip, chunked", "x", "chunked", "chunked")),
        ):
            if value := self.pick("", values):
                lines.append(f"{name}: {value}")
        if odd := self.pick("", ODD_LINES):
            lines.append(odd)
        if self.random.random() < 0.3:
            lines.append("Transfer-Encoding: chunked")
        if self.random.random() < self.wrong:
            lines.pop(self.random.randrange(len(lines)))
        self.random.shuffle(lines)
        return lines

    def body(self, first: int, chunked: bool) -> Iterator[bytes]:
        """Pieces of the body."""
        rest = CONTENT[first:]
        kind = self.pick("right", KINDS)
        if kind == "cut":
            rest = rest[: self.random.randrange(len(rest) + 1)]
        elif kind == "more":
            rest += b"more"
        elif kind == "packed":
            rest = gzip.compress(rest)
        elif kind == "other":
            rest = self.random.randbytes(self.random.randrange(5000))
        elif kind == "none":
            return
        step = 1 if kind == "trickle" else self.random.choice((1000, 65536, 10**6))
        while True:
            for at in range(0, len(rest), step):
                piece = rest[at : at + step]
                if chunked:
                    wrong = self.random.random() < self.wrong / 50
                    size = self.random.choice(CHUNK_SIZES) if wrong else b"%x" % len(piece)
                    piece = size + b"\r\n" + piece + b"\r\n"
                yield piece
                if kind == "trickle":
                    time.sleep(0.02)
            if kind != "endless" or not rest:
                break
        if chunked:
            yield self.random.choice(TRAILERS) if self.random.random() < self.wrong else b"0\r\n\r\n"

    def response(self, first: int) -> Iterator[bytes]:
        """Pieces of one response, whose range starts at ``first``."""
        way = self.pick("right", ("right", "right", "noise", "silent", "continue"))
        if way == "noise":
            yield self.random.randbytes(self.random.randrange(200))
        elif way == "continue":
            while True:
                yield b"HTTP/1.1 100 Continue\r\n\r\n" * 1000
        elif way == "right":
            partial = first > 0 and self.random.random() >= self.wrong / 2
            status = self.pick("206 Partial Content" if partial else "200 OK", STATUSES)
            version = self.pick("HTTP/1.1", ("HTTP/1.0", "HTTP/1.0", "HTTP/9", "ICY"))
            lines = self.headers(first, status.startswith("206"))
            end = self.pick("\r\n\r\n", ("\r\n",))
            yield ("\r\n".join([f"{version} {status}", *lines]) + end).encode("latin-1", "replace")
            yield from self.body(first * status.startswith("206"), "Transfer-Encoding: chunked" in lines)


class Server:
    """A server that answers each connection with the next random response."""

    def __init__(self, generator: random.Random) -> None:
        self.requests: list[int] = []
        self.sent: list[str] = []
        self._hostile = Hostile(generator)
        self._closing = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/file"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1.0)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (received := connection.recv(65536)):
            request += received
        _, found, value = request.partition(b"Range: bytes=")
        first = min(int(value.partition(b"-")[0]), len(CONTENT)) if found else 0
        self.requests.append(first)
        start = True
        for piece in self._hostile.response(first):
            if start:
                self.sent.append(repr(piece[:300]))
            start = False
            if self._closing.is_set():
                return
            connection.sendall(piece)

    def close(self) -> None:
        """Stop the server."""
        self._closing.set()
        self._thread.join(LONGEST)
        self._socket.close()


def run(rng: random.Random, folder: Path) -> str:
    """Download one file from a random server; return the kind of the outcome.

    Raises:
        AssertionError: Anything but the correct file or an error of this package resulted, in bounded time and space.
    """
    digest = rng.choice((DIGEST, DIGEST[:8], None))
    size = rng.choice((len(CONTENT), None))
    target = folder / "w"
    if rng.random() < 0.3:
        (folder / "w.part").write_bytes(CONTENT[: rng.randrange(len(CONTENT))] + rng.choice((b"", b"x" * 500_000)))
    if rng.random() < 0.2:
        (folder / "w.part.json").write_bytes(rng.choice((b"", b"[]", b'{"url": 1}', b'{"validator": 5}', b"\xff")))
    server = Server(random.Random(rng.random()))
    constants: dict[str, Any] = {
        "_BACKOFF_SECONDS": (0.0,),
        "_PERIOD_SECONDS": 0.3,
        "_STALL_SECONDS": 1.0,
        "_MOST_HEADER_BYTES": 1 << 20,
    }
    start = time.monotonic()
    outcome = "file"
    error: BaseException | None = None
    proxies = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    try:
        with mock.patch.multiple(download, **constants), mock.patch.dict(os.environ, proxies, clear=True):
            download.fetch(
                server.url, target, digest, size, progress=False, connect_timeout=1.0, retries=2, max_size=MAX_SIZE
            )
    except Exception as caught:
        error = caught
        outcome = type(caught).__name__
    finally:
        server.close()
    seconds = time.monotonic() - start
    problems = []
    if error is not None and not (isinstance(error, ReplkProbeError) and str(error).isprintable()):
        problems.append(f"raised {error!r}")
    if seconds > LONGEST:
        problems.append(f"took {seconds:.0f} s")
    if len(server.requests) > MOST_REQUESTS:
        problems.append(f"sent {len(server.requests)} requests")
    if (error is None) != target.is_file():
        problems.append(f"outcome {outcome}, but the file {'exists' if target.is_file() else 'does not exist'}")
    if target.is_file():
        content = target.read_bytes()
        if digest is not None and content != CONTENT:
            problems.append("saved a file with the wrong content")
        if size is not None and len(content) != size:
            problems.append("saved a file with the wrong size")
        if [path.name for path in folder.iterdir()] != ["w"]:
            problems.append(f"left {sorted(path.name for path in folder.iterdir())}")
    if sum(path.stat().st_size for path in folder.glob("w*")) > MAX_SIZE + 100_000:
        problems.append("wrote more than the maximum")
    assert not problems, (
        f"fetch(sha256={digest}, size={size}) {'; '.join(problems)}. Ranges from {server.requests}; "
        f"responses {server.sent}"
    )
    return outcome
