"""`replk-probe tune`: the fastest methods for the large depthwise convolutions of a model on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING

import click

from replk_probe.errors import InvalidInputError, ReplkProbeError

from ._options import compute_options, given_options, parse_size, size_option
from ._output import note, show
from ._runs import warnings_as_notes

if TYPE_CHECKING:
    from replk_probe.ops import TunedConvolution

_LARGEST = 16384  # pixels of a side


@click.command()
@click.option("--model", metavar="NAME", help="Name as for 'replk-probe erf'; its weights do not matter.")
@size_option("Input size, PX x PX or H x W. [default: that of the model]")
@click.option(
    "--channels", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Input channels of the model."
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Images at once. Give that of the runs to be made: choices depend on it.",
)
@compute_options
@click.option("--force", is_flag=True, help="Measure again where a choice is stored, and also measure on a CPU.")
@click.option("--clear", is_flag=True, help="Remove all stored choices.")
def command(
    model: str | None,
    size: str | None,
    channels: int,
    batch_size: int,
    device: str,
    precision: str,
    force: bool,
    clear: bool,
) -> None:
    """Choose the fastest methods for the large depthwise convolutions of a model.

    Every method is compared with the answer in float64 before it is timed, torch's own as well. Another method than the
    default is chosen only if it takes at most 0.9 of the time. Convolutions are measured from 7x7 and from 2^27
    multiply-adds (on a CPU 2^20): images x channels x height x width x kernel height x kernel width. The choices are
    stored in REPLK_PROBE_CACHE for this device and these versions of the software; 'replk-probe info' lists them. On a
    CPU, nothing is measured without --force, because the native library chooses by a table.

    The commands erf and shape-bias choose by themselves in long runs on a GPU: see their option --tune. On a CPU, they
    use the choices with --tune force.
    """
    if clear:
        if {*given_options()} - {"clear"}:
            raise InvalidInputError("--clear takes no other options. It removes all choices. Omit the other options.")
        _clear()
        return
    if model is None:
        raise InvalidInputError(
            "No model was given. The convolutions of one model are measured. Give its name with --model. "
            "For example: replk-probe tune --model replknet31b --size 224."
        )
    import torch

    from replk_probe.models import create_model, data_config
    from replk_probe.models.inference.copying import on_device
    from replk_probe.models.inference.failure import explain
    from replk_probe.models.inference.prepare import prepared_copy
    from replk_probe.ops import TuningWarning, tune
    from replk_probe.report.text import terminal_layout, wrapped
    from replk_probe.runtime.checks import check_size
    from replk_probe.runtime.devices import measuring, resolve_device

    sides = None if size is None else check_size(parse_size(size), largest=_LARGEST)
    place = resolve_device(device)
    network = create_model(model, weights="random")
    height, width = sides or data_config(network).input_size
    with measuring(place, (height, width)), warnings_as_notes(TuningWarning):
        prepared = prepared_copy(on_device(network, place), precision, None, backward=True)
        images = torch.rand((batch_size, channels, height, width), device=place)
        try:
            found = tune(prepared.module, images, force=force)
        except (ReplkProbeError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InvalidInputError(explain(error, network, tuple(images.shape)).message) from error
    layout = terminal_layout()
    if found.reason is not None:
        advice = " Give --force to measure." if place.type == "cpu" and not force else ""
        for line in wrapped(f"Nothing was measured. {found.reason}{advice}", layout=layout):
            note(line)
    for one in found.convolutions:
        show(*wrapped(one.problem, layout=layout), *wrapped(_described(one), "  ", layout))
    refusals = _refusals(one.refused for one in found.convolutions)
    show(*chain.from_iterable(wrapped(text, "not used: ", layout) for text in refusals))


def _clear() -> None:
    from replk_probe.ops import clear_tuning
    from replk_probe.runtime.formatting import counted

    show(f"Removed {counted(clear_tuning(), 'stored choice')}.")


def _described(one: TunedConvolution) -> str:
    """The method of a convolution with its time, and why it was chosen."""
    times = {name: f"{seconds * 1e3:.3g} ms" for name, seconds in one.seconds.items()}
    text = f"{one.method}, {times[one.method]}" if one.method in times else one.method
    if one.method != one.default and one.gain is not None:
        text = f"{text}, {one.gain:.2f} times the speed of {one.default} ({times[one.default]})"
    return f"{text}: {one.reason}"


def _refusals(refused: Iterable[Mapping[str, str]]) -> list[str]:
    """Each reason once, with the number of convolutions that it applies to; times are in the stored choices."""
    counts: dict[str, int] = {}
    for each in refused:
        for name, reason in each.items():
            text = f"{name}: {'slower' if reason.startswith('slower: ') else reason}"
            counts[text] = counts.get(text, 0) + 1
    return [text + (f" ({count} convolutions)" if count > 1 else "") for text, count in counts.items()]
