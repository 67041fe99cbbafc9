"""`replk-probe data`: published stimuli, fetched into the cache and verified file by file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from replk_probe.errors import InvalidInputError

_name = click.argument("name", type=click.Choice(["cue-conflict"]))


@click.group()
def command() -> None:
    """Fetch and verify published stimuli.

    Files go to the folder named by REPLK_PROBE_CACHE, else to the platform's cache folder.
    """


@command.command("fetch")
@_name
@click.option(
    "--connect-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    show_default=True,
    help="Seconds to wait for the first answer.",
)
@click.option("--force", is_flag=True, help="Fetch it again, even if it is there and complete.")
def fetch_data(name: str, connect_timeout: float, force: bool) -> None:
    """Fetch the stimuli called NAME into the cache, verify them and print their folder.

    An interrupted download goes on where it stopped; a set that is there and complete is not fetched again, a damaged
    one is.
    """
    from replk_probe.shape_bias.stimuli.cue_conflict import CITATION, LICENCE, URL, fetch_cue_conflict

    folder = fetch_cue_conflict(force=force, connect_timeout=connect_timeout)
    click.echo(f"{name}: {CITATION}; {URL}", err=True)
    click.echo(f"licence: {LICENCE}", err=True)
    click.echo(str(folder))


@command.command("verify")
@_name
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Every name, as JSON.")
def verify_data(name: str, folder: Path | None, as_json: bool) -> None:
    """Compare the stimuli called NAME in DIR, or in the cache, with the published files.

    Exit status 1 if a file is missing, renamed or altered, or if there is an image too many. Files that are encoded in
    another way and have the same pixels pass.
    """
    from replk_probe.shape_bias.stimuli.cue_conflict import cached_cue_conflict, incomplete_error, verify_cue_conflict

    place = folder or cached_cue_conflict()
    if place is None:
        raise InvalidInputError(
            f"{name} is not in the cache. Nothing was fetched yet. Fetch it with 'replk-probe data fetch {name}'."
        )
    comparison, _ = verify_cue_conflict(place)
    if as_json:
        click.echo(json.dumps({"folder": str(place)} | comparison.record(), indent=2))
    if not comparison.complete:
        raise incomplete_error(place, comparison)
    if not as_json:
        click.echo(f"{place}: {comparison.note}")
