"""Measure the effective receptive field of a network after every epoch of its training.

An example: a small network is trained for a few steps on synthetic images, and an ``ErfAccumulator`` measures it on the
same held-out images each time. The two marked lines are all that a training loop of another project needs.

    python scripts/erf_in_training.py --epochs 5 --output training
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.erf import ErfAccumulator, draw_checkpoints
from replk_probe.models import create_model, data_config
from replk_probe.shape_bias.synthetic import synthetic_training

_HELD_OUT = 1_000_000  # a row of images that is not used for training


def main() -> None:
    """Train, measure, and write ``erf_in_training.csv`` and ``erf_in_training.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="replknet_micro_k13", help="a small model of this package")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps per epoch")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=20, help="held-out images for the receptive field")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--output", type=Path, default=Path("erf_in_training"))
    options = parser.parse_args()

    model = create_model(options.model, "random", seed=0)
    config = data_config(model)

    def images(count: int, seed: int, first: int = 0) -> tuple[Tensor, Tensor]:
        pixels, classes = synthetic_training(count, options.size, seed, first)
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
        return (scaled - mean) / std, torch.from_numpy(classes)

    held_out, _ = images(options.images, _HELD_OUT)
    erf = ErfAccumulator(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    results = []
    for epoch in range(options.epochs + 1):
        for step in range(options.steps if epoch else 0):  # first, the network as initialized is measured
            batch, classes = images(options.batch_size, 0, ((epoch - 1) * options.steps + step) * options.batch_size)
            loss = F.cross_entropy(model.train()(batch), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        erf.reset()
        erf.update(held_out)  # the model is measured as it is, in eval mode
        results.append(erf.compute())
        row = results[-1].row("pixels", 0.5)
        print(f"epoch {epoch}: half of the contribution is in {100 * row.ratio:.1f} % of the pixels")

    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "erf_in_training.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["epoch", "protocol", "threshold", "side", "ratio", "ci95_low", "ci95_high"])
        for epoch, result in enumerate(results):
            writer.writerows(
                [epoch, row.protocol, row.threshold, row.side, row.ratio, *(row.ci95 or ("", ""))]
                for row in result.ratios
            )
    figure = draw_checkpoints(results, [f"epoch {epoch}" for epoch in range(len(results))])
    figure.savefig(options.output / "erf_in_training.png", dpi=300)


if __name__ == "__main__":
    main()
