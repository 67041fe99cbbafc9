"""Contribution scores: the gradient of the middle of a feature map with respect to the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.models.inference.batch_norm import correct_batch_norms
from replk_probe.models.inference.check import evaluating
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.models.inference.prepare import PreparedModel, module_of
from replk_probe.models.weight_values import check_run_values
from replk_probe.runtime.checks import check_seed
from replk_probe.runtime.devices import without_autocast

from .position_rule import CENTER, parse_position
from .probe_layer import check_accepts, find_target
from .target_layer import Layer, LayerPoint, TargetLayer, point_of, run_to


def contribution_scores(
    model: nn.Module | PreparedModel,
    batch: Tensor,
    layer: Layer = None,
    *,
    position: str | Sequence[int] = CENTER,
    seed: int = 0,
) -> Tensor:
    """Contribution of every input pixel to the middle position of a layer, or to another one, per image.

    The gradient of the sum over channels of ReLU(feature at (h // 2, w // 2)) with respect to the normalized input;
    negative entries become zero and the color channels are summed. Nothing after the layer is computed.

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
        batch: Normalized images ``[N, C, H, W]``, floating point; a copy is moved to the model's device and dtype.
        layer: ``"stage3.5"``, a module path, a module of the model (``model.layer4``), or ``"forward_features"``; with
            the key of one of several outputs, as in ``"forward_features[1]"`` or ``"neck[out]"``. None for the last
            map before the final norm, which is the output of ``forward_features`` or the input of the norm that ends
            it. If that is no map, or there is no such method: the value that enters the spatial reduction (a mean or
            pooling over positions, the choice of a class token, attention pooling), which may be the result of an
            operation in the code of a module. It has more than one row and column.
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
    """
    return InputGradient(model, layer, position, seed).scores(batch)


@contextmanager
def input_gradient(
    model: nn.Module | PreparedModel, layer: Layer = None, *, position: str | Sequence[int] = CENTER, seed: int = 0
) -> Iterator[InputGradient]:
    """Signed input gradients of the middle position of a layer, or of another one, as a context manager.

    ::

        with replk_probe.input_gradient(model, layer="layer4") as gradient:
            g = gradient(images)            # [N, C, H, W]
            scores = gradient.scores(images)  # [N, H, W], as from contribution_scores

    The layer is looked up once. Hooks exist only during a call and are removed even if it raises; on leaving the
    context, the model is released. The model is evaluated as in :func:`~replk_probe.erf.contribution_scores`.

    Args:
        model: Model, as in :func:`~replk_probe.erf.contribution_scores`.
        layer: Layer, as in :func:`~replk_probe.erf.contribution_scores`.
        position: Position, as in :func:`~replk_probe.erf.contribution_scores`.
        seed: Seed of random positions.

    Yields:
        A callable from normalized images ``[N, C, H, W]`` to the derivative, of the same shape, of the sum over
        channels of ReLU(feature at the position) of each image with respect to that image; ``[N, P, C, H, W]`` for a
        grid or random positions.

    Raises:
        InvalidInputError: As for :func:`~replk_probe.erf.contribution_scores`; also for calls after the context ends.
    """
    gradient = InputGradient(model, layer, position, seed)
    try:
        yield gradient
    finally:
        gradient.close()


class InputGradient:
    """Callable that computes the input gradient of a position of one layer; see :func:`input_gradient`.

    The position of a :class:`TargetLayer` is the one that it has.
    """

    def __init__(  # noqa: D107
        self,
        model: nn.Module | PreparedModel,
        layer: Layer = None,
        position: str | Sequence[int] = CENTER,
        seed: int = 0,
    ) -> None:
        self._model: nn.Module | None = module_of(model)
        self._position, self._seed = parse_position(position), check_seed(seed)
        self._layer = point_of(self._model, layer)
        self._targets: dict[tuple[int, ...], TargetLayer] = {}
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
        """The signed gradient ``[N, C, H, W]``, in the dtype and on the device of the model."""
        model = self._model
        if model is None:
            raise InvalidInputError(
                "This input gradient was closed at the end of its 'with' block, where the model was released. Call it "
                "inside the block."
            )
        batch = _matching(images, model)
        shape = tuple(batch.shape[2:])
        if shape not in self._targets:
            point = find_target(model, batch.shape, self._layer).at(self._position, self._seed)
            check_run_values(model, batch.shape, partial(run_to, point=point))
            self._targets[shape] = point
        if batch.shape[0] == 0:
            several = self._targets[shape].map_shape[: -len(shape)]
            return batch.reshape(0, *several, *batch.shape[1:])
        with evaluating(model), without_autocast(batch.device):
            parts = torch.split(batch, 1) if _couples_images(model) else (batch,)
            return torch.cat([self._gradient(model, part, self._targets[shape]) for part in parts])

    def scores(self, images: Tensor) -> Tensor:
        """Contribution scores ``[N, H, W]``, as :func:`~replk_probe.erf.contribution_scores`."""
        gradient = self(images)
        channels = 1 - images.dim()
        # clamp_min keeps NaN and infinity: whoever adds the scores up has to find them.
        return gradient.clamp_min(0).to(torch.promote_types(gradient.dtype, torch.float32)).sum(dim=channels)

    def close(self) -> None:
        """Release the model."""
        self._model = self._layer = None

    def _gradient(self, model: nn.Module, batch: Tensor, point: TargetLayer) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            # Tensors made under inference_mode cannot be used by autograd until they are cloned.
            leaf = batch.clone().requires_grad_(True)
            # The second clone lets a network write into its input.
            output = _run_to(model, leaf.clone(), point)
            if not output.is_floating_point():
                raise InvalidInputError(
                    f"Layer {point.label!r} gives {output.dtype} values, which have no gradient. Name another layer."
                )
            if not output.requires_grad:
                raise _cut_off(point)
            usable = _finite(batch)
            totals = []
            for features in point.features(output):
                usable &= _finite(features.detach())
                positions = features.shape[1] if features.dim() == 3 else 1
                totals.append(features.relu().sum() / positions if positions > 1 else features.relu().sum())
            correct_batch_norms(output)
            del output, features
            gradients: list[Tensor | None] = []
            while totals:  # one forward pass: the graph is kept until the last position
                total = totals.pop(0)
                gradients += torch.autograd.grad(total, leaf, retain_graph=bool(totals), allow_unused=True)
        known = [gradient for gradient in gradients if gradient is not None]
        if not known:  # the output depends on parameters alone
            raise _cut_off(point)
        # In a network of convolutions and ReLUs a NaN propagates forward only: the gradient would not show it.
        found = torch.stack(known, dim=1) if point.position.is_several else known[0]
        return found.detach().masked_fill(~usable.view(-1, *(1,) * (found.dim() - 1)), math.nan)


def _finite(values: Tensor) -> Tensor:
    """Whether all values are finite, for each image."""
    return values.isfinite().flatten(1).all(1)


def _run_to(model: nn.Module, batch: Tensor, point: LayerPoint) -> Tensor:
    try:
        return run_to(model, batch, point)
    except (ReplkProbeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" not in str(error):
            check_accepts(model, (1, *batch.shape[1:]), point)
        raise


def _cut_off(point: LayerPoint) -> InvalidInputError:
    return InvalidInputError(
        f"Layer {point.label!r} has no gradient with respect to the image: it does not depend on the image, or is "
        "separated from it by no_grad, detach or a step without derivative. Name another layer."
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
