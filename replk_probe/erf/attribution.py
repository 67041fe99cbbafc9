"""Attributions of features to the pixels of an image, by captum's neuron attribution."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_choice
from replk_probe.runtime.devices import preserved_generators

# The options of each attribution that are recorded, with their defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "input-x-gradient": {},
    # One step at a time: all 50 at once would take the memory of 50 images.
    "integrated-gradients": {"baselines": 0, "n_steps": 50, "method": "gausslegendre", "internal_batch_size": 1},
    "smooth-grad": {"nt_samples": 25, "noise": 0.15, "seed": 0, "nt_samples_batch_size": 1},
    "guided-backprop": {},
    "deconvolution": {},
    "occlusion": {"baselines": 0, "windows": 16, "perturbations_per_eval": 1},
}
# Options of captum that replace one of the above.
_MORE_OPTIONS = {"smooth-grad": ("stdevs", "nt_type"), "occlusion": ("sliding_window_shapes", "strides")}

DEFAULT = "gradient"
# Attributions that replace the gradient of the nn.ReLU modules of the network, which a prepared copy may not have.
WITH_OWN_MODULES = ("guided-backprop", "deconvolution")

Select = Callable[[Tensor], Tensor]


def check_attribution(attribution: Any) -> None:
    """Raise InvalidInputError unless ``attribution`` is one of :data:`OPTIONS`."""
    check_choice("attribution", attribution, tuple(OPTIONS))


def options_of(attribution: str, given: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """All options of an attribution; raises InvalidInputError for one that it does not have."""
    check_attribution(attribution)
    usual = dict(OPTIONS[attribution])
    if "seed" in usual:
        usual["seed"] = seed
    known = (*usual, *_MORE_OPTIONS.get(attribution, ()))
    unknown = [name for name in given if name not in known]
    if unknown:
        has = f"has only {', '.join(known)}" if known else "has no options"
        raise InvalidInputError(
            f"Attribution {attribution!r} has no option {', '.join(unknown)}. It {has}. Leave out the others."
        )
    return {**usual, **given}


def attribution_record(attribution: str, seed: int) -> dict[str, Any]:
    """The entry of a result's configuration; empty for the gradient."""
    if attribution == DEFAULT:
        return {}
    return {"attribution": {"name": attribution, **options_of(attribution, {}, seed)}}


def check_modules(attribution: str, model: nn.Module, *, prepared: bool) -> None:
    """Raise InvalidInputError if an attribution that replaces the gradient of ReLUs has no effect on a network."""
    if attribution not in WITH_OWN_MODULES:
        return
    if prepared:
        raise InvalidInputError(
            f"Attribution {attribution!r} replaces the gradients of nn.ReLU modules, which a prepared model may not "
            "have any more. Give the network itself."
        )
    if not any(isinstance(module, nn.ReLU) for module in model.modules()):
        raise InvalidInputError(
            f"Attribution {attribution!r} replaces the gradients of nn.ReLU modules, but {type(model).__name__} has "
            "none: the result would be the gradient. Choose another attribution."
        )


class Truncated(nn.Module):
    """A network that ends at a layer, as captum needs it."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
        """``run`` computes the layer of ``model``, which is a submodule so that captum finds its ReLUs."""
        super().__init__()
        self.model, self.features = model, nn.Identity()
        self._run = run

    def forward(self, images: Tensor) -> Tensor:
        """The features of the layer."""
        # The copy lets a network write into its input.
        found: Tensor = self.features(self._run(images.clone()))
        return found


def attributed(network: Truncated, image: Tensor, select: Select, attribution: str, options: dict[str, Any]) -> Tensor:
    """Signed attribution of every value of one image, ``[1, C, H, W]``.

    Args:
        network: The network up to the layer.
        image: One image ``[1, C, H, W]``.
        select: Function from the features of a batch to one value for each image, ``[N]``.
        attribution: One of :data:`OPTIONS`.
        options: All its options, from :func:`options_of`.
    """
    # Captum takes a second to import.
    from captum import attr

    leaf = image.clone().requires_grad_(True)
    layer = network.features
    with warnings.catch_warnings():
        # Captum warns that it sets hooks, and that batches of one image cannot be split.
        warnings.simplefilter("ignore")
        found: Tensor
        if attribution == "gradient":
            found = attr.NeuronGradient(network, layer).attribute(leaf, select)
        elif attribution == "input-x-gradient":
            found = leaf * attr.NeuronGradient(network, layer).attribute(leaf, select)
        elif attribution == "integrated-gradients":
            found = attr.NeuronIntegratedGradients(network, layer).attribute(leaf, select, **options)
        elif attribution == "smooth-grad":
            found = _smooth_grad(attr.NoiseTunnel(attr.NeuronGradient(network, layer)), leaf, select, **options)
        elif attribution == "guided-backprop":
            with _own_inputs(network):
                found = attr.NeuronGuidedBackprop(network, layer).attribute(leaf, select)
        elif attribution == "deconvolution":
            with _own_inputs(network):
                found = attr.NeuronDeconvolution(network, layer).attribute(leaf, select)
        else:
            found = _occlusion(attr.Occlusion(lambda images: select(network(images))), image, **options)
    return found.detach().to(image.dtype)


@contextmanager
def _own_inputs(network: nn.Module) -> Iterator[None]:
    """Give each ReLU an input that nothing else reads, in this context.

    Captum replaces the gradient of the input of a ReLU. Where that input is also read by a shortcut, as before a
    pre-activation, it would replace the gradient of the shortcut as well.
    """

    def alias(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].view_as(args[0]), *args[1:])

    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    handles = [relu.register_forward_pre_hook(alias) for relu in relus]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _smooth_grad(tunnel: Any, image: Tensor, select: Select, *, noise: float, seed: int, **options: Any) -> Tensor:
    """Mean gradient of noisy images, whose standard deviation is ``noise`` times the range of the values."""
    spread = float(image.detach().max() - image.detach().min())
    # The same noise for each image, so that a map does not depend on the order of the images.
    with preserved_generators(image.device):
        torch.manual_seed(seed)
        found: Tensor = tunnel.attribute(image, **{"stdevs": noise * spread, **options}, neuron_selector=select)
    return found


def _occlusion(occlusion: Any, image: Tensor, *, windows: int, **options: Any) -> Tensor:
    """Decrease of the value when a window is replaced: ``windows`` windows along each axis, side by side."""
    sides = tuple(math.ceil(size / windows) for size in image.shape[2:])
    window = (image.shape[1], *sides)
    usual = {"sliding_window_shapes": window, "strides": options.get("sliding_window_shapes", window)}
    with torch.no_grad():
        found: Tensor = occlusion.attribute(image, **{**usual, **options})
    return found
