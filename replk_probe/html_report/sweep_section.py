"""The part of the page on sweeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from replk_probe.collection import Saved
from replk_probe.sweeps.result import SweepResult

from .commands import sweep_command


@dataclass(frozen=True)
class SweepPart:
    """One sweep.

    Attributes:
        name: Name of its folder.
        record: Path of its record.
        sha256: SHA-256 of the record.
        command: The command for it.
        counts: Number of jobs in all, of those that are done, and of those that failed.
        jobs: Label, state, seconds, settings and reason of every job.
    """

    name: str
    record: str
    sha256: str
    command: str
    counts: tuple[int, int, int]
    jobs: list[tuple[str, str, float | None, str, str]]


def sweep_section(saved: Sequence[Saved[SweepResult]]) -> list[SweepPart]:
    """A part for each sweep."""
    return [
        SweepPart(
            name=PurePath(one.record).parent.name or "sweep",
            record=one.record,
            sha256=one.sha256,
            command=sweep_command(one.record),
            counts=(len(one.result.jobs), one.result.count("done"), one.result.count("failed")),
            jobs=[
                (job["label"], job["state"], job.get("seconds"), _settings(job), job.get("reason", ""))
                for job in one.result.jobs
            ],
        )
        for one in saved
    ]


def _settings(job: Mapping[str, Any]) -> str:
    """The options of a job, without its model."""
    settings = {name: value for name, value in job.get("settings", {}).items() if name != "name"}
    return ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items())
