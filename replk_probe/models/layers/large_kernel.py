"""Blocks shared by the large-kernel architectures: convolution with batch norm, and parallel depthwise branches."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from .depthwise import with_native_kernels
from .reparam import Mergeable, merge_branches


class ConvBN(nn.Sequential):
    """``conv`` without bias, then ``bn``, then optionally ``act``; zero-padded by half the kernel.

    A depthwise ``conv`` of stride 1 is a :class:`~replk_probe.ops.DepthwiseConv2d`. After
    :func:`replk_probe.models.fuse_bn`, ``conv`` has a bias and ``bn`` is an identity.
    """

    conv: nn.Conv2d
    bn: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        groups: int = 1,
        act: nn.Module | None = None,
    ) -> None:
        """Build the layers with PyTorch's default initialization."""
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        padding = (height // 2, width // 2)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = with_native_kernels(
            nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, groups=groups, bias=False)
        )
        layers["bn"] = nn.BatchNorm2d(out_channels)
        if act is not None:
            layers["act"] = act
        super().__init__(layers)


class LargeKernelConv(Mergeable):
    """Depthwise large-kernel convolution with parallel branches, each with its own batch norm; ``[N, C, H, W]``.

    Possible children: ``large_conv`` (K x K), ``column_conv`` (K x M), ``row_conv`` (M x K) and ``small_conv``, all
    :class:`ConvBN`; after :meth:`reparameterize` only ``reparam_conv``, a convolution with bias. At stride 1 the
    convolutions are :class:`~replk_probe.ops.DepthwiseConv2d`.
    """

    _BRANCHES = ("large_conv", "column_conv", "row_conv", "small_conv")

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        small_kernel: int | None = None,
        decomposed_width: int | None = None,
    ) -> None:
        """Build the branches.

        Args:
            channels: Number of channels C.
            kernel_size: Side K of the kernel, odd.
            stride: Stride of every branch.
            small_kernel: Side of the parallel small kernel, odd; no such branch if it is None, 0 or above
                ``kernel_size``.
            decomposed_width: Width M, odd, of a K x M and an M x K kernel that replace the K x K kernel, or None.

        Raises:
            InvalidInputError: A size is not odd and positive.
        """
        super().__init__()
        sizes = [kernel_size, *(size for size in (small_kernel, decomposed_width) if size)]
        if any(size < 1 or size % 2 == 0 for size in sizes):
            raise InvalidInputError(
                f"Kernel sizes must be odd and positive so that every branch has a center, but got {sizes}."
            )
        self.kernel_size = (kernel_size, kernel_size)
        self.stride = (stride, stride)
        self.is_decomposed = bool(decomposed_width)

        def branch(size: int | tuple[int, int]) -> ConvBN:
            return ConvBN(channels, channels, size, stride, groups=channels)

        if decomposed_width:
            self.column_conv = branch((kernel_size, decomposed_width))
            self.row_conv = branch((decomposed_width, kernel_size))
        else:
            self.large_conv = branch(kernel_size)
        if small_kernel and small_kernel <= kernel_size:
            self.small_conv = branch(small_kernel)

    @property
    def is_merged(self) -> bool:
        """Whether the branches have been replaced by one convolution."""
        return "reparam_conv" in self._modules

    @property
    def has_equal_branches(self) -> bool:
        """Whether the small kernel is as large as the large one; RepLKNet's code has such a branch, SLaK's does not."""
        small = self.branches().get("small_conv")
        return small is not None and small.conv.kernel_size == self.kernel_size

    def branches(self) -> dict[str, ConvBN]:
        """The branches by name; empty after merging."""
        found = ((name, self._modules.get(name)) for name in self._BRANCHES)
        return {name: module for name, module in found if isinstance(module, ConvBN)}

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the branches, ``[N, C, ceil(H / stride), ceil(W / stride)]``."""
        if self.is_merged:
            merged: Tensor = self.reparam_conv(x)
            return merged
        first, *others = self.branches().values()
        y: Tensor = first(x)
        for branch in others:
            y = y + branch(x)
        return y

    def reparameterize(self) -> None:
        """Replace the branches by ``reparam_conv``, the K x K convolution that equals their sum in eval mode."""
        if self.is_merged:
            return
        branches = self.branches()
        merged = merge_branches([(branch.conv, branch.bn) for branch in branches.values()])
        for name in branches:
            delattr(self, name)
        self.reparam_conv = merged
