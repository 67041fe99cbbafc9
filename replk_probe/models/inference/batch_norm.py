"""A correction of torch's gradient of batch norms, for graphs that were recorded by autograd."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import Node


def correct_batch_norms(output: Tensor) -> None:
    """Make the gradients of all batch norms that were recorded for ``output`` right, before they are computed.

    Torch's CPU kernel (2.10 to 2.14) mistakes the gradient of one image for a contiguous tensor if it is channels-last
    and the stride of its batch axis is not that of a channels-last tensor, as the gradient of
    ``norm(x).flatten(2).transpose(1, 2)`` is. The hooks that give it the usual strides are part of the graph, not of
    the network, and are freed with it.

    Args:
        output: A tensor that requires gradients.
    """
    waiting = [output.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "NativeBatchNormBackward0":
            node.register_prehook(_with_usual_strides)
        waiting += [source for source, _ in node.next_functions]


def _with_usual_strides(grads: tuple[Any, ...]) -> tuple[Any, ...]:
    grad, *others = grads
    # The stride of an axis of one element has no meaning, so that nothing needs to be copied.
    if isinstance(grad, Tensor) and grad.dim() > 2 and grad.shape[0] == 1 and not grad.is_contiguous():
        grad = grad.as_strided(grad.shape, (grad[0].numel(), *grad.stride()[1:]))
    return (grad, *others)
