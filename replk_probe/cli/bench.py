"""`replk-probe bench`: how fast the depthwise convolution is on this machine, beside torch's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replk_probe.errors import InvalidInputError

from ._options import check_writable

if TYPE_CHECKING:
    from replk_probe.bench.result import Layer

_PASSES = {"forward": "forward", "grad-input": "grad_input", "grad-weight": "grad_weight"}


@click.command()
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="N,C,H,W,KH,KW",
    help="A layer to time. Repeat it for several. [default: layers of RepLKNet, SLaK and ConvNeXt]",
)
@click.option("--model", metavar="NAME", help="Time the depthwise layers of a model.")
@click.option("--input-size", type=click.IntRange(1), default=224, show_default=True, metavar="PX", help="Of --model.")
@click.option("--sweep", is_flag=True, help="Time many kernel sizes on many planes, and say where torch is faster.")
@click.option("--planes", metavar="H,H,...", help="Planes of --sweep. [default: 7 to 256]")
@click.option("--kernels", metavar="K,K,...", help="Kernels of --sweep. [default: 3 to 61]")
@click.option(
    "--pass",
    "directions",
    multiple=True,
    type=click.Choice([*_PASSES, "all"]),
    default=("forward",),
    show_default="forward",
    help="What to time. Repeat it for several.",
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Of every variant. [default: torch's]")
@click.option("--isa", type=click.Choice(["portable", "avx2", "avx512"]), help="Force our kernels to one.")
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=9,
    show_default=True,
    metavar="N",
    help="Turns of each variant: a turn is one call, or some of them where a call is short.",
)
@click.option("--all", "everything", is_flag=True, help="Also time what takes many seconds a call.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every number in full.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write bench.json, bench.csv, bench.png and bench.pdf there.",
)
def command(
    shapes: tuple[str, ...],
    model: str | None,
    input_size: int,
    sweep: bool,
    planes: str | None,
    kernels: str | None,
    directions: tuple[str, ...],
    dtype: str,
    threads: int | None,
    isa: str | None,
    repeats: int,
    everything: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    """Time the depthwise convolution beside torch's own ways: conv2d in both layouts, and torch.fft.

    All take turns within one run. Ours is timed as a module in eval mode, whose kernel is prepared, and as a function;
    torch.fft has its spectrum ready too. A run on an idle machine tells more than one beside other work.
    """
    if sum((bool(shapes), model is not None, sweep)) > 1:
        raise click.UsageError("--shape, --model and --sweep each say what to time. Give one of them.")
    if (planes is not None or kernels is not None) and not sweep:
        raise click.UsageError("--planes and --kernels belong to --sweep. Give that too.")
    source = click.get_current_context().get_parameter_source("input_size")
    if model is None and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--input-size belongs to --model. Give that too.")
    sides = None if planes is None else _integers("--planes", planes, "7,56,256")
    sizes = None if kernels is None else _integers("--kernels", kernels, "3,7,31")
    given = _given(shapes, sides, sizes)
    if output is not None:
        check_writable(output)
    chosen = list(_PASSES.values()) if "all" in directions else [_PASSES[name] for name in dict.fromkeys(directions)]

    from replk_probe.bench.measure import measure_speed
    from replk_probe.bench.plot import save_figures
    from replk_probe.report.bench_table import bench_table, sweep_summary

    result = measure_speed(
        given or _layers(model, input_size, sweep, sides, sizes),
        chosen,
        dtype=dtype,
        threads=threads,
        isa=isa,
        repeats=repeats,
        # Many cases, and what torch takes long for is not what decides them.
        budget=0.25 if sweep else 2.0,
        everything=everything,
        progress=True,
    )
    if output is not None:
        result.save(output)
        save_figures(result, output)
    click.echo(json.dumps(result.to_json(), indent=1) if as_json else bench_table(result))
    if sweep and not as_json:
        click.echo("\n" + sweep_summary(result))
    if output is not None:
        click.echo(f"Results in {output}", err=True)


def _given(shapes: tuple[str, ...], planes: list[int] | None, kernels: list[int] | None) -> list[Layer]:
    """The layers of ``--shape``; it, ``--planes`` and ``--kernels`` are checked before torch is imported."""
    from replk_probe.bench.result import Layer

    for plane in planes or ():
        Layer(1, 1, plane, plane, 1, 1)
    for kernel in kernels or ():
        Layer(1, 1, 1, 1, kernel, kernel)
    layers = []
    for text in shapes:
        sizes = _integers("--shape", text, "1,256,64,64,31,31")
        if len(sizes) != 6:
            raise InvalidInputError(
                f"Shape {text!r} does not have six numbers. They are N,C,H,W,KH,KW. "
                "Give for instance --shape 1,256,64,64,31,31."
            )
        layers.append(Layer(*sizes))
    return layers


def _layers(
    model: str | None, input_size: int, sweep: bool, planes: list[int] | None, kernels: list[int] | None
) -> list[Layer]:
    from replk_probe.bench.layers import MODEL_LAYERS, SWEEP_KERNELS, SWEEP_PLANES, layers_of_model, sweep_layers

    if model is not None:
        return layers_of_model(model, input_size)
    if sweep:
        return sweep_layers(planes or SWEEP_PLANES, kernels or SWEEP_KERNELS)
    return list(MODEL_LAYERS)


def _integers(option: str, text: str, example: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInputError(
            f"{option} {text!r} cannot be read. It is a list of whole numbers, separated by commas. "
            f"Give for instance {option} {example}."
        ) from error
