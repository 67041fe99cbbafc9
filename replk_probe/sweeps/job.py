"""One job of a sweep: one model, one analyzer, one choice of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from replk_probe.runtime.paths import slug

# Options of a model with a column of their own in the table, which are not settings.
OWN_COLUMN = ("weights", "name")
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Job:
    """A measurement that a worker can do from this description alone.

    Attributes:
        key: Digest of everything that decides the bytes of the result, 16 hex digits.
        analyzer: ``"erf"``, ``"shape-bias"``, ``"behaviour"``, ``"kernels"``, ``"attribute"`` or ``"reliance"``.
        model: Name of the model, as for :func:`replk_probe.create_model`; the path of a factory is absolute.
        name: Name of the model in the results, as written in the file.
        options: The options of the analyzer's command by name; paths are absolute.
        varied: The options that distinguish jobs of one analyzer, with their values as written in the file.
        threads: Number of threads of the computation.
        figures: Whether the figures are drawn.
        distinction: What distinguishes the job from others that have the same label without it; usually empty.
    """

    key: str
    analyzer: str
    model: str
    name: str
    options: Mapping[str, Any]
    varied: Mapping[str, Any]
    threads: int = 1
    figures: bool = True
    distinction: str = ""

    @property
    def folder(self) -> str:
        """Folder of the result, relative to that of the sweep."""
        return f"{self.analyzer}/{slug(self.name)[-_LONGEST_NAME:]}-{self.key}"

    @property
    def label(self) -> str:
        """Short description such as ``"erf/resnet18 seed=0"``."""
        settings = [f"{name}={value}" for name, value in self.varied.items()]
        return " ".join([f"{self.analyzer}/{self.name}", *settings, *filter(None, [self.distinction])])

    def matches(self, pattern: str) -> bool:
        """Whether a pattern matches the model, ``ANALYZER/MODEL``, the label or the key."""
        names = (self.name, f"{self.analyzer}/{self.name}", self.label, self.key)
        return any(fnmatchcase(name, pattern) for name in names)
