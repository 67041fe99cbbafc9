"""The measurement of a network that is called with several inputs: one result for each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model, weights_info
from replk_probe.models.inference.copying import device_and_dtype, on_device
from replk_probe.models.inference.cudnn_passes import contiguous_note
from replk_probe.models.inference.environment import versions_on
from replk_probe.models.inference.prepare import PreparedModel, module_of, unprepared
from replk_probe.models.model_id import name_of
from replk_probe.runtime.devices import device_label, experimental_note, measuring, resolve_device
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import RunInfo

from .accumulator import BlockSums, RunState, result_of
from .arguments import TensorImages
from .config import ErfConfig
from .contribution import InputGradient, check_batch
from .convention import convention_of, convention_record
from .result import ErfResult
from .several_inputs import check_inputs
from .target_layer import TargetLayer

_UNUSED = ("attribution", "precision", "until", "check")


def measured_inputs(
    model: nn.Module | PreparedModel | str, inputs: Sequence[Any], config: ErfConfig, *, progress: bool = False
) -> tuple[ErfResult, ...]:
    """One result for each of several inputs, as :func:`~replk_probe.measure_erf` with ``inputs``.

    The network itself is measured in its own floating-point type, or a prepared model as it is. The state is not saved,
    and only the gradient is computed, so that ``attribution``, ``precision``, ``until`` and ``check`` must be the
    usual ones.
    """
    for name in _UNUSED:
        usual = next(field.default for field in fields(config) if field.name == name)
        if getattr(config, name) != usual:
            raise InvalidInputError(
                f"Option {name}={getattr(config, name)!r} cannot be used with several inputs. Gradients of the network "
                f"itself over all images are measured. Omit {name}."
            )
    given = inputs
    if isinstance(inputs, (tuple, list)):
        given = tuple(torch.from_numpy(one) if isinstance(one, np.ndarray) else one for one in inputs)
    check_inputs(given)
    for batch in given:
        check_batch(batch)
    if len(given[0]) == 0:
        raise InvalidInputError("The inputs have no images. A contribution map is a mean over images. Give at least 1.")
    if isinstance(model, str):
        options = {name: getattr(config, name) for name in ("weights", "seed", "ema", "entry", "prefix")}
        model = create_model(model, **options)
    name = config.name or name_of(module_of(model))
    if not isinstance(model, PreparedModel):
        model = unprepared(on_device(model, resolve_device(config.device)))
    gradient = InputGradient(
        model, config.layer, config.convention, target=config.target, position=config.position, seed=config.seed
    )
    targets, convention = gradient.targets_of(given), convention_of(config.convention)
    count = len(given[0])
    states = [RunState(BlockSums(count, target.map_shape)) for target in targets]
    device = device_and_dtype(model.module).get("device", given[0].device)
    step, start, methods = config.batch_size or 1, time.perf_counter(), set[str]()
    bar: Any = progress_bar(total=count, desc=name, unit="image", disable=not progress)
    with measuring(device, max((target.input_size for target in targets), key=math.prod)), bar:
        for first in range(0, count, step):
            part = [batch[first : first + step] for batch in given]
            for state, scores in zip(states, gradient.scores_of_inputs(part), strict=True):
                for index, values in enumerate(scores.cpu().double().numpy(), first):
                    state.add(TensorImages.id_of(index), convention.summand(values))
            bar.update(len(part[0]))
            methods |= {*model.methods.take()}
    results = []
    for number, (state, target) in enumerate(zip(states, targets, strict=True), 1):
        _check_map(state, target, number)
        state.seconds = time.perf_counter() - start
        run = RunInfo(
            model=f"{name} (input {number})",
            weights=weights_info(model.module),
            image_source=TensorImages.source,
            image_ids=(),
            input_size=target.input_size,
            mean=(0.0,) * given[number - 1].shape[1],
            std=(1.0,) * given[number - 1].shape[1],
            seed=config.seed,
            device=device_label(device),
            precision=model.precision,
            backend=model.backend_used(methods),
            seconds=0.0,
            config={
                "model": name,
                "layer": target.label,
                "input": number,
                "inputs": [list(batch.shape[1:]) for batch in given],
                **({} if config.target is None else {"target": config.target}),
                **target.position.recorded(),
                **convention_record(config.convention),
            },
            versions=versions_on(device),
        )
        result = result_of(
            state,
            target,
            run,
            config.thresholds,
            arithmetic=model.arithmetic,
            resize="as given",
            convention=config.convention,
            notes=[target.note, experimental_note(device), contiguous_note(model.module, device)],
            precision_note=model.note,
        )
        results.append(result)
    return tuple(results)


def _check_map(state: RunState, target: TargetLayer, number: int) -> None:
    """Raise InvalidInputError if the map of an input, counted from 1, has no image or is zero."""
    if state.sums.n_added == 0:
        raise InvalidInputError(
            f"None of the {state.done} images could be used. The inputs, features or gradients of each have values "
            "that are not finite. Give others."
        )
    if not state.sums.mean().any():
        raise InvalidInputError(
            f"The contribution map of input {number} is zero everywhere. Layer {target.label!r} does not depend on "
            "this input for any image, or all of its gradients are negative. Choose another layer, or other images."
        )
