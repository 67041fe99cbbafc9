"""Downloads against a local server that misbehaves on command."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import multiprocessing
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from replk_probe.errors import WeightsError
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
