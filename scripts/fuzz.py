"""Run the fuzzers in ``tests/fuzz`` for some minutes, and stop with the reproducer at the first uncaught error.

    python scripts/fuzz.py --minutes 10
    python scripts/fuzz.py --only http --seed 123   (the seed that was printed)

Each file in ``tests/fuzz`` whose name does not start with ``test_`` has a function ``run(rng, folder)``. It makes one
hostile case, runs it, and raises AssertionError unless a result or an error of replk-probe comes out. It may return the
kind of the outcome.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "fuzz"
sys.path.insert(0, str(ROOT))  # the package next to these fuzzers, not one that is installed
Fuzzer = Callable[[random.Random, Path], Any]


def discover() -> dict[str, Fuzzer]:
    """The fuzzers by name."""
    return {path.stem: load(path).run for path in sorted(FOLDER.glob("[a-z]*.py")) if not path.stem.startswith("test_")}


def load(path: Path) -> Any:
    """Import a file under a name that no other module has: ``http`` is also the name of a standard module."""
    name = f"replk_probe_fuzz_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def run_case(fuzzer: Fuzzer, seed: int) -> str:
    """Run one case in an empty folder and return the kind of its outcome.

    Raises:
        Exception: Whatever the fuzzer raises.
    """
    with tempfile.TemporaryDirectory(prefix="replk-probe-fuzz-", ignore_cleanup_errors=True) as folder:
        return str(fuzzer(random.Random(seed), Path(folder)) or "passed")


def main() -> None:
    """Run the fuzzers in turn and print the number of cases by outcome."""
    parser = argparse.ArgumentParser(description="Run the fuzzers in tests/fuzz.")
    fuzzers = discover()
    parser.add_argument("--minutes", type=float, metavar="N", help="Minutes in total. [default: one case per fuzzer]")
    parser.add_argument("--only", choices=sorted(fuzzers), help="Run only this fuzzer.")
    parser.add_argument("--seed", type=int, help="Seed of the first case. [default: random, printed]")
    options = parser.parse_args()
    names = [options.only] if options.only else list(fuzzers)
    first = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"first seed: {first}")
    counts = {name: collections.Counter[str]() for name in names}
    end = time.monotonic() + 60 * (options.minutes or 0)
    failed = False
    seed = first
    while not failed and (seed == first or time.monotonic() < end):
        for name in names:
            try:
                counts[name][run_case(fuzzers[name], seed)] += 1
            except Exception as error:
                failed = True
                counts[name]["uncaught"] += 1
                print(f"{name}: {type(error).__name__}: {error}")
                print(f"To reproduce it: python scripts/fuzz.py --only {name} --seed {seed}")
        seed += 1
    for name, found in counts.items():
        kinds = ", ".join(f"{kind} {count}" for kind, count in found.most_common())
        print(f"{name}: {found.total()} cases: {kinds}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
