"""Measurements of one model at several input sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.images import ImageSet
from replk_probe.runtime.checks import check_size
from replk_probe.runtime.formatting import dimensions

from .config import ErfConfig
from .plan import plan_erf
from .result import ErfResult


def measure_erf_series(
    model: nn.Module | str,
    data: ImageSet | str | Path | None = None,
    sizes: Sequence[int | Sequence[int]] = (224, 384, 512, 1024),
    *,
    config: ErfConfig | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **options: Any,
) -> tuple[ErfResult, ...]:
    """Measure the effective receptive field of a model at several input sizes.

    Args:
        model: Model, as in :func:`~replk_probe.measure_erf`.
        data: Images, as in :func:`~replk_probe.measure_erf`, which are resized to each size.
        sizes: Sides in pixels, or pairs (H, W), each given once.
        config: Options of all measurements; its ``size`` is not used.
        checkpoint: Folder for the states of unfinished measurements, with a subfolder for each size, or None.
        resume: Whether to continue from the states in ``checkpoint``.
        progress: Whether to draw progress bars on stderr, if that is a terminal.
        **options: Options of :class:`~replk_probe.erf.ErfConfig` except ``size``, instead of ``config``.

    Returns:
        One result for each size, in the order given.

    Raises:
        InvalidInputError: There is no size, or one is given twice; ``config`` is given together with options; also as
            for :func:`~replk_probe.measure_erf`.

    Examples:
        >>> import torch
        >>> from replk_probe.erf import measure_erf_series
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU())
        >>> results = measure_erf_series(network, sizes=[32, (32, 48)], images=2, layer="0")
        >>> [result.input_size for result in results]
        [(32, 32), (32, 48)]
    """
    if "size" in options or (config is not None and options):
        raise InvalidInputError(
            f"The options {', '.join(options)} cannot be given here. Sizes are the argument sizes, and other options "
            "are given either as config or as separate arguments. Omit them."
        )
    pairs = [check_size(size) for size in sizes]
    if not pairs or len({*pairs}) < len(pairs):
        raise InvalidInputError(
            f"The sizes {[*sizes]} do not form a series. A series has one result for each size. Give each size once."
        )
    base = ErfConfig(**options) if config is None else config
    # All of them are checked before the first one is measured.
    configs = [replace(base, size=pair) for pair in pairs]
    results = []
    for pair, one in zip(pairs, configs, strict=True):
        folder = None if checkpoint is None else Path(checkpoint) / dimensions(pair)
        results.append(plan_erf(model, data, one).run(checkpoint=folder, resume=resume, progress=progress))
    return tuple(results)
