"""Blocks shared by the large-kernel architectures: convolution with batch norm, and parallel depthwise branches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from .depthwise import with_native_kernels
from .reparam import Mergeable, merge_branches

# Side of the kernel -> (side, dilation) of the branches parallel to it in UniRepLKNet (arXiv:2311.15599).
DILATED_BRANCHES = {
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 2), (3, 3)),
    5: ((3, 1), (3, 2)),
}


class ConvBN(nn.Sequential):
    """``conv`` without bias, then ``bn``, then optionally ``act``; zero-padded by half the extent of the kernel.

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
        dilation: int = 1,
    ) -> None:
        """Build the layers with PyTorch's default initialization."""
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        padding = (dilation * (height // 2), dilation * (width // 2))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = with_native_kernels(
            nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, dilation, groups, bias=False)
        )
        layers["bn"] = nn.BatchNorm2d(out_channels)
        if act is not None:
            layers["act"] = act
        super().__init__(layers)


class LargeKernelConv(Mergeable):
    """Depthwise large-kernel convolution with parallel branches, each with its own batch norm; ``[N, C, H, W]``.

    Possible children: ``large_conv`` (K x K), ``column_conv`` (K x M), ``row_conv`` (M x K), ``small_conv``, and
    ``dilated_conv_k3_d2`` (3 x 3, dilation 2) and the like, all :class:`ConvBN`; after :meth:`reparameterize` only
    ``reparam_conv``, a convolution with bias. At stride 1 the convolutions without dilation are
    :class:`~replk_probe.ops.DepthwiseConv2d`.
    """

    _BRANCHES = ("large_conv", "column_conv", "row_conv", "small_conv")

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        small_kernel: int | None = None,
        decomposed_width: int | None = None,
        dilated_branches: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Build the branches.

        Args:
            channels: Number of channels C.
            kernel_size: Side K of the kernel, odd.
            stride: Stride of every branch.
            small_kernel: Side of the parallel small kernel, odd; no such branch if it is None, 0 or above
                ``kernel_size``.
            decomposed_width: Width M, odd, of a K x M and an M x K kernel that replace the K x K kernel, or None.
            dilated_branches: Side k, odd, and dilation r of each further parallel k x k kernel, different from each
                other. Their extent, r (k - 1) + 1, must not be above ``kernel_size``.

        Raises:
            InvalidInputError: A size is not odd and positive, or a dilated branch is invalid.
        """
        super().__init__()
        sizes = [kernel_size, *(size for size in (small_kernel, decomposed_width) if size)]
        sizes += [size for size, _ in dilated_branches]
        if any(size < 1 or size % 2 == 0 for size in sizes):
            raise InvalidInputError(
                f"Kernel sizes must be odd and positive so that every branch has a center, but got {sizes}."
            )
        fits = all(rate >= 1 and rate * (size - 1) < kernel_size for size, rate in dilated_branches)
        if not fits or len(set(dilated_branches)) < len(dilated_branches):
            raise InvalidInputError(
                f"Dilated branches must differ and fit into the {kernel_size}x{kernel_size} kernel, but "
                f"dilated_branches is {list(dilated_branches)}. A side k with dilation r needs r * (k - 1) + 1 pixels."
            )
        self.kernel_size = (kernel_size, kernel_size)
        self.stride = (stride, stride)
        self.is_decomposed = bool(decomposed_width)

        def branch(size: int | tuple[int, int], dilation: int = 1) -> ConvBN:
            return ConvBN(channels, channels, size, stride, groups=channels, dilation=dilation)

        if decomposed_width:
            self.column_conv = branch((kernel_size, decomposed_width))
            self.row_conv = branch((decomposed_width, kernel_size))
        else:
            self.large_conv = branch(kernel_size)
        if small_kernel and small_kernel <= kernel_size:
            self.small_conv = branch(small_kernel)
        self._dilated = {f"dilated_conv_k{size}_d{rate}": (size, rate) for size, rate in dilated_branches}
        for name, (size, rate) in self._dilated.items():
            self.add_module(name, branch(size, rate))

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
        found = ((name, self._modules.get(name)) for name in (*self._BRANCHES, *self._dilated))
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
