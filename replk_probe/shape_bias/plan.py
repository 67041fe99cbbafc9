"""A measurement made ready: everything that can fail quickly happens before the first batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.images import UnreadableImageError
from replk_probe.models import create_model, data_config, weights_info
from replk_probe.models.architectures.micro import MICRO_MODELS
from replk_probe.models.checkpoints.digest import bytes_of_model, digest_of
from replk_probe.models.factory import check_seed, statistics_note
from replk_probe.models.inference.check import check_on, evaluating, random_image
from replk_probe.models.inference.copying import on_device
from replk_probe.models.inference.prepare import PreparedModel, check_precision, prepared_copy
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

from .decision_mapping import (
    ONE_EACH,
    LabelMapping,
    as_mapping,
    category_probabilities,
    decide,
    mapping_for,
    margins,
    whole,
)
from .decisions import HUMAN_PREFIX, Decisions, check_observer
from .loading import InputImages, Loader, default_workers
from .model_vs_human.raw_data import subject_of
from .result import ShapeBiasResult
from .stimuli.cue_conflict import cached_cue_conflict
from .stimuli.names import CATEGORIES
from .stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC, StimulusSet
from .stimulus_source import check_partial, open_stimuli
from .synthetic import SYNTHETIC_CATEGORIES

# Of the entries of a run's configuration, those that an option of the command line sets.
OPTIONS = {
    "model": "--model",
    "precision": "--precision",
    "device": "--device",
    "stimuli": "--stimuli",
    "batch_size": "--batch-size",
}

# The rounding of a forward pass depends on the size of its batch. Where the first category is ahead of the second by
# less than this times the largest output, the stimulus is decided upon by itself. Outputs were seen to move by 5e-7 of
# the largest in float32, and by up to a unit in the last place of bfloat16, which has eight bits.
_NEAR_TIE = {"float32": 2e-5, "reduced": 1e-3}

# Seconds between two states on disk: the most that an interruption costs.
_SAVE_EVERY = 5.0


def plan_shape_bias(
    model: nn.Module | str,
    stimuli: StimulusSet | str | Path | None = None,
    *,
    mapping: LabelMapping | Mapping[str, Sequence[int]] | str | Path | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    size: int | tuple[int, int] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "auto",
    seed: int = 0,
    weights: str | None = "auto",
    ema: bool = False,
    num_classes: int | None = None,
    name: str | None = None,
    allow_partial: bool = False,
) -> ShapeBiasPlan:
    """Everything about a measurement that can fail quickly: check the arguments, build the model, open the stimuli.

    Args and errors are those of :func:`~replk_probe.measure_shape_bias`.
    """
    check_precision(precision)
    seed = check_seed(seed)
    batch_size = _count("batch size", batch_size, 1)
    workers = None if workers is None else _count("number of workers", workers, 0)
    sides = _size(size)
    target = resolve_device(device)
    own = None if mapping is None else as_mapping(mapping)
    categories = CATEGORIES if own is None else own.categories
    check_network(model, or_name=True)
    name = (model if isinstance(model, str) else name_of(model)) if name is None else name
    _check_name(name)
    if stimuli is not None and not isinstance(stimuli, (StimulusSet, str, os.PathLike)):
        raise InvalidInputError(
            f"Stimuli cannot be given as {type(stimuli).__name__}. They are a set, the folder of one or its name. "
            f"Give a StimulusSet, a folder, {CUE_CONFLICT!r} or {SYNTHETIC!r}."
        )
    check_partial(stimuli, allow_partial)
    if stimuli is None:
        stimuli = CUE_CONFLICT if cached_cue_conflict() and not _is_embedded(model) else SYNTHETIC
    drawn = stimuli == SYNTHETIC
    if not isinstance(stimuli, StimulusSet) and not drawn:
        stimuli = open_stimuli(stimuli, categories=categories, allow_partial=allow_partial)
    if isinstance(model, str):
        options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        module = create_model(model, weights, seed=seed, ema=ema, **options)
    else:
        module = model
    if _is_embedded(module) and own is None and isinstance(stimuli, StimulusSet):
        _check_known(name, stimuli.categories)
    pixels = sides or data_config(module).input_size
    if not isinstance(stimuli, StimulusSet):
        stimuli = open_stimuli(SYNTHETIC, size=max(pixels))
    return ShapeBiasPlan(
        name=name,
        model=module,
        weights=weights_info(module),
        stimuli=stimuli,
        mapping=mapping_for(_count_outputs(module, pixels), stimuli.categories, own),
        size=pixels,
        precision=precision,
        device=target,
        seed=seed,
        batch_size=batch_size,
        workers=default_workers(len(stimuli), accelerated=target.type != "cpu") if workers is None else workers,
        own_code=not isinstance(model, str) or ":" in model,
    )


def _is_embedded(model: nn.Module | str) -> bool:
    """Whether it is a small model of this package, as it was trained on the synthetic set."""
    return model in MICRO_MODELS if isinstance(model, str) else weights_info(model).is_embedded


def _check_known(name: str, categories: tuple[str, ...]) -> None:
    """As many classes are not the same classes."""
    if categories != SYNTHETIC_CATEGORIES:
        raise InvalidInputError(
            f"{name} knows no category of these stimuli. It is a small model trained on the "
            f"{len(SYNTHETIC_CATEGORIES)} classes of the synthetic set. "
            f"Use the stimuli {SYNTHETIC!r}, another model, or a mapping."
        )


@dataclass(eq=False)
class ShapeBiasPlan:
    """A measurement that is ready to run.

    Attributes:
        name: The model's name in the record.
        model: Never changed.
        weights: Where its weights came from.
        stimuli: Which.
        mapping: From the model's outputs to categories.
        size: (H, W) of the input in pixels.
        precision: As asked for.
        device: Where to compute.
        seed: Of a random initialisation.
        batch_size: Stimuli per forward pass.
        workers: Processes that decode.
        own_code: Whether the model was handed over, or made by a factory, so that no name says what it is.
    """

    name: str
    model: nn.Module
    weights: WeightsInfo
    stimuli: StimulusSet
    mapping: LabelMapping
    size: tuple[int, int]
    precision: str
    device: torch.device
    seed: int
    batch_size: int
    workers: int
    own_code: bool = False

    def __post_init__(self) -> None:
        """Tell modules apart, which have no name or may keep it when they change."""
        self._parameters = digest_of(bytes_of_model(self.model)) if self.own_code else None

    @property
    def config(self) -> dict[str, Any]:
        """What decides the decisions: equal configurations give equal bytes."""
        versions = software_versions()
        mapping = [self.mapping.categories, self.mapping.indices]
        return {
            "model": self.name,
            "weights": self.weights.source,
            "sha256 of the weights": self.weights.sha256,
            "seed of the weights": self.weights.seed,
            "parameters": self._parameters,
            "stimuli": self.stimuli.source,
            "digest of the stimuli": self.stimuli.digest,
            "size": list(self.size),
            "mapping": self.mapping.name,
            "digest of the mapping": digest_of([repr(mapping).encode()]),
            "precision": self.precision,
            "device": str(self.device),
            "batch_size": self.batch_size,
            **{f"version of {package}": versions[package] for package in ("replk-probe", "torch", "timm")},
        }

    @property
    def resize(self) -> str:
        """What happens to the pixels, in words."""
        if self.stimuli.size == self.size:
            return "none"
        found = "their own sizes" if self.stimuli.size is None else _pixels(self.stimuli.size)
        return f"bicubic, warped from {found} to {_pixels(self.size)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader must know already."""
        resized = None
        if self.resize != "none":
            resized = f"The stimuli were resized ({self.resize} px), since the model takes {_pixels(self.size)} px."
        ordered = None
        if self.mapping.name == ONE_EACH:
            ordered = "The model's outputs are taken to be the categories in alphabetical order."
        return tuple(note for note in (*self.stimuli.notes, statistics_note(self.model), resized, ordered) if note)

    def same_run(self, result: ShapeBiasResult) -> bool:
        """Whether a finished result is what this plan would measure."""
        if not isinstance(result.run, RunInfo):
            return False
        saved = result.run.config
        return all(saved.get(key) == value for key, value in self.config.items())

    def run(
        self, *, checkpoint: str | Path | None = None, resume: bool = False, progress: bool = False
    ) -> ShapeBiasResult:
        """Measure; the arguments are those of :func:`~replk_probe.measure_shape_bias`."""
        store = None if checkpoint is None else Checkpoint(checkpoint, self.config, OPTIONS)
        state = _State(len(self.stimuli), len(self.mapping.categories))
        if store is not None and resume:
            state.restore(store)
        elif store is not None:
            discard(store.folder)
        start = time.perf_counter() - state.seconds
        config = data_config(self.model)
        images = InputImages(self.stimuli, self.size, config.mean, config.std)
        with ExitStack() as stack:
            # First, so that its processes start while the model is prepared.
            loader = stack.enter_context(Loader(images, self.workers))
            stack.enter_context(out_of_memory_explained(self.size, "--batch-size"))
            stack.enter_context(strict_arithmetic())
            stack.enter_context(without_autocast(self.device))
            model = on_device(self.model, self.device)
            # A copy made in inference mode could not tell whether its weights were changed.
            with torch.inference_mode(False), torch.no_grad():
                check = check_on(random_image(self.size), model, _logits)
                prepared = prepared_copy(model, self.precision, check)
            stack.enter_context(torch.inference_mode())
            if store is not None:
                stack.push(_Keeper(state, store))
            bar: Any = stack.enter_context(
                progress_bar(
                    total=len(self.stimuli),
                    initial=state.done,
                    desc=self.name,
                    unit="stimulus",
                    disable=not progress,
                )
            )
            first = range(state.done, len(self.stimuli), self.batch_size)
            batches = [range(begin, min(begin + self.batch_size, len(self.stimuli))) for begin in first]
            saved_at = time.perf_counter()
            for indices, found, largest in self._forward(prepared, loader, batches):
                state.probabilities[indices], state.largest[indices] = found, largest
                state.done = indices.stop
                state.methods |= {*prepared.methods.take()}
                now = time.perf_counter()
                state.seconds = now - start
                if store is not None and now - saved_at > _SAVE_EVERY:
                    state.save(store)
                    saved_at = now
                bar.update(len(indices))
            near_ties = self._near_ties(prepared, state)
            probabilities = state.probabilities.copy()
            for indices, found, _ in self._forward(prepared, loader, [range(one, one + 1) for one in near_ties]):
                probabilities[indices] = found
            state.seconds = time.perf_counter() - start
        return self._result(state, probabilities, prepared, images, len(near_ties))

    def _forward(
        self, prepared: PreparedModel, loader: Loader, batches: Sequence[range]
    ) -> Iterator[tuple[range, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Of each batch its indices, category probabilities ``[N, categories]`` and largest outputs ``[N]``."""
        pinned = self.device.type == "cuda"

        def allocate(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
            memory: npt.NDArray[np.float32] = torch.empty(shape, pin_memory=pinned).numpy()
            return memory

        waiting: tuple[range, Tensor] | None = None
        for indices, batch in zip(batches, loader.batches(batches, allocate), strict=True):
            # Channels last, as the arrays are.
            logits = _logits(prepared.module, torch.from_numpy(batch).permute(0, 3, 1, 2))
            # One batch late: a GPU computes the next one meanwhile.
            if waiting is not None:
                yield waiting[0], *self._numbers(waiting[1])
            waiting = indices, logits
        if waiting is not None:
            yield waiting[0], *self._numbers(waiting[1])

    def _numbers(self, logits: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        values = logits.float().cpu().numpy()
        return category_probabilities(values, self.mapping), np.abs(values).max(axis=1)

    def _near_ties(self, prepared: PreparedModel, state: _State) -> list[int]:
        """Stimuli whose decision could depend on the batch that they were in."""
        if self.batch_size == 1:
            return []
        # float16 and bfloat16, as the type of the model or of its products alone
        reduced = prepared.reduced or prepared.dtype in (torch.float16, torch.bfloat16)
        bounds = _NEAR_TIE["reduced" if reduced else "float32"] * state.largest
        return [int(index) for index in np.flatnonzero(margins(state.probabilities) < bounds)]

    def _result(
        self,
        state: _State,
        probabilities: npt.NDArray[np.float32],
        prepared: PreparedModel,
        images: InputImages,
        n_near_ties: int,
    ) -> ShapeBiasResult:
        stimuli = self.stimuli.stimuli
        responses = decide(probabilities, self.mapping.categories)
        decisions = Decisions(
            observer=subject_of(self.name),
            names=tuple(stimulus.name for stimulus in stimuli),
            shape=tuple(stimulus.shape for stimulus in stimuli),
            texture=tuple(stimulus.texture for stimulus in stimuli),
            response=responses,
            categories=self.mapping.categories,
        )
        row = {stimulus.name: index for index, stimulus in enumerate(stimuli)}
        run = RunInfo(
            model=self.name,
            weights=self.weights,
            image_source=self.stimuli.source,
            image_ids=decisions.names,
            input_size=self.size,
            mean=images.mean,
            std=images.std,
            seed=self.seed,
            device=device_label(self.device),
            precision=self.precision,
            backend=prepared.backend_used(state.methods),
            seconds=round(state.seconds, 3),
            config={
                **self.config,
                "rule": "mean of the softmax over the members of a category; among equals the last category",
                "resize": self.resize,
                "arithmetic": prepared.arithmetic,
                "decided one by one": n_near_ties,
                "stimuli record": dict(self.stimuli.record),
            },
        )
        return ShapeBiasResult.from_decisions(
            decisions,
            run=run,
            probabilities=probabilities[[row[name] for name in decisions.names]],
            notes=[note for note in (*self.notes, prepared.note) if note],
        )


class _Keeper:
    """Saves what is done whatever ends the run, for instance an interrupt; not where it could only end so again."""

    def __init__(self, state: _State, store: Checkpoint) -> None:
        self._state, self._store = state, store

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # A file that cannot be read may be there again the next time.
        if isinstance(error, InvalidInputError) and not isinstance(error, UnreadableImageError):
            discard(self._store.folder)
        elif self._state.done:
            self._state.save(self._store)


class _State:
    """What an unfinished measurement has to remember, in memory and on disk."""

    def __init__(self, n_stimuli: int, n_categories: int) -> None:
        self.done = 0
        self.probabilities = np.zeros((n_stimuli, n_categories), dtype=np.float32)
        self.largest = np.zeros(n_stimuli, dtype=np.float32)
        self.seconds = 0.0
        self.methods: set[str] = set()

    def save(self, store: Checkpoint) -> None:
        state = {"done": self.done, "seconds": self.seconds, "methods": sorted(self.methods)}
        store.save(state, {"probabilities": self.probabilities, "largest": self.largest})

    def restore(self, store: Checkpoint) -> None:
        saved = store.load()
        if saved is None:
            return
        self.done, self.seconds = saved.state["done"], saved.state["seconds"]
        self.methods = {*saved.state["methods"]}
        self.probabilities, self.largest = saved.arrays["probabilities"], saved.arrays["largest"]


def _count_outputs(model: nn.Module, size: tuple[int, int]) -> int:
    """How many classes a network tells apart.

    Raises:
        InvalidInputError: It does not take images of this size, or is no classifier.
        BackendError: The memory does not suffice.
    """
    try:
        with out_of_memory_explained(size), evaluating(model), torch.inference_mode():
            return _logits(model, torch.zeros(1, 3, *size)).shape[1]
    except ReplkProbeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(
            f"{type(model).__name__} fails on images of {_pixels(size)} px. It says: {reason[:300]} "
            "Give a classifier of images, or the size that it takes."
        ) from error


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """The outputs of a classifier, ``[N, classes]``, for images that are brought to its device and type.

    Raises:
        InvalidInputError: It gives something else.
    """
    weight = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    if weight is not None:
        images = images.to(weight.device, weight.dtype, non_blocking=True)
    output = model(images)
    logits = getattr(output, "logits", output)
    if isinstance(logits, (tuple, list)) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images) or not logits.shape[1]:
        found = str(list(logits.shape)) if isinstance(logits, Tensor) else f"an object of type {type(logits).__name__}"
        raise InvalidInputError(
            f"{type(model).__name__} gives {found} for images {list(images.shape)}. A decision takes one number for "
            "each class. Give a classifier whose output is [N, classes]."
        )
    return logits


def _count(what: str, value: Any, least: int) -> int:
    number = whole(value)
    if number is None or number < least:
        raise InvalidInputError(f"A {what} of {value!r} is not possible. It is a whole number. Use {least} or more.")
    return number


def _size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = [whole(side) for side in (size if isinstance(size, (tuple, list)) else (size, size))]
    if len(sides) != 2 or any(side is None or side < 1 for side in sides):
        raise InvalidInputError(
            f"Images of size {size!r} are not possible. A side is a whole number of pixels. Give for instance 224, or "
            "(224, 256) for height and width."
        )
    height, width = sides
    assert height is not None and width is not None
    return height, width


def _check_name(name: Any) -> None:
    """A model's name, whose last part observers are told apart by."""
    check_observer(name)
    subject = subject_of(name)
    check_observer(subject)
    if subject.startswith(HUMAN_PREFIX):
        raise InvalidInputError(
            f"A model cannot be called {name!r}. Whatever begins with {HUMAN_PREFIX!r} is taken for a person by the "
            "toolbox. Give it another name."
        )


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
