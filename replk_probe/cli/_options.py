"""Options that several commands share, and what is checked about them before anything slow begins."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from replk_probe.errors import InvalidInputError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_NOT_IN_SLUGS = re.compile(r"[^A-Za-z0-9._-]")


def model_options(*, required: bool) -> Callable[[CommandT], CommandT]:
    """``--model``, which ``required`` makes one give, ``--weights`` and ``--ema``."""

    def add(command: CommandT) -> CommandT:
        for option in (
            click.option("--ema", is_flag=True, help="Take the averaged entry (model_ema) of a checkpoint."),
            click.option(
                "--weights",
                "weights",
                multiple=True,
                default=("auto",),
                metavar="auto|pretrained|random|NAME|PATH",
                show_default="auto",
                help="Weights of the models: pretrained if they can be had, else random (auto); a name of "
                "'replk-probe weights list'; a file. Given once for all models or once for each, in their order.",
            ),
            click.option(
                "--model",
                "models",
                multiple=True,
                required=required,
                metavar="NAME",
                help="A model of 'replk-probe models' or of timm, torchvision:NAME, package.module:factory or "
                "file.py:factory. Repeat it to compare several."
                + ("" if required else " [default: two small models trained on synthetic data]"),
            ),
        ):
            command = option(command)
        return command

    return add


def named_or_default(models: Sequence[str], weights: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and weights of the models to measure: as given, or where none is named the small ones, said aloud.

    Raises:
        InvalidInputError: Weights are given for no model.
    """
    if models:
        return tuple(models), tuple(weights)
    if tuple(weights) != ("auto",):
        raise InvalidInputError(
            "No model was named. --weights says which weights a model has. Name the model with --model."
        )
    from replk_probe.models import default_models

    names = default_models()
    click.echo(
        f"No --model: {' and '.join(names)}, small models trained on synthetic data that are a part of this package. "
        "A demonstration, no results on ImageNet; --model names others.",
        err=True,
    )
    # Not auto: random weights are no demonstration of anything.
    return names, ("pretrained",)


def compute_options(command: CommandT) -> CommandT:
    """``--precision`` and ``--device``."""
    for option in (
        click.option(
            "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ..."
        ),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "fast", "bf16"]),
            default="fp32",
            show_default=True,
            help="fp32: strict. fast: float32 forward, reduced-precision matrix units "
            "backward. bf16: reduced both ways.",
        ),
    ):
        command = option(command)
    return command


def output_option(default: str) -> Callable[[CommandT], CommandT]:
    """``--output``; ``default`` says in words where results go without it."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help=f"Folder of the results. [default: {default}]",
    )


def slug(name: str) -> str:
    """A model's name as the name of a folder: every character outside ``[A-Za-z0-9._-]`` becomes ``-``."""
    return _NOT_IN_SLUGS.sub("-", name)


def destinations(models: Sequence[str], output: Path | None, default: Path) -> list[Path]:
    """The folder of each model: ``output`` itself for one, a folder inside it for each of several.

    Args:
        models: Names, in their order.
        output: As given, or None.
        default: Takes the place of ``output``; then one model has a folder inside as well.

    Raises:
        InvalidInputError: Two models would write into one folder, or a folder cannot be written to.
    """
    if len(models) == 1:
        folders = [default / slug(models[0]) if output is None else output]
    else:
        folders = [(output or default) / slug(model) for model in models]
    for folder in folders:
        if folders.count(folder) > 1:
            names = " and ".join(repr(model) for model, other in zip(models, folders, strict=True) if other == folder)
            raise InvalidInputError(
                f"Models {names} would both write to {folder}. Results are kept one folder per name. "
                "Measure one of them in a run of its own, with another --output."
            )
        check_writable(folder)
    return folders


def weights_of_each(models: Sequence[str], weights: Sequence[str]) -> list[str]:
    """One entry per model.

    Raises:
        InvalidInputError: There are neither one nor as many as models.
    """
    if len(weights) == 1:
        return [weights[0]] * len(models)
    if len(weights) != len(models):
        raise InvalidInputError(
            f"--weights was given {len(weights)} times for {len(models)} models. It is unclear which belong to which. "
            "Give it once for all models, or once for each in the order of --model."
        )
    return list(weights)


def check_writable(folder: Path) -> None:
    """Find out whether a folder can be made and written to, leaving nothing behind.

    Raises:
        InvalidInputError: It cannot.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    reason = None
    if not existing.is_dir():
        reason = f"'{existing}' is not a folder"
    else:
        probe = existing / f".replk-probe-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            reason = f"'{existing}': {error.strerror or error}"
    if reason is not None:
        raise InvalidInputError(f"Cannot write to {folder}. {reason}. Choose another --output.")


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Numbers separated by commas.

    Raises:
        InvalidInputError: Something else stands there. Whether they lie in (0, 1) is for the protocol to say.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidInputError(
            f"Thresholds {text!r} cannot be read. They are shares of the total contribution, separated by commas. "
            "Give for instance --thresholds 0.2,0.5."
        ) from error


def given_options() -> dict[str, click.Parameter]:
    """What was written on the command line, by its parameter's name."""
    context = click.get_current_context()
    found = {parameter.name or "": parameter for parameter in context.command.params}
    return {
        name: parameter
        for name, parameter in found.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def command_line(*more: str) -> str:
    """The running command as it would be typed, with ``more`` flags at its end."""
    context = click.get_current_context()
    words = context.command_path.split()
    for name, parameter in given_options().items():
        if parameter.opts[0] in more:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0])
            continue
        for item in value if parameter.multiple else (value,):
            words += [parameter.opts[0], str(item)]
    return shlex.join([*words, *more])
