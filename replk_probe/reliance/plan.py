"""A measurement that is ready to run: whatever can be checked quickly is checked before the first image."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.images import UnreadableImageError
from replk_probe.images.channels import channels_note, check_channels, fitted_statistics, with_channels
from replk_probe.images.depth import DEPTH, depth_note
from replk_probe.models import create_model, data_config, weights_info
from replk_probe.models.architectures.micro import is_micro
from replk_probe.models.checkpoints.digest import bytes_of_model, digest_of
from replk_probe.models.class_names import class_names
from replk_probe.models.inference.copying import on_device
from replk_probe.models.inference.environment import environment_of, versions_on
from replk_probe.models.inference.prepare import PreparedModel, prepared_copy
from replk_probe.models.model_id import check_network, name_of
from replk_probe.models.records import statistics_note
from replk_probe.models.weight_values import check_run_values
from replk_probe.runtime.checkpoint import Checkpoint, Keeper
from replk_probe.runtime.devices import (
    device_label,
    experimental_note,
    measuring,
    out_of_memory_explained,
    resolve_device,
)
from replk_probe.runtime.escaping import printable
from replk_probe.runtime.memory import with_smaller_batches
from replk_probe.runtime.parts import ChosenMethods, Divisible
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import RunInfo, WeightsInfo, software_versions
from replk_probe.shape_bias.classifier import Outputs, compute_logits, find_outputs, outputs_check
from replk_probe.shape_bias.loading import default_workers
from replk_probe.shape_bias.stimuli.stimulus_set import SYNTHETIC

from .config import RelianceConfig
from .label_space import ALPHABETICAL, LabelSpace, find_label_space
from .labeled_images import LabeledImages, folder_images, generated_images
from .result import RelianceResult
from .state import RelianceState
from .statistics import DRAWS
from .suppressions import GAUSSIAN_BLUR, TEXTURE, Step, Suppression, parse_suppressions
from .transforms import OPENCV_METHODS, check_size, opencv, opencv_filtered, transformed

# The rounding of a forward pass depends on the size of its batch. Images whose first two classes are closer than this,
# relative to the largest output, are evaluated again in a batch of their own. Outputs were observed to differ by 5e-7
# of the largest in float32, and by up to a unit in the last place of bfloat16, which has eight bits.
_NEAR_TIE = {"float32": 2e-5, "reduced": 1e-3}


def plan_reliance(
    model: nn.Module | str, data: str | os.PathLike[str] | None = None, config: RelianceConfig | None = None
) -> ReliancePlan:
    """Prepare a measurement: build the model, find the images and match their classes with those of the model.

    Arguments and errors are those of :func:`~replk_probe.measure_reliance`; ``config`` holds the options.
    """
    config = config or RelianceConfig()
    check_network(model, or_name=True)
    if data is not None and not isinstance(data, (str, os.PathLike)):
        raise InvalidInputError(
            f"Expected data as a folder of images, but got an object of type {type(data).__name__}. The classes of the "
            "images are the names of its subfolders. Give the path of a folder."
        )
    suppressions = parse_suppressions(config.suppressions)
    steps = [step for one in suppressions for step in one.steps]
    needed = tuple(dict.fromkeys(step.method for step in steps if step.method in OPENCV_METHODS))
    filters = opencv(needed) if needed else None
    network, name = model, config.name
    if isinstance(network, str):
        options: dict[str, Any] = {} if config.num_classes is None else {"num_classes": config.num_classes}
        options |= {option: getattr(config, option) for option in ("weights", "seed", "ema", "entry", "prefix")}
        network = create_model(network, **options)
    if name is None:
        name = printable(model if isinstance(model, str) else name_of(network))
    weights = weights_info(network)
    if weights.lacks_classifier:
        raise InvalidInputError(
            f"{name} cannot classify with {config.weights}. {weights.note} Use weights with a classifier."
        )
    known = data_config(network)
    size = config.size or known.input_size
    check_size(suppressions, size)
    device = resolve_device(config.device)
    with out_of_memory_explained(size):
        placed = on_device(network, device)
    outputs = find_outputs(placed, size, config.channels)
    check_channels(outputs.channels, config.bgr)
    check_run_values(network, (1, outputs.channels, *size), compute_logits)
    is_small = weights.is_embedded or (isinstance(model, str) and is_micro(model))
    images = _images(data, config, name, size, is_small=is_small)
    space = find_label_space(
        images.labels,
        outputs.classes,
        class_names(network, outputs.classes),
        mapping=config.mapping,
        is_embedded=weights.is_embedded or images.source == SYNTHETIC,
    )
    mean, std = (
        fitted_statistics(usual if own is None else own, outputs.channels, bgr=config.bgr)
        for usual, own in ((known.mean, config.mean), (known.std, config.std))
    )
    notes = [
        "The images were generated. The result does not apply to photos." if images.source == SYNTHETIC else None,
        "The outputs of the model are assumed to be the classes in alphabetical order."
        if space.name == ALPHABETICAL
        else None,
        channels_note(outputs.channels, bgr=config.bgr),
        statistics_note(network) if config.mean is None or config.std is None else None,
        experimental_note(device),
    ]
    return ReliancePlan(
        name=name,
        model=network,
        weights=weights,
        images=images,
        space=space,
        suppressions=suppressions,
        outputs=outputs,
        size=size,
        statistics=(mean, std),
        device=device,
        workers=default_workers(accelerated=device.type != "cpu") if config.workers is None else config.workers,
        config=config,
        opencv_version=None if filters is None else str(filters.__version__),
        notes=tuple(note for note in notes if note),
        own_code=not isinstance(model, str) or ":" in model,
    )


def _images(
    data: str | os.PathLike[str] | None, config: RelianceConfig, name: str, size: tuple[int, int], *, is_small: bool
) -> LabeledImages:
    """The images of a folder, or by default those that the small models of this package were trained for."""
    if data is not None and os.fspath(data) != SYNTHETIC:
        return folder_images(data, config.images, config.seed)
    if not is_small:
        raise InvalidInputError(
            f"There are no images for {name}. The generated ones have the classes of the small models of this package. "
            "Give data, a folder of images with one subfolder for each class."
        )
    return generated_images(max(size), config.images)


@dataclass(eq=False)
class ReliancePlan(Divisible[RelianceState, RelianceResult]):
    """A measurement that is ready to run, with checked arguments."""

    name: str  # name of the model in the result
    model: nn.Module
    weights: WeightsInfo  # source of the weights
    images: LabeledImages
    space: LabelSpace
    suppressions: tuple[Suppression, ...]
    outputs: Outputs
    size: tuple[int, int]  # (H, W) of the input in pixels
    statistics: tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel
    device: torch.device
    workers: int  # number of threads that load and filter images
    config: RelianceConfig
    opencv_version: str | None  # None if OpenCV is not used
    notes: tuple[str, ...]  # notes that are known before the measurement
    own_code: bool = False  # whether the name of the model does not identify it

    _options = ("model", "precision", "device", "suppressions", "channels", "mean", "std", "bgr", "size")
    _optional = ("entry of the weights", "mean", "std", "channels", "bgr", "version of opencv")

    def __post_init__(self) -> None:
        """Compute the digest of a module, which its name does not identify."""
        self._bounds = range(len(self.images.ids) + 1)
        self._parameters = digest_of(bytes_of_model(self.model)) if self.own_code else None
        steps = dict.fromkeys(step for one in self.suppressions for step in one.steps if step.cue == TEXTURE)
        self._filters = [step for step in steps if step.method in OPENCV_METHODS]
        self._blurs = [step for step in steps if step.method == GAUSSIAN_BLUR]
        # [1, 1, 3] of the indices of the colors gives that of the color of each channel.
        colors = np.arange(3, dtype=np.uint8)[None, None]
        channels = self.outputs.channels
        self._colors = [] if channels == 1 else with_channels(colors, channels, bgr=self.config.bgr)[0, 0].tolist()

    @property
    def record(self) -> dict[str, Any]:
        """All options that affect the numbers: equal records give equal bytes."""
        config, versions = self.config, software_versions()
        space = [self.space.classes, sorted(self.space.targets.items())]
        space += [] if self.space.mapping is None else [self.space.mapping.indices]
        optional = {
            "mean": None if config.mean is None else list(config.mean),
            "std": None if config.std is None else list(config.std),
            "channels": None if self.outputs.channels == 3 else self.outputs.channels,
            "bgr": config.bgr or None,
            "version of opencv": self.opencv_version,
            "entry of the weights": [self.weights.wrapper, self.weights.prefix] if self.weights.wrapper else None,
        }
        return {
            "model": self.name,
            "weights": self.weights.source,
            "sha256 of the weights": self.weights.sha256,
            "seed of the weights": self.weights.seed,
            "parameters": self._parameters,
            "suppressions": [one.name for one in self.suppressions],
            "images": self.config.images,
            "image source": self.images.source,
            "digest of the images": self.images.digest,
            "label space": self.space.name,
            "mapping": None if config.mapping is None else config.mapping.name,
            "digest of the label space": digest_of([repr(space).encode()]),
            "seed": config.seed,
            "size": list(self.size),
            "precision": config.precision,
            "device": str(self.device),
            "intervals": f"95 %, bootstrap over images, {DRAWS} samples, percentiles",
            **{name: value for name, value in optional.items() if value is not None},
            **{f"version of {name}": versions[name] for name in ("replk-probe", "torch", "torchvision", "timm")},
        }

    @property
    def _environment(self) -> Mapping[str, Any]:
        return environment_of(self.device)

    # Convolutions are computed by the usual methods.
    @property
    def _may_tune(self) -> bool:
        return False

    def _choose_methods(self, progress: bool) -> ChosenMethods:
        return ChosenMethods({}, [])

    def _state(self, part: range, store: Checkpoint | None) -> RelianceState:
        state = RelianceState(part, len(self.suppressions))
        if store is not None:
            state.restore(store)
        return state

    def _run(self, state: RelianceState, store: Checkpoint | None, progress: bool) -> RelianceResult:
        """The result, after the images that are not in the state were added to it."""
        with self._measured(self._all, state, store, progress) as prepared:
            mean, std = self.statistics
            run = RunInfo(
                model=self.name,
                weights=self.weights,
                image_source=self.images.source,
                image_ids=self.images.ids,
                input_size=self.size,
                mean=mean,
                std=std,
                seed=self.config.seed,
                device=device_label(self.device),
                precision=self.config.precision,
                backend=prepared.backend,
                seconds=round(state.seconds, 3),
                config=self.record | {"arithmetic": prepared.arithmetic, "resize": "bicubic, warped to input_size"},
                versions=versions_on(self.device),
            )
            depths = state.depths[state.depths > 0].tolist()
            notes = [*self.notes, depth_note(depths), *state.device_notes, prepared.note]
            return RelianceResult.from_decisions(
                state.decisions,
                np.array([self.space.targets[label] for label in self.images.labels], dtype=np.int32),
                self.suppressions,
                pictures=self._pictures(),
                run=run,
                label_space=self.space.name,
                classes=self.space.classes,
                notes=list(dict.fromkeys(note for note in notes if note)),
            )

    @contextmanager
    def _measured(
        self, part: range, state: RelianceState, store: Checkpoint | None, progress: bool
    ) -> Iterator[PreparedModel]:
        """Add the images of a part that are not in the state; yields the model."""
        start = time.perf_counter() - state.seconds
        threads = None if store is None else store.environment["threads"]
        self._begin(part, state, store, progress)
        bar: Any = progress_bar(
            total=len(part), initial=state.done - part.start, desc=self.name, unit="image", disable=not progress
        )
        with measuring(self.device, self.size, threads=threads), ExitStack() as stack:
            network = on_device(self.model, self.device)
            # A copy made in inference mode could not detect changes of its weights.
            with torch.inference_mode(False), torch.no_grad():
                check = outputs_check(network, self.size, self.outputs.channels)
                prepared = prepared_copy(network, self.config.precision, check)
            stack.enter_context(torch.inference_mode())
            keeper = stack.enter_context(Keeper(store, state.save, _recurs))
            stack.enter_context(bar)
            for indices, loaded in self._batches(range(state.done, part.stop)):
                decisions = self._decisions(prepared, indices, loaded)
                with keeper.change():
                    rows = slice(indices.start - part.start, indices.stop - part.start)
                    state.decisions[:, rows] = decisions
                    state.depths[rows] = [one.depth for one in loaded]
                    state.done = indices.stop
                    state.seconds = time.perf_counter() - start
                bar.update(len(indices))
            yield prepared

    def _batches(self, part: range) -> Iterator[tuple[range, list[_Loaded]]]:
        """The images of a part in batches, of which the next one is loaded ahead."""
        step = self.config.batch_size
        batches = [part[first : first + step] for first in range(0, len(part), step)]
        if not self.workers:
            for indices in batches:
                yield indices, [self._load(index) for index in indices]
            return
        pool = ThreadPoolExecutor(self.workers, "images")
        pending: deque[tuple[range, list[Future[_Loaded]]]] = deque()
        try:
            for indices in batches:
                pending.append((indices, [pool.submit(self._load, index) for index in indices]))
                if len(pending) > 1:
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, index: int) -> _Loaded:
        """An image, and the image after each filter that is computed on the CPU."""
        picture = self.images.loader(index, self.size)
        rgb = np.array(picture)
        filtered = {step: opencv_filtered(rgb, step) for step in self._filters}
        return _Loaded(rgb, filtered, picture.info.get(DEPTH, 0))

    def _versions(self, index: int, loaded: _Loaded) -> Iterator[Tensor]:
        """The image without a suppression and with each of them, ``[3, H, W]`` uint8 on the device."""
        image_id, seed = self.images.ids[index], self.config.seed
        original = self._on_device(loaded.rgb)
        filtered = {step: self._on_device(rgb) for step, rgb in loaded.filtered.items()}
        filtered |= {step: transformed(original, step, seed, image_id) for step in self._blurs}
        yield original
        for suppression in self.suppressions:
            image = original
            for step in suppression.steps:  # filters of the texture first
                image = filtered[step] if step in filtered else transformed(image, step, seed, image_id)
            yield image

    def _on_device(self, rgb: npt.NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(rgb).to(self.device).permute(2, 0, 1).contiguous()

    def _decisions(self, prepared: PreparedModel, indices: range, loaded: Sequence[_Loaded]) -> npt.NDArray[np.int32]:
        """Index of the class of each image without and with each suppression, ``[1 + suppressions, images]``."""
        versions = [self._versions(index, one) for index, one in zip(indices, loaded, strict=True)]
        return np.stack([self._decided(prepared, torch.stack(images)) for images in zip(*versions, strict=True)])

    def _decided(self, prepared: PreparedModel, images: Tensor) -> npt.NDArray[np.int32]:
        """Index of the class of each image of a batch ``[N, 3, H, W]`` uint8, whatever else is in the batch."""
        reduced = prepared.reduced or prepared.dtype in (torch.float16, torch.bfloat16)
        tolerance = _NEAR_TIE["reduced" if reduced else "float32"]
        inputs = self._inputs(images)
        decisions, is_close = self.space.decide(self._logits(prepared, inputs), tolerance)
        if len(images) > 1:
            for index in np.flatnonzero(is_close):
                alone = self._logits(prepared, inputs[index : index + 1])
                decisions[index] = self.space.decide(alone, tolerance)[0][0]
        return decisions

    def _inputs(self, images: Tensor) -> Tensor:
        """Images ``[N, 3, H, W]`` uint8 as inputs of the network."""
        if self._colors:
            values = images[:, self._colors]
        else:
            luminance = [with_channels(one.permute(1, 2, 0).cpu().numpy(), 1) for one in images]
            values = torch.from_numpy(np.stack(luminance)).permute(0, 3, 1, 2).to(images.device)
        mean, std = (torch.tensor(one, device=images.device)[:, None, None] for one in self.statistics)
        return values.float().div_(255).sub_(mean).div_(std)

    def _logits(self, prepared: PreparedModel, inputs: Tensor) -> npt.NDArray[np.float32]:
        """Outputs of the network ``[N, classes]``, in several batches if the memory does not suffice for one."""
        found: list[Tensor] = []
        done = 0
        while done < len(inputs):
            compute = partial(self._first_logits, prepared, inputs[done:])
            logits, count = with_smaller_batches(compute, len(inputs) - done)
            found.append(logits)
            done += count
        values: npt.NDArray[np.float32] = torch.cat(found).numpy()
        if self.outputs.are_probabilities:  # the softmax of their logarithms
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return values

    def _first_logits(self, prepared: PreparedModel, inputs: Tensor, count: int) -> Tensor:
        return compute_logits(prepared.module, inputs[:count]).float().cpu()

    def _pictures(self) -> npt.NDArray[np.uint8]:
        """The first image without a suppression and under those of a single method, ``[1 + methods, H, W, 3]``."""
        shown = [True, *(len(one.steps) == 1 for one in self.suppressions)]
        versions = zip(shown, self._versions(0, self._load(0)), strict=True)
        return np.stack([image.permute(1, 2, 0).cpu().numpy() for is_shown, image in versions if is_shown])


@dataclass(frozen=True)
class _Loaded:
    """A decoded image.

    Attributes:
        rgb: Its pixels, ``[H, W, 3]``.
        filtered: Its pixels after each filter of OpenCV.
        depth: Its depth in bits if it has more than eight bits per value, otherwise 0.
    """

    rgb: npt.NDArray[np.uint8]
    filtered: dict[Step, npt.NDArray[np.uint8]]
    depth: int


def _finished(indices: range, jobs: Sequence[Future[_Loaded]]) -> tuple[range, list[_Loaded]]:
    return indices, [job.result() for job in jobs]


def _recurs(error: BaseException) -> bool:
    """Whether a resumed run would fail again; a file that cannot be read may be readable the next time."""
    return isinstance(error, InvalidInputError) and not isinstance(error, UnreadableImageError)
