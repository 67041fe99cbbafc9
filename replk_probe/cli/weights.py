"""`replk-probe weights`: list and fetch published weights, and identify weights files."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from replk_probe.errors import WeightsError

from ._options import PATH, choice_option, connect_timeout_option, selection_options
from ._output import note, show, show_path

_HEAD = ("name", "top-1", "px", "host", "sha256", "cached", "license", "training")


@click.group()
def command() -> None:
    """List, download and verify pretrained weights.

    Files are stored in the folder REPLK_PROBE_CACHE, or else in the platform's cache folder. Weights of timm and
    torchvision are stored in the caches of these packages. The weights of the small models trained on synthetic data
    are included in this package.
    """


@command.command("list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print all fields as JSON.")
def list_weights(pattern: str, as_json: bool) -> None:
    """List available weights, or those whose name matches PATTERN.

    With a PATTERN, weights published by timm are listed as well (such as 'swin_tiny*').
    """
    from replk_probe.models.weights.catalog import catalog_entries, hub_entries
    from replk_probe.models.weights.embedded import training_record
    from replk_probe.models.weights.resolve import cached_path

    own = [entry for entry in catalog_entries() if fnmatch(entry.name, pattern)]
    entries = own + (list(hub_entries(pattern)) if pattern != "*" else [])
    if not entries:
        raise WeightsError(f"No weights match {pattern!r}. Omit the pattern to list all of them.")
    if as_json:
        rows = []
        for entry in entries:
            cached = cached_path(entry)
            more = {"host": entry.host, "cached": None if cached is None else str(cached)}
            record = training_record(entry) if entry.embedded else None
            # "licence" is the name in the output since the first version.
            row = {"licence" if name == "license" else name: value for name, value in vars(entry).items()}
            rows.append(row | more | {"embedded": bool(entry.embedded), "record": record})
        click.echo(json.dumps(rows, indent=2))
        return
    from replk_probe.report.text import table, terminal_layout, wrapped

    table_rows = []
    for entry in entries:
        digest = entry.sha256[:8] if entry.sha256 else None
        cached_text = None if cached_path(entry) is None else "yes"
        host = entry.host.removeprefix("Google ").removeprefix("this ")  # the column is narrow
        cells = (entry.name, entry.top1, entry.input_size, host, digest, cached_text)
        shown = ["-" if cell is None else str(cell) for cell in cells]
        table_rows.append([*shown, entry.license.split(" (")[0], entry.training])
    left = ("host", "sha256", "cached", "license", "training")
    layout = terminal_layout()
    footer = [f"License: {name}" for name in sorted({entry.license for entry in own})]
    footer += [f"Weights: {provenance}" for provenance in sorted({entry.provenance for entry in own})]
    if any(entry.host == "Google Drive" for entry in entries):
        footer.append("Files on Google Drive require gdown: pip install gdown")
    if len(entries) > len(own):
        footer.append("Weights of timm are published at https://huggingface.co/timm; --json shows the origin of each.")
    elif pattern == "*":
        footer.append("To list weights of timm, pass a pattern: replk-probe weights list 'swin_tiny*'")
    lines = [*table(_HEAD, table_rows, layout, left, optional=("training",)), ""]
    click.echo("\n".join([*lines, *(line for text in footer for line in wrapped(text, "", layout))]))


@command.command("fetch")
@click.argument("name")
@choice_option("--host", ["auto", "openmmlab", "drive"], "Host to download from, for weights with several.")
@connect_timeout_option
@click.option("--force", is_flag=True, help="Download the file again even if it is cached.")
def fetch_weights(name: str, host: Any, connect_timeout: float, force: bool) -> None:
    """Download the weights NAME into the cache and print their path.

    NAME is a name from 'weights list', or a model of the catalog, of timm or of torchvision (torchvision:NAME). An
    interrupted download is resumed; a cached file with the right digest is not downloaded again.
    """
    from replk_probe.models.model_id import ModelId
    from replk_probe.models.weights.catalog import default_entry, find_entry, hub_entries
    from replk_probe.models.weights.resolve import fetch_entry, resolve_weights
    from replk_probe.runtime.atomic_files import sha256_of

    entry = default_entry(name)
    model = ModelId.parse(name)
    # A tagged name of a model of this package refers to the catalog.
    is_model = model.kind == "torchvision" or (model.is_registered and not (model.tag and model.is_own))
    if entry is None and host == "auto" and is_model:
        resolved = resolve_weights(model, "pretrained", connect_timeout=connect_timeout, force=force)
        path, source = resolved.path, resolved.info.source
        published = hub_entries(source.removeprefix("timm:")) if model.kind == "registry" else ()
        note(f"{source}" + "".join(f": {entry.provenance}" for entry in published))
        for license_name in [entry.license for entry in published] or ["see the documentation of torchvision"]:
            note(f"license: {license_name}")
    else:
        entry = find_entry(name)
        path = fetch_entry(entry, host=host, connect_timeout=connect_timeout, force=force)
        note(f"{entry.name}: {entry.training}; {entry.provenance}")
        note(f"license: {entry.license}")
        if entry.remark:
            note(f"note: {entry.remark}")
    if path is not None:
        note(f"sha256: {sha256_of(path)}")
    show_path(str(path))


@command.command("verify")
@click.argument("file", metavar="PATH", type=PATH)
@selection_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_weights(file: Path, as_json: bool, **selection: Any) -> None:
    """Identify the weights file PATH: digest, catalog entry, architecture, form.

    PATH may also be a catalog name, for the cached file. The exit status is 1 if the file cannot be used, if it
    contains NaN or infinite values, or if its digest differs from the one in its name or from the one recorded
    when it was downloaded.
    """
    from replk_probe.models.checkpoints.load import inspect_checkpoint, non_finite_error
    from replk_probe.models.weights.catalog import CATALOG, entries_with_digest
    from replk_probe.models.weights.resolve import cached_path, digest_in_name
    from replk_probe.runtime.download import noted_digest

    name = str(file)
    if not file.exists() and name in CATALOG:
        cached = cached_path(CATALOG[name])
        if cached is None:
            raise WeightsError(f"{name} is not in the cache. Fetch it with 'replk-probe weights fetch {name}'.")
        file = cached
    info = inspect_checkpoint(file, **selection)
    matches = [entry.name for entry in entries_with_digest(info.sha256)]
    stated, fetched = digest_in_name(file), noted_digest(file)
    facts: dict[str, Any] = {
        "file": str(file),
        "sha256": info.sha256,
        "catalog": matches,
        "name_promises": stated,
        "fetched_as": fetched,
        "family": info.title,
        "model": info.model,
        "form": info.form,
        "naming": info.naming,
        "wrapper": info.wrapper,
        "prefix": info.prefix,
        "averaged": info.averaged,
        "tensors": info.tensors,
        "num_classes": info.num_classes,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        facts["catalog"] = ", ".join(matches) or "no entry has this digest"
        for key, value in facts.items():
            if value is not None:
                label = "name digest" if key == "name_promises" else key.replace("_", " ")
                show(f"{label + ':':<15}{value}")
    if stated and not info.sha256.startswith(stated):
        raise WeightsError(
            f"{file.name} does not match the digest in its name. Its SHA-256 starts with {info.sha256[:8]} instead of "
            f"{stated}. Fetch it again."
        )
    if fetched and info.sha256 != fetched:
        raise WeightsError(
            f"{file.name} has changed since it was fetched. Its SHA-256 starts with {info.sha256[:8]} instead of "
            f"{fetched[:8]}. Fetch it again."
        )
    if info.not_finite:
        raise non_finite_error(file, info.not_finite)
