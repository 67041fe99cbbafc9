"""A convolution whose weight is prepared once for many calls."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import _autograd
from ._prepared_weights import PreparedWeights
from ._shapes import is_relu


class PreparedKernel:
    """Convolutions with one weight, whose prepared form (the spectrum) is cached between calls.

    Results are equal to those of :func:`replk_probe.ops.depthwise_conv2d`, also after the weight was modified in any
    way, replaced, cast or moved: each call compares the weight with the values that it was prepared from, and the call
    after a change prepares it again.

    Under ``torch.compile`` the kernel is prepared in each call, which for small planes takes as long as the
    convolution.

    The cache is bounded: 8 MB for one image size (loading more from memory is no faster than computing it), two image
    sizes for each object, and ``REPLK_PROBE_SPECTRA_MB`` (default: 1024) for the process; beyond that the spectrum is
    computed in each call. It is freed with the object, and neither copied nor pickled. Several threads may call one
    object at once.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import PreparedKernel, depthwise_conv2d
        >>> input, weight = torch.rand(1, 8, 64, 64), torch.rand(8, 1, 31, 31)
        >>> kernel = PreparedKernel()
        >>> output = kernel.forward(input, weight)  # later calls reuse the prepared weight
        >>> torch.allclose(output, depthwise_conv2d(input, weight), rtol=1e-4)
        True
    """

    __slots__ = ("__weakref__", "weights")

    def __init__(self) -> None:
        """Create an empty cache; the first call prepares the weight."""
        self.weights = PreparedWeights()

    def forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
    ) -> Tensor:
        """``act(conv(input, weight) + bias)``.

        Args:
            input: Input, ``[N, C, H, W]``.
            weight: Weight, ``[C, 1, Kh, Kw]``, with odd sizes.
            bias: Bias, ``[C]``, or None.
            activation: ``"relu"`` or None.

        Returns:
            ``[N, C, H, W]``, in the memory format of ``input``; differentiable to any order. First derivatives use the
            prepared weight.

        Raises:
            InvalidInputError: Shapes, dtypes or devices do not match, or the activation is unknown.
        """
        return _autograd.forward(input, weight, bias, is_relu(activation), weights=self.weights)

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``: see :func:`replk_probe.ops.conv_input_gradient`."""
        return _autograd.grad_input(grad, weight, weights=self.weights)

    def clear(self) -> None:
        """Free the cache."""
        self.weights.clear()

    @property
    def size(self) -> int:
        """Size of the cache, in bytes."""
        return self.weights.size

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedKernel:
        """Copied without the cache."""
        return PreparedKernel()

    def __copy__(self) -> PreparedKernel:
        """Copied without the cache."""
        return PreparedKernel()

    def __reduce__(self) -> tuple[type[PreparedKernel], tuple[()]]:
        """Pickled without the cache."""
        return PreparedKernel, ()
