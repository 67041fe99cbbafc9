"""Weights on the Hugging Face hub, fetched from a local server that answers as the hub does."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from replk_probe.errors import WeightsError
from replk_probe.models.weights.catalog import CATALOG
from replk_probe.models.weights.hub import cached_hub_file, fetch_verified
from replk_probe.models.weights.resolve import cached_path, fetch_entry

REPOSITORY, FILE = "DingXiaoH/UniRepLKNet", "unireplknet_n_in1k_224_acc81.64.pth"
CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ADDRESS = f"/{REPOSITORY}/resolve/main/{FILE}"


@dataclass
class Hub:
    """The local server; ``requests`` has the method and the Range header of each request."""

    endpoint: str = ""
    content: bytes = CONTENT
    etag: str = DIGEST
    cut_after: int | None = None  # the connection is closed after so many bytes, once
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            state.requests.append((self.command, self.headers["Range"]))
            state.tokens.add(self.headers["Authorization"])
            if self.path.partition("?")[0] != ADDRESS:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            first = int(wanted[1]) if wanted and body else 0
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{state.etag}"')
            self.send_header("Content-Length", str(len(state.content) - first))
            self.end_headers()
            if body:
                last, state.cut_after = state.cut_after or len(state.content), None
                self.wfile.write(state.content[first:last])
                if last < len(state.content):
                    self.close_connection = True

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield state
    server.shutdown()
    server.server_close()


def fetched(sha256: str | None = None, *, force: bool = False) -> Path:
    return fetch_verified(REPOSITORY, FILE, sha256, 5.0, force=force)


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["stated by the hub", "known"])
def test_a_file_is_fetched_once_and_verified(hub: Hub, sha256: str | None) -> None:
    assert cached_hub_file(REPOSITORY, FILE) is None
    path = fetched(sha256)
    assert path.read_bytes() == CONTENT and path == cached_hub_file(REPOSITORY, FILE)
    hub.requests.clear()
    assert fetched(sha256) == path
    assert hub.requests == []
    assert fetched(sha256, force=True) == path
    assert [method for method, _ in hub.requests][-1] == "GET"


def test_catalog_entries_are_found_in_the_cache_of_the_hub(hub: Hub) -> None:
    entry = CATALOG["unireplknet_n.in1k_224"]
    assert entry.host == "HF hub" and entry.sha256 is None and cached_path(entry) is None
    assert fetch_entry(entry) == cached_path(entry)
    with pytest.raises(WeightsError, match=r"is not on drive\. It is on HF hub\. Use host 'auto'\."):
        fetch_entry(entry, host="drive")


def test_the_token_is_sent_to_a_mirror(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched()
    assert "Bearer hf_secret" in hub.tokens


def test_an_interrupted_download_is_resumed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.cut_after = 300_000
    assert fetched().read_bytes() == CONTENT
    assert [wanted for method, wanted in hub.requests if method == "GET"] == [None, f"bytes={4 << 16}-"]


def test_wrong_content_is_refused(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=rf"{re.escape(FILE)} has the wrong content\. Its SHA-256 is {DIGEST[:12]}"):
        fetched("0" * 64)


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub) -> None:
    path = fetched()
    path.resolve().write_bytes(b"damaged")
    assert fetched().read_bytes() == CONTENT


def test_a_file_without_a_stated_digest_is_refused(hub: Hub) -> None:
    hub.etag = "1a2b"
    with pytest.raises(WeightsError, match=r"The hub states no SHA-256 of it\."):
        fetched()


def test_without_links_the_hub_is_asked_for_the_digest(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
    path = fetched()
    assert not path.is_symlink() and path.read_bytes() == CONTENT
    hub.etag = "0" * 64
    with pytest.raises(WeightsError, match="has the wrong content"):
        fetched()


def test_a_missing_file_is_one_error(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=r"Cannot fetch DingXiaoH/UniRepLKNet from the Hugging Face hub\."):
        fetch_verified(REPOSITORY, "none.pth", None, 5.0)


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1"):
        fetched()
