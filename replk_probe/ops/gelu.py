"""GELU of contiguous maps with sums over each map, by the native library.

Each function reads and writes every map once, where separate operators need several temporary maps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from replk_probe.errors import BackendError

from . import _loader
from ._choice import forced_numbers, uncovered_tensors


def is_gelu_native(input: Tensor) -> bool:
    """Whether the functions of this module support ``input``: contiguous, float32, on a CPU, and the library is loaded.

    ``REPLK_PROBE_METHOD=aten`` disables them.
    """
    return input.dtype == torch.float32 and input.is_contiguous() and uncovered_tensors(input) is None


def gelu_with_squares(input: Tensor) -> tuple[Tensor, Tensor]:
    """GELU (exact form) of ``input``, ``[N, C, H, W]``, and the sums of its squares, ``[N, C]`` in float64.

    Raises:
        BackendError: There is no library, or the environment forces an instruction set that does not exist.
    """
    output, sums = torch.empty_like(input), _sums(input)
    _run("gelu_forward", input, output, sums)
    return output, sums


def gelu_products(input: Tensor, grad: Tensor) -> Tensor:
    """Sums of the products of the GELU of ``input`` and ``grad``, both ``[N, C, H, W]``: ``[N, C]`` in float64.

    Raises:
        BackendError: See :func:`gelu_with_squares`.
    """
    sums = _sums(input)
    _run("gelu_products", input, grad, sums)
    return sums


def gelu_grad_input(input: Tensor, grad: Tensor, grad_scale: Tensor, output_scale: Tensor) -> Tensor:
    """``gelu'(input) * (grad_scale * grad + output_scale * gelu(input))``.

    Args:
        input: Input of the GELU, ``[N, C, H, W]``.
        grad: Gradient, ``[N, C, H, W]``.
        grad_scale: One factor for each map, ``[N, C]``.
        output_scale: One factor for each map, ``[N, C]``.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        BackendError: See :func:`gelu_with_squares`.
    """
    output = torch.empty_like(input)
    _run("gelu_grad_input", input, grad, grad_scale, output_scale, output)
    return output


def _sums(input: Tensor) -> Tensor:
    return torch.empty(input.shape[:2], dtype=torch.float64)


def _run(name: str, input: Tensor, *others: Tensor) -> None:
    """Call a function of the library with contiguous tensors."""
    library = _loader.find_library()
    if isinstance(library, str):
        raise BackendError(f"Native kernel refused: the native library is not available. {library}")
    isa, _ = forced_numbers(library)
    tensors = [tensor.contiguous() for tensor in (input, *others)]
    rows, columns = input.shape[:2].numel(), input.shape[2:].numel()
    threads = max(1, min(torch.get_num_threads(), 1024))
    status = getattr(library, name)(isa, threads, rows, columns, *(tensor.data_ptr() for tensor in tensors))
    if status:
        raise BackendError(
            f"The native library failed: {library.status_text(status).decode()} (status {status}). This is a bug in "
            "replk-probe. Report it with the output of 'replk-probe info', and set REPLK_PROBE_METHOD=aten until it is "
            "fixed."
        )
