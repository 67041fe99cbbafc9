"""The JSON file that every benchmark writes, with all of its repeats."""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from scipy.stats import quantile_test

from replk_probe.errors import InvalidInputError
from replk_probe.ops import describe_machine
from replk_probe.results import as_plain, strict_json
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.file_reading import decode, read_json, reading
from replk_probe.runtime.provenance import software_versions

SCHEMA_VERSION = 1
ROOT = Path(__file__).resolve().parent.parent
# Two medians whose intervals of this level do not overlap differ at a level of about 5 % (Goldstein and Healy, "The
# graphical presentation of a collection of means", Journal of the Royal Statistical Society A 158, 1995).
CONFIDENCE = 0.84
FEWEST = 4  # number of repeats whose smallest and largest are such an interval: 1 - 2 * 0.5**4 = 0.875


@dataclass(frozen=True)
class Case:
    """What was measured of one variant of one case.

    Attributes:
        name: What was computed, with everything on which the values depend: model, size, data type.
        variant: How it was computed.
        unit: Unit of the values: ``"s"``, ``"CPU s"`` or ``"GB"``, of which less is better.
        repeats: All values, in the order of measurement. Values of the same number of all variants of a case were
            measured one after another.
        peer: Variant of the same case with which this one is compared, or None.
        details: Further numbers and texts.
    """

    name: str
    variant: str
    unit: str
    repeats: tuple[float, ...]
    peer: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Name, variant and unit, which identify a case in a run."""
        return self.name, self.variant, self.unit


@dataclass(frozen=True)
class Run:
    """One run of one benchmark.

    Attributes:
        script: Name of the script without its extension.
        date: Time in UTC in the format of ISO 8601.
        commit: Commit of the repository, followed by ``-dirty`` if files were changed, or None if it is unknown.
        processor: Name of the processor.
        device: Name of the GPU, or ``"cpu"``.
        threads: Number of threads of torch.
        torch_capability: Instruction set that torch uses.
        load: Load average over one minute at the end.
        versions: Versions of replk-probe, Python and its dependencies.
        cases: Everything that was measured.
    """

    script: str
    date: str
    commit: str | None
    processor: str
    device: str
    threads: int
    torch_capability: str
    load: float
    versions: dict[str, str]
    cases: tuple[Case, ...]

    @property
    def place(self) -> dict[str, object]:
        """Script and machine, which must be the same in runs that are compared."""
        names = ("script", "processor", "device", "threads", "torch_capability")
        return {name.replace("_", " "): getattr(self, name) for name in names}

    @property
    def commit_label(self) -> str:
        """The beginning of the commit, and whether files were changed."""
        if self.commit is None:
            return "unknown"
        name, _, changes = self.commit.partition("-")
        return name[:8] + ", with changes" * bool(changes)

    def repeats_of(self, key: tuple[str, str, str]) -> tuple[float, ...]:
        """The values of a case; none if it was not measured."""
        return next((case.repeats for case in self.cases if case.key == key), ())

    def peer_of(self, case: Case) -> str | None:
        """The peer of a case, or None if the values themselves are to be compared."""
        return case.peer if case.peer is not None and self.repeats_of((case.name, case.peer, case.unit)) else None

    def is_reference(self, case: Case) -> bool:
        """Whether the variant is only there for others to be compared with: it has no peer, and another one has."""
        same = [other for other in self.cases if (other.name, other.unit) == (case.name, case.unit)]
        return case.peer is None and any(other.peer is not None for other in same)

    def ratios(self, case: Case, peer: str | None) -> list[float]:
        """Each value over the value of the peer in the same turn, or the values themselves if the peer is None."""
        if peer is None:
            return [*case.repeats]
        pairs = zip(case.repeats, self.repeats_of((case.name, peer, case.unit)), strict=False)
        return [value / reference for value, reference in pairs]

    @classmethod
    def load_json(cls, path: Path) -> Run:
        """The run in a file.

        Raises:
            InvalidInputError: The file is missing or damaged, or has another schema version.
        """
        record = read_json(path, "Give a file that a benchmark wrote with --json.", [SCHEMA_VERSION])
        with reading(path, "record of a benchmark"):
            run = decode(cls, record)
            if not all(case.repeats and min(case.repeats) > 0 for case in run.cases):
                raise ValueError("a case has no repeats, or values that are not positive")
        return run


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` to the options of a benchmark."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="File to which all repeats are written as JSON.")


def write_run(path: Path | None, script: str, cases: Iterable[Case], *, device: str = "cpu") -> None:
    """Write the record of a run that just ended, unless the path is None.

    Args:
        path: Value of ``--json``.
        script: ``__file__`` of the script.
        cases: Everything that was measured.
        device: Name of the GPU, or ``"cpu"``.
    """
    if path is None:
        return
    run = Run(
        script=Path(script).stem,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=_commit(),
        processor=describe_machine()["cpu"],
        device=device,
        threads=torch.get_num_threads(),
        torch_capability=torch.backends.cpu.get_cpu_capability(),
        load=os.getloadavg()[0],
        versions=software_versions(),
        cases=tuple(cases),
    )
    atomic_write_text(path, strict_json({"schema_version": SCHEMA_VERSION, **as_plain(run)}, indent=1))


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Interval of the median of independent values of any distribution, or None for fewer than four values."""
    if len(values) < FEWEST:
        return None
    interval = quantile_test(values, p=0.5).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def load_runs(parser: argparse.ArgumentParser, paths: Iterable[Path]) -> list[Run]:
    """The runs in some files; a file that cannot be read ends the program with status 2."""
    try:
        return [Run.load_json(path) for path in paths]
    except InvalidInputError as error:
        parser.exit(2, f"Error: {error}\n")


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
