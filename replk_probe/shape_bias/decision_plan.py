"""A classifier's decisions on a set of stimuli, in a run that can be interrupted, continued and divided.

Analyzers of decisions share it: each opens its stimuli, and makes its result of the probabilities of the categories.
Everything that can fail quickly is checked before the first batch.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.images import UnreadableImageError
from replk_probe.images.channels import channels_note, check_channels, fitted_statistics
from replk_probe.images.depth import depth_note
from replk_probe.models import create_model, data_config, weights_info
from replk_probe.models.architectures.micro import is_micro
from replk_probe.models.checkpoints.digest import bytes_of_model, digest_of
from replk_probe.models.class_names import class_names
from replk_probe.models.inference.check import random_image
from replk_probe.models.inference.copying import on_device
from replk_probe.models.inference.cudnn_passes import contiguous_note
from replk_probe.models.inference.environment import environment_of, versions_on
from replk_probe.models.inference.prepare import PreparedModel, prepared_copy
from replk_probe.models.inference.run_methods import choose_methods, fixed_methods
from replk_probe.models.model_id import check_network, name_of
from replk_probe.models.records import statistics_note
from replk_probe.models.weight_values import check_run_values
from replk_probe.runtime.checkpoint import Checkpoint, Keeper, SavedState
from replk_probe.runtime.devices import (
    device_label,
    experimental_note,
    measuring,
    out_of_memory_explained,
    resolve_device,
)
from replk_probe.runtime.escaping import printable
from replk_probe.runtime.formatting import dimensions
from replk_probe.runtime.memory import batch_note, fitting_batch_size, is_measurable, with_smaller_batches
from replk_probe.runtime.parts import ChosenMethods, Divisible
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import RunInfo, software_versions
from replk_probe.runtime.transfer import Transfer, transfer_for
from replk_probe.runtime.worker import Worker

from .classifier import Outputs, compute_logits, find_outputs, outputs_check
from .config import DEFAULT_BATCH_SIZE, DecisionConfig
from .decision_mapping import ONE_EACH, LabelMapping, category_probabilities, decide, mapping_for, margins
from .loading import InputImages, Loader, Stimuli, default_workers

# The rounding of a forward pass depends on the size of its batch. Where the first category is ahead of the second by
# less than this times the largest output, the stimulus is evaluated again in a batch of its own. Outputs were observed
# to differ by 5e-7 of the largest in float32, and by up to a unit in the last place of bfloat16, which has eight bits.
_NEAR_TIE = {"float32": 2e-5, "reduced": 1e-3}

# Pixels and stimuli at once, at most, where the free memory is measured. Parts of a run begin at multiples of it.
_MOST_PIXELS, _MOST_STIMULI = 64 * 224**2, 64


ConfigT = TypeVar("ConfigT", bound=DecisionConfig)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class MeasuredDecisions:
    """What a run gives.

    Attributes:
        run: Provenance, without the names of the stimuli.
        probabilities: Probability of each category, ``[stimuli, categories]``, in the order of the stimuli.
        responses: Chosen category of each stimulus, ``[stimuli]``.
        notes: Notes for the reader of the result.
    """

    run: RunInfo
    probabilities: npt.NDArray[np.float32]
    responses: tuple[str, ...]
    notes: tuple[str, ...]


def named_config(model: nn.Module | str, config: ConfigT) -> ConfigT:
    """The configuration with a name for the model.

    Raises:
        InvalidInputError: ``model`` is neither a network nor a name.
    """
    if not isinstance(model, str):
        check_network(model, or_name=True)
    if config.name is not None:
        return config
    return replace(config, name=printable(model if isinstance(model, str) else name_of(model)))


def built_classifier(model: nn.Module | str, config: DecisionConfig) -> nn.Module:
    """The network itself, or the one of a name, with the weights of the configuration.

    Raises:
        InvalidInputError: The weights lack a classifier.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found, or do not match.
    """
    if not isinstance(model, str):
        return model
    options: dict[str, Any] = {} if config.num_classes is None else {"num_classes": config.num_classes}
    options |= {name: getattr(config, name) for name in ("weights", "seed", "ema", "entry", "prefix")}
    module = create_model(model, **options)
    weights = weights_info(module)
    if weights.lacks_classifier:
        raise InvalidInputError(
            f"{model} cannot classify with {config.weights}. {weights.note} Use weights with a classifier."
        )
    return module


def plan_fields(
    model: nn.Module | str,
    module: nn.Module,
    stimuli: Stimuli,
    config: DecisionConfig,
    default: LabelMapping | None = None,
) -> dict[str, Any]:
    """The fields of a :class:`DecisionPlan`, after the checks of the network, of its inputs and of its outputs.

    Args:
        model: Model as given.
        module: Network that :func:`built_classifier` returned for it.
        stimuli: Stimuli.
        config: Options, with a name.
        default: Mapping of the stimuli, if they have one.

    Raises:
        InvalidInputError: The network is not a classifier of such images, or no mapping to the categories is known.
        BackendError: The device is not available, or its memory does not suffice.
    """
    size = config.size or data_config(module).input_size
    device = resolve_device(config.device)
    with out_of_memory_explained(size):
        placed = on_device(module, device)  # on a GPU, a forward pass on the CPU would take longer than the rest
    outputs = find_outputs(placed, size, config.channels)
    check_channels(outputs.channels, config.bgr)
    check_run_values(module, (1, outputs.channels, *size), compute_logits)
    return {
        "name": config.name,
        "model": module,
        "stimuli": stimuli,
        "outputs": outputs,
        "mapping": mapping_for(
            outputs.classes,
            stimuli.categories,
            config.mapping,
            names=class_names(module, outputs.classes),
            default=default,
        ),
        "size": size,
        "device": device,
        "workers": default_workers(accelerated=device.type != "cpu") if config.workers is None else config.workers,
        "settings": config,
        "own_code": not isinstance(model, str) or ":" in model,
    }


def is_embedded(model: nn.Module | str) -> bool:
    """Whether it is a small model of this package, which was trained on the synthetic set."""
    if isinstance(model, str):
        return is_micro(model)
    weights = weights_info(model)
    return weights.is_embedded and weights.head is None


@dataclass(eq=False)
class DecisionPlan(Divisible["_State", ResultT]):
    """A measurement that is ready to run."""

    name: str  # name of the model in the record
    model: nn.Module
    stimuli: Stimuli
    outputs: Outputs  # the model's outputs
    mapping: LabelMapping  # mapping from the model's outputs to categories
    size: tuple[int, int]  # (H, W) of the input in pixels
    device: torch.device  # device of the forward passes
    workers: int  # number of threads that load stimuli
    settings: DecisionConfig
    # Whether the model was passed as a module or made by a factory, so that its name does not identify it.
    own_code: bool = False

    _options: ClassVar[tuple[str, ...]] = (
        "model", "precision", "device", "stimuli", "batch_size", "channels", "mean", "std", "bgr", "size",
    )  # fmt: skip
    _optional = ("entry of the weights", "mean", "std", "channels", "bgr", "outputs")

    def __post_init__(self) -> None:
        """Identify a module by its parameters, since its name may stay the same when they change."""
        self.weights = weights_info(self.model)
        self._parameters = digest_of(bytes_of_model(self.model)) if self.own_code else None
        data, given, channels = data_config(self.model), self.settings, self.outputs.channels
        self._mean, self._std = (
            fitted_statistics(known if own is None else own, channels, bgr=given.bgr)
            for known, own in ((data.mean, given.mean), (data.std, given.std))
        )
        self._finds_batch_size = given.batch_size is None and is_measurable(self.device)
        self._batch_size = given.batch_size or DEFAULT_BATCH_SIZE
        if self._finds_batch_size:  # the largest one, a power of two, as the one that is found
            most = min(_MOST_PIXELS // math.prod(self.size), _MOST_STIMULI)
            self._batch_size = 1 << max(most, 1).bit_length() - 1
        self._bounds = [*range(0, len(self.stimuli), self._batch_size), len(self.stimuli)]

    @property
    def record(self) -> dict[str, Any]:
        """Everything that the decisions depend on: equal records give equal bytes."""
        versions = software_versions()
        mapping = [self.mapping.categories, self.mapping.indices]
        return {
            "model": self.name,
            "weights": self.weights.source,
            "sha256 of the weights": self.weights.sha256,
            "seed of the weights": self.weights.seed,
            **({"entry of the weights": [self.weights.wrapper, self.weights.prefix]} if self.weights.wrapper else {}),
            "parameters": self._parameters,
            "stimuli": self.stimuli.source,
            "digest of the stimuli": self.stimuli.digest,
            "size": list(self.size),
            "mapping": self.mapping.name,
            "digest of the mapping": digest_of([repr(mapping).encode()]),
            "precision": self.settings.precision,
            "device": str(self.device),
            "batch_size": "auto" if self._finds_batch_size else self._batch_size,
            **self._input_options,
            **{f"version of {package}": versions[package] for package in ("replk-probe", "torch", "timm")},
        }

    @property
    def _input_options(self) -> dict[str, Any]:
        """The options of the input and the output that were given or that differ from the usual ones."""
        options = {
            "mean": None if self.settings.mean is None else list(self.settings.mean),
            "std": None if self.settings.std is None else list(self.settings.std),
            "channels": None if self.outputs.channels == 3 else self.outputs.channels,
            "bgr": self.settings.bgr or None,
            "outputs": "probabilities" if self.outputs.are_probabilities else None,
        }
        return {name: value for name, value in options.items() if value is not None}

    @property
    def resize(self) -> str:
        """Description of the resizing of the stimuli."""
        if self.stimuli.size == self.size:
            return "none"
        found = "their own sizes" if self.stimuli.size is None else dimensions(self.stimuli.size)
        return f"bicubic, warped from {found} to {dimensions(self.size)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the reader of the result that are known before the run."""
        resized = None
        if self.resize != "none":
            resized = (
                f"The stimuli were resized ({self.resize} px), since the model's input is {dimensions(self.size)} px."
            )
        ordered = None
        if self.mapping.name == ONE_EACH and not is_embedded(self.model):
            ordered = "The model's outputs are assumed to be the categories in alphabetical order."
        statistics = None
        if self.settings.mean is None or self.settings.std is None:
            statistics = statistics_note(self.model)
        channels = channels_note(self.outputs.channels, bgr=self.settings.bgr)
        softmax = None
        if self.outputs.are_probabilities:
            softmax = "The model's outputs are probabilities: they are used without another softmax."
        notes = (*self.stimuli.notes, statistics, channels, resized, ordered, softmax, experimental_note(self.device))
        return tuple(note for note in notes if note)

    @property
    def _environment(self) -> Mapping[str, Any]:
        return environment_of(self.device)

    def _state(self, part: range, store: Checkpoint | None) -> _State:
        state = _State(part, len(self.mapping.categories))
        if store is not None:
            state.restore(store)
        return state

    def _run(self, state: _State, store: Checkpoint | None, progress: bool) -> ResultT:
        """The result, after the stimuli that are not in the state were added to it."""
        with self._measured(self._all, state, store, progress) as (prepared, loader, transfer):
            start = time.perf_counter() - state.seconds
            near_ties = self._near_ties(prepared, state)
            probabilities = state.probabilities.copy()

            def replace_row(batch: _Batch) -> None:
                probabilities[batch.indices], _ = self._numbers(batch.logits())
                state.methods |= batch.methods

            with Worker(transfer.depth) as worker:
                alone = [range(one, one + 1) for one in near_ties]
                for batch in self._forward(prepared, loader, transfer, alone, 1, worker.finish):
                    worker.submit(replace_row, batch)
            state.seconds = time.perf_counter() - start
            return self._result(self._decided(state, probabilities, prepared, len(near_ties)))

    @contextmanager
    def _measured(
        self, part: range, state: _State, store: Checkpoint | None, progress: bool
    ) -> Iterator[tuple[PreparedModel, Loader, Transfer]]:
        """Add the stimuli of a part that are not in the state; yields the model, a loader of stimuli, and copies."""
        start = time.perf_counter() - state.seconds
        threads = None if store is None else store.environment["threads"]
        images = InputImages(self.stimuli, self.size, self._mean, self._std, self.settings.bgr)
        self._begin(part, state, store, progress)
        methods = fixed_methods(
            state.chosen.methods,
            self.device,
            folder=None if store is None else store.folder,
            other_device=bool(state.device_notes),
        )
        with measuring(self.device, self.size, threads=threads), methods, ExitStack() as stack:
            loader = stack.enter_context(Loader(images, self.workers))
            model = on_device(self.model, self.device)
            # A copy made in inference mode could not detect changes of its weights.
            with torch.inference_mode(False), torch.no_grad():
                prepared = prepared_copy(
                    model, self.settings.precision, outputs_check(model, self.size, images.channels)
                )
            stack.enter_context(torch.inference_mode())
            if self._finds_batch_size and self._batch_size > 1 and not state.batch_sizes and state.done < part.stop:
                state.batch_sizes = [self._measured_batch_size(prepared)]
            transfer = transfer_for(self.device)
            keeper = stack.enter_context(Keeper(store, state.save, _recurs))
            bar: Any = stack.enter_context(
                progress_bar(
                    total=len(part),
                    initial=state.done - part.start,
                    desc=self.name,
                    unit="stimulus",
                    disable=not progress,
                )
            )

            def add(batch: _Batch) -> None:
                found, largest = self._numbers(batch.logits())
                with keeper.change():
                    rows = slice(batch.indices.start - part.start, batch.indices.stop - part.start)
                    state.probabilities[rows], state.largest[rows] = found, largest
                    state.depths[rows] = [images.depths.get(index, 0) for index in batch.indices]
                    state.done = batch.indices.stop
                    state.methods |= batch.methods
                    before = self._batch_size_of(state)
                    if batch.size < before:
                        state.batch_sizes = [*(state.batch_sizes or [before]), batch.size]
                    state.seconds = time.perf_counter() - start
                bar.update(len(batch.indices))

            size = self._batch_size_of(state)
            # A run that is continued with smaller batches divides the same ranges as before.
            first = state.batch_sizes[0] if state.batch_sizes else size
            bounds = (*range(part.start, part.stop, first), part.stop)
            ranges = (range(max(begin, state.done), end) for begin, end in itertools.pairwise(bounds))
            batches = [indices for indices in ranges if indices]
            with Worker(transfer.depth) as worker:
                for batch in self._forward(prepared, loader, transfer, batches, size, worker.finish):
                    worker.submit(add, batch)
            yield prepared, loader, transfer

    def _batch_size_of(self, state: _State) -> int:
        """Number of stimuli at once."""
        # The state may be that of a GPU with more memory.
        return min([self._batch_size, *state.batch_sizes])

    def _measured_batch_size(self, prepared: PreparedModel) -> int:
        """Number of stimuli at once for which the free memory of the device suffices."""
        one = partial(compute_logits, prepared.module, random_image(self.size, len(self._mean)))
        size = fitting_batch_size(self.device, one, self._batch_size)
        prepared.methods.take()  # those of the random image
        return size

    def _choose_methods(self, progress: bool) -> ChosenMethods:
        """The methods that are fastest for the first batch."""
        nothing, count = range(0, 0), len(self.stimuli)
        with self._measured(nothing, self._state(nothing, None), None, False) as (prepared, loader, transfer):
            size = self._batch_size
            if self._finds_batch_size and size > 1:
                size = self._measured_batch_size(prepared)
            size = min(size, count)

            def first_batch() -> object:
                batches = self._forward(prepared, loader, transfer, [range(size)], size, lambda: None)
                return [batch.logits() for batch in batches]

            found = choose_methods(
                first_batch,
                self.device,
                tune=self.settings.tune,
                images=count,
                batch_size=size,
                progress=progress,
            )
            return ChosenMethods(*found)

    def _forward(
        self,
        prepared: PreparedModel,
        loader: Loader,
        transfer: Transfer,
        batches: Sequence[range],
        size: int,
        release: Callable[[], object],
    ) -> Iterator[_Batch]:
        """Begin the forward pass of each batch of at most ``size`` stimuli, or of fewer if the memory does not suffice.

        ``release`` is called before an attempt with fewer stimuli.
        """

        def allocate(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
            memory: npt.NDArray[np.float32] = transfer.empty(shape).numpy()
            return memory

        for indices, images in zip(batches, loader.batches(batches, allocate), strict=True):
            done = 0
            while done < len(indices):
                most = min(size, len(indices) - done)
                begin = partial(self._begin_batch, prepared, transfer, images[done:])
                logits, count = with_smaller_batches(begin, most, release)
                size = size if count == most else count
                yield _Batch(indices[done : done + count], size, frozenset(prepared.methods.take()), logits)
                done += count

    def _begin_batch(
        self, prepared: PreparedModel, transfer: Transfer, images: npt.NDArray[np.float32], count: int
    ) -> Callable[[], Tensor]:
        batch = transfer.upload(torch.from_numpy(images[:count]))
        # Channels-last, like the arrays.
        return transfer.download(compute_logits(prepared.module, batch.permute(0, 3, 1, 2)))

    def _numbers(self, logits: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Category probabilities ``[N, categories]`` and largest outputs ``[N]``."""
        values = logits.float().numpy()
        if self.outputs.are_probabilities:  # the softmax of their logarithms
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return self._of_categories(values), np.abs(values).max(axis=1)

    def _of_categories(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A number of each category for each row of the outputs of the network, ``[N, categories]``."""
        return category_probabilities(outputs, self.mapping)

    def _near_ties(self, prepared: PreparedModel, state: _State) -> list[int]:
        """Indices of the stimuli whose decision could depend on the composition of their batch."""
        if not self._has_decisions or max(state.batch_sizes or [self._batch_size]) == 1:
            return []
        # float16 and bfloat16, as the dtype of the model or only of its products
        reduced = prepared.reduced or prepared.dtype in (torch.float16, torch.bfloat16)
        bounds = _NEAR_TIE["reduced" if reduced else "float32"] * state.largest
        return [int(index) for index in np.flatnonzero(margins(state.probabilities) < bounds)]

    def _decided(
        self,
        state: _State,
        probabilities: npt.NDArray[np.float32],
        prepared: PreparedModel,
        n_near_ties: int,
    ) -> MeasuredDecisions:
        run = RunInfo(
            model=self.name,
            weights=self.weights,
            image_source=self.stimuli.source,
            image_ids=(),
            input_size=self.size,
            mean=self._mean,
            std=self._std,
            seed=self.settings.seed,
            device=device_label(self.device),
            precision=self.settings.precision,
            backend=prepared.backend_used(state.methods),
            seconds=round(state.seconds, 3),
            config={
                **self.record,
                "rule": self._rule,
                "resize": self.resize,
                "arithmetic": prepared.arithmetic,
                "decided one by one": n_near_ties,
                **({"batch_sizes": state.batch_sizes} if state.batch_sizes else {}),
                **state.chosen.recorded,
                "stimuli record": dict(self.stimuli.record),
            },
            versions=versions_on(self.device),
        )
        notes = (
            *self.notes,
            depth_note(state.depths[state.depths > 0].tolist()),
            *state.device_notes,
            batch_note(state.batch_sizes, "stimuli"),
            contiguous_note(prepared.module, self.device),
            prepared.note,
        )
        responses = decide(probabilities, self.mapping.categories)
        return MeasuredDecisions(run, probabilities, responses, tuple(note for note in notes if note))

    @property
    def _has_decisions(self) -> bool:
        """Whether the network decides for a category, which can be a near tie."""
        return True

    @property
    def _rule(self) -> str:
        """How the numbers of categories are computed, for the record."""
        return "mean of the softmax over the members of a category; among equals the last category"

    @abstractmethod
    def _result(self, found: MeasuredDecisions) -> ResultT:
        """The result of a complete run."""


def _recurs(error: BaseException) -> bool:
    """Whether a resumed run would fail again; a file that cannot be read may be readable the next time."""
    return isinstance(error, InvalidInputError) and not isinstance(error, UnreadableImageError)


@dataclass(frozen=True)
class _Batch:
    """Stimuli whose outputs are being computed."""

    indices: range
    size: int  # number of stimuli at once, which is smaller than before if the memory did not suffice
    methods: frozenset[str]  # methods used for depthwise convolutions
    logits: Callable[[], Tensor]  # waits for the outputs, in the memory of the host


class _State:
    """State of an unfinished measurement or a part of it, in memory and on disk."""

    def __init__(self, part: range, n_categories: int) -> None:
        self.part = part
        self.done = part.start
        self.probabilities = np.zeros((len(part), n_categories), dtype=np.float32)
        self.largest = np.zeros(len(part), dtype=np.float32)
        self.depths = np.zeros(len(part), dtype=np.uint8)  # 0 for eight bits per value
        self.seconds = 0.0
        self.methods: set[str] = set()
        self.device_notes: list[str] = []
        # Numbers of stimuli at once, in descending order, the last of which is in use; empty if it is that of the plan.
        self.batch_sizes: list[int] = []
        self.chosen = ChosenMethods({}, [])

    @property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"probabilities": self.probabilities, "largest": self.largest, "depths": self.depths}

    def extend(self, part: _State) -> None:
        """Add the state of the part that follows."""
        rows = slice(self.done - self.part.start, part.done - self.part.start)
        for name, array in self._arrays.items():
            array[rows] = part._arrays[name]
        self.done = part.done
        self.seconds += part.seconds
        self.methods |= part.methods
        self.batch_sizes = sorted({*self.batch_sizes, *part.batch_sizes}, reverse=True)

    def save(self, store: Checkpoint) -> None:
        state = {"done": self.done, "seconds": self.seconds, "methods": sorted(self.methods)}
        store.save(state | ({"batch_sizes": self.batch_sizes} if self.batch_sizes else {}), self._arrays)

    def restore(self, store: Checkpoint) -> None:
        kinds = {"done": int, "seconds": float, "methods": list[str], "batch_sizes": list[int] | None}
        saved = store.load(kinds, self._fault)
        if saved is None:
            return
        self.done, self.seconds = saved.state["done"], saved.state["seconds"]
        self.methods = {*saved.state["methods"]}
        self.probabilities, self.largest = saved.arrays["probabilities"], saved.arrays["largest"]
        self.depths = saved.arrays["depths"]
        self.batch_sizes = saved.state["batch_sizes"] or []

    def _fault(self, saved: SavedState) -> str | None:
        """What is wrong with a saved state of these stimuli."""
        shapes = [
            {name: (array.shape, array.dtype) for name, array in one.items()} for one in (saved.arrays, self._arrays)
        ]
        in_range = self.part.start <= saved.state["done"] <= self.part.stop and saved.state["seconds"] >= 0
        if shapes[0] != shapes[1] or not in_range or min(saved.state["batch_sizes"] or [1]) < 1:
            return "Its arrays are not those of its stimuli."
        return None
