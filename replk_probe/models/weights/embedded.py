"""Weights of the small models in ``micro.py``, which are included in the package with their training records."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from replk_probe.errors import WeightsError
from replk_probe.runtime.atomic_files import sha256_of

from ..architectures.micro import DEFAULT_TAG
from .entry import CatalogEntry

FOLDER = Path(__file__).parent / "micro_weights"


@functools.cache
def embedded_entries() -> tuple[CatalogEntry, ...]:
    """One entry for each training record in the folder of weights, the default one of each model first."""
    records = [(json.loads(path.read_text(encoding="utf-8")), path) for path in FOLDER.glob("*.json")]
    records.sort(key=lambda item: (item[0]["order"], item[0]["tag"] != DEFAULT_TAG, -item[0]["shape_validity"]))
    return tuple(_entry(record, path) for record, path in records)


def training_record(entry: CatalogEntry) -> dict[str, Any]:
    """Training record of embedded weights, as written by ``scripts/train_micro.py``."""
    record: dict[str, Any] = json.loads((FOLDER / f"{entry.name}.json").read_text(encoding="utf-8"))
    return record


def checked_file(entry: CatalogEntry) -> Path:
    """The file of an embedded entry, after checking its digest.

    Raises:
        WeightsError: The file is missing, or its digest is not that of the catalog.
    """
    path = entry.embedded
    if path is None or not path.is_file() or sha256_of(path) != entry.sha256:
        state = "damaged" if path is not None and path.is_file() else "missing"
        raise WeightsError(
            f"The weights {entry.name} are {state}. They are included in this package. Reinstall replk-probe."
        )
    return path


def _entry(record: dict[str, Any], path: Path) -> CatalogEntry:
    side = record["input_size"]
    return CatalogEntry(
        name=f"{record['model']}.{record['tag']}",
        model=record["model"],
        url=None,
        drive_id=None,
        sha256=record["sha256"],
        size=record["bytes"],
        license="MIT (of this package)",
        provenance="embedded: small models trained on synthetic data by scripts/train_micro.py of this project; "
        f"a name without a tag means {DEFAULT_TAG}, and the number is the percentage of training images whose shape "
        "belongs to their label",
        training=f"{record['images']:,} synthetic images, shape validity {100 * record['shape_validity']:g} %, "
        f"seed {record['seed']}; {100 * record['held_out_accuracy']:.1f} % accuracy on held-out congruent images",
        top1=None,
        input_size=side,
        num_classes=record["classes"],
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
        remark=f"Small model trained on synthetic data at {side} px; not an ImageNet result.",
        embedded=path.parent / f"{path.stem}.safetensors",
    )
