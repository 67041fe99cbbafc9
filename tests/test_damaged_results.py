"""Damaged files of results: each is read as the result that was saved, or one clear error names the file."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replk_probe.bench.result import Layer, Machine, SpeedCase, SpeedResult, Timing
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.errors import InvalidInputError
from replk_probe.kernels.kernel import Kernel
from replk_probe.kernels.result import KernelResult, KernelRun
from replk_probe.results import Result
from replk_probe.runtime.provenance import RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.result import GivenDecisions, ShapeBiasResult

CASES = 200
WEIGHTS = WeightsInfo("file:net.pth", sha256="ab" * 32, form="train", dropped=("x",))
RUN = RunInfo(
    model="net", weights=WEIGHTS, image_source="folder:val", image_ids=("a.jpg", "ü.png"), input_size=(6, 9),
    mean=(0.5,) * 3, std=(0.25,) * 3, seed=0, device="cpu", precision="fp32", backend="aten", seconds=1.5,
    skipped=({"id": "c.jpg", "reason": "truncated"},), config={"thresholds": (0.2,)}, versions={"torch": "2"},
)  # fmt: skip
NAMES = ("bear1-cat1.png", "bear2-bear1.png", "cat10-bear1.png", "cat2-dog3.png")
RANDOM = np.random.default_rng(0)
DECISIONS = Decisions.from_names("net", NAMES, ("bear", "bear", "bear", "oven"))
PEOPLE = [Decisions.from_names(f"subject-0{i}", NAMES, ("bear", "na", "cat", "dog")) for i in (1, 2)]

RESULTS: dict[str, Result] = {
    "erf": ErfResult(
        RANDOM.random((6, 9)), RUN, 2, 1, (6, 9), "layer4", (1, 2), (3.5, 4.0), "receptive field", None,
        (RatioRow("paper", 0.2, 3, 0.25, (0.1, 0.4)), RatioRow("linear", 0.99, 7.0, 0.5)), ("A note.",),
    ),
    "shape_bias": ShapeBiasResult.from_decisions(
        DECISIONS, observers=PEOPLE, run=RUN, probabilities=RANDOM.random((4, 16)).astype(np.float32)
    ),
    "kernels": KernelResult(
        tuple(
            Kernel(
                "stage4.0", "m.0", variant, RANDOM.random((side, side)), 16, strongest=RANDOM.random((2, side, side)),
                strongest_channels=((3,), (0,)), batch_norm=("a.bn",), zero_fraction=zeros,
            )
            for variant, side, zeros in (("merged", 5, 0.25), ("small", 3, float("nan")))
        ),
        KernelRun("net", WEIGHTS, ("all",), "all", "sum", 1.5, {"torch": "2"}),
    ),
    "bench": SpeedResult(
        (
            SpeedCase(
                Layer(1, 8, 9, 9, 5, 5), "forward",
                (Timing("module", 1e-3, 2e-3, 9, 2e-7), Timing("nchw", None, None, 0, None, "left out")),
                "fft", "avx512", (8, 8), 1024,
            ),
        ),
        Machine("A processor", 2, (0.1, 0.2), 480.0, "avx512", None, "AVX512", {"torch": "2"}), "float32", 9,
    ),
}  # fmt: skip
FILES = [
    ("erf", "erf.json"), ("erf", "erf.npz"), ("shape_bias", "shape_bias.json"), ("shape_bias", "decisions.csv"),
    ("shape_bias", "decisions.npz"), ("kernels", "kernels.json"), ("kernels", "kernels.npz"),
    ("kernels", "strongest.npz"), ("bench", "bench.json"),
]  # fmt: skip
JSON = [(kind, name) for kind, name in FILES if name.endswith(".json")]
ARRAYS = [(kind, name) for kind, name in FILES if name.endswith(".npz")]


# Dictionaries and lists whose entries are not known beforehand.
OF_ANY_LENGTH = {"versions", "observers", "skipped", "by_observer", "by_category", "files"}


@pytest.fixture(params=RESULTS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def read_back(kind: str, folder: Path) -> Result | None:
    """The result in a folder, or None where it is refused with one of our errors."""
    try:
        return type(RESULTS[kind]).load(folder)
    except InvalidInputError as error:
        assert str(folder) in str(error)
        return None


def is_refused(kind: str, folder: Path) -> bool:
    return read_back(kind, folder) is None


def saved(kind: str, folder: Path, name: str) -> bytes:
    RESULTS[kind].save(folder)
    return (folder / name).read_bytes()


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Content with some bytes changed, a piece left out, or the end cut off."""
    way, at = generator.randrange(3), generator.randrange(len(content))
    if way == 0:
        return content[:at]
    if way == 1:
        return content[:at] + content[at + generator.randrange(1, 9) :]
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 3))):
        changed[generator.randrange(len(content))] ^= generator.randrange(1, 256)
    return bytes(changed)


def test_every_result_is_read_back_equal(kind: str, tmp_path: Path) -> None:
    RESULTS[kind].save(tmp_path)
    assert read_back(kind, tmp_path) == RESULTS[kind]


@pytest.mark.parametrize(("kind", "name"), [file for file in FILES if file not in JSON], indirect=False)
def test_damaged_bytes_are_noticed(kind: str, name: str, tmp_path: Path) -> None:
    content, generator = saved(kind, tmp_path, name), random.Random(name)
    for _ in range(CASES):
        (tmp_path / name).write_bytes(damaged(content, generator))
        found = read_back(kind, tmp_path)
        assert found is None or found == RESULTS[kind]


@pytest.mark.parametrize(("kind", "name"), JSON)
def test_damaged_json_is_refused_or_a_result_of_the_right_types(kind: str, name: str, tmp_path: Path) -> None:
    # A changed digit cannot be told from another measurement: what is read then is a result that can be saved.
    content, generator = saved(kind, tmp_path, name), random.Random(name)
    for _ in range(CASES):
        (tmp_path / name).write_bytes(damaged(content, generator))
        found = read_back(kind, tmp_path)
        if found is not None:
            found.save(tmp_path / "again")
            assert read_back(kind, tmp_path / "again") == found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a record, apart from its free-form part."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key != "config":
            yield (*path, key)
            yield from places(one, (*path, key))


def at(record: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        record = record[key]
    return record


def json_type(value: Any) -> type:
    return float if type(value) is int else type(value)


@pytest.mark.parametrize(("kind", "name"), JSON)
def test_values_of_other_types_and_missing_fields_are_noticed(kind: str, name: str, tmp_path: Path) -> None:
    record, generator = json.loads(saved(kind, tmp_path, name)), random.Random(name)
    every = list(places(record))
    for _ in range(CASES):
        path, changed = generator.choice(every), copy.deepcopy(record)
        old, place = at(record, path), at(changed, path[:-1])
        new = generator.choice([None, True, "x", 3, -1.5, [], {}, [1, "x"], {"x": None}, 10**400])
        if generator.random() < 0.3:
            del place[path[-1]]
        elif json_type(new) is json_type(old):
            continue
        else:
            place[path[-1]] = new
        (tmp_path / name).write_text(json.dumps(changed))
        found = read_back(kind, tmp_path)
        # Null is a value of optional fields, and entries may be missing from lists and dictionaries of any length.
        legal = old is None or new is None or isinstance(path[-1], int) or OF_ANY_LENGTH.intersection(path)
        assert found is None or found == RESULTS[kind] or legal, (path, old, new)


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
    """An array in the .npy format whose header claims a shape."""
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
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_archives_are_read_and_their_damage_is_noticed(
    kind: str, name: str, method: int, tmp_path: Path
) -> None:
    content, generator = saved(kind, tmp_path, name), random.Random(method)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(tmp_path / name, "w", method) as new:
        for key in old.namelist():
            new.writestr(key, old.read(key))
    assert read_back(kind, tmp_path) == RESULTS[kind]
    content = (tmp_path / name).read_bytes()
    for _ in range(CASES // 4):
        (tmp_path / name).write_bytes(damaged(content, generator))
        found = read_back(kind, tmp_path)
        assert found is None or found == RESULTS[kind]


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
