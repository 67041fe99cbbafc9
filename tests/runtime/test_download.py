"""Downloads against a local server that misbehaves on command."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.server
import itertools
import multiprocessing
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest

from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.runtime import download
from replk_probe.runtime.atomic_files import atomic_path, atomic_write_text, sha256_of
from replk_probe.runtime.download import UnreachableError, cache_dir, check_reachable, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
# What a silent network lasts here, and what giving up on it after a fraction of a second may cost a busy machine.
_FOR_EVER = 60.0
_AT_ONCE = 20.0


@dataclass
class Behavior:
    """What the server does; ``requests`` holds the Range headers it has seen."""

    content: bytes = CONTENT
    etag: str | None = '"v1"'
    ranges: bool = True
    cut_after: int | None = None  # close the connection after so many bytes, once
    status: int | None = None  # answer that instead, once
    status_always: bool = False
    content_type: str = "application/octet-stream"
    redirect: str | None = None  # answer the first address with this one
    silent: bool = False  # keep the connection open and say nothing until the server is closed
    answer: Callable[[IO[bytes], int], object] | None = None  # write the whole response, given the first byte wanted
    requests: list[str | None] = field(default_factory=list)


class Server:
    def __init__(self) -> None:
        self.behavior = Behavior()
        self.closing = threading.Event()
        behavior = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            owner: ClassVar[Server] = behavior

            def log_message(self, *_: object) -> None: ...

            def do_HEAD(self) -> None:
                self.send_response(405)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.close_connection = True
                b = self.owner.behavior
                if b.redirect and self.path == "/file":
                    self.send_response(302)
                    self.send_header("Location", b.redirect)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                wanted = self.headers.get("Range")
                b.requests.append(wanted)
                if b.answer is not None:
                    first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
                    with contextlib.suppress(OSError):
                        b.answer(self.wfile, first)
                    return
                if b.silent:
                    self.owner.closing.wait(_FOR_EVER)
                    return
                if b.status is not None:
                    self.send_error(b.status)
                    b.status = b.status if b.status_always else None
                    return
                start = 0
                matches = self.headers.get("If-Range") in (None, b.etag)
                if wanted and b.ranges and matches:
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    if start >= len(b.content):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(b.content)}")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(b.content) - 1}/{len(b.content)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(b.content) - start))
                self.send_header("Content-Type", b.content_type)
                if b.etag:
                    self.send_header("ETag", b.etag)
                self.end_headers()
                body = b.content[start:]
                if b.cut_after is not None:
                    body, b.cut_after = body[: b.cut_after], None
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/file"
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_BACKOFF_SECONDS", (0.0,))
    found = Server()
    yield found
    found.close()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/file"


def test_plain_download_leaves_only_the_file(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "new" / "weights.pth"
    assert fetch(server.url, dest, DIGEST, len(CONTENT)) == dest
    assert dest.read_bytes() == CONTENT
    assert leftovers(dest.parent) == ["weights.pth"]


def test_digest_prefix_is_enough_and_a_good_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "weights.pth"
    fetch(server.url, dest, DIGEST[:8])
    fetch(server.url, dest, DIGEST[:8].upper())
    assert server.behavior.requests == [None]


def test_damaged_file_in_the_cache_is_replaced(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "weights.pth"
    dest.write_bytes(b"damaged")
    fetch(server.url, dest, DIGEST)
    assert dest.read_bytes() == CONTENT


def test_force_fetches_all_of_it_again(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "weights.pth"
    dest.write_bytes(b"damaged")
    (tmp_path / "weights.pth.part").write_bytes(b"damaged too")
    assert fetch(server.url, dest).read_bytes() == b"damaged"  # Without a digest nothing tells that it is.
    assert fetch(server.url, dest, force=True).read_bytes() == CONTENT
    fetch(server.url, dest, DIGEST, force=True)
    assert server.behavior.requests == [None, None]
    assert leftovers(tmp_path) == ["weights.pth"]


def test_forced_download_that_fails_keeps_the_old_file(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "weights.pth"
    dest.write_bytes(b"old")
    server.behavior.status, server.behavior.status_always = 404, True
    with pytest.raises(WeightsError, match="404"):
        fetch(server.url, dest, force=True)
    assert dest.read_bytes() == b"old"


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_interrupted_connection_is_resumed(server: Server, tmp_path: Path, digest: str | None) -> None:
    server.behavior.cut_after = 300_000
    fetch(server.url, tmp_path / "w", digest)
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert server.behavior.requests == [None, "bytes=300000-"]
    assert leftovers(tmp_path) == ["w"]


def test_earlier_attempt_is_resumed(server: Server, tmp_path: Path) -> None:
    server.behavior.cut_after = 400_000
    with pytest.raises(WeightsError, match=r"stopped at 400,000 bytes.*to resume it"):
        fetch(server.url, tmp_path / "w", retries=-1)
    assert not (tmp_path / "w").exists()
    fetch(server.url, tmp_path / "w", DIGEST)
    assert server.behavior.requests == [None, "bytes=400000-"]


def test_server_that_ignores_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.behavior.cut_after = 300_000
    server.behavior.ranges = False
    fetch(server.url, tmp_path / "w", DIGEST)
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_file_changed_between_attempts(server: Server, tmp_path: Path) -> None:
    server.behavior.cut_after = 300_000
    with pytest.raises(WeightsError):
        fetch(server.url, tmp_path / "w", retries=-1)
    server.behavior.content, server.behavior.etag = CONTENT[::-1], '"v2"'
    fetch(server.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT[::-1]


def test_an_undetected_change_of_the_file_is_found_by_its_digest(server: Server, tmp_path: Path) -> None:
    server.behavior.etag = None
    (tmp_path / "w.part").write_bytes(b"x" * 1000)
    fetch(server.url, tmp_path / "w", DIGEST)
    assert server.behavior.requests == ["bytes=1000-", None]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_part_without_validator_or_digest_is_not_trusted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(b"x" * 1000)
    fetch(server.url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_complete_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "w", DIGEST)
    assert server.behavior.requests == [f"bytes={len(CONTENT)}-"]


def test_part_longer_than_the_file_is_started_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT + b"more")
    fetch(server.url, tmp_path / "w", DIGEST)
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_wrong_digest_keeps_no_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"wrong content.*{DIGEST[:12]}.*should start with 0123abcd"):
        fetch(server.url, tmp_path / "w", "0123abcd")
    assert leftovers(tmp_path) == []


def test_wrong_size_is_refused_before_the_transfer(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"offers 1,048,576 bytes, but the file should have 5"):
        fetch(server.url, tmp_path / "w", size=5)
    assert leftovers(tmp_path) == []


def test_no_space_is_seen_before_the_transfer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = types.SimpleNamespace(total=10, used=9, free=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(WeightsError, match=r"No space left.*REPLK_PROBE_CACHE"):
        fetch(server.url, tmp_path / "w", DIGEST)
    assert leftovers(tmp_path) == []


def test_no_space_on_the_way_keeps_the_part(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = download._Transfer._copy

    def full(self: Any, response: Any, have: int, total: int | None) -> None:
        self.part.write(response.read(1000))
        self.part.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download._Transfer, "_copy", full)
    with pytest.raises(WeightsError, match="No space left"):
        fetch(server.url, tmp_path / "w", DIGEST)
    monkeypatch.setattr(download._Transfer, "_copy", copy)
    fetch(server.url, tmp_path / "w", DIGEST)
    assert server.behavior.requests == [None, "bytes=1000-"]


def test_interrupted_by_the_user_leaves_the_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Any, have: int, *__: Any) -> Any:
        @contextlib.contextmanager
        def bar() -> Iterator[Any]:
            def advance(count: int) -> None:
                raise KeyboardInterrupt

            yield advance

        return bar()

    monkeypatch.setattr(download, "_bar", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path / "w", DIGEST)
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    kept = (tmp_path / "w.part").stat().st_size
    assert kept > 0
    assert not (tmp_path / "w").exists()
    fetch(server.url, tmp_path / "w", DIGEST)
    assert server.behavior.requests == [None, f"bytes={kept}-"]


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.behavior.redirect = "/elsewhere"
    fetch(server.url, tmp_path / "w", DIGEST)
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_redirects_do_not_leave_https(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_without_tls(self: Any, request: Any) -> Any:
        return self.do_open(http.client.HTTPConnection, request)

    monkeypatch.setattr("urllib.request.HTTPSHandler.https_open", open_without_tls)
    secure = server.url.replace("http:", "https:")
    server.behavior.redirect = server.url.replace("/file", "/elsewhere")
    with pytest.raises(
        WeightsError,
        match=r"Refused to follow a redirect from 127\.0\.0\.1:\d+ to http://.*no longer be secured by https",
    ):
        fetch(secure, tmp_path / "w", DIGEST)
    assert server.behavior.requests == [] and leftovers(tmp_path) == []
    server.behavior.redirect = secure.replace("/file", "/elsewhere")
    assert fetch(secure, tmp_path / "w", DIGEST).read_bytes() == CONTENT


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode("latin-1")


def endless(*lines: str, piece: bytes = bytes(1 << 16), status: str = "200 OK") -> Callable[[IO[bytes], int], None]:
    """A response whose body ends only when the client closes the connection."""

    def answer(stream: IO[bytes], _: int) -> None:
        stream.write(head(*lines, status=status))
        while True:
            stream.write(piece)

    return answer


def fails(server: Server, dest: Path, match: str, **arguments: Any) -> None:
    """The download fails with one line; nothing is kept but a part file of at most the size of the content."""
    start = time.monotonic()
    with pytest.raises(WeightsError, match=match) as caught:
        fetch(server.url, dest, **arguments)
    assert time.monotonic() - start < _AT_ONCE
    assert str(caught.value).isprintable()
    assert not dest.exists()
    assert sum(path.stat().st_size for path in dest.parent.glob("*.part")) <= len(CONTENT)


CHUNK = b"10000\r\n" + bytes(1 << 16) + b"\r\n"


@pytest.mark.parametrize(
    ("lines", "piece"),
    [
        ((), CONTENT),
        (("Transfer-Encoding: chunked",), CHUNK),
        ((f"Content-Length: {len(CONTENT)}", "Transfer-Encoding: chunked"), CHUNK),
    ],
)
@pytest.mark.parametrize("digest", [DIGEST, None])
def test_body_longer_than_the_known_size_stops_there(
    server: Server, tmp_path: Path, lines: tuple[str, ...], piece: bytes, digest: str | None
) -> None:
    server.behavior.answer = endless(*lines, piece=piece)
    fails(server, tmp_path / "w", r"sent more than the 1,048,576 bytes that", sha256=digest, size=len(CONTENT))
    assert leftovers(tmp_path) == [] and len(server.behavior.requests) == 1


def test_body_longer_than_its_announced_length_is_cut(server: Server, tmp_path: Path) -> None:
    server.behavior.answer = endless(f"Content-Length: {len(CONTENT)}", piece=CONTENT)
    assert fetch(server.url, tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize("lines", [(), ("Transfer-Encoding: chunked",)])
def test_body_of_unknown_size_has_a_maximum(server: Server, tmp_path: Path, lines: tuple[str, ...]) -> None:
    server.behavior.answer = endless(*lines, piece=CHUNK)
    fails(server, tmp_path / "w", r"sent more than the 500,000 bytes allowed for a file of unknown", max_size=500_000)
    server.behavior.answer = endless(f"Content-Length: {10**15}")
    fails(server, tmp_path / "w", r"offers 1,000,000,000,000,000 bytes, more than the maximum of 34,359,738,368")


def test_range_longer_than_the_file_stops_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT[:1000])
    span = f"Content-Range: bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"
    server.behavior.answer = endless(span, status="206 Partial Content")
    fails(server, tmp_path / "w", r"sent more than the 1,048,576 bytes that the file should have", sha256=DIGEST)


def ranges(kind: str) -> Callable[[IO[bytes], int], None]:
    """A server that answers ranges wrongly; it closes every connection early, after random amounts."""
    lengths = itertools.cycle((300_000, 500_000, 400_000))

    def answer(stream: IO[bytes], first: int) -> None:
        end, total = len(CONTENT) - 1, len(CONTENT)
        span = {
            "always from 0": f"bytes 0-{end}/{total}",
            "another first byte": f"bytes {first + 1 if first else 0}-{end}/{total}",
            "another total": f"bytes {first}-{end}/{total + first}",
            "total below the first byte": f"bytes {first}-{end}/{first - 1}",
            "not a range": "bytes ²-5/10",
            "huge": f"bytes {first}-{end}/{'9' * 5000}",
            "unknown total": f"bytes {first}-{end}/*",
        }.get(kind)
        if kind == "416 for ever" and first:
            stream.write(head(f"Content-Range: bytes */{first + 1}", "Content-Length: 0", status="416 No"))
        elif span is not None and (first or kind in ("always from 0", "not a range")):
            stream.write(head('ETag: "a"', f"Content-Range: {span}", status="206 Partial Content"))
        else:
            stream.write(head('ETag: "a"', f"Content-Length: {total}"))
        stream.write(CONTENT[: next(lengths)])

    return answer


@pytest.mark.parametrize(
    "kind",
    [
        "ignored", "416 for ever", "always from 0", "another first byte", "another total", "total below the first byte",
        "not a range", "huge", "unknown total",
    ],
)  # fmt: skip
@pytest.mark.parametrize("digest", [DIGEST, None])
def test_server_that_answers_ranges_wrongly_is_asked_a_few_times(
    server: Server, tmp_path: Path, kind: str, digest: str | None
) -> None:
    server.behavior.answer = ranges(kind)
    fails(server, tmp_path / "w", "does not resume|stopped at|416", sha256=digest)
    assert len(server.behavior.requests) <= 10


def test_a_few_bytes_per_connection_are_no_progress(server: Server, tmp_path: Path) -> None:
    def answer(stream: IO[bytes], first: int) -> None:
        span = f"Content-Range: bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
        stream.write(head('ETag: "a"', span, status="206 Partial Content") + CONTENT[first : first + 3])

    server.behavior.answer = answer
    fails(server, tmp_path / "w", r"stopped at 12 bytes\. The connection closed before byte 1,048,576", sha256=DIGEST)
    assert len(server.behavior.requests) == 4


@pytest.mark.parametrize(
    ("lines", "piece"),
    [
        ((f"Content-Length: {len(CONTENT)}",), b"x"),
        (("Transfer-Encoding: chunked",), b"0"),  # the length of the first chunk never ends
        (("Transfer-Encoding: chunked",), b"1\r\nx\r\n"),
    ],
)
def test_a_trickle_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], piece: bytes
) -> None:
    monkeypatch.setattr(download, "_PERIOD_SECONDS", 0.3)

    def answer(stream: IO[bytes], _: int) -> None:
        stream.write(head(*lines))
        while not server.closing.wait(0.02):
            stream.write(piece)

    server.behavior.answer = answer
    fails(
        server, tmp_path / "w", r"stopped at \d+ bytes\. The server sent \d+ bytes in 0\.\d+ s, less than 1,024 per s"
    )
    assert len(server.behavior.requests) == 1


def test_endless_headers_and_trailers(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_MOST_HEADER_BYTES", 1 << 20)
    server.behavior.answer = endless(status="100 Continue", piece=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
    fails(server, tmp_path / "w", "sent more than 1,048,576 bytes of headers")
    body = b"%x\r\n" % len(CONTENT) + CONTENT + b"\r\n0\r\n"
    trailer = itertools.chain([body], itertools.repeat(b"A: b\r\n" * 1000))

    def answer(stream: IO[bytes], _: int) -> None:
        stream.write(head("Transfer-Encoding: chunked"))
        for piece in trailer:
            stream.write(piece)

    server.behavior.answer = answer
    fails(server, tmp_path / "w", "bytes of headers", retries=-1)


@pytest.mark.parametrize(
    ("length", "shown"),
    [("²", "²"), ("-5", "-5"), ("9" * 5000, "9" * 40), ("0x10", "0x10"), ("1e3", "1e3"), ("\x1b[2J", r"\\x1b\[2J")],
)
def test_invalid_length_is_refused(server: Server, tmp_path: Path, length: str, shown: str) -> None:
    server.behavior.answer = lambda stream, _: stream.write(head(f"Content-Length: {length}") + CONTENT)
    fails(server, tmp_path / "w", rf"announces an invalid length \({shown}\)")
    assert len(server.behavior.requests) == 1


def test_missing_length_is_read_to_the_end(server: Server, tmp_path: Path) -> None:
    server.behavior.answer = lambda stream, _: stream.write(head() + CONTENT)
    assert fetch(server.url, tmp_path / "w").read_bytes() == CONTENT
    server.behavior.answer = lambda stream, _: stream.write(head() + CONTENT[:-1])
    fails(server, tmp_path / "v", "1,048,575 bytes but should have 1,048,576", size=len(CONTENT))


@pytest.mark.parametrize(
    "line",
    [
        "Content-Encoding: gzip", "Content-Encoding: deflate", "Content-Encoding: x-gzip, identity",
        "Content-Encoding: \x1b[2J", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: gzip",
    ],
)  # fmt: skip
def test_encoded_body_is_not_taken_for_the_file(server: Server, tmp_path: Path, line: str) -> None:
    packed = gzip.compress(CONTENT)
    server.behavior.answer = lambda stream, _: stream.write(head(line, f"Content-Length: {len(packed)}") + packed)
    fails(server, tmp_path / "w", r"sends it in an encoded form \((Content|Transfer)-Encoding: ")
    server.behavior.answer = lambda stream, _: stream.write(head("Content-Encoding: identity") + CONTENT)
    assert fetch(server.url, tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize("status", ["204 None", "103 Early Hints", "299 \x1b[2J\x85", "404 \x1b[2J", "503 \x9b2J"])
def test_phrase_of_any_status_is_escaped(server: Server, tmp_path: Path, status: str) -> None:
    server.behavior.answer = lambda stream, _: stream.write(head("Content-Length: 0", status=status))
    fails(server, tmp_path / "w", rf"[Tt]he server returned {status[:3]}")


def test_redirects_end(server: Server, tmp_path: Path) -> None:
    server.behavior.redirect = server.url
    fails(server, tmp_path / "w", "returned 302 .*infinite loop")
    numbers = itertools.count()
    server.behavior.redirect = None
    server.behavior.answer = lambda stream, _: stream.write(
        head(f"Location: /{next(numbers)}", "Content-Length: 0", status="302 Found")
    )
    fails(server, tmp_path / "w", "returned 302 ")
    assert len(server.behavior.requests) <= 12
    # The body of a redirect is not read.
    server.behavior.answer = endless("Location: /again", status="302 Found")
    fails(server, tmp_path / "w", "returned 302 ")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_impossible_timeout(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InvalidInputError, match="The connection timeout is"):
        fetch("http://127.0.0.1:9/", tmp_path / "w", connect_timeout=seconds)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/w"])
def test_impossible_destination(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"Cannot write .*REPLK_PROBE_CACHE"):
        fetch(server.url, tmp_path / name)


def test_damaged_notes_are_ignored(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT[:1000])
    for notes in ("[]", "{}", f'{{"url": "{server.url}", "validator": 5}}', f'{{"url": "{server.url}"}}'):
        (tmp_path / "w.part.json").write_text(notes)
        assert fetch(server.url, tmp_path / "w", force=True).read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["w"]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refusal_is_reported_at_once(server: Server, tmp_path: Path, status: int) -> None:
    server.behavior.status, server.behavior.status_always = status, True
    with pytest.raises(WeightsError, match=f"returned {status}"):
        fetch(server.url, tmp_path / "w", DIGEST)
    assert len(server.behavior.requests) == 1
    assert leftovers(tmp_path) == []


def test_overloaded_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.behavior.status = 503
    fetch(server.url, tmp_path / "w", DIGEST)
    assert len(server.behavior.requests) == 2


def test_retries_of_an_unavailable_server_are_limited(server: Server, tmp_path: Path) -> None:
    server.behavior.status, server.behavior.status_always = 503, True
    with pytest.raises(WeightsError, match="503"):
        fetch(server.url, tmp_path / "w", DIGEST, retries=2)
    assert len(server.behavior.requests) == 3


def test_server_that_disconnects_halfway(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_url = download.open_url

    def gone(*args: Any) -> Any:
        if server.behavior.requests:
            raise UnreachableError("gone")
        return open_url(*args)

    server.behavior.cut_after = 300_000
    monkeypatch.setattr(download, "open_url", gone)
    with pytest.raises(WeightsError, match=r"stopped at 300,000 bytes\. The server no longer responds\. Run the same"):
        fetch(server.url, tmp_path / "w", DIGEST)
    assert (tmp_path / "w.part").stat().st_size == 300_000


def test_html_page_is_not_taken_for_a_file(server: Server, tmp_path: Path) -> None:
    server.behavior.content_type = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="HTML page"):
        fetch(server.url, tmp_path / "w")


def test_refused_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(WeightsError, match=r"Cannot reach 127\.0\.0\.1:\d+\. .*refused.*Check the network"):
        fetch(refused_url(), tmp_path / "w", DIGEST)
    assert waits == []  # It is not asked a second time.
    assert leftovers(tmp_path) == []


def test_silent_host_takes_no_longer_than_the_time_limit(server: Server, tmp_path: Path) -> None:
    server.behavior.silent = True
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"No response within 0\.3 s"):
        fetch(server.url, tmp_path / "w", DIGEST, connect_timeout=0.3)
    assert time.monotonic() - start < _AT_ONCE


def test_slow_name_lookup_takes_no_longer_than_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = threading.Event()

    def lookup(*_: object, **__: object) -> Any:
        found.wait(_FOR_EVER)
        raise socket.gaierror("unknown host")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    before = set(threading.enumerate())
    start = time.monotonic()
    with pytest.raises(WeightsError, match="No response within"):
        check_reachable("http://localhost:1/", 0.2)
    assert time.monotonic() - start < _AT_ONCE
    found.set()
    for thread in set(threading.enumerate()) - before:  # The one left behind ends inside this test.
        thread.join(_FOR_EVER)


def test_reachable_is_any_answer(server: Server) -> None:
    check_reachable(server.url)  # It answers 405 to HEAD.


def test_only_http(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Only http and https"):
        fetch((tmp_path / "secret").as_uri(), tmp_path / "w")


def test_unwritable_cache(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match=r"Cannot write .*REPLK_PROBE_CACHE"):
        fetch(server.url, tmp_path / "file" / "w", DIGEST)


def _fetch_in_child(url: str, dest: str) -> None:
    fetch(url, dest, DIGEST, progress=False)


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_two_processes_share_one_transfer(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_fetch_in_child, args=(server.url, str(tmp_path / "w"))) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["w"]
    assert len(server.behavior.requests) == 1


def test_two_threads_share_one_transfer(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(server.url, tmp_path / "w", DIGEST)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["w"]
    assert len(server.behavior.requests) == 1


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPLK_PROBE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("REPLK_PROBE_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "replk-probe"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir().parts[-3:] == ("Library", "Caches", "replk-probe")


def test_atomic_path_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "plot.png"
    atomic_write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == ["plot.png"]
    assert sha256_of(target) == hashlib.sha256(b"old").hexdigest()
