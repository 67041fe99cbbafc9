"""Overhead of measuring shape bias over the forward passes alone, in stimuli per second, in one run.

For the bare loop, all stimuli are decoded and normalized in memory before timing starts. It only runs forward passes of
the same prepared network, in the same batches. Both take turns.

    python scripts/bench_shape_bias.py                            # ResNet-50, drawn stimuli of 224 px
    python scripts/bench_shape_bias.py --stimuli DIR --workers 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from _bench_record import FEWEST, Case, add_json_option, write_run

from replk_probe.models.inference.prepare import prepared_copy
from replk_probe.runtime.malloc import kept_blocks
from replk_probe.shape_bias.classifier import outputs_check
from replk_probe.shape_bias.config import ShapeBiasConfig
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.loading import InputImages
from replk_probe.shape_bias.observers import consistency_matrix
from replk_probe.shape_bias.plan import ShapeBiasPlan, plan_shape_bias
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.stimuli.stimulus_set import StimulusSet
from replk_probe.shape_bias.stimulus_source import open_stimuli


def first_of(stimuli: StimulusSet, count: int) -> StimulusSet:
    """The first ``count`` stimuli."""
    return replace(stimuli, stimuli=stimuli.stimuli[:count])


def bare_loop(model: torch.nn.Module, batches: list[torch.Tensor]) -> float:
    """Time of the forward passes alone, in seconds."""
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model(batch)
    return time.perf_counter() - start


def preloaded(plan: ShapeBiasPlan, images: InputImages, batch_size: int) -> list[torch.Tensor]:
    """All stimuli as batches ``[N, 3, H, W]``, channels last."""
    rows = torch.from_numpy(np.stack([images(index) for index in range(len(plan.stimuli))])).permute(0, 3, 1, 2)
    return list(torch.split(rows, batch_size))


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--stimuli", default="synthetic")
    parser.add_argument("--count", type=int, default=320, help="Number of stimuli.")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=FEWEST)
    add_json_option(parser)
    args = parser.parse_args()
    complete = open_stimuli(args.stimuli)
    stimuli = first_of(complete, args.count)
    config = ShapeBiasConfig(
        weights="random", num_classes=len(stimuli.categories), batch_size=args.batch_size, workers=args.workers
    )
    plan = plan_shape_bias(args.model, stimuli, config)
    seconds: dict[str, list[float]] = {"bare": [], "measured": []}
    prepared = prepared_copy(plan.model, config.precision, outputs_check(plan.model, plan.size)).module
    batches = preloaded(plan, InputImages(stimuli, plan.size, (0.5,) * 3, (0.2,) * 3), args.batch_size)
    for _ in range(args.repeats):
        with kept_blocks():
            bare_loop(prepared, batches[:2])
            seconds["bare"].append(bare_loop(prepared, batches))
        seconds["measured"].append(plan.run().run.seconds)
    start = time.perf_counter()
    result = plan.run()
    analyzed = time.perf_counter()
    ShapeBiasResult.from_decisions(result.decisions)
    analysis = time.perf_counter() - analyzed
    names, shapes = zip(*((one.name, one.shape) for one in complete.stimuli), strict=True)
    observers = [Decisions.from_names(f"{number}", names, shapes, complete.categories) for number in range(24)]
    compared = time.perf_counter()
    consistency_matrix(observers)
    consistency = time.perf_counter() - compared
    bare, measured = (statistics.median(seconds[name]) for name in ("bare", "measured"))
    print(f"{args.model}, {len(stimuli)} stimuli of {plan.stimuli.source}, {torch.get_num_threads()} threads, medians:")
    print(f"  bare forward loop  {bare:7.2f} s  {len(stimuli) / bare:7.1f} per second")
    print(f"  measured           {measured:7.2f} s  {len(stimuli) / measured:7.1f} per second  {measured / bare:.3f}x")
    print(f"  analysis of the decisions {1e3 * analysis:.1f} ms; whole call {analyzed - start:.2f} s")
    print(f"  error consistency of 24 observers on {len(names)} stimuli {1e3 * consistency:.1f} ms")
    name = f"{args.model}, {len(stimuli)} stimuli, batches of {args.batch_size}"
    details = {"analysis_seconds": analysis, "consistency_of_24_observers_seconds": consistency}
    cases = [
        Case(name, "bare", "s", tuple(seconds["bare"])),
        Case(name, "measured", "s", tuple(seconds["measured"]), peer="bare", details=details),
    ]
    write_run(args.json, __file__, cases)


if __name__ == "__main__":
    main()
