"""The options of a measurement that describe the network, its weights and its inputs."""

from __future__ import annotations

from typing import Any

from replk_probe.runtime import checks
from replk_probe.runtime.devices import resolve_device

from .inference.prepare import check_precision


def checked_network_options(config: Any) -> dict[str, Any]:
    """Check these options of a configuration.

    Args:
        config: An object with the attributes ``precision``, ``device``, ``seed``, ``weights``, ``ema``, ``entry``,
            ``prefix``, ``channels``, ``mean``, ``std`` and ``bgr``.

    Returns:
        The converted values by name, of those that are converted.

    Raises:
        InvalidInputError: A value cannot be used.
        WeightsError: ``weights`` is neither a name nor a path.
        BackendError: The device is not available.
    """
    check_precision(config.precision)
    checks.check_selection(config.ema, config.entry, config.prefix)
    checks.check_bool("bgr", config.bgr)
    resolve_device(config.device)
    channels = config.channels
    return {
        "seed": checks.check_seed(config.seed),
        "weights": checks.check_weights(config.weights),
        "channels": None if channels is None else checks.check_integer("number of channels", channels, 1),
        "mean": checks.check_statistics("mean", config.mean),
        "std": checks.check_statistics("std", config.std, above=0),
    }
