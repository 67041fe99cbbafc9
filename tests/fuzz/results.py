"""Damaged files of results: each is read as the result that was saved, or one clear error names the file."""

from __future__ import annotations

import functools
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from replk_probe.attribution.result import AttributedImage, AttributionResult, ErfWindow
from replk_probe.bench.result import Layer, Machine, SpeedCase, SpeedResult, Timing
from replk_probe.erf.jackknife import Blocks
from replk_probe.erf.map_statistics import statistics_of
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.errors import InvalidInputError
from replk_probe.kernels.kernel import Kernel
from replk_probe.kernels.result import KernelResult, KernelRun
from replk_probe.reliance import RelianceResult, parse_suppressions
from replk_probe.results import Result
from replk_probe.runtime.provenance import RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.result import ShapeBiasResult

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
WEIGHTS = WeightsInfo("file:net.pth", sha256="ab" * 32, form="train", dropped=("x",))
RUN = RunInfo(
    model="net", weights=WEIGHTS, image_source="folder:val", image_ids=("a.jpg", "ü.png"), input_size=(6, 9),
    mean=(0.5,) * 3, std=(0.25,) * 3, seed=0, device="cpu", precision="fp32", backend="aten", seconds=1.5,
    skipped=({"id": "c.jpg", "reason": "truncated"},), config={"thresholds": (0.2,)}, versions={"torch": "2"},
)  # fmt: skip
NAMES = ("bear1-cat1.png", "bear2-bear1.png", "cat10-bear1.png", "cat2-dog3.png")
RANDOM = np.random.default_rng(0)
PEAK = np.outer([1, 2, 4, 4, 2, 1], [1, 2, 3, 5, 6, 5, 3, 2, 1])
DECISIONS = Decisions.from_names("net", NAMES, ("bear", "bear", "bear", "oven"))
PEOPLE = [Decisions.from_names(f"subject-0{i}", NAMES, ("bear", "na", "cat", "dog")) for i in (1, 2)]

RESULTS: dict[str, Result] = {
    "erf": ErfResult(
        RANDOM.random((6, 9)), RUN, 2, 1, (6, 9), "layer4", (1, 2), (3.5, 4.0), "receptive field", None,
        (RatioRow("paper", 0.2, 3, 0.25, (0.1, 0.4)), RatioRow("linear", 0.99, 7.0, 0.5)), ("A note.",),
        statistics_of(Blocks(PEAK * np.random.default_rng(1).uniform(0.9, 1.1, (3, 6, 9)), [1] * 3)).numbers(),
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
    "attribution": AttributionResult(
        RANDOM.normal(size=(1, 6, 9)), RANDOM.integers(0, 256, (1, 6, 9, 3)),
        (
            AttributedImage(
                id="a.jpg", target=3, target_name="cat", predicted=1, predicted_name=None, score=1.5, probability=0.25,
                total=-2.0, entropy_bits=3.0, effective_area=0.5, peak=(2, 3), position=(0, 1), center=(2.5, 4.0),
                windows=(ErfWindow(threshold=0.5, top=1, left=0, bottom=6, right=9, area=0.8, share=0.9),),
            ),
        ),
        RUN, "saliency", "layer4", "image", ("A note.",),
    ),
    "reliance": RelianceResult.from_decisions(
        RANDOM.integers(0, 3, (3, 8)), np.arange(8) % 3, parse_suppressions("patch-shuffle:2,grayscale"),
        pictures=RANDOM.integers(0, 256, (3, 6, 9, 3)), run=RUN, label_space="imagenet", classes="abc",
        notes=("A note.",),
    ),
}  # fmt: skip
FILES = [
    ("erf", "erf.json"), ("erf", "erf.npz"), ("shape_bias", "shape_bias.json"), ("shape_bias", "decisions.csv"),
    ("shape_bias", "decisions.npz"), ("kernels", "kernels.json"), ("kernels", "kernels.npz"),
    ("kernels", "strongest.npz"), ("bench", "bench.json"),
    ("attribution", "attribution.json"), ("attribution", "attribution.npz"),
    ("reliance", "reliance.json"), ("reliance", "reliance.npz"),
]  # fmt: skip


# Dictionaries and lists whose entries are not known beforehand, and entries that files of earlier versions lack.
OF_ANY_LENGTH = {"versions", "observers", "skipped", "by_observer", "by_category", "files", "numbers"}


def read_back(kind: str, folder: Path) -> Result | None:
    """The result in a folder, or None where it is refused with one of our errors."""
    try:
        return type(RESULTS[kind]).load(folder)
    except InvalidInputError as error:
        assert str(folder) in str(error)
        return None


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


@functools.cache
def files(kind: str) -> dict[str, bytes]:
    """The files of a result."""
    with tempfile.TemporaryDirectory() as folder:
        RESULTS[kind].save(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def run(rng: random.Random, folder: Path) -> str:
    """Damage one file of a result and read it.

    Returns:
        ``"read"``, or ``"refused"`` if the damage was noticed.

    Raises:
        AssertionError: Something else than the result or an error that names the folder came out.
    """
    kind, name = rng.choice(FILES)
    for other, content in files(kind).items():
        (folder / other).write_bytes(content)
    content, is_json = files(kind)[name], name.endswith(".json")
    may_differ = is_json  # a changed digit is indistinguishable from another measurement
    if is_json and rng.random() < 0.5:
        content, may_differ = changed_record(content, rng)
    else:
        content = damaged(recompressed(content, rng) if name.endswith(".npz") else content, rng)
    (folder / name).write_bytes(content)
    try:
        found = read_back(kind, folder)
        if found is not None and found != RESULTS[kind]:
            assert may_differ, "another result was read"
            found.save(folder / "again")  # its types are right
            assert read_back(kind, folder / "again") == found
    except Exception as error:
        raise AssertionError(
            f"{kind}/{name}: {type(error).__name__}: {error}; first bytes {content[:200]!r}"
        ) from error
    return "refused" if found is None else "read"


def changed_record(content: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """A record with one value of another type, or one missing, and whether that can be another legal record."""
    record = json.loads(content)
    path = rng.choice(list(places(record)))
    old, place = at(record, path), at(record, path[:-1])
    new = rng.choice([None, True, "x", 3, -1.5, [], {}, [1, "x"], {"x": None}, 10**400])
    # Null is a value of optional fields, and entries may be missing from lists and dictionaries of any length.
    legal = old is None or new is None or isinstance(path[-1], int) or bool(OF_ANY_LENGTH.intersection(path))
    if rng.random() < 0.3:
        del place[path[-1]]
    else:
        place[path[-1]] = new
        legal = legal or json_type(new) is json_type(old)
    return json.dumps(record).encode(), legal


def recompressed(content: bytes, rng: random.Random) -> bytes:
    """A zip archive compressed in another way."""
    stream, method = io.BytesIO(), rng.choice(METHODS)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", method) as new:
        for key in old.namelist():
            new.writestr(key, old.read(key))
    return stream.getvalue()
