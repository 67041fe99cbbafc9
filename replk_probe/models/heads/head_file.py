"""Files with a linear head or with the text embeddings of class names."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from replk_probe.errors import WeightsError
from replk_probe.runtime.atomic_files import atomic_write_bytes, sha256_of
from replk_probe.runtime.formatting import counted
from replk_probe.runtime.paths import usable_path
from replk_probe.runtime.provenance import HeadInfo

_LINEAR, _TEXT = ("weight", "bias"), ("embeddings", "logit_scale", "logit_bias")
# The logarithm of the factor of the similarities that CLIP's training is limited to, and reaches.
DEFAULT_LOGIT_SCALE = math.log(100)
_SHOWN = 3  # names of tensors in a message
_ADVICE = (
    "Give a safetensors file with weight [classes, features] and optionally bias [classes], or with embeddings "
    "[classes, dim] and optionally logit_scale and logit_bias."
)


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head, or the text embeddings of class names.

    Attributes:
        info: Description for the record.
        weight: ``[classes, features]`` float32; for text embeddings the rows have unit length.
        bias: ``[classes]`` float32 of a linear head, or None.
    """

    info: HeadInfo
    weight: Tensor
    bias: Tensor | None = None


def read_head(path: str | os.PathLike[str]) -> Head:
    """Read a safetensors file with a linear head or with text embeddings.

    Args:
        path: Path of a file with ``weight`` ``[classes, features]`` and optionally ``bias`` ``[classes]``; or with
            ``embeddings`` ``[classes, dim]`` or ``[classes, templates, dim]`` and optionally ``logit_scale`` (the
            natural logarithm of the factor of the similarities, as in checkpoints of CLIP and SigLIP; defaults to
            log 100) and ``logit_bias``. The metadata may have the JSON lists ``class_names``, which embeddings
            require, and ``templates``.

    Raises:
        WeightsError: The file cannot be read, or its tensors or metadata are not as described.
    """
    path = usable_path(path, "The head file")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        digest = sha256_of(path)
    except Exception as error:  # safetensors raises errors of its own, which have no common class
        reason = "It is a folder" if path.is_dir() else "It is no safetensors file"
        if not path.is_dir() and not isinstance(error, SafetensorError):
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160].rstrip(".")
        raise WeightsError(f"Cannot read the head {path}. {reason}. {_ADVICE}") from error
    is_text = "embeddings" in tensors
    unknown = sorted(tensors.keys() - {*(_TEXT if is_text else _LINEAR)})
    if unknown or not tensors.keys() & {"weight", "embeddings"}:
        wrong = unknown or sorted(tensors)
        more = f" and {counted(len(wrong) - _SHOWN, 'more tensor')}" if len(wrong) > _SHOWN else ""
        found = ", ".join(wrong[:_SHOWN]) + more or "no tensors"
        raise _unusable(path, f"It has {found}, which is not part of one head")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise _unusable(path, f"Its {name} is of type {str(tensor.dtype).removeprefix('torch.')}, not of floats")
        if not torch.isfinite(tensor).all():
            raise _unusable(path, f"Its {name} has NaN or infinite values")
    names, templates = (_strings(path, metadata, key) for key in ("class_names", "templates"))
    return (_text_head if is_text else _linear_head)(path, tensors, digest, names, templates)


def text_head(
    embeddings: Tensor,
    class_names: Sequence[str],
    templates: Sequence[str],
    logit_scale: float,
    logit_bias: float,
    source: str,
    sha256: str | None = None,
) -> Head:
    """A head of text embeddings, ``[classes, dim]`` or ``[classes, templates, dim]``, of any length.

    Each embedding is divided by its length; those of the templates of a class are averaged, and the mean is divided by
    its length again. All of this is computed in float64.

    Args:
        embeddings: The embeddings.
        class_names: Name of each class.
        templates: Templates of the texts, if they are known.
        logit_scale: Natural logarithm of the factor of the similarities.
        logit_bias: Number that is added to them.
        source: Source of the embeddings.
        sha256: Digest of their file, or None for that of the values of the mean embeddings.

    Raises:
        WeightsError: An embedding, or the mean of those of a class, is zero.
    """
    mean = _unit(embeddings.double().unsqueeze(1) if embeddings.dim() == 2 else embeddings.double(), source)
    weight = _unit(mean.mean(1), source).float().contiguous()
    info = HeadInfo(
        kind="text",
        source=source,
        sha256=sha256 or _digest(weight),
        classes=len(weight),
        class_names=tuple(class_names),
        templates=tuple(templates),
        logit_scale=float(logit_scale),
        logit_bias=float(logit_bias),
    )
    return Head(info, weight)


def write_head(head: Head, path: str | os.PathLike[str]) -> None:
    """Write a head that :func:`read_head` can read."""
    info = head.info
    tensors = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
    if info.kind == "text":
        numbers = {"logit_scale": info.logit_scale, "logit_bias": info.logit_bias}
        tensors = {"embeddings": head.weight}
        tensors |= {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
    lists = {"class_names": info.class_names, "templates": info.templates}
    metadata = {name: json.dumps(values, ensure_ascii=False) for name, values in lists.items() if values}
    atomic_write_bytes(path, save(tensors, metadata))


def check_texts(what: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Check class names or templates: at least one, none blank, all printable.

    Raises:
        ValueError: One of them cannot be used; the message is the reason, a sentence without its period.
    """
    for text in texts:
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise ValueError(f"{text!r} is not a {what} of printable characters")
    if not texts:
        raise ValueError(f"There is no {what}")
    return tuple(texts)


def _linear_head(
    path: Path, tensors: Mapping[str, Tensor], digest: str, names: tuple[str, ...], templates: tuple[str, ...]
) -> Head:
    weight, bias = tensors["weight"], tensors.get("bias")
    if templates:
        raise _unusable(path, "It has templates, which belong to text embeddings, but a weight")
    _check_shape(path, "weight", weight, (2,))
    if bias is not None and bias.shape != weight.shape[:1]:
        raise _unusable(path, f"Its bias has shape {[*bias.shape]}, its weight {[*weight.shape]}")
    _check_count(path, names, len(weight))
    info = HeadInfo("linear", f"file:{path.name}", digest, len(weight), names)
    return Head(info, weight.float(), None if bias is None else bias.float())


def _text_head(
    path: Path, tensors: Mapping[str, Tensor], digest: str, names: tuple[str, ...], templates: tuple[str, ...]
) -> Head:
    embeddings = tensors["embeddings"]
    _check_shape(path, "embeddings", embeddings, (2, 3))
    if not names:
        raise _unusable(path, "Its metadata has no class_names, without which its classes are unknown")
    _check_count(path, names, len(embeddings))
    if embeddings.dim() == 3 and templates and len(templates) != embeddings.shape[1]:
        raise _unusable(path, f"It has {embeddings.shape[1]} embeddings of each class, but {len(templates)} templates")
    numbers = {"logit_scale": DEFAULT_LOGIT_SCALE, "logit_bias": 0.0}
    for name in numbers.keys() & tensors.keys():
        if tensors[name].numel() != 1:
            raise _unusable(path, f"Its {name} has shape {[*tensors[name].shape]}, but it is one number")
        numbers[name] = float(tensors[name])
    return text_head(embeddings, names, templates, **numbers, source=f"file:{path.name}", sha256=digest)


def _check_shape(path: Path, name: str, tensor: Tensor, axes: Sequence[int]) -> None:
    if tensor.dim() not in axes or not tensor.numel():
        raise _unusable(path, f"Its {name} has shape {[*tensor.shape]}")


def _check_count(path: Path, names: Sequence[str], classes: int) -> None:
    if names and len(names) != classes:
        raise _unusable(path, f"It has {len(names)} class names for {classes} classes")


def _strings(path: Path, metadata: Mapping[str, str], key: str) -> tuple[str, ...]:
    if key not in metadata:
        return ()
    try:
        values = json.loads(metadata[key])
        if not isinstance(values, list):
            raise ValueError("It is not a list")
        return check_texts(key.replace("_", " ").removesuffix("s"), values)
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"The {key} of its metadata cannot be used: {error}") from error


def _unit(vectors: Tensor, source: str) -> Tensor:
    lengths = vectors.norm(dim=-1, keepdim=True)
    if not (lengths > 0).all():
        raise WeightsError(
            f"Cannot use the text embeddings of {source}. One of them, or the mean of those of a class, is zero and "
            "has no direction. Compute them again."
        )
    unit: Tensor = vectors / lengths
    return unit


def _digest(weight: Tensor) -> str:
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()


def _unusable(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"Cannot use the head {path}. {reason}. {_ADVICE}")
