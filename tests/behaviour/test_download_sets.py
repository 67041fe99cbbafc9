"""Sets fetched from a local server: archives of drawn images under the right names."""

from __future__ import annotations

import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replk_probe.behaviour import BENCHMARK_SETS, open_sets
from replk_probe.behaviour.download_sets import fetch_benchmark_set, problems_of, terms_are_open
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.runtime import download
from replk_probe.shape_bias.stimuli.archive_set import set_dir

Write = Callable[..., Path]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address pattern of the archives in it."""
    monkeypatch.setattr(download, "_BACKOFF_SECONDS", (0.0,))
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_address[1]}/{{name}}.tar.gz"
    httpd.shutdown()
    httpd.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def pack(folder: Path, target: Path, mtime: int = 0) -> None:
    """Write an archive with the folder at its top."""
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
                info.size, info.mtime = path.stat().st_size, mtime
                tar.addfile(info, io.BytesIO(path.read_bytes()))


def test_a_set_is_fetched_once_and_its_archive_is_recorded(write_set: Write, server: tuple[Path, str]) -> None:
    folder, url = server
    source = write_set("edge")
    pack(source, folder / "edge.tar.gz")
    place = fetch_benchmark_set("edge", url=url)
    assert place == set_dir("edge") and len(open_sets("edge")) == 160
    assert not place.with_name("edge.tar.gz").exists()
    published = (folder / "edge.tar.gz").read_bytes()
    (folder / "edge.tar.gz").unlink()
    assert fetch_benchmark_set("edge", url=url) == place  # nothing is downloaded
    # The same images in another archive are refused.
    pack(source, folder / "edge.tar.gz", mtime=1)
    with pytest.raises(WeightsError, match="has the wrong content"):
        fetch_benchmark_set("edge", url=url, force=True)
    assert len(open_sets("edge")) == 160
    (folder / "edge.tar.gz").write_bytes(published)
    (place / "bear" / "bear1.png").unlink()  # a damaged set is fetched again
    assert fetch_benchmark_set("edge", url=url) == place and len(open_sets("edge")) == 160


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "bear" / "bear1.png").unlink(), "9 images of bear instead of 10"),
        (lambda folder: (folder / "bear").rename(folder / "spoon"), "Its folder is not one of the 16"),
        (lambda folder: (folder / "bear" / "bear1.png").write_bytes(b"x"), "bear1.png"),
    ],
)
def test_an_archive_with_other_content_is_refused(
    write_set: Write, server: tuple[Path, str], change: Callable[[Path], object], message: str
) -> None:
    folder, url = server
    source = write_set("edge")
    change(source)
    pack(source, folder / "edge.tar.gz")
    with pytest.raises(InvalidInputError, match=message) as caught:
        fetch_benchmark_set("edge", url=url)
    assert "does not contain the published edge set" in str(caught.value)
    assert not set_dir("edge").exists() and not [*set_dir("edge").parent.glob("edge*")]


def test_images_of_another_size_are_refused(write_set: Write) -> None:
    found = problems_of(BENCHMARK_SETS["edge"], write_set("edge", side=64))
    assert found == "160 images are not 224 x 224 px"


def test_terms_are_accepted_once(write_set: Write, server: tuple[Path, str]) -> None:
    folder, url = server
    source = write_set("power-equalisation")
    pack(source, folder / "power-equalisation.tar.gz")
    assert terms_are_open(BENCHMARK_SETS["rotation"]) and not terms_are_open(BENCHMARK_SETS["sketch"])
    with pytest.raises(InvalidInputError, match=r"ImageNet terms of access \(https.*repeat this with accept_license"):
        fetch_benchmark_set("power-equalisation", url=url)
    fetch_benchmark_set("power-equalisation", url=url, accept_license=True)
    assert not terms_are_open(BENCHMARK_SETS["rotation"])
    images = open_sets().sets[0]
    assert len(images) == 1120 and not images.differences
    assert fetch_benchmark_set("power-equalisation", url=url) == set_dir("power-equalisation")


def test_offline() -> None:
    with pytest.raises(InvalidInputError, match=r"Cannot fetch the sketch stimuli from github\.com"):
        fetch_benchmark_set("sketch")
