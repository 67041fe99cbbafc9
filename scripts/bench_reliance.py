"""Overhead of measuring reliance over the forward passes alone, in CPU time and in wall time, in one run.

The bare loop runs forward passes of the same prepared network, in batches of the same size, once for the original
images and once for each suppression; its inputs are in memory before timing starts. Both take turns. CPU time is that
of all threads of the process, so that it depends less on what else runs on the machine.

    python scripts/bench_reliance.py                                      # ResNet-50, drawn images of 224 px
    python scripts/bench_reliance.py --without non-local-means            # without these suppressions
    python scripts/bench_reliance.py --data DIR --model torchvision:mobilenet_v2
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from replk_probe.models.inference.prepare import prepared_copy
from replk_probe.reliance import parse_suppressions
from replk_probe.reliance.config import RelianceConfig
from replk_probe.reliance.plan import ReliancePlan, plan_reliance
from replk_probe.runtime.devices import measuring
from replk_probe.shape_bias.classifier import compute_logits, outputs_check
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.synthetic import synthetic_training


def drawn_images(folder: Path, count: int) -> None:
    """Write generated images of 224 px into folders with the names of the 16 categories."""
    for index in range(count):
        place = folder / CATEGORIES[index % len(CATEGORIES)]
        place.mkdir(exist_ok=True)
        Image.fromarray(synthetic_training(1, 224, 0, index)[0][0]).save(place / f"{index:03d}.png")


def bare_loop(plan: ReliancePlan) -> Callable[[], None]:
    """A function that runs the forward passes of a plan."""
    network = prepared_copy(plan.model, plan.config.precision, outputs_check(plan.model, plan.size)).module
    inputs = torch.randn((len(plan.images.ids), 3, *plan.size), generator=torch.Generator().manual_seed(0))

    def run() -> None:
        with measuring(plan.device, plan.size), torch.inference_mode():
            for batch in torch.split(inputs, plan.config.batch_size):
                for _ in range(1 + len(plan.suppressions)):
                    compute_logits(network, batch)

    return run


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """CPU time of all threads, and wall time."""
    start = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--data", type=Path, help="Folder of images with one subfolder for each class.")
    parser.add_argument("--images", type=int, default=16, help="Number of images.")
    parser.add_argument("--without", default="", metavar="METHOD,...", help="Methods that are left out.")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    left_out = {*args.without.split(",")}
    chosen = [one.name for one in parse_suppressions() if not left_out & {step.method for step in one.steps}]
    config = RelianceConfig(
        suppressions=chosen,
        images=args.images,
        weights="random",
        device="cpu",
        batch_size=args.batch_size,
        workers=args.workers,
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            drawn_images(Path(folder), args.images)
        plan = plan_reliance(args.model, args.data or folder, config)
        bare = bare_loop(plan)
        times: dict[str, list[tuple[float, float]]] = {"bare forward loop": [], "measured": []}
        for _ in range(args.repeats):
            times["bare forward loop"].append(seconds(bare))
            times["measured"].append(seconds(plan.run))
    passes = len(plan.images.ids) * (1 + len(plan.suppressions))
    print(
        f"{args.model}, {len(plan.images.ids)} images without and with {len(plan.suppressions)} suppressions, "
        f"{torch.get_num_threads()} threads of the network, {plan.workers} of the loader, medians:"
    )
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    reference = medians["bare forward loop"]
    for name, (cpu, wall) in medians.items():
        print(
            f"  {name:17}  CPU time {cpu:7.2f} s ({1e3 * cpu / passes:6.2f} ms per image, {cpu / reference[0]:.3f}x)"
            f"  wall time {wall:7.2f} s ({wall / reference[1]:.3f}x)"
        )


if __name__ == "__main__":
    main()
