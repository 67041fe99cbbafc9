"""`replk-probe sweep`: many models measured by several analyzers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replk_probe.errors import InvalidInputError, ReplkProbeError

from ._options import PATH, PATH_OR_URL
from ._output import note, show, show_path
from ._runs import warnings_as_notes

if TYPE_CHECKING:
    from replk_probe.sweeps.result import SweepResult

_EXAMPLE_NAME = "sweep.toml"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MOST_NAMED = 20


@click.command()
@click.argument("file", type=PATH, required=False, metavar="FILE.toml")
@click.option("--init", is_flag=True, help=f"Write a commented example to FILE.toml (default {_EXAMPLE_NAME}).")
@click.option("--status", type=PATH_OR_URL, metavar="DIR", help="Show the states of the jobs of the sweep in DIR.")
@click.option("--dry-run", is_flag=True, help="List the jobs and their states, and run nothing.")
@click.option(
    "--only",
    multiple=True,
    metavar="GLOB",
    help="Run the jobs that match, such as 'resnet*' or 'erf/*'. Repeat for several patterns.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Worker processes. [default: one per GPU, or by cores]"
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes on this machine, or tasks of Ray.",
)
@click.option(
    "--address", metavar="ADDR", help="Ray cluster, such as auto or HOST:6379. [default: a local Ray instance]"
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Time after which a job fails."
)
@click.option("--max-memory", metavar="SIZE", help="Memory of each worker process, such as 8G. Linux only.")
@click.option("--retry-failed", is_flag=True, help="Run the jobs again that failed in an earlier run.")
@click.option(
    "--resume/--fresh", default=True, show_default=True, help="Keep the results in the folder, or measure again."
)
@click.option(
    "-o",
    "--output",
    type=PATH_OR_URL,
    metavar="DIR",
    help="Output folder, or a URL such as s3://BUCKET/FOLDER. [default: replk-probe-out/sweep/FILE]",
)
def command(
    file: Path | None,
    init: bool,
    status: Path | str | None,
    dry_run: bool,
    only: tuple[str, ...],
    max_memory: str | None,
    resume: bool,
    output: Path | str | None,
    **options: Any,
) -> None:
    """Measure many models by several analyzers.

    FILE.toml names models, analyzers with their options, and a matrix of settings. Each combination is a job. Jobs that
    are done are not done again: run the same command to continue an interrupted sweep.

    Writes the folders of the commands erf, shape-bias, behaviour, kernels and attribute, sweep.json with the states of
    the jobs, and sweep.csv with all numbers.
    """
    if status is not None:
        _show_status(status)
        return
    if init:
        _write_example(file or Path(_EXAMPLE_NAME))
        return
    if file is None:
        raise click.UsageError("Missing argument 'FILE.toml'. Write an example with 'replk-probe sweep --init'.")
    memory = None if max_memory is None else _parse_bytes(max_memory)

    from replk_probe.sweeps.run import planned, sweep, sweep_folder
    from replk_probe.sweeps.stored_folder import SweepWarning

    if dry_run:
        folder = sweep_folder(file, output)
        _, chosen = planned(file, only)
        show(*(f"{job.key}  {folder.state(job):7}  {job.label}" for job in chosen))
        note(f"{len(chosen)} jobs. Results in {folder.location('')}")
        return
    with warnings_as_notes(SweepWarning):
        result = sweep(file, output, only=only, max_memory=memory, fresh=not resume, progress=True, **options)
    _report(result)


def _report(result: SweepResult) -> None:
    """Print the path of the table; raise an error that names the jobs that failed."""
    random = sum("RANDOM WEIGHTS" in job.get("weights", "") for job in result.jobs)
    if random:
        note(f"{random} of {len(result.jobs)} jobs measured models with random weights.", fg="yellow")
    pending = result.count("pending")
    more = f", {pending} not run" if pending else ""
    note(f"{result.count('done')} of {len(result.jobs)} jobs are done{more}. Results in {result.location('')}")
    show_path(result.location("sweep.csv"))
    failed = result.failed
    if failed:
        named = list(failed)[:_MOST_NAMED]
        for label in named:
            note(f"{label}: failed. {failed[label]}", fg="red")
        names = ", ".join(named) + (f" and {len(failed) - len(named)} more" if len(failed) > len(named) else "")
        raise ReplkProbeError(
            f"{len(failed)} of {len(result.jobs)} jobs failed: {names}. The details are in "
            f"{result.location('failed')}. Run the same command with --retry-failed to try them again."
        )


def _show_status(folder: Path | str) -> None:
    from replk_probe.sweeps.result import SweepResult

    result = SweepResult.load(folder)
    for job in result.jobs:
        seconds = f"{job['seconds']:8.1f} s" if "seconds" in job else " " * 10
        show(f"{job['key']}  {job['state']:7}  {seconds}  {job['label']}")
    counts = ", ".join(f"{result.count(state)} {state}" for state in ("done", "failed", "running", "pending"))
    note(f"{len(result.jobs)} jobs: {counts}.")


def _write_example(path: Path) -> None:
    from replk_probe.runtime.atomic_files import atomic_write_text
    from replk_probe.sweeps.document import EXAMPLE

    if path.exists():
        raise InvalidInputError(
            f"Cannot write {path}. It exists already. Give another name: replk-probe sweep --init NAME."
        )
    atomic_write_text(path, EXAMPLE)
    show_path(path)


def _parse_bytes(text: str) -> int:
    """A number of bytes such as ``8G`` or ``512M``."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2].upper()])
    if size <= 0:
        raise InvalidInputError(
            f"Cannot parse --max-memory {text!r}. Expected a positive size. For example: --max-memory 8G."
        )
    return size
