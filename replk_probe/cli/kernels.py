"""`replk-probe kernels`: the magnitude of kernel weights, with and without re-parameterization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replk_probe.errors import ReplkProbeError

from ._options import check_writable, model_options, named_or_default, output_option, slug, weights_of_each
from ._runs import announce, raise_failures

if TYPE_CHECKING:
    from replk_probe.kernels.result import KernelResult
    from replk_probe.runtime.beside import Beside

_DEFAULT_OUTPUT = Path("replk-probe-out") / "kernels"


@click.command()
@model_options(required=False)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    default=("all",),
    show_default="all",
    metavar="SPEC",
    help="stage4.0 (stages from 1, large-kernel blocks from 0), stage4, a module path, a pattern such as 'stages.3.*', "
    "all, or paper (the layer of the RepLKNet paper's appendix). Repeat the option for several layers.",
)
@click.option(
    "--variant",
    type=click.Choice(["merged", "large", "small", "all"]),
    default="merged",
    show_default=True,
    help="merged: large and small branch added up. large: large branch only. small: small branch only. all: every "
    "variant that a layer has.",
)
@click.option(
    "--aggregate",
    type=click.Choice(["sum", "mean"]),
    default="sum",
    show_default=True,
    help="Aggregation of the absolute weights over channels.",
)
@click.option(
    "--strongest",
    type=click.IntRange(0, 64),
    default=8,
    show_default=True,
    metavar="K",
    help="Number of single channels of each layer in the gallery.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default="0",
    metavar="N",
    help="Random seed for weight initialization.",
)
@output_option("replk-probe-out/kernels/MODEL, of several models replk-probe-out/kernels")
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    ema: bool,
    layers: tuple[str, ...],
    variant: str,
    aggregate: str,
    strongest: int,
    seed: int,
    output: Path | None,
) -> None:
    """Measure and plot the magnitude of kernel weights.

    Batch norms are folded in, branches are merged, and absolute weights are summed over channels and divided by their
    maximum, as in the RepLKNet paper's appendix. The results include the shares of the center and of the central row
    and column (kernel skeleton), effective size, entropy, symmetry, fraction of zeros and share of the small branch.
    Writes kernels.json, kernels.npz, kernels.csv, strongest.npz and, as PNG and PDF, kernels, profiles, gallery and,
    for several layers, overview; each file covers all models.
    """
    names, chosen = named_or_default(models, weights)
    weights_each = weights_of_each(names, chosen)
    folder = output or (_DEFAULT_OUTPUT / slug(names[0]) if len(names) == 1 else _DEFAULT_OUTPUT)
    check_writable(folder)

    from replk_probe.runtime.beside import Beside

    # What draws takes as long to load as a large network to measure.
    with Beside("replk_probe.kernels.plot", "save_figures") as save_figures:
        from replk_probe.kernels.config import KernelsConfig
        from replk_probe.kernels.measure import plan_kernels

        config = KernelsConfig(
            layer=layers, variant=variant, aggregate=aggregate, strongest=strongest, ema=ema, seed=seed
        )
        results: list[KernelResult] = []
        failures: dict[str, Exception] = {}
        for name, source in zip(names, weights_each, strict=True):
            try:
                plan = plan_kernels(name, replace(config, weights=source))
                announce(plan, "the kernels are those that the network is initialised with")
                results.append(plan.run(progress=True))
            except ReplkProbeError as error:
                failures[name] = error
                if len(names) > 1:
                    click.secho(f"{name}: failed. {error}", err=True, fg="red")
        if results:
            _report(results, folder, save_figures)
    raise_failures(failures, len(names), f"The others are in {folder}." if results else "Nothing was written.")


def _report(results: list[KernelResult], folder: Path, save_figures: Beside) -> None:
    """Save, draw, and print the table."""
    from replk_probe.kernels.result import save_results
    from replk_probe.report.kernels_table import kernels_table

    save_results(results, folder)
    click.echo(kernels_table(results))
    save_figures(results, folder)
    for result in results:
        many = "1 kernel" if len(result.kernels) == 1 else f"{len(result.kernels)} kernels"
        click.echo(f"{result.run.model}: {many} in {result.run.seconds:.1f} s", err=True)
    click.echo(f"Results in {folder}", err=True)
