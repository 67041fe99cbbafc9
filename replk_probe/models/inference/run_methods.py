"""The methods of the convolutions of a run: chosen by its first batch, then fixed, so that no run mixes methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from replk_probe.errors import ResumeError
from replk_probe.ops.methods.interface import ConvMethod
from replk_probe.ops.tuning import choices
from replk_probe.ops.tuning.choosing import BUDGET, Choice
from replk_probe.ops.tuning.device import Device, TorchDevice
from replk_probe.ops.tuning.store import default_folder, read_choice
from replk_probe.ops.tuning.tuner import parse_problem, tune_problems, unmeasured, worthwhile
from replk_probe.runtime.devices import may_tune

TUNE = ("auto", "off", "force")
# A run is tuned without being asked only if it takes at least this many times as long as the measurements.
_WORTH = 10


@contextmanager
def fixed_methods(
    methods: Mapping[str, str], device: torch.device, *, folder: Path | None = None, other_device: bool = False
) -> Iterator[None]:
    """Context in which the convolutions of a run are computed by its methods, and by no others.

    Args:
        methods: Names of methods by the text of their problems. Each is used for all numbers of images; the default
            applies to all other problems.
        device: Device of the run.
        folder: Folder of the state of the run, for the message.
        other_device: Whether the run is continued on another device; methods that are not available are left out.

    Raises:
        ResumeError: A method of the run is not available here.
    """
    found: dict[choices.Key, ConvMethod] = {}
    tunable = TorchDevice(device) if methods and may_tune("force", device) else None
    for text, name in methods.items():
        problem = parse_problem(text)
        method = f"the device is {device}" if tunable is None else tunable.method(name, problem)
        if not isinstance(method, str):
            found.setdefault((str(device), problem.for_any_count), method)
        elif not other_device:
            what = "use the methods of this run" if folder is None else f"resume {folder}"
            raise ResumeError(
                f"Cannot {what}. The method {name} is not available for the convolution {text}: {method}. Resume it "
                "where it was started, or start again without resume."
            )
    with choices.fixed(found):
        yield


def choose_methods(
    first_batch: Callable[[], object],
    device: torch.device,
    *,
    tune: str,
    images: int,
    batch_size: int,
    progress: bool = False,
    tunable: Device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Choose the methods of a run by its first batch, whose results are discarded.

    A method is chosen for each size of planes and kernels, and holds for all numbers of images: batches may be halved,
    the last one may be smaller, and an image may be computed again by itself.

    With ``"auto"``, only runs are measured that take at least ten times as long as measuring their convolutions;
    choices that are stored already are used in any case.

    Args:
        first_batch: Function that computes the first batch.
        device: Device of the run.
        tune: One of :data:`TUNE`.
        images: Number of images of the run.
        batch_size: Number of images in the first batch.
        progress: Whether to draw a progress bar.
        tunable: Stand-in for the device.
        clock: Function that returns the time in seconds.

    Returns:
        Names of the methods other than the default by the text of their problems, and how each was chosen.
    """
    if not may_tune(tune, device):
        return {}, []
    with choices.fixed({}), choices.collecting() as noted:
        first_batch()
    # Where a network computes a convolution for several numbers of images, the largest one decides.
    largest = {one.for_any_count: one for one in sorted(noted, key=lambda one: one.n)}
    problems = [one for one in noted if largest[one.for_any_count] == one]
    if not worthwhile(problems, device.type):
        return {}, []
    tunable = tunable or TorchDevice(device)
    folder = default_folder()
    if tune == "auto" and (unknown := len(unmeasured(tunable, problems, folder))):
        with choices.fixed({}):
            tunable.synchronize()
            begun = clock()
            first_batch()
            tunable.synchronize()
        if (clock() - begun) * images / batch_size < _WORTH * BUDGET * unknown:
            return {}, []
    found = tune_problems(tunable, problems, folder=folder, progress=progress)
    methods = {str(problem): choice.method for problem, choice in found.items() if choice.method != tunable.default}
    environment = tunable.environment
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = []
    for problem, choice in found.items():
        stored = read_choice(folder, environment, problem)
        # A choice that cannot be stored was measured by this process.
        record.append(_record_of(str(problem), choice, now if stored is None else stored.time))
    return methods, record


def _record_of(problem: str, choice: Choice, measured: str) -> dict[str, Any]:
    """How a method was chosen, as JSON values; times are in seconds, and the date is in UTC."""
    return {
        "problem": problem,
        "method": choice.method,
        "default": choice.default,
        "reason": choice.reason,
        "gain": None if choice.gain is None else round(choice.gain, 3),
        "seconds": choice.seconds,
        "refused": choice.refused,
        "measured": measured,
    }
