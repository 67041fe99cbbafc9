"""A measurement made ready: everything that can fail quickly happens before the first image."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.images import ImageSet, UnreadableImageError, normalise
from replk_probe.models import create_model, data_config, weights_info
from replk_probe.models.checkpoints.digest import bytes_of, bytes_of_model, digest_of
from replk_probe.models.factory import statistics_note
from replk_probe.models.inference.copying import on_device
from replk_probe.models.inference.input_gradient import methods_used
from replk_probe.models.inference.prepare import backend_of, check_precision
from replk_probe.models.model_id import check_network, name_of
from replk_probe.runtime.checkpoint import Checkpoint, discard
from replk_probe.runtime.devices import (
    device_label,
    out_of_memory_explained,
    resolve_device,
    strict_arithmetic,
    without_autocast,
)
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import RunInfo, WeightsInfo, software_versions

from .accumulator import BlockSums, RunState
from .area_protocols import DEFAULT_THRESHOLDS, area_ratios, logarithm_note
from .arguments import (
    TensorImages,
    check_seed,
    check_size,
    check_thresholds,
    choose_images,
)
from .contribution import contribution_scores
from .input_size import resized
from .jackknife import jackknife
from .notes import closed_branches_note, interval_note, trained_size_note
from .preparation import prepare
from .probe_layer import Observation, UnsuitableSizeError, observe
from .receptive_field.tracer import Field, Lost, stride_rule
from .result import ErfResult, RatioRow
from .target_layer import Feature

# Of the entries of a run's configuration, those that an option of the command line sets.
OPTIONS = {
    "model": "--model",
    "size": "--size",
    "layer": "--layer",
    "precision": "--precision",
    "device": "--device",
    "seed": "--seed",
    "sampling": "--sampling",
    "images": "--images",
}


def plan_erf(
    model: nn.Module | str,
    images: ImageSet | str | Path | Tensor | npt.NDArray[Any] | None = None,
    *,
    n_images: int = 50,
    size: int | tuple[int, int] = 1024,
    layer: str | None = None,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    precision: str = "fp32",
    device: str | torch.device = "auto",
    seed: int = 0,
    sampling: str = "stratified",
    weights: str | None = "auto",
    ema: bool = False,
    name: str | None = None,
    batch_size: int = 1,
) -> ErfPlan:
    """Everything about a measurement that can fail quickly: check the arguments, build the model, find the layer.

    Args and errors are those of :func:`~replk_probe.measure_erf`.
    """
    check_network(model, or_name=True)
    thresholds = check_thresholds(thresholds)
    check_precision(precision)
    check_seed(seed)
    if batch_size < 1:
        raise InvalidInputError(f"Batch size {batch_size} is not possible. Each step needs an image. Use 1 or more.")
    target = resolve_device(device)
    chosen = choose_images(images, n_images, seed, sampling)
    if isinstance(chosen, TensorImages):
        channels, pixels = chosen.batch.shape[1], (chosen.batch.shape[2], chosen.batch.shape[3])
    else:
        channels, pixels = 3, check_size(size)
    label = name or (model if isinstance(model, str) else name_of(model))
    if isinstance(model, str):
        module, observation, note = _build(model, (1, channels, *pixels), layer, weights=weights, seed=seed, ema=ema)
    else:
        module, observation, note = _fit(model, (1, channels, *pixels), layer)
    normalisation_note = None if isinstance(chosen, TensorImages) else statistics_note(module)
    source = weights_info(module if isinstance(model, str) else model)
    closed_note = closed_branches_note(module) if source.is_random else None
    size_note = trained_size_note(data_config(module).input_size, pixels) if source.is_embedded else None
    notes = (observation.feature.note, note, size_note, normalisation_note, closed_note, chosen.shortfall_note)
    return ErfPlan(
        name=label,
        model=module,
        weights=source,
        images=chosen,
        size=pixels,
        observation=observation,
        thresholds=thresholds,
        precision=precision,
        device=target,
        seed=seed,
        batch_size=batch_size,
        notes=tuple(text for text in notes if text),
        own_code=not isinstance(model, str) or ":" in model,
    )


@dataclass(eq=False)
class ErfPlan:
    """A measurement that is ready to run: its arguments are checked, its layer is found.

    Attributes:
        name: The model's name in the record.
        model: Never changed.
        weights: Where its weights came from.
        images: Which images.
        size: (H, W) of the input in pixels.
        observation: The layer, its layout and its receptive field.
        thresholds: Shares of the total contribution.
        precision: As asked for.
        device: Where to compute.
        seed: Of the image sample.
        batch_size: Images per step.
        notes: What the reader must know already.
        own_code: Whether the model was handed over, or made by a factory, so that no name says what it is.
    """

    name: str
    model: nn.Module
    weights: WeightsInfo
    images: ImageSet | TensorImages
    size: tuple[int, int]
    observation: Observation
    thresholds: tuple[float, ...]
    precision: str
    device: torch.device
    seed: int
    batch_size: int
    notes: tuple[str, ...]
    own_code: bool = False

    @property
    def feature(self) -> Feature:
        """The layer."""
        return self.observation.feature

    @property
    def config(self) -> dict[str, Any]:
        """What decides the contribution map: equal configurations give equal bytes."""
        versions = software_versions()
        return {
            "model": self.name,
            "seed": self.seed,
            "weights": self.weights.source,
            "sha256 of the weights": self.weights.sha256,
            "seed of the weights": self.weights.seed,
            "parameters": self._parameters,
            "size": list(self.size),
            "layer": self.feature.label,
            "precision": self.precision,
            "device": str(self.device),
            "data": self.images.source,
            "images": self.images.requested,
            "sampling": self.images.sampling,
            "image_ids": self._image_ids,
            "image files": self._image_files,
            "batch_size": self.batch_size,
            **{f"version of {package}": versions[package] for package in ("replk-probe", "torch", "timm")},
        }

    def __post_init__(self) -> None:
        """Tell modules, arrays and files apart, which have no name or may keep it when they change."""
        self._parameters = digest_of(bytes_of_model(self.model)) if self.own_code else None
        given = [self.images.batch] if isinstance(self.images, TensorImages) else []
        names = (image_id.encode("utf-8", "surrogateescape") for image_id in self.images.ids)
        self._image_ids = digest_of(itertools.chain(names, bytes_of(given)))
        stamps = None if isinstance(self.images, TensorImages) else self.images.stamps()
        self._image_files = None if stamps is None else digest_of(stamp.encode() for stamp in stamps)

    def same_run(self, result: ErfResult) -> bool:
        """Whether a finished result is what this plan would measure."""
        config, thresholds = result.run.config, result.run.config.get("thresholds")
        same = all(config.get(key) == value for key, value in self.config.items())
        return same and thresholds == list(self.thresholds)

    def run(self, *, checkpoint: str | Path | None = None, resume: bool = False, progress: bool = False) -> ErfResult:
        """Measure; the arguments are those of :func:`~replk_probe.measure_erf`."""
        state = RunState(BlockSums(len(self.images.ids), self.size))
        store = None if checkpoint is None else Checkpoint(checkpoint, self.config, OPTIONS)
        if store is not None and resume:
            state.restore(store)
        elif store is not None:
            discard(store.folder)

        start = time.perf_counter() - state.seconds
        with out_of_memory_explained(self.size):
            prepared = prepare(on_device(self.model, self.device), self.precision, self.feature.path or None)
        mean, std = self._statistics()
        total = len(self.images.ids)
        with ExitStack() as stack:
            stack.enter_context(out_of_memory_explained(self.size))
            stack.enter_context(strict_arithmetic())
            stack.enter_context(without_autocast(self.device))
            bar: Any = stack.enter_context(
                progress_bar(total=total, initial=state.sums.done, desc=self.name, unit="image", disable=not progress)
            )
            while state.sums.done < total:
                first = state.sums.done
                changed = self._step(prepared, state, mean, std)
                state.seconds = time.perf_counter() - start
                if store is not None:
                    state.save(store, changed)
                bar.update(state.sums.done - first)
        if state.sums.n_added == 0:
            if store is not None:
                discard(store.folder)
            worst = state.skipped[0]
            raise InvalidInputError(
                f"None of the {total} images could be used. The first one, {worst['id']!r}: {worst['reason']} "
                "Give images that can be read and whose gradients are finite."
            )
        return self._result(state, prepared, mean, std)

    def _step(self, model: nn.Module, state: RunState, mean: Sequence[float], std: Sequence[float]) -> set[int]:
        """Deal with the next images; returns the blocks that changed."""
        first = state.sums.done
        ids = self.images.ids[first : first + self.batch_size]
        loaded = [self._load(first + offset, image_id, mean, std) for offset, image_id in enumerate(ids)]
        usable = [image for image in loaded if isinstance(image, Tensor)]
        scores: Iterator[npt.NDArray[np.float64]] = iter(())
        if usable:
            batch = torch.stack(usable).to(self.device)
            scores = iter(contribution_scores(model, batch, self.feature).double().cpu().numpy())
            state.methods |= {*methods_used(model)}
        changed = set()
        for image_id, image in zip(ids, loaded, strict=True):
            reason = image if isinstance(image, str) else None
            if reason is None:
                values = next(scores)
                if np.isfinite(values).all():
                    changed.add(state.sums.add(values))
                    state.used.append(image_id)
                    continue
                reason = "Its contribution scores are not finite."
            state.sums.skip()
            state.skipped.append({"id": image_id, "reason": reason})
        return changed

    def _load(self, index: int, image_id: str, mean: Sequence[float], std: Sequence[float]) -> Tensor | str:
        """One normalised image ``[C, H, W]``, or why it cannot be used."""
        if isinstance(self.images, TensorImages):
            image = self.images.batch[index].detach()
        else:
            try:
                image = torch.from_numpy(normalise(self.images.load(image_id, self.size), mean, std))
            except UnreadableImageError as error:
                return str(error)
        return image if bool(torch.isfinite(image).all()) else "It has values that are not finite."

    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the input per channel; 0 and 1 for images that came normalised."""
        if isinstance(self.images, TensorImages):
            channels = self.images.batch.shape[1]
            return (0.0,) * channels, (1.0,) * channels
        config = data_config(self.model)
        return tuple(config.mean), tuple(config.std)

    def _centre(self) -> tuple[tuple[float, float], str, int | None, str | None]:
        layout, field = self.feature.layout, self.observation.field
        assert layout is not None  # observe() sees to it
        if isinstance(field, Field) and field.spatial:
            y, x = field.centre(layout.middle)
            if 0 <= y <= self.size[0] - 1 and 0 <= x <= self.size[1] - 1:
                note = None
                if field.everywhere:
                    note = "Every output also sees the whole image, through a gate or a norm over places."
                return (y, x), "receptive field", field.extent, note
        y, x = stride_rule(layout.middle, layout.size, self.size)
        reason = field.reason if isinstance(field, Lost) else "the pooling of the whole map"
        note = (
            f"The receptive field cannot be followed through {reason}: its centre is taken to be "
            "(i + 1/2) stride - 1/2, the middle of the output's share of the image."
        )
        return (y, x), "stride rule", None, note

    def _result(
        self, state: RunState, prepared: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> ErfResult:
        contribution = state.sums.mean()
        centre, centre_source, extent, centre_note = self._centre()
        ratios = area_ratios(contribution, self.thresholds, centre=centre)
        intervals = jackknife(state.sums.stacked(), state.sums.counts, self.thresholds, centre)
        skipped_note = None
        if state.skipped:
            skipped_note = f"{len(state.skipped)} of {len(self.images.ids)} images were skipped, see run.skipped."
        arithmetic = str(getattr(prepared, "precision_used", "float32 throughout"))
        reduced_note = f"Precision: {arithmetic}." if f"asked for {self.precision}" in arithmetic else None
        missing_note = interval_note(state.sums) if None in intervals.values() else None
        notes = [*self.notes, centre_note, skipped_note, missing_note, reduced_note, logarithm_note(contribution)]
        layout = self.feature.layout
        assert layout is not None
        return ErfResult(
            contribution=contribution,
            run=RunInfo(
                model=self.name,
                weights=self.weights,
                image_source=self.images.source,
                image_ids=tuple(state.used),
                input_size=self.size,
                mean=mean,
                std=std,
                seed=self.seed,
                device=device_label(self.device),
                precision=self.precision,
                backend=backend_of(prepared, state.methods),
                seconds=round(state.seconds, 3),
                skipped=tuple(state.skipped),
                config={
                    **self.config,
                    "thresholds": list(self.thresholds),
                    "layout": str(layout),
                    "arithmetic": arithmetic,
                    "resize": "as given" if isinstance(self.images, TensorImages) else "bicubic, warped to input_size",
                    "intervals": f"95 %, jackknife over {len(state.sums.counts)} blocks of images, Student's t",
                },
            ),
            n_images=state.sums.n_added,
            n_skipped=len(state.skipped),
            input_size=self.size,
            layer=self.feature.label,
            feature_size=layout.size,
            centre=centre,
            centre_source=centre_source,  # type: ignore[arg-type]
            theoretical_rf=extent,
            ratios=tuple(
                RatioRow(protocol, threshold, answer.side, answer.ratio, intervals[protocol, threshold])
                for (protocol, threshold), answer in ratios.items()
            ),
            notes=tuple(note for note in notes if note),
        )


def _fit(model: nn.Module, shape: tuple[int, ...], layer: str | None) -> tuple[nn.Module, Observation, str | None]:
    """The model, or a copy of it built for images of this shape, with what was seen of its layer."""
    try:
        return model, observe(model, shape, layer), None
    except UnsuitableSizeError as error:
        for other, note in resized(model, (shape[2], shape[3])):
            try:
                return other, observe(other, shape, layer), note
            except UnsuitableSizeError:
                continue
        raise error


def _build(
    name: str, shape: tuple[int, ...], layer: str | None, **options: Any
) -> tuple[nn.Module, Observation, str | None]:
    """As :func:`_fit` for a model given by name, which may also be built for a size from the start."""
    model = create_model(name, **options)
    try:
        fitted, observation, note = _fit(model, shape, layer)
    except UnsuitableSizeError as error:
        try:
            fitted = create_model(name, **options, img_size=(shape[2], shape[3]))
            observation = observe(fitted, shape, layer)
        except Exception:
            # The network has no such argument, or is not helped by it: the first reason is the one to tell.
            raise error from None
        note = f"Built for {shape[2]}x{shape[3]} px."
    return fitted, observation, note
