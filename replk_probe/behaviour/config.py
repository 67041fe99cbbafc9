"""Validated options of a measurement on the sets of model-vs-human."""

from __future__ import annotations

from dataclasses import dataclass

from replk_probe.shape_bias.config import DecisionConfig


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig(DecisionConfig):
    """Options of a measurement, except the model and the sets.

    The attributes are described in :func:`~replk_probe.measure_behaviour`.

    Raises:
        InvalidInputError: A value cannot be used.
        WeightsError: ``weights`` is neither a name nor a path.
        BackendError: The device or the precision is not available.

    Examples:
        >>> import dataclasses
        >>> from replk_probe.behaviour import BehaviourConfig
        >>> config = BehaviourConfig(size=160, batch_size=8)
        >>> dataclasses.replace(config, precision="bf16").size
        (160, 160)
    """
