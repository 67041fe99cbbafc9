"""Measuring several models in one command: interrupted, resumed, and some of them failing."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from replk_probe.errors import InvalidInputError, ReplkProbeError

from ._options import command_line

EXIT_INTERRUPTED = 130  # as a shell reports a program ended by SIGINT


class Result(Protocol):
    """What a measurement found."""

    def save(self, directory: str | Path) -> None:
        """Write it to a folder."""


ResultT = TypeVar("ResultT", bound=Result)


def announce(plan: Any, untrained: str, notes: Iterable[str] = ()) -> None:
    """Say what is about to be measured; that weights are random cannot be missed.

    Args:
        plan: Of any room: with ``name`` and ``weights``.
        untrained: What the numbers of a model with random weights show.
        notes: What else there is to know before it begins.
    """
    weights = plan.weights
    if weights.is_random:
        text = f"{plan.name}: {weights.label} - nothing was trained, {untrained}."
        click.secho(text, err=True, fg="yellow", bold=True)
    else:
        click.echo(f"{plan.name}: weights {weights.label}", err=True)
    for note in (weights.note, *notes):
        if note:
            click.echo(f"{plan.name}: {note}", err=True)


def measure_plans(
    plans: list[Any], folders: Sequence[Path], measure: Callable[[Any, Path], ResultT]
) -> tuple[dict[Path, ResultT], dict[str, Exception]]:
    """Measure one model after the other; one that fails does not keep the others from it.

    Args:
        plans: Emptied on the way: each goes when it is done, since a model and its weights are large.
        folders: Of their results.
        measure: Measures one plan.

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
        except Exception as error:  # also what a model's own code raises: it is no fault of the others
            failures[name] = error
            _let_go(error)
            if several:
                click.secho(f"{name}: failed. {error}", err=True, fg="red")
    return results, failures


def run_plan(plan: Any, folder: Path, state: str, load: Callable[[Path], ResultT], resume: bool) -> ResultT:
    """Run one plan and save its result; an interrupted run says how to go on.

    Args:
        plan: Of any room: with ``name``, ``run`` and ``same_run``.
        folder: Of the result.
        state: Name of the folder inside it for the state of an unfinished run.
        load: Reads a result back.
        resume: Go on with an unfinished run, or take a finished one.
    """
    from replk_probe.runtime.checkpoint import discard, exists

    checkpoint = folder / state
    if resume and not exists(checkpoint):
        finished = _finished(plan, folder, load)
        if finished is not None:
            click.echo(f"{plan.name}: already measured, see {folder}", err=True)
            return finished
        click.echo(f"{plan.name}: nothing to resume in {folder}, starting anew.", err=True)
    elif not resume and exists(checkpoint):
        click.echo(f"{plan.name}: an unfinished run in {folder} is given up; --resume would have gone on.", err=True)
    try:
        result: ResultT = plan.run(checkpoint=checkpoint, resume=resume, progress=True)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; what is done is kept. Go on with:\n  {command_line('--resume')}", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    result.save(folder)
    discard(checkpoint)
    return result


def raise_failures(
    failures: dict[str, Exception], models: int, advice: str = "The same command with --resume keeps what is done."
) -> None:
    """End with what went wrong, if anything did.

    Args:
        failures: Errors by the name of the model.
        models: How many were to be measured.
        advice: What to do where some of several failed.
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
    """The result of the same measurement, if it is there."""
    try:
        result = load(folder)
    except InvalidInputError:
        return None
    return result if plan.same_run(result) else None


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of a kept error hold: a model, and whatever filled the memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
