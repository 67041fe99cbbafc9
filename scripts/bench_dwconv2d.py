"""Benchmark of the depthwise convolution against all variants of torch, with target ratios.

The measurement is that of `replk-probe bench`. The target of each layer is shown next to its ratio, and missed targets
are listed at the end. The targets are for float32 on an idle machine with 2 cores and AVX-512, and with --device cuda
for an NVIDIA GPU in float32 and bfloat16.

    python scripts/bench_dwconv2d.py                      # forward and input gradient of the listed layers
    python scripts/bench_dwconv2d.py --isa avx2           # at least 0.55 of the ratios
    python scripts/bench_dwconv2d.py --sweep              # never slower than the best of torch
    python scripts/bench_dwconv2d.py --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch
from _bench_record import Case, add_json_option, write_run

from replk_probe.bench import GPU_LAYERS, MODEL_LAYERS, Layer, SpeedCase, SpeedResult, measure_speed, sweep_layers
from replk_probe.bench.result import GPU_TORCH, TORCH
from replk_probe.errors import ReplkProbeError
from replk_probe.ops import INSTRUCTION_SETS, native_kernels
from replk_probe.report.bench_table import bench_table, sweep_summary
from replk_probe.runtime.devices import device_label

# Target ratios to the fastest variant of torch for the forward pass and the input gradient of each layer.
TARGETS = {
    "1,128,256,31": (9.0, 9.0),
    "1,256,128,29": (3.8, 3.8),
    "1,512,64,27": (4.8, 4.8),
    "1,1024,32,13": (1.9, 1.9),
    "4,384,32,31": (6.5, 6.5),
    "1,96,56,7": (2.0, 2.0),
    "1,80,56,51": (7.0, 7.0),
    "1,124,56,51x5": (2.9, 2.9),
    "1,124,56,5x51": (2.9, 2.9),
    "1,1536,7,13": (2.5, 2.0),
    "1,384,14,13": (2.5, 2.0),
}
AVX2_SHARE = 0.55
LARGE_KERNEL = 27  # smallest side for which PEAK_FACTOR and NCHW_FACTOR apply
PEAK_FACTOR, NCHW_FACTOR, GRAD_WEIGHT_FACTOR = 3.0, 100.0, 100.0
LARGEST_ERROR = {kernel.method: 4e-7 if kernel.uses_fft else 1e-6 for kernel in native_kernels()}  # relative, L2
LARGEST_WORKSPACE = 64 << 20
# On a GPU: least ratios to torch's fastest convolution in either memory format for kernels of at least this side, and
# the least one for all kernels.
GPU_RATIOS, GPU_KERNEL, NEVER_SLOWER = {"float32": 4.0, "bfloat16": 8.0}, 21, 0.98
PASSES = {"forward": "forward", "grad-input": "grad_input", "grad-weight": "grad_weight"}


def ratio_targets(share: float) -> dict[tuple[str, str], float]:
    """Target ratios by label and pass."""
    return {
        (label, direction): share * ratio
        for label, ratios in TARGETS.items()
        for direction, ratio in zip(("forward", "grad_input"), ratios, strict=True)
    }


def claims(case: SpeedCase, result: SpeedResult, target: float | None) -> list[tuple[str, float | None, float]]:
    """Targets of a case: name, measured value (None if it was not measured), minimum."""
    found: list[tuple[str, float | None, float]] = []
    is_large = min(case.layer.kernel) >= LARGE_KERNEL and case.layer.kh == case.layer.kw
    if target is not None:
        found.append(("ratio to the best of torch", case.ratio, target))
    if target is not None and is_large and case.direction == "forward" and result.machine.isa == "avx512":
        peak = result.machine.fma_peak
        found.append(("rate over the multiply-add peak", peak and case.gflops / peak, PEAK_FACTOR))
        found.append(("ratio to conv2d NCHW", case.ratio_to(case.timing("nchw")), NCHW_FACTOR))
    if case.direction == "grad_weight":
        found.append(("ratio to the fft weight gradient", case.ratio_to(case.timing("fft")), 1.0))
        if is_large:
            for name in ("nchw", "channels_last"):
                found.append((f"ratio to torch's {name}", case.ratio_to(case.timing(name)), GRAD_WEIGHT_FACTOR))
    if case.ours.error is not None and case.method in LARGEST_ERROR and result.dtype == "float32":
        found.append(("error bound over error", LARGEST_ERROR[case.method] / max(case.ours.error, 1e-30), 1.0))
    found.append(("64 MB over scratch memory", LARGEST_WORKSPACE / max(case.workspace_bytes, 1), 1.0))
    return found


def claims_on_gpu(case: SpeedCase, result: SpeedResult) -> list[tuple[str, float | None, float]]:
    """Targets of a case on a GPU: name, measured value (None if it was not measured), minimum.

    Torch's convolution may have operands of either memory format, so the faster of both counts.
    """
    same = [other for other in result.cases if (other.layer, other.direction) == (case.layer, case.direction)]
    best = [timing for other in same if (timing := other.best_torch) is not None]
    ratio = case.ratio_to(min(best, key=lambda timing: timing.minimum or 0.0, default=None))
    name = "ratio to the best of torch in either memory format"
    found = [(name, ratio, NEVER_SLOWER)]
    if case.direction != "grad_weight" and min(case.layer.kernel) >= GPU_KERNEL and result.dtype in GPU_RATIOS:
        found.append((name, ratio, GPU_RATIOS[result.dtype]))
    return found


def record_cases(result: SpeedResult) -> Iterator[Case]:
    """The medians of all turns. Variants of torch are references, the fastest of which is the peer of the others."""
    for case in result.cases:
        isa = "" if case.isa is None else f" {case.isa}"
        name, best = f"{case.label} {case.direction} {result.dtype}{isa}", case.best_torch
        torch_variants = (*TORCH, *GPU_TORCH)
        for timing in case.timings:
            if timing.turns:
                peer = None if best is None or timing.variant in torch_variants else best.variant
                yield Case(name, timing.variant, "s", timing.turns, peer, {"relative_l2": timing.error})


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pass",
        dest="passes",
        action="append",
        choices=PASSES,
        help="Pass to time; by default forward and grad-input.",
    )
    parser.add_argument(
        "--shape", action="append", metavar="N,C,H,W,KH,KW", help="Time these layers instead of the listed ones."
    )
    parser.add_argument(
        "--sweep", action="store_true", help="Time kernels of sides 3 to 61 on planes of sides 7 to 256."
    )
    parser.add_argument("--isa", choices=INSTRUCTION_SETS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu", help="cpu, or an NVIDIA GPU such as cuda; by default cpu.")
    parser.add_argument("--dtype", choices=("float32", "tf32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--all", action="store_true", help="Include slow variants (several seconds per call).")
    parser.add_argument("--output", metavar="DIR", help="Folder for bench.json and bench.csv.")
    add_json_option(parser)
    args = parser.parse_args()

    on_cpu = args.device == "cpu"
    layers = list(MODEL_LAYERS if on_cpu else GPU_LAYERS)
    if args.shape:
        layers = [Layer(*map(int, shape.split(","))) for shape in args.shape]
    elif args.sweep:
        layers = sweep_layers()
    try:
        result = measure_speed(
            layers,
            [PASSES[name] for name in args.passes or ("forward", "grad-input")],
            device=args.device,
            dtype=args.dtype,
            threads=args.threads,
            isa=args.isa,
            repeats=args.repeats,
            everything=args.all,
            progress=True,
        )
    except ReplkProbeError as error:
        parser.exit(1, f"Error: {error}\n")
    targets = ratio_targets(AVX2_SHARE if args.isa == "avx2" else 1.0) if on_cpu else {}
    print(bench_table(result, targets))
    if args.sweep:
        print("\n" + sweep_summary(result))
    print()
    missed = 0
    for case in result.cases:
        target = targets.get((case.layer.label, case.direction))
        for name, value, least in claims(case, result, target) if on_cpu else claims_on_gpu(case, result):
            if value is None:
                print(f"Not measured: {case.label} {case.direction}: {name} (target: at least {least:g})")
            elif value < least:
                missed += 1
                print(f"MISSED: {case.label} {case.direction}: {name} is {value:.2f} (target: at least {least:.3g})")
    print(f"Missed {missed} targets." if missed else "All measured targets were reached.")
    if args.output:
        result.save(args.output)
    write_run(args.json, __file__, record_cases(result), device=device_label(torch.device(args.device)))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
