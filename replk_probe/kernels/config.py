"""Validated options of a kernel measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime import checks

from .layers import ALL, LayerSpec

VARIANTS = ("merged", "large", "small", "all")
AGGREGATES = ("sum", "mean")


@dataclass(frozen=True, kw_only=True)
class KernelsConfig:
    """Options of a measurement, except the model.

    The attributes are described in :func:`~replk_probe.measure_kernels`.

    Raises:
        InvalidInputError: A value cannot be used.
        WeightsError: ``weights`` is neither a name nor a path.

    Examples:
        >>> import dataclasses
        >>> from replk_probe.kernels import KernelsConfig
        >>> config = KernelsConfig(layer=("stage1", "stage2"), strongest=0)
        >>> dataclasses.replace(config, variant="all").layers
        ('stage1', 'stage2')
    """

    layer: LayerSpec | Sequence[LayerSpec] = ALL
    variant: str = "merged"
    aggregate: str = "sum"
    strongest: int = 8
    compose: bool = False
    against: str | None = None
    weights: str | None = "auto"
    ema: bool = False
    entry: str | None = None
    prefix: str | None = None
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        """Check the values, and convert them to the declared types."""
        if not self.layers or not all(map(_is_spec, self.layers)):
            raise InvalidInputError(
                f"Layers cannot be given as {self.layer!r}. Expected a layer name, an nn.Module of the model, or a "
                "sequence of these. Give for instance 'stage4.0', a module path, or 'all'."
            )
        checks.check_choice("variant", self.variant, VARIANTS)
        checks.check_choice("aggregate", self.aggregate, AGGREGATES)
        checks.check_selection(self.ema, self.entry, self.prefix)
        checks.check_name(self.name)
        checks.set_checked(
            self,
            layer=self.layer if isinstance(self.layer, (str, nn.Module)) else self.layers,
            compose=checks.check_bool("compose", self.compose),
            against=checks.check_weights(self.against),
            seed=checks.check_seed(self.seed),
            strongest=checks.check_integer("number of strongest channels", self.strongest, 0),
            weights=checks.check_weights(self.weights),
        )

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """``layer`` as a tuple."""
        if isinstance(self.layer, (str, nn.Module)):
            return (self.layer,)
        return tuple(self.layer) if isinstance(self.layer, Sequence) else ()


def _is_spec(layer: object) -> bool:
    return isinstance(layer, nn.Module) or (isinstance(layer, str) and bool(layer.strip()))
