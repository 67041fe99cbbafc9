"""The analyzers of a sweep: the options of their commands, the inputs that decide their bytes, and their execution."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from replk_probe.attribution.config import AttributionConfig
from replk_probe.attribution.plan import AttributionPlan, plan_attribution
from replk_probe.behaviour.config import BehaviourConfig
from replk_probe.behaviour.image_sets import BenchmarkImages, open_sets
from replk_probe.behaviour.plan import BehaviourPlan, plan_behaviour
from replk_probe.behaviour.raw_data import raw_files, read_raw_data
from replk_probe.behaviour.result import BehaviourResult
from replk_probe.erf.config import ErfConfig, default_size
from replk_probe.erf.plan import ErfPlan, plan_erf
from replk_probe.erf.result import ARRAYS_NAME, JSON_NAME
from replk_probe.erf.target_layer import point_of
from replk_probe.errors import InvalidInputError
from replk_probe.images import ImageSet, list_images, sample_images
from replk_probe.kernels.config import KernelsConfig
from replk_probe.kernels.layers import find_layers
from replk_probe.kernels.measure import KernelPlan, plan_kernels
from replk_probe.models.factory import create_skeleton
from replk_probe.reliance.config import RelianceConfig
from replk_probe.reliance.labeled_images import SYNTHETIC_IMAGES, folder_images
from replk_probe.reliance.plan import ReliancePlan, plan_reliance
from replk_probe.reliance.suppressions import parse_suppressions
from replk_probe.results import Result
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.runtime.checks import check_size
from replk_probe.runtime.devices import may_tune, resolve_device
from replk_probe.shape_bias.config import ShapeBiasConfig
from replk_probe.shape_bias.model_vs_human.raw_data import csv_files, read_folder
from replk_probe.shape_bias.plan import ShapeBiasPlan, default_stimuli, plan_shape_bias
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.stimuli.cue_conflict import cached_cue_conflict, fetch_cue_conflict
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC, StimulusSet
from replk_probe.shape_bias.stimulus_source import check_partial, open_stimuli

from .job import Job

# Loading a model costs each part of a job seconds; measuring this many pixels takes a core longer. A part of shape-bias
# has more of them, since it needs no gradients.
_ERF_PART = 8_000_000
_SHAPE_BIAS_PART = 16_000_000

_STIMULI = 1280  # in the published set and in the synthetic one
_USUAL_SIDE = 224


@dataclass(frozen=True)
class Analyzer:
    """One analyzer of a sweep.

    Attributes:
        config: Class of its options, which checks each of them.
        inputs: Further options, which name files or sets of images.
        defaults: Function from the name of a model to options that depend on it.
        digests: Function from the options to digests of what the inputs contain.
        plan: Function that prepares the measurement of a job, in the process that runs it.
        find_layer: Function that raises an error if a network, without values of its tensors, has no such layer.
        draw: Function that draws the figures of a result into a folder.
        complete: Function that adds to a result what is not measured.
        pixels: Function from the options to the number of input pixels.
        part_pixels: Least number of input pixels in a part of a job. None for jobs that are never divided and keep no
            state.
    """

    config: type[Any]
    inputs: tuple[str, ...]
    defaults: Callable[[str], dict[str, Any]]
    digests: Callable[[Mapping[str, Any], Any], dict[str, Any]]
    plan: Callable[[Job], Any]
    draw: Callable[[Any, Path], object]
    find_layer: Callable[[nn.Module, Any], object] = lambda network, layer: None
    complete: Callable[[Job, Any], Result] = lambda job, result: result
    pixels: Callable[[Mapping[str, Any], Any], int] = lambda options, config: 0
    part_pixels: int | None = None

    def most_parts(self, job: Job) -> int:
        """Number of parts into which a job can be divided so that measuring one takes longer than loading the model."""
        if self.part_pixels is None:
            return 1
        config = self.configure(job.options)
        if getattr(config, "until", None) is not None:  # the number of images is not known in advance
            return 1
        if may_tune(
            getattr(config, "tune", "off"), resolve_device(config.device)
        ):  # parts cannot agree on methods of convolutions
            return 1
        return max(self.pixels(job.options, config) // self.part_pixels, 1)

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
    """Forget the digests of files and what else may have changed since."""
    for function in (digest_of_file, network_of, _images_of, _stimuli_in, _images_in, _digest_of_files):
        function.cache_clear()


def _plan_erf(job: Job) -> ErfPlan:
    return plan_erf(job.model, job.options.get("data"), ANALYZERS["erf"].configure(job.options))


def _erf_images(options: Mapping[str, Any], config: ErfConfig) -> ImageSet:
    return sample_images(options.get("data"), config.images, config.seed, config.sampling)  # type: ignore[arg-type]


def _erf_pixels(options: Mapping[str, Any], config: ErfConfig) -> int:
    height, width = check_size(config.size)
    return len(_erf_images(options, config)) * height * width


def _erf_digests(options: Mapping[str, Any], config: ErfConfig) -> dict[str, Any]:
    images = _erf_images(options, config)
    if images.root is None:
        return {"data": images.source}
    return {"data": _digest_of_files(images.root, images.ids)}


def _draw_erf(result: Any, folder: Path) -> None:
    from replk_probe.erf.plot_all import save_all_figures

    save_all_figures(result, folder)


def _plan_kernels(job: Job) -> KernelPlan:
    return plan_kernels(job.model, ANALYZERS["kernels"].configure(job.options))


def _draw_kernels(result: Any, folder: Path) -> None:
    from replk_probe.kernels.plot import save_figures

    save_figures([result], folder)


def _plan_shape_bias(job: Job) -> ShapeBiasPlan:
    config = ANALYZERS["shape-bias"].configure(job.options)
    if config.workers is None:  # the other cores belong to other jobs
        config = replace(config, workers=job.threads)
    return plan_shape_bias(job.model, job.options["stimuli"], config)


def _with_observers(job: Job, result: ShapeBiasResult) -> ShapeBiasResult:
    observers = job.options.get("import")
    if observers is None:
        return result
    found = read_folder(Path(observers), _categories(ANALYZERS["shape-bias"].configure(job.options)))
    return result.with_observers(found, source=f"import:{Path(observers).name}")


def _shape_bias_pixels(options: Mapping[str, Any], config: ShapeBiasConfig) -> int:
    stimuli = options["stimuli"]
    is_file_set = stimuli not in (CUE_CONFLICT, SYNTHETIC)
    count = len(_stimuli_in(stimuli, _categories(config))) if is_file_set else _STIMULI
    # The size of the model is not known before it is built. Most models have this one.
    height, width = config.size or (_USUAL_SIDE, _USUAL_SIDE)
    return count * height * width


def _shape_bias_digests(options: Mapping[str, Any], config: ShapeBiasConfig) -> dict[str, Any]:
    stimuli, observers = options["stimuli"], options.get("import")
    check_partial(stimuli, config.allow_partial)
    found: dict[str, Any] = {"stimuli": stimuli}
    # The published set is verified when it is opened.
    if stimuli not in (CUE_CONFLICT, SYNTHETIC):
        opened = _stimuli_in(stimuli, _categories(config))
        if opened.cues:
            raise InvalidInputError(
                f"A sweep cannot measure {opened.source.removeprefix('set:')}. Each of its images has one cue, so that "
                "there are scores instead of the decisions that a sweep collects. Choose stimuli whose cues conflict, "
                "or run 'replk-probe shape-bias'."
            )
        found["stimuli"] = [opened.source, opened.digest]
    if observers is not None:
        folder = Path(observers)
        read_folder(folder, _categories(config))
        found["import"] = [folder.name, {path.name: sha256_of(path) for path in csv_files(folder)}]
    return found


def _draw_shape_bias(result: Any, folder: Path) -> None:
    from replk_probe.shape_bias.plot import save_figures
    from replk_probe.shape_bias.published import published_for

    save_figures(result, folder, others=published_for(result))


def _plan_attribution(job: Job) -> AttributionPlan:
    config = ANALYZERS["attribute"].configure(job.options)
    return plan_attribution(job.model, job.options["data"], job.options.get("erf"), config)


def _attributed_images(options: Mapping[str, Any]) -> tuple[Path, tuple[str, ...]]:
    """The folder of the images, and their names."""
    if "data" not in options:
        raise InvalidInputError(
            "No images are given. An attribution is that of images. Give data, an image or a folder of images."
        )
    path = Path(options["data"])
    return (path, tuple(list_images(path))) if path.is_dir() else (path.parent, (path.name,))


def _attributed_pixels(options: Mapping[str, Any], config: AttributionConfig) -> int:
    height, width = config.size or (_USUAL_SIDE, _USUAL_SIDE)
    return len(_attributed_images(options)[1]) * height * width


def _attribution_digests(options: Mapping[str, Any], config: AttributionConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"data": _digest_of_files(*_attributed_images(options))}
    config.check_method()
    if "erf" in options:
        found["erf"] = _digest_of_files(Path(options["erf"]), (JSON_NAME, ARRAYS_NAME))
    return found


def _draw_attribution(result: Any, folder: Path) -> None:
    from replk_probe.attribution.plot_images import save_figures

    save_figures(result, folder)


def _sets_of(options: Mapping[str, Any], config: BehaviourConfig) -> BenchmarkImages:
    sets, data = options.get("sets"), options.get("data")
    return _images_of(sets if sets is None or isinstance(sets, str) else tuple(sets), data, config.allow_partial)


def _plan_behaviour(job: Job) -> BehaviourPlan:
    config = ANALYZERS["behaviour"].configure(job.options)
    images = _sets_of(job.options, config)
    if config.workers is None:  # the other cores belong to other jobs
        config = replace(config, workers=job.threads)
    return plan_behaviour(job.model, images, config=config)


def _with_people(job: Job, result: BehaviourResult) -> BehaviourResult:
    people = job.options.get("import")
    if people is None:
        return result
    return result.with_observers(read_raw_data(people), source=f"import:{Path(people).name}")


def _behaviour_pixels(options: Mapping[str, Any], config: BehaviourConfig) -> int:
    height, width = config.size or (_USUAL_SIDE, _USUAL_SIDE)
    return len(_sets_of(options, config)) * height * width


def _behaviour_digests(options: Mapping[str, Any], config: BehaviourConfig) -> dict[str, Any]:
    images = _sets_of(options, config)
    found: dict[str, Any] = {"data": [images.source, images.digest]}
    if options.get("import") is not None:
        files = raw_files(options["import"])
        found["import"] = {name: [digest_of_file(path) for path in paths] for name, paths in files.items()}
    return found


def _draw_behaviour(result: Any, folder: Path) -> None:
    from replk_probe.behaviour.plot import save_figures

    save_figures(result, folder)


def _plan_reliance(job: Job) -> ReliancePlan:
    config = ANALYZERS["reliance"].configure(job.options)
    if config.workers is None:  # the other cores belong to other jobs
        config = replace(config, workers=job.threads)
    return plan_reliance(job.model, job.options.get("data"), config)


def _labeled_images(options: Mapping[str, Any], config: RelianceConfig) -> tuple[int, str]:
    """Number of images, and a digest of them."""
    data = options.get("data", SYNTHETIC)
    if data == SYNTHETIC:
        return config.images or SYNTHETIC_IMAGES, SYNTHETIC
    return _images_in(data, config.images, config.seed)


def _reliance_pixels(options: Mapping[str, Any], config: RelianceConfig) -> int:
    height, width = config.size or (_USUAL_SIDE, _USUAL_SIDE)
    versions = 1 + len(parse_suppressions(config.suppressions))
    return _labeled_images(options, config)[0] * versions * height * width


def _reliance_digests(options: Mapping[str, Any], config: RelianceConfig) -> dict[str, Any]:
    return {"data": _labeled_images(options, config)[1]}


def _draw_reliance(result: Any, folder: Path) -> None:
    from replk_probe.reliance.plot_all import save_all_figures

    save_all_figures(result, folder)


def _categories(config: ShapeBiasConfig) -> tuple[str, ...]:
    return CATEGORIES if config.mapping is None else config.mapping.categories


@cache
def network_of(model: str) -> nn.Module | None:
    """A network without values of its tensors, which is built once for all jobs; None if that is not possible."""
    return create_skeleton(model)


@cache
def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, which is read once for all jobs."""
    return sha256_of(path)


@cache
def _images_of(sets: str | tuple[str, ...] | None, data: str | None, partial: bool) -> BenchmarkImages:
    return open_sets(sets, data, allow_partial=partial, progress=False)


@cache
def _stimuli_in(folder: str, categories: tuple[str, ...]) -> StimulusSet:
    return open_stimuli(folder, categories=categories, progress=False)


@cache
def _images_in(folder: str, images: int | None, seed: int) -> tuple[int, str]:
    found = folder_images(folder, images, seed)
    return len(found.ids), f"{found.source} {found.digest}"


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
        plan=_plan_erf,
        draw=_draw_erf,
        find_layer=point_of,
        pixels=_erf_pixels,
        part_pixels=_ERF_PART,
    ),
    "shape-bias": Analyzer(
        config=ShapeBiasConfig,
        inputs=("stimuli", "import"),
        defaults=lambda model: {"stimuli": default_stimuli([model])},
        digests=_shape_bias_digests,
        plan=_plan_shape_bias,
        draw=_draw_shape_bias,
        complete=_with_observers,
        pixels=_shape_bias_pixels,
        part_pixels=_SHAPE_BIAS_PART,
    ),
    "behaviour": Analyzer(
        config=BehaviourConfig,
        inputs=("sets", "data", "import"),
        defaults=lambda model: {},
        digests=_behaviour_digests,
        plan=_plan_behaviour,
        draw=_draw_behaviour,
        complete=_with_people,
        pixels=_behaviour_pixels,
        part_pixels=_SHAPE_BIAS_PART,
    ),
    "kernels": Analyzer(
        config=KernelsConfig,
        inputs=(),
        defaults=lambda model: {},
        digests=lambda options, config: {},
        plan=_plan_kernels,
        draw=_draw_kernels,
        find_layer=find_layers,
    ),
    "attribute": Analyzer(
        config=AttributionConfig,
        inputs=("data", "erf"),
        defaults=lambda model: {},
        digests=_attribution_digests,
        plan=_plan_attribution,
        draw=_draw_attribution,
        find_layer=point_of,
        pixels=_attributed_pixels,
        part_pixels=_ERF_PART,
    ),
    "reliance": Analyzer(
        config=RelianceConfig,
        inputs=("data",),
        defaults=lambda model: {},
        digests=_reliance_digests,
        plan=_plan_reliance,
        draw=_draw_reliance,
        pixels=_reliance_pixels,
        part_pixels=_SHAPE_BIAS_PART,
    ),
}
