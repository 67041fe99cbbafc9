"""Attributions of the middle of a feature map, as a class like those of captum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models.inference.prepare import PreparedModel

from .attribution import DEFAULT as GRADIENT
from .attribution import Select, options_of
from .contribution import InputGradient
from .convention import DEFAULT, Convention, convention_of
from .target_layer import Layer

NeuronSelector: TypeAlias = int | tuple[int | slice, ...] | Callable[[Tensor], Tensor]


class NeuronERF:
    """Attributions of one position of a layer to the pixels of each image, by captum's neuron attribution.

    Attributions, and the options of :meth:`attribute` that belong to them:

    - ``"gradient"``: as in ``NeuronGradient``.
    - ``"input-x-gradient"``: the normalized image times the gradient.
    - ``"integrated-gradients"``: Sundararajan et al., ICML 2017, arXiv:1703.01365, as in
      ``NeuronIntegratedGradients``: ``baselines`` (default 0, the mean color of a normalized image), ``n_steps`` (50),
      ``method`` (``"gausslegendre"``), ``internal_batch_size`` (1; larger values need more memory).
    - ``"smooth-grad"``: Smilkov et al., 2017, arXiv:1706.03825: mean gradient of ``nt_samples`` (25) noisy images, as
      in ``NoiseTunnel``; standard deviation ``noise`` (0.15) times the range of the image's values, or ``stdevs``;
      ``seed`` (0), with which every image gets the same noise; ``nt_samples_batch_size`` (1), ``nt_type``.
    - ``"guided-backprop"`` (Springenberg et al., ICLR 2015 workshop, arXiv:1412.6806) and ``"deconvolution"`` (Zeiler
      and Fergus, ECCV 2014, arXiv:1311.2901): the gradients of ``nn.ReLU`` modules are replaced, as in
      ``NeuronGuidedBackprop`` and ``NeuronDeconvolution``, but not those of shortcuts that read the same input, which
      captum replaces as well. Functional ReLUs, that of the convention and other activations, such as ``nn.ReLU6``,
      keep their gradient. The modules must be those of the network itself, not of a prepared copy, and may be in
      place.
    - ``"occlusion"``: decrease of the value when a window of the image is replaced, as in ``Occlusion``:
      ``baselines`` (0), ``windows`` (16) along each axis, side by side, or ``sliding_window_shapes`` and ``strides``;
      ``perturbations_per_eval`` (1). It needs ``windows`` ** 2 + 1 forward passes.

    The model is evaluated as in :func:`~replk_probe.erf.contribution_scores`, one image at a time. Nothing after the
    layer is computed.

    Examples:
        >>> import torch
        >>> from replk_probe.erf import NeuronERF
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU())
        >>> erf = NeuronERF(network, network[0], convention="openerf")
        >>> attributions = erf.attribute(torch.rand(2, 3, 16, 16), attribution="integrated-gradients", n_steps=20)
        >>> attributions.shape, erf.scores(attributions).shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 16, 16]))
    """

    def __init__(
        self,
        model: nn.Module | PreparedModel,
        layer: Layer = None,
        *,
        convention: str | Convention = DEFAULT,
    ) -> None:
        """Choose the layer.

        Args:
            model: Model, as in :func:`~replk_probe.erf.contribution_scores`.
            layer: Layer, as in :func:`~replk_probe.erf.contribution_scores`.
            convention: Convention, as in :func:`~replk_probe.erf.contribution_scores`.

        Raises:
            InvalidInputError: An argument is invalid.
        """
        self._convention = convention_of(convention)
        self._gradient = InputGradient(model, layer, self._convention)

    def __repr__(self) -> str:
        """One line with the model, the layer and the convention."""
        return f"{type(self).__name__}({self._gradient!r}, convention={self._convention.name!r})"

    def attribute(
        self,
        inputs: Tensor,
        neuron_selector: NeuronSelector | None = None,
        position: str | Sequence[int] | None = None,
        attribution: str = GRADIENT,
        **options: Any,
    ) -> Tensor:
        """Signed attributions of every value of the images.

        Args:
            inputs: Normalized images ``[N, C, H, W]``, floating point.
            neuron_selector: As in captum: index of one neuron in the output of the layer without its first axis, such
                as ``(channel, row, column)``; slices stand for the sum of several neurons; or a function from the
                output to one value per image. None for the scalar of the convention.
            position: Position of the feature map for the scalar of the convention, as in
                :func:`~replk_probe.erf.contribution_scores`; None for the middle one.
            attribution: Attribution, see the class.
            **options: Options of the attribution, see the class.

        Returns:
            Attributions ``[N, C, H, W]``, in the dtype and on the device of the model. Those of an image are NaN if the
            image or the features are not finite.

        Raises:
            InvalidInputError: An argument or an option is invalid, as for
                :func:`~replk_probe.erf.contribution_scores`, or both ``neuron_selector`` and ``position`` are given.
        """
        if neuron_selector is not None and position is not None:
            raise InvalidInputError(
                "Got a neuron selector and also a position. The position is that of the convention's scalar, which the "
                "selector replaces. Give only one of them."
            )
        select = None if neuron_selector is None else _select(neuron_selector)
        return self._gradient.attribute(inputs, select, attribution, options_of(attribution, options), position)

    def scores(self, attributions: Tensor) -> Tensor:
        """Contribution scores ``[N, H, W]``, >= 0: attributions ``[N, C, H, W]``, reduced as the convention defines."""
        return self._convention.scores(attributions)


def _select(selector: NeuronSelector) -> Select:
    if callable(selector):
        return selector
    index = (slice(None), *((selector,) if isinstance(selector, int) else selector))

    def selected(features: Tensor) -> Tensor:
        try:
            return features[index].reshape(features.shape[0], -1).sum(1)
        except IndexError as error:
            raise InvalidInputError(
                f"The output of the layer, of shape {list(features.shape)}, has no neuron {selector}: {error}. Give an "
                "index for each axis but the first."
            ) from error

    return selected
