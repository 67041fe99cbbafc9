"""Identification of processes, also by other processes that find their files later."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path


def _host() -> str:
    """Name of this machine, in letters and digits; containers with numbers of their own have other names."""
    name = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:24]
    with contextlib.suppress(OSError):  # not Linux
        number = Path("/proc/self/ns/pid").stat().st_ino
        # The first namespace of every machine has this number (PROC_PID_INIT_INO in the kernel).
        return name if number == 0xEFFFFFFC else f"{name}{number}"
    return name


# Several machines may write to one folder; the number of a process is known on its own machine only.
HOST = _host()


def is_running(process: int) -> bool:
    """Whether this machine has a process of that number; True if it cannot be known."""
    if os.name == "nt":  # where signal 0 ends a process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        pass
    return True
