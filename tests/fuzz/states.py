"""Damaged states of unfinished runs: the run is resumed to the same result, or one clear error refuses the state."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from replk_probe.erf import ErfResult, measure_erf
from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.runtime.checkpoint import ResumeWarning
from replk_probe.runtime.locks import LOCK_NAME

DONE, IMAGES = 3, 5
# Fields of the state that are copied into the result: the time and the methods of the operator.
COPIED = {"seconds", "methods"}
VALUES = (None, True, "x", 0, 2, -1, 1.5, -0.5, 1e308, 10**400, [], {}, [1], ["x"], [0, 1], {"x": None})


class Net(nn.Module):
    """A small network that may be interrupted after some images."""

    def __init__(self, stop_after: int = -1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 2, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.left = stop_after

    def forward(self, x: Tensor) -> Tensor:
        """Category scores, ``[N, C, H, W] -> [N, 2]``."""
        if x.requires_grad and not x.is_meta:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
        found: Tensor = self.body(self.stem(x).relu()).mean((2, 3))
        return found


def images() -> Tensor:
    """Five images, the second of which cannot be used."""
    batch = torch.rand(IMAGES, 3, 8, 9, generator=torch.Generator().manual_seed(1))
    batch[1, 0, 0, 0] = float("nan")
    return batch


@functools.cache
def saved() -> dict[str, bytes]:
    """The files of a run that was interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        calls = 0
        while True:  # how many passes precede those of the images does not matter
            calls += 1
            try:
                measure_erf(Net(calls), images(), layer="body", checkpoint=folder)
            except KeyboardInterrupt:
                files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
                if "state.json" in files and len(json.loads(files["state.json"])["state"]["used"]) == DONE:
                    return files


@functools.cache
def whole() -> ErfResult:
    """The result of a run that was not interrupted."""
    return measure_erf(Net(), images(), layer="body")


def run(rng: random.Random, folder: Path) -> str:
    """Damage one file of a state and resume the run.

    Returns:
        ``"resumed"``, or ``"refused"`` if the damage was noticed.

    Raises:
        AssertionError: Another result or another error came out.
    """
    files = dict(saved())
    name = rng.choice([name for name in files if name != LOCK_NAME])
    copied = False
    if name == "state.json" and rng.random() < 0.7:
        files[name], copied = changed(files[name], rng)
    elif name != "state.json" and rng.random() < 0.3:
        files[name] = other_array(files[name], rng)
    else:
        files[name] = damaged(files[name], rng)
    for other, content in files.items():
        (folder / other).write_bytes(content)
    if rng.random() < 0.05:
        (folder / name).unlink()
        if rng.random() < 0.5:
            (folder / name).mkdir()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResumeWarning)  # the state before it is used
            found = measure_erf(Net(), images(), layer="body", checkpoint=folder, resume=True)
        same = np.array_equal(found.contribution, whole().contribution) and found.run.image_ids == whole().run.image_ids
        assert copied or (same and found.run.skipped == whole().run.skipped), "another result came out"
    except (ResumeError, InvalidInputError) as error:
        assert str(folder) in str(error)
        return "refused"
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}; {files[name][:2000]!r}") from error
    return "resumed"


def changed(content: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """A state with another value and a digest that fits it, and whether the value is one that is only copied."""
    record = json.loads(content)
    state = record["state"]
    place: Any = rng.choice((record, state, state, state, record["arrays"]))
    key = rng.choice(list(place))
    if rng.random() < 0.2:
        del place[key]
    elif isinstance(place[key], list) and place[key] and rng.random() < 0.5:
        place[key][rng.randrange(len(place[key]))] = rng.choice(VALUES)
    else:
        place[key] = rng.choice(VALUES)
    record.pop("digest", None)
    text = json.dumps(record, sort_keys=True)
    record["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(record).encode(), place is state and key in COPIED


def other_array(content: bytes, rng: random.Random) -> bytes:
    """An array of another kind in place of one of the state."""
    with tempfile.TemporaryFile() as stream:
        shape = rng.choice(((), (0,), (8, 9), (9, 8), (1, 8, 9)))
        np.save(stream, np.zeros(shape, rng.choice((np.float64, np.float32, np.int8, np.complex128))))
        stream.seek(0)
        return stream.read()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Content with some bytes changed, or the end cut off or repeated."""
    at = rng.randrange(len(content))
    if rng.random() < 0.3:
        return content[:at] + content[at:] * rng.choice((0, 2))
    replaced = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        replaced[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    return bytes(replaced)
