"""`replk-probe kernels`: the magnitude of kernels, with and without re-parameterization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replk_probe.errors import ReplkProbeError

from ._options import (
    check_writable,
    choice_option,
    model_options,
    named_or_default,
    output_option,
    seed_option,
    style_option,
    weights_of_each,
)
from ._output import conclusion, failure
from ._runs import announce, lock_folders, raise_failures

if TYPE_CHECKING:
    from replk_probe.kernels.result import KernelResult

_DEFAULT_OUTPUT = Path("replk-probe-out") / "kernels"


@click.command()
@model_options
@click.option(
    "--layer",
    multiple=True,
    default=("all",),
    metavar="SPEC",
    help="stage4.0 (stages from 1, large-kernel blocks from 0), stage4, a module path, a pattern such as 'stages.3.*', "
    "all, or paper (the layer in the appendix of the RepLKNet paper). Repeat for several layers. [default: all]",
)
@choice_option(
    "--variant",
    ["merged", "large", "small", "all"],
    "merged: large and small branch added. large, small: one branch. all: every variant that a layer has.",
)
@choice_option("--aggregate", ["sum", "mean"], "Aggregation of absolute weights over channels.")
@click.option(
    "--strongest",
    type=click.IntRange(0, 64),
    default=8,
    show_default=True,
    metavar="K",
    help="Number of channels per layer in the gallery.",
)
@click.option(
    "--compose",
    is_flag=True,
    help="Add the kernels that depthwise convolutions in series, dilated, or on parts of the channels amount to, where "
    "nothing nonlinear lies between them.",
)
@click.option(
    "--against",
    metavar="FILE",
    help="Another checkpoint of the same network, with which the kernels are compared: relative norm of the difference "
    "and cosine. Or another value of --weights, such as random.",
)
@click.option(
    "--metrics",
    is_flag=True,
    help="Also print spatial frequencies, orientation, distance and rank of the kernels of single channels, which are "
    "always in the files.",
)
@seed_option("Random seed for weight initialization.")
@style_option
@output_option("replk-probe-out/kernels/MODEL; replk-probe-out/kernels for several models")
def command(
    models: tuple[str, ...], weights: tuple[str, ...], output: Path | None, metrics: bool, **options: Any
) -> None:
    """Measure and plot the magnitude of convolution kernels.

    Folds batch norms, merges branches, sums absolute weights over channels and divides by the maximum, as in the
    appendix of the RepLKNet paper. Reports the shares of the center and of the central row and column (the kernel
    skeleton), effective size, entropy, symmetry, zeros, and the share of the small branch.

    Writes kernels.json, kernels.npz, kernels.csv and strongest.npz; kernels, profiles and gallery as PNG and PDF; and
    an overview if there are several layers, and composed if there are composed kernels.
    """
    from replk_probe.runtime.paths import slug

    names, chosen = named_or_default(models, weights)
    weights_each = weights_of_each(names, chosen)
    folder = output or (_DEFAULT_OUTPUT / slug(names[0]) if len(names) == 1 else _DEFAULT_OUTPUT)
    check_writable(folder)

    from replk_probe.kernels.config import KernelsConfig
    from replk_probe.kernels.measure import plan_kernels

    config = KernelsConfig(**options)
    lock_folders(folder)
    results: list[KernelResult] = []
    failures: dict[str, Exception] = {}
    for name, source in zip(names, weights_each, strict=True):
        try:
            plan = plan_kernels(name, replace(config, weights=source))
            announce(plan, "the kernels are those of the initialization")
            results.append(plan.run(progress=True))
        except ReplkProbeError as error:
            if len(names) > 1:
                failure(name, error, failures)
            failures[name] = error
    if results:
        _report(results, folder, metrics)
    raise_failures(failures, len(names), f"The other results are in {folder}." if results else "Nothing was saved.")


def _report(results: list[KernelResult], folder: Path, metrics: bool) -> None:
    """Save the results, draw the figures and print the table."""
    from replk_probe.kernels.plot import save_figures
    from replk_probe.kernels.result import save_results
    from replk_probe.report.kernels_table import channels_table, kernels_table
    from replk_probe.report.text import terminal_layout

    save_results(results, folder)
    save_figures(results, folder)
    click.echo(kernels_table(results, terminal_layout()))
    if metrics or any(result.run.against is not None for result in results):
        click.echo("\n" + channels_table(results, terminal_layout(), metrics=metrics))
    seconds = sum(result.run.seconds for result in results)
    conclusion(sum(len(result.kernels) for result in results), "kernel", seconds, folder)
