"""Commands that reproduce results, from their provenance."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from replk_probe.bench.result import PASSES, SpeedResult
from replk_probe.erf.position_rule import CENTER
from replk_probe.erf.result import IMPORTED, ErfResult
from replk_probe.kernels.result import KernelResult
from replk_probe.runtime.formatting import dimensions
from replk_probe.runtime.provenance import EMBEDDED, USER_MODULE, USUAL_ENTRIES, RunInfo, WeightsInfo
from replk_probe.shape_bias.result import ShapeBiasResult

_PROGRAM = "replk-probe"


def erf_command(result: ErfResult) -> str | None:
    """The command for an effective receptive field, or None if it was measured from Python."""
    run, config = result.run, result.run.config
    if result.is_imported:
        return None if config[IMPORTED] == "array" else _joined("erf", _option("from", config[IMPORTED]))
    if run.weights.source == USER_MODULE or run.image_source == "tensor":
        return None
    layer = [result.layer.removesuffix(" (input)")] if config.get("given_layer") else []
    return _joined(
        "erf",
        _model(run.model, run.weights),
        _option("images", config.get("images", result.n_images)),
        _folder("data", run.image_source),
        _option("size", dimensions(run.input_size)),
        _option("layer", *layer),
        _option("position", *([] if result.position == CENTER else [result.position])),
        _option("thresholds", _numbers(result.thresholds)),
        *(_option(name, config[name]) for name in ("target", "until", "check", "channels") if config.get(name)),
        *(_option(name, _numbers(config[name])) for name in ("mean", "std") if config.get(name)),
        _flag("bgr", config.get("bgr")),
        *(_option(name, config[name]["name"]) for name in ("convention", "attribution") if config.get(name)),
        _option("sampling", *([config["sampling"]] if config.get("sampling") not in (None, "stratified") else [])),
        _option("seed", run.seed),
        _computed(run),
    )


def shape_bias_command(result: ShapeBiasResult) -> str | None:
    """The command for a shape bias, or None if it cannot be known, for instance because decisions were imported."""
    run = result.run
    if not isinstance(run, RunInfo) or run.weights.source == USER_MODULE:
        return None
    stimuli = run.image_source.removeprefix("folder:")
    return _joined(
        "shape-bias",
        _model(run.model, run.weights),
        _option("stimuli", stimuli),
        _option("size", dimensions(run.input_size)),
        *(_option(name, _numbers(run.config[name])) for name in ("mean", "std") if run.config.get(name)),
        _option("seed", *([run.seed] if run.weights.is_random else [])),
        _computed(run),
    )


def kernels_command(result: KernelResult) -> str | None:
    """The command for kernels, or None if they were measured from Python."""
    run = result.run
    if run.weights.source == USER_MODULE:
        return None
    return _joined(
        "kernels",
        _model(run.model, run.weights),
        *(_option("layer", layer) for layer in run.layers),
        _option("variant", run.variant),
        _option("aggregate", run.aggregate),
        _flag("compose", run.compose),
        _option("against", *([] if run.against is None else [_weights(run.against)])),
        _option("seed", *([run.weights.seed] if run.weights.seed is not None else [])),
    )


def bench_command(result: SpeedResult) -> str:
    """The command for a benchmark."""
    layers = dict.fromkeys(",".join(map(str, (*case.layer.shape, *case.layer.kernel))) for case in result.cases)
    used, gpu = {case.direction for case in result.cases}, result.machine.gpu
    return _joined(
        "bench",
        *(_option("shape", layer) for layer in layers),
        *(_option("pass", name.replace("_", "-")) for name in PASSES if name in used),
        _option("dtype", result.dtype.removeprefix("torch.")),
        _option("threads", result.machine.threads) if gpu is None else _option("device", gpu.device),
        _option("repeats", result.repeats),
    )


def _joined(command: str, *options: Iterable[str]) -> str:
    return shlex.join([_PROGRAM, command, *(word for words in options for word in words)])


def _option(name: str, *values: Any) -> list[str]:
    """An option with its value; nothing without a value."""
    return [f"--{name}", *map(str, values)] if values else []


def _flag(name: str, given: object) -> list[str]:
    """An option without a value, if it was given."""
    return [f"--{name}"] if given else []


def _model(name: str, weights: WeightsInfo) -> list[str]:
    words = [*_option("model", name), *_option("weights", _weights(weights))]
    if weights.wrapper == "model_ema":
        return [*words, *_flag("ema", True)]
    if weights.wrapper is not None and weights.wrapper not in USUAL_ENTRIES:
        return [*words, *_option("entry", weights.wrapper)]
    return words


def _weights(weights: WeightsInfo) -> str:
    """The value of the option for weights: a name, or the base name of a file."""
    kind, _, name = weights.source.partition(":")
    if weights.is_random:
        return "random"
    if kind == "torchvision":
        return name.rpartition(".")[2]
    return name if kind in ("catalog", "timm", "file") or weights.source.startswith(EMBEDDED) else "auto"


def _folder(option: str, source: str) -> list[str]:
    return _option(option, source.removeprefix("folder:")) if source.startswith("folder:") else []


def _computed(run: RunInfo) -> list[str]:
    device = run.device.partition(" ")[0]
    precision = [] if run.precision == "fp32" else _option("precision", run.precision)
    return [*precision, *([] if device == "cpu" else _option("device", device))]


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
