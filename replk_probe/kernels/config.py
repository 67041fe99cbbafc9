"""Validated options of a kernel measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models.factory import check_seed

from .layers import ALL, LayerSpec

VARIANTS = ("merged", "large", "small", "all")
AGGREGATES = ("sum", "mean")


@dataclass(frozen=True)
class KernelsConfig:
    """Options of a measurement, except the model.

    The attributes are described in :func:`~replk_probe.measure_kernels`.

    Raises:
        InvalidInputError: A value cannot be used.
    """

    layer: LayerSpec | Sequence[LayerSpec] = ALL
    variant: str = "merged"
    aggregate: str = "sum"
    strongest: int = 8
    weights: str | None = "auto"
    ema: bool = False
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.layers or not all(map(_is_spec, self.layers)):
            raise InvalidInputError(
                f"Layers cannot be given as {self.layer!r}. Expected a layer name, an nn.Module of the model, or a "
                "sequence of these. Give for instance 'stage4.0', a module path, or 'all'."
            )
        for what, value, known in (
            ("variant", self.variant, VARIANTS),
            ("aggregate", self.aggregate, AGGREGATES),
        ):
            if value not in known:
                raise InvalidInputError(f"Unknown {what} {value!r}. Choose from {', '.join(known)}.")
        check_seed(self.seed)
        if self.name is not None and not isinstance(self.name, str):
            raise InvalidInputError(f"The name {self.name!r} is not a string. Give a name for the result.")
        if not isinstance(self.strongest, int) or isinstance(self.strongest, bool) or self.strongest < 0:
            raise InvalidInputError(
                f"{self.strongest} channels cannot be kept. Expected a non-negative integer. Give 0 or more."
            )

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """``layer`` as a tuple."""
        if isinstance(self.layer, (str, nn.Module)):
            return (self.layer,)
        return tuple(self.layer) if isinstance(self.layer, Sequence) else ()


def _is_spec(layer: object) -> bool:
    return isinstance(layer, nn.Module) or (isinstance(layer, str) and bool(layer.strip()))
