"""Options that several commands share, and their checks, which run before any slow step."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from replk_probe.errors import InvalidInputError

from ._output import note

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class _Path(click.Path):
    """A path that the file system accepts, with a leading ``~`` expanded."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; a path that cannot be used raises an error of this package."""
        from replk_probe.runtime.paths import usable_path

        return usable_path(value, "The path" if param is None else param.opts[-1])


class _PathOrUrl(_Path):
    """A path as above, or a URL such as ``s3://bucket/folder``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or the URL unchanged."""
        from replk_probe.sweeps.storage import is_url

        return value if is_url(value) else super().convert(value, param, ctx)


class _BatchSize(click.IntRange):
    """A number of images at once, or the word auto."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or ``"auto"``, in any case."""
        if isinstance(value, str) and value.lower() == "auto":
            return "auto"
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is neither an integer of at least 1 nor auto.", param, ctx)


BATCH_SIZE = _BatchSize(1)
PATH = _Path()
PATH_OR_URL = _PathOrUrl()

connect_timeout_option = click.option(
    "--connect-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to wait for the first response.",
)


def selection_options(command: CommandT) -> CommandT:
    """Add ``--ema``, ``--entry`` and ``--prefix``."""
    prefix = click.option(
        "--prefix",
        metavar="TEXT",
        help="Load the tensors of a checkpoint whose names start with TEXT, and remove it from the names.",
    )
    entry = click.option(
        "--entry", metavar="NAME", help="Load this entry of a checkpoint, such as teacher or state.net."
    )
    ema = click.option("--ema", is_flag=True, help="Load the averaged weights (model_ema) of a checkpoint.")
    return ema(entry(prefix(command)))


def model_options(command: CommandT, *, default: str = "two small models trained on synthetic data") -> CommandT:
    """Add ``--model``, ``--weights``, ``--ema``, ``--entry`` and ``--prefix``; ``default`` describes the models."""
    weights = click.option(
        "--weights",
        multiple=True,
        default=("auto",),
        metavar="auto|pretrained|random|NAME|PATH",
        help="auto: pretrained if available, otherwise random. Or a name from 'replk-probe weights list', or a "
        "checkpoint file. Give it once for all models, or once per model in the same order. [default: auto]",
    )
    model = click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME",
        help="Name from 'replk-probe models' or from timm, torchvision:NAME, open_clip:NAME, package.module:factory or "
        f"path/to/file.py:factory. Repeat to compare models. [default: {default}]",
    )
    return model(weights(selection_options(command)))


def named_or_default(
    models: Sequence[str], weights: Sequence[str], analyzer: str = "kernels"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and weights of the models to measure; without a name, two small models for the analyzer, which is noted."""
    if models:
        return tuple(models), tuple(weights)
    if tuple(weights) != ("auto",):
        raise InvalidInputError(
            "--weights was given without --model. The default models are measured with their own weights. "
            "Give a model with --model, or omit --weights."
        )
    from replk_probe.models import default_models

    names = default_models(analyzer)
    note(f"No --model given: measuring {len(names)} small models trained on synthetic data.")
    # Not auto: results with random weights would be meaningless.
    return names, ("pretrained",)


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto, cpu, cuda or cuda:N; experimental: mps (Apple) and xpu (Intel). auto is an NVIDIA GPU or the CPU.",
)


def compute_options(command: CommandT) -> CommandT:
    """Add ``--precision`` and ``--device``."""
    precision = choice_option(
        "--precision",
        ["fp32", "fast", "bf16"],
        "fp32: strict float32. fast: float32 forward pass, reduced precision in the backward pass. bf16: reduced "
        "precision in both passes.",
    )
    return precision(device_option(command))


def resume_options(command: CommandT) -> CommandT:
    """Add ``--resume`` and ``--allow-other-device``."""
    other = click.option(
        "--allow-other-device",
        is_flag=True,
        help="Resume a run also on another device, with other versions of its software or another method of "
        "convolution. The last digits can differ.",
    )
    return click.option("--resume", is_flag=True, help="Resume an interrupted run.")(other(command))


def choice_option(
    name: str, choices: Sequence[str], purpose: str, *, multiple: bool = False
) -> Callable[[CommandT], CommandT]:
    """An option with a few possible values, the first of which is the default; ``purpose`` is its help text."""
    default = [choices[0]] if multiple else choices[0]
    return click.option(
        name, type=click.Choice(choices), default=default, multiple=multiple, show_default=True, help=purpose
    )


tune_option = choice_option(
    "--tune",
    ["auto", "off", "force"],
    "Choose the methods of large depthwise convolutions by measurement. auto: on a GPU, in long runs. force: in all "
    "runs, on a CPU as well.",
)


def input_options(command: CommandT) -> CommandT:
    """Add ``--channels``, ``--mean``, ``--std`` and ``--bgr``."""
    for option in (
        click.option("--bgr", is_flag=True, help="The network takes the colors in the order blue, green, red."),
        click.option("--std", metavar="S,...", help="Standard deviation of the inputs, like --mean."),
        click.option(
            "--mean",
            metavar="M,...",
            help="Mean of the inputs in 0 to 1, to be subtracted: one number, one per channel, or those of red, green "
            "and blue. [default: that of the network]",
        ),
        click.option(
            "--channels",
            type=click.IntRange(1),
            metavar="N",
            help="Input channels; 1: luminance. [default: 3, or what the first layer takes]",
        ),
    ):
        command = option(command)
    return command


def decision_options(command: CommandT) -> CommandT:
    """Add ``--mapping``, ``--batch-size`` and ``--workers``."""
    workers = click.option(
        "--workers",
        type=click.IntRange(0),
        metavar="N",
        help="Data-loading workers; 0 loads in the main process. [default: depends on the number of cores]",
    )
    batch_size = click.option(
        "--batch-size",
        type=BATCH_SIZE,
        default=32,
        show_default=True,
        metavar="N|auto",
        help="Stimuli per forward pass, halved if the memory does not suffice. auto: 32 on a CPU; up to 64 on a GPU, "
        "as many as fit into its free memory.",
    )
    mapping = click.option(
        "--mapping",
        type=PATH,
        metavar="FILE.json",
        help="Class indices of each category, for classifiers with other classes than ImageNet-1k.",
    )
    return mapping(batch_size(workers(command)))


def refuse_without_model(accepted: Collection[str]) -> None:
    """Refuse options of a measurement if only imported data is analyzed; ``accepted`` are the names of the others."""
    for name, parameter in given_options().items():
        if name not in accepted:
            option = parameter.opts[0]
            raise InvalidInputError(
                f"{option} was given with --import but without --model. Only the imported decisions are analyzed. "
                f"Give a model to measure with --model, or omit {option}."
            )


def size_option(help_text: str) -> Callable[[CommandT], CommandT]:
    """Add ``--size``; ``help_text`` is its help text."""
    return click.option("--size", metavar="PX|HxW", help=help_text)


def parse_size(text: str) -> int | tuple[int, int]:
    """Parse a side in pixels or a height and a width; their range is checked later.

    Raises:
        InvalidInputError: The text is neither.
    """
    found = re.fullmatch(r"([+-]?\d{1,9})(?:x(\d{1,9}))?", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise InvalidInputError(
            f"Cannot parse size {text!r}. Expected a side in pixels, or a height and a width. For example: --size 224 "
            "or --size 224x160."
        )
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def parse_statistics(option: str, text: str | None) -> tuple[float, ...] | None:
    """Parse numbers separated by commas, one or one for each channel; their range is checked later.

    Raises:
        InvalidInputError: The text is not a list of numbers.
    """
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidInputError(
            f"Cannot parse {option} {text!r}. Expected numbers separated by commas. For example: {option} "
            "0.485,0.456,0.406."
        ) from error


def style_option(command: CommandT) -> CommandT:
    """Add ``--style``, which applies to all figures of the command and is not passed to it."""
    option = click.option(
        "--style",
        type=click.Choice(["paper", "talk", "notebook"]),
        callback=_use_style,
        expose_value=False,
        help="Figures for a paper (columns of 3.25 in, text of 6.75 in, labels of 8 points; also as SVG), for slides "
        "or for a notebook. [default: 3.4 and 7 in, labels of 7 points]",
    )
    return option(command)


def _use_style(ctx: click.Context, option: click.Parameter, style: str | None) -> None:
    if style is not None and not ctx.resilient_parsing:
        from replk_probe.plot_style import figure_preset

        ctx.meta[str(option.name)] = style
        ctx.with_resource(figure_preset(style))


def output_option(default: str) -> Callable[[CommandT], CommandT]:
    """Add ``--output``; ``default`` describes the folder that is used without it."""
    return click.option("-o", "--output", type=PATH, metavar="DIR", help=f"Output folder. [default: {default}]")


def seed_option(purpose: str) -> Callable[[CommandT], CommandT]:
    """Add ``--seed``; ``purpose`` is its help text."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help=purpose,
        callback=_checked_seed,
    )  # fmt: skip


def _checked_seed(ctx: click.Context, option: click.Parameter, seed: int) -> int:
    # The range of click would be printed in the help.
    if seed >= 2**63:
        raise click.BadParameter(f"{seed} is not in the range 0 to 2**63 - 1.", ctx, option)
    return seed


def destinations(models: Sequence[str], output: Path | None, default: Path) -> list[Path]:
    """Output folder of each model, which is writable: ``output`` itself for one model, subfolders of it for several.

    Without ``output``, each model has a subfolder of ``default``, even a single one.
    """
    from replk_probe.runtime.paths import slug

    if len(models) == 1:
        folders = [default / slug(models[0]) if output is None else output]
    else:
        folders = [(output or default) / slug(model) for model in models]
    for folder in folders:
        if folders.count(folder) > 1:
            names = " and ".join(repr(model) for model, other in zip(models, folders, strict=True) if other == folder)
            options = [name for option in click.get_current_context().command.params for name in option.opts]
            label = ", or name a map by --label" if "--label" in options else ""
            raise InvalidInputError(
                f"{names} would both write to {folder}. Each result needs its own folder. Measure one of them in a "
                f"separate run with another --output{label}."
            )
        check_writable(folder)
    return folders


def weights_of_each(models: Sequence[str], weights: Sequence[str]) -> list[str]:
    """One entry of ``--weights`` per model, which exists, as the model does; nothing is downloaded or built."""
    from replk_probe.models.builders import builder_of
    from replk_probe.models.model_id import ModelId
    from replk_probe.models.weights.resolve import check_weights_exist

    if len(weights) not in (1, len(models)):
        raise InvalidInputError(
            f"--weights was given {len(weights)} times for {len(models)} models. The numbers must match. "
            "Give it once for all models, or once per model in the order of --model."
        )
    each = list(weights) if len(weights) == len(models) else [*weights] * len(models)
    for name, source in zip(models, each, strict=True):
        model = ModelId.parse(name)
        builder_of(model)
        check_weights_exist(model, source)
    return each


def check_writable(folder: Path) -> None:
    """Raise InvalidInputError unless a folder can be created and written to; it is not created."""
    from replk_probe.runtime.atomic_files import temporary_path

    existing = folder
    reason = None
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if existing.is_dir():
            probe = temporary_path(existing / "probe")
            probe.touch(exist_ok=False)
            probe.unlink()
        else:
            reason = f"'{existing}' is not a folder"
    except OSError as error:
        reason = f"'{existing}': {error.strerror or error}"
    if reason is not None:
        raise InvalidInputError(f"Cannot write to {folder}. {reason}. Choose another --output.")


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Parse numbers separated by commas; their range is checked later."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidInputError(
            f"Cannot parse thresholds {text!r}. Expected fractions separated by commas. "
            "For example: --thresholds 0.2,0.5."
        ) from error


def given_options() -> dict[str, click.Parameter]:
    """The parameters that were given on the command line, by name."""
    context = click.get_current_context()
    return {
        parameter.name: parameter
        for parameter in context.command.params
        if parameter.name and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    }


def command_line(*more: str) -> str:
    """The current command line, with the flags ``more`` appended."""
    from replk_probe.runtime.torchrun import this_process

    context = click.get_current_context()
    words = context.command_path.split()
    process = this_process()
    if process is not None:
        words[:1] = ["torchrun", "--nproc-per-node", str(process.count), "-m", "replk_probe"]
    for name, parameter in given_options().items():
        if parameter.opts[0] in more:
            continue
        # Options that are not passed to the command store their value themselves.
        value = context.params[name] if name in context.params else context.meta[name]
        if isinstance(parameter, click.Argument):
            words += map(str, value if parameter.nargs != 1 else (value,))
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0])
        else:
            for item in value if parameter.multiple else (value,):
                words += [parameter.opts[0], str(item)]
    return shlex.join([*words, *more])
