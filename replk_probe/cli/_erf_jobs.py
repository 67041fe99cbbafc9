"""What `replk-probe erf` measures and reads: models with their weights and sizes, imported maps, and their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replk_probe.errors import InvalidInputError

from ._options import destinations, given_options, parse_size, weights_of_each

if TYPE_CHECKING:
    from replk_probe.erf.config import ErfConfig
    from replk_probe.erf.result import ErfResult

DEFAULT_OUTPUT = Path("replk-probe-out") / "erf"

# Parameters of the command that apply to imported maps.
_OF_MAPS = ("sources", "map_labels", "thresholds", "numbers", "references", "output")

Size = int | tuple[int, int]


class Job(NamedTuple):
    """One measurement."""

    model: str
    weights: str
    config: ErfConfig
    label: str  # differs from those of the other measurements
    base: Path  # folder of all sizes of one model, convention and attribution
    folder: Path


class Import(NamedTuple):
    """One map that is read."""

    result: ErfResult
    folder: Path


class Jobs(NamedTuple):
    """All measurements and imported maps of a command."""

    measured: list[Job]
    imported: list[Import]
    output: Path  # folder of the figures and tables of all results

    @property
    def folders(self) -> list[Path]:
        """The folders of the results, followed by that of the figures and tables of all results."""
        folders = [job.folder for job in self.measured] + [one.folder for one in self.imported]
        return [*folders, *([self.output] if len(folders) > 1 else [])]


def choose_jobs(
    models: Sequence[str],
    weights: Sequence[str],
    configs: Sequence[ErfConfig],
    imported: Sequence[ErfResult],
    output: Path | None,
) -> Jobs:
    """The measurements and imported maps, with a folder for each.

    ``configs`` are the options of the measurements of each model, which differ in convention, attribution and size.

    Raises:
        InvalidInputError: Weights and models do not match, or two results would have the same folder.
    """
    if len(models) == 1 < len({*weights}) == len(weights):
        models = [*models] * len(weights)
    each = weights_of_each(models, weights) if models else []
    from replk_probe.erf.labels import distinct_labels

    labels = _labels(models, each)
    folders = destinations([*labels, *distinct_labels(imported)], output, DEFAULT_OUTPUT)
    has_sizes = len({config.size for config in configs}) > 1
    measured = []
    for model, source, label, folder in zip(models, each, labels, folders, strict=False):
        for config in configs:
            names = [
                str(getattr(config, name))
                for name in ("convention", "attribution")
                if len({getattr(one, name) for one in configs}) > 1
            ]
            base, size = folder.joinpath(*names), _size_name(config.size)
            unique = ", ".join([label, *names, *([f"{size} px"] if has_sizes else [])])
            measured.append(Job(model, source, config, unique, base, base / size if has_sizes else base))
    root = folders[0] if len(folders) == 1 else output or DEFAULT_OUTPUT
    found = [Import(result, folder) for result, folder in zip(imported, folders[len(labels) :], strict=True)]
    return Jobs(measured, found, root)


def parse_sizes(text: str) -> list[Size]:
    """Parse one or several sizes separated by commas.

    Raises:
        InvalidInputError: A size cannot be parsed, or is repeated.
    """
    sizes = [parse_size(part) for part in text.split(",")]
    if len({*map(_size_name, sizes)}) < len(sizes):
        raise InvalidInputError(
            f"The sizes {text!r} contain one twice. A series has one result for each size. Give each size once."
        )
    return sizes


def check_without_model() -> None:
    """Raise InvalidInputError for an option that has no effect on imported maps, which are not measured."""
    given = [parameter.opts[0] for name, parameter in given_options().items() if name not in _OF_MAPS]
    if given:
        raise InvalidInputError(
            f"{', '.join(given)} was given without --model. The maps of --from are not measured. Give a model with "
            f"--model, or omit {'it' if len(given) == 1 else 'them'}."
        )


def read_maps(sources: Sequence[Path], labels: Sequence[str], thresholds: Sequence[float]) -> list[ErfResult]:
    """The imported maps; a folder of several maps has one result for each.

    Raises:
        InvalidInputError: A map cannot be read, or labels and maps do not match.
    """
    from replk_probe.runtime.formatting import counted

    if labels and len(labels) != len(sources):
        raise InvalidInputError(
            f"--label was given {counted(len(labels), 'time')} and --from {counted(len(sources), 'time')}. The numbers "
            "must match. Give --label once for each --from in the same order, or omit it."
        )
    if not sources:
        return []
    from replk_probe.erf.imported import import_erf, maps_in

    found: list[ErfResult] = []
    for source, label in zip(sources, labels or (None,) * len(sources), strict=True):
        files = maps_in(source)
        if label is not None and len(files) > 1:
            raise InvalidInputError(
                f"--label {label!r} was given for {source}, which has {len(files)} maps. A label names one map. Give "
                "--from once for each file."
            )
        found += [import_erf(file, label, thresholds=thresholds) for file in files]
    return found


def _labels(models: Sequence[str], weights: Sequence[str]) -> list[str]:
    """The name of each model, followed by its weights where it is measured with several: as short as they differ."""
    labels = []
    for model, source in zip(models, weights, strict=True):
        others = {other for name, other in zip(models, weights, strict=True) if name == model}
        labels.append(f"{model}-{_short(source, others)}" if len(others) > 1 else model)
    return labels


def _short(source: str, others: set[str]) -> str:
    """The last parts of a path, as many as differ from those of the other paths."""
    parts = Path(source).parts
    for count in range(1, len(parts)):
        tail = parts[-count:]
        if sum(Path(other).parts[-count:] == tail for other in others) == 1:
            return "-".join(tail)
    return "-".join(parts).lstrip("/-")


def _size_name(size: Size) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return str(height) if height == width else f"{height}x{width}"
