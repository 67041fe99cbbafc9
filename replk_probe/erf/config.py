"""The options of an ERF measurement, shared by the function, the plan and the command."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.images.sample import check_sample
from replk_probe.models.architectures.micro import ERF_SIZE, is_micro
from replk_probe.models.inference.run_methods import TUNE
from replk_probe.models.network_options import checked_network_options
from replk_probe.runtime import checks

from .area_protocols import DEFAULT_THRESHOLDS
from .arguments import check_thresholds
from .attribution import DEFAULT as GRADIENT
from .attribution import WITH_OWN_MODULES, check_attribution
from .convention import DEFAULT, Convention, convention_of
from .convergence import CRITERION, Criterion, check_until, check_until_ratios
from .objective import check_target
from .occlusion_rows import CHECKS, check_single
from .position_rule import CENTER, parse_position
from .target_layer import check_layer

# The smallest square of the protocols.
SMALLEST_SIDE = 3
# One float32 map of 64 channels at half this resolution, as after a usual stem, takes 16 GiB.
LARGEST_SIDE = 16384


@dataclass(frozen=True, kw_only=True)
class ErfConfig:
    """Options of a measurement, except the model and the data.

    The attributes are described in :func:`~replk_probe.measure_erf`.

    Raises:
        InvalidInputError: A value cannot be used.
        WeightsError: ``weights`` is neither a name nor a path.
        BackendError: The device is not available.

    Examples:
        >>> import dataclasses, torch
        >>> from replk_probe import measure_erf
        >>> from replk_probe.erf import ErfConfig
        >>> config = ErfConfig(layer="0", thresholds=(0.5,))
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1))
        >>> measure_erf(network, torch.rand(2, 3, 16, 16), config=config).thresholds
        (0.5,)
        >>> dataclasses.replace(config, thresholds=(0.2, 0.99)).thresholds
        (0.2, 0.99)
    """

    images: int = 50
    size: int | tuple[int, int] = 1024
    layer: str | nn.Module | None = None
    target: str | None = None
    position: str | Sequence[int] = CENTER
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS
    convention: str | Convention = DEFAULT
    attribution: str = GRADIENT
    precision: str = "fp32"
    device: str | torch.device = "auto"
    seed: int = 0
    sampling: str = "stratified"
    weights: str | None = "auto"
    ema: bool = False
    entry: str | None = None
    prefix: str | None = None
    name: str | None = None
    batch_size: int | None = None
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    bgr: bool = False
    until: float | None = None
    until_ratios: Sequence[str] = CRITERION
    check: str | None = None
    tune: str = "auto"

    def __post_init__(self) -> None:
        """Check the values, and convert them to the declared types."""
        checks.check_name(self.name)
        check_sample(self.images, self.sampling)
        checks.check_choice("value of tune", self.tune, TUNE)
        check_layer(self.layer)
        convention = convention_of(self.convention)
        check_attribution(self.attribution)
        if self.attribution in WITH_OWN_MODULES and self.precision != "fp32":
            raise InvalidInputError(
                f"Attribution {self.attribution!r} cannot be computed with precision {self.precision!r}. It needs the "
                "network as it is, not a prepared copy. Use precision 'fp32'."
            )
        if self.check is not None:
            checks.check_choice("check", self.check, CHECKS)
            check_single(parse_position(self.position))
        checks.set_checked(
            self,
            **checked_network_options(self),
            images=int(self.images),
            size=checks.check_size(self.size, SMALLEST_SIDE, LARGEST_SIDE),
            target=check_target(self.target),
            position=str(parse_position(self.position)),
            thresholds=check_thresholds(self.thresholds),
            convention=convention if convention.name == "custom" else convention.name,
            batch_size=checks.check_batch_size(self.batch_size),
            until=check_until(self.until),
        )
        checks.set_checked(self, until_ratios=check_until_ratios(self.until_ratios, self.thresholds))
        if self.until is None and self.until_ratios != CRITERION:
            raise InvalidInputError(
                f"The option until_ratios={','.join(self.until_ratios)!r} needs the option until. It chooses the "
                "ratios whose intervals end a measurement. Give until, such as 0.02, or omit until_ratios."
            )

    @property
    def criterion(self) -> Criterion | None:
        """The criterion by which the measurement ends, or None for a fixed number of images."""
        return None if self.until is None else Criterion(self.until, tuple(self.until_ratios))


def default_size(models: Collection[str]) -> int | tuple[int, int]:
    """Default input size: three times the training size for the small models, otherwise the size in the paper."""
    return ERF_SIZE if all(map(is_micro, models)) else ErfConfig.size
