"""`replk-probe models`: list the models with their sizes and weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

# Models of timm that the papers on large kernels compare with.
_BASELINES = (
    "resnet101",
    "resnet152",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "vit_base_patch16_224",
)
# Building one of timm's models to count its parameters takes about half a second.
_MOST_COUNTED = 40
# Widths of the columns between name and weights: family, kernels, parameters, merged, MACs, pixels.
_WIDTHS = (27, 11, 7, 7, 7, 3)


@click.command()
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with exact numbers.")
def command(pattern: str | None, as_json: bool) -> None:
    """List the models of this package and the papers' baselines, or all models that match PATTERN.

    PATTERN may contain wildcards and is matched against all models of timm ('*resnet50*'). MACs are counted for the
    default input size, after merging if that makes the model cheaper. In addition to these names, every command accepts
    torchvision:NAME, package.module:factory and path/to/file.py:factory.
    """
    from replk_probe.models.summary import describe, matching_models

    names = matching_models(pattern, _BASELINES)
    counted = len(names) <= _MOST_COUNTED
    if as_json:
        click.echo(json.dumps([describe(name, count=counted) for name in names], indent=2))
        return
    widths = (max(map(len, names)), *_WIDTHS)
    _echo_row(("name", "family", "kernels", "params", "merged", "MACs", "px", "weights"), widths)
    for name in names:  # printed one by one, because counting takes time
        _echo_row(_cells(describe(name, count=counted)), widths)
    if not counted:
        click.echo(
            f"{len(names)} models: parameters and MACs are only counted for lists of up to {_MOST_COUNTED}.", err=True
        )


def _echo_row(cells: Sequence[str], widths: Sequence[int]) -> None:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    click.echo("  ".join([*padded, *cells[len(widths) :]]).rstrip())


def _cells(row: dict[str, Any]) -> list[str]:
    weights = [name.partition(".")[2] for name in row["weights"]]
    return [
        row["name"],
        row["family"],
        _kernels(row["kernel_sizes"]),
        _short(row["parameters"], 1e6, "M"),
        _short(row["parameters_merged"], 1e6, "M"),
        _short(row["macs"], 1e9, "G"),
        str(row["input_size"][0]),
        ", ".join(weights) if weights else "timm" if row["pretrained_by_timm"] else "-",
    ]


def _kernels(sizes: list[int]) -> str:
    return "-" if not sizes else str(sizes[0]) if len(set(sizes)) == 1 else "-".join(map(str, sizes))


def _short(value: int | None, unit: float, letter: str) -> str:
    return "-" if value is None else f"{value / unit:.2f}{letter}"
