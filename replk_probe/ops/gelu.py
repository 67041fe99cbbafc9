"""GELU of maps with sums over each map, by the native library.

Each function reads and writes every map once, where separate operators need several temporary maps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError

from ._choice import forced_numbers, loaded_library, uncovered_tensors
from ._cpu import failure


def is_gelu_native(input: Tensor) -> bool:
    """Whether the functions of this module support ``input``: float32 on a CPU, and the library is loaded.

    ``REPLK_PROBE_METHOD=aten`` disables them.

    Args:
        input: Maps, ``[N, C, H, W]``.

    Returns:
        Whether :func:`gelu_with_squares` and the related functions can be called.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import is_gelu_native
        >>> is_gelu_native(torch.rand(1, 2, 4, 4, dtype=torch.float64))
        False
    """
    return input.dtype == torch.float32 and uncovered_tensors(input) is None


def gelu_with_squares(input: Tensor) -> tuple[Tensor, Tensor]:
    """GELU (exact form) of ``input``, and the sums of its squares over each map.

    Args:
        input: Float32 maps, ``[N, C, H, W]``; they are copied unless they are contiguous.

    Returns:
        The activations, ``[N, C, H, W]``, contiguous, and the sums, ``[N, C]`` in float64.

    Raises:
        InvalidInputError: Shapes or dtypes do not match.
        BackendError: There is no library, or the environment forces an instruction set that does not exist.

    Source:
        Hendrycks and Gimpel, 2016, arXiv:1606.08415.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import gelu_with_squares
        >>> maps = torch.rand(1, 2, 4, 4)
        >>> output, sums = gelu_with_squares(maps)
        >>> torch.allclose(output, torch.nn.functional.gelu(maps), atol=1e-6), sums.shape
        (True, torch.Size([1, 2]))
    """
    output, sums = _like(input), _sums(input)
    _run("gelu_forward", input, (), (), (output, sums))
    return output, sums


def gelu_products(input: Tensor, grad: Tensor) -> Tensor:
    """Sums over each map of the products of the GELU of ``input`` and ``grad``.

    Args:
        input: See :func:`gelu_with_squares`.
        grad: Gradient, of the same shape and dtype.

    Returns:
        ``[N, C]`` in float64.

    Raises:
        InvalidInputError: See :func:`gelu_with_squares`.
        BackendError: See :func:`gelu_with_squares`.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import gelu_products
        >>> maps, grad = torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)
        >>> expected = (torch.nn.functional.gelu(maps) * grad).double().sum((2, 3))
        >>> torch.allclose(gelu_products(maps, grad), expected, rtol=1e-5)
        True
    """
    sums = _sums(input)
    _run("gelu_products", input, (grad,), (), (sums,))
    return sums


def gelu_grad_input(input: Tensor, grad: Tensor, grad_scale: Tensor, output_scale: Tensor) -> Tensor:
    """``gelu'(input) * (grad_scale * grad + output_scale * gelu(input))``.

    Args:
        input: See :func:`gelu_with_squares`.
        grad: Gradient, of the same shape and dtype.
        grad_scale: One factor for each map, ``[N, C]`` in float32.
        output_scale: One factor for each map, ``[N, C]`` in float32.

    Returns:
        ``[N, C, H, W]``, contiguous.

    Raises:
        InvalidInputError: See :func:`gelu_with_squares`.
        BackendError: See :func:`gelu_with_squares`.

    Examples:
        The derivative of the GELU at 0 is 1/2:

        >>> import torch
        >>> from replk_probe.ops import gelu_grad_input
        >>> zeros, ones = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
        >>> gelu_grad_input(zeros, ones, torch.ones(1, 1), torch.zeros(1, 1))[0, 0]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    output = _like(input)
    _run("gelu_grad_input", input, (grad,), (grad_scale, output_scale), (output,))
    return output


def _like(input: Tensor) -> Tensor:
    return torch.empty_like(input, memory_format=torch.contiguous_format)


def _sums(input: Tensor) -> Tensor:
    return torch.empty(input.shape[:2], dtype=torch.float64)


def _run(
    name: str, input: Tensor, maps: tuple[Tensor, ...], scales: tuple[Tensor, ...], results: tuple[Tensor, ...]
) -> None:
    """Call a function of the library."""
    operands = (input, *maps, *scales)
    shapes = [tuple(operand.shape) for operand in operands]
    expected = [input.shape] * (1 + len(maps)) + [input.shape[:2]] * len(scales)
    kinds = {(operand.device.type, operand.dtype) for operand in operands}
    if input.dim() != 4 or shapes != expected or kinds != {("cpu", torch.float32)}:
        raise InvalidInputError(
            f"The shapes are {shapes}, the types {sorted({str(operand.dtype) for operand in operands})}. Float32 maps "
            "of one shape [N, C, H, W] on a CPU and scales [N, C] are required. Convert the tensors."
        )
    library = loaded_library()
    isa, _ = forced_numbers(library)
    tensors = [*(operand.contiguous() for operand in operands), *results]
    rows, columns = input.shape[:2].numel(), input.shape[2:].numel()
    threads = max(1, min(torch.get_num_threads(), 1024))
    status = getattr(library, name)(isa, threads, rows, columns, *(tensor.data_ptr() for tensor in tensors))
    if status:
        raise BackendError(failure(library, status))
