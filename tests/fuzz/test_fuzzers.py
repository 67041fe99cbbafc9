"""Every fuzzer on a few cases; ``scripts/fuzz.py --minutes N`` runs more."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "fuzz.py"
spec = importlib.util.spec_from_file_location("replk_probe_fuzz", SCRIPT)
assert spec is not None and spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)

# Seconds in which no further case is started, and the number of cases after which none is.
LONGEST, MOST = 2.0, 500


@pytest.mark.skipif(sys.platform != "linux", reason="no /dev/full")
@pytest.mark.parametrize("name", fuzz.discover())
def test_a_few_cases(name: str) -> None:
    fuzzer = fuzz.discover()[name]
    end = time.monotonic() + LONGEST
    for seed in range(MOST):
        fuzz.run_case(fuzzer, seed)
        if time.monotonic() > end:
            break
