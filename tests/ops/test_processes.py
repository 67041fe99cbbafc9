"""Several threads at once, and workers that were forked."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from replk_probe.ops import DepthwiseConv2d, conv_input_gradient, depthwise_conv2d

pytestmark = pytest.mark.usefixtures("native")

# A forked child computes the same as its parent, and ends. In the child torch itself may not start its OpenMP threads
# (that is a matter between torch and its runtime), so it compares bytes.
_FORK = """
import multiprocessing, os, sys
import torch
from replk_probe.ops import DepthwiseConv2d, depthwise_conv2d

torch.set_num_threads(2)
torch.manual_seed(0)
earlier = sys.argv[1] == "earlier"
x, w = torch.randn(2, 8, 40, 40), torch.randn(8, 1, 31, 31)
layer = DepthwiseConv2d(8, 8, 31, padding=15, groups=8).eval()
want = bytes.fromhex(sys.argv[2]) if sys.argv[2] else None


def compute():
    with torch.no_grad():
        return depthwise_conv2d(x, w).numpy().tobytes() + layer(x).numpy().tobytes()


def child(queue):
    queue.put(compute())


if __name__ == "__main__":
    if earlier:
        before = compute()
        torch.randn(400, 400) @ torch.randn(400, 400)
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(compute())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found = pipe.read()
    _, status = os.waitpid(process, 0)
    assert status == 0, status
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=child, args=(queue,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    others = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    after = compute()
    assert found == after and others == [after, after]
    assert not earlier or before == after
    print("same")
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
@pytest.mark.parametrize("when", ["earlier", "first"])
def test_forked_workers(forked_python: Any, when: str) -> None:
    done = forked_python.run("-c", _FORK, when, "")
    assert done.stdout.strip() == "same", done.stderr


def test_a_loader_with_forked_workers(forked_python: Any) -> None:
    code = (
        "import torch\n"
        "from replk_probe.ops import DepthwiseConv2d\n"
        "torch.set_num_threads(2)\n"
        "layer = DepthwiseConv2d(4, 4, 31, padding=15, groups=4).eval().requires_grad_(False)\n"
        "class Planes(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 6\n"
        "    def __getitem__(self, i): return layer(torch.full((1, 4, 40, 40), float(i)))[0]\n"
        "want = torch.stack([Planes()[i] for i in range(6)])\n"
        "loader = torch.utils.data.DataLoader(Planes(), 2, num_workers=2, multiprocessing_context='fork')\n"
        "assert torch.equal(torch.cat(list(loader)), want)\n"
    )
    done = forked_python.run("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("threads_inside", [1, 2])
@pytest.mark.parametrize("kernel", [7, 31])
def test_threads_at_once(kernel: int, threads_inside: int) -> None:
    """Each with its own sizes, and all with one module."""
    layer = DepthwiseConv2d(8, 8, kernel, padding=kernel // 2, groups=8).eval().requires_grad_(False)
    shapes = [(1, 8, 40 + i % 3, 33 + i) for i in range(4)]
    inputs = [torch.randn(shape) for shape in shapes]
    weight = torch.randn(8, 1, kernel, kernel)
    wants = [(layer(x), depthwise_conv2d(x, weight), conv_input_gradient(x, weight)) for x in inputs]
    wrong: list[object] = []
    before = torch.get_num_threads()
    start = threading.Barrier(4)

    def work(which: int) -> None:
        try:
            torch.set_num_threads(threads_inside)  # of this thread alone
            start.wait()
            for i in range(20):
                x, want = inputs[(which + i) % 4], wants[(which + i) % 4]
                found = (layer(x), depthwise_conv2d(x, weight), conv_input_gradient(x, weight))
                if not all(torch.equal(one, other) for one, other in zip(found, want, strict=True)):
                    wrong.append((which, i))
        except BaseException as error:
            wrong.append(error)
            raise

    workers = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    torch.set_num_threads(before)
    assert not wrong
