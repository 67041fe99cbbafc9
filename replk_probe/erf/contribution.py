"""Contribution scores: the gradient of the middle of a feature map with respect to the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.models.inference.batch_norm import correct_batch_norms
from replk_probe.models.inference.check import evaluating
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.models.inference.cudnn_passes import is_missing_engine, with_engines
from replk_probe.models.inference.prepare import PreparedModel, module_of
from replk_probe.models.weight_values import check_run_values
from replk_probe.runtime.checks import check_seed
from replk_probe.runtime.devices import is_out_of_memory, without_autocast

from .attribution import DEFAULT as GRADIENT
from .attribution import Select, Truncated, attributed, check_modules, options_of
from .choose_target import target_for
from .convention import DEFAULT, Convention, convention_of
from .forward_region import ForwardRegion, find_region
from .objective import check_target, objective
from .position_rule import CENTER, parse_position
from .probe_layer import check_accepts
from .several_inputs import check_inputs, find_targets, with_inputs
from .target_layer import Layer, LayerPoint, TargetLayer, point_of, run_to

_OF_SEVERAL = "Name a layer that depends on every input, or set target to 'logit:0' for a value of the output."


@overload
def contribution_scores(
    model: nn.Module | PreparedModel,
    batch: Tensor,
    layer: Layer = ...,
    *,
    target: str | None = ...,
    position: str | Sequence[int] = ...,
    convention: str | Convention = ...,
    attribution: str = ...,
    seed: int = ...,
) -> Tensor: ...
@overload
def contribution_scores(
    model: nn.Module | PreparedModel,
    batch: tuple[Tensor, ...],
    layer: Layer = ...,
    *,
    target: str | None = ...,
    position: str | Sequence[int] = ...,
    convention: str | Convention = ...,
    attribution: str = ...,
    seed: int = ...,
) -> tuple[Tensor, ...]: ...
def contribution_scores(
    model: nn.Module | PreparedModel,
    batch: Tensor | tuple[Tensor, ...],
    layer: Layer = None,
    *,
    target: str | None = None,
    position: str | Sequence[int] = CENTER,
    convention: str | Convention = DEFAULT,
    attribution: str = GRADIENT,
    seed: int = 0,
) -> Tensor | tuple[Tensor, ...]:
    """Contribution of every input pixel to the middle position of a layer, or to another one, per image.

    The gradient of the sum over channels of ReLU(feature at (h // 2, w // 2)) with respect to the normalized input;
    negative entries become zero and the color channels are summed. Nothing after the layer is computed. Other
    definitions are chosen with ``convention`` and ``attribution``.

    The model is evaluated in eval mode and outside of any ``torch.autocast`` of the caller. Its modes,
    ``requires_grad``, ``.grad`` and hooks are not changed. The layer is looked up once for each shape of the images and
    again when a module or one of its settings changes.

    Torch's own gradient of a batch norm is wrong on a CPU if the batch has one image and the norm is followed by
    ``flatten(2).transpose(1, 2)``, as in LeViT, XCiT and EfficientFormer (torch 2.10 to 2.14; relative errors around
    1). Here it is right. Code that calls ``torch.autograd.grad`` itself, such as OpenERF, gives the wrong map.

    Args:
        model: Any module that maps ``[N, C, H, W]`` to a differentiable output, or a model returned by
            :func:`~replk_probe.erf.prepare`. It may be in train mode, frozen, on any device and of any floating-point
            type.
        batch: Normalized images ``[N, C, H, W]``, floating point; a copy is moved to the model's device and dtype. A
            tuple of such tensors for a network that is called with several, ``model(a, b)``, as in
            :func:`~replk_probe.measure_erf`.
        layer: ``"stage3.5"``, a module path, a module of the model (``model.layer4``), ``"forward_features"``, or
            ``"forward"`` for the output of the network. With the number of one of several calls, from 1 or from -1 at
            the end, as in ``"act@2"`` or ``"act@-1"``, and with the keys of one of several outputs (a tuple, list,
            dictionary or dataclass), as in ``"neck:out"``, ``"backbone:0"``, ``"act@2:out:1"`` or
            ``"forward_features[1]"``. A detector of torchvision takes the batch as it is: its own resizing,
            normalization and post-processing are left out. None for the last
            map before the final norm, which is the output of ``forward_features`` or the input of the norm that ends
            it. If that is no map, or there is no such method: the value that enters the spatial reduction (a mean or
            pooling over positions, the choice of a class token, attention pooling), which may be the result of an
            operation in the code of a module. It has more than one row and column.
        target: None for all features of the layer, as above; or ``"logit:K"`` for the logit of class K, counted from 0,
            whatever its sign (no ReLU is applied to it): the value of channel K at the middle position of a dense
            output, or the logit itself if the output ``[N, K]`` has no positions. The layer is then by default the
            output of the network; of a dictionary the entry ``"logits"``, ``"out"`` or ``"last_hidden_state"``.
        convention: Name in :data:`~replk_probe.erf.CONVENTIONS`, or a :class:`~replk_probe.erf.Convention`. The mean
            over images is not part of the scores.
        attribution: ``"gradient"``, or another attribution of :class:`~replk_probe.erf.NeuronERF`.
        position: Position of the feature map, counted from 0. ``"center"``: (h // 2, w // 2). ``"Y,X"`` or ``(y, x)``:
            this row and column. ``"grid:RxC"``: positions i (h - 1) / (R - 1) by j (w - 1) / (C - 1), rounded to whole
            numbers (halves up), i from 0 to R - 1 and j from 0 to C - 1, so that the first and last row and column are
            among them; a grid of one row takes row h // 2. ``"random:N"``: N different positions. ``"mean"``: the
            mean, over all positions, of the sum over channels of ReLU(feature).
        seed: Seed of random positions.

    Returns:
        Scores ``[N, H, W]``, >= 0, in the dtype of the model (at least float32) and on its device; ``[N, P, H, W]`` for
        a grid or random positions, which are in reading order and not shifted. Images do not influence each other.
        Non-finite gradients stay non-finite; the scores of an image are NaN everywhere if the image or its features at
        one of the positions are not finite.

    Raises:
        InvalidInputError: The model, the batch, the layer or the position is unsuitable; the message contains what the
            layer returned, or what the forward pass raised for images of this shape. Also if weights before the layer
            are NaN or infinite, or variances negative.

    Source:
        Ding et al., CVPR 2022, arXiv:2203.06717, section 4.2 and the script published with it.

    Examples:
        >>> import torch
        >>> from replk_probe.erf import contribution_scores
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU())
        >>> scores = contribution_scores(network, torch.rand(2, 3, 16, 16), layer="0")
        >>> scores.shape
        torch.Size([2, 16, 16])
        >>> bool((scores[:, :6] == 0).all())  # rows 6 to 10 are the receptive field of row 8
        True
    """
    gradient = InputGradient(model, layer, convention, attribution, target=target, position=position, seed=seed)
    return gradient.scores_of_inputs(batch) if isinstance(batch, (tuple, list)) else gradient.scores(batch)


@contextmanager
def input_gradient(
    model: nn.Module | PreparedModel,
    layer: Layer = None,
    *,
    target: str | None = None,
    position: str | Sequence[int] = CENTER,
    convention: str | Convention = DEFAULT,
    attribution: str = GRADIENT,
    seed: int = 0,
) -> Iterator[InputGradient]:
    """Signed input gradients of the middle position of a layer, or of another one, as a context manager.

    The layer is looked up once. Hooks exist only during a call and are removed even if it raises; on leaving the
    context, the model is released. The model is evaluated as in :func:`~replk_probe.erf.contribution_scores`.

    Args:
        model: Model, as in :func:`~replk_probe.erf.contribution_scores`.
        layer: Layer, as in :func:`~replk_probe.erf.contribution_scores`.
        target: Target, as in :func:`~replk_probe.erf.contribution_scores`.
        position: Position, as in :func:`~replk_probe.erf.contribution_scores`.
        convention: Convention, as in :func:`~replk_probe.erf.contribution_scores`.
        attribution: Attribution, as in :func:`~replk_probe.erf.contribution_scores`.
        seed: Seed of random positions and of the noise of an attribution.

    Yields:
        A callable from normalized images ``[N, C, H, W]`` to the derivative, of the same shape, of the sum over
        channels of ReLU(feature at the position) of each image with respect to that image; with a target or another
        convention, that of the logit or the convention's scalar; with another attribution, that attribution, signed.
        The shape is ``[N, P, C, H, W]`` for a grid or random positions.

    Raises:
        InvalidInputError: As for :func:`~replk_probe.erf.contribution_scores`; also for calls after the context ends.

    Examples:
        >>> import torch
        >>> from replk_probe import input_gradient
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU())
        >>> images = torch.rand(2, 3, 16, 16)
        >>> with input_gradient(network, layer="0") as gradient:
        ...     print(gradient(images).shape, gradient.scores(images).shape)
        torch.Size([2, 3, 16, 16]) torch.Size([2, 16, 16])
    """
    gradient = InputGradient(model, layer, convention, attribution, target=target, position=position, seed=seed)
    try:
        yield gradient
    finally:
        gradient.close()


class InputGradient:
    """Callable that computes the input gradient of a position of one layer; see :func:`input_gradient`.

    The position of a :class:`TargetLayer` is the one that it has. With ``confined``, a prepared model computes only the
    part of each map on which the positions depend.
    """

    def __init__(  # noqa: D107
        self,
        model: nn.Module | PreparedModel,
        layer: Layer = None,
        convention: str | Convention = DEFAULT,
        attribution: str = GRADIENT,
        *,
        target: str | None = None,
        position: str | Sequence[int] = CENTER,
        seed: int = 0,
        confined: bool = False,
    ) -> None:
        self._model: nn.Module | None = module_of(model)
        self._prepared = isinstance(model, PreparedModel)
        self._confined = model if confined and isinstance(model, PreparedModel) else None
        self._regions: dict[tuple[int, ...], ForwardRegion] = {}
        self._layer, self._target = point_of(self._model, layer), check_target(target)
        self._position, self._seed = parse_position(position), check_seed(seed)
        self._convention = convention_of(convention)
        self._attribution, self._options = attribution, options_of(attribution, {}, seed)
        self._targets: dict[tuple[int, ...], TargetLayer] = {}
        # Those of several inputs, by their shapes without the first axis.
        self._several: dict[tuple[tuple[int, ...], ...], tuple[TargetLayer, ...]] = {}
        if isinstance(self._layer, TargetLayer):
            self._targets[self._layer.input_size] = self._layer

    def __repr__(self) -> str:
        """One line with the class of the model, the layer, and the sizes of the images so far."""
        if self._model is None:
            return f"{type(self).__name__}(closed)"
        # The default layer is known from the first images on.
        point = self._layer or next(iter(self._targets.values()), None)
        layer = None if point is None else point.label
        return f"{type(self).__name__}(model={type(self._model).__name__!r}, layer={layer!r}, sizes={[*self._targets]})"

    def __call__(self, images: Tensor) -> Tensor:
        """The signed gradient or attribution ``[N, C, H, W]``, in the dtype and on the device of the model."""
        if self._attribution != GRADIENT:
            return self.attribute(images, None, self._attribution, self._options)
        model, batch, point = self._checked(images)
        if batch.shape[0] == 0:
            return _empty(batch, point)
        with evaluating(model), without_autocast(batch.device):
            parts = torch.split(batch, 1) if _couples_images(model) else (batch,)
            passes = (partial(self._gradient, model, (part,), point) for part in parts)
            return torch.cat([with_engines(one, batch.device)[0] for one in passes])

    def of_inputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The signed gradient of each of several inputs of the network, ``[N, C, *spatial]``, from one backward pass.

        For a grid or random positions ``[N, P, C, *spatial]``. The layer and its positions are those of the first
        input.
        """
        if self._attribution != GRADIENT:
            raise InvalidInputError(
                f"Attribution {self._attribution!r} cannot be computed for several inputs. Captum's attributions "
                "are computed for one image at a time. Use attribution 'gradient'."
            )
        targets = self.targets_of(inputs)
        model, point = self._open(), targets[0]
        batches = tuple(_matching(batch, model) for batch in inputs)
        if batches[0].shape[0] == 0:
            return tuple(_empty(batch, one) for batch, one in zip(batches, targets, strict=True))
        with evaluating(model), without_autocast(batches[0].device):
            parts = zip(*(torch.split(batch, 1) for batch in batches), strict=True)
            passes = (
                partial(self._gradient, model, part, point)
                for part in (parts if _couples_images(model) else (batches,))
            )
            found = [with_engines(one, batches[0].device) for one in passes]
        return tuple(torch.cat(each) for each in zip(*found, strict=True))

    def targets_of(self, inputs: Sequence[Tensor]) -> tuple[TargetLayer, ...]:
        """The layer as seen from each of several inputs."""
        model = self._open()
        check_inputs(inputs)
        for batch in inputs:
            check_batch(batch)
        shapes = tuple(tuple(batch.shape[1:]) for batch in inputs)
        if shapes not in self._several:
            first, *others = find_targets(model, shapes, self._layer, self._convention, self._target)
            first = first.at(self._position, self._seed)
            if first.places and len({len(batch.shape) for batch in inputs}) > 1:
                raise InvalidInputError(
                    f"Position {first.position} cannot be measured for inputs of shapes "
                    f"{', '.join(str(list(batch.shape)) for batch in inputs)}. It is recorded for each input, which "
                    "must all have the same number of axes. Use position 'center' or 'mean'."
                )
            check_run_values(with_inputs(model, 0, shapes[1:]), (1, *shapes[0]), partial(run_to, point=first))
            placed = (replace(other, position=first.position, places=first.places) for other in others)
            self._several[shapes] = (first, *placed)
        return self._several[shapes]

    def scores_of_inputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Contribution scores of each of several inputs, ``[N, *spatial]`` or ``[N, P, *spatial]``."""
        pairs = zip(self.of_inputs(inputs), self.targets_of(inputs), strict=True)
        return tuple(self._scores(gradient, point) for gradient, point in pairs)

    def attribute(
        self, images: Tensor, select: Select | None, attribution: str, options: dict[str, Any],
        position: str | Sequence[int] | None = None,
    ) -> Tensor:  # fmt: skip
        """Signed attributions ``[N, C, H, W]`` by captum.

        Args:
            images: Normalized images ``[N, C, H, W]``.
            select: Function from the features of a layer to one value per image; None for the convention's scalar.
            attribution: One of :data:`~replk_probe.erf.attribution.OPTIONS`.
            options: All its options.
            position: Position of the convention's scalar, as in :func:`contribution_scores`; None for that of the
                object.
        """
        model, batch, point = self._checked(images)
        check_modules(attribution, model, prepared=self._prepared)
        if position is not None:
            point = point.at(position, self._seed)
        if batch.shape[0] == 0:
            return _empty(batch, point)
        several = select is None and point.position.is_several
        parts = [
            self._attributed(model, batch, point, index, select, attribution, options)
            for index in range(len(point.places) if several else 1)
        ]
        return torch.stack(parts, dim=1) if several else parts[0]

    def _attributed(
        self, model: nn.Module, batch: Tensor, point: TargetLayer, index: int, select: Select | None, attribution: str,
        options: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        """:meth:`attribute` for the position with this index."""
        finite = True

        def selected(output: Tensor) -> Tensor:
            nonlocal finite
            if torch.is_grad_enabled():
                _check_values(output, point)
            features = point.features(output)[index] if select is None else output
            chosen = self._value(features, point) if select is None else select(output)
            finite = finite and bool(features.isfinite().all())
            if chosen.requires_grad:
                correct_batch_norms(chosen)
            return chosen

        network = Truncated(model, partial(_run_to, model, point=point))
        found = []
        with evaluating(model), without_autocast(batch.device), torch.inference_mode(False), torch.enable_grad():
            # One at a time: the features of an image may depend on its batch, and its noise may not.
            for image in torch.split(batch.clone(), 1):
                finite = bool(image.isfinite().all())
                if not finite:
                    found.append(torch.full_like(image, math.nan))
                    continue
                try:
                    one = partial(attributed, network, image, selected, attribution, options)
                    part = with_engines(one, batch.device)
                except AssertionError as error:
                    raise InvalidInputError(
                        f"Captum cannot compute attribution {attribution!r} with these options: {error}"
                    ) from error
                except RuntimeError as error:
                    if "not have been used in the graph" in str(error):
                        raise _cut_off(point) from error
                    raise
                found.append(part if finite else torch.full_like(part, math.nan))
        return torch.cat(found)

    def _open(self) -> nn.Module:
        """The model, which is released when the object is closed."""
        if self._model is None:
            raise InvalidInputError(
                "This input gradient was closed at the end of its 'with' block, where the model was released. Call it "
                "inside the block."
            )
        return self._model

    def _checked(self, images: Tensor) -> tuple[nn.Module, Tensor, TargetLayer]:
        """The model, the images on its device, and its layer for images of their size."""
        model = self._open()
        batch = _matching(images, model)
        shape = tuple(batch.shape[2:])
        if shape not in self._targets:
            point = target_for(model, batch.shape, self._layer, self._convention, self._target)
            point = point.at(self._position, self._seed)
            check_run_values(model, batch.shape, partial(run_to, point=point))
            self._targets[shape] = point
        return model, batch, self._targets[shape]

    def scores(self, images: Tensor) -> Tensor:
        """Contribution scores ``[N, H, W]``, as :func:`~replk_probe.erf.contribution_scores`."""
        return self._scores(self(images), self._targets[tuple(images.shape[2:])])

    def _scores(self, gradient: Tensor, point: TargetLayer) -> Tensor:
        if not point.position.is_several:
            return self._convention.scores(gradient)
        return self._convention.scores(gradient.flatten(0, 1)).reshape(*gradient.shape[:2], *gradient.shape[3:])

    def close(self) -> None:
        """Release the model."""
        self._model = self._layer = self._confined = None

    def _value(self, features: Tensor, point: TargetLayer) -> Tensor:
        """The number of each image that is differentiated, ``[N]``.

        ``features`` are those of one position, ``[N, C]``, or of several, ``[N, P, C]``, over which its mean is taken.
        """
        if features.dim() == 2:
            return objective(features, self._convention, point.logit)
        values = objective(features.flatten(0, 1), self._convention, point.logit)
        return values.reshape(features.shape[:2]).mean(1)

    def _region(self, model: nn.Module, inputs: tuple[Tensor, ...], point: TargetLayer) -> ForwardRegion:
        """The part of each map that is computed."""
        if self._confined is None or len(inputs) > 1:
            return ForwardRegion(point)
        shape = tuple(inputs[0].shape[1:])
        if shape not in self._regions:
            reduced = self._confined.reduced and self._confined.precision == "bf16"
            self._regions[shape] = find_region(model, shape[0], point, reduced=reduced)
            self._confined.methods.take()  # those of the comparison
        return self._regions[shape]

    def _gradient(self, model: nn.Module, inputs: tuple[Tensor, ...], point: TargetLayer) -> tuple[Tensor, ...]:
        """The gradient of every input, from one forward pass and one backward pass for each position."""
        region = self._region(model, inputs, point)
        point = region.target
        with torch.inference_mode(False), torch.enable_grad(), region.applied(model):
            # Tensors made under inference_mode cannot be used by autograd until they are cloned.
            leaves = tuple(batch.clone().requires_grad_(True) for batch in inputs)
            # The second clone lets a network write into its input.
            first, *others = (region.of_image(leaf) for leaf in leaves)
            output = _run_to(with_inputs(model, 0, others) if others else model, first, point)
            _check_values(output, point)
            usable = _finite(inputs[0])
            for batch in inputs[1:]:
                usable &= _finite(batch)
            totals = []
            for features in point.features(output):
                usable &= _finite(features.detach())
                totals.append(self._value(features, point).sum())
            correct_batch_norms(output)
            del output, features
            gradients: list[tuple[Tensor | None, ...]] = []
            while totals:  # one forward pass: the graph is kept until the last position
                total = totals.pop(0)
                gradients.append(torch.autograd.grad(total, leaves, retain_graph=bool(totals), allow_unused=True))
        found = []
        for number, each in enumerate(zip(*gradients, strict=True), 1):
            known = [gradient for gradient in each if gradient is not None]
            if not known:  # the output depends on parameters or on other inputs alone
                raise _cut_off(point) if len(inputs) == 1 else _cut_off(point, f"input {number}", _OF_SEVERAL)
            # In a network of convolutions and ReLUs a NaN propagates forward only: the gradient would not show it.
            stacked = torch.stack(known, dim=1) if point.position.is_several else known[0]
            unusable = ~usable.view(-1, *(1,) * (stacked.dim() - 1))
            found.append(stacked.detach().masked_fill(unusable, math.nan))
        return tuple(found)


def _empty(batch: Tensor, point: TargetLayer) -> Tensor:
    """The gradients of a batch without images."""
    return batch.reshape(0, *point.map_shape[: 2 - batch.dim()], *batch.shape[1:])


def _finite(values: Tensor) -> Tensor:
    """Whether all values are finite, for each image."""
    return values.isfinite().flatten(1).all(1)


def _run_to(model: nn.Module, batch: Tensor, point: LayerPoint) -> Tensor:
    try:
        return run_to(model, batch, point)
    except ReplkProbeError:
        raise
    except Exception as error:
        if not (is_out_of_memory(error) or is_missing_engine(error)):
            check_accepts(model, (1, *batch.shape[1:]), point)
        raise


def _check_values(output: Tensor, point: LayerPoint) -> None:
    """Raise InvalidInputError unless the values of a layer have a gradient."""
    if not output.is_floating_point():
        raise InvalidInputError(
            f"Layer {point.label!r} gives {output.dtype} values, which have no gradient. Name another layer."
        )
    if not output.requires_grad:
        raise _cut_off(point)


def _cut_off(point: LayerPoint, source: str = "the image", advice: str = "Name another layer.") -> InvalidInputError:
    return InvalidInputError(
        f"Layer {point.label!r} has no gradient with respect to {source}: it does not depend on {source}, or is "
        f"separated from it by no_grad, detach or a step without derivative. {advice}"
    )


def check_batch(batch: Tensor) -> None:
    """Raise InvalidInputError unless the batch is a floating-point tensor ``[N, C, *spatial]`` of one to three axes."""
    if not isinstance(batch, Tensor) or not 3 <= batch.dim() <= 5:
        tensor = isinstance(batch, Tensor)
        given = f"a tensor {list(batch.shape)}" if tensor else f"an object of type {type(batch).__name__}"
        raise InvalidInputError(
            f"Expected the batch as a tensor [N, C, H, W], but got {given}. Contribution scores are computed for "
            "batches of images, or of sequences [N, C, L] or volumes [N, C, D, H, W]. Add a batch dimension to a "
            "single image."
        )
    if not batch.is_floating_point():
        raise InvalidInputError(
            f"The batch has dtype {batch.dtype}. Contribution scores are gradients with respect to the normalized "
            "image; scale it to floating point and subtract the model's mean first."
        )


def _matching(batch: Tensor, model: nn.Module) -> Tensor:
    """The batch on the device and in the dtype of the model; never the caller's own tensor."""
    check_batch(batch)
    if any(tensor.is_inference() for tensor in model.parameters()):
        raise InvalidInputError(
            "The model was built under torch.inference_mode(), and autograd cannot use such weights. "
            "Build it under torch.no_grad() instead."
        )
    with torch.inference_mode(False):
        return batch.detach().clone().to(**device_and_dtype(model))


def _couples_images(model: nn.Module) -> bool:
    """Whether an image's features depend on its batch: norms without running statistics use those of the batch."""
    norms = nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, norms) and module.running_mean is None for module in model.modules())
