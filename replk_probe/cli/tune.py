"""`replk-probe tune`: the fastest methods for the large depthwise convolutions of a model on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from replk_probe.errors import InvalidInputError, ReplkProbeError

from ._options import compute_options, given_options
from ._output import note, show
from ._runs import warnings_as_notes

if TYPE_CHECKING:
    from replk_probe.ops import TuningResult

_HEAD = ("convolution", "method", "speed", "time", "default", "reason")


@click.command()
@click.option("--model", metavar="NAME", help="Name as for 'replk-probe erf'; its weights do not matter.")
@click.option(
    "--size", type=click.IntRange(1, 16384), metavar="PX", help="Side of the images. [default: that of the model]"
)
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Images at once.")
@compute_options
@click.option("--force", is_flag=True, help="Measure also what is stored already, and on a CPU.")
@click.option("--clear", is_flag=True, help="Remove all stored choices.")
def command(
    model: str | None, size: int | None, batch_size: int, device: str, precision: str, force: bool, clear: bool
) -> None:
    """Choose the fastest methods for the large depthwise convolutions of a model.

    Every method is compared with the answer in float64 before it is timed, torch's own as well. Another method than the
    default is chosen only if it takes at most 0.9 of the time. The choices are stored in REPLK_PROBE_CACHE for this
    device and these versions of the software; 'replk-probe info' lists them. On a CPU, nothing is measured without
    --force, because the native library chooses by a table.

    The commands erf and shape-bias choose by themselves in long runs on a GPU: see their option --tune.
    """
    if clear == (model is not None):
        raise InvalidInputError(
            "Give either --model or --clear. A model is tuned, or all choices are removed. "
            "For example: replk-probe tune --model replknet31b --size 224."
        )
    if model is None:
        if {*given_options()} - {"clear"}:
            raise InvalidInputError("--clear takes no other options. It removes all choices. Omit the other options.")
        _clear()
        return
    import torch

    from replk_probe.models import create_model, data_config
    from replk_probe.models.inference.copying import on_device
    from replk_probe.models.inference.failure import explain
    from replk_probe.models.inference.prepare import prepared_copy
    from replk_probe.ops import TuningWarning, tune
    from replk_probe.report.text import table, terminal_layout
    from replk_probe.runtime.devices import measuring, resolve_device

    place = resolve_device(device)
    network = create_model(model, weights="random")
    height, width = data_config(network).input_size if size is None else (size, size)
    with measuring(place, (height, width)), warnings_as_notes(TuningWarning):
        prepared = prepared_copy(on_device(network, place), precision, None, backward=True)
        images = torch.rand((batch_size, 3, height, width), device=place)
        try:
            found = tune(prepared.module, images, force=force)
        except (ReplkProbeError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InvalidInputError(explain(error, network, tuple(images.shape)).message) from error
    if not found.convolutions:
        if place.type == "cpu" and not force:
            note("Nothing was measured: the native library chooses by a table. Give --force to measure.")
        else:
            note(f"Nothing was measured: no convolution of {model} is large enough.")
        return
    show(*table(_HEAD, _rows(found), terminal_layout(), ("method", "default", "reason"), ("reason", "default")))
    for line in _refusals(one.refused for one in found.convolutions):
        show(line)


def _clear() -> None:
    from replk_probe.ops import clear_tuning
    from replk_probe.runtime.formatting import counted

    show(f"Removed {counted(clear_tuning(), 'stored choice')}.")


def _rows(found: TuningResult) -> Iterable[tuple[str, ...]]:
    for one in found.convolutions:
        time = one.seconds.get(one.method)
        yield (
            one.problem,
            one.method,
            "-" if one.gain is None else f"{one.gain:.2f}x",
            "-" if time is None else f"{time * 1e3:.3g} ms",
            one.default,
            one.reason,
        )


def _refusals(refused: Iterable[Mapping[str, str]]) -> list[str]:
    """Each reason once, with the number of convolutions that it applies to."""
    counts: dict[str, int] = {}
    for each in refused:
        for name, reason in each.items():
            text = f"{name}: {reason}"
            counts[text] = counts.get(text, 0) + 1
    return [f"not used: {text}" + (f" ({count} convolutions)" if count > 1 else "") for text, count in counts.items()]
