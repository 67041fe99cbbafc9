"""The measurement on the sets of model-vs-human: from a classifier and images to a :class:`BehaviourResult`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from replk_probe.runtime.checks import choose_config, config_or_options
from replk_probe.shape_bias.decision_mapping import LabelMapping

from .config import BehaviourConfig
from .plan import plan_behaviour
from .result import BehaviourResult
from .trials import Trials


@config_or_options(BehaviourConfig)
def measure_behaviour(
    model: nn.Module | str,
    sets: str | Sequence[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    mapping: LabelMapping | Mapping[str, Sequence[int]] | str | Path | None = BehaviourConfig.mapping,
    observers: Sequence[Trials] = (),
    batch_size: int | None = BehaviourConfig.batch_size,
    workers: int | None = BehaviourConfig.workers,
    size: int | Sequence[int] | None = BehaviourConfig.size,
    precision: str = BehaviourConfig.precision,
    device: str | torch.device = BehaviourConfig.device,
    seed: int = BehaviourConfig.seed,
    weights: str | os.PathLike[str] | None = BehaviourConfig.weights,
    ema: bool = BehaviourConfig.ema,
    entry: str | None = BehaviourConfig.entry,
    prefix: str | None = BehaviourConfig.prefix,
    num_classes: int | None = BehaviourConfig.num_classes,
    name: str | None = BehaviourConfig.name,
    allow_partial: bool = BehaviourConfig.allow_partial,
    channels: int | None = BehaviourConfig.channels,
    mean: float | Sequence[float] | None = BehaviourConfig.mean,
    std: float | Sequence[float] | None = BehaviourConfig.std,
    bgr: bool = BehaviourConfig.bgr,
    tune: str = BehaviourConfig.tune,
    config: BehaviourConfig | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    allow_other_device: bool = False,
    progress: bool = False,
) -> BehaviourResult:
    """Measure how a classifier decides on images that people decided on, and how consistent it is with them.

    Args:
        model: Model, which is never changed, or model name as in :func:`replk_probe.create_model`. Its output is
            ``[N, classes]``, or an object, dictionary or tuple with such a tensor (``logits``). Outputs that are
            probabilities are used without another softmax, which is noted.
        sets: Names of sets: ``"all"``; ``"shape"`` for the five sets without conditions (cue-conflict, edge,
            silhouette, sketch, stylized); ``"noise"`` for the twelve sets of distorted images; names separated by
            commas; or a sequence of them. Defaults to the sets that are in ``data``.
        data: Folder with one folder per set, or the folder of one set, with its name. Defaults to the cache, to which
            ``replk-probe data fetch`` downloads the sets.
        mapping: Class indices of the 16 categories: a :class:`~replk_probe.shape_bias.LabelMapping`, a dictionary such
            as ``{"cat": [281, 282], "dog": [151]}``, or a JSON file with one. Defaults to the ImageNet-1k mapping for
            1000 outputs, and to one output per category if there are as many outputs as categories.
        observers: Trials of people and of other networks, see :func:`~replk_probe.behaviour.read_raw_data`. Without
            people, only the accuracy is compared with theirs, which is published.
        batch_size: Number of images per forward pass. Decisions do not depend on it: near ties are decided one by one.
            If the memory does not suffice, the batches are halved, which a note says. None (or ``"auto"``) for 32 on a
            CPU, and on a GPU for up to 64, as many as fit into its free memory when the run begins; a resumed run uses
            the same number.
        workers: Number of data-loading threads; 0 loads in the main thread. Defaults to a number that depends on the
            number of cores.
        size: Side, or ``(H, W)``, of the model's input in pixels; defaults to the model's own input size. Images of
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
        allow_partial: Whether to evaluate sets from which images are missing; this is noted.
        channels: Number of input channels, as in :func:`~replk_probe.measure_erf`.
        mean: Mean of the inputs, as in :func:`~replk_probe.measure_erf`.
        std: Standard deviation of the inputs, as in :func:`~replk_probe.measure_erf`.
        bgr: Whether the model takes the colors in the order blue, green, red.
        tune: Whether the methods of large depthwise convolutions are chosen by measurement before the first image:
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
        The decisions, and the scores of all observers.

    Raises:
        InvalidInputError: An argument or an image cannot be used, a set is missing or incomplete, ``config`` is given
            together with other options, or no mapping is known for the model's outputs.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be fetched, or do not match.
        BackendError: The device or precision is not available, or its memory does not suffice.
        ResumeError: The saved state belongs to another run or another device, or is damaged.

    Source:
        Geirhos et al., Partial success in closing the gap between human and machine vision, NeurIPS 2021,
        arXiv:2106.07411.

    Examples:
        With the published sets, this is ``measure_behaviour("resnet50", "shape")``. Here, two images are drawn:

        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe import measure_behaviour
        >>> for category in ("cat", "dog"):
        ...     Path("sets/edge", category).mkdir(parents=True)
        ...     Image.effect_noise((64, 64), 50).convert("RGB").save(f"sets/edge/{category}/{category}1.png")
        >>> result = measure_behaviour("resnet18", data="sets", allow_partial=True, size=64, weights="random")
        >>> result.trials[0].names, result.probabilities["edge"].shape
        (('cat1.png', 'dog1.png'), (2, 16))
    """
    config = choose_config(BehaviourConfig, config, locals())
    plan = plan_behaviour(model, sets, None if data is None else os.fspath(data), config)
    result = plan.run(checkpoint=checkpoint, resume=resume, allow_other_device=allow_other_device, progress=progress)
    return result.with_observers(observers) if observers else result
