"""Provenance and preprocessing of the networks that this package built or loaded, stored outside the networks."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from torch import nn

from replk_probe.runtime.provenance import USER_MODULE, WeightsInfo

from .weights.entry import DataConfig


@dataclass(frozen=True)
class ModelRecord:
    """What is known about one network.

    Attributes:
        weights: Provenance of its weights.
        data: Preprocessing of its images, or None if its weights do not determine it.
    """

    weights: WeightsInfo
    data: DataConfig | None = None


# By the id of the network, not in a WeakKeyDictionary: a network may define equality and have no hash.
_RECORDS: dict[int, ModelRecord] = {}


def record_of(model: nn.Module) -> ModelRecord | None:
    """The record of ``model``, or of the network inside a wrapper made by ``torch.compile``; None if there is none."""
    return _RECORDS.get(id(model)) or _RECORDS.get(id(getattr(model, "_orig_mod", None)))


def weights_info(model: nn.Module) -> WeightsInfo:
    """Provenance of the weights of ``model``; ``"user-module"`` for models not built or loaded by this package.

    A copy made with ``copy.deepcopy`` or read from a pickle is a user's module as well. :func:`attach_weights_info`
    transfers the provenance to it.
    """
    record = record_of(model)
    return WeightsInfo(USER_MODULE) if record is None else record.weights


def attach_weights_info(model: nn.Module, info: WeightsInfo, data: DataConfig | None = None) -> None:
    """Record the provenance of the weights of ``model``; copies made by this package keep the record.

    Args:
        model: The network. The record is deleted with it.
        info: Provenance of its weights.
        data: Preprocessing of its images, or None for the one recorded before, if any.
    """
    known = record_of(model)
    if id(model) not in _RECORDS:
        weakref.finalize(model, _RECORDS.pop, id(model), None).atexit = False
    _RECORDS[id(model)] = ModelRecord(info, data if known is None or data is not None else known.data)


def data_config(model: nn.Module) -> DataConfig:
    """Normalization and input size that ``model`` was trained for, or those of ImageNet if nothing is known."""
    record = record_of(model)
    if record and record.data:
        return record.data
    known = getattr(model, "pretrained_cfg", None)
    if known is not None and not isinstance(known, dict):
        known = known.to_dict() if callable(getattr(known, "to_dict", None)) else None
    if not known or not known.get("mean") or not known.get("std"):
        return DataConfig()
    _, height, width = known.get("input_size") or (3, 224, 224)
    return DataConfig(tuple(known["mean"]), tuple(known["std"]), (height, width))


def statistics_note(model: nn.Module) -> str | None:
    """Note for models whose normalization is unknown, or None."""
    record = record_of(model)
    if (record and record.data) or getattr(model, "pretrained_cfg", None):
        return None
    return f"The normalization of {type(model).__name__} is unknown: ImageNet's mean and standard deviation are used."
