"""Structural re-parameterization: batch norms folded into convolutions, parallel branches merged into one kernel.

The merged network computes the same function as the original in eval mode, which uses running statistics. In train
mode it normalizes by batch statistics, so merging it changes its output until ``eval()`` is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.devices import as_float64

from .depthwise import PLAIN_CONVS, activation_of, with_native_kernels

if TYPE_CHECKING:
    from typing_extensions import Self

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Exact types, as for convolutions: a subclass may compute something else.
FOLDABLE_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)

# Names of the method that merges branches in other packages (RepViT, MobileOne, RepVGG, RepLKNet, OverLoCK), in the
# order of timm.utils.reparameterize_model.
MERGE_METHODS = ("fuse", "reparameterize", "switch_to_deploy", "merge_kernel", "merge_dilated_branches")


class Mergeable(nn.Module):
    """A block of parallel linear branches that can be replaced by one convolution."""

    def reparameterize(self) -> None:
        """Replace the branches by their sum, in place; repeated calls have no effect."""
        raise NotImplementedError


class Foldable(nn.Module):
    """A block that can fold norms and scales that do not directly follow a convolution in an ``nn.Sequential``.

    Attributes:
        preserved_layers: Paths in the block of the layers whose outputs do not change.
    """

    preserved_layers: tuple[str, ...]

    def fold_norms(self) -> None:
        """Merge the branches of the block and fold its norms, in place; repeated calls have no effect."""
        raise NotImplementedError


class Reparameterizable(nn.Module):
    """Adds :meth:`reparameterize` and :meth:`fuse_bn` to a network."""

    def merge_as_published(self) -> Self:
        """Bring the network into the form of its authors' merged files, in place: by default :meth:`reparameterize`.

        Returns:
            The network itself.
        """
        return self.reparameterize()

    def reparameterize(self) -> Self:
        """Merge the depthwise branches, each with its own batch norm, in place; repeated calls have no effect.

        Returns:
            The network itself.
        """
        return reparameterize(self)

    def fuse_bn(self) -> Self:
        """Merge the branches, then fold every batch norm that follows a convolution, in place.

        Repeated calls have no effect. Batch norms before a convolution or before the pooling are kept, because no
        convolution directly precedes them.

        Returns:
            The network itself.
        """
        return fuse_bn(self)


def reparameterize(model: ModuleT) -> ModuleT:
    """Merge the branches of every block in place; see :meth:`Reparameterizable.reparameterize`.

    Args:
        model: Any network; one without such blocks is returned unchanged.

    Returns:
        ``model``.

    Examples:
        >>> from replk_probe.models import RepLKNet, reparameterize
        >>> network = RepLKNet(kernel_sizes=(13,), layers=(1,), channels=(8,), small_kernel=5).eval()
        >>> before = sum(parameter.numel() for parameter in network.parameters())
        >>> before - sum(parameter.numel() for parameter in reparameterize(network).parameters())
        224
    """
    for module in list(model.modules()):
        if isinstance(module, Mergeable):
            module.reparameterize()
    return model


def fuse_bn(model: ModuleT) -> ModuleT:
    """Merge branches, then fold every batch norm that directly follows a convolution in an ``nn.Sequential``, in place.

    Blocks that are :class:`Foldable` fold their own norms.

    Args:
        model: Any network; only layers for which folding is exact are changed.

    Returns:
        ``model``.

    Examples:
        >>> import torch
        >>> from replk_probe.models import fuse_bn
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8)).eval()
        >>> fuse_bn(network)[1]
        Identity()
        >>> network[0].bias.shape
        torch.Size([8])
    """
    reparameterize(model)
    for module in list(model.modules()):
        if isinstance(module, Foldable):
            module.fold_norms()
        elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            fold_sequence(module)
    return model


def merge_as_published(model: ModuleT) -> ModuleT:
    """Merge a network in place; see :meth:`Reparameterizable.merge_as_published`.

    Args:
        model: Any network; one without branches is returned unchanged.

    Returns:
        ``model``.
    """
    return model.merge_as_published() if isinstance(model, Reparameterizable) else reparameterize(model)


def is_foldable(conv: nn.Module) -> bool:
    """Whether a batch norm after ``conv`` can be folded into it: a plain convolution without an activation."""
    return type(conv) in PLAIN_CONVS and activation_of(conv) is None


def fold_sequence(sequence: nn.Sequential) -> None:
    """Fold batch norms into the convolutions before them; identities take their place, so that names do not change."""
    names = list(sequence._modules)
    for first, second in pairwise(names):
        conv, bn = getattr(sequence, first), getattr(sequence, second)
        if is_foldable(conv) and type(bn) in FOLDABLE_NORMS and bn.running_mean is not None:
            setattr(sequence, first, fuse_conv_bn(conv, bn))
            setattr(sequence, second, nn.Identity().train(bn.training))


def fuse_conv_bn(conv: nn.Conv2d, bn: nn.Module) -> nn.Conv2d:
    """The convolution that equals ``bn(conv(x))`` with the running statistics of ``bn``.

    Args:
        conv: Convolution with weight ``[O, I/groups, Kh, Kw]``, with or without bias; not modified.
        bn: Batch norm that follows it, or ``nn.Identity``; not modified.

    Returns:
        A new convolution with bias, a :class:`~replk_probe.ops.DepthwiseConv2d` if the geometry allows it. Geometry,
        dtype, device, mode and ``requires_grad`` are those of ``conv``. The arithmetic is done in float64.

    Raises:
        InvalidInputError: ``bn`` is not a batch norm with running statistics, or ``conv`` has an activation.

    Examples:
        >>> import torch
        >>> from replk_probe.models import fuse_conv_bn
        >>> conv, bn = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8).eval()
        >>> fused = fuse_conv_bn(conv, bn)
        >>> images = torch.rand(1, 3, 16, 16)
        >>> torch.allclose(fused(images), bn(conv(images)), atol=1e-5)
        True
    """
    weight, bias = folded_weight(conv, bn)
    return conv_like(conv, weight, bias, padding=conv.padding, dilation=conv.dilation)


def merge_branches(branches: Iterable[tuple[nn.Conv2d, nn.Module]]) -> nn.Conv2d:
    """The convolution that equals the sum of parallel convolutions, each followed by its own batch norm.

    Args:
        branches: ``(conv, bn)`` pairs with odd kernels that share channels, groups and stride, zero-padded so that
            their outputs have one size; ``bn`` may be ``nn.Identity``. Kernels may be rectangular.

    Returns:
        A new convolution with bias, with the largest height and the largest width among the kernels; a
        :class:`~replk_probe.ops.DepthwiseConv2d` if the geometry allows it.

    Raises:
        InvalidInputError: The branches are not aligned on one center, or one has an activation.

    Examples:
        >>> import torch
        >>> from replk_probe.models import merge_branches
        >>> large = torch.nn.Conv2d(8, 8, 13, padding=6, groups=8)
        >>> small = torch.nn.Conv2d(8, 8, 5, padding=2, groups=8)
        >>> merged = merge_branches([(large, torch.nn.Identity()), (small, torch.nn.BatchNorm2d(8))])
        >>> merged.kernel_size
        (13, 13)
    """
    pairs = list(branches)
    weight, bias, padding = merged_weight(pairs)
    return conv_like(pairs[0][0], weight, bias, padding=padding, dilation=(1, 1))


def merged_weight(branches: Sequence[tuple[nn.Conv2d, nn.Module]]) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Weight ``[O, I/groups, Kh, Kw]`` and bias ``[O]`` in float64, and padding, of :func:`merge_branches`."""
    folded = [folded_weight(conv, bn) for conv, bn in branches]
    if any(conv.stride != branches[0][0].stride for conv, _ in branches):
        raise _not_aligned()
    weight, padding = summed_kernels(
        [
            (dilated(weight, conv.dilation), (int(conv.padding[0]), int(conv.padding[1])))
            for (conv, _), (weight, _) in zip(branches, folded, strict=True)
        ]
    )
    return weight, reduce(torch.add, [bias for _, bias in folded]), padding


def dilated(weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """A kernel ``[O, I/groups, Kh, Kw]`` with zeros in its gaps: a side ``k`` becomes ``dilation * (k - 1) + 1``."""
    if tuple(dilation) == (1, 1):
        return weight
    (dy, dx), (height, width) = dilation, weight.shape[2:]
    spread = weight.new_zeros(*weight.shape[:2], dy * (height - 1) + 1, dx * (width - 1) + 1)
    spread[..., ::dy, ::dx] = weight
    return spread


def summed_kernels(kernels: Sequence[tuple[Tensor, tuple[int, int]]]) -> tuple[Tensor, tuple[int, int]]:
    """The sum of kernels of different sizes, aligned on one center.

    Args:
        kernels: Weight ``[O, I/groups, Kh, Kw]`` and zero padding of convolutions of the same channels, groups and
            stride, without dilation; see :func:`dilated`.

    Returns:
        Weight of the largest height and the largest width among them, and its padding.

    Raises:
        InvalidInputError: The kernels are not aligned on one center.
    """
    size = [max(weight.shape[axis] for weight, _ in kernels) for axis in (2, 3)]
    margins = [((size[0] - weight.shape[2]) / 2, (size[1] - weight.shape[3]) / 2) for weight, _ in kernels]
    paddings = {(py + dy, px + dx) for (_, (py, px)), (dy, dx) in zip(kernels, margins, strict=True)}
    if len(paddings) != 1 or not all(side.is_integer() for margin in margins for side in margin):
        raise _not_aligned()
    padded = [
        nn.functional.pad(weight, (int(dx), int(dx), int(dy), int(dy)))
        for (weight, _), (dy, dx) in zip(kernels, margins, strict=True)
    ]
    py, px = paddings.pop()
    return reduce(torch.add, padded), (int(py), int(px))


def _not_aligned() -> InvalidInputError:
    return InvalidInputError(
        "These branches cannot be merged: their kernels, paddings and strides do not share one center. "
        "Use odd kernels with a padding of half their size and the same stride."
    )


def folded_weight(conv: nn.Conv2d, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight ``[O, I/groups, Kh, Kw]`` and bias ``[O]`` in float64 of ``bn(conv(x))``; see :func:`fuse_conv_bn`."""
    activation = activation_of(conv)
    if activation is not None:
        raise InvalidInputError(
            f"A convolution with the activation {activation!r} cannot be folded or merged. It is not linear. "
            "Set its activation to None and apply the activation after it."
        )
    weight = as_float64(conv.weight.detach())
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else as_float64(conv.bias.detach())
    if isinstance(bn, nn.Identity):
        return weight, bias
    if not isinstance(bn, nn.modules.batchnorm._BatchNorm) or bn.running_mean is None or bn.running_var is None:
        raise InvalidInputError(
            f"{type(bn).__name__} cannot be folded into a convolution. Only a batch norm with running statistics can."
        )
    scale = (as_float64(bn.running_var.detach()) + bn.eps).rsqrt()
    shift = -as_float64(bn.running_mean.detach())
    if bn.affine:
        scale = scale * as_float64(bn.weight.detach())
    bias = (bias + shift) * scale
    if bn.affine:
        bias = bias + as_float64(bn.bias.detach())
    return weight * scale.reshape(-1, 1, 1, 1), bias


def fuse_linear_bn(linear: nn.Linear, bn: nn.Module, shift: Tensor | None, scale: Tensor | None) -> nn.Linear:
    """The linear layer that equals ``scale * bn(linear(x + shift))`` with the running statistics of ``bn``.

    Args:
        linear: Linear layer from I to O features, with or without bias; not modified.
        bn: Batch norm of its outputs, or ``nn.Identity``; not modified.
        shift: Added to the inputs, ``[I]``, or None.
        scale: Factor of the outputs, ``[O]``, or None.

    Returns:
        A new linear layer with bias. Dtype, device, mode and ``requires_grad`` are those of ``linear``. The arithmetic
        is done in float64.

    Raises:
        InvalidInputError: ``bn`` is not a batch norm with running statistics.
    """
    pointwise = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=False, device="meta")
    weight = as_float64(linear.weight.detach())
    bias = weight.new_zeros(linear.out_features) if linear.bias is None else as_float64(linear.bias.detach())
    if shift is not None:
        bias = bias + weight @ as_float64(shift.detach())
    pointwise.weight, pointwise.bias = nn.Parameter(weight[:, :, None, None]), nn.Parameter(bias)
    folded, bias = folded_weight(pointwise, bn)
    weight = folded[:, :, 0, 0]
    if scale is not None:
        weight, bias = weight * as_float64(scale.detach())[:, None], bias * as_float64(scale.detach())
    fused = nn.Linear(linear.in_features, linear.out_features, device="meta").train(linear.training)
    fused.weight, fused.bias = (
        nn.Parameter(value.to(linear.weight.device, linear.weight.dtype), linear.weight.requires_grad)
        for value in (weight, bias)
    )
    return fused


def conv_like(conv: nn.Module, weight: Tensor, bias: Tensor, **geometry: Any) -> nn.Conv2d:
    """A convolution in the place of another one.

    Args:
        conv: Module with a ``weight``, whose dtype, device, mode and ``requires_grad`` the new one is given, as well as
            its geometry.
        weight: ``[O, I/groups, Kh, Kw]``.
        bias: ``[O]``.
        **geometry: ``padding``, ``dilation``, ``stride``, ``groups`` and ``padding_mode`` if they differ.
    """
    for name in ("stride", "groups", "padding_mode"):
        if name not in geometry:
            geometry[name] = getattr(conv, name)
    channels = weight.shape[1] * geometry["groups"], len(weight)
    # Built on the meta device so that no random numbers are drawn.
    merged = nn.Conv2d(*channels, (weight.shape[2], weight.shape[3]), **geometry, device="meta")
    own = next(parameter for parameter in conv.parameters() if parameter.dim() == 4)
    merged.weight, merged.bias = (
        nn.Parameter(value.to(own.device, own.dtype), requires_grad=own.requires_grad) for value in (weight, bias)
    )
    return with_native_kernels(merged.train(conv.training))
