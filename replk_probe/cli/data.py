"""`replk-probe data`: download published stimuli to the cache and verify them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from replk_probe.errors import InvalidInputError

from ._options import PATH, connect_timeout_option
from ._output import note, show, show_path

_name = click.argument("name", type=click.Choice(["cue-conflict"]))


@click.group()
def command() -> None:
    """Download and verify published stimuli.

    Files are stored in REPLK_PROBE_CACHE, by default the cache folder of the platform.
    """


@command.command("fetch")
@_name
@connect_timeout_option
@click.option("--force", is_flag=True, help="Download again, even if a complete set exists.")
def fetch_data(name: str, connect_timeout: float, force: bool) -> None:
    """Download stimuli to the cache, verify them and print their folder.

    An interrupted download is resumed. A complete set is not downloaded again; a damaged one is.
    """
    from replk_probe.shape_bias.stimuli.cue_conflict import CITATION, LICENSE, URL, fetch_cue_conflict

    folder = fetch_cue_conflict(force=force, connect_timeout=connect_timeout)
    note(f"{name}: {CITATION}; {URL}")
    note(f"license: {LICENSE}")
    show_path(folder)


@command.command("verify")
@_name
@click.argument("folder", metavar="[DIR]", required=False, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with the names of all files.")
def verify_data(name: str, folder: Path | None, as_json: bool) -> None:
    """Compare the stimuli in DIR, or in the cache, with the published files.

    The exit status is 1 if a file is missing, renamed or altered, or if there are additional images. Files with a
    different encoding but the same pixels are accepted.
    """
    from replk_probe.shape_bias.stimuli.cue_conflict import cached_cue_conflict, incomplete_error, verify_cue_conflict

    place = folder or cached_cue_conflict()
    if place is None:
        raise InvalidInputError(
            f"{name} is not in the cache. It has not been downloaded. Run 'replk-probe data fetch {name}'."
        )
    comparison, _ = verify_cue_conflict(place)
    if as_json:
        click.echo(json.dumps({"folder": str(place)} | comparison.record(), indent=2))
    if not comparison.complete:
        raise incomplete_error(place, comparison)
    if not as_json:
        show(f"{place}: {comparison.note}")
