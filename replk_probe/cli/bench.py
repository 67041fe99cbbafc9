"""`replk-probe bench`: the speed of the depthwise convolution, compared with torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replk_probe.errors import InvalidInputError

from ._options import PATH, check_writable, choice_option, given_options, style_option
from ._output import note
from ._runs import lock_folders

if TYPE_CHECKING:
    from replk_probe.bench.result import Layer

_PASSES = {"forward": "forward", "grad-input": "grad_input", "grad-weight": "grad_weight"}


@click.command()
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="N,C,H,W,KH,KW",
    help="Layer to time. Repeat for several layers. [default: layers of RepLKNet, SLaK and ConvNeXt; on a GPU, 384 "
    "channels with 7x7 to 31x31, and layers of RepLKNet]",
)
@click.option("--model", metavar="NAME", help="Time the depthwise layers of a model.")
@click.option(
    "--input-size", type=click.IntRange(1), default=224, show_default=True, metavar="PX", help="Input size of --model."
)
@click.option("--sweep", is_flag=True, help="Time many kernel and feature map sizes, and list where torch is faster.")
@click.option("--planes", metavar="H,H,...", help="Feature map sizes of --sweep. [default: 7 to 256]")
@click.option("--kernels", metavar="K,K,...", help="Kernel sizes of --sweep. [default: 3 to 61]")
@click.option(
    "--pass",
    "directions",
    multiple=True,
    type=click.Choice([*_PASSES, "all"]),
    default=("forward",),
    help="Pass to time. Repeat for several passes. [default: forward]",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="cpu, or an NVIDIA GPU (cuda, cuda:1), on which all methods are checked against float64 and then timed.",
)
@choice_option(
    "--dtype",
    ["float32", "tf32", "bfloat16", "float16"],
    "Data type. tf32 (float32 tensors, TF32 allowed in torch's convolution) and float16 are for a GPU.",
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of threads. [default: torch's setting]")
@click.option(
    "--isa", type=click.Choice(["portable", "avx2", "avx512", "neon"]), help="Instruction set of the native kernels."
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=9,
    show_default=True,
    metavar="N",
    help="Measurements per variant; short calls are repeated within one measurement.",
)
@click.option("--all", "everything", is_flag=True, help="Include slow variants (several seconds per call).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with unrounded numbers.")
@style_option
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="DIR",
    help="Also write bench.json, bench.csv, bench.png and bench.pdf to this folder.",
)
def command(
    shapes: tuple[str, ...],
    model: str | None,
    input_size: int,
    sweep: bool,
    planes: str | None,
    kernels: str | None,
    directions: tuple[str, ...],
    device: str,
    as_json: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Compare the speed of the depthwise convolution with torch.

    Times the native convolution as a module in eval mode, with a prepared kernel, and as a function. It is compared
    with conv2d in both memory layouts and with torch.fft with a prepared spectrum. All variants take turns within one
    run. Run it on an otherwise idle machine.

    With --device cuda, the methods of 'replk-probe tune' are timed instead, for both memory layouts. Each is compared
    with float64 first. The results contain the choice of the tuner, the card, its clock rates and the versions of its
    software.
    """
    if sum((bool(shapes), model is not None, sweep)) > 1:
        raise click.UsageError("--shape, --model and --sweep are mutually exclusive. Give only one of them.")
    if (planes is not None or kernels is not None) and not sweep:
        raise click.UsageError("--planes and --kernels require --sweep. Add --sweep.")
    if model is None and "input_size" in given_options():
        raise click.UsageError("--input-size requires --model. Add --model.")
    sides = None if planes is None else _integers("--planes", planes, "7,56,256")
    sizes = None if kernels is None else _integers("--kernels", kernels, "3,7,31")
    given = _given(shapes, sides, sizes)
    if output is not None:
        check_writable(output)
    chosen = list(_PASSES.values()) if "all" in directions else [_PASSES[name] for name in dict.fromkeys(directions)]

    from replk_probe.bench.measure import measure_speed
    from replk_probe.bench.plot import save_figures
    from replk_probe.report.bench_table import bench_table, sweep_summary
    from replk_probe.report.text import terminal_layout
    from replk_probe.runtime.devices import resolve_device

    place = resolve_device(device)
    if output is not None:
        lock_folders(output)
    result = measure_speed(
        given or _layers(model, input_size, sweep, sides, sizes, on_cpu=place.type == "cpu"),
        chosen,
        device=place,
        # A sweep has many cases, whose results do not depend on slow variants of torch.
        budget=0.25 if sweep else 2.0,
        progress=True,
        **options,
    )
    if output is not None:
        result.save(output)
        save_figures(result, output)
    layout = terminal_layout()
    click.echo(json.dumps(result.to_json(), indent=1) if as_json else bench_table(result, layout=layout))
    if sweep and not as_json:
        click.echo("\n" + sweep_summary(result, layout=layout))
    if output is not None:
        note(f"Results in {output}")


def _given(shapes: tuple[str, ...], planes: list[int] | None, kernels: list[int] | None) -> list[Layer]:
    """The layers of ``--shape``. All three options are checked before torch is imported."""
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
                f"Shape {text!r} does not have six numbers. Expected N,C,H,W,KH,KW. "
                "For example: --shape 1,256,64,64,31,31."
            )
        layers.append(Layer(*sizes))
    return layers


def _layers(
    model: str | None,
    input_size: int,
    sweep: bool,
    planes: list[int] | None,
    kernels: list[int] | None,
    *,
    on_cpu: bool,
) -> list[Layer]:
    from replk_probe.bench.layers import (
        GPU_LAYERS,
        MODEL_LAYERS,
        SWEEP_KERNELS,
        SWEEP_PLANES,
        layers_of_model,
        sweep_layers,
    )

    if model is not None:
        return layers_of_model(model, input_size)
    if sweep:
        return sweep_layers(planes or SWEEP_PLANES, kernels or SWEEP_KERNELS)
    return list(MODEL_LAYERS if on_cpu else GPU_LAYERS)


def _integers(option: str, text: str, example: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInputError(
            f"Cannot parse {option} {text!r}. Expected integers separated by commas. For example: {option} {example}."
        ) from error
