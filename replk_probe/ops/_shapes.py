"""Checks of the arguments of the three operators, made for every new combination of shapes and for fake tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import is_tensor_like

from replk_probe.errors import InvalidInputError


def check_tensors(**tensors: Any) -> None:
    """Check that arguments are tensors, or tensor-like as in a symbolic trace.

    Raises:
        InvalidInputError: An argument is not a tensor.
    """
    for name, tensor in tensors.items():
        if not is_tensor_like(tensor):  # type: ignore[no-untyped-call]
            kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}".removeprefix("builtins.")
            raise InvalidInputError(
                f"{name} is of type {kind}. A torch.Tensor is required. Convert it, for example with torch.as_tensor."
            )


def check_operands(**tensors: Any) -> None:
    """:func:`check_tensors`, and that no tensor is sparse.

    Raises:
        InvalidInputError: An argument is not a tensor, or not a strided one.
    """
    check_tensors(**tensors)
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise InvalidInputError(
                f"{name} has the layout {layout}. Convolutions read strided tensors. Convert it with to_dense()."
            )


def is_relu(activation: str | None) -> bool:
    """Whether a ReLU follows the convolution.

    Raises:
        InvalidInputError: The activation is unknown.
    """
    if activation is None:
        return False
    if activation != "relu":
        raise InvalidInputError(f"Unknown activation {activation!r}. Only ReLU can be fused. Use 'relu' or None.")
    return True


def check_forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Check the arguments of ``dwconv2d``.

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not match.
    """
    check_sizes(input, weight, bias)
    _check_odd(weight.shape[2], weight.shape[3])
    check_kinds(input, weight, bias)


def check_sizes(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Check the shapes of a depthwise convolution, including even kernels, which torch computes.

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not match.
    """
    _check_planes(input, "input")
    _check_kernels(weight, input.shape[1])
    if bias is not None:
        if bias.dim() != 1 or bias.shape[0] != input.shape[1]:
            raise InvalidInputError(
                f"bias is {list(bias.shape)}. One element per channel is required. Use the shape [{input.shape[1]}]."
            )


def check_kinds(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Check that all tensors have the same dtype and device.

    Raises:
        InvalidInputError: Dtypes or devices differ.
    """
    _check_same_kind(input, weight, "input", "weight")
    if bias is not None:
        _check_same_kind(input, bias, "input", "bias")


def check_grad_input(grad: Tensor, weight: Tensor) -> None:
    """Check the arguments of ``dwconv2d_grad_input``.

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not match.
    """
    _check_planes(grad, "grad")
    _check_kernels(weight, grad.shape[1])
    _check_odd(weight.shape[2], weight.shape[3])
    _check_same_kind(grad, weight, "grad", "weight")


def check_grad_weight(input: Tensor, grad: Tensor, kh: int, kw: int) -> None:
    """Check the arguments of ``dwconv2d_grad_weight``.

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not match.
    """
    _check_planes(input, "input")
    if grad.shape != input.shape:
        raise InvalidInputError(
            f"grad is {list(grad.shape)} and input {list(input.shape)}. A convolution of stride 1 with 'same' padding "
            "keeps the size. Use the same shape for both."
        )
    _check_odd(kh, kw)
    _check_same_kind(input, grad, "input", "grad")


def _check_planes(tensor: Tensor, name: str) -> None:
    if tensor.dim() != 4:
        raise InvalidInputError(
            f"{name} is {list(tensor.shape)}. Four dimensions [N, C, H, W] are required. "
            "Add the missing ones with reshape."
        )


def _check_kernels(weight: Tensor, channels: int) -> None:
    if weight.dim() != 4 or weight.shape[0] != channels or weight.shape[1] != 1:
        raise InvalidInputError(
            f"weight is {list(weight.shape)} for {channels} channels. A depthwise convolution has one kernel per "
            f"channel. Use the shape [{channels}, 1, Kh, Kw]."
        )
    if weight.shape[2] < 1 or weight.shape[3] < 1:
        raise InvalidInputError(
            f"weight is {list(weight.shape)}. Kernel sizes must be positive. Use sizes of at least 1."
        )


def _check_odd(kh: int, kw: int) -> None:
    if kh < 1 or kw < 1 or kh % 2 == 0 or kw % 2 == 0:
        raise InvalidInputError(
            f"The kernel is {kh}x{kw}. Symmetric padding requires odd sizes. Use odd sizes of at least 1."
        )


def _check_same_kind(first: Tensor, second: Tensor, name: str, other: str) -> None:
    if first.dtype != second.dtype or first.device != second.device:
        raise InvalidInputError(
            f"{name} is {_kind(first)} and {other} is {_kind(second)}. All tensors must have the same dtype and device."
            " Convert one of them, or compute under torch.autocast."
        )


def _kind(tensor: Tensor) -> str:
    dtype: torch.dtype = tensor.dtype
    return f"{str(dtype).removeprefix('torch.')} on {tensor.device}"
