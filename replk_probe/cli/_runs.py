"""Measurement of several models in one command, which can be resumed and continues if a model fails."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from replk_probe.errors import InvalidInputError, ReplkProbeError

from ._options import command_line
from ._output import failure, note

EXIT_INTERRUPTED = 130  # exit status of a program terminated by SIGINT in a shell


class Result(Protocol):
    """The result of a measurement."""

    def save(self, directory: str | Path) -> None:
        """Write the result to a folder."""


ResultT = TypeVar("ResultT", bound=Result)


def announce(plan: Any, untrained: str) -> None:
    """Write a warning if the weights are random; all other notes are part of the table of results.

    Args:
        plan: A plan of any analyzer, with ``name`` and ``weights``.
        untrained: Clause about the meaning of results with random weights.
    """
    if plan.weights.is_random:
        note(f"{plan.name}: {plan.weights.label} - the model is not trained, {untrained}.", fg="yellow")


def measure_plans(
    plans: list[Any], folders: Sequence[Path], measure: Callable[[Any, Path], ResultT]
) -> tuple[dict[Path, ResultT], dict[str, Exception]]:
    """Measure one model after the other; if one fails, the others are still measured.

    Args:
        plans: One plan per model. Each is removed from the list when it has run, since models are large.
        folders: Folder of the results of each model.
        measure: Function that measures one plan.

    Returns:
        Results by folder, and errors by the name of the model.
    """
    several = len(plans) > 1
    results: dict[Path, ResultT] = {}
    failures: dict[str, Exception] = {}
    for folder in folders:
        name = plans[0].name
        try:
            results[folder] = measure(plans.pop(0), folder)
        except click.exceptions.Exit:  # interrupted
            raise
        except Exception as error:  # also errors in the code of a model, which do not affect the others
            failures[name] = error
            _release(error)
            if several:
                failure(name, error)
    return results, failures


def run_plan(plan: Any, folder: Path, state: str, load: Callable[[Path], ResultT], resume: bool) -> ResultT:
    """Run one plan and save its result; if the run is interrupted, print the command that resumes it.

    Args:
        plan: A plan of any analyzer, with ``name``, ``run`` and ``same_run``.
        folder: Folder of the result.
        state: Name of its subfolder with the state of an unfinished run.
        load: Loads a result from a folder.
        resume: Whether to resume an unfinished run, or to use a finished one.
    """
    from replk_probe.runtime.checkpoint import discard, exists

    checkpoint = folder / state
    if resume and not exists(checkpoint):
        finished = _finished(plan, folder, load)
        if finished is not None:
            note(f"{plan.name}: already measured, see {folder}")
            return finished
        note(f"{plan.name}: nothing to resume in {folder}. Starting a new run.")
    elif not resume and exists(checkpoint):
        note(f"{plan.name}: discarding an unfinished run in {folder}. Use --resume to continue such a run.")
    try:
        result: ResultT = plan.run(checkpoint=checkpoint, resume=resume, progress=True)
    except KeyboardInterrupt:
        click.echo(err=True)
        note("Interrupted. Completed work is kept. Resume with:")
        note(f"  {command_line('--resume')}")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    result.save(folder)
    discard(checkpoint)
    return result


def raise_failures(
    failures: dict[str, Exception],
    models: int,
    advice: str = "Run the same command with --resume to keep completed work.",
) -> None:
    """Raise an error if a model could not be measured.

    Args:
        failures: Errors by the name of the model.
        models: Number of requested models.
        advice: Advice if some of several models failed.
    """
    if not failures:
        return
    first = next(iter(failures.values()))
    unexpected = next((error for error in failures.values() if not isinstance(error, ReplkProbeError)), None)
    if models == 1 or unexpected is not None:
        raise unexpected or first
    raise ReplkProbeError(
        f"{len(failures)} of {models} models could not be measured: {', '.join(failures)}. {first} {advice}"
    )


def _finished(plan: Any, folder: Path, load: Callable[[Path], ResultT]) -> ResultT | None:
    """The finished result of the same measurement, or None."""
    try:
        result = load(folder)
    except InvalidInputError:
        return None
    return result if plan.same_run(result) else None


def _release(error: BaseException | None) -> None:
    """Free the objects that the frames of a stored error refer to, such as the model."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
