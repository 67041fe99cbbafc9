"""The shape-bias measurement: from a classifier and stimuli to a :class:`ShapeBiasResult`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from replk_probe.runtime.checks import choose_config, config_or_options

from .config import ShapeBiasConfig
from .decision_mapping import LabelMapping
from .decisions import Decisions
from .observers import check_decisions
from .plan import plan_shape_bias
from .result import ShapeBiasResult
from .stimuli.stimulus_set import StimulusSet


@config_or_options(ShapeBiasConfig)
def measure_shape_bias(
    model: nn.Module | str,
    stimuli: StimulusSet | str | Path | None = None,
    *,
    mapping: LabelMapping | Mapping[str, Sequence[int]] | str | Path | None = ShapeBiasConfig.mapping,
    observers: Sequence[Decisions] = (),
    batch_size: int | None = ShapeBiasConfig.batch_size,
    workers: int | None = ShapeBiasConfig.workers,
    size: int | Sequence[int] | None = ShapeBiasConfig.size,
    precision: str = ShapeBiasConfig.precision,
    device: str | torch.device = ShapeBiasConfig.device,
    seed: int = ShapeBiasConfig.seed,
    weights: str | os.PathLike[str] | None = ShapeBiasConfig.weights,
    ema: bool = ShapeBiasConfig.ema,
    entry: str | None = ShapeBiasConfig.entry,
    prefix: str | None = ShapeBiasConfig.prefix,
    num_classes: int | None = ShapeBiasConfig.num_classes,
    name: str | None = ShapeBiasConfig.name,
    allow_partial: bool = ShapeBiasConfig.allow_partial,
    channels: int | None = ShapeBiasConfig.channels,
    mean: float | Sequence[float] | None = ShapeBiasConfig.mean,
    std: float | Sequence[float] | None = ShapeBiasConfig.std,
    bgr: bool = ShapeBiasConfig.bgr,
    tune: str = ShapeBiasConfig.tune,
    config: ShapeBiasConfig | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    allow_other_device: bool = False,
    progress: bool = False,
) -> ShapeBiasResult:
    """Measure the shape bias of a classifier.

    Args:
        model: Model, which is never changed, or model name as in :func:`replk_probe.create_model`. Its output is
            ``[N, classes]``, or an object, dictionary or tuple with such a tensor (``logits``). Outputs that are
            probabilities are used without another softmax, which is noted.
        stimuli: Stimulus set: a :class:`~replk_probe.shape_bias.StimulusSet`, a folder, ``"cue-conflict"`` (the
            published set, fetched if it is not in the cache), ``"synthetic"``, or a set with a description, as in
            :func:`~replk_probe.shape_bias.open_stimuli`. Defaults to the published set if it is in the cache, otherwise
            to the synthetic one; small models trained on the synthetic set default to that.
        mapping: Class indices of each category: a :class:`~replk_probe.shape_bias.LabelMapping`, a dictionary such as
            ``{"cat": [281, 282], "dog": [151]}``, or a JSON file with one. Defaults to the classes with the names of
            the categories, if the model has class names; otherwise to the ImageNet-1k mapping for 1000 outputs, and to
            one output per category if there are as many outputs as categories.
        observers: Decisions of other observers, to be compared with the model's.
        batch_size: Number of stimuli per forward pass. Decisions do not depend on it: near ties are decided one by one.
            If the memory does not suffice, the batches are halved, which a note says. None (or ``"auto"``) for 32 on a
            CPU, and on a GPU for up to 64, as many as fit into its free memory when the run begins; a resumed run uses
            the same number.
        workers: Number of data-loading threads; 0 loads in the main thread. Defaults to a number that depends on the
            number of cores. With workers, the ``loader`` of a custom stimulus set must be thread-safe.
        size: Side, or ``(H, W)``, of the model's input in pixels; defaults to the model's own input size. Stimuli of
            another size are resized to it, which is recorded.
        precision: ``"fp32"`` for strict float32; ``"fast"``, which is the same, since there are no gradients;
            ``"bf16"`` for bfloat16 products with float32 sums.
        device: ``"auto"`` (an NVIDIA GPU if available), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ..., or
            experimentally ``"mps"`` (Apple) and ``"xpu"`` (Intel).
        seed: Random seed for weight initialization.
        weights: Weights of a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file.
        ema: Whether to load the averaged entry of a weights file.
        entry: Entry of a weights file to load, as in :func:`replk_probe.create_model`.
        prefix: Prefix of the names in a weights file, as in :func:`replk_probe.create_model`.
        num_classes: Number of classes of a model given by name, if its weights do not determine it.
        name: Name of the model in the record; defaults to its model name or class name. The part after the last colon
            is the name of the observer.
        allow_partial: Whether to evaluate the intact part of an incomplete published set; this is recorded.
        channels: Number of input channels, as in :func:`~replk_probe.measure_erf`.
        mean: Mean of the inputs, as in :func:`~replk_probe.measure_erf`.
        std: Standard deviation of the inputs, as in :func:`~replk_probe.measure_erf`.
        bgr: Whether the model takes the colors in the order blue, green, red.
        tune: Whether the methods of large depthwise convolutions are chosen by measurement before the first stimulus:
            ``"auto"`` on an NVIDIA GPU, in runs that take at least ten times as long as that; ``"force"`` in every
            run, on a CPU as well; ``"off"`` never. A run uses the same methods throughout, also if it is resumed, and
            records those that differ from the default and how they were chosen (see :func:`replk_probe.ops.tune`).
        config: The options from ``mapping`` to ``tune``, except ``observers``, as one object, instead of separate
            arguments: none of these may be given together with it, not even with the value of its default. Use
            :func:`dataclasses.replace` to change an option of a configuration.
        checkpoint: Folder for the state of an unfinished run. It is kept after the last batch, so that nothing is lost
            before the result is saved; remove it afterwards.
        resume: Whether to continue from the state in ``checkpoint``, if any. The decisions and probabilities are those
            of an uninterrupted run.
        allow_other_device: Whether a run can be resumed on another device, with other versions of its software or with
            other methods of convolution. Its last digits can then differ. The number of threads is that of the run
            that is resumed in any case.
        progress: Whether to draw a progress bar on stderr if that is a terminal.

    Returns:
        The decisions and the statistics of them; or, if each image has one cue only, its scores.

    Raises:
        InvalidInputError: An argument or a stimulus cannot be used, ``config`` is given together with other
            options, or no mapping is known for the model's outputs.
        UnknownModelError: No model has this name.
        WeightsError: The weights or the published set cannot be fetched, or do not match.
        BackendError: The device or precision is not available, or its memory does not suffice.
        ResumeError: The saved state belongs to another run or another device, or is damaged.

    Source:
        Geirhos et al., ICLR 2019, arXiv:1811.12231, for the stimuli and the definition; Geirhos et al., NeurIPS 2021,
        arXiv:2106.07411 (model-vs-human), for the decisions of classifiers.

    Examples:
        With the published stimuli, this is ``measure_shape_bias("resnet50", "cue-conflict")``. The stimuli of a
        folder are measured if their names contain shape and texture:

        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe import measure_shape_bias
        >>> Path("stimuli").mkdir()
        >>> for name in ("cat1-dog1.png", "dog1-cat1.png"):
        ...     Image.effect_noise((64, 64), 50).convert("RGB").save(f"stimuli/{name}")
        >>> result = measure_shape_bias("resnet18", "stimuli", size=64, weights="random")
        >>> result.decisions.names, result.probabilities.shape
        (('cat1-dog1.png', 'dog1-cat1.png'), (2, 16))
    """
    config = choose_config(ShapeBiasConfig, config, locals())
    others = check_decisions(observers)
    plan = plan_shape_bias(model, stimuli, config)
    result = plan.run(checkpoint=checkpoint, resume=resume, allow_other_device=allow_other_device, progress=progress)
    return result.with_observers(others) if others else result
