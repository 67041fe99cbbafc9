"""The operators on distributed tensors, in two processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from replk_probe.ops import DepthwiseConv2d, depthwise_conv2d

PROCESSES = 2
CHANNELS, KERNEL = 6, 9


def compare(rank: int, folder: str) -> None:
    """Compare results and gradients for every way of distributing the operands with those of torch's convolution."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    torch.manual_seed(0)  # the same values in every process
    layer = DepthwiseConv2d(CHANNELS, CHANNELS, KERNEL, padding=KERNEL // 2, groups=CHANNELS).double().eval()
    x, up = torch.randn(2, 4, CHANNELS, 20, 18, dtype=torch.float64)
    tensors = [x, layer.weight.detach(), layer.bias.detach()]  # type: ignore[union-attr]

    copy, images, channels, rows = Replicate(), Shard(0), Shard(1), Shard(2)
    for activation in (None, "relu"):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = F.conv2d(*leaves, padding=KERNEL // 2, groups=CHANNELS)
        output = output if activation is None else output.relu()
        expected = [output, *torch.autograd.grad(output, leaves, up)]
        # What torch distributes anew before the operator, it may distribute in any way.
        for planes, kernels, is_kept in (
            (copy, copy, True), (images, copy, True), (channels, Shard(0), True), (rows, copy, False),
            (images, Shard(0), False),
        ):  # fmt: skip
            placements = (planes, kernels, kernels)
            leaves = [
                distribute_tensor(tensor, mesh, [place]).requires_grad_()
                for tensor, place in zip(tensors, placements, strict=True)
            ]
            output = depthwise_conv2d(*leaves, activation=activation)
            grads = torch.autograd.grad(output, leaves, distribute_tensor(up, mesh, output.placements))
            for found, value in zip([output, *grads], expected, strict=True):
                assert isinstance(found, DTensor)
                torch.testing.assert_close(found.full_tensor(), value, rtol=1e-12, atol=1e-12)
            if is_kept:
                assert output.placements == grads[0].placements == (planes,)
                # Each process adds up its images alone.
                assert all(grad.placements[0] == (Partial() if planes == images else kernels) for grad in grads[1:])

    # A module in eval mode, whose weights are prepared, and the same in compiled code.
    def by_channels(_: str, module: torch.nn.Module, mesh: object) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, torch.nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))  # type: ignore[arg-type]

    with torch.no_grad():
        value = layer(x)
        sharded = distribute_module(layer, mesh, by_channels)
        for place in (channels, channels, copy, images, channels):
            torch.testing.assert_close(sharded(distribute_tensor(x, mesh, [place])).full_tensor(), value)
        compiled = torch.compile(sharded, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(distribute_tensor(x, mesh, [channels])).full_tensor(), value)
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without Gloo")
def test_operators_on_distributed_tensors(forked_python: Any, tmp_path: Path) -> None:
    with (tmp_path / "errors").open("w+") as errors:
        processes = [forked_python.start(__file__, rank, tmp_path, stderr=errors) for rank in range(PROCESSES)]
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "errors").read_text()


if __name__ == "__main__":
    compare(int(sys.argv[1]), sys.argv[2])
