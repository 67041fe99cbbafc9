"""Validated options of measurements of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from replk_probe.errors import InvalidInputError
from replk_probe.models.inference.run_methods import TUNE
from replk_probe.models.network_options import checked_network_options
from replk_probe.runtime import checks

from .decision_mapping import LabelMapping, as_mapping
from .decisions import HUMAN_PREFIX, check_observer
from .model_vs_human.raw_data import subject_of

DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class DecisionConfig:
    """Options of a measurement of decisions, except the model and the stimuli."""

    mapping: LabelMapping | None = None
    batch_size: int | None = DEFAULT_BATCH_SIZE
    workers: int | None = None
    size: tuple[int, int] | None = None
    precision: str = "fp32"
    device: str | torch.device = "auto"
    seed: int = 0
    weights: str | None = "auto"
    ema: bool = False
    entry: str | None = None
    prefix: str | None = None
    num_classes: int | None = None
    name: str | None = None
    allow_partial: bool = False
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    bgr: bool = False
    tune: str = "auto"

    def __post_init__(self) -> None:
        """Check the values, and convert them to the declared types."""
        checks.check_choice("value of tune", self.tune, TUNE)
        checks.check_bool("allow_partial", self.allow_partial)
        if self.name is not None:
            _check_name(self.name)
        checks.set_checked(
            self,
            **checked_network_options(self),
            mapping=None if self.mapping is None else as_mapping(self.mapping),
            batch_size=checks.check_batch_size(self.batch_size),
            workers=None if self.workers is None else checks.check_integer("number of workers", self.workers, 0),
            size=None if self.size is None else checks.check_size(self.size),
            num_classes=(
                None if self.num_classes is None else checks.check_integer("number of classes", self.num_classes, 1)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class ShapeBiasConfig(DecisionConfig):
    """Options of a measurement, except the model and the stimuli.

    The attributes are described in :func:`~replk_probe.measure_shape_bias`.

    Raises:
        InvalidInputError: A value cannot be used.
        WeightsError: ``weights`` is neither a name nor a path.
        BackendError: The device or the precision is not available.

    Examples:
        >>> import dataclasses
        >>> from replk_probe.shape_bias import ShapeBiasConfig
        >>> config = ShapeBiasConfig(size=160, batch_size=8)
        >>> dataclasses.replace(config, precision="bf16").size
        (160, 160)
    """


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
