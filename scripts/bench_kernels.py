"""Time and memory of `replk-probe kernels` on a large checkpoint, compared with a plain script, for whole processes.

The plain script is what one would write without this package: build the network with timm, load the checkpoint, fold
batch norms, add the branches, sum absolute values and draw one figure of maps as PNG. Both take turns, each in its own
process, including imports; the command writes its results and eight figure files.

    python scripts/bench_kernels.py                         # RepLKNet-31B, all of its 24 kernels
    python scripts/bench_kernels.py --model replknetxl --repeats 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _bench_record import FEWEST, Case, add_json_option, write_run
from _process_cost import Cost, cost

PLAIN = """
import sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import timm, torch
import replk_probe.models
from safetensors.torch import load_file

model = timm.create_model(sys.argv[1]).eval()
model.load_state_dict(load_file(sys.argv[2]))
maps = []
for module in model.modules():
    if hasattr(module, "large_conv"):
        total = 0
        for branch in (module.large_conv, module.small_conv):
            scale = branch.bn.weight / (branch.bn.running_var + branch.bn.eps).sqrt()
            weight = (branch.conv.weight * scale[:, None, None, None]).detach()
            pad = (module.large_conv.conv.weight.shape[-1] - weight.shape[-1]) // 2
            total = total + torch.nn.functional.pad(weight, [pad] * 4)
        maps.append(total.abs().sum((0, 1)))
figure, axes = plt.subplots(4, 6, figsize=(12, 8))
for ax, one in zip(axes.flat, maps):
    ax.imshow(one / one.max())
    ax.axis("off")
figure.savefig(sys.argv[3], dpi=300)
"""


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="replknet31b", help="a RepLKNet")
    parser.add_argument("--repeats", type=int, default=FEWEST)
    add_json_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder, "weights.safetensors"))
        make = f"""
from safetensors.torch import save_file
from replk_probe.models import create_model
save_file(create_model({args.model!r}, "random").state_dict(), {weights!r})
"""
        subprocess.run([sys.executable, "-c", make], check=True)
        commands = {
            "plain": [sys.executable, "-c", PLAIN, args.model, weights, str(Path(folder, "plain.png"))],
            "replk-probe kernels": [
                *(sys.executable, "-m", "replk_probe", "kernels", "--model", args.model, "--weights", weights),
                *("--output", str(Path(folder, "out"))),
            ],
        }
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for _ in range(args.repeats):
            for name, command in commands.items():
                costs[name].append(cost(command))
        kernels = len(json.loads(Path(folder, "out", "kernels.json").read_text(encoding="utf-8"))["kernels"])
    print(f"{args.model}, {kernels} kernels, checkpoint in the page cache, medians of {args.repeats}:")
    for name, rows in costs.items():
        clock, cpu, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"  {name:<20} {clock:5.2f} s, {cpu:5.2f} s of CPU, {memory:.2f} GB")
    cases = [
        Case(
            name=f"{args.model}, {kernels} kernels",
            variant=name,
            unit=unit,
            repeats=column,
            peer=None if name == "plain" else "plain",
        )
        for name, rows in costs.items()
        for unit, column in zip(("s", "CPU s", "GB"), zip(*rows, strict=True), strict=True)
    ]
    write_run(args.json, __file__, cases)


if __name__ == "__main__":
    main()
