"""`replk-probe reparam`: the branches in a weights file merged into one kernel each, or its tensors renamed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import check_writable

if TYPE_CHECKING:
    from replk_probe.models import Difference, ReparamReport


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="NAME", help="The model that CHECKPOINT is for.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT.safetensors", help="The new file."
)
@click.option(
    "--to",
    "scheme",
    type=click.Choice(["official", "replk-probe", "timm"]),
    default="replk-probe",
    show_default=True,
    help="Names of the tensors. official: as in the code of RepLKNet's and SLaK's authors. replk-probe: as in the "
    "model here. timm: as in timm's ConvNeXt, for a merged SLaK or large-kernel ConvNeXt.",
)
@click.option("--no-merge", is_flag=True, help="Only rename; branches stay what they are.")
@click.option("--ema", is_flag=True, help="Take the averaged entry (model_ema) of CHECKPOINT.")
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
def command(checkpoint: Path, model: str, output: Path, scheme: str, no_merge: bool, ema: bool, force: bool) -> None:
    """Merge the branches in the weights file CHECKPOINT and write the result.

    Each large kernel, the smaller ones beside it and their batch norms become one convolution, which computes the same
    faster. That it does is verified in float64 on a random image, with the new file read back, before the file is kept.
    The other commands read it with --weights, whatever its names.
    """
    check_writable(output.parent)

    from replk_probe.models import reparam_checkpoint

    report = reparam_checkpoint(
        checkpoint.expanduser(),
        output,
        model,
        scheme=scheme,
        merge=not no_merge,
        ema=ema,
        force=force,
        progress=True,
    )
    for line in _lines(report):
        click.echo(line)


def _lines(report: ReparamReport) -> list[str]:
    """What was done, for the terminal."""
    source, written = report.source, report.written
    form = "" if source.form is None else f", {source.form} form"
    naming = "replk-probe" if source.naming == "own" else source.naming
    lines = [f"read:     {source.path}: {source.title}{form}, names: {naming}"]
    if source.dropped:
        lines.append(
            f"left out: what has no place in the model: {', '.join(source.dropped[:3])}, ... "
            f"({len(source.dropped)} in all)"
        )
    if source.note:
        lines.append(f"note:     {source.note}")
    if report.merging is not None:
        before, after = report.parameters
        if report.convolutions > report.layers:
            lines.append(f"merged:   {report.convolutions} convolutions in {report.layers} layers, into one in each")
        else:
            lines.append(f"merged:   no branches, but the batch norms of {report.layers} layers with their kernels")
        lines.append(f"          {before:,} parameters before, {after:,} after")
        lines.append(f"          in float64: {_difference(report.merging)}")
    size = "x".join(map(str, report.image_shape))
    lines.append(f"verified: file read back, random image {size}, float64:")
    lines.append(f"          {_difference(report.rounding)}")
    lines.append(f"written:  {written.path}, names: {report.scheme}, sha256 {written.sha256[:8]}")
    if report.timm_model:
        lines.append(f"          in timm: {report.timm_model}")
    return lines


def _difference(found: Difference) -> str:
    place = f" ({found.layer})" if found.layer else ""
    return f"largest difference {found.absolute:.1e}, relative {found.relative:.1e}{place}"
