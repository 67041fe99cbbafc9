"""The comparison figures of a sweep: the models measured by one analyzer with the same settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from replk_probe.erf.plot_comparison import save_comparison as save_erf_figure
from replk_probe.erf.result import ErfResult, write_csv
from replk_probe.errors import ReplkProbeError
from replk_probe.kernels.plot import save_figures as save_kernel_figures
from replk_probe.kernels.result import KernelResult
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.paths import slug
from replk_probe.shape_bias.plot_comparison import save_comparison as save_shape_bias_figure
from replk_probe.shape_bias.published import published_for
from replk_probe.shape_bias.result import ShapeBiasResult, save_comparison, with_distinct_names

from .folder import COMPARISONS, SweepFolder, canonical
from .job import Job

_REASON = "failed.txt"
# The panels of more models are too small, and the table has all numbers.
_MOST_MODELS = 24


def draw_comparisons(folder: SweepFolder, jobs: Sequence[Job], changed: Collection[str]) -> None:
    """Draw the comparisons of the jobs that are done.

    Each is in a subfolder of ``comparison`` with the name of the analyzer and the settings. If one cannot be drawn, its
    folder has a file ``failed.txt`` with the reason.

    Args:
        folder: Folder of the sweep.
        jobs: The jobs.
        changed: Keys of the jobs that were done since the comparisons were drawn; others are not drawn again.
    """
    for name, members in _groups([job for job in jobs if folder.state(job) == "done"]):
        target = folder.root / COMPARISONS / name
        if not 2 <= len(members) <= _MOST_MODELS or (target.is_dir() and not {job.key for job in members} & {*changed}):
            continue
        try:
            _DRAW[members[0].analyzer]([folder.complete_result(job) for job in members], target)
            (target / _REASON).unlink(missing_ok=True)
        except ReplkProbeError as error:
            atomic_write_text(target / _REASON, f"{error}\n")
        folder.publish(f"{COMPARISONS}/{name}")


def _groups(jobs: Sequence[Job]) -> Iterator[tuple[str, list[Job]]]:
    """The jobs with the same analyzer and settings, and a name for each group."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        settings = [f"{name}={canonical(value)}" for name, value in job.varied.items()]
        groups.setdefault(slug(" ".join([job.analyzer, *settings])), []).append(job)
    yield from groups.items()


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


_DRAW: dict[str, Callable[[Sequence[Path], Path], None]] = {
    "erf": _draw_erf,
    "shape-bias": _draw_shape_bias,
    "kernels": _draw_kernels,
}
