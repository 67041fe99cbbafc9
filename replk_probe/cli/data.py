"""`replk-probe data`: download published stimuli to the cache and verify them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from replk_probe.errors import InvalidInputError

from ._options import PATH, connect_timeout_option
from ._output import note, show, show_path


def _chosen(ctx: click.Context, argument: click.Parameter, value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names of sets, in the order of the benchmark; several are separated by commas or given one by one."""
    from replk_probe.behaviour.benchmark_sets import choose_sets

    try:
        return choose_sets(value if isinstance(value, str) else ",".join(value))
    except InvalidInputError as error:
        given = value if isinstance(value, str) else value[0]
        if ctx.command.name == "verify" and Path(given).is_dir():
            raise click.BadParameter(
                f"{given} is a folder. The first argument is the name of a set, and the second one its folder: "
                f"'cue-conflict {given}'.",
                ctx,
                argument,
            ) from error
        raise click.BadParameter(str(error), ctx, argument) from error


@click.group()
def command() -> None:
    """Download and verify published stimuli.

    These are the 17 sets of model-vs-human: cue-conflict (for shape-bias and behaviour), edge, silhouette, sketch,
    stylized, and twelve sets of distorted images (for behaviour). Files are stored in REPLK_PROBE_CACHE, by default the
    cache folder of the platform.
    """


@command.command("fetch")
@click.argument("sets", metavar="SET|all...", nargs=-1, required=True, callback=_chosen)
@connect_timeout_option
@click.option("--force", is_flag=True, help="Download again, even if a complete set exists.")
@click.option(
    "--accept-license",
    is_flag=True,
    help="Accept the ImageNet terms of access, under which stylized and the twelve sets of distorted images are.",
)
def fetch_data(sets: tuple[str, ...], connect_timeout: float, force: bool, accept_license: bool) -> None:
    """Download stimuli to the cache, verify them and print their folders.

    SET is the name of a set, or all, shape or noise; several can be given. An interrupted download is resumed. A
    complete set is not downloaded again; a damaged one is.
    """
    from replk_probe.behaviour.benchmark_sets import BENCHMARK_SETS, CUE_CONFLICT
    from replk_probe.behaviour.download_sets import (
        CITATION,
        TERMS_URL,
        URL,
        check_terms,
        fetch_benchmark_set,
        terms_are_open,
    )
    from replk_probe.shape_bias.stimuli.cue_conflict import CITATION as CUE_CONFLICT_CITATION

    concerned = [name for name in sets if terms_are_open(BENCHMARK_SETS[name])]
    if concerned and not accept_license and sys.stdin.isatty():
        note(f"The images of {', '.join(concerned)} are under the ImageNet terms of access: {TERMS_URL}")
        note("Among others, they may be used for non-commercial research and education only.")
        accept_license = click.confirm("Do you accept these terms?", err=True)
    check_terms(sets, accept_license)  # before the first download
    for name in sets:
        folder = fetch_benchmark_set(name, force=force, connect_timeout=connect_timeout)
        cited = CUE_CONFLICT_CITATION if name == CUE_CONFLICT else CITATION
        note(f"{name}: {cited}; {URL.format(name=name)}")
        note(f"license: {BENCHMARK_SETS[name].license}")
        show_path(folder)


@command.command("verify")
@click.argument("sets", metavar="SET|all", callback=_chosen)
@click.argument("folder", metavar="[DIR]", required=False, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; for cue-conflict with the names of all files.")
def verify_data(sets: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Compare the stimuli in DIR, or in the cache, with the published files.

    The exit status is 1 if a file is missing, renamed or altered, or if there are additional images. Files with a
    different encoding but the same pixels are accepted. For all sets but cue-conflict, no digests are published: the
    number, the names and the sizes of the images are compared.
    """
    from replk_probe.behaviour.benchmark_sets import BENCHMARK_SETS, CUE_CONFLICT
    from replk_probe.behaviour.download_sets import problems_of
    from replk_probe.shape_bias.stimuli.archive_set import set_dir

    if folder is not None and len(sets) > 1:
        raise InvalidInputError(
            f"One folder was given for {len(sets)} sets. Each set has a folder of its own. Verify one set at a time."
        )
    if folder is not None and str(folder) in BENCHMARK_SETS and not folder.exists():
        raise InvalidInputError(
            f"The folder {folder} does not exist. The second argument is a folder, but this is the name of a set. "
            f"Separate the names of sets by commas: '{','.join(sets)},{folder}'."
        )
    for name in sets:
        place = folder or set_dir(name)
        if folder is None and not place.is_dir():
            raise InvalidInputError(
                f"{name} is not in the cache. It has not been downloaded. Run 'replk-probe data fetch {name}'."
            )
        if name == CUE_CONFLICT:
            _verify_cue_conflict(place, as_json)
            continue
        problems = problems_of(BENCHMARK_SETS[name], place)
        if as_json:
            click.echo(json.dumps({"folder": str(place), "problems": problems}, indent=2))
        if problems:
            raise InvalidInputError(
                f"{place} is not the published set {name}. {problems}. Fetch it with 'replk-probe data fetch {name}'."
            )
        if not as_json:
            show(f"{place}: {BENCHMARK_SETS[name].n_images} images with the names and sizes of the set {name}.")


def _verify_cue_conflict(place: Path, as_json: bool) -> None:
    from replk_probe.shape_bias.stimuli.cue_conflict import incomplete_error, verify_cue_conflict

    comparison, _ = verify_cue_conflict(place)
    if as_json:
        click.echo(json.dumps({"folder": str(place)} | comparison.record(), indent=2))
    if not comparison.complete:
        raise incomplete_error(place, comparison)
    if not as_json:
        show(f"{place}: {comparison.note}")
