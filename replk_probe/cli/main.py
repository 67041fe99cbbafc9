"""The `replk-probe` program: a group whose commands are imported only when one of them is run."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from replk_probe import __version__
from replk_probe.errors import ReplkProbeError, close_names

from ._output import EXIT_INTERRUPTED, SAVED, note, with_options

PROGRAM = "replk-probe"


class LazyCommand(NamedTuple):
    """Module with a click object ``command``, and its summary, which help and completion show without importing it."""

    module: str
    summary: str


COMMANDS: dict[str, LazyCommand] = {
    "attribute": LazyCommand("replk_probe.cli.attribute", "Attribute class scores to the pixels of images."),
    "behaviour": LazyCommand(
        "replk_probe.cli.behaviour", "Compare decisions on 17 sets of images with those of people."
    ),
    "bench": LazyCommand("replk_probe.cli.bench", "Compare the speed of the depthwise convolution with torch."),
    "compare": LazyCommand("replk_probe.cli.compare", "Compare two results, with intervals."),
    "data": LazyCommand("replk_probe.cli.data", "Download and verify published stimuli."),
    "demo": LazyCommand("replk_probe.cli.demo", "Run four analyzers on embedded models, and write an HTML page."),
    "erf": LazyCommand("replk_probe.cli.erf", "Measure the effective receptive field."),
    "info": LazyCommand("replk_probe.cli.info", "Show the CPU, the GPU and the backend of convolutions."),
    "kernels": LazyCommand("replk_probe.cli.kernels", "Measure and plot the magnitude of convolution kernels."),
    "models": LazyCommand("replk_probe.cli.models", "List models with kernel sizes, parameters, MACs and weights."),
    "reliance": LazyCommand("replk_probe.cli.reliance", "Measure the accuracy when a cue is suppressed."),
    "reparam": LazyCommand("replk_probe.cli.reparam", "Merge the branches in a checkpoint, or rename its tensors."),
    "report": LazyCommand("replk_probe.cli.report", "Collect results in one HTML page."),
    "shape-bias": LazyCommand("replk_probe.cli.shape_bias", "Measure the shape bias on cue-conflict stimuli."),
    "sweep": LazyCommand("replk_probe.cli.sweep", "Measure many models by several analyzers, in worker processes."),
    "tune": LazyCommand("replk_probe.cli.tune", "Choose the fastest methods for the convolutions of a model."),
    "weights": LazyCommand("replk_probe.cli.weights", "List, download and verify pretrained weights."),
}

# Commands that divide their work among the processes of torchrun.
_DIVIDED = ("behaviour", "erf", "shape-bias")
# Entry of the context for the command whose options are given, such as `data fetch` instead of the group `data`.
_LEAF = f"{__name__}.leaf"
# Seconds for which a process of torchrun waits for the first one to fail as well.
_SILENT_SECONDS = 10.0


class LazyGroup(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called ``cmd_name``, or None if there is no such command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = importlib.import_module(entry.module).command
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}.command is {type(command).__name__}, not a click command")
        command.short_help = entry.summary
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that ``args`` starts with, or suggest close ones."""
        # Completion parses unfinished lines, and click itself reports unknown options.
        if not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = close_names(args[0], COMMANDS)
            hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Commands: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        from replk_probe.runtime.torchrun import this_process

        found = super().resolve_command(ctx, args)
        process = this_process()
        if process is not None and found[0] not in _DIVIDED and not ctx.resilient_parsing:
            others = ", ".join(_DIVIDED[:-1])
            raise ReplkProbeError(
                f"The command {found[0]} cannot run in {process.count} processes of torchrun. Only {others} and "
                f"{_DIVIDED[-1]} divide their work. Run replk-probe {found[0]} without torchrun."
            )
        _, command, rest = found
        nested = command.get_command(ctx, rest[0]) if isinstance(command, click.Group) and rest else None
        ctx.meta[_LEAF] = nested or command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without importing the commands, which would delay completion."""
        names = [
            CompletionItem(name, help=entry.summary) for name, entry in COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of this package becomes one escaped line and exit status 1."""
        from replk_probe.runtime.escaping import printable

        try:
            return super().invoke(ctx)
        except ReplkProbeError as error:
            message = with_options(str(error), ctx.meta.get(_LEAF))
            raise click.ClickException(printable(" ".join(message.split("\n")))) from error
        except click.exceptions.NoArgsIsHelpError:
            raise  # its message is the help of a group, in several lines
        except click.UsageError as error:
            raise click.UsageError(printable(" ".join(error.format_message().split())), error.ctx) from error
        except KeyboardInterrupt:
            # Commands that can be resumed write no file before the first result.
            leaf = ctx.meta.get(_LEAF)
            can_resume = any(one.name == "resume" for one in leaf.params) if leaf else True
            what = "Files that were written are complete"
            if can_resume and not ctx.meta.get(SAVED):
                what = "Nothing was saved"
            click.echo(f"\nInterrupted. {what}. Run the command again.", err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Run 'replk-probe COMMAND --help' for the options of a command.",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Measure what vision models use: effective receptive field, shape bias, kernel magnitude."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the program and exit.

    The status is 0 for success, 1 for an error, 2 for wrong usage and 130 when interrupted. It is also 1, without a
    message, if the program that reads the output has closed the pipe.

    Args:
        args: Command-line arguments without the program's name; default ``sys.argv[1:]``.
    """
    from replk_probe.runtime.deferred_imports import defer_imports
    from replk_probe.runtime.torchrun import this_process

    # The name is fixed so that usage lines and completion are the same under `python -m replk_probe`.
    if args is not None:
        cli.main(args=args, prog_name=PROGRAM)
    # Creating the million objects of torch and timm takes 0.5 s longer if they are searched for garbage each time.
    gc.set_threshold(100_000)
    atexit.register(_keep_objects)
    defer_imports()
    process = this_process()
    if process is not None and process.rank > 0:
        sys.exit(_run_silently())
    status: Any = 0
    problem, stdout = _open_streams(), sys.stdout
    if problem is None:
        try:
            cli.main(prog_name=PROGRAM)
        except SystemExit as end:
            status = end.code
            if sys.stdout is not stdout:  # click wraps it if it is a closed pipe
                problem = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        except OSError as error:
            problem = error
    problem = _flush_streams() or problem
    if problem is not None:
        status = status or 1
        reason = problem.strerror or str(problem) or type(problem).__name__
        if problem.errno == errno.EPIPE:
            message = "Cannot write the output. The program that reads it has ended. Send the output to another place."
        elif problem.filename is None:
            message = f"Cannot write the output. {reason}. Free some space or send the output to another place."
        else:
            message = f"Cannot use {problem.filename}. {reason}. Check the path, its permissions and the free space."
        with contextlib.suppress(OSError):
            note(f"Error: {message}")
        _flush_streams()
    sys.exit(status)


def _keep_objects() -> None:
    """Keep the interpreter from searching all objects of torch and timm again at exit, which takes another second.

    Triton 3.9 reports objects that were not searched as leaks.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def _run_silently() -> Any:
    """Run the command in another process than the first one of torchrun, which writes what all would; its status."""
    errors = io.StringIO()
    status: Any = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            cli.main(prog_name=PROGRAM)
        except SystemExit as end:
            status = end.code
        except Exception as error:
            status = 1
            note(f"Error: {type(error).__name__}: {error}")
    if status not in (None, 0, EXIT_INTERRUPTED):
        # torchrun ends all processes when one has failed. The first one is given time to write its error; if it does
        # not fail, this is an error of this process alone.
        time.sleep(_SILENT_SECONDS)
        note(errors.getvalue().rstrip("\n").rpartition("\n")[2])
    return status


def _open_streams() -> OSError | None:
    """Open closed standard streams, so that no other file takes their numbers; return an error if stdout was closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")
    return OSError(errno.EBADF, "Standard output is closed") if sys.stdout is None else None


def _flush_streams() -> OSError | None:
    """Write buffered output now, since the interpreter ignores errors at exit; return the error, if any."""
    found = None
    for stream in filter(None, (sys.__stderr__, sys.__stdout__)):
        try:
            stream.flush()
        except OSError as error:
            found = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return found
