"""Time of one input-gradient map of prepared networks, relative to plain torch, at 224 x 224 pixels.

Plain torch is the forward pass of the unchanged network in eval mode with frozen parameters, in float32, and
``torch.autograd.grad`` to the image. All variants take turns in one process after two warm-up passes. A ratio above 1
means that the prepared network is faster. With one thread, the CPU time of the thread is measured instead of the time
that has passed, so that other processes have less influence.

    python scripts/bench_prepare.py
    python scripts/bench_prepare.py --models resnet50 mobilenetv3_large_100 --threads 1 --repeats 50
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from _bench_record import Case, add_json_option, write_run
from torch import Tensor, nn

from replk_probe.erf import input_gradient, prepare
from replk_probe.erf.probe_layer import find_target
from replk_probe.erf.target_layer import TargetLayer, run_to
from replk_probe.models import create_model
from replk_probe.ops import describe_machine

MODELS = (
    "resnet18", "resnet50", "vit_small_patch16_224", "convnext_tiny", "swin_tiny_patch4_window7_224", "densenet121",
    "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_large_100", "regnety_004",
)  # fmt: skip
PRECISIONS = ("fp32", "fast", "bf16")


def build(name: str) -> nn.Module:
    """The network with random weights (seed 0) in which no branch starts with a norm of zero, which has no gradient."""
    model = create_model(name, "random", seed=0).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            nn.init.constant_(module.weight, 0.2)
    return model


def plain_scores(model: nn.Module, image: Tensor, target: TargetLayer) -> Tensor:
    """The map, by autograd alone."""
    leaf = image.clone().requires_grad_(True)
    middle = target.layout.at(run_to(model, leaf, target), target.layout.middle)
    (gradient,) = torch.autograd.grad(middle.relu().sum(), leaf)
    return gradient.clamp_min(0).sum(1)


def times(variants: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every pass of each variant."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for run in 2 * [*variants.values()]:
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order, generator = list(variants), random.Random(0)
    for _ in range(repeats):
        generator.shuffle(order)  # no variant always follows the same other one
        for name in order:
            start = clock()
            variants[name]()
            seconds[name].append(clock() - start)
    return seconds


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unit = "CPU s" if args.threads == 1 else "s"

    place = f"{args.threads} threads, {describe_machine()['cpu']}"
    print(f"One {args.size} x {args.size} image, {args.repeats} rounds, {place},")
    print(f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), load {os.getloadavg()[0]:.1f}\n")
    print("Ratio of the medians (of the minima) to plain torch\n")
    print(
        f"{'model':30} {'plain, ms':>14}", *(f"{precision:>13}" for precision in PRECISIONS), "  float32 map, rel. L2"
    )
    image = torch.randn(1, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    cases = []
    for name in args.models:
        model = build(name)
        plain = partial(plain_scores, model, image, find_target(model, image.shape, None))
        prepared = {precision: prepare(model, precision) for precision in PRECISIONS}
        with ExitStack() as stack:
            variants: dict[str, Callable[[], Tensor]] = {"plain": plain}
            for precision, copied in prepared.items():
                gradient = stack.enter_context(input_gradient(copied))  # the layer is looked up once, as in measure_erf
                variants[precision] = partial(gradient.scores, image)
            expected, found = (variants[key]().double() for key in ("plain", "fp32"))
            seconds = times(variants, args.repeats)
        row = {
            "model": name,
            "plain_ms": [1e3 * statistics.median(seconds["plain"]), 1e3 * min(seconds["plain"])],
            "map_relative_l2": ((found - expected).norm() / expected.norm()).item(),
            "left_out": prepared["fp32"].left_out,
        } | {
            precision: [take(seconds["plain"]) / take(seconds[precision]) for take in (statistics.median, min)]
            for precision in PRECISIONS
        }
        for variant, repeats in seconds.items():
            peer = None if variant == "plain" else "plain"
            details = {key: row[key] for key in ("map_relative_l2", "left_out")} if variant == "fp32" else {}
            case = f"{name} {args.size}x{args.size}"
            cases.append(Case(case, variant, unit, tuple(repeats), peer, details))
        ratios = (f"{row[precision][0]:6.2f} ({row[precision][1]:.2f})" for precision in PRECISIONS)
        print(
            f"{name:30} {row['plain_ms'][0]:6.1f} ({row['plain_ms'][1]:5.1f})",
            *ratios,
            f"{row['map_relative_l2']:9.1e}",
            row["left_out"],
            flush=True,
        )
    write_run(args.json, __file__, cases)


if __name__ == "__main__":
    main()
