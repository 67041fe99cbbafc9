"""Weights that travel inside the package: of the small models in ``micro.py``, each with the record of its training."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from replk_probe.errors import WeightsError
from replk_probe.runtime.files import sha256_of

from ._catalog_entry import CatalogEntry
from .micro import INPUT_SIZE, MICRO_MODELS

FOLDER = Path(__file__).parent / "micro_weights"
_TAG = "synthetic"
_NOTE = (
    f"A small model trained on synthetic data, {INPUT_SIZE} px wide, that is a part of this package: a demonstration "
    "and a controlled experiment, no result on ImageNet."
)


@functools.cache
def embedded_entries() -> tuple[CatalogEntry, ...]:
    """One entry for each small model whose weights are there."""
    records = (FOLDER / f"{name}.json" for name in MICRO_MODELS)
    return tuple(_entry(path) for path in records if path.is_file())


def training_record(entry: CatalogEntry) -> dict[str, Any]:
    """All that is known about the training of embedded weights, as ``scripts/train_micro.py`` wrote it."""
    record: dict[str, Any] = json.loads((FOLDER / f"{entry.model}.json").read_text(encoding="utf-8"))
    return record


def checked_file(entry: CatalogEntry) -> Path:
    """The file of an embedded entry, its digest compared with that of the catalog.

    Raises:
        WeightsError: It is missing, or not the file that was trained.
    """
    path = entry.embedded
    if path is None or not path.is_file() or sha256_of(path) != entry.sha256:
        state = "damaged" if path is not None and path.is_file() else "missing"
        raise WeightsError(
            f"The weights {entry.name} are {state}. They are a part of this package. Install replk-probe again."
        )
    return path


def _entry(path: Path) -> CatalogEntry:
    record = json.loads(path.read_text(encoding="utf-8"))
    return CatalogEntry(
        name=f"{record['model']}.{_TAG}",
        model=record["model"],
        url=None,
        drive_id=None,
        sha256=record["sha256"],
        size=record["bytes"],
        licence="MIT (of this package)",
        provenance="embedded: small models trained on synthetic data by scripts/train_micro.py of this project",
        training=f"{record['images']:,} synthetic images, seed {record['seed']}; "
        f"{100 * record['held_out_accuracy']:.1f} % right on held-out congruent ones",
        top1=None,
        input_size=INPUT_SIZE,
        num_classes=record["classes"],
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
        remark=_NOTE,
        embedded=path.with_suffix(".safetensors"),
    )
