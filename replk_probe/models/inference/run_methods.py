"""The methods of the convolutions of a run: chosen by its first batch, then fixed, so that no run mixes methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from replk_probe.errors import ResumeError
from replk_probe.ops.methods.interface import ConvMethod
from replk_probe.ops.tuning import choices
from replk_probe.ops.tuning.choosing import BUDGET
from replk_probe.ops.tuning.device import Device, TorchDevice
from replk_probe.ops.tuning.store import default_folder
from replk_probe.ops.tuning.tuner import parse_problem, tune_problems, unmeasured, worthwhile

TUNE = ("auto", "off", "force")
# A run is tuned without being asked only if it takes at least this many times as long as the measurements.
_WORTH = 10


def may_tune(tune: str, device: torch.device) -> bool:
    """Whether a run may choose other methods than the default: on a CPU only by ``"force"``."""
    return tune != "off" and (device.type == "cuda" or (device.type == "cpu" and tune == "force"))


@contextmanager
def fixed_methods(
    methods: Mapping[str, str], device: torch.device, *, folder: Path | None = None, other_device: bool = False
) -> Iterator[None]:
    """Context in which the convolutions of a run are computed by its methods, and by no others.

    Args:
        methods: Names of methods by the text of their problems; the default applies to all other problems.
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
            found[str(device), problem] = method
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
    sizes: Collection[int],
    progress: bool = False,
    tunable: Device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, str]:
    """Choose the methods of a run by its first batch, whose results are discarded.

    With ``"auto"``, only runs are measured that take at least ten times as long as measuring their convolutions;
    choices that are stored already are used in any case.

    Args:
        first_batch: Function that computes the first batch.
        device: Device of the run.
        tune: One of :data:`TUNE`.
        images: Number of images of the run.
        sizes: Numbers of images in its batches, that of the first batch first.
        progress: Whether to draw a progress bar.
        tunable: Stand-in for the device.
        clock: Function that returns the time in seconds.

    Returns:
        Names of the methods other than the default by the text of their problems.
    """
    if not may_tune(tune, device):
        return {}
    first, *others = dict.fromkeys(sizes)
    with choices.fixed({}), choices.collecting() as noted:
        first_batch()
    problems = list(noted)
    for size in others:
        problems += [replace(one, n=size * (one.n // first)) for one in noted if one.n >= first]
    if not worthwhile(problems):
        return {}
    tunable = tunable or TorchDevice(device)
    folder = default_folder()
    if tune == "auto" and (unknown := len(unmeasured(tunable, problems, folder))):
        with choices.fixed({}):
            tunable.synchronize()
            begun = clock()
            first_batch()
            tunable.synchronize()
        if (clock() - begun) * images / first < _WORTH * BUDGET * unknown:
            return {}
    found = tune_problems(tunable, problems, folder=folder, progress=progress)
    return {str(problem): choice.method for problem, choice in found.items() if choice.method != tunable.default}
