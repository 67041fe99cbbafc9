"""The comparison figures of a sweep: the models measured by one analyzer with the same settings."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from replk_probe.behaviour.display_names import with_display_names
from replk_probe.behaviour.plot import save_figures as save_behaviour_figures
from replk_probe.behaviour.result import BehaviourResult
from replk_probe.erf.plot_comparison import save_comparison as save_erf_figure
from replk_probe.erf.result import ErfResult, write_csv
from replk_probe.errors import ReplkProbeError
from replk_probe.kernels.plot import save_figures as save_kernel_figures
from replk_probe.kernels.result import KernelResult
from replk_probe.reliance.plot import save_figures as save_reliance_figure
from replk_probe.reliance.result import RelianceResult
from replk_probe.reliance.result import write_csv as write_reliance_csv
from replk_probe.results import strict_json
from replk_probe.runtime.atomic_files import atomic_write_text, sha256_of
from replk_probe.runtime.checks import check_size
from replk_probe.runtime.paths import slug
from replk_probe.shape_bias.plot_comparison import save_comparison as save_shape_bias_figure
from replk_probe.shape_bias.published import published_for
from replk_probe.shape_bias.result import ShapeBiasResult, save_comparison, with_distinct_names

from .analyzers import ANALYZERS
from .folder import COMPARISONS, SweepFolder, canonical
from .job import OWN_COLUMN, Job
from .result import TABLES

_REASON = "failed.txt"
_RECORD = "jobs.json"
# The panels of more models are too small, and the table has all numbers.
_MOST_MODELS = 24
_LONGEST_NAME = 80


def draw_comparisons(folder: SweepFolder, jobs: Sequence[Job], changed: Collection[str]) -> None:
    """Draw the comparisons of the jobs that are done.

    Each is in a subfolder of ``comparison`` with the name of the analyzer and the settings. Its file ``jobs.json``,
    which is written last, has the keys of its jobs and digests of their tables. If a comparison cannot be drawn, its
    folder has a file ``failed.txt`` with the reason.

    Args:
        folder: Folder of the sweep.
        jobs: The jobs.
        changed: Keys of the jobs that were done in this run; their comparisons are drawn again. Others are drawn again
            if they do not show the same results.
    """
    for name, members in _groups(jobs):
        done = [job for job in members if folder.state(job) == "done"]
        if not 2 <= len(done) <= _MOST_MODELS or done[0].analyzer not in _DRAW:
            continue
        target = folder.root / COMPARISONS / name
        shown = _shown(folder, done)
        record = strict_json(shown)
        if _recorded(folder, name) == record and not shown.keys() & {*changed}:
            continue
        (target / _RECORD).unlink(missing_ok=True)
        try:
            _DRAW[done[0].analyzer]([folder.complete_result(job) for job in done], target)
            (target / _REASON).unlink(missing_ok=True)
        except ReplkProbeError as error:
            atomic_write_text(target / _REASON, f"{error}\n")
        folder.publish(f"{COMPARISONS}/{name}")
        atomic_write_text(target / _RECORD, record)
        folder.publish(f"{COMPARISONS}/{name}/{_RECORD}")


def _shown(folder: SweepFolder, jobs: Sequence[Job]) -> dict[str, str]:
    """Digests of the tables of jobs by their keys."""
    names = {job.key: f"{job.folder}/{TABLES[job.analyzer].file}" for job in jobs}
    folder.fetch([*names.values()])
    return {key: sha256_of(folder.root / name) for key, name in names.items()}


def _recorded(folder: SweepFolder, name: str) -> str | None:
    """The record of a comparison; None if there is none."""
    path = f"{COMPARISONS}/{name}/{_RECORD}"
    if not (folder.root / path).parent.is_dir():
        return None
    with contextlib.suppress(ReplkProbeError, OSError, ValueError):
        folder.fetch([path])
        return (folder.root / path).read_text(encoding="utf-8")
    return None


def _groups(jobs: Sequence[Job]) -> Iterator[tuple[str, list[Job]]]:
    """The jobs with the same analyzer and settings, and a folder name for each group.

    The name has the settings that are varied or that differ because their defaults depend on the model.
    """
    for analyzer in dict.fromkeys(job.analyzer for job in jobs):
        members = [job for job in jobs if job.analyzer == analyzer]
        settings = [_settings(job) for job in members]
        names = list(dict.fromkeys(name for one in (*(job.varied for job in members), *settings) for name in one))
        varied = [name for name in names if any(name in job.varied for job in members)]
        varied += [name for name in names if name not in varied and len({one.get(name) for one in settings}) > 1]
        groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for index, one in enumerate(settings):
            groups.setdefault(tuple(sorted(one.items())), []).append(index)
        texts = [_text(members[first], settings[first], varied) for first, *_ in groups.values()]
        slugs = Counter(map(slug, texts))
        for text, indices in zip(texts, groups.values(), strict=True):
            name = slug(text)
            if len(name) > _LONGEST_NAME or slugs[name] > 1:
                name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
            yield name, [members[index] for index in indices]


def _text(job: Job, settings: dict[str, str], names: Sequence[str]) -> str:
    """The analyzer and some settings of a job: paths as written, and others as given or by default."""
    given = {name: canonical(value) for name, value in (dict(job.options) | dict(job.varied)).items()}
    shown = {name: (settings | given).get(name, "null") for name in names}
    return " ".join([job.analyzer, *(f"{name}={value}" for name, value in shown.items() if value != "null")])


def _settings(job: Job) -> dict[str, str]:
    """All options with which the results of models are compared, as text; those that a job lacks are defaults."""
    defaults = {one.name: one.default for one in fields(ANALYZERS[job.analyzer].config)}
    settings = defaults | dict(job.varied) | dict(job.options)
    if settings.get("size") is not None:
        settings["size"] = check_size(settings["size"])
    return {name: canonical(value) for name, value in settings.items() if name not in OWN_COLUMN}


def _draw_erf(folders: Sequence[Path], target: Path) -> None:
    results = [ErfResult.load(folder) for folder in folders]
    save_erf_figure(results, target)
    write_csv(results, target / "comparison.csv")


def _draw_kernels(folders: Sequence[Path], target: Path) -> None:
    save_kernel_figures([KernelResult.load(folder) for folder in folders], target)


def _draw_shape_bias(folders: Sequence[Path], target: Path) -> None:
    results = with_distinct_names([ShapeBiasResult.load(folder) for folder in folders])
    save_comparison(results, target)
    save_shape_bias_figure(results, target, others=published_for(results[0]))


def _draw_behaviour(folders: Sequence[Path], target: Path) -> None:
    first, *others = with_display_names([BehaviourResult.load(folder) for folder in folders])
    trials = [one for other in others for one in other.trials]
    save_behaviour_figures(first.with_observers((), trials), target)


def _draw_reliance(folders: Sequence[Path], target: Path) -> None:
    results = [RelianceResult.load(folder) for folder in folders]
    save_reliance_figure(results, target, "comparison")
    write_reliance_csv(results, target / "comparison.csv")


# There is no figure that compares attributions.
_DRAW: dict[str, Callable[[Sequence[Path], Path], None]] = {
    "erf": _draw_erf,
    "shape-bias": _draw_shape_bias,
    "behaviour": _draw_behaviour,
    "kernels": _draw_kernels,
    "reliance": _draw_reliance,
}
