"""Measurement of several models in one command, which can be resumed and continues if a model fails."""

from __future__ import annotations

import contextlib
import shutil
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from replk_probe.errors import InvalidInputError, ReplkProbeError, ResumeError

from ._options import command_line
from ._output import EXIT_INTERRUPTED, SAVED, failure, note, with_options

if TYPE_CHECKING:
    from replk_probe.results import Result
    from replk_probe.runtime.torchrun import Process

ResultT = TypeVar("ResultT", bound="Result")

IMPORTED = "import:"  # before the name of the folder, in the source of imported observers


def announce(plan: Any, untrained: str) -> None:
    """Warn of random weights, with the clause ``untrained``; all other notes are part of the table of results."""
    if plan.weights.is_random:
        note(f"{plan.name}: {plan.weights.label}. The model is not trained: {untrained}.", fg="yellow")


def lock_folders(*folders: Path) -> None:
    """Let no other process write to these folders until this command ends; torchrun's first process does it for all.

    Raises:
        InvalidInputError: Another process does; the message names it.
    """
    from replk_probe.runtime.locks import locked
    from replk_probe.runtime.torchrun import this_process, together

    process = this_process()
    with together():
        if process is None or process.rank == 0:
            for folder in dict.fromkeys(folders):
                click.get_current_context().with_resource(locked(folder))


def measure_plans(
    plans: list[Any],
    folders: Sequence[Path],
    measure: Callable[[Any, Path], ResultT | None],
    labels: Sequence[str] | None = None,
) -> tuple[dict[Path, ResultT], dict[str, Exception]]:
    """Measure one model after the other; if one fails, the others are still measured.

    Each plan is removed from the list when it has run, since models are large. Returns the results by folder, and the
    errors by the label of the measurement, which is by default the name of the model.
    """
    several = len(plans) > 1
    labels = [plan.name for plan in plans] if labels is None else labels
    results: dict[Path, ResultT] = {}
    failures: dict[str, Exception] = {}
    for name, folder in zip(labels, folders, strict=True):
        try:
            result = measure(plans.pop(0), folder)
            if result is not None:  # the first process of torchrun has it
                results[folder] = result
        except click.exceptions.Exit:  # interrupted
            raise
        except Exception as error:  # also errors in the code of a model, which do not affect the others
            _release(error)
            if several:
                failure(name, error, failures)
            failures[name] = error
    return results, failures


def run_plan(
    plan: Any, folder: Path, state: str, load: Callable[[Path], ResultT], resume: bool, allow_other_device: bool
) -> ResultT | None:
    """Run one plan and save its result in ``folder``; if the run is interrupted, print the command that resumes it.

    ``state`` is the subfolder with the state of an unfinished run, which ``resume`` continues, with
    ``allow_other_device`` also on another device; it also accepts a finished result. Under torchrun, each process
    measures a part, and only the first one returns the result.
    """
    from replk_probe.ops.tuning.choices import TuningWarning
    from replk_probe.runtime.checkpoint import ResumeWarning, discard, exists
    from replk_probe.runtime.parts import part_folders, saved_parts
    from replk_probe.runtime.torchrun import gathered, this_process, together

    checkpoint = folder / state
    process = this_process()
    # A run that was divided is resumed with the same parts, whatever the number of processes is.
    ranges = saved_parts(checkpoint, plan.parts(1)[0].stop) if resume else []
    if not ranges and process is not None:
        ranges = plan.parts(process.count)
    parts = part_folders(checkpoint, ranges)
    states = [*parts.values()] or [checkpoint]
    finished: ResultT | None = None
    with together():
        if process is None or process.rank == 0:
            if parts and resume and exists(checkpoint):
                raise ResumeError(
                    f"Cannot resume {checkpoint}. The run was started without torchrun. Resume it without torchrun, or "
                    "start again without resume."
                )
            finished, resume = _to_resume(plan, folder, states, load, resume, allow_other_device)
            if not resume and (parts or not exists(checkpoint)):
                shutil.rmtree(checkpoint, ignore_errors=True)
    # Folders of the results of this command.
    saved = click.get_current_context().meta.setdefault(SAVED, [])
    if gathered(finished is not None)[0]:
        saved.append(folder)
        return finished
    try:
        prefix = f"{plan.name}: "
        with warnings_as_notes(ResumeWarning, prefix), warnings_as_notes(TuningWarning, prefix):
            result: ResultT | None = (
                plan.run(checkpoint=checkpoint, resume=resume, allow_other_device=allow_other_device, progress=True)
                if not parts
                else _run_parts_and_join(plan, parts, process, allow_other_device)
            )
    except KeyboardInterrupt:
        click.echo(err=True)
        if saved or any(map(exists, states)):
            note("Interrupted. Completed work is kept. Resume with:")
            note(f"  {command_line('--resume')}")
        else:
            note("Interrupted. Nothing was saved. Run the command again.")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    if result is not None:
        result.save(folder)
        saved.append(folder)
        discard(checkpoint)
        if parts:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return result


def _to_resume(
    plan: Any,
    folder: Path,
    states: Sequence[Path],
    load: Callable[[Path], ResultT],
    resume: bool,
    allow_other_device: bool,
) -> tuple[ResultT | None, bool]:
    """The result if the run is finished, and whether there is a state to resume from; notes what is done instead.

    Raises:
        ResumeError: The run is finished, but had other options: its result is not replaced.
    """
    from replk_probe.runtime.checkpoint import exists

    if any(map(exists, states)):
        if not resume:
            note(f"{plan.name}: discarding an unfinished run in {folder}. Use --resume to continue such a run.")
        return None, resume
    if resume:
        with contextlib.suppress(InvalidInputError):
            finished = load(folder)
            difference = plan.difference(finished, allow_other_device=allow_other_device)
            if difference is not None:
                raise ResumeError(f"Cannot resume {folder}. {difference}")
            note(f"{plan.name}: already measured, see {folder}")
            return finished, False
        note(f"{plan.name}: nothing to resume in {folder}. Starting a new run.")
    return None, False


def check_import(folder: Path, sources: Iterable[str], imported: Path | None) -> None:
    """Refuse to continue with a finished result without the observers that it has from another folder.

    Args:
        folder: Folder of the result.
        sources: Sources of its observers.
        imported: Folder of the observers of this command.

    Raises:
        ResumeError: The result has imported observers, and the command has none.
    """
    former = next((one for one in sources if one.startswith(IMPORTED)), None)
    if former is not None and imported is None:
        name = former.removeprefix(IMPORTED)
        raise ResumeError(
            f"Cannot resume {folder}. Its observers imported from {name} would be removed, since this run imports "
            f"none. Give --import with the folder {name}, or start again without --resume or in another folder."
        )


def _run_parts_and_join(
    plan: Any, parts: Mapping[range, Path], process: Process | None, allow_other_device: bool
) -> Any:
    """Measure the parts of this process; in the first process, join all parts."""
    from replk_probe.runtime.torchrun import together

    rank, count = (0, 1) if process is None else (process.rank, process.count)
    own = {part: parts[part] for part in [*parts][rank::count]}
    plan.agree_on_methods(own, allow_other_device=allow_other_device, progress=rank == 0)
    with together():
        for part in own:
            plan.run_part(part, parts[part], allow_other_device=allow_other_device, progress=rank == 0)
    result = None
    with together():
        if rank == 0:
            result = plan.join(parts, allow_other_device=allow_other_device)
    return result


@contextlib.contextmanager
def warnings_as_notes(kind: type[Warning], prefix: str = "") -> Iterator[None]:
    """Write the warnings of a class as notes that begin with ``prefix``; others are left as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", kind)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, kind):
                note(with_options(f"{prefix}{message}", click.get_current_context().command), fg="yellow")
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def resume_advice(results: Collection[object], folders: Sequence[Path], state: str) -> str:
    """The advice after a failure, by whether there are results or states of unfinished runs to resume from."""
    from replk_probe.runtime.checkpoint import exists

    states = [place for folder in folders for place in (folder / state, *(folder / state).glob("part-*"))]
    if results or any(map(exists, states)):
        return "Run the same command with --resume to keep completed work."
    return "Nothing was saved."


def raise_failures(failures: dict[str, Exception], models: int, advice: str) -> None:
    """Raise an error if any of the requested ``models`` failed; ``advice`` applies if there are several."""
    if not failures:
        return
    first = next(iter(failures.values()))
    unexpected = next((error for error in failures.values() if not isinstance(error, ReplkProbeError)), None)
    if models == 1 or unexpected is not None:
        raise unexpected or first
    names = ", ".join(failures)
    raise ReplkProbeError(
        f"{len(failures)} of {models} models could not be measured: {names}. The reasons are printed above. {advice}"
    )


def _release(error: BaseException | None) -> None:
    """Free the objects that the frames of a stored error refer to, such as the model."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
