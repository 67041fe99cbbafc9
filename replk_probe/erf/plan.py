"""A measurement that is ready to run: whatever can be checked quickly is checked before the first image."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.images import ImageSet, UnreadableImageError, normalize
from replk_probe.images.channels import channels_note, check_channels, fitted_statistics, with_channels
from replk_probe.images.depth import depth_note
from replk_probe.models import create_model, data_config, weights_info
from replk_probe.models.checkpoints.digest import bytes_of, bytes_of_model, digest_of
from replk_probe.models.inference.copying import device_and_dtype, on_device
from replk_probe.models.inference.cudnn_passes import contiguous_note
from replk_probe.models.inference.environment import environment_of, versions_on
from replk_probe.models.inference.prepare import PreparedModel, module_of, unprepared
from replk_probe.models.inference.run_methods import choose_methods, fixed_methods
from replk_probe.models.model_id import name_of
from replk_probe.models.records import statistics_note
from replk_probe.models.weight_values import check_run_values
from replk_probe.runtime.ahead import computed_ahead
from replk_probe.runtime.checkpoint import Checkpoint, Keeper, discard
from replk_probe.runtime.checks import check_size
from replk_probe.runtime.devices import device_label, experimental_note, measuring, resolve_device
from replk_probe.runtime.memory import batch_note, is_measurable, with_smaller_batches
from replk_probe.runtime.parts import ChosenMethods, Divisible
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import RunInfo, WeightsInfo, software_versions
from replk_probe.runtime.transfer import transfer_for
from replk_probe.runtime.worker import Worker

from .accumulator import MAX_BLOCKS, BlockSums, RunState, block_bounds, result_of
from .area_protocols import centered_windows
from .arguments import TensorImages, choose_images
from .attribution import WITH_OWN_MODULES, attribution_record, check_modules
from .batch_size import automatic_batch_size, measured_batch_size
from .choose_target import target_for
from .config import ErfConfig
from .contribution import InputGradient
from .convention import Convention, convention_of, convention_record
from .convergence import CRITERION, next_check
from .forward_region import is_sought
from .input_size import resized
from .jackknife import Blocks
from .measured_positions import map_function, window_middle
from .notes import closed_branches_note, constant_sum_note, trained_size_note
from .occlusion_check import compare
from .occlusion_rows import (
    Compared,
    disagreement_note,
    few_images_note,
    occlusions_of,
    summarize,
    turn_of,
    whole_image_note,
)
from .preparation import prepare
from .probe_layer import UnsuitableSizeError
from .result import ErfResult
from .scored_batches import BatchScorer, Loaded, ScoredBatch
from .target_layer import Layer, TargetLayer, point_of, run_to

# Threads that load images while the model computes.
_THREADS = 2
_NOT_FINITE = "The image has values that are not finite."


def plan_erf(model: nn.Module | PreparedModel | str, data: Any = None, config: ErfConfig | None = None) -> ErfPlan:
    """Check the arguments, build the model and find the layer.

    Arguments and errors are those of :func:`~replk_probe.measure_erf`; ``config`` holds the options.
    """
    config = config or ErfConfig()
    if not isinstance(model, str):
        module_of(model, or_name=True)
    device = resolve_device(config.device)
    if isinstance(model, PreparedModel):
        config, device = _as_prepared(model, config)
    images = choose_images(data, config.images, config.seed, config.sampling)
    if isinstance(images, TensorImages):
        count, channels, *size = images.batch.shape
    else:
        count, channels, size = 1, config.channels or 3, [*check_size(config.size)]
        check_channels(channels, config.bgr)
    try:
        module, target, note = _located(model, (count, channels, *size), config)
    except UnsuitableSizeError as error:
        takes = error.failure.channels
        if takes is None or config.channels is not None or isinstance(images, TensorImages):
            raise
        channels = takes
        check_channels(channels, config.bgr)
        module, target, note = _located(model, (count, channels, *size), config)
    target = target.at(config.position, config.seed)
    if config.check is not None and len(target.input_size) != 2:
        raise InvalidInputError(
            f"The occlusion check cannot be made for inputs of {len(target.input_size)} axes. It replaces parts of "
            "images. Leave it out."
        )
    check_modules(config.attribution, module, prepared=isinstance(model, PreparedModel))
    check_run_values(module, (1, channels, *target.input_size), partial(run_to, point=target))
    from_files = not isinstance(images, TensorImages)
    # A copy that was rebuilt for another size keeps the record of its weights.
    weights = weights_info(module)
    notes = (
        target.note,
        note,
        trained_size_note(data_config(module).input_size, target.input_size) if weights.is_embedded else None,
        statistics_note(module) if from_files and (config.mean is None or config.std is None) else None,
        channels_note(channels, bgr=config.bgr) if from_files else None,
        closed_branches_note(module) if weights.is_random else None,
        constant_sum_note(module, target, convention_of(config.convention)),
        images.shortfall_note,
        experimental_note(device),
    )
    own_code = not isinstance(model, str) or ":" in model
    batch_size = config.batch_size or automatic_batch_size(module, target, channels, device, own_code=own_code)
    return ErfPlan(
        name=config.name or (model if isinstance(model, str) else name_of(module)),
        model=model if isinstance(model, PreparedModel) else module,
        weights=weights,
        images=images,
        target=target,
        settings=config,
        device=device,
        channels=channels,
        notes=tuple(text for text in notes if text),
        batch_size=batch_size,
        own_code=own_code,
    )


def _as_prepared(model: PreparedModel, config: ErfConfig) -> tuple[ErfConfig, torch.device]:
    """The options with the precision of a prepared model, and its device, which must not contradict each other."""
    device = device_and_dtype(model.module).get("device", torch.device("cpu"))
    if config.precision not in (ErfConfig.precision, model.precision):
        raise InvalidInputError(
            f"The model was prepared for precision {model.precision!r}, but {config.precision!r} is requested. "
            "A prepared model keeps its precision. Prepare it again for another one."
        )
    if str(config.device) != "auto" and resolve_device(config.device) != device:
        raise InvalidInputError(
            f"The model was prepared on {device}, but device {str(config.device)!r} is requested. A prepared model "
            "stays on its device. Move the model to the device first and prepare it there."
        )
    return replace(config, precision=model.precision), device


@dataclass(eq=False)
class ErfPlan(Divisible[RunState, ErfResult]):
    """A measurement that is ready to run, with checked arguments."""

    name: str  # name of the model in the result
    model: nn.Module | PreparedModel
    weights: WeightsInfo  # source of the weights
    images: ImageSet | TensorImages
    target: TargetLayer
    settings: ErfConfig
    device: torch.device
    channels: int  # number of input channels
    notes: tuple[str, ...]  # notes that are known before the measurement
    batch_size: int = 1  # number of images at once; the largest if it is found from the free memory of the device
    # Whether the model is a module or was made by a factory, so that its name does not identify it.
    own_code: bool = False

    _options = (
        "model", "size", "layer", "target", "position", "precision", "device", "seed", "sampling", "images", "channels",
        "mean", "std", "bgr", "until", "until_ratios", "check", "thresholds",
    )  # fmt: skip
    _optional = (
        "entry of the weights", "mean", "std", "channels", "bgr", "target", "position", "convention", "attribution",
        "until", "until_ratios", "check", "given_layer",
    )  # fmt: skip

    @property
    def record(self) -> dict[str, Any]:
        """Everything that determines the contribution map: equal records give equal bytes."""
        versions = software_versions()
        return {
            "model": self.name,
            "seed": self.settings.seed,
            "weights": self.weights.source,
            "sha256 of the weights": self.weights.sha256,
            "seed of the weights": self.weights.seed,
            **({"entry of the weights": [self.weights.wrapper, self.weights.prefix]} if self.weights.wrapper else {}),
            "parameters": self._parameters,
            "size": list(self.target.input_size),
            "layer": self.target.label,
            **({} if self.settings.target is None else {"target": self.settings.target}),
            **self.target.position.recorded(),
            "precision": self.settings.precision,
            "device": str(self.device),
            "data": self.images.source,
            "images": self.images.requested,
            "sampling": self.images.sampling,
            "image_ids": self._image_ids,
            "image files": self._image_files,
            "batch_size": "auto" if self._finds_batch_size else self.batch_size,
            **self._input_options,
            **convention_record(self.settings.convention),
            **attribution_record(self.settings.attribution, self.settings.seed),
            **({} if self.settings.layer is None else {"given_layer": True}),
            **self._until,
            **({} if self.settings.check is None else {"check": self.settings.check}),
            **{f"version of {package}": versions[package] for package in ("replk-probe", "torch", "timm")},
        }

    @property
    def _until(self) -> dict[str, Any]:
        """The criterion, without the ratios if they are the usual ones."""
        until, ratios = self.settings.until, self.settings.until_ratios
        found = {} if until is None else {"until": until}
        return found if ratios == CRITERION else found | {"until_ratios": list(ratios)}

    @property
    def _input_options(self) -> dict[str, Any]:
        """The options of the input that were given or that differ from the usual ones."""
        given: dict[str, Any] = {"mean": self.settings.mean, "std": self.settings.std}
        options = {name: list(values) for name, values in given.items() if values is not None}
        if isinstance(self.images, TensorImages):
            return {}
        return (
            options
            | ({} if self.channels == 3 else {"channels": self.channels})
            | ({"bgr": True} if self.settings.bgr else {})
        )

    def __post_init__(self) -> None:
        """Check the statistics, and compute digests of modules, arrays and files, which names do not identify."""
        self._mean, self._std = self._statistics()
        bounds = block_bounds(len(self.images.ids))
        # Batches of an automatic size end with a block, so that every block can begin a part.
        self._bounds = bounds
        if self.settings.batch_size is not None:
            self._bounds = [bound for bound in bounds if bound % self.batch_size == 0 or bound == bounds[-1]]
        self._parameters = digest_of(bytes_of_model(module_of(self.model))) if self.own_code else None
        given = [self.images.batch] if isinstance(self.images, TensorImages) else []
        names = (image_id.encode("utf-8", "surrogateescape") for image_id in self.images.ids)
        self._image_ids = digest_of(itertools.chain(names, bytes_of(given)))
        stamps = None if isinstance(self.images, TensorImages) else self.images.stamps()
        self._image_files = None if stamps is None else digest_of(stamp.encode() for stamp in stamps)

    @property
    def _record_of_result(self) -> dict[str, Any]:
        return super()._record_of_result | {"thresholds": list(self.settings.thresholds)}

    @property
    def _environment(self) -> Mapping[str, Any]:
        return environment_of(self.device)

    def _state(self, part: range, store: Checkpoint | None) -> RunState:
        grows = self.settings.until is not None
        n_images = MAX_BLOCKS if grows else len(self.images.ids)
        state = RunState(BlockSums(n_images, self.target.map_shape, done=part.start), grows=grows)
        if store is not None:
            state.restore(store, self.images.ids, part.stop)
        return state

    def _run(self, state: RunState, store: Checkpoint | None, progress: bool) -> ErfResult:
        """The result, after the images that are not in the state were added to it."""
        with self._measured(self._all, state, store, progress) as prepared:
            if state.sums.n_added == 0:
                if store is not None:
                    discard(store.folder)
                worst = state.skipped[0]
                raise InvalidInputError(
                    f"None of the {len(self._all)} images could be used. The first one, {worst['id']!r}: "
                    f"{worst['reason']} Give images that can be read and whose gradients are finite."
                )
            if not state.sums.mean().any():
                self._check_signs(self._gradient(prepared), state)
            result = self._result(state, prepared)
            if self.settings.check is not None:
                result = self._checked(result, state, store, prepared, progress)
            return self._with_batch_sizes(result, state)

    def _checked(
        self, result: ErfResult, state: RunState, store: Checkpoint | None, prepared: PreparedModel, progress: bool
    ) -> ErfResult:
        """The result with the rows of the occlusion check."""
        start, count = time.perf_counter() - state.seconds, len(state.used)
        found = centered_windows(result.contribution, result.thresholds, result.center)
        windows = dict(zip(result.thresholds, found, strict=True))
        occlusions = occlusions_of(windows, self.target.input_size, several=count > 1)
        done = len(state.occluded)
        # The image before each one replaces parts of it.
        indices = [self.images.ids.index(state.used[index % count]) for index in range(done - 1, count)]
        bar: Any = progress_bar(
            total=count, initial=done, desc=f"{self.name}, occlusion", unit="image", disable=not progress
        )
        ahead = computed_ahead(self._load, indices, threads=self._threads, waiting=2)
        with ahead as images, bar, Keeper(store, state.save) as keeper:
            other, _ = next(images)
            for index, (image, _) in enumerate(images, done):
                chosen = [occlusions[one] for one in turn_of(occlusions, index)]
                values: Compared = [None] * len(chosen)
                size = self._batch_size_of(state)
                # A file may have been removed since its contribution was measured.
                if isinstance(image, Tensor) and isinstance(other, Tensor):
                    another = other if count > 1 else None
                    values, size = with_smaller_batches(
                        partial(compare, prepared.module, self.target, image, another, chosen), size
                    )
                with keeper.change():
                    self._note_batch_size(state, size)
                    state.occluded.append(values)
                    state.methods |= {*prepared.methods.take()}
                    state.seconds = time.perf_counter() - start
                other = image
                bar.update(1)
        rows = summarize(occlusions, state.occluded)
        notes = (
            whole_image_note(windows, self.target.input_size),
            few_images_note(occlusions, count),
            disagreement_note(rows),
        )
        return replace(
            result,
            occlusion=rows,
            # The check has batches of other sizes, which can be computed by other methods.
            run=replace(result.run, seconds=round(state.seconds, 3), backend=prepared.backend_used(state.methods)),
            notes=(*result.notes, *(note for note in notes if note)),
        )

    def _with_batch_sizes(self, result: ErfResult, state: RunState) -> ErfResult:
        """The result with the numbers of images at once, if they are not that of the plan."""
        if not state.batch_sizes:
            return result
        run = replace(result.run, config={**result.run.config, "batch_sizes": state.batch_sizes})
        note = batch_note(state.batch_sizes, "images")
        return replace(result, run=run, notes=(*result.notes, note) if note else result.notes)

    @property
    def _threads(self) -> int:
        """Number of threads that load images ahead."""
        return 0 if isinstance(self.images, TensorImages) else _THREADS

    @contextmanager
    def _measured(
        self, part: range, state: RunState, store: Checkpoint | None, progress: bool
    ) -> Iterator[PreparedModel]:
        """Add the images of a part that are not in the state; yields the model."""
        start = time.perf_counter() - state.seconds
        todo = range(state.sums.done, part.stop)
        threads = None if store is None else store.environment["threads"]
        self._begin(part, state, store, progress)
        methods = fixed_methods(
            state.chosen.methods,
            self.device,
            folder=None if store is None else store.folder,
            other_device=bool(state.device_notes),
        )
        with measuring(self.device, self.target.input_size, threads=threads), methods:
            if isinstance(self.model, PreparedModel):
                prepared = self.model
                prepared.methods.take()  # those of earlier calls
            elif self._on_network_itself:
                prepared = unprepared(on_device(self.model, self.device))
            else:
                prepared = prepare(on_device(self.model, self.device), self.settings.precision, self.target)
            gradient = self._gradient(prepared)
            if todo and self._finds_batch_size and self.batch_size > 1 and not state.batch_sizes:
                state.batch_sizes = [self._measured_batch_size(gradient, prepared)]
            size = self._batch_size_of(state)
            transfer = transfer_for(self.device)
            ahead = computed_ahead(self._load, todo, threads=self._threads, waiting=size + 1)
            bar: Any = progress_bar(
                total=len(part), initial=todo.start - part.start, desc=self.name, unit="image", disable=not progress
            )
            with ahead as images, bar, Keeper(store, state.save) as keeper, Worker(transfer.depth) as worker:
                scorer = BatchScorer(gradient, images, transfer, self._convention, prepared.methods.take)

                def add(batch: ScoredBatch, first: int, size: int) -> None:
                    scores = batch.scores()
                    with keeper.change():
                        for image_id, found in zip(self.images.ids[first : first + len(batch)], scores, strict=True):
                            state.add(image_id, found)
                        state.depths += batch.depths
                        state.methods |= batch.methods
                        self._note_batch_size(state, size)
                        state.seconds = time.perf_counter() - start
                    bar.update(len(batch))

                first = state.done
                while first < part.stop:
                    if self._is_checked_at(first):
                        worker.finish()
                        if self._is_enough(state):
                            break
                    end = self._end_of_batch(first, min(first + size, part.stop))
                    batch = scorer.next_batch(end - first, worker.finish)
                    size = size if len(batch) == end - first else len(batch)
                    worker.submit(add, batch, first, size)
                    first += len(batch)
            yield prepared

    def _end_of_batch(self, first: int, end: int) -> int:
        """Where the batch that begins at ``first`` and may extend to ``end`` ends."""
        if self.settings.until is not None:
            return min(end, next_check(first))
        if self.settings.batch_size is None:
            return min(end, next(bound for bound in self._bounds if bound > first))
        return end

    def _choose_methods(self, progress: bool) -> ChosenMethods:
        """The methods that are fastest for the first batch."""
        nothing = range(0, 0)
        with self._measured(nothing, self._state(nothing, None), None, False) as prepared:
            gradient, transfer = self._gradient(prepared), transfer_for(self.device)
            size = self.batch_size
            if self._finds_batch_size and size > 1:
                size = self._measured_batch_size(gradient, prepared)
            loaded = [self._load(index) for index in range(self._end_of_batch(0, min(size, self._all.stop)))]
            if not all(isinstance(image, Tensor) for image, _ in loaded):
                return ChosenMethods({}, [])

            def first_batch() -> object:
                scorer = BatchScorer(gradient, iter(loaded), transfer, self._convention, prepared.methods.take)
                return scorer.next_batch(len(loaded), lambda: None).scores()

            found = choose_methods(
                first_batch,
                self.device,
                tune=self.settings.tune,
                images=len(self._all),
                batch_size=len(loaded),
                progress=progress,
            )
            return ChosenMethods(*found)

    @property
    def _finds_batch_size(self) -> bool:
        """Whether the number of images at once is found from the free memory when the measurement begins."""
        return self.settings.batch_size is None and is_measurable(self.device)

    def _measured_batch_size(self, gradient: InputGradient, prepared: PreparedModel) -> int:
        size = measured_batch_size(
            gradient, prepared.module, self.target, self.channels, self.device, self.batch_size, own_code=self.own_code
        )
        prepared.methods.take()  # those of the random image
        return size

    def _batch_size_of(self, state: RunState) -> int:
        """Number of images at once."""
        # The state may be that of a GPU with more memory.
        return min([self.batch_size, *state.batch_sizes])

    def _note_batch_size(self, state: RunState, size: int) -> None:
        """Note a number of images at once, which is smaller than before if the memory did not suffice."""
        before = self._batch_size_of(state)
        if size < before:
            state.batch_sizes = [*(state.batch_sizes or [before]), size]

    def _is_checked_at(self, done: int) -> bool:
        """Whether the measurement may end after this number of images."""
        return self.settings.until is not None and done > 0 and next_check(done - 1) == done

    def _is_enough(self, state: RunState) -> bool:
        """Whether the measurement ends before all images are used."""
        criterion = self.settings.criterion
        if criterion is None or state.sums.n_added == 0:
            return False
        map_of = map_function(self.target, self._convention.map_of)
        blocks = Blocks(state.sums.stacked(), state.sums.counts, map_of)
        return bool(blocks.mean.any()) and criterion.is_met(
            blocks, self.settings.thresholds, self.target.center()[0], window_middle(self.target)
        )

    def parts(self, count: int) -> list[range]:
        """The parts of the measurement; one with ``until`` has a single one, since its length is not known."""
        if self.settings.until is not None and count > 1:
            raise InvalidInputError(
                f"A measurement until a relative half-width of {self.settings.until:g} cannot be divided into {count} "
                "parts. The number of its images is not known in advance. Measure it in one process."
            )
        return super().parts(count)

    @property
    def _on_network_itself(self) -> bool:
        """Whether the network itself is measured instead of a prepared copy.

        The rounding of a copy can change the sign of a feature before a ReLU, so that the map of another tool would not
        be reproduced to more than 1e-3.
        """
        options = self.settings
        reproduces = options.convention == "openerf" and options.precision == ErfConfig.precision
        return reproduces or options.attribution in WITH_OWN_MODULES

    @property
    def _convention(self) -> Convention:
        return convention_of(self.settings.convention)

    def _gradient(self, prepared: PreparedModel) -> InputGradient:
        # The modules of an unprepared model are those of the network.
        model = prepared.module if self.settings.attribution in WITH_OWN_MODULES else prepared
        options = self.settings
        confined = not self._on_network_itself and is_sought(self.target, self.device)
        return InputGradient(
            model, self.target, options.convention, options.attribution, seed=options.seed, confined=confined
        )

    def _check_signs(self, gradient: InputGradient, state: RunState) -> None:
        """Raise InvalidInputError if the gradient of the first image has negative values only; the map is zero."""
        image, _ = self._load(self.images.ids.index(state.used[0]))
        if isinstance(image, Tensor) and bool((gradient(image[None].to(self.device)) < 0).any()):
            raise InvalidInputError(
                f"The contribution map is zero everywhere. All gradients of layer {self.target.label!r} are negative: "
                "every pixel that is increased lowers it. Choose another layer, other images or other weights."
            )

    def _load(self, index: int) -> Loaded:
        """One normalized image ``[C, H, W]``, or the reason why it cannot be used; its depth if it exceeds 8 bits."""
        if isinstance(self.images, TensorImages):
            given = self.images.batch[index].detach()
            return given if bool(torch.isfinite(given).all()) else _NOT_FINITE, None
        try:
            rgb, depth = self.images.load_with_depth(self.images.ids[index], check_size(self.target.input_size))
        except UnreadableImageError as error:
            return str(error), None
        pixels = with_channels(rgb, self.channels, bgr=self.settings.bgr)
        image = normalize(pixels, self._mean, self._std)
        return torch.from_numpy(image) if np.isfinite(image).all() else _NOT_FINITE, depth

    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the input per channel; 0 and 1 for images that are normalized already."""
        if isinstance(self.images, TensorImages):
            return (0.0,) * self.channels, (1.0,) * self.channels
        options = self.settings
        config = data_config(module_of(self.model))
        mean, std = (
            fitted_statistics(known if given is None else given, self.channels, bgr=options.bgr)
            for known, given in ((config.mean, options.mean), (config.std, options.std))
        )
        return mean, std

    def _result(self, state: RunState, prepared: PreparedModel) -> ErfResult:
        run = RunInfo(
            model=self.name,
            weights=self.weights,
            image_source=self.images.source,
            image_ids=(),
            input_size=self.target.input_size,
            mean=self._mean,
            std=self._std,
            seed=self.settings.seed,
            device=device_label(self.device),
            precision=self.settings.precision,
            backend=prepared.backend_used(state.methods),
            seconds=0.0,
            config=self.record | state.chosen.recorded,
            versions=versions_on(self.device),
        )
        return result_of(
            state,
            self.target,
            run,
            self.settings.thresholds,
            arithmetic=prepared.arithmetic,
            resize="as given" if isinstance(self.images, TensorImages) else "bicubic, warped to input_size",
            notes=(
                *self.notes,
                depth_note(state.depths),
                *state.device_notes,
                contiguous_note(prepared.module, self.device),
            ),
            convention=self._convention,
            precision_note=prepared.note,
            criterion=self.settings.criterion,
        )


def _located(
    model: nn.Module | PreparedModel | str, shape: tuple[int, ...], config: ErfConfig
) -> tuple[nn.Module, TargetLayer, str | None]:
    """The model, built or rebuilt for images of this shape, with its layer and a note on the rebuilding."""
    if isinstance(model, str):
        options = {name: getattr(config, name) for name in ("weights", "seed", "ema", "entry", "prefix")}
        return _build(model, shape, config, **options)
    if isinstance(model, PreparedModel):
        return model.module, _target(model.module, shape, config.layer, config), None
    return _fit(model, shape, config)


def _target(model: nn.Module, shape: tuple[int, ...], layer: Layer, config: ErfConfig) -> TargetLayer:
    return target_for(model, shape, layer, convention_of(config.convention), config.target)


def _fit(model: nn.Module, shape: tuple[int, ...], config: ErfConfig) -> tuple[nn.Module, TargetLayer, str | None]:
    """The model, or a copy of it built for images of this shape, with its layer."""
    point = point_of(model, config.layer)
    try:
        return model, _target(model, shape, point, config), None
    except UnsuitableSizeError as error:
        if error.failure.cause != "size" or len(shape) != 4:
            raise
        for other, note in resized(model, (shape[2], shape[3])):
            try:
                return other, _target(other, shape, point, config), note
            except UnsuitableSizeError:
                continue
        raise error


def _build(
    name: str, shape: tuple[int, ...], config: ErfConfig, **options: Any
) -> tuple[nn.Module, TargetLayer, str | None]:
    """:func:`_fit` for a model given by name, which may also be built for a size from the start."""
    model = create_model(name, **options)
    try:
        return _fit(model, shape, config)
    except UnsuitableSizeError as error:
        if error.failure.cause != "size" or len(shape) != 4:
            raise
        try:
            fitted = create_model(name, **options, img_size=(shape[2], shape[3]))
            target = _target(fitted, shape, config.layer, config)
        except Exception:
            # The network has no such argument, or it does not help: the first error is the one to report.
            raise error from None
        return fitted, target, f"Built for {shape[2]}x{shape[3]} px."
