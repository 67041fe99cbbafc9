"""Time and peak memory of one input-gradient map, by the published method and by replk-probe, in one run.

The published method uses unmerged branches, the default layout, parameters that require gradients, torch's own
convolutions and the default allocator settings. The variants take turns in one process, each after a warm-up pass.
replk-probe keeps the memory of one image for the next, as it does for all images of a measurement, so that each of its
timed passes follows an untimed one. Peak memory is that of a new child process for each variant. With ``--device
cuda``, all products are computed in float32 unless the variant says otherwise, the convolutions of the prepared
variants are tuned before, and memory is that of the GPU.

    python scripts/bench_erf.py                                # RepLKNet-31B at 1024 x 1024
    python scripts/bench_erf.py --model unireplknet_t --repeats 5
    python scripts/bench_erf.py --device cuda

With ``--openerf``, the time of an image by OpenERF (``pip install openerf``) is compared on one thread at 224 x 224.
OpenERF computes one image at a time, replk-probe as many as it chooses.

    python scripts/bench_erf.py --openerf --repeats 9
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from resource import RUSAGE_SELF, getrusage

import torch
from _bench_record import FEWEST, Case, add_json_option, write_run

from replk_probe.erf import area_ratio, contribution_scores, prepare
from replk_probe.erf.batch_size import automatic_batch_size
from replk_probe.erf.probe_layer import find_target
from replk_probe.errors import ReplkProbeError
from replk_probe.models import create_model
from replk_probe.models.inference.prepare import PreparedModel
from replk_probe.ops import DepthwiseConv2d, tune
from replk_probe.runtime.devices import device_label, resolve_device, strict_arithmetic
from replk_probe.runtime.malloc import kept_blocks

VARIANTS = ("plain", "fp32", "fast", "bf16")
THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
AGAINST_OPENERF = ("resnet50", "vit_small_patch16_224", "convnext_tiny")


def allocation(model: torch.nn.Module | PreparedModel) -> AbstractContextManager[object]:
    """The settings of the allocator that `measure_erf` uses for all images, or the default ones."""
    return kept_blocks() if isinstance(model, PreparedModel) else nullcontext()


def scores(model: torch.nn.Module | PreparedModel, image: torch.Tensor) -> torch.Tensor:
    """Compute one map."""
    with allocation(model):
        return contribution_scores(model, image)[0]


def steady_seconds(model: torch.nn.Module | PreparedModel, images: torch.Tensor, clock: Callable[[], float]) -> float:
    """Time of the maps of some images, which are not the first ones of a measurement."""
    with allocation(model):
        if isinstance(model, PreparedModel):
            contribution_scores(model, images)
        return seconds_of(partial(contribution_scores, model, images), images.device, clock)


def build(name: str, variant: str, device: torch.device) -> torch.nn.Module | PreparedModel:
    """Build the model with random weights (seed 0), with torch's own convolutions or prepared."""
    model = create_model(name, "random", seed=0).requires_grad_(True).to(device)
    if variant != "plain":
        return prepare(model, variant)
    for module in model.modules():
        if isinstance(module, DepthwiseConv2d):
            module.__class__ = torch.nn.Conv2d  # type: ignore[assignment]
    return model


def draw_image(size: int, device: torch.device | None = None) -> torch.Tensor:
    """White noise, ``[1, 3, size, size]``; times do not depend on the content of the image."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def seconds_of(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of a call, until the GPU has computed everything."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = clock()
    call()
    wait()
    return clock() - start


def child(name: str, size: int, variant: str, where: str) -> float:
    """Measure one image and return the peak memory in gigabytes: resident, or that of the GPU."""
    device = resolve_device(where)
    with strict_arithmetic():
        scores(build(name, variant, device), draw_image(size, device))
    on_gpu = device.type == "cuda"
    return torch.cuda.max_memory_allocated() / 1e9 if on_gpu else getrusage(RUSAGE_SELF).ru_maxrss / 1e6


def peak_gigabytes(args: argparse.Namespace, variant: str) -> float:
    """Peak memory of a new process that measures one image; nothing may have been computed in this one."""
    # A process that uses CUDA cannot be forked; on a CPU, a fork need not import torch again.
    context = multiprocessing.get_context("fork" if args.device == "cpu" else "spawn")
    with ProcessPoolExecutor(1, context) as processes:
        return processes.submit(child, args.model, args.size, variant, args.device).result()


def against_openerf(repeats: int) -> Iterator[Case]:
    """Compare the CPU time of an image with that of OpenERF, and print it."""
    from openerf.erf import _compute_positive_input_gradients_from_forward_features as openerf_scores

    torch.set_num_threads(1)
    side, device = 224, torch.device("cpu")
    print(
        f"CPU ms of a {side} x {side} image, one thread ({torch.backends.cpu.get_cpu_capability()}), {repeats} rounds"
    )
    print("model                    variant   images at once   median (min)   ratio of medians")
    for name in AGAINST_OPENERF:
        model = create_model(name, "random", seed=0)
        batch = automatic_batch_size(model, find_target(model, (1, 3, side, side)), 3, device, own_code=False)
        images = draw_image(side).repeat(batch, 1, 1, 1)

        def published(model: torch.nn.Module = model, image: torch.Tensor = images[:1]) -> None:
            openerf_scores(model, image.clone().requires_grad_(True), "forward_features")

        clock = time.process_time
        ways: dict[str, tuple[Callable[[], float], int]] = {
            "OpenERF": (partial(seconds_of, published, device, clock), 1)
        }
        for variant in VARIANTS[1:]:
            ways[variant] = (partial(steady_seconds, prepare(model, variant), images, clock), batch)
        times: dict[str, list[float]] = {variant: [] for variant in ways}
        for turn in range(repeats + 1):
            for variant, (seconds, count) in ways.items():
                found = seconds() / count
                if turn:  # the first one is a warm-up
                    times[variant].append(found)
        for variant, (_, count) in ways.items():
            median, shortest = 1e3 * statistics.median(times[variant]), 1e3 * min(times[variant])
            ratio = 1e3 * statistics.median(times["OpenERF"]) / median
            print(f"{name:24} {variant:9} {count:14} {median:8.0f} ({shortest:3.0f}) {ratio:18.2f}x")
            peer = None if variant == "OpenERF" else "OpenERF"
            details = {"images_at_once": count}
            yield Case(f"{name} {side}x{side}", variant, "CPU s", tuple(times[variant]), peer, details)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="replknet31b")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=FEWEST)
    parser.add_argument("--device", default="cpu", help="cpu, or an NVIDIA GPU such as cuda; by default cpu.")
    parser.add_argument("--openerf", action="store_true", help="Compare with OpenERF instead.")
    add_json_option(parser)
    args = parser.parse_args()
    if args.openerf:
        return write_run(args.json, __file__, [*against_openerf(args.repeats)])

    try:
        device = resolve_device(args.device)
    except ReplkProbeError as error:
        parser.exit(1, f"Error: {error}\n")
    memory = {variant: peak_gigabytes(args, variant) for variant in VARIANTS}
    image = draw_image(args.size, device)
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with strict_arithmetic():
        models = {variant: build(args.model, variant, device) for variant in VARIANTS}
        for model in models.values():
            if device.type == "cuda" and isinstance(model, PreparedModel):
                tune(model.module, image)
        maps = {variant: scores(model, image).cpu().double() for variant, model in models.items()}
        for _ in range(args.repeats):
            for variant, model in models.items():
                seconds[variant].append(steady_seconds(model, image, time.perf_counter))

    sides = {
        variant: [area_ratio(found.numpy(), threshold, "linear").side for threshold in THRESHOLDS]
        for variant, found in maps.items()
    }
    rows = []
    for variant, model in models.items():
        median = statistics.median(seconds[variant])
        rows.append(
            {
                "variant": variant,
                "what": model.arithmetic if isinstance(model, PreparedModel) else "float32, as the published script",
                "backend": model.backend_used(model.methods.take()) if isinstance(model, PreparedModel) else "torch",
                "seconds_median": median,
                "seconds_min": min(seconds[variant]),
                "speedup_median": statistics.median(seconds["plain"]) / median,
                "speedup_min": min(seconds["plain"]) / min(seconds[variant]),
                "peak_GB": memory[variant],
                "memory_ratio": memory[variant] / memory["plain"],
                "map_relative_l2": ((maps[variant] - maps["plain"]).norm() / maps["plain"].norm()).item(),
                "linear_sides": sides[variant],
            }
        )
    load = os.getloadavg()[0]
    print(f"{args.model}, one {args.size} x {args.size} image, {args.repeats} rounds, torch {torch.__version__},")
    if device.type == "cuda":
        print(f"{device_label(device)}, cuDNN {torch.backends.cudnn.version()},")
    print(f"{torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()}), load {load:.1f}\n")
    print("variant   s median (min)   speed-up   peak GB (ratio)   map rel. L2   linear sides, px")
    for row in rows:
        print(
            f"{row['variant']:8} {row['seconds_median']:8.2f} ({row['seconds_min']:5.2f}) {row['speedup_median']:9.2f}x"
            f" {row['peak_GB']:8.2f} ({row['memory_ratio']:.2f}) {row['map_relative_l2']:14.1e}   {row['linear_sides']}"
        )
    for row in rows:
        print(f"  {row['variant']}: {row['what']}; {row['backend']}")
    cases = [
        Case(
            name=f"{args.model} {args.size}x{args.size}",
            variant=row["variant"],
            unit="s",
            repeats=tuple(seconds[row["variant"]]),
            peer=None if row["variant"] == "plain" else "plain",
            details=row,
        )
        for row in rows
    ]
    write_run(args.json, __file__, cases, device=device_label(device))


if __name__ == "__main__":
    main()
