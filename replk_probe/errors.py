"""Every error that replk-probe raises on purpose.

The command line turns these into one line on the terminal and exit status 1;
anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class ReplkProbeError(Exception):
    """Base class: what went wrong, why, and what to do about it, in one sentence each."""


class InvalidInputError(ReplkProbeError, ValueError):
    """An argument, an image folder or an array that cannot be used as given."""


class UnknownModelError(ReplkProbeError, LookupError):
    """A model name (or a factory path) that leads to no model."""


class WeightsError(ReplkProbeError):
    """A checkpoint that cannot be found, fetched, verified, read or matched to a model."""


class BackendError(ReplkProbeError):
    """A device, precision or compiled kernel that this machine does not offer."""


class ResumeError(ReplkProbeError):
    """An unfinished run that cannot be continued with the options given."""
