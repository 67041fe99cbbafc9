"""`replk-probe erf`: the effective receptive field of models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._erf_jobs import Jobs, check_without_model, choose_jobs, parse_sizes, read_maps
from ._erf_report import draw_and_print
from ._heads import HeadChoice, head_options, with_head
from ._options import (
    BATCH_SIZE,
    PATH,
    choice_option,
    compute_options,
    input_options,
    model_options,
    named_or_default,
    output_option,
    parse_statistics,
    parse_thresholds,
    resume_options,
    seed_option,
    style_option,
    tune_option,
)
from ._runs import announce, lock_folders, measure_plans, raise_failures, resume_advice, run_plan

if TYPE_CHECKING:
    from replk_probe.erf.plan import ErfPlan
    from replk_probe.erf.published import PublishedErf
    from replk_probe.erf.result import ErfResult

_CHECKPOINT = "erf.ckpt"


@click.command()
@model_options
@head_options
@click.option("--images", type=int, default=50, show_default=True, metavar="N", help="Number of images.")
@click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    help="Folder of images, flat or with class folders. [default: generated dead-leaves images]",
)
@click.option(
    "--size",
    metavar="PX|HxW,...",
    help="Input size; images are resized to PX x PX or H x W. Several sizes are measured one by one, with a figure. "
    "[default: 1024; 192 for the small models]",
)
@input_options
@click.option(
    "--layer",
    metavar="SPEC",
    help="Target layer: stage3.5 (stages from 1, blocks from 0) or a module path; act@-1 for one of several calls, "
    "neck:out for one of several outputs. "
    "[default: the last map before the final norm, or else the map that enters the pooling]",
)
@click.option(
    "--target",
    metavar="logit:K",
    help="Differentiate the logit of class K (from 0) at the middle of the network's output, or of --layer, instead of "
    "the features.",
)
@click.option(
    "--position",
    default="center",
    show_default=True,
    metavar="POSITION",
    help="Position of the feature map: center, Y,X (row and column from 0), grid:RxC or random:N (a map for each, and "
    "their recentered mean), or mean (of all positions, not recentered).",
)
@click.option(
    "--thresholds",
    default="0.2,0.3,0.5,0.99",
    show_default=True,
    metavar="T,T,...",
    help="Fractions of the total contribution, in (0, 1).",
)
@click.option(
    "--until",
    type=float,
    metavar="SHARE",
    help="Add images until half the 95 % interval of every ratio of --until-ratios, relative to the ratio, is at most "
    "this, such as 0.02; --images is then the largest number.",
)
@click.option(
    "--until-ratios",
    default="centred,pixels",
    show_default=True,
    metavar="NAME,NAME,...",
    help="Ratios for --until: protocols for all thresholds, or with one of them, such as pixels@0.5.",
)
@click.option(
    "--numbers",
    metavar="NAME,NAME,...",
    help="Further numbers of the map to print: all, or names of erf.numbers in erf.json, such as "
    "center_offset,effective_area,gaussian. They are always saved.",
)
@click.option(
    "--check",
    type=click.Choice(["occlusion"]),
    help="occlusion: also replace what lies outside of each window, or the window, and compare the features.",
)
@choice_option(
    "--convention",
    ["replknet", "openerf", "mambair", "luo2016"],
    "Definition of the map: what is differentiated, and how signs, colors and images are combined. Repeat to compare.",
    multiple=True,
)
@choice_option(
    "--attribution",
    [
        "gradient",
        "input-x-gradient",
        "integrated-gradients",
        "smooth-grad",
        "guided-backprop",
        "deconvolution",
        "occlusion",
    ],
    "How the features are attributed to the pixels. Repeat to compare.",
    multiple=True,
)
@click.option(
    "--from",
    "sources",
    multiple=True,
    type=PATH,
    metavar="FILE|DIR",
    help="Contribution map of another tool (.npy or .npz), or a folder of a result or of such files. Repeat to "
    "compare; also together with --model.",
)
@click.option(
    "--label", "map_labels", multiple=True, metavar="NAME", help="Name of the map of --from. [default: file name]"
)
@click.option(
    "--compare",
    "references",
    multiple=True,
    metavar="published|NAME",
    help="published: show the published numbers of the same model, layer and weights. replknet, openerf, tf-sepnet or "
    "megengine: show those of this source, also for other weights. [default: replknet]",
)
@compute_options
@tune_option
@click.option(
    "--batch-size",
    type=BATCH_SIZE,
    metavar="N|auto",
    help="Images per step, halved if the memory does not suffice. auto: up to 4 on a CPU, fewer if they are large; up "
    "to 16 on a GPU, as many as fit into its free memory; fewer if there are few. [default: auto]",
)
@seed_option("Random seed for image sampling, weight initialization and random positions.")
@choice_option(
    "--sampling",
    ["stratified", "first"],
    "stratified: evenly over the class folders. first: the first files, as in the paper's script.",
)
@style_option
@output_option("replk-probe-out/erf/MODEL")
@resume_options
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    data: Path | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    thresholds: str,
    until_ratios: str,
    numbers: str | None,
    convention: tuple[str, ...],
    attribution: tuple[str, ...],
    sources: tuple[Path, ...],
    map_labels: tuple[str, ...],
    references: tuple[str, ...],
    output: Path | None,
    resume: bool,
    allow_other_device: bool,
    head: Path | None,
    classes: str | None,
    templates: str | None,
    **options: Any,
) -> None:
    """Measure the effective receptive field.

    Computes the contribution of every input pixel to the center of the last feature map, averaged over images, and the
    area of the smallest centered square that contains 20, 30, 50 and 99 % of it.

    Several GPUs or cores: torchrun --nproc-per-node N -m replk_probe erf ... divides the images among N processes and
    gives the same bytes as one process with the same number of threads (torchrun sets OMP_NUM_THREADS=1).

    Writes erf.json, erf.npz, erf.csv, erf.png and erf.pdf, and figures of the convergence (from four blocks of images
    on), of several positions and of the occlusion check; for several models, conventions or attributions, one folder
    for each and a comparison. One --model with several --weights compares checkpoints.
    """
    shares = parse_thresholds(thresholds)
    maps = read_maps(sources, map_labels, shares)
    if models or not maps or weights != ("auto",):
        models, weights = named_or_default(models, weights, "erf")
    else:
        check_without_model()

    from replk_probe.erf.config import ErfConfig, default_size
    from replk_probe.erf.plan import plan_erf
    from replk_probe.erf.published import TABLE_10, check_references
    from replk_probe.images import sample_images
    from replk_probe.report.erf_numbers_table import parse_numbers
    from replk_probe.runtime.torchrun import together, use_own_gpu

    use_own_gpu(options["device"])
    # Invalid arguments are reported before the first model is built.
    names = () if numbers is None else parse_numbers(numbers)
    published = check_references(references) if references else TABLE_10
    config = ErfConfig(
        thresholds=shares,
        until_ratios=tuple(name.strip() for name in until_ratios.split(",")),
        mean=parse_statistics("--mean", mean),
        std=parse_statistics("--std", std),
        **options,
    )
    sizes = [default_size(models)] if size is None else parse_sizes(size)
    configs = [
        replace(config, convention=name, attribution=method, size=one)
        for name, method, one in itertools.product(dict.fromkeys(convention), dict.fromkeys(attribution), sizes)
    ]
    jobs = choose_jobs(models, weights, configs, maps, output)
    plans = []
    if jobs.measured:
        sample = sample_images(data, config.images, config.seed, config.sampling)  # type: ignore[arg-type]
        with together():
            for job in jobs.measured:
                settings = replace(job.config, weights=job.weights)
                model, settings = with_head(job.model, settings, HeadChoice(head, classes, templates))
                plan = plan_erf(model, sample, settings)
                announce(plan, "the map shows the network as initialized")
                plans.append(plan)
    _run(jobs, plans, names, published, resume, allow_other_device)


def _run(
    jobs: Jobs,
    plans: list[ErfPlan],
    numbers: Sequence[str],
    published: Sequence[PublishedErf],
    resume: bool,
    allow_other_device: bool,
) -> None:
    """Run the plans, save and print all results."""
    from replk_probe.erf.plot_all import save_all_figures
    from replk_probe.runtime.torchrun import this_process

    lock_folders(*jobs.folders)
    folders = [job.folder for job in jobs.measured]
    results, failures = measure_plans(
        plans,
        folders,
        lambda plan, folder: _measure(plan, folder, resume, allow_other_device),
        [job.label for job in jobs.measured],
    )
    process = this_process()
    if process is None or process.rank == 0:
        for result, folder in jobs.imported:
            result.save(folder)
            save_all_figures(result, folder)
            results[folder] = result
    if results:
        draw_and_print(results, jobs, numbers, published)
    raise_failures(failures, len(folders), resume_advice(results, folders, _CHECKPOINT))


def _measure(plan: ErfPlan, folder: Path, resume: bool, allow_other_device: bool) -> ErfResult | None:
    """Run one plan, write its results and its figures; None if another process does."""
    from replk_probe.erf.plot_all import save_all_figures
    from replk_probe.erf.result import ErfResult

    result = run_plan(plan, folder, _CHECKPOINT, ErfResult.load, resume, allow_other_device)
    if result is not None:
        # Also of a finished run, which may have been killed before its figures were drawn.
        save_all_figures(result, folder)
    return result
