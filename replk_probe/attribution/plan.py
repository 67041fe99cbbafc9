"""An attribution that is ready to run: whatever can be checked quickly is checked before the first image."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from replk_probe.erf.area_protocols import FloatArray
from replk_probe.erf.attribution import DEFAULT as GRADIENT
from replk_probe.erf.attribution import Truncated, attributed, check_modules
from replk_probe.erf.map_statistics import entropy_of
from replk_probe.erf.probe_layer import find_target
from replk_probe.erf.result import ErfResult
from replk_probe.erf.target_layer import TargetLayer, run_to
from replk_probe.errors import InvalidInputError, close_hint
from replk_probe.images.channels import channels_note, check_channels, fitted_statistics
from replk_probe.images.depth import depth_note
from replk_probe.models import create_model, data_config, weights_info
from replk_probe.models.checkpoints.digest import bytes_of, bytes_of_model, digest_of
from replk_probe.models.class_names import class_names
from replk_probe.models.inference.batch_norm import correct_batch_norms
from replk_probe.models.inference.check import check_on, evaluating, random_image
from replk_probe.models.inference.copying import device_and_dtype, on_device
from replk_probe.models.inference.environment import environment_of, versions_on
from replk_probe.models.inference.prepare import PreparedModel, prepared_copy, unprepared
from replk_probe.models.model_id import check_network, name_of
from replk_probe.models.records import statistics_note
from replk_probe.models.weight_values import check_run_values
from replk_probe.runtime.checkpoint import Checkpoint, Keeper
from replk_probe.runtime.devices import device_label, measuring, resolve_device
from replk_probe.runtime.parts import ChosenMethods, Divisible
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import RunInfo, WeightsInfo, software_versions
from replk_probe.shape_bias.classifier import Outputs, compute_logits, find_outputs
from replk_probe.shape_bias.synthetic import SYNTHETIC_CATEGORIES

from .config import GRAD_CAM, OCCLUSION, SALIENCY, AttributionConfig
from .erf_windows import check_erf, measured_windows, most_attributed, windows_of_result, windows_on_image
from .grad_cam import grad_cam, last_block, resized
from .inputs import Inputs, Preprocessing, check_images, load_inputs
from .method_options import MethodOptions
from .result import AttributedImage, AttributionResult, ErfWindow
from .state import AttributionState

ON_IMAGE = "image"


def plan_attribution(
    model: nn.Module | str,
    images: Any,
    erf: ErfResult | str | os.PathLike[str] | None = None,
    config: AttributionConfig | None = None,
) -> AttributionPlan:
    """Check the arguments, build the model, find its layer and load the images.

    Arguments and errors are those of :func:`~replk_probe.measure_attribution`; ``config`` holds the options.
    """
    config = config or AttributionConfig()
    config.check_method()
    check_network(model, or_name=True)
    given = check_images(images)
    measured = ErfResult.load(Path(erf)) if isinstance(erf, (str, os.PathLike)) else erf
    if not (measured is None or isinstance(measured, ErfResult)):
        raise InvalidInputError(
            f"Expected erf as an ErfResult or the folder of one, but got an object of type {type(measured).__name__}. "
            "Give the result of measure_erf, or None to measure the windows on the images."
        )
    network = model
    if isinstance(network, str):
        loaded = {name: getattr(config, name) for name in ("weights", "seed", "ema", "entry", "prefix")}
        network = create_model(network, **loaded)
    weights = weights_info(network)
    if weights.lacks_classifier:
        raise InvalidInputError(
            f"{model if isinstance(model, str) else name_of(network)} has no class scores with these weights. "
            f"{weights.note} Use weights with a classifier."
        )
    check_modules(config.method, network, prepared=False)
    data = data_config(network)
    size = config.size or data.input_size
    channels = config.channels
    if isinstance(given, Tensor):
        channels, size = given.shape[1], (given.shape[2], given.shape[3])
    outputs = find_outputs(network, size, channels)
    check_channels(outputs.channels, config.bgr)
    check_run_values(network, (1, outputs.channels, *size), compute_logits)
    mean, std = (
        fitted_statistics(known if own is None else own, outputs.channels, bgr=config.bgr)
        for known, own in ((data.mean, config.mean), (data.std, config.std))
    )
    is_own = weights.is_embedded and weights.head is None
    names = SYNTHETIC_CATEGORIES if is_own else class_names(network, outputs.classes)
    name = config.name or (model if isinstance(model, str) else name_of(network))
    options = MethodOptions.of(config, size, mean, std)
    target, notes = _positions(network, (1, outputs.channels, *size), config, required=measured is not None)
    if measured is not None and target is not None:
        notes += check_erf(measured, name, weights, target)
    inputs = load_inputs(given, Preprocessing(size, mean, std, config.bgr))
    if not isinstance(given, Tensor):
        notes += [channels_note(outputs.channels, bgr=config.bgr), depth_note(inputs.depths)]
        notes += [statistics_note(network)] if config.mean is None or config.std is None else []
    if outputs.are_probabilities:
        notes.append("The model's outputs are probabilities: scores are probabilities, not logits.")
    return AttributionPlan(
        name=name,
        model=network,
        weights=weights,
        inputs=inputs,
        outputs=outputs,
        class_names=names,
        chosen=_chosen_class(config.target, outputs.classes, names, name),
        target=target,
        erf=measured,
        erf_folder=Path(erf).resolve().name if isinstance(erf, (str, os.PathLike)) else None,
        options=options,
        # Tensors are normalized already.
        statistics=((0.0,) * len(mean), (1.0,) * len(std)) if isinstance(given, Tensor) else (mean, std),
        device=resolve_device(config.device),
        config=config,
        notes=tuple(note for note in notes if note),
        own_code=not isinstance(model, str) or ":" in model,
    )


def _positions(
    model: nn.Module, shape: tuple[int, ...], config: AttributionConfig, *, required: bool
) -> tuple[TargetLayer | None, list[str | None]]:
    """The layer with the positions, or None if the network has none that is required, and notes."""
    try:
        target = find_target(model, shape, config.layer)
    except InvalidInputError as error:
        if required or config.layer is not None or config.method == GRAD_CAM:
            raise
        return None, [f"There are no windows of an effective receptive field. {error}"]
    return target, [target.note]


def _chosen_class(target: int | str | None, classes: int, names: tuple[str, ...] | None, model: str) -> int | None:
    """The index of the class that was requested; None for the predicted one."""
    if isinstance(target, str):
        matching = [index for index, name in enumerate(names or ()) if name.lower() == target.lower()]
        if len(matching) == 1:
            return matching[0]
        reason = f"{model} has no class of this name{close_hint(target, names or ())}"
        if matching:
            reason = f"Classes {' and '.join(map(str, matching))} have this name"
        elif names is None:
            reason = f"The names of the {classes} classes of {model} are unknown"
        raise InvalidInputError(f"Unknown target {target!r}. {reason}. Give the index of a class, which counts from 0.")
    if target is not None and target >= classes:
        raise InvalidInputError(
            f"There is no class {target}. {model} has {classes} classes, which count from 0. Choose a class up to "
            f"{classes - 1}."
        )
    return target


@dataclass(eq=False)
class AttributionPlan(Divisible[AttributionState, AttributionResult]):
    """A measurement that is ready to run, with checked arguments."""

    name: str  # name of the model in the result
    model: nn.Module
    weights: WeightsInfo  # source of the weights
    inputs: Inputs
    outputs: Outputs
    class_names: tuple[str, ...] | None
    chosen: int | None  # index of the class whose score is attributed; None for the predicted one
    target: TargetLayer | None  # layer whose positions have the windows
    erf: ErfResult | None  # effective receptive field with the windows; None to measure them on each image
    erf_folder: str | None  # base name of the folder that it was read from
    options: MethodOptions
    statistics: tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel
    device: torch.device
    config: AttributionConfig
    notes: tuple[str, ...]  # notes that are known before the measurement
    own_code: bool = False  # whether the name of the model does not identify it

    _cam_layer: TargetLayer | None = field(default=None, init=False, repr=False)  # layer of Grad-CAM

    _options = ("method", "target", "thresholds", "precision", "device", "channels", "mean", "std", "bgr", "size")
    _optional = ("given_layer", "erf", "mean", "std", "channels", "bgr")

    def __post_init__(self) -> None:
        """Compute digests of the images and of a module, which names do not identify."""
        self._bounds = range(len(self.inputs.ids) + 1)
        self._digest = digest_of(bytes_of([self.inputs.batch]))
        self._parameters = digest_of(bytes_of_model(self.model)) if self.own_code else None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images in pixels."""
        return self.inputs.batch.shape[2], self.inputs.batch.shape[3]

    @property
    def record(self) -> dict[str, Any]:
        """All options that affect the numbers: equal records give equal bytes."""
        config, versions = self.config, software_versions()
        record: dict[str, Any] = {
            "model": self.name,
            "weights": self.weights.source,
            "sha256 of the weights": self.weights.sha256,
            "seed of the weights": self.weights.seed,
            **({"entry of the weights": [self.weights.wrapper, self.weights.prefix]} if self.weights.wrapper else {}),
            "method": config.method,
            **self.options.record,
            "target": config.target,
            "layer": None if self.target is None else self.target.label,
            **({} if config.layer is None else {"given_layer": True}),
        }
        if self.erf is not None:
            run = self.erf.run
            record["erf"] = {
                "model": run.model,
                "weights": run.weights.label,
                "layer": self.erf.layer,
                "input_size": list(self.erf.input_size),
                "n_images": self.erf.n_images,
                **({} if self.erf_folder is None else {"folder": self.erf_folder}),
            }
        record |= {"thresholds": list(config.thresholds), "protocol": "centred"}
        record |= {"size": list(self.size), "precision": config.precision, "device": str(self.device)}
        for name, values in (("mean", config.mean), ("std", config.std)):
            record |= {} if values is None else {name: list(values)}
        record |= {} if self.outputs.channels == 3 else {"channels": self.outputs.channels}
        record |= {"bgr": True} if config.bgr else {}
        record |= {"digest of the images": self._digest, "parameters": self._parameters}
        if self.inputs.source != "tensor":
            record["resize"] = "bicubic, warped to input_size"
        return record | {f"version of {package}": versions[package] for package in ("replk-probe", "torch", "timm")}

    @property
    def _environment(self) -> Mapping[str, Any]:
        return environment_of(self.device)

    # Attributions are computed by the methods of convolution that are usual: their images are too few for a choice.
    @property
    def _tune(self) -> str:
        return "off"

    @property
    def _may_tune(self) -> bool:
        return False

    def _choose_methods(self, progress: bool) -> ChosenMethods:
        return ChosenMethods({}, [])

    def _state(self, part: range, store: Checkpoint | None) -> AttributionState:
        state = AttributionState(part, self.size)
        if store is not None:
            state.restore(store)
        return state

    def _run(self, state: AttributionState, store: Checkpoint | None, progress: bool) -> AttributionResult:
        """The result, after the images that are not in the state were added to it."""
        with self._measured(self._all, state, store, progress) as prepared:
            mean, std = self.statistics
            record = self.record | {"arithmetic": prepared.arithmetic}
            if self._cam_layer is not None:
                layout = self._cam_layer.layout
                record |= {"layer of grad-cam": self._cam_layer.label, "map of grad-cam": list(layout.size)}
                record["interpolation"] = "bilinear"
            run = RunInfo(
                model=self.name,
                weights=self.weights,
                image_source=self.inputs.source,
                image_ids=self.inputs.ids,
                input_size=self.size,
                mean=mean,
                std=std,
                seed=self.config.seed,
                device=device_label(self.device),
                precision=self.config.precision,
                backend=prepared.backend,
                seconds=round(state.seconds, 3),
                config=record,
                versions=versions_on(self.device),
            )
            notes = [*self.notes, *self._cam_notes, *state.notes, *state.device_notes, prepared.note]
            return AttributionResult(
                maps=state.maps,
                pictures=self.inputs.pictures,
                images=tuple(state.images),
                run=run,
                method=self.config.method,
                layer=None if self.target is None else self.target.label,
                erf=None if self.target is None else ON_IMAGE if self.erf is None else self.erf.run.model,
                notes=tuple(dict.fromkeys(note for note in notes if note)),
            )

    @contextmanager
    def _measured(
        self, part: range, state: AttributionState, store: Checkpoint | None, progress: bool
    ) -> Iterator[PreparedModel]:
        """Add the images of a part that are not in the state; yields the model."""
        start = time.perf_counter() - state.seconds
        threads = None if store is None else store.environment["threads"]
        self._begin(part, state, store, progress)
        network = on_device(self.model, self.device)
        bar: Any = progress_bar(
            total=len(part), initial=state.done - part.start, desc=self.name, unit="image", disable=not progress
        )
        with measuring(self.device, self.size, threads=threads), evaluating(network):
            with torch.inference_mode(False), torch.enable_grad(), bar, Keeper(store, state.save, _recurs) as keeper:
                self._network = network
                self._cam_notes = self._find_cam_layer()
                prepared = self._prepared(network)
                self._network = prepared.module
                while state.done < part.stop:
                    image_id, image = self.inputs.ids[state.done], self._image(state.done)
                    notes: list[str] = []
                    numbers, values = self._numbers(image_id, image, notes)
                    with keeper.change():
                        state.add(numbers, values, notes)
                        state.seconds = time.perf_counter() - start
                    bar.update(1)
            yield prepared

    def _image(self, index: int) -> Tensor:
        """One image ``[1, C, H, W]`` on the device and in the type of the network."""
        image = self.inputs.batch[index : index + 1].to(**device_and_dtype(self._network))
        return image.to(self.device)

    def _prepared(self, network: nn.Module) -> PreparedModel:
        """The network itself in float32, or a copy in reduced precision."""
        if self.config.precision == "fp32":
            return unprepared(network)
        points = [point for point in (self._cam_layer, self.target) if point is not None]

        def outputs(model: nn.Module, images: Tensor) -> Tensor:
            """Everything that is measured: the scores, and the features of the layers."""
            found = [compute_logits(model, images.clone()), *(run_to(model, images.clone(), one) for one in points)]
            return torch.cat([one.flatten(1) for one in found], 1)

        image = random_image(self.size, self.outputs.channels).to(**device_and_dtype(network))
        check = check_on(image, network, outputs, gradient=True)
        keep = points[0].kept if points else ""
        return prepared_copy(network, self.config.precision, check, keep=keep, backward=True)

    def _numbers(self, image_id: str, image: Tensor, notes: list[str]) -> tuple[AttributedImage, FloatArray]:
        """The numbers of one image, and its map ``[H, W]``; notes on it are appended to ``notes``."""
        with torch.no_grad():
            scores = compute_logits(self._network, image)[0].double().cpu()
        if not bool(torch.isfinite(image).all()) or not bool(torch.isfinite(scores).all()):
            raise InvalidInputError(
                f"Image {image_id} cannot be attributed. It, or the class scores of {self.name} for it, have values "
                "that are not finite. Leave it out, or use other weights."
            )
        predicted = int(scores.argmax())
        target = predicted if self.chosen is None else self.chosen
        values = self._attribution(image_id, image, target, notes).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise InvalidInputError(
                f"Image {image_id} cannot be attributed. Its attributions have values that are not finite. Use another "
                "method, or leave it out."
            )
        names = self.class_names
        shares = scores if self.outputs.are_probabilities else scores.softmax(0)
        numbers = AttributedImage(
            id=image_id,
            target=target,
            target_name=None if names is None else names[target],
            predicted=predicted,
            predicted_name=None if names is None else names[predicted],
            score=float(scores[target]),
            probability=float(shares[target]),
            total=float(values.sum()),
        )
        absolute = np.abs(values)
        if not absolute.any():
            notes.append(f"The attribution of {image_id} is zero everywhere: its other numbers are undefined.")
            return numbers, values
        weights = absolute / absolute.max()
        entropy = entropy_of(weights, float(weights.sum()))
        y, x = divmod(int(absolute.argmax()), absolute.shape[1])
        numbers = replace(
            numbers,
            entropy_bits=max(entropy, 0.0) / math.log(2),
            effective_area=min(math.exp(entropy) / absolute.size, 1.0),
            peak=(y, x),
        )
        return self._with_windows(numbers, image, weights, notes), values

    def _with_windows(
        self, numbers: AttributedImage, image: Tensor, absolute: FloatArray, notes: list[str]
    ) -> AttributedImage:
        """The numbers with those of the most attributed position."""
        if self.target is None:
            return numbers
        place, thresholds = most_attributed(absolute, self.target), self.config.thresholds
        y, x = self.target.center_of(place)
        if self.erf is None:
            windows = windows_on_image(self._network, self.target, place, image, thresholds)
        else:
            windows = windows_of_result(self.erf, thresholds, (y, x), absolute.shape)
        measured: tuple[ErfWindow, ...] = ()
        if windows is None:
            notes.append(
                f"{numbers.id} has no windows: no feature at position {place} of layer {self.target.label} grows with "
                "any pixel."
            )
        else:
            measured = measured_windows(absolute, windows, thresholds)
        return replace(numbers, position=place, center=(y, x), windows=measured)

    def _attribution(self, image_id: str, image: Tensor, target: int, notes: list[str]) -> Tensor:
        """The signed attribution of every pixel of an image, ``[H, W]``."""
        method = self.config.method
        if method == GRAD_CAM:
            found = self._cam(image, target)
            if not found.any():
                label = "" if self._cam_layer is None else self._cam_layer.label
                notes.append(
                    f"The class scores of {image_id} do not depend on the positions of layer {label!r}, or their "
                    "effects cancel. Where a class token is chosen, an earlier layer may be suitable."
                )
            return resized(found, self.size)[0, 0]
        network = Truncated(self._network, partial(compute_logits, self._network))
        name, options = _NAMES.get(method, method), self.options.captum(image)
        with self._explained():
            found = attributed(network, image, partial(_score, target=target), name, options)[0]
        if method == SALIENCY:
            return found.abs().sum(0)
        # Occlusion replaces all channels of a window at once: each has the decrease of the score.
        return found.mean(0) if method == OCCLUSION else found.sum(0)

    def _cam(self, image: Tensor, target: int) -> Tensor:
        """The class activation map before the ReLU, ``[1, 1, h, w]``."""
        assert self._cam_layer is not None
        scores = partial(compute_logits, self._network)
        with self._explained():
            return grad_cam(self._network, lambda images: _score(scores(images), target), self._cam_layer, image)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain the error of scores without a gradient; captum's warnings that it sets hooks are left out."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except RuntimeError as error:
            if "not have been used in the graph" in str(error) or "does not require grad" in str(error):
                source = "the image" if self._cam_layer is None else f"layer {self._cam_layer.label!r}"
                raise InvalidInputError(
                    f"The class scores of {self.name} have no gradient with respect to {source}. "
                    "They do not depend on it, or are separated from it by no_grad, detach or a step without "
                    "derivative. Use the method 'occlusion', or another layer."
                ) from error
            raise

    def _find_cam_layer(self) -> list[str]:
        """Choose the layer of Grad-CAM, and return notes on it.

        The patch tokens of the last layer do not reach a class token that is chosen there. Whether they do is decided
        by the first image, also where a process measures others.
        """
        self._cam_layer = self.target if self.config.method == GRAD_CAM else None
        earlier = None
        if self._cam_layer is not None and self.config.layer is None:
            earlier = last_block(self._network)
        if self._cam_layer is None or earlier is None:
            return []
        image = self._image(0)
        with torch.no_grad():
            predicted = int(compute_logits(self._network, image)[0].argmax())
        if self._cam(image, predicted if self.chosen is None else self.chosen).any():
            return []
        last, self._cam_layer = self._cam_layer, find_target(self._network, image.shape, earlier)
        return [
            f"The class scores do not depend on the positions of layer {last.label!r}, as where a class token is "
            f"chosen: Grad-CAM was computed at {self._cam_layer.label!r}."
        ]


def _score(logits: Tensor, target: int) -> Tensor:
    """The score of a class for each image."""
    if logits.requires_grad:
        correct_batch_norms(logits)
    return logits[:, target]


def _recurs(error: BaseException) -> bool:
    """Whether a resumed run would fail again."""
    return isinstance(error, InvalidInputError)


# Names of methods that differ from those of the attributions of features.
_NAMES = {SALIENCY: GRADIENT}
