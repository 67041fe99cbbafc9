"""`replk-probe reparam`: merge the branches in a checkpoint, or rename its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import check_writable
from ._output import show

if TYPE_CHECKING:
    from replk_probe.models import Difference, ReparamReport


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="NAME", help="Model of CHECKPOINT.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT.safetensors", help="File to write."
)
@click.option(
    "--to",
    "scheme",
    type=click.Choice(["official", "replk-probe", "timm"]),
    default="replk-probe",
    show_default=True,
    help="Naming of the tensors. official: as in the code of the RepLKNet and SLaK authors. replk-probe: as in the "
    "models of this package. timm: as in timm's ConvNeXt, for a merged SLaK or large-kernel ConvNeXt.",
)
@click.option("--no-merge", is_flag=True, help="Rename the tensors without merging branches.")
@click.option("--ema", is_flag=True, help="Use the averaged weights (model_ema) of CHECKPOINT.")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
def command(checkpoint: Path, model: str, output: Path, scheme: str, no_merge: bool, ema: bool, force: bool) -> None:
    """Merge the branches in CHECKPOINT and write the result.

    Each large kernel, its parallel small kernels and their batch norms become one equivalent convolution. Before the
    file is kept, it is read back, and the outputs of both models are compared in float64 on a random image. The other
    commands accept the file as --weights with any naming.
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
    show(*_lines(report))


def _lines(report: ReparamReport) -> list[str]:
    """A summary of the conversion."""
    source, written = report.source, report.written
    form = "" if source.form is None else f", {source.form} form"
    naming = "replk-probe" if source.naming == "own" else source.naming
    lines = [f"read:     {source.path}: {source.title}{form}, names: {naming}"]
    if source.dropped:
        lines.append(f"dropped:  not in the model: {', '.join(source.dropped[:3])}, ... ({len(source.dropped)} in all)")
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
