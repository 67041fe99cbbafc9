"""CPU time of whole commands on one thread, from the start of Python to its exit.

The commands measure small networks, so that most of their time is spent on imports, on drawing and on writing files.
All take turns with a process that only imports torch, which is what they are compared with. Modules are compiled to
bytecode before, as pip does, into a temporary folder unless PYTHONPYCACHEPREFIX is set.

    python scripts/bench_startup.py
    python scripts/bench_startup.py --repeats 9 --json startup.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile

import torch
from _bench_record import FEWEST, Case, add_json_option, write_run
from _process_cost import Cost, cost

from replk_probe.ops import describe_machine

IMPORT = "import torch"
COMMANDS = {
    "help": ("--help",),
    "erf": ("erf",),
    "kernels": ("kernels", "--layer", "stage4.0"),
    "shape-bias": ("shape-bias",),
}


def main() -> None:
    """Run the commands and print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--repeats", type=int, default=FEWEST)
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = {IMPORT: [sys.executable, "-c", IMPORT]}
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        os.environ.setdefault("PYTHONPYCACHEPREFIX", f"{folder}/bytecode")
        for name in args.commands:
            output = () if name == "help" else ("--output", f"{folder}/output")
            ways[name] = [sys.executable, "-m", "replk_probe", *COMMANDS[name], *output]
        for turn in range(args.repeats + 1):
            for name, command in ways.items():
                found = cost(command)
                if turn:  # the first one compiles modules and fills the page cache
                    costs.setdefault(name, []).append(found)
    print(f"Medians of {args.repeats}, one thread, {describe_machine()['cpu']}, torch {torch.__version__}")
    for name, rows in costs.items():
        clock, cpu, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"  {name:<26} {cpu:5.2f} s of CPU, {clock:5.2f} s, {memory:.2f} GB")
    cases = [
        Case(
            name="whole process",
            variant=name,
            unit="CPU s",
            repeats=tuple(row.cpu for row in rows),
            peer=None if name == IMPORT else IMPORT,
            details={"s": [row.clock for row in rows], "GB": [row.memory for row in rows]},
        )
        for name, rows in costs.items()
    ]
    write_run(args.json, __file__, cases)


if __name__ == "__main__":
    main()
