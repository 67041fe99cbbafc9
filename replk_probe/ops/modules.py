"""`DepthwiseConv2d`: `nn.Conv2d` with native depthwise convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from replk_probe.errors import InvalidInputError

from . import _cpu, _fallback
from ._choice import COMPUTED_IN, forced, left_channels_last, unsupported_reason
from ._layout import is_channels_last
from ._loader import FORWARD
from ._shapes import check_operands, is_relu
from .functional import Activation, depthwise_conv2d
from .prepared import PreparedKernel
from .tuning import choices

if TYPE_CHECKING:
    from typing_extensions import Self


def is_same_depthwise(conv: nn.Conv2d) -> bool:
    """Whether the geometry is that of :func:`depthwise_conv2d`: depthwise, stride 1, odd kernel, "same" zero padding.

    Args:
        conv: Any convolution; the input must have a batch axis in addition.

    Returns:
        True for such a geometry, on any device and in any dtype.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import is_same_depthwise
        >>> is_same_depthwise(torch.nn.Conv2d(8, 8, 31, padding=15, groups=8))
        True
        >>> is_same_depthwise(torch.nn.Conv2d(8, 8, 31, groups=8))  # no padding
        False
    """
    kh, kw = conv.kernel_size
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and kh % 2 == kw % 2 == 1
        and (conv.padding == (kh // 2, kw // 2) or conv.padding == "same")
    )


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with the same attributes and state-dict keys; ``[N, C, H, W] -> [N, C, H, W]``.

    Depthwise convolutions of stride 1 with an odd kernel and zero padding by half of it are computed by
    :func:`replk_probe.ops.depthwise_conv2d`, all others as ``nn.Conv2d`` computes them
    (:func:`replk_probe.ops.unsupported_reason` explains why). In eval mode the kernel's spectrum is cached, see
    :class:`replk_probe.ops.PreparedKernel`; modifying the weight in any way is safe.

    Attributes:
        activation: ``"relu"``, computed with the convolution, or None. Not in the state dict.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import DepthwiseConv2d
        >>> layer = DepthwiseConv2d(8, 8, 31, padding=15, groups=8)
        >>> layer(torch.rand(1, 8, 64, 64)).shape
        torch.Size([1, 8, 64, 64])
        >>> torch.nn.Conv2d(8, 8, 31, padding=15, groups=8).load_state_dict(layer.state_dict())
        <All keys matched successfully>
    """

    # TorchScript compiles torch's convolution and ignores these.
    __jit_ignored_attributes__ = ("_prepared",)
    __constants__ = [*nn.Conv2d.__constants__, "activation"]  # noqa: RUF012 - as in nn.Conv2d

    activation: Activation = None
    # Created by the first call in eval mode; not part of the state.
    _prepared: PreparedKernel | None = None

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, activation: Activation = None) -> Self:
        """Create a module that shares the parameters of ``conv`` and has its geometry, mode and state-dict keys.

        Args:
            conv: Convolution, which is not modified.
            activation: ``"relu"``, computed after the convolution, or None.

        Returns:
            The module, on the device and in the dtype of ``conv``.

        Raises:
            InvalidInputError: ``conv`` is not an ``nn.Conv2d``, or the activation is unknown.
        """
        if not isinstance(conv, nn.Conv2d):
            raise InvalidInputError(
                f"conv is of type {type(conv).__name__}. Only the parameters of a convolution can be shared. "
                "Pass an nn.Conv2d."
            )
        is_relu(activation)
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        for name, value in vars(conv).items():
            if name not in ("_prepared", "_parameters"):
                made.__dict__[name] = value.copy() if isinstance(value, dict) else value
        made._parameters = dict(conv._parameters)
        made.activation = activation
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Compute the convolution and the activation, ``[N, C, H, W] -> [N, C, H, W]``."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            output = self._conv_forward(input, self.weight, self.bias)
            return output if self.activation is None else F.relu(output)
        else:  # TorchScript compiles code after a return, but not this branch
            return self._forward(input)

    def _forward(self, input: Tensor) -> Tensor:
        parameters: dict[str, Any] = self._parameters
        # Faster than attribute access; a parametrized or pruned weight is not a parameter.
        weight = parameters.get("weight")
        if weight is None:
            weight = self.weight
        bias = parameters["bias"] if "bias" in parameters else self.bias
        if not isinstance(input, Tensor) or input.layout != torch.strided or _fallback.is_recorded():
            check_operands(input=input)
            # The recorded program contains torch's convolution, as that of nn.Conv2d.
            return self._torch(input, weight, bias)
        if not is_same_depthwise(self) or input.dim() != 4:
            if not torch.compiler.is_compiling():
                _cpu.log_fallback(self._reason(input, weight))
            return self._torch(input, weight, bias)
        if not torch.is_grad_enabled() and not choices.state.active and self._stays_channels_last(input, weight):
            # Bypasses the operator, whose overhead is noticeable in a call of 0.2 ms.
            return self._torch(input, weight, bias)
        if self.training or torch.compiler.is_compiling():
            return depthwise_conv2d(input, weight, bias, activation=self.activation)
        prepared = self._prepared
        if prepared is None:
            prepared = self._prepared = PreparedKernel()
        return prepared.forward(input, weight, bias, self.activation)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; in training mode the prepared weight is freed, because the weight changes in every step."""
        if mode:
            self._prepared = None
        return super().train(mode)

    def extra_repr(self) -> str:
        """The arguments of the constructor, and the activation."""
        text: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return text if self.activation is None else f"{text}, activation={self.activation!r}"

    def _torch(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = self._conv_forward(input, weight, bias)
        return F.relu(output) if is_relu(self.activation) else output

    def _stays_channels_last(self, input: Tensor, weight: Tensor) -> bool:
        taps = self.kernel_size[0] * self.kernel_size[1]
        return (
            is_channels_last(input)
            and input.dtype == weight.dtype
            and input.dtype not in COMPUTED_IN
            and input.shape[1] == self.in_channels
            and left_channels_last(FORWARD, input.dtype, taps, forced()[1]) is not None
        )

    def _reason(self, input: Tensor, weight: Tensor) -> str:
        if self.padding_mode != "zeros":
            return f"padding_mode is {self.padding_mode!r} and only zeros are compiled"
        geometry: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return unsupported_reason(input, weight, groups=self.groups, **geometry) or "the module is not depthwise"


def to_torch(model: nn.Module) -> nn.Module:
    """Turn every :class:`DepthwiseConv2d` of a network into an ``nn.Conv2d``, in place.

    For tools that compare types, such as those for quantization and fusion. Names, parameters, parametrizations, hooks,
    modes and every reference to a module are preserved. The inverse for one module is
    :meth:`DepthwiseConv2d.from_conv`. Instances of other subclasses of :class:`DepthwiseConv2d` are not changed.

    Args:
        model: The network, or one convolution.

    Returns:
        The network itself.

    Raises:
        InvalidInputError: ``model`` is not an ``nn.Module``, or a convolution has an activation, which ``nn.Conv2d``
            cannot compute. Nothing is changed then.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import DepthwiseConv2d, to_torch
        >>> network = torch.nn.Sequential(DepthwiseConv2d(8, 8, 13, padding=6, groups=8), torch.nn.ReLU())
        >>> type(to_torch(network)[0])
        <class 'torch.nn.modules.conv.Conv2d'>
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(
            f"model is of type {type(model).__name__}. Only the convolutions of a network can be replaced. "
            "Pass an nn.Module."
        )
    found: dict[str, DepthwiseConv2d] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, DepthwiseConv2d) and parametrize.type_before_parametrizations(module) is DepthwiseConv2d
    }
    for name, module in found.items():
        if is_relu(module.activation):
            raise InvalidInputError(
                f"The convolution {name!r} has the activation {module.activation!r}. An nn.Conv2d computes none. "
                "Set it to None and add an nn.ReLU after the convolution."
            )
    for module in found.values():
        for name in ("_prepared", "activation"):
            module.__dict__.pop(name, None)
        kind = type(module)
        if kind is DepthwiseConv2d:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
        else:  # torch made a class with a property for each parametrized tensor
            members = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type("ParametrizedConv2d", (nn.Conv2d,), members)
    return model
