"""`replk-probe reparam`: merge the branches in a weights file, or rename its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import PATH, check_writable, selection_options
from ._output import show

if TYPE_CHECKING:
    from replk_probe.models import Difference, ReparamReport


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("--model", required=True, metavar="NAME", help="Model that CHECKPOINT belongs to.")
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    metavar="OUT.safetensors",
    help="Path of the new file.",
)
@click.option(
    "--to",
    "scheme",
    type=click.Choice(["official", "replk-probe", "timm"]),
    default="replk-probe",
    show_default=True,
    help="Naming scheme of the tensors. official: the code of RepLKNet's, SLaK's and UniRepLKNet's authors. "
    "replk-probe: this package. timm: timm's ConvNeXt, for a merged SLaK or large-kernel ConvNeXt.",
)
@click.option("--no-merge", is_flag=True, help="Only rename tensors, without merging branches.")
@selection_options
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
def command(
    checkpoint: Path, model: str, output: Path, scheme: str, no_merge: bool, force: bool, **selection: Any
) -> None:
    """Merge the branches in CHECKPOINT and write the result.

    Each large kernel, its parallel branches and their batch norms become one convolution, which gives the same result
    in less time. Networks of other packages are merged by methods of their modules, such as switch_to_deploy, if the
    outputs remain the same; other branches are found by following the forward pass. Before the new file is kept, it is
    read back and its outputs are verified in float64 on a random image. The other commands read it with --weights,
    whatever its naming scheme.
    """
    check_writable(output.parent)

    from replk_probe.models import reparam_checkpoint

    report = reparam_checkpoint(
        checkpoint, output, model, scheme=scheme, merge=not no_merge, force=force, progress=True, **selection
    )
    show(*_lines(report))


def _lines(report: ReparamReport) -> list[str]:
    """Lines for the terminal."""
    from replk_probe.runtime.formatting import dimensions

    source, written = report.source, report.written
    form = "" if source.form is None else f", {source.form} form"
    naming = "replk-probe" if source.naming == "own" else source.naming
    lines = [f"read:     {source.path}: {source.title}{form}, names: {naming}"]
    if source.dropped:
        lines.append(
            f"dropped:  {len(source.dropped)} names without a counterpart in the model: {', '.join(source.dropped[:3])}"
            + (", ..." if len(source.dropped) > 3 else "")
        )
    if source.note:
        lines.append(f"note:     {source.note}")
    if report.merging is not None:
        before, after = report.parameters
        if report.own_methods:
            lines.append(
                f"merged:   {report.layers} layers with {report.convolutions} convolutions; "
                f"the network's own methods merged {report.own_methods} of these layers"
            )
        elif report.convolutions > report.layers:
            lines.append(f"merged:   {report.convolutions} convolutions in {report.layers} layers, into one per layer")
        else:
            lines.append(
                f"merged:   the batch norms of {report.layers} layers into their kernels; there are no branches"
            )
        lines.append(f"          {before:,} parameters before, {after:,} after")
        lines.append(f"          in float64: {_difference(report.merging)}")
    if report.unmerged:
        lines.append(f"left:     {report.unmerged}")
    size = dimensions(report.image_shape)
    lines.append(f"verified: new file read back, random image {size}, float64:")
    lines.append(f"          {_difference(report.rounding)}")
    lines.append(f"written:  {written.path}, names: {report.scheme}, sha256 {written.sha256[:8]}")
    if report.timm_model:
        lines.append(f"          in timm: {report.timm_model}")
    return lines


def _difference(found: Difference) -> str:
    place = f" ({found.layer})" if found.layer else ""
    return f"largest difference {found.absolute:.1e}, relative {found.relative:.1e}{place}"
