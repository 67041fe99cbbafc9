"""The published set: fetched from a local server, unpacked, compared with the manifest."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.runtime import download
from replk_probe.runtime.archive import UnsafeArchiveError
from replk_probe.shape_bias import open_stimuli
from replk_probe.shape_bias.stimuli import archive_set, cue_conflict, manifest
from replk_probe.shape_bias.stimuli.cue_conflict import cue_conflict_dir, fetch_cue_conflict, verify_cue_conflict
from replk_probe.shape_bias.stimuli.manifest import Digests, cue_conflict_manifest
from replk_probe.shape_bias.stimuli.names import parse_stimulus_name

NAMES = (
    "airplane/airplane1-bear1.png",
    "airplane/airplane10-airplane1.png",
    "airplane/airplane2-bear3.png",
    "bear/bear1-airplane1.png",
    "bear/bear2-bear1.png",
)


def png(seed: int, level: int = 6) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=level)
    return stream.getvalue()


FILES: Mapping[str, bytes] = {name: png(seed) for seed, name in enumerate(NAMES)}


def pixels(data: bytes) -> str:
    return hashlib.sha256(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()).hexdigest()


def packed(files: Mapping[str, bytes], top: str = "cue-conflict") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def lay_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five small stimuli take the place of the published ones."""
    listed = {name: Digests(hashlib.sha256(data).hexdigest(), pixels(data)) for name, data in FILES.items()}
    monkeypatch.setattr(manifest, "cue_conflict_manifest", lambda: listed)
    monkeypatch.setattr(manifest, "PUBLISHED_SIZE", (12, 12))


class Server:
    """Serves ``content``; breaks off after ``cut_after`` bytes, once."""

    def __init__(self) -> None:
        self.content = b""
        self.cut_after: int | None = None
        self.ranges: list[str | None] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            owner: ClassVar[Server] = server

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                self.owner.ranges.append(wanted)
                data = self.owner.content
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - start))
                self.send_header("ETag", '"v1"')
                self.end_headers()
                body = data[start:]
                if self.owner.cut_after is not None:
                    body, self.owner.cut_after = body[: self.owner.cut_after], None
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/cue-conflict.tar.gz"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_BACKOFF_SECONDS", (0.0,))
    found = Server()
    yield found
    found.httpd.shutdown()
    found.httpd.server_close()


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_manifest_lists_the_published_set() -> None:
    listed = cue_conflict_manifest()
    assert len(listed) == 1280
    stimuli = {name: parse_stimulus_name(name.rpartition("/")[2]) for name in listed}
    assert all(name == f"{stimulus.shape}/{stimulus.name}" for name, stimulus in stimuli.items())
    pairs = {(stimulus.shape, stimulus.texture) for stimulus in stimuli.values()}
    assert len(pairs) == 256
    for shape in {shape for shape, _ in pairs}:
        assert sum(stimulus.shape == shape for stimulus in stimuli.values()) == 80
        assert sum(stimulus.shape == shape == stimulus.texture for stimulus in stimuli.values()) == 5
    for digests in listed.values():
        assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
    # No two are alike, so that a renamed file has one name only.
    assert len({digests.file for digests in listed.values()}) == len({d.pixels for d in listed.values()}) == 1280


def test_the_manifest_agrees_with_the_real_files(data_dir: Path) -> None:
    comparison, _ = verify_cue_conflict(data_dir / "cue-conflict")
    assert comparison.complete and comparison.same == tuple(cue_conflict_manifest())
    for name in ("airplane/airplane1-bicycle2.png", "truck/truck9-truck3.png"):
        assert pixels((data_dir / "cue-conflict" / name).read_bytes()) == cue_conflict_manifest()[name].pixels


# -- comparing --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_the_complete_set(tmp_path: Path) -> None:
    comparison, found = verify_cue_conflict(lay_out(tmp_path, FILES | {".DS_Store": b"x", "README.txt": b"x"}))
    assert comparison.complete and comparison.intact == comparison.same == tuple(sorted(FILES)) == tuple(found)
    assert comparison.problems == ""
    assert comparison.note == "The stimuli are the 5 of the published cue-conflict set."


@pytest.mark.usefixtures("published")
def test_everything_that_can_be_wrong_is_named(tmp_path: Path) -> None:
    files = dict(FILES)
    files["airplane/airplane2-bear9.png"] = files.pop("airplane/airplane2-bear3.png")  # renamed
    files["bear/bear1-airplane1.png"] = png(99)  # altered
    files["bear/bear3-bear1.png"] = png(98)  # extra
    del files["bear/bear2-bear1.png"]  # missing
    files["airplane/airplane1-bear1.png"] = png(0, level=0)  # re-encoded
    assert files["airplane/airplane1-bear1.png"] != FILES["airplane/airplane1-bear1.png"]
    comparison, _ = verify_cue_conflict(lay_out(tmp_path, files))
    assert not comparison.complete
    assert comparison.record() == {
        "published": 5,
        "same": 1,
        "reencoded": ["airplane/airplane1-bear1.png"],
        "altered": ["bear/bear1-airplane1.png"],
        "missing": ["bear/bear2-bear1.png"],
        "renamed": {"airplane/airplane2-bear3.png": "airplane/airplane2-bear9.png"},
        "extra": ["bear/bear3-bear1.png"],
    }
    assert comparison.problems == (
        "1 missing (bear/bear2-bear1.png); "
        "1 renamed (airplane/airplane2-bear9.png for airplane/airplane2-bear3.png); "
        "1 altered (bear/bear1-airplane1.png); 1 extra (bear/bear3-bear1.png)"
    )
    assert comparison.note.startswith("3 of the 5 stimuli of the published cue-conflict set; 1 missing")
    assert comparison.note.endswith("1 of them are re-encoded, with the same pixels (airplane/airplane1-bear1.png).")


@pytest.mark.usefixtures("published")
def test_reencoded_files_pass_with_a_note(tmp_path: Path) -> None:
    lay_out(tmp_path, {name: png(seed, level=0) for seed, name in enumerate(NAMES)})
    comparison, _ = verify_cue_conflict(tmp_path)
    assert comparison.complete and comparison.same == () and len(comparison.reencoded) == 5
    assert "5 of them are re-encoded, with the same pixels" in comparison.note


@pytest.mark.usefixtures("published")
def test_another_suffix_is_another_name_even_with_the_same_pixels(tmp_path: Path) -> None:
    files = dict(FILES)
    stream = io.BytesIO()
    Image.open(io.BytesIO(files.pop(NAMES[0]))).save(stream, "BMP")
    comparison, _ = verify_cue_conflict(lay_out(tmp_path, files | {"airplane/airplane1-bear1.bmp": stream.getvalue()}))
    assert comparison.renamed == {NAMES[0]: "airplane/airplane1-bear1.bmp"}
    lossy = io.BytesIO()
    Image.open(io.BytesIO(FILES[NAMES[0]])).save(lossy, "JPEG")
    (tmp_path / "airplane" / "airplane1-bear1.bmp").unlink()
    comparison, _ = verify_cue_conflict(lay_out(tmp_path, {"airplane/airplane1-bear1.jpg": lossy.getvalue()}))
    assert (comparison.missing, comparison.extra) == ((NAMES[0],), ("airplane/airplane1-bear1.jpg",))


@pytest.mark.usefixtures("published")
def test_two_swapped_files_are_altered(tmp_path: Path) -> None:
    comparison, _ = verify_cue_conflict(
        lay_out(tmp_path, FILES | {NAMES[0]: FILES[NAMES[1]], NAMES[1]: FILES[NAMES[0]]})
    )
    assert comparison.altered == (NAMES[0], NAMES[1])


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("content", [b"", b"<html>", FILES[NAMES[0]][:-30]])
def test_a_damaged_file_is_altered(tmp_path: Path, content: bytes) -> None:
    comparison, _ = verify_cue_conflict(lay_out(tmp_path, FILES | {NAMES[0]: content}))
    assert comparison.altered == (NAMES[0],)


@pytest.mark.usefixtures("published")
def test_the_same_bytes_of_another_shape_are_altered(tmp_path: Path) -> None:
    stream = io.BytesIO()
    flat = np.asarray(Image.open(io.BytesIO(FILES[NAMES[0]]))).reshape(6, 24, 3)
    Image.fromarray(flat).save(stream, "PNG")
    assert pixels(stream.getvalue()) == pixels(FILES[NAMES[0]])
    comparison, _ = verify_cue_conflict(lay_out(tmp_path, FILES | {NAMES[0]: stream.getvalue()}))
    assert comparison.altered == (NAMES[0],)


# -- a folder of one's own --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_differences_from_the_published_set_are_noted(tmp_path: Path) -> None:
    files = {name: FILES[name] for name in NAMES[:3]} | {
        "bear/bear1-airplane1.png": png(7),
        "dog/dog1-cat1.png": png(8),
    }
    stimuli = open_stimuli(lay_out(tmp_path / "mine", files))
    assert [stimulus.name for stimulus in stimuli.stimuli] == [name.rpartition("/")[2] for name in sorted(files)]
    assert stimuli.notes == (
        "3 of the 5 stimuli of the published cue-conflict set; 1 missing (bear/bear2-bear1.png); "
        "1 altered (bear/bear1-airplane1.png); 1 extra (dog/dog1-cat1.png).",
    )
    assert stimuli.record["manifest"]["missing"] == ["bear/bear2-bear1.png"]


@pytest.mark.usefixtures("published")
def test_prefixed_names_are_known(tmp_path: Path) -> None:
    files = {f"x/000{number}_s5n_{name.rpartition('/')[2]}": data for number, (name, data) in enumerate(FILES.items())}
    assert open_stimuli(lay_out(tmp_path, files)).notes == ("The stimuli are the 5 of the published cue-conflict set.",)


# -- the set in the cache ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_fetched_once_and_opened(server: Server) -> None:
    server.content = packed(FILES)
    folder = fetch_cue_conflict(server.url)
    assert folder == cue_conflict_dir() and tree(folder) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["cue-conflict"]
    assert fetch_cue_conflict(server.url) == folder
    assert server.ranges == [None]
    stimuli = open_stimuli("cue-conflict")
    assert (stimuli.source, len(stimuli), stimuli.size) == ("cue-conflict", 5, (12, 12))
    assert stimuli.record["partial"] is False and server.ranges == [None]
    assert [f"{stimulus.shape}/{stimulus.name}" for stimulus in stimuli.stimuli] == sorted(NAMES)
    assert stimuli.digest == open_stimuli(folder).digest
    assert pixels(FILES[NAMES[1]]) == hashlib.sha256(stimuli.load(1).tobytes()).hexdigest()


@pytest.mark.usefixtures("published")
def test_without_options_it_comes_from_where_it_was_published(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = packed(FILES)
    asked = []

    def fetch(url: str, *args: object, **options: object) -> Path:
        asked.append(url)
        return download.fetch(server.url, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(archive_set, "fetch", fetch)
    assert len(open_stimuli("cue-conflict")) == 5
    assert asked == ["https://github.com/bethgelab/model-vs-human/releases/download/v0.1/cue-conflict.tar.gz"]


@pytest.mark.usefixtures("published")
def test_an_interrupted_download_is_resumed(server: Server) -> None:
    server.content, server.cut_after = packed(FILES), 1000
    assert tree(fetch_cue_conflict(server.url)) == FILES
    assert server.ranges == [None, "bytes=1000-"]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("top", [".", "cue-conflict", "datasets/v1/cue-conflict"])
def test_wherever_it_lies_in_the_archive(server: Server, top: str) -> None:
    server.content = packed(FILES | {"bear/._bear1-airplane1.png": b"resource fork", "licence.txt": b"CC"}, top)
    folder = fetch_cue_conflict(server.url)
    assert set(FILES) <= set(tree(folder))
    assert len(open_stimuli("cue-conflict")) == 5


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES | {NAMES[0]: png(99)}, r"1 altered \(airplane/airplane1-bear1\.png\)"),
        (FILES | {"cat/cat1-dog1.png": png(99)}, r"1 extra \(cat/cat1-dog1\.png\)"),
        ({name: FILES[name] for name in NAMES[1:]}, r"1 missing \(airplane/airplane1-bear1\.png\)"),
        ({"readme.txt": b"moved"}, "It contains no image"),
        ({"../../escaped.png": png(1)}, "is outside of the folder"),
    ],
)
def test_a_wrong_archive_leaves_nothing(server: Server, files: Mapping[str, bytes], message: str) -> None:
    server.content = packed(files)
    with pytest.raises(InvalidInputError, match=message):
        fetch_cue_conflict(server.url)
    place = cue_conflict_dir().parent
    assert list(place.iterdir()) == []
    # The archive is not taken for good either.
    server.content = packed(FILES)
    assert tree(fetch_cue_conflict(server.url)) == FILES


@pytest.mark.usefixtures("published")
def test_a_damaged_archive_is_fetched_again(server: Server) -> None:
    server.content = packed(FILES)[:-100]
    with pytest.raises(UnsafeArchiveError, match="damaged"):
        fetch_cue_conflict(server.url)
    server.content = packed(FILES)
    assert tree(fetch_cue_conflict(server.url)) == FILES


@pytest.mark.usefixtures("published")
def test_a_valid_set_is_kept_when_a_download_fails(server: Server) -> None:
    server.content = packed(FILES)
    folder = fetch_cue_conflict(server.url)
    server.content = packed(FILES | {NAMES[0]: png(99)})
    with pytest.raises(InvalidInputError, match="1 altered"):
        fetch_cue_conflict(server.url, force=True)
    assert tree(folder) == FILES and [path.name for path in folder.parent.iterdir()] == ["cue-conflict"]


@pytest.mark.usefixtures("published")
def test_a_damaged_set_is_replaced(server: Server) -> None:
    server.content = packed(FILES)
    folder = fetch_cue_conflict(server.url)
    (folder / NAMES[0]).write_bytes(b"damaged")
    lay_out(folder, {"bear/bear9-bear9.png": png(5)})
    assert tree(fetch_cue_conflict(server.url)) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["cue-conflict"]


@pytest.mark.usefixtures("published")
def test_an_archive_that_was_there_needs_no_network() -> None:
    """The unpacking was interrupted, or a user put it there."""
    archive = cue_conflict_dir().with_name("cue-conflict.tar.gz")
    archive.parent.mkdir(parents=True)
    archive.write_bytes(packed(FILES))
    assert tree(fetch_cue_conflict()) == FILES
    assert not archive.exists()


@pytest.mark.usefixtures("published")
def test_an_interruption_leaves_the_archive_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    server.content = packed(FILES)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cue_conflict, "compare", interrupted)
        fetch_cue_conflict(server.url)
    assert [path.name for path in cue_conflict_dir().parent.iterdir()] == ["cue-conflict.tar.gz"]
    assert tree(fetch_cue_conflict(server.url)) == FILES
    assert server.ranges == [None]


@pytest.mark.usefixtures("published")
def test_what_cannot_be_replaced_stays(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lay_out(cue_conflict_dir(), FILES)
    server.content = packed(FILES)
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if target == folder and path.name == "cue-conflict":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(InvalidInputError, match="Permission denied"):
        fetch_cue_conflict(server.url, force=True)
    assert tree(folder) == FILES
    assert not list(folder.parent.glob(".*"))


@pytest.mark.usefixtures("published")
def test_leftovers_of_killed_processes_are_restored_or_removed() -> None:
    place = cue_conflict_dir().parent
    lay_out(place / ".cue-conflict.old-1-abc", FILES)
    for name in ("abandoned", "busy"):
        lay_out(place / f".cue-conflict.1-{name}", {NAMES[0]: b"half"})
    os.utime(place / ".cue-conflict.1-abandoned", (0, 0))
    assert fetch_cue_conflict("http://127.0.0.1:9/nothing") == cue_conflict_dir()
    assert tree(cue_conflict_dir()) == FILES
    assert sorted(path.name for path in place.iterdir()) == [".cue-conflict.1-busy", "cue-conflict"]


def test_offline() -> None:
    with pytest.raises(
        InvalidInputError, match=r"from github\.com\. .*copy the set to .*cue-conflict from another"
    ) as caught:
        open_stimuli("cue-conflict")
    assert isinstance(caught.value, ReplkProbeError)
    assert "random weights" not in str(caught.value)
    assert not any(cue_conflict_dir().parent.iterdir())


# -- a part of it -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_a_part_only_where_it_is_allowed() -> None:
    folder = lay_out(cue_conflict_dir(), FILES)
    (folder / NAMES[0]).unlink()
    (folder / NAMES[3]).write_bytes(png(99))
    (folder / NAMES[4]).write_bytes(png(4, level=0))
    lay_out(folder, {"bear/holiday.png": png(1)})
    message = (
        r"1 missing \(airplane/airplane1-bear1.png\); 1 altered \(bear/bear1-airplane1.png\); "
        r"1 extra \(bear/holiday.png\).*data fetch cue-conflict.*allow_partial.*the folder itself as the stimuli"
    )
    with pytest.raises(InvalidInputError, match=message):
        open_stimuli("cue-conflict")
    stimuli = open_stimuli("cue-conflict", allow_partial=True)
    assert [f"{stimulus.shape}/{stimulus.name}" for stimulus in stimuli.stimuli] == [NAMES[1], NAMES[2], NAMES[4]]
    assert stimuli.record["partial"] is True
    assert stimuli.record["manifest"]["missing"] == [NAMES[0]]
    assert stimuli.notes[-1] == "Only the 3 intact stimuli are evaluated (allow_partial)."
    assert pixels(FILES[NAMES[4]]) == hashlib.sha256(stimuli.load(2).tobytes()).hexdigest()


@pytest.mark.usefixtures("published")
def test_a_part_of_nothing_is_an_error() -> None:
    lay_out(cue_conflict_dir(), {NAMES[0]: png(99)})
    with pytest.raises(InvalidInputError, match=r"4 missing.*1 altered") as caught:
        open_stimuli("cue-conflict", allow_partial=True)
    assert "allow_partial" not in str(caught.value)


@pytest.mark.usefixtures("published")
def test_allowing_a_part_of_the_whole_changes_nothing() -> None:
    lay_out(cue_conflict_dir(), FILES)
    assert open_stimuli("cue-conflict", allow_partial=True) == open_stimuli("cue-conflict")


# -- the real one -----------------------------------------------------------------------------------------------------


def test_the_real_set_by_way_of_an_archive(data_dir: Path, server: Server) -> None:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=0) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(data_dir / "cue-conflict", "cue-conflict")
    server.content = stream.getvalue()
    fetch_cue_conflict(server.url)
    fetched, own = open_stimuli("cue-conflict"), open_stimuli(data_dir / "cue-conflict")
    assert (len(fetched), fetched.digest) == (1280, own.digest)
    assert fetched.notes == own.notes == ("The stimuli are the 1280 of the published cue-conflict set.",)
