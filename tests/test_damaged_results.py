"""Results that were changed by hand; ``tests/fuzz/results.py`` damages them at random."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.result import GivenDecisions, ShapeBiasResult

spec = importlib.util.spec_from_file_location("replk_probe_fuzz_results", Path(__file__).parent / "fuzz" / "results.py")
assert spec is not None and spec.loader is not None
fuzzer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzzer)
RESULTS, FILES, PEOPLE, read_back = fuzzer.RESULTS, fuzzer.FILES, fuzzer.PEOPLE, fuzzer.read_back
JSON = [(kind, name) for kind, name in FILES if name.endswith(".json")]
ARRAYS = [(kind, name) for kind, name in FILES if name.endswith(".npz")]


@pytest.fixture(params=RESULTS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def is_refused(kind: str, folder: Path) -> bool:
    return read_back(kind, folder) is None


def saved(kind: str, folder: Path, name: str) -> bytes:
    RESULTS[kind].save(folder)
    return (folder / name).read_bytes()


def test_every_result_is_read_back_equal(kind: str, tmp_path: Path) -> None:
    RESULTS[kind].save(tmp_path)
    assert read_back(kind, tmp_path) == RESULTS[kind]


@pytest.mark.parametrize(("kind", "name"), JSON)
@pytest.mark.parametrize(
    "content",
    [
        b"", b"[" * 100_000, b'{"schema_version": 1, "run": ' + b'{"a":' * 100_000, b"\xff\xfe", b"null", b"1",
        b'{"schema_version": true}', b'{"schema_version": 1.0}', b'{"schema_version": [1]}', b'{"schema_version": 1}',
        b'{"schema_version": 1, "run": NaN}', b'{"schema_version": 1, "run": 1e999}', b"9" * 5000,
    ],
    ids=range(13),
)  # fmt: skip
def test_text_that_is_no_record_is_refused(kind: str, name: str, content: bytes, tmp_path: Path) -> None:
    saved(kind, tmp_path, name)
    (tmp_path / name).write_bytes(content)
    assert is_refused(kind, tmp_path)


@pytest.mark.parametrize(("kind", "name"), [("erf", "erf.json")])
def test_a_free_form_field_may_not_be_nested_without_end(kind: str, name: str, tmp_path: Path) -> None:
    record = json.loads(saved(kind, tmp_path, name))
    for _ in range(60):
        record["run"]["config"] = {"a": [record["run"]["config"]]}
    (tmp_path / name).write_text(json.dumps(record))
    assert is_refused(kind, tmp_path)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def claiming(shape: str, content: bytes = b"\0" * 64) -> bytes:
    """An array in the .npy format with a given shape in its header."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


BAD_ARRAYS: dict[str, Callable[[np.ndarray], bytes]] = {
    "a header that claims 48 GB": lambda _: claiming("(80000, 80000)"),
    "a header that claims more than memory": lambda _: claiming("(4294967296, 4294967296)"),
    "a negative shape": lambda _: claiming("(-2, -4)"),
    "no tuple": lambda _: claiming("8"),
    "nested parentheses": lambda _: claiming("(" * 3000 + ")" * 3000),
    "a pickle": lambda array: npy(np.array([{"a": 1}, None], dtype=object), allow_pickle=True),
    "complex numbers": lambda array: npy(
        array.astype(np.complex128) if array.dtype.kind == "f" else np.ones(3, complex)
    ),
    "another float": lambda array: npy(array.astype(np.float16) if array.dtype.kind == "f" else np.ones(3)),
    "another rank": lambda array: npy(array[None]),
    "another size": lambda array: npy(np.concatenate([array, array])),
    "not an array": lambda _: b"hello",
    "nothing": lambda _: b"",
    "bytes left over": lambda array: npy(array) + b"\0",
}


@pytest.mark.parametrize(("kind", "name"), ARRAYS)
@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(kind: str, name: str, what: str, tmp_path: Path) -> None:
    saved(kind, tmp_path, name)
    with np.load(tmp_path / name) as arrays:
        stored = {key: arrays[key] for key in arrays.files}
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for index, (key, array) in enumerate(stored.items()):
            archive.writestr(f"{key}.npy", npy(array) if index else BAD_ARRAYS[what](array))
    assert is_refused(kind, tmp_path)


@pytest.mark.parametrize(("kind", "name"), ARRAYS)
@pytest.mark.parametrize("method", fuzzer.METHODS)
def test_compressed_archives_are_read(kind: str, name: str, method: int, tmp_path: Path) -> None:
    content = saved(kind, tmp_path, name)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(tmp_path / name, "w", method) as new:
        for key in old.namelist():
            new.writestr(key, old.read(key))
    assert read_back(kind, tmp_path) == RESULTS[kind]


@pytest.mark.parametrize(("kind", "name"), ARRAYS)
@pytest.mark.parametrize(("local", "central", "value"), [(6, 8, 1), (8, 10, 99), (6, 8, 0x20), (6, 8, 0x40)])
def test_damaged_flags_of_archives_are_refused(
    kind: str, name: str, local: int, central: int, value: int, tmp_path: Path
) -> None:
    # Encrypted, compressed by an unknown method, patched, strongly encrypted.
    content = bytearray(saved(kind, tmp_path, name))
    content[local] = value
    content[content.index(b"PK\x01\x02") + central] = value
    (tmp_path / name).write_bytes(content)
    assert is_refused(kind, tmp_path)


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_missing_files_and_folders_in_their_place_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, tmp_path, name)
    (tmp_path / name).unlink()
    assert is_refused(kind, tmp_path)
    (tmp_path / name).mkdir()
    assert is_refused(kind, tmp_path)


def test_decisions_without_a_model_are_read_back_and_checked(tmp_path: Path) -> None:
    given = ShapeBiasResult.from_decisions(observers=PEOPLE, run=GivenDecisions("given", {"a.csv": "00"}, {}))
    given.save(tmp_path)
    assert ShapeBiasResult.load(tmp_path) == given
    record = json.loads((tmp_path / "shape_bias.json").read_text())
    record["observers"]["humans"]["observer"] = "others"
    (tmp_path / "shape_bias.json").write_text(json.dumps(record))
    with pytest.raises(InvalidInputError, match="names of its observers differ"):
        ShapeBiasResult.load(tmp_path)


@pytest.mark.parametrize("ratio", [-0.01, 1.01, 1e300, -(10**300)])
def test_area_ratios_are_fractions(ratio: float, tmp_path: Path) -> None:
    record = json.loads(saved("erf", tmp_path, "erf.json"))
    for good in (0, 1):
        record["erf"]["ratios"][0]["ratio"] = good
        (tmp_path / "erf.json").write_text(json.dumps(record))
        assert not is_refused("erf", tmp_path)
    record["erf"]["ratios"][0]["ratio"] = ratio
    (tmp_path / "erf.json").write_text(json.dumps(record))
    assert is_refused("erf", tmp_path)
