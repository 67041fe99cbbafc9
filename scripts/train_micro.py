"""Train the small models that are included in the package, on the synthetic split, with this project's own operator.

    python scripts/train_micro.py                                          # all, into replk-probe-out/micro
    python scripts/train_micro.py --model replknet_micro_k13 --tag shape75 --seed 3 --output DIR
    python scripts/train_micro.py --output replk_probe/models/weights/micro_weights --figure figures/micro-training

A tag states the validity of the shape in training: with shape75, the shape of an image belongs to its label with a
probability of 75 %. By default, the weights that the package includes are trained. For each, NAME.TAG.safetensors,
NAME.TAG.json (the training record) and NAME.TAG.csv (the log) are written. Existing ones are skipped; to resume an
interrupted run, run the same command again. A model takes one to two minutes on one core.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import click
import torch
from _micro_figure import save_curves
from _micro_training import HELD_OUT_ROW, Recipe, train, write

from replk_probe.errors import ReplkProbeError
from replk_probe.models.architectures.micro import DEFAULT_TAG, MICRO_MODELS, SHAPE_VALIDITIES
from replk_probe.runtime.checkpoint import discard

ROOT = Path(__file__).resolve().parent.parent
# The weights in the package: all models with the default tag, one with all tags, and one of large kernels.
EMBEDDED = (
    *((name, DEFAULT_TAG) for name in MICRO_MODELS),
    *(("replknet_micro_k3", tag) for tag in SHAPE_VALIDITIES if tag != DEFAULT_TAG),
    ("replknet_micro_k13_rep", "shape100"),
)

# These reach 95 % accuracy only with twice as many images.
_SLOW = ("replknet_micro_k7_rep", "replknet_micro_k31", "mobilenetv2_micro_k13")


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", multiple=True, type=click.Choice(MICRO_MODELS), help="Models; by default all.")
@click.option("--tag", "tags", multiple=True, type=click.Choice([*SHAPE_VALIDITIES]), help="Tags; by default all.")
@click.option("--seed", type=click.IntRange(0, HELD_OUT_ROW - 1), default=0, show_default=True)
@click.option(
    "--images",
    type=click.IntRange(1),
    help=f"Training images. [default: {Recipe().images}; {2 * Recipe().images} for {', '.join(_SLOW)}]",
)
@click.option("--output", type=click.Path(path_type=Path), default=Path("replk-probe-out/micro"), show_default=True)
@click.option("--figure", type=click.Path(path_type=Path), help="Folder for the curves of all models in --output.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(
    models: tuple[str, ...],
    tags: tuple[str, ...],
    seed: int,
    images: int | None,
    output: Path,
    figure: Path | None,
    threads: int,
) -> None:
    """Train the missing models one after the other."""
    torch.set_num_threads(threads)
    chosen = [(name, tag) for name in models for tag in tags] if models and tags else EMBEDDED
    try:
        for name, tag in chosen:
            if (not models or name in models) and (not tags or tag in tags):
                count = images or (2 if name in _SLOW else 1) * Recipe().images
                _train_one(name, seed, Recipe(shape_validity=SHAPE_VALIDITIES[tag], images=count), output)
        if figure is not None:
            save_curves(output, figure, [f"{name}.{tag}" for name, tag in EMBEDDED])
            click.echo(f"curves in {figure}", err=True)
    except KeyboardInterrupt:
        click.echo("\nInterrupted. Run the same command again to resume.", err=True)
        raise SystemExit(130) from None
    except ReplkProbeError as error:
        raise click.ClickException(str(error)) from error


def _train_one(name: str, seed: int, recipe: Recipe, folder: Path) -> None:
    stem = f"{name}.{recipe.tag}"
    finished = folder / f"{stem}.json"
    if finished.is_file():
        record = json.loads(finished.read_text(encoding="utf-8"))
        if (record["seed"], record["recipe"]) != (seed, asdict(recipe)):
            raise click.ClickException(
                f"{finished} is from another run (seed {record['seed']}, {record['images']:,} images, or another "
                "recipe) and would be overwritten. Choose another --output, or remove it."
            )
        click.echo(f"{stem}: already trained, see {finished}", err=True)
        return
    state = folder / f".{stem}-seed{seed}.state"
    run = train(name, seed, recipe, state=state, resume=True)
    record = write(run, folder, stem, commit_of_the_checkout())
    discard(state)
    click.echo(
        f"{stem}: {100 * record['held_out_accuracy']:.2f} % accuracy on held-out images after {record['images']:,} "
        f"images in {record['seconds']:.0f} s; {record['backend']}; {record['bytes']:,} bytes"
    )


def commit_of_the_checkout() -> str | None:
    """The current commit, marked if tracked files differ from it; None outside a repository."""
    try:
        found = [
            subprocess.run(
                ["git", "-C", str(ROOT), *command], check=True, capture_output=True, text=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return found[0] + (" with changes" if found[1] else "")


if __name__ == "__main__":
    main()
