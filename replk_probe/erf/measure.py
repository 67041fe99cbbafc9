"""The whole measurement, from images and a model to an :class:`ErfResult`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, cast, overload

import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.images import ImageSet
from replk_probe.models.inference.prepare import PreparedModel
from replk_probe.runtime.checks import choose_config, config_or_options

from .config import ErfConfig
from .convention import Convention
from .measured_inputs import measured_inputs
from .plan import plan_erf
from .result import ErfResult

Parameters = ParamSpec("Parameters")


class _Measure(Protocol[Parameters]):
    """The type of :func:`measure_erf`, which returns several results if ``inputs`` is given."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # ``inputs`` is None in all other calls
        self, model: nn.Module | PreparedModel | str, *, inputs: Sequence[Tensor | npt.NDArray[Any]], **options: Any
    ) -> tuple[ErfResult, ...]: ...
    @overload
    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> ErfResult: ...


def _typed(function: Callable[Parameters, ErfResult | tuple[ErfResult, ...]]) -> _Measure[Parameters]:
    return cast(_Measure[Parameters], function)


@_typed
@config_or_options(ErfConfig)
def measure_erf(
    model: nn.Module | PreparedModel | str,
    data: ImageSet | str | Path | Tensor | npt.NDArray[Any] | None = None,
    *,
    inputs: Sequence[Tensor | npt.NDArray[Any]] | None = None,
    images: int = ErfConfig.images,
    size: int | Sequence[int] = ErfConfig.size,
    layer: str | nn.Module | None = ErfConfig.layer,
    target: str | None = ErfConfig.target,
    position: str | Sequence[int] = ErfConfig.position,
    thresholds: Sequence[float] = ErfConfig.thresholds,
    convention: str | Convention = ErfConfig.convention,
    attribution: str = ErfConfig.attribution,
    precision: str = ErfConfig.precision,
    device: str | torch.device = ErfConfig.device,
    seed: int = ErfConfig.seed,
    sampling: str = ErfConfig.sampling,
    weights: str | os.PathLike[str] | None = ErfConfig.weights,
    ema: bool = ErfConfig.ema,
    entry: str | None = ErfConfig.entry,
    prefix: str | None = ErfConfig.prefix,
    name: str | None = ErfConfig.name,
    batch_size: int | None = ErfConfig.batch_size,
    channels: int | None = ErfConfig.channels,
    mean: float | Sequence[float] | None = ErfConfig.mean,
    std: float | Sequence[float] | None = ErfConfig.std,
    bgr: bool = ErfConfig.bgr,
    until: float | None = ErfConfig.until,
    until_ratios: Sequence[str] = ErfConfig.until_ratios,
    check: str | None = ErfConfig.check,
    tune: str = ErfConfig.tune,
    config: ErfConfig | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    allow_other_device: bool = False,
    progress: bool = False,
) -> ErfResult | tuple[ErfResult, ...]:
    """Measure the effective receptive field of a model over images.

    On Linux, the allocator of the C library keeps freed memory for reuse during the measurement.

    Args:
        model: A module, which is not changed; a model returned by :func:`~replk_probe.erf.prepare`; or a name for
            :func:`replk_probe.create_model`.
        data: An :class:`~replk_probe.images.ImageSet`, a folder, or normalized images ``[N, C, H, W]`` (then the
            options ``images``, ``size``, ``sampling``, ``channels``, ``mean``, ``std`` and ``bgr`` do not apply); None
            for the embedded dead-leaves images.
        inputs: Instead of ``data``, the inputs of a network that is called with several, ``model(a, b)``: a tuple of
            normalized tensors ``[N, C, *spatial]`` with the same N, whose channels and sizes may differ. One forward
            pass and one backward pass give the maps of all. The network itself is measured, or a prepared model as it
            is; ``batch_size`` is 1 by default. The layer and its positions are those of the first input, and the
            layer must depend on every input. The center of another input is that of its own receptive field. If
            that cannot be traced, it is estimated from the stride for an input of the size of the first one, or one to
            which the positions can be followed, and is the middle of the input otherwise. The options ``attribution``,
            ``precision``, ``until``, ``check``, ``checkpoint`` and ``resume`` cannot be used; ``tune`` has no effect.
        images: Number of images to take from a folder or from the embedded set; with ``until``, the largest number.
        size: Side in pixels, or (H, W), to which images are resized without keeping their aspect ratio.
        layer: ``"stage3.5"``, a module path, a module of the model (``model.layer4``), or None for the last map before
            the final norm, or else the value that enters the spatial reduction. ``"act@-1"`` names a call of a layer
            with several, and ``"neck:out"`` or ``"backbone:0"`` one of several outputs (see
            :func:`~replk_probe.erf.contribution_scores`).
        target: ``"logit:K"`` for the logit of class K at the middle position, without ReLU, instead of all features of
            the layer, which is then by default the output of the network (see
            :func:`~replk_probe.erf.contribution_scores`).
        position: Position of the feature map: ``"center"``, ``"Y,X"`` or ``(y, x)``, ``"grid:RxC"``, ``"random:N"`` or
            ``"mean"``, as in :func:`~replk_probe.erf.contribution_scores`. For a grid and random positions the result
            has the map of each position, and its contribution is their mean, each map shifted by whole pixels so that
            the centers of the receptive fields coincide. This takes one forward pass and P backward passes per image,
            and up to 20 P maps of H x W float64 in memory.
        thresholds: Shares of the total contribution, each in (0, 1).
        convention: Definition of the map: a name in :data:`~replk_probe.erf.CONVENTIONS` (``"replknet"``,
            ``"openerf"``, ``"mambair"``, ``"luo2016"``) or a :class:`~replk_probe.erf.Convention`, which describes
            them. With ``"openerf"`` and precision ``"fp32"``, the network itself is measured, not a prepared copy.
        attribution: How the features are attributed to the pixels: ``"gradient"``, ``"input-x-gradient"``,
            ``"integrated-gradients"``, ``"smooth-grad"``, ``"guided-backprop"``, ``"deconvolution"`` or
            ``"occlusion"``; :class:`~replk_probe.erf.NeuronERF` describes them. Signs and colors are reduced as the
            convention defines.
        precision: ``"fp32"``: float32 throughout. ``"fast"``: float32 forward pass, reduced-precision matrix products
            in the backward pass. ``"bf16"``: reduced precision in both passes. A prepared model keeps its precision.
        device: ``"auto"`` (an NVIDIA GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ..., or
            experimentally ``"mps"`` (Apple) and ``"xpu"`` (Intel). A prepared model stays on its device.
        seed: Random seed for image sampling, weight initialization and random positions.
        sampling: ``"stratified"`` by class folder, or ``"first"``.
        weights: For a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file.
        ema: Whether to use the averaged entry of a weights file.
        entry: Entry of a weights file to load, as in :func:`replk_probe.create_model`.
        prefix: Prefix of the names in a weights file, as in :func:`replk_probe.create_model`.
        name: Name of the model in the result; None for the name it was created with, or that of its class.
        batch_size: Images per step. A larger value needs more memory and changes results only by rounding. If the
            memory does not suffice, the batches are halved, which a note says. None (or ``"auto"``) for up to 4 images
            of 224 x 224 pixels or less on a CPU, as many as fit into half of its memory; on a GPU for up to 16 images,
            as many as fit into its free memory when the run begins, for which one random image is measured; 1 for a
            module or factory of the user that does not treat images independently. These batches end where a block of
            images does, of which there are 20. Equal sizes give equal bytes: of a number found from the free memory,
            the record of the result has the value as ``batch_sizes``, and a resumed run uses it again.
        channels: Number of input channels of the network: 1 for the luminance of the images; with more than 3, their
            colors are repeated in order. None for 3, or for the number that the first convolution takes if the network
            does not accept 3.
        mean: Mean of the inputs in [0, 1], to be subtracted: one number, one for each channel, or those of red, green
            and blue. None for that of the network.
        std: Standard deviation of the inputs in [0, 1], by which they are divided, as ``mean``.
        bgr: Whether the network takes the colors in the order blue, green, red.
        until: Relative half-width, in (0, 1), at which the measurement ends: images are added until half the 95 %
            interval of every ratio of ``until_ratios``, divided by the ratio, is at most this. It is checked from 10
            images on, at every fifth to tenth of the images so far; all images are used if it is never reached, which a
            note says. None to measure all images.
        until_ratios: The ratios for ``until``: protocols for all thresholds, or protocols with one of them, such as
            ``"pixels@0.5"``.
        check: ``"occlusion"`` to compare the features at the position with those of images of which everything outside
            of the windows of ``centred``, or the windows themselves, are replaced (see
            :class:`~replk_probe.erf.OcclusionRow`): at most 12 forward passes for each image. None for no check.
        tune: Whether the methods of large depthwise convolutions are chosen by measurement before the first image:
            ``"auto"`` on an NVIDIA GPU, in runs that take at least ten times as long as that; ``"force"`` in every
            run, on a CPU as well; ``"off"`` never. A run uses the same methods throughout, also if it is resumed, and
            records those that differ from the default and how they were chosen (see :func:`replk_probe.ops.tune`).
        config: The options from ``images`` to ``tune`` as one object, instead of separate arguments: none of these may
            be given together with it, not even with the value of its default. Use :func:`dataclasses.replace` to
            change an option of a configuration.
        checkpoint: Folder for the state of an unfinished run, saved after every step; None to save no state. It is
            kept after the last step, so that nothing is lost before the result is saved; remove it afterwards.
        resume: Whether to continue from the state in ``checkpoint``, if there is one; the result is then byte for byte
            that of an uninterrupted run, except for its seconds.
        allow_other_device: Whether a run can be resumed on another device, with other versions of its software or with
            other methods of convolution. Its last digits can then differ. The number of threads is that of the run
            that is resumed in any case.
        progress: Whether to draw a progress bar on stderr, if that is a terminal.

    Returns:
        The mean contribution map and its area ratios; with ``inputs``, a tuple with the result of each input, named
        ``"MODEL (input 1)"`` and so on, in their order.

    Raises:
        InvalidInputError: An argument is invalid, ``config`` is given together with other options, or none
            of the images can be used.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found or do not match the model.
        BackendError: The device or precision is not available, or there is not enough memory.
        ResumeError: The saved state belongs to another run or another device, or is damaged.

    Source:
        Ding et al., CVPR 2022, arXiv:2203.06717, section 4.2 and the script published with it; Luo et al., NeurIPS
        2016, arXiv:1701.04128, for the concept.

    Examples:
        With weights and images of your own, this is
        ``measure_erf("resnet50", "photos/", images=100, layer="stage4", thresholds=[0.5, 0.99])``. Random weights and
        two of the embedded images need no files:

        >>> from replk_probe import measure_erf
        >>> result = measure_erf("resnet18", images=2, size=64, layer="stage4", weights="random")
        >>> result.layer, result.feature_size, result.n_images
        ('layer4', (2, 2), 2)
        >>> result.protocols, result.thresholds
        (('paper', 'linear', 'centred', 'pixels'), (0.2, 0.3, 0.5, 0.99))
    """
    config = choose_config(ErfConfig, config, locals())
    if inputs is not None:
        if data is not None or checkpoint is not None or resume:
            raise InvalidInputError(
                "Got inputs and also data, checkpoint or resume. Several inputs replace the images, and the state of "
                "their measurement is not saved. Omit the other arguments."
            )
        return measured_inputs(model, inputs, config, progress=progress)
    return plan_erf(model, data, config).run(
        checkpoint=checkpoint, resume=resume, allow_other_device=allow_other_device, progress=progress
    )
