"""Output of commands: results on standard output, notes on standard error, both with special characters escaped."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import click

EXIT_INTERRUPTED = 130  # what a shell reports for a program terminated by SIGINT: 128 + 2
SAVED = "replk_probe.saved"  # entry of the context of a command: folders of the results that it has saved

# Advice to change a parameter, in messages of the library.
_ADVICE = re.compile(
    r"\b((?:give|set|use|omit|leave|with|without|given as) (?:the same )?)([a-z]+(?:[_-][a-z]+)*)"
    r"(?= '| to | out\b|[,.;]| or | \d)",
    re.IGNORECASE,
)


def with_options(text: str, command: click.Command | None) -> str:
    """A message of the library, which names parameters of Python functions, with the options of a command instead.

    Only advice is changed: "Give data, a folder of images" becomes "Give --data, a folder of images".
    """
    names = {name for one in command.params for name in one.opts if name.startswith("--")} if command else ()
    return _ADVICE.sub(
        lambda found: found[1] + (option if (option := f"--{found[2].replace('_', '-')}") in names else found[2]), text
    )


def note(text: str, fg: str | None = None) -> None:
    """Write one escaped line to standard error, in the color ``fg`` on a terminal unless ``NO_COLOR`` is set."""
    from replk_probe.runtime.escaping import printable

    line = printable(text)
    click.echo(line if fg is None or os.environ.get("NO_COLOR") else click.style(line, fg=fg), err=True)


def show(*lines: str) -> None:
    """Write lines to standard output, each escaped."""
    from replk_probe.runtime.escaping import printable

    for line in lines:
        click.echo(printable(line))


def show_path(path: Path | str) -> None:
    """Write a path to standard output: escaped on a terminal, otherwise unchanged."""
    (show if sys.stdout.isatty() else click.echo)(str(path))


def failure(name: str, error: Exception, before: Mapping[str, Exception]) -> None:
    """Write the error of one of several models to standard error, unless it is that of a model that failed before."""
    same = next((other for other, known in before.items() if str(known) == str(error)), None)
    message = with_options(str(error), click.get_current_context().command)
    reason = " ".join(message.split()) if same is None else f"The reason is the same as for {same}."
    note(f"{name}: failed. {reason}", fg="red")


def conclusion(count: int, noun: str, seconds: float, folder: Path | None) -> None:
    """Write the duration of a measurement and the folder of its results to standard error."""
    rate = count / seconds if seconds > 0 else 0.0
    speed = f" ({rate:.0f} per second)" if rate >= 100 else f" ({rate:.3g} per second)" if rate else ""
    note(f"{count} {noun}{'' if count == 1 else 's'} in {seconds:.1f} s{speed}. Results in {folder}")
