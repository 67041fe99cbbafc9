"""What may be a seed."""

from __future__ import annotations

import numbers
from typing import Any

from replk_probe.errors import InvalidInputError

_SEEDS = 2**63


def check_seed(seed: Any) -> int:
    """``seed`` as an int in [0, 2**63): what every generator used here takes.

    Raises:
        InvalidInputError: It is something else.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= int(seed) < _SEEDS:
        raise InvalidInputError(
            f"The seed {seed!r} cannot be used. Random numbers start from a whole number of 63 bits. "
            "Give one of 0 to 2**63 - 1, such as 0."
        )
    return int(seed)
