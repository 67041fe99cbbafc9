"""The analyzers of a sweep: the options of their commands, the inputs that decide their bytes, and their execution."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from replk_probe.erf.config import ErfConfig, default_size
from replk_probe.erf.plan import plan_erf
from replk_probe.errors import InvalidInputError
from replk_probe.images import sample_images
from replk_probe.kernels.config import KernelsConfig
from replk_probe.kernels.measure import plan_kernels
from replk_probe.results import Result
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.shape_bias.config import ShapeBiasConfig
from replk_probe.shape_bias.model_vs_human.raw_data import csv_files, read_folder
from replk_probe.shape_bias.plan import default_stimuli, plan_shape_bias
from replk_probe.shape_bias.stimuli.cue_conflict import cached_cue_conflict, fetch_cue_conflict
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC
from replk_probe.shape_bias.stimulus_source import check_partial, open_stimuli

from .job import Job


@dataclass(frozen=True)
class Analyzer:
    """One analyzer of a sweep.

    Attributes:
        config: Class of its options, which checks each of them.
        inputs: Further options, which name files or sets of images.
        defaults: Function from the name of a model to options that depend on it.
        digests: Function from the options to digests of what the inputs contain.
        measure: Function that does a job, with its state in a folder.
        draw: Function that draws the figures of a result into a folder.
    """

    config: type[Any]
    inputs: tuple[str, ...]
    defaults: Callable[[str], dict[str, Any]]
    digests: Callable[[Mapping[str, Any], Any], dict[str, Any]]
    measure: Callable[[Job, Path], Result]
    draw: Callable[[Any, Path], object]

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options."""
        return (*(field.name for field in fields(self.config)), *self.inputs)

    def configure(self, options: Mapping[str, Any]) -> Any:
        """The validated options; those that are inputs are left out."""
        return self.config(**{name: value for name, value in options.items() if name not in self.inputs})


def prepare_inputs(jobs: list[Job]) -> None:
    """Download what several jobs need, once.

    Raises:
        WeightsError: The published stimuli cannot be downloaded.
    """
    if any(job.options.get("stimuli") == CUE_CONFLICT for job in jobs) and cached_cue_conflict() is None:
        fetch_cue_conflict()


def forget_files() -> None:
    """Forget the digests of files, which may have changed since."""
    for function in (digest_of_file, _digest_of_stimuli, _digest_of_files):
        function.cache_clear()


def _measure_erf(job: Job, state: Path) -> Result:
    plan = plan_erf(job.model, job.options.get("data"), ANALYZERS["erf"].configure(job.options))
    return plan.run(checkpoint=state, resume=True)


def _erf_digests(options: Mapping[str, Any], config: ErfConfig) -> dict[str, Any]:
    images = sample_images(options.get("data"), config.images, config.seed, config.sampling)  # type: ignore[arg-type]
    if images.root is None:
        return {"data": images.source}
    return {"data": _digest_of_files(images.root, images.ids)}


def _draw_erf(result: Any, folder: Path) -> None:
    from replk_probe.erf.plot import save_figures

    save_figures(result, folder)


def _measure_kernels(job: Job, state: Path) -> Result:
    return plan_kernels(job.model, ANALYZERS["kernels"].configure(job.options)).run()


def _draw_kernels(result: Any, folder: Path) -> None:
    from replk_probe.kernels.plot import save_figures

    save_figures([result], folder)


def _measure_shape_bias(job: Job, state: Path) -> Result:
    config = ANALYZERS["shape-bias"].configure(job.options)
    if config.workers is None:  # the other cores belong to other jobs
        config = replace(config, workers=job.threads)
    result = plan_shape_bias(job.model, job.options["stimuli"], config).run(checkpoint=state, resume=True)
    observers = job.options.get("import")
    if observers is None:
        return result
    found = read_folder(Path(observers), _categories(config))
    return result.with_observers(found, source=f"import:{Path(observers).name}")


def _shape_bias_digests(options: Mapping[str, Any], config: ShapeBiasConfig) -> dict[str, Any]:
    stimuli, observers = options["stimuli"], options.get("import")
    check_partial(stimuli, config.allow_partial)
    found: dict[str, Any] = {"stimuli": stimuli}
    # The published set is verified when it is opened.
    if stimuli not in (CUE_CONFLICT, SYNTHETIC):
        found["stimuli"] = _digest_of_stimuli(stimuli, _categories(config))
    if observers is not None:
        folder = Path(observers)
        read_folder(folder, _categories(config))
        found["import"] = [folder.name, {path.name: sha256_of(path) for path in csv_files(folder)}]
    return found


def _draw_shape_bias(result: Any, folder: Path) -> None:
    from replk_probe.shape_bias.plot import save_figures
    from replk_probe.shape_bias.published import published_for

    save_figures(result, folder, others=published_for(result))


def _categories(config: ShapeBiasConfig) -> tuple[str, ...]:
    return CATEGORIES if config.mapping is None else config.mapping.categories


@cache
def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, which is read once for all jobs."""
    return sha256_of(path)


@cache
def _digest_of_stimuli(folder: str, categories: tuple[str, ...]) -> list[str]:
    stimuli = open_stimuli(folder, categories=categories, progress=False)
    return [stimuli.source, stimuli.digest]


@cache
def _digest_of_files(root: Path, names: tuple[str, ...]) -> list[str]:
    """Name of a folder, and a digest of the names and contents of files in it."""
    digest = hashlib.sha256()
    for name in names:
        try:
            content = digest_of_file(root / name)
        except OSError as error:
            raise InvalidInputError(
                f"Cannot read {root / name}. {error.strerror or error}. Make the file readable or remove it."
            ) from error
        digest.update(os.fsencode(f"{content}  {name}\n"))
    return [root.name, digest.hexdigest()]


ANALYZERS = {
    "erf": Analyzer(
        config=ErfConfig,
        inputs=("data",),
        defaults=lambda model: {"size": default_size([model])},
        digests=_erf_digests,
        measure=_measure_erf,
        draw=_draw_erf,
    ),
    "shape-bias": Analyzer(
        config=ShapeBiasConfig,
        inputs=("stimuli", "import"),
        defaults=lambda model: {"stimuli": default_stimuli([model])},
        digests=_shape_bias_digests,
        measure=_measure_shape_bias,
        draw=_draw_shape_bias,
    ),
    "kernels": Analyzer(
        config=KernelsConfig,
        inputs=(),
        defaults=lambda model: {},
        digests=lambda options, config: {},
        measure=_measure_kernels,
        draw=_draw_kernels,
    ),
}
