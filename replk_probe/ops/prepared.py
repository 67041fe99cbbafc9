"""A convolution whose weight is prepared once for many calls."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import _autograd
from ._prepared_weights import PreparedWeights
from ._shapes import is_relu


class PreparedKernel:
    """Convolutions with one weight, whose prepared form (the spectrum) is kept from call to call.

    Results are those of :func:`replk_probe.ops.depthwise_conv2d`, also after the weight was written to in any way,
    replaced, cast or moved: each call compares the weight with the values that the prepared form was made from. What is
    stale serves no longer and is made anew by the next call.

    Under ``torch.compile``, autocast and torch's profilers the kernel is prepared in each call, which for small planes
    takes as long as the convolution.

    What is kept is bounded: 8 MB for one image size (more comes from memory no faster than it is computed again), two
    image sizes for each object, and ``REPLK_PROBE_SPECTRA_MB`` (1024) for the process; beyond that the spectrum is
    computed in each call. It is freed with the object, and neither copied nor pickled.
    Several threads may call one object at once.
    """

    __slots__ = ("__weakref__", "weights")

    def __init__(self) -> None:
        """Nothing is prepared before the first call."""
        self.weights = PreparedWeights()

    def forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
    ) -> Tensor:
        """``act(conv(input, weight) + bias)``.

        Args:
            input: ``[N, C, H, W]``.
            weight: ``[C, 1, Kh, Kw]``, odd.
            bias: ``[C]`` or None.
            activation: ``"relu"`` or None.

        Returns:
            ``[N, C, H, W]``, in the layout of ``input``; differentiable to any order. First derivatives use what is
            prepared.

        Raises:
            InvalidInputError: Shapes, dtypes or devices do not fit, or there is no such activation.
        """
        return _autograd.forward(input, weight, bias, is_relu(activation), weights=self.weights)

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``, from that of the output: :func:`replk_probe.ops.input_gradient`."""
        return _autograd.grad_input(grad, weight, weights=self.weights)

    def clear(self) -> None:
        """Free what is kept."""
        self.weights.clear()

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self.weights.size

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedKernel:
        """Without what can be made again."""
        return PreparedKernel()

    def __copy__(self) -> PreparedKernel:
        """Without what can be made again."""
        return PreparedKernel()

    def __reduce__(self) -> tuple[type[PreparedKernel], tuple[()]]:
        """Pickled without what can be made again."""
        return PreparedKernel, ()
