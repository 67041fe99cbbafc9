"""The whole measurement, from images and a model to a :class:`RelianceResult`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from replk_probe.runtime.checks import choose_config, config_or_options
from replk_probe.shape_bias.decision_mapping import LabelMapping

from .config import RelianceConfig
from .plan import plan_reliance
from .result import RelianceResult


@config_or_options(RelianceConfig)
def measure_reliance(
    model: nn.Module | str,
    data: str | os.PathLike[str] | None = None,
    *,
    suppressions: str | Sequence[str] | None = RelianceConfig.suppressions,
    images: int | None = RelianceConfig.images,
    mapping: LabelMapping | Mapping[str, Sequence[int]] | str | Path | None = RelianceConfig.mapping,
    batch_size: int = RelianceConfig.batch_size,
    workers: int | None = RelianceConfig.workers,
    size: int | Sequence[int] | None = RelianceConfig.size,
    precision: str = RelianceConfig.precision,
    device: str | torch.device = RelianceConfig.device,
    seed: int = RelianceConfig.seed,
    weights: str | os.PathLike[str] | None = RelianceConfig.weights,
    ema: bool = RelianceConfig.ema,
    entry: str | None = RelianceConfig.entry,
    prefix: str | None = RelianceConfig.prefix,
    num_classes: int | None = RelianceConfig.num_classes,
    name: str | None = RelianceConfig.name,
    channels: int | None = RelianceConfig.channels,
    mean: float | Sequence[float] | None = RelianceConfig.mean,
    std: float | Sequence[float] | None = RelianceConfig.std,
    bgr: bool = RelianceConfig.bgr,
    config: RelianceConfig | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    allow_other_device: bool = False,
    progress: bool = False,
) -> RelianceResult:
    """Measure how much the accuracy of a classifier depends on shape, texture and color.

    A cue is suppressed in every image, and the accuracy is divided by that on the original images. Shapes are
    suppressed by moving or rotating patches, textures by filters that keep edges or blur, and colors by removing or
    exchanging them. Unlike the shape bias, which is a choice between two cues, this needs no images whose cues
    conflict, and a model may rely on both cues or on neither.

    - ``"patch-shuffle"`` divides an image into a grid of patches and puts them in random order. The strength is the
      number of patches per side. The last rows and columns of pixels of a side that is not a multiple of it keep their
      place.
    - ``"patch-rotation"`` rotates each patch of such a grid by 0, 90, 180 or 270 degrees at random.
    - ``"bilateral"`` is the bilateral filter of OpenCV. The strength is the standard deviation over gray levels; that
      over space is 5 pixels of an image with 224.
    - ``"gaussian-blur"`` is the Gaussian blur of torchvision. The strength is the standard deviation in pixels of an
      image with 224 pixels on its shorter side; it is scaled for other sizes.
    - ``"non-local-means"`` is the non-local means of OpenCV for color images, with patches of 7 pixels in windows of
      21. The strength is its parameter ``h`` for lightness and color.
    - ``"grayscale"`` replaces colors by their luma, by torchvision.
    - ``"channel-shuffle"`` exchanges red, green and blue in one of the five other orders at random.

    Images are warped to the input size first. Random numbers depend only on the seed, the name of the image and the
    suppression, so that all models see the same images.

    Args:
        model: Model, which is never changed, or model name as in :func:`replk_probe.create_model`. Its output is
            ``[N, classes]``, or an object, dictionary or tuple with such a tensor (``logits``).
        data: Folder of images with one subfolder for each class, or with images whose names contain a WordNet id
            (``n01440764_tench.JPEG``). Subfolders have the names of ImageNet's classes or their WordNet ids, of the 16
            categories of model-vs-human (for 1000 outputs), of the model's own classes, of the categories of
            ``mapping``, or are indices of the outputs; with as many subfolders as outputs, other names are assumed to
            be in the order of the outputs, which is noted. None or ``"synthetic"`` for generated images, in which both
            shape and texture belong to the class; only the small models of this package know their classes.
        suppressions: Names of suppressions, in a list or separated by commas: a method for all its usual strengths, a
            method with a strength (``"gaussian-blur:4"``), or methods of different cues
            (``"patch-shuffle:4+grayscale"``). None for all methods, and all pairs of two cues at usual strengths.
        images: Number of images, sampled evenly from the classes; None for all, or 320 generated ones.
        mapping: Class indices of each category, which are the names of the subfolders, as in
            :func:`~replk_probe.measure_shape_bias`.
        batch_size: Number of images per forward pass, which is halved if the memory does not suffice. Decisions do not
            depend on it: near ties are decided one by one.
        workers: Number of threads that load and filter images; 0 for none. Defaults to a number that depends on the
            number of cores.
        size: Side, or ``(H, W)``, of the model's input in pixels; None for the size that it was trained for.
        precision: ``"fp32"``, ``"fast"`` or ``"bf16"``, as in :func:`~replk_probe.measure_shape_bias`.
        device: ``"auto"`` (an NVIDIA GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... Blur and
            grayscale may be rounded differently on different devices; all other transforms give the same bytes.
        seed: Random seed of the transforms, of the sample of images and of weight initialization.
        weights: Weights of a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file.
        ema: Whether to load the averaged entry of a weights file.
        entry: Entry of a weights file to load, as in :func:`replk_probe.create_model`.
        prefix: Prefix of the names in a weights file, as in :func:`replk_probe.create_model`.
        num_classes: Number of classes of a model given by name, if its weights do not determine it.
        name: Name of the model in the result; None for the name it was created with, or that of its class.
        channels: Number of input channels, as in :func:`~replk_probe.measure_erf`.
        mean: Mean of the inputs, as in :func:`~replk_probe.measure_erf`.
        std: Standard deviation of the inputs, as in :func:`~replk_probe.measure_erf`.
        bgr: Whether the network takes the colors in the order blue, green, red.
        config: The options from ``suppressions`` to ``bgr`` as one object, instead of separate arguments: none of these
            may be given together with it, not even with the value of its default. Use :func:`dataclasses.replace` to
            change an option of a configuration.
        checkpoint: Folder for the state of an unfinished run, which is kept after the last batch; remove it afterwards.
        resume: Whether to continue from the state in ``checkpoint``, if any. The decisions are those of an
            uninterrupted run.
        allow_other_device: Whether a run can be resumed on another device or with other versions of its software.
        progress: Whether to draw a progress bar on stderr if that is a terminal.

    Returns:
        The decisions, and the accuracies with 95 % intervals by the bootstrap over images.

    Raises:
        InvalidInputError: An argument or an image cannot be used, ``config`` is given together with other options, or
            the classes of the images are not those of the model.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found or do not match the model.
        BackendError: The device is not available, its memory does not suffice, or OpenCV is needed and not installed.
        ResumeError: The saved state belongs to another run or another device, or is damaged.

    Source:
        Burgert et al., NeurIPS 2025, arXiv:2509.20234, for the method; strengths, the order of combined transforms and
        the profile are those of this package.

    Examples:
        >>> from replk_probe import measure_reliance
        >>> result = measure_reliance("replknet_micro_k3", suppressions=["patch-shuffle:4", "grayscale"], images=64)
        >>> [one.cues for one in result.profile], len(result.classes)
        (['shape', 'color'], 16)

        The names of the subfolders are those of the classes:

        >>> from pathlib import Path
        >>> from PIL import Image
        >>> for name in ("cat", "dog"):
        ...     Path("pets", name).mkdir(parents=True)
        ...     Image.effect_noise((64, 64), 50).save(f"pets/{name}/1.png")
        >>> result = measure_reliance("resnet18", "pets", suppressions="grayscale", size=64, weights="random")
        >>> result.label_space, result.classes[:3]
        ('16 categories', ('airplane', 'bear', 'bicycle'))
    """
    config = choose_config(RelianceConfig, config, locals())
    plan = plan_reliance(model, data, config)
    return plan.run(checkpoint=checkpoint, resume=resume, allow_other_device=allow_other_device, progress=progress)
