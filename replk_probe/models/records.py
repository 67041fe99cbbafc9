"""Provenance and preprocessing of the networks that this package built or loaded, stored outside the networks."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import whole
from replk_probe.runtime.provenance import USER_MODULE, WeightsInfo

from .detectors import transforms_images
from .weights.entry import DataConfig


@dataclass(frozen=True)
class ModelRecord:
    """What is known about one network."""

    weights: WeightsInfo  # provenance of its weights
    data: DataConfig | None = None  # preprocessing of its images, or None if its weights do not determine it


# By the id of the network, not in a WeakKeyDictionary: a network may define equality and have no hash.
_RECORDS: dict[int, ModelRecord] = {}


def record_of(model: nn.Module) -> ModelRecord | None:
    """The record of ``model``, or of the network inside a wrapper made by ``torch.compile``; None if there is none."""
    return _RECORDS.get(id(model)) or _RECORDS.get(id(getattr(model, "_orig_mod", None)))


def weights_info(model: nn.Module) -> WeightsInfo:
    """Provenance of the weights of ``model``; ``"user-module"`` for models not built or loaded by this package.

    A copy made with ``copy.deepcopy`` or read from a pickle is a user's module as well. :func:`attach_weights_info`
    transfers the provenance to it.

    Args:
        model: Any network.

    Returns:
        The source of the weights, and their seed or the SHA-256 of their file.

    Examples:
        >>> from replk_probe.models import create_model, weights_info
        >>> weights_info(create_model("resnet18", seed=3)).seed
        3
    """
    record = record_of(model)
    return WeightsInfo(USER_MODULE) if record is None else record.weights


def attach_weights_info(model: nn.Module, info: WeightsInfo, data: DataConfig | None = None) -> None:
    """Record the provenance of the weights of ``model``; copies made by this package keep the record.

    Args:
        model: The network. The record is deleted with it.
        info: Provenance of its weights.
        data: Preprocessing of its images, or None for the one recorded before, if any.

    Examples:
        >>> import copy
        >>> from replk_probe.models import attach_weights_info, create_model, weights_info
        >>> model = create_model("resnet18")
        >>> duplicate = copy.deepcopy(model)
        >>> weights_info(duplicate).source
        'user-module'
        >>> attach_weights_info(duplicate, weights_info(model))
        >>> weights_info(duplicate).source
        'random-init'
    """
    known = record_of(model)
    if id(model) not in _RECORDS:
        weakref.finalize(model, _RECORDS.pop, id(model), None).atexit = False
    _RECORDS[id(model)] = ModelRecord(info, data if known is None or data is not None else known.data)


def data_config(model: nn.Module) -> DataConfig:
    """Normalization and input size that ``model`` was trained for, or those of ImageNet if nothing is known.

    They are those of the weights, if this package loaded them, otherwise those in ``pretrained_cfg`` or else
    ``default_cfg`` of the network, which may be a dictionary or an object. A number stands for all channels.

    Args:
        model: Any network.

    Returns:
        Mean and standard deviation for inputs in [0, 1], and the input size in pixels.

    Raises:
        InvalidInputError: The mean, the standard deviation or the input size in such a configuration cannot be used.

    Examples:
        >>> from replk_probe.models import create_model, data_config
        >>> data_config(create_model("resnet18"))
        DataConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), input_size=(224, 224))
    """
    return _known_data(model) or DataConfig()


def statistics_note(model: nn.Module) -> str | None:
    """Note for models whose normalization is unknown, or None."""
    if _known_data(model):
        return None
    return f"The normalization of {type(model).__name__} is unknown: ImageNet's mean and standard deviation are used."


def _known_data(model: nn.Module) -> DataConfig | None:
    """The preprocessing that was recorded for ``model`` or that its own configuration describes."""
    record = record_of(model)
    if record and record.data:
        return record.data
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        mean, std = (_entry(config, key) for key in ("mean", "std"))
        if mean is not None and std is not None:
            where = f"{type(model).__name__}.{name}"
            channels, size = _input_size(_entry(config, "input_size"), where)
            means, stds = (_statistics(where, key, value) for key, value in (("mean", mean), ("std", std)))
            if min(stds) <= 0:
                raise _unusable(where, "std", std, "a standard deviation is positive")
            lengths = {len(means), len(stds)} - {1}
            if len(lengths) > 1 or not lengths <= {3, channels}:
                raise _unusable(where, "mean and std", (mean, std), f"one number or {channels} are needed")
            means, stds = (values * channels if len(values) == 1 else values for values in (means, stds))
            return DataConfig(means, stds, size)
    if transforms_images(model):
        transform: Any = model.transform
        return DataConfig(tuple(transform.image_mean), tuple(transform.image_std))
    return None


def _entry(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _statistics(where: str, key: str, value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise _unusable(where, key, value, "one number, or one for each channel, is needed")
    return numbers


def _input_size(value: Any, where: str) -> tuple[int, tuple[int, int]]:
    """Number of channels, and (H, W)."""
    if value is None:
        return 3, DataConfig.input_size
    sides = tuple(map(whole, value)) if isinstance(value, Iterable) else ()
    if len(sides) == 3 and all(side is not None and side > 0 for side in sides):
        channels, height, width = (side or 0 for side in sides)
        return channels, (height, width)
    raise _unusable(where, "input_size", value, "it must be (channels, height, width)")


def _unusable(where: str, key: str, value: Any, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"The configuration {where} cannot be used. Its {key} is {value!r}, but {reason}. Correct or remove it."
    )
