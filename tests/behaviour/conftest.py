"""Trials of a few observers, and folders of drawn images under the names of the sets."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replk_probe.behaviour import BENCHMARK_SETS, Trials
from replk_probe.shape_bias.stimuli.names import CATEGORIES

Write = Callable[..., Path]


def image_names(dataset: str, per_cell: int | None = None, observer: str = "dnn") -> list[tuple[str, str, str]]:
    """Category, level and base name of images of a set, in the order of model-vs-human."""
    known = BENCHMARK_SETS[dataset]
    found = []
    for level in known.levels:
        for category in CATEGORIES:
            for number in range(per_cell or known.n_per_cell):
                if known.has_conditions:
                    name = f"{len(found) + 1:04}_x_{observer}_{level}_{category}_00_n0{len(found):07}_{number}.png"
                else:
                    name = f"{category}{number + 1}.png"
                found.append((category, level, name))
    return found


def trials_of(observer: str, dataset: str, right: Sequence[bool], per_cell: int = 1) -> Trials:
    """Trials with the given correctness, in the order of :func:`image_names`."""
    names = image_names(dataset, per_cell)
    assert len(names) == len(right)
    wrong = {category: CATEGORIES[(place + 1) % 16] for place, category in enumerate(CATEGORIES)}
    responses = [
        category if correct else wrong[category] for (category, _, _), correct in zip(names, right, strict=True)
    ]
    return Trials(
        observer,
        dataset,
        tuple(name for *_, name in names),
        tuple(category for category, *_ in names),
        tuple(level for _, level, _ in names),
        tuple(responses),
    )


def _random_trials(observers: Sequence[str], dataset: str, seed: int = 0, per_cell: int = 1) -> list[Trials]:
    """Observers who are right on random images, people more often than networks."""
    random = np.random.default_rng(seed)
    count = len(image_names(dataset, per_cell))
    hard = random.random(count)
    return [
        trials_of(name, dataset, (random.random(count) + hard < (1.3 if "subject" in name else 1)).tolist(), per_cell)
        for name in observers
    ]


@pytest.fixture(scope="session")
def random_trials() -> Callable[..., list[Trials]]:
    """Function that makes the trials of observers on a set, ``per_cell`` of each condition and category."""
    return _random_trials


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int], bytes]:
    """Function from a seed and a side to a PNG file of random colors."""

    def draw(seed: int, side: int = 224) -> bytes:
        stream = io.BytesIO()
        colors = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((side, side), Image.Resampling.NEAREST).save(stream, "PNG")
        return stream.getvalue()

    return draw


@pytest.fixture
def write_set(tmp_path: Path, picture: Callable[[int, int], bytes]) -> Write:
    """Function that writes a set of drawn images below a folder; returns its folder."""

    def write(dataset: str, per_cell: int | None = None, side: int = 224, root: Path | None = None) -> Path:
        folder = (root or tmp_path / "sets") / dataset
        pictures = [picture(seed, side) for seed in range(16)]
        for index, (category, _, name) in enumerate(image_names(dataset, per_cell)):
            inside = "dnn/session-1" if BENCHMARK_SETS[dataset].has_conditions else category
            (folder / inside).mkdir(parents=True, exist_ok=True)
            (folder / inside / name).write_bytes(pictures[index % 16])
        return folder

    return write
