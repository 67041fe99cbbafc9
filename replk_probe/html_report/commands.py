"""Commands that reproduce results, from their provenance."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from replk_probe.attribution.result import AttributionResult
from replk_probe.behaviour.benchmark_sets import BENCHMARK_SETS
from replk_probe.behaviour.result import BehaviourResult
from replk_probe.bench.result import PASSES, SpeedResult
from replk_probe.erf.position_rule import CENTER
from replk_probe.erf.result import IMPORTED, ErfResult
from replk_probe.kernels.result import KernelResult
from replk_probe.reliance.result import RelianceResult
from replk_probe.runtime.formatting import dimensions
from replk_probe.runtime.provenance import EMBEDDED, USER_MODULE, USUAL_ENTRIES, HeadInfo, RunInfo, WeightsInfo
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.stimuli.names import CATEGORIES

_PROGRAM = "replk-probe"
_IMPORT = "import:"
# Entries of the record of an attribution by the name of the option.
_METHOD_OPTIONS = {
    "steps": "n_steps", "samples": "nt_samples", "noise": "noise", "window": "window", "stride": "stride",
}  # fmt: skip

# The largest batch on a CPU that is used without the option; a larger one was given.
_LARGEST_ERF_BATCH = 4
_SHAPE_BIAS_BATCH = 32  # the default of the command
_STRONGEST = 8
_IMAGENET, _ENSEMBLE = 1000, 80  # class names and templates that have a name
_DEFAULT_TEMPLATES = ("a photo of a {}.",)
_INSTRUCTION_SETS = ("portable", "avx2", "avx512", "neon")
# Seconds of a call beyond which a variant is only timed with --all.
_SLOW_CALL = 4.0
# Prefixes that are removed from the names in a file without an option.
_USUAL_PREFIX = re.compile(r"(?:(?:module|_orig_mod)\.)*(?:backbone\.)?")


def erf_command(result: ErfResult) -> str | None:
    """The command for an effective receptive field, or None if it was measured from Python."""
    run, config = result.run, result.run.config
    thresholds = _option("thresholds", _numbers(result.thresholds))
    if result.is_imported:
        source = config[IMPORTED]
        label = [] if PurePath(source).stem == run.model else _option("label", run.model)
        return None if source == "array" else _joined("erf", _option("from", source), label, thresholds)
    is_custom = (config.get("convention") or {}).get("name") == "custom"
    if run.weights.source == USER_MODULE or run.image_source == "tensor" or is_custom:
        return None
    layer = [result.layer.removesuffix(" (input)")] if config.get("given_layer") else []
    batch = config.get("batch_size")
    is_given = isinstance(batch, int) and (batch > _LARGEST_ERF_BATCH or not run.device.startswith("cpu"))
    return _joined(
        "erf",
        _model(run.model, run.weights),
        _option("images", config.get("images", result.n_images)),
        _folder("data", run.image_source),
        _option("size", dimensions(run.input_size)),
        _option("layer", *layer),
        _option("position", *([] if result.position == CENTER else [result.position])),
        thresholds,
        *(_option(name, config[name]) for name in ("target", "until", "check") if config.get(name)),
        *([_option("until-ratios", ",".join(config["until_ratios"]))] if config.get("until_ratios") else []),
        *_inputs(config),
        *(_option(name, config[name]["name"]) for name in ("convention", "attribution") if config.get(name)),
        _option("sampling", *([config["sampling"]] if config.get("sampling") not in (None, "stratified") else [])),
        _option("batch-size", *([batch] if is_given else [])),
        _option("seed", run.seed),
        _computed(run),
    )


def shape_bias_command(result: ShapeBiasResult) -> str | None:
    """The command for a shape bias, or None if it cannot be known, for instance because decisions were given."""
    run = result.run
    imported = [one.source.removeprefix(_IMPORT) for one in result.observers if one.source.startswith(_IMPORT)][:1]
    if not isinstance(run, RunInfo):
        usual = all(one.counts.categories == CATEGORIES for one in result.observers)
        return _joined("shape-bias", _option("import", *imported)) if imported and usual else None
    config, mapping = run.config, str(run.config.get("mapping") or "")
    is_described = run.image_source.startswith("set:")  # its folder is not known
    if run.weights.source == USER_MODULE or mapping == "given" or is_described:
        return None
    batch, record = config.get("batch_size"), config.get("stimuli record")
    is_partial = isinstance(record, dict) and record.get("partial")
    return _joined(
        "shape-bias",
        _model(run.model, run.weights),
        _option("stimuli", run.image_source.removeprefix("folder:")),
        _option("mapping", *([mapping.removeprefix("file:")] if mapping.startswith("file:") else [])),
        _option("import", *imported),
        _flag("allow-partial", is_partial),
        _option("size", dimensions(run.input_size)),
        *_inputs(config),
        _option("batch-size", *([batch] if batch not in (None, _SHAPE_BIAS_BATCH) else [])),
        _option("seed", *([run.seed] if run.weights.is_random else [])),
        _computed(run),
    )


def behaviour_command(result: BehaviourResult) -> str | None:
    """The command for behaviour, or None if it cannot be known, for instance because trials were given."""
    run, sources = result.run, [one.source for each in result.sets for one in each.observers]
    imported = [source.removeprefix(_IMPORT) for source in sources if source.startswith(_IMPORT)][:1]
    sets = ",".join(one.name for one in result.sets)
    if not isinstance(run, RunInfo):
        return _joined("behaviour", _option("import", *imported), _option("sets", sets)) if imported else None
    config, mapping = run.config, str(run.config.get("mapping") or "")
    if run.weights.source == USER_MODULE or mapping == "given":
        return None
    batch, record = config.get("batch_size"), config.get("stimuli record") or {}
    is_partial = any(count["images"] < BENCHMARK_SETS[name].n_images for name, count in record.items())
    return _joined(
        "behaviour",
        _model(run.model, run.weights),
        _option("sets", sets),
        _option("mapping", *([mapping.removeprefix("file:")] if mapping.startswith("file:") else [])),
        _option("import", *imported),
        _flag("allow-partial", is_partial),
        _option("size", dimensions(run.input_size)),
        *_inputs(config),
        _option("batch-size", *([batch] if batch not in (None, _SHAPE_BIAS_BATCH) else [])),
        _option("seed", *([run.seed] if run.weights.is_random else [])),
        _computed(run),
    )


def kernels_command(result: KernelResult) -> str | None:
    """The command for kernels, or None if they were measured from Python."""
    run = result.run
    if run.weights.source == USER_MODULE:
        return None
    strongest = max((len(kernel.strongest) for kernel in result.kernels), default=_STRONGEST)
    # Layers with fewer channels have all of them.
    is_given = strongest > _STRONGEST or any(kernel.channels > strongest for kernel in result.kernels)
    return _joined(
        "kernels",
        _model(run.model, run.weights),
        *(_option("layer", layer) for layer in run.layers),
        _option("variant", run.variant),
        _option("aggregate", run.aggregate),
        _option("strongest", *([strongest] if is_given and strongest != _STRONGEST else [])),
        _flag("compose", run.compose),
        _option("against", *([] if run.against is None else [_weights(run.against)])),
        _option("seed", *([run.weights.seed] if run.weights.seed is not None else [])),
    )


def attribution_command(result: AttributionResult) -> str | None:
    """The command for attributions, or None if they were measured from Python."""
    run, config = result.run, result.run.config
    field = config.get("erf") or {}
    if run.weights.source == USER_MODULE or run.image_source == "tensor" or (field and "folder" not in field):
        return None
    is_folder = run.image_source.startswith("folder:")
    images = [run.image_source.removeprefix("folder:")] if is_folder else list(run.image_ids)
    target, baseline = config.get("target"), config.get("baselines")
    given = {name: config[key] for name, key in _METHOD_OPTIONS.items() if config.get(key) is not None}
    return _joined(
        "attribute",
        [f"./{image}" if image.startswith("-") else image for image in images],
        _model(run.model, run.weights),
        _option("method", result.method),
        _option("target", *([] if target is None else [target])),
        _option("erf", *([field["folder"]] if field else [])),
        _option("layer", *([str(result.layer).removesuffix(" (input)")] if config.get("given_layer") else [])),
        _option("size", dimensions(run.input_size)),
        _option("thresholds", _numbers(config["thresholds"])),
        *(
            _option(name, dimensions(value) if isinstance(value, list) else _number(value))
            for name, value in given.items()
        ),
        _option("baseline", *([baseline] if isinstance(baseline, str) else [])),
        *_inputs(config),
        _option("seed", run.seed),
        _computed(run),
    )


def reliance_command(result: RelianceResult) -> str | None:
    """The command for accuracies under suppressions, or None if they were measured from Python."""
    run, config = result.run, result.run.config
    mapping, images = str(config.get("mapping") or ""), config.get("images")
    if run.weights.source == USER_MODULE or mapping == "given":
        return None
    return _joined(
        "reliance",
        _model(run.model, run.weights),
        _folder("data", run.image_source),
        _option("suppressions", ",".join(one.suppression for one in result.suppressions)),
        _option("images", *([] if images is None else [images])),
        _option("mapping", *([mapping.removeprefix("file:")] if mapping.startswith("file:") else [])),
        _option("size", dimensions(run.input_size)),
        *_inputs(config),
        _option("seed", run.seed),
        _computed(run),
    )


def bench_command(result: SpeedResult) -> str:
    """The command for a benchmark, with its layers one by one."""
    layers = dict.fromkeys(",".join(map(str, (*case.layer.shape, *case.layer.kernel))) for case in result.cases)
    used, gpu = {case.direction for case in result.cases}, result.machine.gpu
    isa = (result.machine.isa or "").lower()
    slowest = max((one.minimum or 0.0 for case in result.cases for one in case.timings), default=0.0)
    return _joined(
        "bench",
        *(_option("shape", layer) for layer in layers),
        *(_option("pass", name.replace("_", "-")) for name in PASSES if name in used),
        _option("dtype", result.dtype.removeprefix("torch.")),
        _option("threads", result.machine.threads) if gpu is None else _option("device", gpu.device),
        _option("isa", *([isa] if gpu is None and isa in _INSTRUCTION_SETS else [])),
        _option("repeats", result.repeats),
        _flag("all", slowest > _SLOW_CALL),
    )


def sweep_command(record: str) -> str:
    """The command for a sweep whose record has this path: its file has the name of its folder by default."""
    folder = PurePath(record).parent.name or "sweep"
    return _joined("sweep", [f"{folder}.toml"], _option("output", folder))


def _joined(command: str, *options: Iterable[str]) -> str:
    return shlex.join([_PROGRAM, command, *(word for words in options for word in words)])


def _option(name: str, *values: Any) -> list[str]:
    """An option with its value; nothing without a value."""
    return [f"--{name}", *map(str, values)] if values else []


def _flag(name: str, given: object) -> list[str]:
    """An option without a value, if it was given."""
    return [f"--{name}"] if given else []


def _inputs(config: Mapping[str, Any]) -> list[list[str]]:
    """The options of the inputs that differ from the usual ones."""
    return [
        _option("channels", *([config["channels"]] if config.get("channels") else [])),
        *(_option(name, _numbers(config[name])) for name in ("mean", "std") if config.get(name)),
        _flag("bgr", config.get("bgr")),
    ]


def _model(name: str, weights: WeightsInfo) -> list[str]:
    words = [*_option("model", name), *_option("weights", _weights(weights)), *_head(weights.head)]
    if not weights.source.startswith("file:"):
        return words
    # The entry of a file without entries is recorded as the prefix.
    entry = None if weights.wrapper == weights.prefix else weights.wrapper
    if entry == "model_ema":
        words += _flag("ema", True)
    elif entry is not None and not {*entry.split(".")} <= {*USUAL_ENTRIES}:
        words += _option("entry", entry)
    if weights.prefix is not None and not _USUAL_PREFIX.fullmatch(weights.prefix):
        words += _option("prefix", weights.prefix)
    return words


def _head(head: HeadInfo | None) -> list[str]:
    """The options for a head; class names and templates of other kinds have to be written to files."""
    if head is None:
        return []
    if head.source.startswith("file:"):
        return _option("head", head.source.removeprefix("file:"))
    names = head.class_names
    classes = "categories" if names == CATEGORIES else "class_names.txt"
    texts = "imagenet-80" if len(head.templates) == _ENSEMBLE else "templates.txt"
    return [
        *_option("classes", *([] if len(names) == _IMAGENET else [classes])),
        *_option("templates", *([] if head.templates == _DEFAULT_TEMPLATES else [texts])),
    ]


def _weights(weights: WeightsInfo) -> str:
    """The value of the option for weights: a name, or the base name of a file."""
    kind, _, name = weights.source.partition(":")
    if weights.is_random:
        return "random"
    if kind == "torchvision":
        return name.rpartition(".")[2]
    return name if kind in ("catalog", "timm", "open_clip", "file") or weights.source.startswith(EMBEDDED) else "auto"


def _folder(option: str, source: str) -> list[str]:
    return _option(option, source.removeprefix("folder:")) if source.startswith("folder:") else []


def _computed(run: RunInfo) -> list[str]:
    device = run.device.partition(" ")[0]
    precision = [] if run.precision == "fp32" else _option("precision", run.precision)
    # On a GPU, methods are also chosen without the option.
    tuned = _option("tune", "force") if run.config.get("tuning") and device == "cpu" else []
    return [*precision, *([] if device == "cpu" else _option("device", device)), *tuned]


def _numbers(values: Sequence[float]) -> str:
    return ",".join(map(_number, values))


def _number(value: float) -> str:
    """The shortest text that is read as the same number."""
    return repr(value).removesuffix(".0")
