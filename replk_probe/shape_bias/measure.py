"""The whole measurement: stimuli and a classifier in, :class:`ShapeBiasResult` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from .config import ShapeBiasConfig, as_size
from .decision_mapping import LabelMapping, as_mapping
from .decisions import Decisions
from .observers import check_decisions
from .plan import plan_shape_bias
from .result import ShapeBiasResult
from .stimuli.stimulus_set import StimulusSet


def measure_shape_bias(
    model: nn.Module | str,
    stimuli: StimulusSet | str | Path | None = None,
    *,
    mapping: LabelMapping | Mapping[str, Sequence[int]] | str | Path | None = None,
    observers: Sequence[Decisions] = (),
    batch_size: int = 32,
    workers: int | None = None,
    size: int | tuple[int, int] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "auto",
    seed: int = 0,
    weights: str | None = "auto",
    ema: bool = False,
    num_classes: int | None = None,
    name: str | None = None,
    allow_partial: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> ShapeBiasResult:
    """Measure the shape bias of a classifier.

    Args:
        model: A module, which is never changed, or a name for :func:`replk_probe.create_model`.
        stimuli: A :class:`~replk_probe.shape_bias.StimulusSet`, a folder, ``"cue-conflict"`` (the published set,
            fetched where it is not in the cache) or ``"synthetic"``; None for the published set if it is in the cache,
            else the synthetic one.
        mapping: Which outputs belong to which category: a :class:`~replk_probe.shape_bias.LabelMapping`, a dictionary
            such as ``{"cat": [281, 282], "dog": [151]}``, or a JSON file of one; by default ImageNet-1k's for 1000
            outputs, and one output per category for as many outputs as categories.
        observers: Decisions of others, to stand beside the model's.
        batch_size: Stimuli per forward pass. Decisions do not depend on it: near ties are decided one by one.
        workers: Processes that decode; 0 for none, None for as many as pay.
        size: Side in pixels, or (H, W), of the model's input; by default what the model was made for. Stimuli of
            another size are resized to it, which is recorded.
        precision: ``"fp32"`` strict; ``"fast"`` the same, since there are no gradients; ``"bf16"`` bfloat16 products
            with float32 sums.
        device: ``"auto"`` (an NVIDIA GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        seed: Of a random initialisation.
        weights: For a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file.
        ema: Take the averaged entry of a weights file.
        num_classes: For a model given by name: outputs of its head, where its weights do not say.
        name: What to call the model in the record; default its name or that of its class. Its decisions are filed under
            the part after the last colon.
        allow_partial: Evaluate what is intact of a published set that is not complete; it is recorded.
        checkpoint: Folder for the state of an unfinished run; None for none. It stays after the last batch, so that
            nothing is lost before the result is saved: remove it then.
        resume: Continue from ``checkpoint`` if there is a state; the decisions and probabilities are then those of an
            uninterrupted run.
        progress: Draw a progress bar on a terminal's stderr.

    Returns:
        The decisions and their numbers.

    Raises:
        InvalidInputError: An argument or a stimulus cannot be used, or the model's outputs have no known mapping.
        UnknownModelError: No model has this name.
        WeightsError: The weights or the published set cannot be fetched, or do not fit.
        BackendError: The device or precision is not available, or its memory does not suffice.
        ResumeError: The saved state belongs to another run.
    """
    others = check_decisions(observers)
    config = ShapeBiasConfig(
        mapping=None if mapping is None else as_mapping(mapping),
        batch_size=batch_size,
        workers=workers,
        size=as_size(size),
        precision=precision,
        device=device,
        seed=seed,
        weights=weights,
        ema=ema,
        num_classes=num_classes,
        name=name,
        allow_partial=allow_partial,
    )
    plan = plan_shape_bias(model, stimuli, config)
    result = plan.run(checkpoint=checkpoint, resume=resume, progress=progress)
    return result.beside(others) if others else result
