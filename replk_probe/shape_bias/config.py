"""Validated options of a shape-bias measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from replk_probe.errors import InvalidInputError
from replk_probe.models.factory import check_seed
from replk_probe.models.inference.prepare import check_precision
from replk_probe.runtime.devices import resolve_device

from .decision_mapping import LabelMapping, as_mapping, whole
from .decisions import HUMAN_PREFIX, check_observer
from .model_vs_human.raw_data import subject_of


@dataclass(frozen=True)
class ShapeBiasConfig:
    """Options of a measurement, except the model and the stimuli.

    The attributes are described in :func:`~replk_probe.measure_shape_bias`.

    Raises:
        InvalidInputError: A value cannot be used.
        BackendError: The device or the precision is not available.
    """

    mapping: LabelMapping | None = None
    batch_size: int = 32
    workers: int | None = None
    size: tuple[int, int] | None = None
    precision: str = "fp32"
    device: str | torch.device = "auto"
    seed: int = 0
    weights: str | None = "auto"
    ema: bool = False
    num_classes: int | None = None
    name: str | None = None
    allow_partial: bool = False

    def __post_init__(self) -> None:
        """Check the values, and convert them to the declared types."""
        check_precision(self.precision)
        checked = {
            "seed": check_seed(self.seed),
            "batch_size": _count("batch size", self.batch_size, 1),
            "workers": None if self.workers is None else _count("number of workers", self.workers, 0),
            "size": as_size(self.size),
            "mapping": None if self.mapping is None else as_mapping(self.mapping),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        resolve_device(self.device)
        if self.name is not None:
            _check_name(self.name)


def as_size(size: Any) -> tuple[int, int] | None:
    """``(H, W)`` of a side or a pair of sides; None for None.

    Raises:
        InvalidInputError: A side is not a positive integer.
    """
    if size is None:
        return None
    sides = [whole(side) for side in (size if isinstance(size, (tuple, list)) else (size, size))]
    if len(sides) != 2 or any(side is None or side < 1 for side in sides):
        raise InvalidInputError(
            f"Images of size {size!r} are not possible. Sizes must be positive integers in pixels. Give for instance "
            "224, or (224, 256) for height and width."
        )
    height, width = sides
    assert height is not None and width is not None
    return height, width


def _count(what: str, value: Any, least: int) -> int:
    number = whole(value)
    if number is None or number < least:
        raise InvalidInputError(f"A {what} of {value!r} is not possible. It must be an integer. Use {least} or more.")
    return number


def _check_name(name: Any) -> None:
    """Check the name of a model, whose part after the last colon identifies it among the observers."""
    check_observer(name)
    subject = subject_of(name)
    check_observer(subject)
    if subject.startswith(HUMAN_PREFIX):
        raise InvalidInputError(
            f"A model cannot be called {name!r}. The model-vs-human toolbox treats every observer whose name starts "
            f"with {HUMAN_PREFIX!r} as a human. Give the model another name."
        )
