"""How a ``DTensor`` distributes the three operators: by images or by channels.

Importing ``torch.distributed.tensor`` takes a second, so the strategies are registered when an operator is first called
after another module has imported it. Planes that are split along their rows or columns are gathered first.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from ._schema import dwconv2d, dwconv2d_grad_input, dwconv2d_grad_weight


def register_if_used() -> None:
    """Register the strategies if this process uses distributed tensors."""
    if "torch.distributed.tensor" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor.experimental import register_sharding

    images, channels, copy = Shard(0), Shard(1), Replicate()
    kernels, summed = Shard(0), Partial()

    @register_sharding(dwconv2d.default)  # type: ignore[untyped-decorator]
    def _(input: Any, weight: Any, bias: Any, relu: bool, native: bool = False, prepared: int = 0) -> Any:
        def placements(output: Any, planes: Any, weight: Any) -> Any:
            return [output], [planes, weight, None if bias is None else weight, None, None, None]

        return [placements(copy, copy, copy), placements(images, images, copy), placements(channels, channels, kernels)]

    @register_sharding(dwconv2d_grad_input.default)  # type: ignore[untyped-decorator]
    def _(grad: Any, weight: Any, native: bool = False, prepared: int = 0) -> Any:
        rows = [(copy, copy, copy), (images, images, copy), (channels, channels, kernels), (summed, summed, copy)]
        return [([output], [planes, weight, None, None]) for output, planes, weight in rows]

    @register_sharding(dwconv2d_grad_weight.default)  # type: ignore[untyped-decorator]
    def _(input: Any, grad: Any, kh: int, kw: int, native: bool = False) -> Any:
        rows = [(copy, copy), (summed, images), (kernels, channels)]
        return [([output], [planes, planes, None, None, None]) for output, planes in rows]
