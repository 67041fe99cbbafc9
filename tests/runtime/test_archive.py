"""Archives that mean well, and archives that do not."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import tarfile
from pathlib import Path

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.archive import UnsafeArchiveError, unpacked

GOOD = {"set/a/1.png": b"one", "set/a/2.png": b"two" * 1000, "set/b/3.png": b"", "set/./c.txt": b"c"}


def member(name: str, content: bytes | None = b"x", **more: object) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    info = tarfile.TarInfo(name)
    info.size = len(content or b"")
    for key, value in more.items():
        setattr(info, key, value)
    return info, None if content is None else io.BytesIO(content)


def write(path: Path, *members: tuple[tarfile.TarInfo, io.BytesIO | None], **options: object) -> Path:
    with tarfile.open(path, "w:gz", **options) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, content)
    return path


def good(path: Path) -> Path:
    return write(path, *(member(name, content) for name, content in GOOD.items()))


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def attempt(archive: Path, folder: Path, max_bytes: int = 1 << 20, max_files: int = 100) -> dict[str, bytes]:
    with unpacked(archive, folder / "content", max_bytes, max_files) as temporary:
        return tree(temporary)


def test_files_are_extracted_and_no_temporary_files_remain(tmp_path: Path) -> None:
    archive = good(tmp_path / "a.tar.gz")
    assert attempt(archive, tmp_path / "new") == {name.replace("/./", "/"): content for name, content in GOOD.items()}
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_moved_away_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "content"
    with unpacked(good(tmp_path / "a.tar.gz"), place, 1 << 20, 100) as temporary:
        assert temporary.parent == tmp_path
        (temporary / "set").rename(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "content"]
    assert (place / "a" / "1.png").read_bytes() == b"one"


def test_nothing_stays_after_an_error_inside(tmp_path: Path) -> None:
    archive = good(tmp_path / "a.tar.gz")
    with pytest.raises(KeyError), unpacked(archive, tmp_path / "content", 1 << 20, 100):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../escaped"), r"'\.\./escaped' is outside of the folder"),
        (member("set/../../escaped"), "is outside of the folder"),
        (member("set/.."), "is outside of the folder"),
        (member("..", None, type=tarfile.DIRTYPE), "is outside of the folder"),
        (member("/tmp/escaped"), "is outside of the folder"),
        (member("..\\escaped"), "is outside of the folder"),
        (member("C:escaped"), "is outside of the folder"),
        (member("set/link", None, type=tarfile.SYMTYPE, linkname="../../escaped"), "neither a file nor a folder"),
        (member("set/link", None, type=tarfile.SYMTYPE, linkname="a"), "neither a file nor a folder"),
        (member("set/hard", None, type=tarfile.LNKTYPE, linkname="set/a/1.png"), "neither a file nor a folder"),
        (member("set/pipe", None, type=tarfile.FIFOTYPE), "neither a file nor a folder"),
        (member("set/device", None, type=tarfile.CHRTYPE, devmajor=1, devminor=3), "neither a file nor a folder"),
        (member("set/block", None, type=tarfile.BLKTYPE, devmajor=8), "neither a file nor a folder"),
        (member("set/a/1.png", b"again"), "occurs twice"),
        (member("set/a", b"a file now"), "occurs twice"),
        (member("set/a/1.png/below", b"below a file"), "occurs twice"),
        (member("."), "occurs twice"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, bad: tuple[tarfile.TarInfo, io.BytesIO | None], message: str) -> None:
    archive = write(tmp_path / "a.tar.gz", *(member(name, content) for name, content in GOOD.items()), bad)
    with pytest.raises(UnsafeArchiveError, match=message):
        attempt(archive, tmp_path / "deep" / "deeper")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "deep", "deeper"]
    assert not Path("/tmp/escaped").exists()


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = member("set/link", None, type=tarfile.SYMTYPE, linkname=str(outside))
    with pytest.raises(UnsafeArchiveError):
        attempt(write(tmp_path / "a.tar.gz", link, member("set/link/file")), tmp_path / "new")
    assert list(outside.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_modes_and_owners_of_the_archive_are_ignored(tmp_path: Path) -> None:
    info, content = member("program", b"#!", mode=0o6777, uid=12345)
    with unpacked(write(tmp_path / "a.tar.gz", (info, content)), tmp_path / "content", 100, 10) as temporary:
        status = (temporary / "program").stat()
    assert status.st_mode & 0o7111 == 0
    assert status.st_uid == os.getuid()


def test_more_than_allowed(tmp_path: Path) -> None:
    archive = good(tmp_path / "a.tar.gz")
    size = sum(map(len, GOOD.values()))
    assert attempt(archive, tmp_path, size, len(GOOD))
    for max_bytes, max_files in ((size - 1, len(GOOD)), (size, len(GOOD) - 1)):
        with pytest.raises(UnsafeArchiveError, match="larger than the published content"):
            attempt(archive, tmp_path, max_bytes, max_files)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_decompression_stops_at_the_size_limit(tmp_path: Path) -> None:
    """A header that claims gigabytes is no member yet, and would be read whole."""
    huge = tarfile.TarInfo("pax")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 32
    archive = tmp_path / "a.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write(huge.tobuf())
        for _ in range(16):
            file.write(bytes(1 << 20))
    with pytest.raises(UnsafeArchiveError, match="larger than the published content"):
        attempt(archive, tmp_path)


def damaged(data: bytes) -> list[bytes]:
    return [b"", b"<html>sign in</html>", data[:-1], data[: len(data) // 2], data[:20], gzip.compress(b"no tar" * 999)]


@pytest.mark.parametrize("which", range(6))
def test_damaged_archives(tmp_path: Path, which: int) -> None:
    archive = good(tmp_path / "a.tar.gz")
    archive.write_bytes(damaged(archive.read_bytes())[which])
    with pytest.raises(UnsafeArchiveError, match=r"Cannot unpack a\.tar\.gz\. It is damaged or not a \.tar\.gz"):
        attempt(archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_random_damage_is_always_a_clear_error(tmp_path: Path, form: int) -> None:
    archive = tmp_path / "in" / "a.tar.gz"
    archive.parent.mkdir()
    # All in one folder, since removing folders takes most of the time.
    names = ("y" * 90, "1.png", "2.png", "3.png", "./c.txt")
    members = (
        member("x" * 90 + f"/{name}", content) for name, content in zip(names, (b"x", *GOOD.values()), strict=True)
    )
    write(archive, *members, format=form)
    plain = gzip.decompress(archive.read_bytes())
    generator = random.Random(form)
    refused = 0
    for _ in range(300):
        data = bytearray(plain)
        for _ in range(generator.choice((1, 3, 30))):
            data[generator.randrange(0, len(data))] = generator.randrange(256)
        for block in range(0, len(data) - 512, 512):  # a checksum that fits, or every damaged header would be refused
            header = data[block : block + 512]
            if header[257:262] == b"ustar":
                header[148:156] = b" " * 8
                data[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        archive.write_bytes(gzip.compress(bytes(data), compresslevel=1))
        try:
            attempt(archive, tmp_path / "out")
        except InvalidInputError:
            refused += 1
        assert [path.name for path in archive.parent.iterdir()] == ["a.tar.gz"]
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) in (["in"], ["in", "out"])
    assert 0 < refused < 300


def test_no_archive_and_no_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Cannot unpack no\.tar\.gz.*No such file"):
        attempt(tmp_path / "no.tar.gz", tmp_path)
    archive = good(tmp_path / "a.tar.gz")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"Cannot unpack a\.tar\.gz"):
        attempt(archive, tmp_path / "file")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    archive = good(tmp_path / "a.tar.gz")
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(InvalidInputError, match=r"No space left on device\. Free some space") as caught:
        attempt(archive, tmp_path)
    assert not isinstance(caught.value, UnsafeArchiveError)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_release_of_python_without_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(InvalidInputError, match=r"Use Python 3\.10\.12, 3\.11\.4, or a later release\."):
        attempt(good(tmp_path / "a.tar.gz"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
