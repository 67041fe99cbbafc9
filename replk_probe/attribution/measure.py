"""The whole measurement, from images and a model to an :class:`AttributionResult`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.erf.result import ErfResult
from replk_probe.runtime.checks import choose_config, config_or_options

from .config import AttributionConfig
from .plan import plan_attribution
from .result import AttributionResult


@config_or_options(AttributionConfig)
def measure_attribution(
    model: nn.Module | str,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Tensor | npt.NDArray[Any],
    erf: ErfResult | str | os.PathLike[str] | None = None,
    *,
    method: str = AttributionConfig.method,
    target: int | str | None = AttributionConfig.target,
    layer: str | nn.Module | None = AttributionConfig.layer,
    size: int | Sequence[int] | None = AttributionConfig.size,
    thresholds: Sequence[float] = AttributionConfig.thresholds,
    steps: int | None = AttributionConfig.steps,
    samples: int | None = AttributionConfig.samples,
    noise: float | None = AttributionConfig.noise,
    window: int | Sequence[int] | None = AttributionConfig.window,
    stride: int | Sequence[int] | None = AttributionConfig.stride,
    baseline: str | None = AttributionConfig.baseline,
    precision: str = AttributionConfig.precision,
    device: str | torch.device = AttributionConfig.device,
    seed: int = AttributionConfig.seed,
    weights: str | os.PathLike[str] | None = AttributionConfig.weights,
    ema: bool = AttributionConfig.ema,
    entry: str | None = AttributionConfig.entry,
    prefix: str | None = AttributionConfig.prefix,
    name: str | None = AttributionConfig.name,
    channels: int | None = AttributionConfig.channels,
    mean: float | Sequence[float] | None = AttributionConfig.mean,
    std: float | Sequence[float] | None = AttributionConfig.std,
    bgr: bool = AttributionConfig.bgr,
    config: AttributionConfig | None = None,
    progress: bool = False,
) -> AttributionResult:
    """Attribute the class score of each image to its pixels, and compare that with the effective receptive field.

    Captum computes the attributions, by default of the network itself in float32, one image at a time. The map of an
    image is the sum over channels of the signed attributions. The numbers are those of its absolute values: their
    entropy and effective area, and their share inside the effective receptive field (ERF) of the position that has most
    of them:

    1. Every pixel belongs to the position of the layer whose receptive field has the nearest center. The *most
       attributed position* is the one whose pixels have the largest mean of absolute attributions.
    2. The *window* of a threshold is the smallest square around the center of its receptive field that contains more
       than this share of the contribution (protocol ``"centred"`` of :func:`~replk_probe.erf.area_ratio`), clipped to
       the image. The contribution is that of the pixels of this image to the features at this position, or with
       ``erf`` that of a measured ERF, moved to this center.
    3. The *share* is the sum of the absolute attributions in the window divided by the sum over the image. A uniform
       map has the share that the window has of the area.

    Args:
        model: A module, which is not changed, or a name for :func:`replk_probe.create_model`. Its output is
            ``[N, classes]``, or an object, dictionary or tuple with such a tensor (``logits``).
        images: Files or folders of images, or normalized images ``[N, C, H, W]`` (then ``size``, ``channels`` and
            ``bgr`` only affect the pictures of the images).
        erf: Result of :func:`~replk_probe.measure_erf` for the same model and layer, or its folder, whose windows are
            used. None to measure the windows on each image.
        method: Method of attribution: ``"saliency"`` for
            absolute gradients (Simonyan et al., 2013, arXiv:1312.6034), ``"input-x-gradient"``,
            ``"integrated-gradients"`` (whose sum is the score minus that of the baseline),
            ``"smooth-grad"``, ``"guided-backprop"``, ``"deconvolution"``, ``"grad-cam"`` (Selvaraju et al., ICCV 2017,
            arXiv:1610.02391: positive part of the features weighted by their mean gradients, interpolated to the size
            of the image) or ``"occlusion"`` (decrease of the score when a window is replaced by the baseline).
        target: Index or name of the class whose score is attributed; None for the predicted class of each image. Names
            are those of the model (``class_names``, ``classes``, ``categories`` or ``config.id2label``), of ImageNet if
            the number of classes is that of ImageNet, or those of the synthetic stimuli for the small models.
        layer: Layer of the positions, and of Grad-CAM, as in :func:`~replk_probe.measure_erf`. By default that of the
            ERF; where the scores do not depend on its positions, as where a class token is chosen, Grad-CAM is computed
            at the input of the last block.
        size: Side in pixels, or (H, W), to which images are resized without keeping their aspect ratio; None for the
            size that the model was trained for.
        thresholds: Shares of the contribution inside the windows, each in (0, 1).
        steps: Steps of the quadrature of integrated gradients; None for 50. More steps bring the sum closer to the
            difference of the scores.
        samples: Number of noisy images of smooth-grad; None for 25.
        noise: Standard deviation of their noise as a share of the range of the values of the image; None for 0.15.
        window: Side of the windows of occlusion in pixels, or (H, W); None for 1/16 of each side of the image, rounded
            up.
        stride: Distance between the windows of occlusion in pixels, or (H, W), at most that of a window; None for
            windows next to each other. A pixel in several windows has the mean of their decreases.
        baseline: What integrated gradients begin with and occlusion inserts: ``"mean"`` for the mean color, which is
            zero after normalization, ``"black"`` or ``"white"``; None for ``"mean"``. Images that are given as a tensor
            are assumed to have the normalization of the model.
        precision: ``"fp32"``, ``"fast"`` or ``"bf16"``, as in :func:`~replk_probe.erf.prepare`. Guided backpropagation
            and deconvolution need ``"fp32"``.
        device: ``"auto"`` (an NVIDIA GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        seed: Random seed for weight initialization and for the noise of ``"smooth-grad"``.
        weights: For a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file.
        ema: Whether to use the averaged entry of a weights file.
        entry: Entry of a weights file to load, as in :func:`replk_probe.create_model`.
        prefix: Prefix of the names in a weights file, as in :func:`replk_probe.create_model`.
        name: Name of the model in the result; None for the name it was created with, or that of its class.
        channels: Number of input channels, as in :func:`~replk_probe.measure_erf`.
        mean: Mean of the inputs, as in :func:`~replk_probe.measure_erf`.
        std: Standard deviation of the inputs, as in :func:`~replk_probe.measure_erf`.
        bgr: Whether the network takes the colors in the order blue, green, red.
        config: The options from ``method`` to ``bgr`` as one object, instead of separate arguments: none of these may
            be given together with it, not even with the value of its default. Use :func:`dataclasses.replace` to
            change an option of a configuration.
        progress: Whether to draw a progress bar on stderr, if that is a terminal.

    Returns:
        The maps and numbers of all images.

    Raises:
        InvalidInputError: An argument is invalid, the method does not have one of the options, ``config`` is given
            together with other options, an image cannot be read, the network has no class scores, or the class does not
            exist.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found or do not match the model.
        BackendError: The device is not available, or there is not enough memory.

    Examples:
        >>> from PIL import Image
        >>> from replk_probe import measure_attribution
        >>> Image.effect_noise((64, 64), 50).save("noise.png")
        >>> result = measure_attribution("resnet18", ["noise.png"], method="grad-cam", size=64, weights="random")
        >>> result.maps.shape, result.layer
        ((1, 64, 64), 'layer4')
        >>> [window.threshold for window in result.images[0].windows]
        [0.2, 0.3, 0.5, 0.99]
    """
    config = choose_config(AttributionConfig, config, locals())
    return plan_attribution(model, images, erf, config).run(progress=progress)
