"""Conventions: which scalar of the features is differentiated, and how its gradients become one map."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_bool

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = npt.NDArray[np.float64]

_CHOICES = {
    "channels": ("sum", "mean"),
    "position": ("lower-right", "upper-left", "upper-left of tokens"),
    "final_norm": ("before", "after"),
    "colors": ("sum", "mean"),
    "rectification": ("positive", "absolute"),
    "color_order": ("rectify first", "reduce first"),
    "images": ("mean", "log first"),
}


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Definition of a contribution map. The defaults are those of RepLKNet.

    Published conventions, by name in :data:`CONVENTIONS`:

    - ``"replknet"``: Ding et al., CVPR 2022, arXiv:2203.06717, section 4.2, and the script ``erf/visualize_erf.py``
      published with it. The scripts of SLaK, WTConv, VMamba and MegEngine BaseCls define the map in the same way.
    - ``"openerf"``: version 0.6.1 of the package ``openerf``, https://github.com/kmbmjn/OpenERF. It does not support
      transformers with a grid that is not square, and reads the output of a channels-last layer chosen by name as
      channels-first; both are measured here. Its preprocessing, which crops, is not part of the convention.
    - ``"mambair"``: Guo et al., ECCV 2024, arXiv:2402.15648, script ``analysis/erf.py``, for image restoration: as
      RepLKNet, without ReLU.
    - ``"luo2016"``: Luo et al., NeurIPS 2016, arXiv:1701.04128, section 2: the derivative of the center of the output
      plane, without ReLU, averaged over inputs. The paper's analysis has one channel and does not state how signs and
      channels are combined. Here all channels of the center are summed, and the absolute values of the derivatives are
      summed over colors before the mean over images, because signed derivatives cancel in the mean.

    Attributes:
        relu: Whether negative features are set to zero before they are reduced over channels.
        channels: Reduction of the features over channels: ``"sum"`` or ``"mean"``. It scales the map.
        position: Position of the feature map that is differentiated, which differs for even numbers of rows or columns
            h and w: ``"lower-right"`` for (h // 2, w // 2), ``"upper-left"`` for ((h - 1) // 2, (w - 1) // 2), or
            ``"upper-left of tokens"`` for upper-left in sequences of tokens and in the output of ``forward_features``
            of networks with an attribute ``patch_embed``, and lower-right elsewhere.
        final_norm: The layer that is measured by default: ``"before"`` for the last map before the final norm, or
            ``"after"`` for the output of ``forward_features``, if this is a map. It has no effect on a layer that is
            chosen.
        colors: Reduction of the gradient over the channels of the input: ``"sum"`` or ``"mean"``.
        rectification: ``"positive"`` if negative values become zero, ``"absolute"`` for absolute values.
        color_order: ``"rectify first"`` if each color is rectified before they are reduced, or ``"reduce first"``.
        images: ``"mean"`` for the mean of the scores over images, or ``"log first"`` for the mean of
            log10(score + 1). The map in figures and numbers is then 10 ** mean - 1, which is in units of the scores:
            the protocol ``"paper"``, which takes log10(map + 1), measures exactly the mean of the logarithms.

    Raises:
        InvalidInputError: A choice is unknown.

    Examples:
        Use :func:`dataclasses.replace` for a convention of your own:

        >>> import dataclasses
        >>> from replk_probe.erf import CONVENTIONS
        >>> convention = dataclasses.replace(CONVENTIONS["openerf"], relu=True)
        >>> convention.name, convention.relu, convention.channels
        ('custom', True, 'mean')
    """

    relu: bool = True
    channels: str = "sum"
    position: str = "lower-right"
    final_norm: str = "before"
    colors: str = "sum"
    rectification: str = "positive"
    color_order: str = "rectify first"
    images: str = "mean"

    def __post_init__(self) -> None:
        """Check the choices."""
        check_bool("relu", self.relu)
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise InvalidInputError(
                    f"The choice {name} of a convention cannot be {value!r}. Choose from {', '.join(map(repr, known))}."
                )

    @property
    def name(self) -> str:
        """Name in :data:`CONVENTIONS` of the convention with these choices, or ``"custom"``."""
        return next((name for name, known in CONVENTIONS.items() if known == self), "custom")

    @property
    def record(self) -> dict[str, Any]:
        """The name and all choices."""
        return {"name": self.name, **asdict(self)}

    def objective(self, features: Tensor) -> Tensor:
        """The scalar of each image that is differentiated: ``[N, C] -> [N]``."""
        rectified = features.relu() if self.relu else features
        return rectified.sum(dim=1) if self.channels == "sum" else rectified.mean(dim=1)

    def scores(self, gradient: Tensor) -> Tensor:
        """Scores of each image, ``[N, *spatial]``, >= 0, at least float32, from its gradient ``[N, C, *spatial]``."""
        import torch

        dtype = torch.promote_types(gradient.dtype, torch.float32)
        if self.color_order == "rectify first":
            return self._reduced(self._rectified(gradient).to(dtype))
        return self._rectified(self._reduced(gradient.to(dtype)))

    def _rectified(self, values: Tensor) -> Tensor:
        # clamp_min keeps NaN and infinity: whoever adds the scores up has to find them.
        return values.clamp_min(0) if self.rectification == "positive" else values.abs()

    def _reduced(self, values: Tensor) -> Tensor:
        return values.sum(dim=1) if self.colors == "sum" else values.mean(dim=1)

    def summand(self, scores: FloatArray) -> FloatArray:
        """The values of one image whose mean over images is taken, from its scores."""
        return np.log1p(scores) / math.log(10) if self.images == "log first" else scores

    def map_of(self, mean: FloatArray) -> FloatArray:
        """The contribution map from the mean of :meth:`summand` over images."""
        return np.expm1(mean * math.log(10)) if self.images == "log first" else mean


CONVENTIONS = {
    "replknet": Convention(),
    "openerf": Convention(
        relu=False, channels="mean", position="upper-left of tokens", final_norm="after", colors="mean",
        color_order="reduce first",
    ),
    "mambair": Convention(relu=False),
    "luo2016": Convention(relu=False, rectification="absolute"),
}  # fmt: skip
"""Published conventions by name; :class:`Convention` has their sources."""

DEFAULT = "replknet"


def convention_of(convention: Any) -> Convention:
    """The convention for a name in :data:`CONVENTIONS` or for a :class:`Convention`.

    Raises:
        InvalidInputError: It is neither.
    """
    if isinstance(convention, Convention):
        return convention
    if isinstance(convention, str) and convention in CONVENTIONS:
        return CONVENTIONS[convention]
    raise InvalidInputError(
        f"Unknown convention {convention!r}. Choose from {', '.join(CONVENTIONS)}, or give a Convention with "
        f"{', '.join(field.name for field in fields(Convention))}."
    )


def convention_record(convention: str | Convention) -> dict[str, Any]:
    """The entry of a result's configuration; empty for the default."""
    chosen = convention_of(convention)
    return {} if chosen == CONVENTIONS[DEFAULT] else {"convention": chosen.record}
