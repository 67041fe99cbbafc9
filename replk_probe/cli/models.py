"""`replk-probe models`: the available models and their sizes."""

from __future__ import annotations

import json
from typing import Any

import click

from ._output import note

# Baselines of the papers on large kernels, from timm.
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
# Building one of timm's models to count its parameters takes about half a second. The default list has 44.
_MOST_COUNTED = 60
_HEAD = ("name", "family", "kernels", "params", "merged", "MACs", "px", "weights")
_LEFT = ("family", "kernels", "weights")


@click.command()
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with unrounded numbers.")
def command(pattern: str | None, as_json: bool) -> None:
    """List models with their kernel sizes, parameters, MACs and weights.

    Without PATTERN, lists the models of this package and the baselines of the papers. PATTERN may contain wildcards
    and is matched against all models of timm, too ('*resnet50*'). MACs are those of the default input size, after
    merging if that reduces them.

    A model has the first of its weights by default; NAME.TAG selects others, such as replknet_micro_k3.shape75.

    All commands also accept torchvision:NAME, package.module:factory and path/to/file.py:factory.
    """
    from replk_probe.models.summary import describe, matching_models

    names = matching_models(pattern, _BASELINES)
    counted = len(names) <= _MOST_COUNTED
    if as_json:
        click.echo(json.dumps([describe(name, count=counted) for name in names], indent=2))
        return
    from replk_probe.report.text import table, terminal_layout
    from replk_probe.runtime.progress import progress

    with progress(names, desc="Counting", unit="model") as bar:
        rows = [_cells(describe(name, count=counted)) for name in bar]
    click.echo("\n".join(table(_HEAD, rows, terminal_layout(), _LEFT, ("px", "merged"))))
    if not counted:
        note(f"{len(names)} models: parameters and MACs are counted for at most {_MOST_COUNTED} models.")


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
