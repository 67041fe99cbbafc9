"""Effects of kernel size, re-parameterization and cue validity, in small models trained on synthetic data.

    python scripts/micro_study.py                                 # train and measure all that is missing (hours)
    python scripts/micro_study.py --figure figures/micro-study    # the same, then write the table and the figure

For each setting, which is a model with a validity of the shape in training, and each seed: accuracy on held-out
congruent images, shape bias on the synthetic conflict set, the effective receptive field on dead-leaves images of
192 px, and the distribution of the kernels' mass after and before training. Training runs and measurements are kept in
--output, so that the same command resumes after an interruption; runs in --reuse are not repeated. All settings of one
seed come before those of the next, so that a table can be made of the existing runs (--report-only). Several processes
may train at the same time, each with its own --model, --tag or --seed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from _micro_figure import kernel_of
from _micro_training import HELD_OUT_ROW, Recipe, train, write
from _study_report import save_report
from train_micro import commit_of_the_checkout

from replk_probe import load_checkpoint, measure_erf, measure_shape_bias
from replk_probe.errors import ReplkProbeError
from replk_probe.models import attach_weights_info, create_model
from replk_probe.models.architectures.micro import DEFAULT_TAG, ERF_SIZE, MICRO_MODELS, SHAPE_VALIDITIES
from replk_probe.models.weights.embedded import FOLDER
from replk_probe.results import strict_json
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.checkpoint import discard
from replk_probe.runtime.provenance import WeightsInfo

# Schema version of measures.json; runs with another version are measured again.
SCHEMA_VERSION = 3
# Models and tags in the order of their importance: a partial table is most useful with the first ones.
SETTINGS = (
    *(
        (name, tag)
        for tag in (DEFAULT_TAG, "shape100", "shape75")
        for name in ("replknet_micro_k3", "replknet_micro_k13_rep", "replknet_micro_k31_rep")
    ),
    *(
        (name, DEFAULT_TAG)
        for name in (
            "replknet_micro_k13",
            "replknet_micro_k7",
            "replknet_micro_k31",
            "replknet_micro_k7_rep",
            "mobilenetv2_micro_k13",
            "mobilenetv2_micro_k13_rep",
        )
    ),
    ("replknet_micro_k3", "shape50"),
)
_ERF_IMAGES = 50


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", multiple=True, type=click.Choice(MICRO_MODELS), help="Models; by default all.")
@click.option("--tag", "tags", multiple=True, type=click.Choice([*SHAPE_VALIDITIES]), help="Tags; by default all.")
@click.option("--seeds", type=click.IntRange(1, HELD_OUT_ROW), default=3, show_default=True, help="Runs per setting.")
@click.option("--images", type=click.IntRange(1), default=Recipe().images, show_default=True, help="Images per run.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("replk-probe-out/micro-study"), show_default=True
)
@click.option("--figure", type=click.Path(path_type=Path), help="Folder for the table and the figure.")
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    default=FOLDER,
    help="Folder with weights from scripts/train_micro.py to reuse. [default: the weights in the package]",
)
@click.option("--train-only", is_flag=True, help="Train without measuring.")
@click.option("--report-only", is_flag=True, help="Only make the table of existing measurements.")
def main(
    models: tuple[str, ...],
    tags: tuple[str, ...],
    seeds: int,
    images: int,
    output: Path,
    figure: Path | None,
    reuse: Path,
    train_only: bool,
    report_only: bool,
) -> None:
    """Train and measure all that is missing."""
    torch.set_num_threads(1)
    done = []
    chosen = [(n, t) for n, t in SETTINGS if (not models or n in models) and (not tags or t in tags)]
    try:
        for seed in range(seeds):
            for name, tag in chosen:
                recipe = Recipe(shape_validity=SHAPE_VALIDITIES[tag], images=images)
                folder = output / f"{name}.{tag}" / f"seed{seed}"
                if not report_only:
                    _train(name, seed, recipe, folder, reuse)
                if not (report_only or train_only):
                    _measure(name, seed, folder)
                if (folder / "measures.json").is_file():
                    done.append(_read(folder, recipe))
    except KeyboardInterrupt:
        click.echo("\nInterrupted. Run the same command again to resume.", err=True)
        raise SystemExit(130) from None
    except ReplkProbeError as error:
        raise click.ClickException(str(error)) from error
    if figure is not None and done:
        save_report(done, figure)
        click.echo((figure / "table.md").read_text(encoding="utf-8"))


def _train(name: str, seed: int, recipe: Recipe, folder: Path, reuse: Path) -> None:
    """Put the weights and record of one run into ``folder``, unless they exist: copied from ``reuse``, or trained."""
    wanted = {"seed": seed, "images": recipe.steps * recipe.batch_size, "recipe": asdict(recipe)}

    def is_wanted(path: Path) -> bool:
        record = json.loads(path.read_text(encoding="utf-8"))
        return all(record[key] == value for key, value in wanted.items())

    made = folder / "weights.json"
    if made.is_file():
        if not is_wanted(made):
            raise click.ClickException(
                f"{made} has another recipe. Runs that are compared must have the same recipe. Choose another "
                "--output, or remove it."
            )
        return
    made = reuse / f"{name}.{recipe.tag}.json"
    if made.is_file() and is_wanted(made):
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in (".safetensors", ".json"):  # the record last, because it marks a complete run
            shutil.copyfile(made.with_suffix(suffix), folder / f"weights{suffix}")
        click.echo(f"{name}.{recipe.tag}, seed {seed}: already trained, see {made}")
        return
    state = folder / "unfinished"
    run = train(name, seed, recipe, state=state, resume=True)
    record = write(run, folder, "weights", commit_of_the_checkout())
    discard(state)
    accuracy = 100 * record["held_out_accuracy"]
    click.echo(f"{name}.{recipe.tag}, seed {seed}: {accuracy:.2f} % after {record['seconds']:.0f} s")


def _read(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The measurements of one run, if it has this recipe."""
    measures: dict[str, Any] = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
    if record["recipe"] != asdict(recipe) or not _is_of(measures, record):
        raise click.ClickException(
            f"{folder / 'measures.json'} has another recipe, or was measured in another way. All rows of a table must "
            "be comparable. Give the --images of that run, measure again without --report-only, or remove it."
        )
    return measures


def _is_of(measures: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether measurements belong to these weights and the current schema."""
    known = tuple(measures.get(name) for name in ("sha256", "schema_version", "erf_images", "erf_size"))
    return known == (record["sha256"], SCHEMA_VERSION, _ERF_IMAGES, ERF_SIZE)


def _measure(name: str, seed: int, folder: Path) -> None:
    """Measure one trained network and write ``measures.json``."""
    from replk_probe import measure_kernels

    record = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
    done = folder / "measures.json"
    if done.is_file() and _is_of(json.loads(done.read_text(encoding="utf-8")), record):
        return
    model = create_model(name, "random")
    load_checkpoint(model, folder / "weights.safetensors")
    attach_weights_info(model, WeightsInfo(f"file:{name}.{record['tag']}-seed{seed}", record["sha256"]))
    bias = measure_shape_bias(model, "synthetic", workers=0, name=name)
    field = measure_erf(model, images=_ERF_IMAGES, size=ERF_SIZE, name=name)
    kernels = measure_kernels(model, "all", "all", name=name).kernels
    # For comparison, measure the initial weights as well.
    initial = measure_kernels(create_model(name, "random", seed=seed), "all", "all", name=name).kernels
    assert bias.model is not None  # it was just measured
    counts = bias.model.counts
    measures: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": name,
        "kernel": kernel_of(name),
        "rep": name.endswith("_rep"),
        "tag": record["tag"],
        "shape_validity": record["shape_validity"],
        "seed": seed,
        "images": record["images"],
        "sha256": record["sha256"],
        "accuracy": record["held_out_accuracy"],
        "shape_bias": bias.shape_bias,
        "cue_accuracy": counts.cue_accuracy,
        "decisions": {"shape": counts.n_shape, "texture": counts.n_texture, "other": counts.n_other},
        "erf": [
            {"protocol": row.protocol, "threshold": row.threshold, "side": row.side, "ratio": row.ratio}
            for row in field.ratios
        ],
        "erf_images": field.n_images,
        "erf_size": ERF_SIZE,
        "kernels": [
            {
                "layer": kernel.layer,
                "variant": kernel.variant,
                "kernel_size": list(kernel.kernel_size),
                "centre3x3_share": kernel.center3x3_share,
                "initial_centre3x3_share": first.center3x3_share,
                "effective_size": {str(percent): side for percent, side in kernel.effective_size.items()},
            }
            for kernel, first in zip(kernels, initial, strict=True)
        ],
        "commit": commit_of_the_checkout(),
    }
    atomic_write_text(folder / "measures.json", strict_json(measures))
    click.echo(f"{name}.{record['tag']}, seed {seed}: shape bias {100 * bias.shape_bias:.1f} %")


if __name__ == "__main__":
    main()
