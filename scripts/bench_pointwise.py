"""CPU time of the input gradient of a pair of pointwise layers: torch's layers, `torch.compile` and PointwiseBlock.

The layers, with GELU between them, are those of the third stage of RepLKNet-31B at 1024 px (1 x 1 convolutions of
planes) and of ConvNeXt-T at 512 px (linear layers), with frozen weights. All variants take turns in one process. The
time of compilation, with an empty cache and with the processes of the C++ compiler, is that of the first call and is
not part of the others.

"compiled" is the pair as one function, whose backward graph autograd provides. Freezing, which lets inductor rearrange
weights, applies to graphs without gradients only: for "frozen", both passes are functions of their own, the second of
which computes the derivative of GELU from the output of the first layer. With `--autotune`, inductor also measures its
own products in C++.

    python scripts/bench_pointwise.py --threads 1
    python scripts/bench_pointwise.py --threads 1 --autotune --repeats 5
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _bench_record import Case, add_json_option, write_run
from torch import Tensor, nn
from torch._inductor import config
from torch._inductor.utils import fresh_cache

from replk_probe.models.inference.input_gradient import freeze_layers, reduce_precision
from replk_probe.models.inference.pointwise import PointwiseBlock
from replk_probe.ops import describe_machine
from replk_probe.runtime.malloc import kept_blocks

Layers = tuple[nn.Conv2d | nn.Linear, nn.Conv2d | nn.Linear]
Pass = Callable[[Tensor, Tensor], Tensor]
PAIRS: dict[str, tuple[type[nn.Conv2d] | type[nn.Linear], int, int]] = {
    "replknet31b": (nn.Conv2d, 512, 64),
    "convnext_tiny": (nn.Linear, 384, 32),
}


def drawn(name: str) -> tuple[Layers, Tensor, Tensor]:
    """The layers of a pair, an input and a gradient."""
    kind, channels, side = PAIRS[name]
    sizes = ((channels, 4 * channels), (4 * channels, channels))
    layers = [nn.Conv2d(*size, 1) if kind is nn.Conv2d else nn.Linear(*size) for size in sizes]
    for layer in layers:
        layer.requires_grad_(False)
    shape = (1, channels, side, side) if kind is nn.Conv2d else (1, side, side, channels)
    return (layers[0], layers[1]), torch.randn(shape), torch.randn(shape)


def by_autograd(function: Callable[[Tensor], Tensor]) -> Pass:
    """The gradient of the input of a function, by autograd."""

    def run(x: Tensor, grad: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_(True)
        return torch.autograd.grad(function(leaf), leaf, grad)[0]

    return run


def separate(layers: Layers, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The layers one after the other, with products in a type."""
    first, second = (copy.deepcopy(layer).to(dtype) for layer in layers)
    return lambda x: second(F.gelu(first(x.to(dtype)))).float()


def two_functions(layers: Layers, dtype: torch.dtype) -> tuple[Callable[..., tuple[Tensor, Tensor]], Pass]:
    """Both passes as functions without gradients, the second of the gradient and of what the first one keeps."""
    first, second = (copy.deepcopy(layer).to(dtype) for layer in layers)
    back = []
    for layer in (second, first):
        weight = layer.weight.transpose(0, 1).contiguous()
        transposed: nn.Conv2d | nn.Linear
        if isinstance(layer, nn.Conv2d):
            transposed = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
        else:
            transposed = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        transposed.weight = nn.Parameter(weight, requires_grad=False)
        back.append(transposed)

    class Forward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            inner = self.first(x.to(dtype))
            return self.second(F.gelu(inner)).float(), inner

    class Backward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = back

        def forward(self, grad: Tensor, inner: Tensor) -> Tensor:
            outer = torch.ops.aten.gelu_backward(self.first(grad.to(dtype)), inner)
            return self.second(outer).float()

    return Forward().eval(), Backward().eval()


def variants_of(layers: Layers, dtype: torch.dtype, options: dict[str, object]) -> dict[str, Pass]:
    """All ways to compute the gradient; the compiled ones compile when they are called."""
    block = PointwiseBlock(copy.deepcopy(layers[0]), nn.GELU(), copy.deepcopy(layers[1]))
    freeze_layers(block)
    narrow = dtype == torch.bfloat16
    reduce_precision(block, forward=narrow, backward=narrow)
    compiled = torch.compile(separate(layers, dtype), options=options)
    both = [torch.compile(one, options=options | {"freezing": True}) for one in two_functions(layers, dtype)]

    @torch.no_grad()
    def frozen(x: Tensor, grad: Tensor) -> Tensor:
        _, inner = both[0](x)
        found: Tensor = both[1](grad, inner)
        return found

    return {
        "layers": by_autograd(separate(layers, dtype)),
        "compiled": by_autograd(compiled),
        "frozen": frozen,
        "block": by_autograd(block),
    }


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--autotune", action="store_true", help="Let inductor choose among more products.")
    parser.add_argument("--cpp-wrapper", action="store_true", help="Let inductor call its kernels from C++.")
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options: dict[str, object] = {"cpp_wrapper": args.cpp_wrapper, "max_autotune": args.autotune}
    print(
        f"{args.threads} threads, {describe_machine()['cpu']}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print("pair            type       variant    CPU ms median (min)   of block   first call, CPU s   error, rel. L2")
    cases = []
    for name in PAIRS:
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            layers, x, grad = drawn(name)
            exact = by_autograd(separate(layers, torch.float64))(x.double(), grad.float())
            seconds: dict[str, list[float]] = {}
            first, errors = {}, {}
            with kept_blocks(), fresh_cache(), config.patch(compile_threads=1):
                variants = variants_of(layers, dtype, options)
                for variant, run in variants.items():
                    start = sum(os.times()[:4])  # with the processes of the compiler
                    found = run(x, grad)
                    first[variant] = sum(os.times()[:4]) - start
                    errors[variant] = float((found - exact).norm() / exact.norm())
                    seconds[variant] = []
                for turn in range(args.repeats + 1):
                    for variant, run in variants.items():
                        start = time.process_time()
                        run(x, grad)
                        if turn:
                            seconds[variant].append(time.process_time() - start)
            for variant, repeats in seconds.items():
                median, own = statistics.median(repeats), statistics.median(seconds["block"])
                kind = str(dtype).removeprefix("torch.")
                print(
                    f"{name:15} {kind:10} {variant:10} {1e3 * median:8.1f} ({1e3 * min(repeats):6.1f})"
                    f" {median / own:12.2f} {first[variant]:14.1f} {errors[variant]:20.1e}",
                    flush=True,
                )
                details = {"first_call_cpu_s": first[variant], "relative_l2": errors[variant]}
                peer = None if variant == "layers" else "layers"
                cases.append(Case(f"{name} {kind}", variant, "CPU s", tuple(repeats), peer, details))
    write_run(args.json, __file__, cases)


if __name__ == "__main__":
    main()
