"""Torch's settings of the precision of float32 products, in both of its interfaces.

Each backend has a setting per kind of operation (``fp32_precision``), which may be inherited. The older flags
(``allow_tf32``, ``torch.set_float32_matmul_precision``) are stored separately. Torch raises an error where code reads
an older flag that contradicts the newer settings, so both are saved, made strict and restored together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_get = torch._C._get_fp32_precision_getter
_set = torch._C._set_fp32_precision_setter

# Every setting, those that others inherit first.
_SETTINGS = (
    ("generic", "all"),
    *(("cuda", operation) for operation in ("all", "matmul", "conv", "rnn")),
    *(("mkldnn", operation) for operation in ("all", "matmul", "conv", "rnn")),
)
_INHERITED, _STRICT = "none", "ieee"


@dataclass(frozen=True)
class Float32Settings:
    """The settings at one moment.

    Attributes:
        precisions: ``fp32_precision`` of each backend and operation as it was set, ``"none"`` if it is inherited.
        matmul: The value of ``torch.set_float32_matmul_precision``.
        cudnn_tf32: ``torch.backends.cudnn.allow_tf32``.
        onednn_tf32: ``torch.backends.mkldnn.allow_tf32``, which exists for Intel GPUs only; otherwise None.
    """

    precisions: dict[tuple[str, str], str]
    matmul: str
    cudnn_tf32: bool
    onednn_tf32: bool | None

    def restore(self) -> None:
        """Set everything to these values."""
        # First the older flags, which change newer settings as well.
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.cudnn.allow_tf32 = self.cudnn_tf32
        if self.onednn_tf32:
            torch._C._set_onednn_allow_tf32(self.onednn_tf32)
        for setting, value in self.precisions.items():
            _set(*setting, value)


def make_strict() -> Float32Settings:
    """Compute all float32 products in float32 from now on.

    Returns:
        The settings before.
    """
    before = {}
    for setting in _SETTINGS:
        before[setting] = _get(*setting)
        # Otherwise those below that are inherited would be read as their own values.
        _set(*setting, _INHERITED)
    matmul = torch.get_float32_matmul_precision()  # consistent with inherited settings, whatever it is
    for setting in _SETTINGS:
        _set(*setting, _STRICT)
    try:
        cudnn_tf32 = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it contradicts the strict settings
        cudnn_tf32 = True
    onednn_tf32 = torch._C._get_onednn_allow_tf32()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    if onednn_tf32:
        torch._C._set_onednn_allow_tf32(False)
    # The first one too: ``torch.backends.cudnn.flags()`` in a network makes the others inherit it, and torch raises an
    # error where it contradicts the flags of that context.
    for setting in _SETTINGS:
        _set(*setting, _STRICT)
    return Float32Settings(before, matmul, cudnn_tf32, onednn_tf32)
