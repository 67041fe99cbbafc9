"""A network that decides by a head of its own: a linear classifier, or the similarity with text embeddings."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from replk_probe.errors import InvalidInputError, WeightsError

from ..inference.check import evaluating
from ..inference.failure import explain
from ..records import attach_weights_info, data_config, statistics_note, weights_info
from ..stages import ProbeSpec, Stage, probe_spec
from .head_file import Head, write_head

_TOKENS = "class token and mean of the patch tokens"


class CosineClassifier(nn.Module):
    """Logits from the similarity of features with text embeddings.

    The logit of a class is ``exp(logit_scale) * cos(features, embedding) + logit_bias``, as in CLIP (whose bias is 0)
    and SigLIP.

    Args:
        embeddings: Embedding of each class, ``[classes, dim]``, of unit length.
        logit_scale: Natural logarithm of the factor.
        logit_bias: Number that is added.
    """

    embeddings: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, embeddings: Tensor, logit_scale: float, logit_bias: float = 0.0) -> None:  # noqa: D107
        super().__init__()
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("scale", torch.tensor(logit_scale, dtype=torch.float64).exp().to(embeddings.dtype))
        self.register_buffer("bias", torch.tensor(logit_bias, dtype=embeddings.dtype))

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[N, classes]`` for features ``[N, dim]`` of any length."""
        return self.scale * functional.linear(functional.normalize(features, dim=-1), self.embeddings) + self.bias


class HeadedClassifier(nn.Module):
    """A network followed by a head, as :func:`~replk_probe.create_model` builds it: images to logits.

    Attributes:
        visual: The network without its classifier, from images ``[N, C, H, W]`` to features ``[N, features]``.
        head: The head, from features to logits ``[N, classes]``.
        class_names: Names of the classes, or None if they are unknown.

    Examples:
        A linear head for features of DINO, from a file as its authors publish them:

        >>> import torch
        >>> from safetensors.torch import save_file
        >>> from replk_probe import create_model
        >>> from replk_probe.models import weights_info
        >>> save_file({"weight": torch.zeros(10, 512), "bias": torch.zeros(10)}, "head.safetensors")
        >>> model = create_model("resnet18", head="head.safetensors")
        >>> model(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
        >>> weights_info(model).head.source
        'file:head.safetensors'
    """

    def __init__(self, visual: nn.Module, head: Head, *, tokens: bool = False) -> None:  # noqa: D107
        super().__init__()
        self.visual, self._tokens = visual, tokens
        self.class_names = list(head.info.class_names) or None
        if head.info.kind == "text":
            scale, bias = head.info.logit_scale, head.info.logit_bias
            self.head: nn.Module = CosineClassifier(head.weight, scale or 0.0, bias or 0.0)
        else:
            classes, features = head.weight.shape
            linear = nn.Linear(features, classes, bias=head.bias is not None, device="meta").to_empty(device="cpu")
            linear.load_state_dict({"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias}))
            self.head = linear

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` for images ``[N, C, H, W]``."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """The features that the head takes, ``[N, features]``."""
        if self._tokens:
            network: Any = self.visual
            tokens = network.forward_features(images)
            return torch.cat([tokens[:, 0], tokens[:, network.num_prefix_tokens :].mean(1)], 1)
        output = self.visual(images)
        found: Tensor = output[0] if isinstance(output, tuple) else output  # models of open_clip that return tokens
        return found

    def probe_spec(self) -> ProbeSpec:
        """The stages of the network, whose layers have the same short names as without the head."""
        spec = probe_spec(self.visual)
        stages = tuple(
            Stage(f"visual.{stage.path}", tuple(f"visual.{block}" for block in stage.blocks)) for stage in spec.stages
        )
        final = None if spec.final is None else (f"visual.{spec.final[0]}", spec.final[1])
        return replace(spec, stages=stages, final=final)


def with_head(model: nn.Module, head: Head) -> HeadedClassifier:
    """The network followed by a head, with its provenance and preprocessing.

    A linear head takes the features before the classifier of the network: its classifier is removed by timm's
    ``reset_classifier(0)``, if it has that; or, if the head has twice as many inputs, the class token followed by the
    mean of the patch tokens of a vision transformer. Text embeddings are compared with the output of the network.

    Args:
        model: The network, which becomes part of the result.
        head: The head.

    Raises:
        WeightsError: The numbers of features differ.
        InvalidInputError: The network fails on images of its own input size, or returns no features ``[N, features]``.
    """
    info, data = weights_info(model), data_config(model)
    known = statistics_note(model) is None
    network: Any = model
    if head.info.kind == "linear" and hasattr(model, "reset_classifier"):
        network.reset_classifier(0)
    headed, needed = HeadedClassifier(model, head), head.weight.shape[1]
    found = _width(headed, data.input_size)
    if found != needed and needed == 2 * found and head.info.kind == "linear" and hasattr(model, "num_prefix_tokens"):
        headed = HeadedClassifier(model, head, tokens=True)
        found = _width(headed, data.input_size)
    if found != needed:
        raise WeightsError(
            f"The head {head.info.source} does not match {type(model).__name__}. It takes {needed} features, and the "
            f"network returns {found}. Use the head of this network."
        )
    used = replace(head.info, features=_TOKENS) if headed._tokens else head.info
    # A note on a missing classifier does not apply to a network with a head.
    note = None if info.lacks_classifier else info.note
    attach_weights_info(headed, replace(info, head=used, note=note), data if known else None)
    return headed.eval()


def save_head(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Save the head of a network as a safetensors file, so that it need not be computed again.

    Args:
        model: A network that :func:`~replk_probe.create_model` built with a head or with class names.
        path: Path of the file, which is overwritten if it exists, for the argument ``head`` of
            :func:`~replk_probe.create_model`.

    Raises:
        InvalidInputError: The network has no such head, or the file cannot be written.

    Examples:
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> from replk_probe import create_model
        >>> from replk_probe.models import save_head, weights_info
        >>> names = {"class_names": '["cat", "dog"]', "templates": '["a photo of a {}."]'}
        >>> save_file({"embeddings": torch.randn(2, 512)}, "pets.safetensors", metadata=names)
        >>> model = create_model("resnet18", num_classes=0, head="pets.safetensors")
        >>> save_head(model, "again.safetensors")
        >>> weights_info(create_model("resnet18", num_classes=0, head="again.safetensors")).head.class_names
        ('cat', 'dog')
    """
    info = weights_info(model).head
    if not isinstance(model, HeadedClassifier) or info is None:
        raise InvalidInputError(
            f"{type(model).__name__} has no head to save. Only networks built with a head or with class names have "
            "one. Build it with create_model and its argument head or class_names."
        )
    tensors = {name: tensor.float().cpu() for name, tensor in model.head.state_dict().items()}
    is_text = info.kind == "text"
    head = Head(info, tensors["embeddings" if is_text else "weight"], None if is_text else tensors.get("bias"))
    write_head(head, path)


def _width(model: HeadedClassifier, size: tuple[int, int]) -> int:
    """Number of features, for one image of ``(H, W)`` pixels."""
    network: nn.Module = model.visual
    parameter = next(network.parameters(), torch.empty(0))
    shape = (1, 3, *size)
    try:
        with evaluating(model), torch.inference_mode():
            features = model.features(torch.zeros(shape, device=parameter.device, dtype=parameter.dtype))
    except Exception as error:
        raise InvalidInputError(explain(error, model.visual, shape).message) from error
    if not isinstance(features, Tensor) or features.dim() != 2:
        found = f"shape {[*features.shape]}" if isinstance(features, Tensor) else f"type {type(features).__name__}"
        raise InvalidInputError(
            f"{type(model.visual).__name__} returns an output of {found} for one image. A head takes features "
            "[1, features]. Use a network whose output is its pooled features."
        )
    return features.shape[1]
