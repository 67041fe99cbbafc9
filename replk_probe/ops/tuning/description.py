"""What the tuner has stored on this machine, and what the methods of a GPU lack here."""

from __future__ import annotations

from typing import Any

import torch

from .device import cudnn_version, triton_fault, triton_version
from .store import clear_choices, default_folder, read_folder


def describe_tuning() -> dict[str, Any]:
    """The GPU, the libraries of its methods and the stored choices, as JSON-compatible values.

    Returns:
        ``gpu`` (its name, or None), ``missing`` (sentences on what tuning on a GPU lacks), ``cudnn``, ``triton``,
        ``folder``, ``unreadable`` (number of files in it that cannot be read), and ``choices``: ``environment``,
        ``problem``, ``method``, ``default``, ``gain`` (time of the default divided by that of the method, or None),
        ``reason``, ``seconds``, ``refused`` and ``time`` of each.

    Examples:
        >>> from replk_probe.ops import describe_tuning
        >>> describe_tuning()["choices"]  # nothing was tuned
        []
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    missing = []
    if gpu is None:
        built = "torch was built without CUDA" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
        missing.append(f"torch finds no NVIDIA GPU ({built})")
    if cudnn_version() == "none":
        missing.append("there is no cuDNN")
    if triton_version() is None:
        missing.append("Triton is not installed")
    elif (fault := triton_fault()) is not None:
        missing.append(f"Triton {triton_version()} cannot be imported: {fault}")
    folder = default_folder()
    choices, unreadable = read_folder(folder)
    return {
        "gpu": gpu,
        "missing": missing,
        "cudnn": cudnn_version(),
        "triton": triton_version(),
        "folder": str(folder),
        "unreadable": unreadable,
        "choices": [
            {
                "environment": stored.environment,
                "problem": str(stored.problem),
                "method": stored.choice.method,
                "default": stored.choice.default,
                "gain": stored.choice.gain,
                "reason": stored.choice.reason,
                "seconds": stored.choice.seconds,
                "refused": stored.choice.refused,
                "time": stored.time,
            }
            for stored in choices
        ],
    }


def clear_tuning() -> int:
    """Remove all stored choices of this user; choices in use by this process stay.

    Returns:
        Number of choices that were removed.

    Raises:
        InvalidInputError: A file cannot be removed.

    Examples:
        >>> from replk_probe.ops import clear_tuning
        >>> clear_tuning()  # nothing was stored
        0
    """
    return clear_choices(default_folder())
