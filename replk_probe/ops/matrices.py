"""Products of matrices, and their bias and activation with the derivative of the activation in 16 bits.

Products are computed by torch's libraries, the rest by the native library, whose functions read and write every matrix
once, in float32 or bfloat16. A layer that multiplies a few hundred columns or rows at a time finds them in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError

from . import _loader
from ._choice import forced_numbers, loaded_library, uncovered_tensors
from ._cpu import failure
from ._info import is_amd

# Number of multiply-adds from which oneDNN is faster in spite of the longer way to it.
_LEAST_PRODUCTS = 2**22


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias`` without gradients: :func:`torch.nn.functional.linear` by the faster library.

    torch multiplies float32 matrices with MKL, which leaves half of the AVX-512 vectors of AMD's processors unused:
    oneDNN takes 0.45 of the time on one of the Zen 5 generation. Elsewhere, for other types, and for small products,
    this is torch's own function. Sums are rounded differently.

    Args:
        input: ``[..., C]``.
        weight: ``[C', C]``, dense or the transpose of a dense matrix. Others are multiplied by MKL.
        bias: ``[C']``, or None.

    Returns:
        ``[..., C']``, which does not require gradients where oneDNN computed it.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import linear
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[11.]])
    """
    operator = _onednn_linear() if is_onednn_faster(input, weight) else None
    if operator is None:
        return torch.nn.functional.linear(input, weight, bias)
    return operator(input.detach(), weight.detach(), bias, "none", [], "")


def is_onednn_faster(input: Tensor, weight: Tensor) -> bool:
    """Whether :func:`linear` computes the product of these tensors with oneDNN.

    Args:
        input: ``[..., C]``.
        weight: ``[C', C]``.

    Returns:
        Whether both are in float32 on a CPU on which oneDNN is the faster library, and large enough.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import is_onednn_faster
        >>> is_onednn_faster(torch.rand(2, 4), torch.rand(3, 4))
        False
    """
    is_dense = weight.is_contiguous() or weight.T.is_contiguous()  # measured: with gaps, 100 times slower
    return (
        is_dense
        and input.dtype == weight.dtype == torch.float32
        and input.device.type == weight.device.type == "cpu"
        and input.numel() * weight.shape[0] >= _LEAST_PRODUCTS
        and prefers_onednn()
    )


def prefers_onednn() -> bool:
    """Whether large products of dense float32 matrices are computed with oneDNN on this machine's CPU.

    Returns:
        True on an AMD processor with AVX-512 unless oneDNN is disabled (:mod:`torch.backends.mkldnn`) or torch computes
        products with another library than MKL.

    Examples:
        >>> from replk_probe.ops import prefers_onednn
        >>> prefers_onednn() in (True, False)
        True
    """
    return _onednn_linear() is not None and bool(torch.backends.mkldnn.enabled)


@functools.cache
def _onednn_linear() -> Callable[..., Tensor] | None:
    """The operator that torch's compiler uses for linear layers, or None where MKL is as fast or not used."""
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    is_slow = has_mkl and is_amd() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if is_slow else None


def is_pointwise_native(input: Tensor) -> bool:
    """Whether the functions of this module support ``input``: float32 on a CPU, and the library is loaded.

    ``REPLK_PROBE_METHOD=aten`` disables them.

    Args:
        input: Input of a pointwise layer.

    Returns:
        Whether :func:`activate` and :func:`times_derivative` can be called.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import is_pointwise_native
        >>> is_pointwise_native(torch.rand(2, 4, dtype=torch.float64))
        False
    """
    return input.dtype == torch.float32 and uncovered_tensors(input) is None


def activate(
    product: Tensor,
    output: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    derivative: Tensor | None = None,
    *,
    bias_of_columns: bool = False,
) -> None:
    """Write ``activation(product + bias)`` to ``output`` and the derivative of the activation to ``derivative``.

    Args:
        product: Matrix ``[rows, columns]`` in float32 or bfloat16; rows are dense, and may be further apart.
        output: Matrix of the same shape in float32 or bfloat16, which may be ``product``.
        bias: ``[rows]`` or ``[columns]`` in float32, or None.
        activation: ``"gelu"`` (the exact form), ``"relu"``, ``"relu6"`` or None.
        derivative: Matrix of the same shape in int16, or None. Its numbers are read by :func:`times_derivative`; they
            have an error of at most 1.1e-5 for ``"gelu"`` and are exact for the others.
        bias_of_columns: Whether there is one bias for each column instead of each row.

    Raises:
        InvalidInputError: Shapes, dtypes or strides do not match.
        BackendError: There is no library, or the environment forces an instruction set that does not exist.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import activate
        >>> product, output = torch.tensor([[-1.0, 2.0]]), torch.empty(1, 2)
        >>> activate(product, output, bias=torch.tensor([0.5]), activation="relu")
        >>> output
        tensor([[0.0000, 2.5000]])
    """
    _check(product, output, derivative)
    expected = product.shape[1 if bias_of_columns else 0]
    if bias is not None and (bias.shape != (expected,) or bias.dtype != torch.float32 or not bias.is_contiguous()):
        raise InvalidInputError(
            f"The bias is a {bias.dtype} tensor {list(bias.shape)}. A dense float32 tensor [{expected}] is required."
        )
    if activation not in _loader.ACTIVATIONS:
        raise InvalidInputError(
            f"The activation is {activation!r}. It must be None or one of "
            f"{', '.join(filter(None, _loader.ACTIVATIONS))}."
        )
    call = _call(product, output, derivative)
    call.activation = _loader.ACTIVATIONS[activation]
    call.bias_of_columns = int(bias_of_columns)
    call.bias = None if bias is None else bias.data_ptr()
    _run("pointwise_forward", call)


def times_derivative(grad: Tensor, derivative: Tensor, output: Tensor) -> None:
    """Write the product of ``grad`` and the derivative that :func:`activate` stored to ``output``.

    Args:
        grad: Gradient of the activations, ``[rows, columns]``, in float32 or bfloat16; rows are dense.
        derivative: Derivative in int16, of the same shape.
        output: Matrix of the same shape in float32 or bfloat16, which may be ``grad``.

    Raises:
        InvalidInputError: See :func:`activate`.
        BackendError: See :func:`activate`.

    Examples:
        A ReLU blocks the gradient of a negative input:

        >>> import torch
        >>> from replk_probe.ops import activate, times_derivative
        >>> matrix, derivative = torch.tensor([[-1.0, 2.0]]), torch.empty(1, 2, dtype=torch.int16)
        >>> activate(matrix, matrix, activation="relu", derivative=derivative)
        >>> times_derivative(torch.tensor([[3.0, 3.0]]), derivative, matrix)
        >>> matrix
        tensor([[0., 3.]])
    """
    _check(grad, output, derivative)
    _run("pointwise_backward", _call(grad, output, derivative))


def _check(input: Tensor, output: Tensor, derivative: Tensor | None) -> None:
    matrices = [input, output] if derivative is None else [input, output, derivative]
    kinds = [matrix.dtype in _loader.DTYPES for matrix in matrices[:2]]
    kinds += [matrix.dtype == torch.int16 for matrix in matrices[2:]]
    dense = [
        matrix.dim() == 2 and (matrix.stride(1) == 1 or matrix.shape[1] <= 1) and matrix.device.type == "cpu"
        for matrix in matrices
    ]
    if not all(kinds + dense) or len({matrix.shape for matrix in matrices}) != 1:
        given = ", ".join(f"{matrix.dtype} {list(matrix.shape)} {matrix.stride()}" for matrix in matrices)
        raise InvalidInputError(
            f"The matrices are {given}. Matrices of one shape with dense rows are required, on a CPU, in float32 or "
            "bfloat16, and derivatives in int16."
        )


def _call(input: Tensor, output: Tensor, derivative: Tensor | None) -> _loader.Pointwise:
    rows, columns = input.shape
    call = _loader.Pointwise(rows=rows, columns=columns)
    call.input_dtype, call.output_dtype = _loader.DTYPES[input.dtype], _loader.DTYPES[output.dtype]
    call.input, call.input_stride = input.data_ptr(), _stride(input)
    call.output, call.output_stride = output.data_ptr(), _stride(output)
    if derivative is not None:
        call.derivative, call.derivative_stride = derivative.data_ptr(), _stride(derivative)
    return call


def _stride(matrix: Tensor) -> int:
    # The stride of a single row has no meaning.
    return matrix.stride(0) if matrix.shape[0] > 1 else matrix.shape[1]


def _run(name: str, call: _loader.Pointwise) -> None:
    library = loaded_library()
    isa, _ = forced_numbers(library)
    status = getattr(library, name)(isa, max(1, min(torch.get_num_threads(), 1024)), call)
    if status:
        raise BackendError(failure(library, status))
