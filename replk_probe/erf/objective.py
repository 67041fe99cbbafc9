"""What is differentiated: the features at one position of a layer, or the logit of one class there."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from replk_probe.errors import InvalidInputError

from .convention import Convention

_LOGIT = re.compile(r"logit:(?P<index>\d{1,9})")


def check_target(target: Any) -> str | None:
    """The target without blanks around it; InvalidInputError unless it is None or ``"logit:K"`` with K >= 0."""
    if target is None:
        return None
    if isinstance(target, str) and _LOGIT.fullmatch(target.strip()):
        return target.strip()
    advice = "Write 'logit:K' with the index K of a class, which counts from 0, or omit the target."
    if str(target).strip().isdecimal():
        advice = f"Write 'logit:{int(target)}', or omit the target."
    raise InvalidInputError(
        f"The target {target!r} is invalid. It names the class whose logit is differentiated instead of all features "
        f"of a layer. {advice}"
    )


def logit_of(target: str | None) -> int | None:
    """The index of the class that a target names, or None; errors as in :func:`check_target`."""
    found = _LOGIT.fullmatch(check_target(target) or "")
    return None if found is None else int(found["index"])


def objective(features: Tensor, convention: Convention, logit: int | None) -> Tensor:
    """The number of each image that is differentiated, ``[N]``, from the features ``[N, C]`` at one position.

    That of the convention; or with the index of a class, its logit, whatever its sign.
    """
    return convention.objective(features) if logit is None else features[:, logit]
