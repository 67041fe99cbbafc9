"""Time and memory of whole processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

# A process whose only child is the measured process, so that the peak memory of the latter is known.
_OBSERVER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e9]))
"""


class Cost(NamedTuple):
    """Cost of a process and its children.

    Attributes:
        clock: Seconds that passed.
        cpu: Seconds of CPU time.
        memory: Peak memory of the largest process in GB.
    """

    clock: float
    cpu: float
    memory: float


def cost(command: Sequence[str]) -> Cost:
    """The cost of a command that succeeds."""
    done = subprocess.run([sys.executable, "-c", _OBSERVER, *command], check=True, capture_output=True, text=True)
    return Cost(*json.loads(done.stdout))
