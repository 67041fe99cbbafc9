"""Digests of networks and arrays, which identify them where names do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

# Number of bytes hashed at a time.
_HASH_STEP = 1 << 24


def bytes_of(tensors: Iterable[Tensor]) -> Iterator[bytes]:
    """Type, shape and content of tensors, in chunks."""
    for tensor in tensors:
        yield f"{tensor.dtype}{list(tensor.shape)}".encode()
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _HASH_STEP):
            yield flat[start : start + _HASH_STEP].cpu().numpy().tobytes()


def bytes_of_model(model: nn.Module) -> Iterator[bytes]:
    """The types of a network's layers and its weights, by path, in chunks."""
    for path, module in model.named_modules():
        yield f"{path}: {type(module).__qualname__}".encode()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            yield name.encode()
            yield from bytes_of([value])


def digest_of(chunks: Iterable[bytes]) -> str:
    """Hex digest of the chunks; their boundaries are part of it."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()
