"""Networks built for one image size, rebuilt for another: position embeddings resized, windows kept."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replk_probe.models.inference.copying import copy_of
from replk_probe.runtime.formatting import dimensions


def resized(model: nn.Module, size: tuple[int, int]) -> Iterator[tuple[nn.Module, str]]:
    """Copies of a network built for images of ``size``, each with a sentence that describes the change.

    The most likely one is first. The caller must check whether it accepts images of that size.
    """
    pixels = dimensions(size)
    setter = getattr(model, "set_input_size", None)
    if callable(setter):
        ways: list[dict[str, Any]] = [{}]
        window = _window_of(model)
        if window is not None and "window_size" in inspect.signature(setter).parameters:
            ways.insert(0, {"window_size": window})
        for way in ways:
            other = copy_of(model)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # timm's interpolation uses a deprecated option of torch
                    other.set_input_size(img_size=size, **way)  # type: ignore[operator]
            except (TypeError, ValueError, AssertionError, RuntimeError):
                continue  # a method of the same name with another meaning
            kept = f", windows of {dimensions(window)} kept" if window and way else ""
            yield other, f"Built for {pixels} px: position embeddings resized{kept}."
    positions = getattr(getattr(model, "encoder", None), "pos_embedding", None)
    if isinstance(positions, Tensor) and hasattr(model, "image_size") and size[0] == size[1]:
        other = copy_of(model)
        if _resize_torchvision_vit(other, size[0]):
            yield other, f"Built for {pixels} px: position embeddings resized."


def _window_of(model: nn.Module) -> tuple[int, int] | None:
    """The largest attention window of a network; stages smaller than it have theirs clipped."""
    windows = [getattr(module, "window_size", None) for module in model.modules() if hasattr(module, "shift_size")]
    pairs = [(int(w[0]), int(w[1])) for w in windows if isinstance(w, (tuple, list)) and len(w) == 2]
    return max(pairs, default=None)


def _resize_torchvision_vit(model: Any, side: int) -> bool:
    """In place: torchvision's VisionTransformer has one embedding for each patch and one for its class token."""
    positions: nn.Parameter = model.encoder.pos_embedding
    before, after = model.image_size // model.patch_size, side // model.patch_size
    if side % model.patch_size or positions.dim() != 3 or positions.shape[1] != 1 + before**2:
        return False
    with torch.no_grad():
        tokens, grid = positions[:, :1], positions[:, 1:].float()
        grid = grid.transpose(1, 2).reshape(1, -1, before, before)
        grid = F.interpolate(grid, size=(after, after), mode="bicubic", antialias=True, align_corners=False)
        grid = grid.reshape(1, -1, after**2).transpose(1, 2).to(tokens.dtype)
        model.encoder.pos_embedding = nn.Parameter(torch.cat([tokens, grid], dim=1), positions.requires_grad)
    model.image_size = side
    model.seq_length = 1 + after**2
    return True
