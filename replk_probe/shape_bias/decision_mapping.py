"""Mapping from the outputs of a classifier to categories, by the rule of the published experiments."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import whole
from replk_probe.runtime.paths import text_of, usable_path

from .stimuli.names import CATEGORIES, check_categories

# Indices of ImageNet-1k in the order of sorted WordNet ids, from the WordNet hierarchy; from the experiments of
# Geirhos et al., ICLR 2019, arXiv:1811.12231. The file has the format of a user's mapping file.
_IMAGENET_FILE = Path(__file__).with_name("imagenet_categories.json")
_IMAGENET_OUTPUTS = 1000

ONE_EACH = "one output per category"
BY_NAME = "class names"


@dataclass(frozen=True)
class LabelMapping:
    """The outputs of a classifier that belong to each category.

    Attributes:
        name: Name in the record: ``"imagenet-1k"``, ``"one output per category"``, ``"class names"`` or
            ``"file:NAME"``.
        categories: Category names in alphabetical order.
        indices: Indices of the outputs of each category, from 0, in the order of ``categories``; any integer type.
        n_outputs: Number of outputs of a matching classifier; None for any number that is large enough.

    Examples:
        >>> from replk_probe.shape_bias import LabelMapping
        >>> mapping = LabelMapping("cats and dogs", ("cat", "dog"), ((281, 282, 283), (151,)), n_outputs=1000)
        >>> mapping.check_outputs(1000)  # any other number is an error
    """

    name: str
    categories: tuple[str, ...]
    indices: tuple[tuple[int, ...], ...]
    n_outputs: int | None = None

    def __post_init__(self) -> None:
        """Sort the categories, and check that each output belongs to one category and each category has an output."""
        given = check_categories(self.categories)
        try:
            members = [tuple(map(_index, some)) for some in self.indices]
        except TypeError as error:
            raise InvalidInputError(
                f"The mapping {self.name} cannot be used. {str(error)[:1].upper()}{str(error)[1:]}. Give a sequence of "
                "class indices, counted from 0, for each category."
            ) from error
        if len(members) != len(given):
            raise InvalidInputError(
                f"The mapping {self.name} cannot be used. It has {len(given)} categories and {len(members)} sequences "
                "of class indices. Give one for each category."
            )
        pairs = sorted(zip(given, members, strict=True))
        counted = Counter(index for _, members in pairs for index in members)
        empty = next((category for category, members in pairs if not members), None)
        twice = next((index for index, times in counted.items() if times > 1), None)
        if empty is not None or twice is not None or min(counted) < 0:
            what = (
                f"Category {empty!r} has no class index"
                if empty is not None
                else f"Class index {twice} is given twice"
                if twice is not None
                else f"Class index {min(counted)} is below zero"
            )
            raise InvalidInputError(
                f"The mapping {self.name} cannot be used. {what}. Give each category at least one index of its own, "
                "counted from 0."
            )
        object.__setattr__(self, "categories", tuple(category for category, _ in pairs))
        object.__setattr__(self, "indices", tuple(members for _, members in pairs))

    def check_outputs(self, n_outputs: int) -> None:
        """Raise InvalidInputError if a classifier with ``n_outputs`` classes does not match."""
        highest = max(max(members) for members in self.indices)
        if n_outputs <= highest or self.n_outputs not in (None, n_outputs):
            needs = f"{self.n_outputs} outputs" if self.n_outputs else f"at least {highest + 1} outputs"
            raise InvalidInputError(
                f"The classifier has {n_outputs} outputs. The mapping {self.name} needs {needs}. "
                "Give the mapping of the classes that it was trained on."
            )


@cache
def imagenet_mapping(categories: tuple[str, ...] = CATEGORIES) -> LabelMapping:
    """The classes of ImageNet-1k that belong to some of the 16 categories; all have 207 classes together."""
    record = json.loads(_IMAGENET_FILE.read_text(encoding="utf-8"))
    return _mapping("imagenet-1k", {name: record[name] for name in categories}, _IMAGENET_OUTPUTS)


def load_mapping(path: str | Path) -> LabelMapping:
    """Read a mapping file: a JSON object from each category to the list of its class indices.

    Args:
        path: Path of the file, whose content is for instance ``{"cat": [281, 282], "dog": [151]}``.

    Returns:
        The mapping, named ``"file:NAME"``.

    Raises:
        InvalidInputError: The file cannot be read, or is not a mapping.

    Examples:
        >>> from pathlib import Path
        >>> from replk_probe.shape_bias import load_mapping
        >>> _ = Path("pets.json").write_text('{"cat": [281, 282], "dog": [151]}')
        >>> mapping = load_mapping("pets.json")
        >>> mapping.name, mapping.categories, mapping.indices
        ('file:pets.json', ('cat', 'dog'), ((281, 282), (151,)))
    """
    path = usable_path(path, "The mapping file")
    try:
        record = json.loads(text_of(path), object_pairs_hook=_distinct)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInputError(
            f"Cannot read the mapping {path}. {reason[:1].upper()}{reason[1:]}. Give a JSON file with an object from "
            "each category to a list of class indices."
        ) from error
    if not (isinstance(record, dict) and record and all(_are_indices(members) for members in record.values())):
        raise InvalidInputError(
            f"Cannot use the mapping {path}. It is not an object from categories to lists of class indices. "
            'Write it as {"cat": [281, 282], "dog": [151]}.'
        )
    return _mapping(f"file:{path.name}", record, None)


def as_mapping(mapping: LabelMapping | Mapping[str, Sequence[int]] | str | Path) -> LabelMapping:
    """Convert a mapping: a :class:`LabelMapping`, a dictionary from categories to class indices, or a file.

    Raises:
        InvalidInputError: It is something else, or cannot be used.
    """
    if isinstance(mapping, LabelMapping):
        return mapping
    if isinstance(mapping, Mapping):
        return _mapping("given", mapping, None)
    if isinstance(mapping, (str, Path)):
        return load_mapping(mapping)
    raise InvalidInputError(
        f"{mapping!r} is not a mapping. A mapping contains the class indices of each category. "
        'Give a dictionary such as {"cat": [281, 282], "dog": [151]}, or a JSON file of one.'
    )


def mapping_for(
    n_outputs: int,
    categories: Sequence[str] = CATEGORIES,
    mapping: LabelMapping | Mapping[str, Sequence[int]] | str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    default: LabelMapping | None = None,
) -> LabelMapping:
    """Choose the mapping for a classifier and a set of stimuli.

    Args:
        n_outputs: Number of classes of the classifier.
        categories: Categories of the stimuli.
        mapping: User's mapping, as in :func:`as_mapping`. Defaults to the ImageNet-1k mapping for 1000 outputs and
            categories that are all among the 16, and to one output per category, in alphabetical order, if there are
            as many outputs as categories.
        names: Names of the classes, if they are known. If every category is one of them, it is mapped to the classes
            with its name, unless there is a user's mapping.
        default: Mapping that the stimuli define, for classifiers of its number of outputs.

    Raises:
        InvalidInputError: No mapping matches.
    """
    known = tuple(sorted(categories))
    if mapping is not None:
        chosen = as_mapping(mapping)
        if chosen.categories != known:
            only = ", ".join(sorted(set(known) ^ set(chosen.categories)))
            raise InvalidInputError(
                f"The mapping {chosen.name} does not match the stimuli. Their categories differ; only one of them has "
                f"{only}. The mapping must have exactly the {len(known)} categories of the stimuli."
            )
        chosen.check_outputs(n_outputs)
        return chosen
    if names is not None and {*known} <= {*names}:
        members = tuple(tuple(index for index, name in enumerate(names) if name == one) for one in known)
        return LabelMapping(BY_NAME, known, members, n_outputs)
    if default is not None and default.n_outputs in (None, n_outputs):
        return default
    if n_outputs == len(known):
        return LabelMapping(ONE_EACH, known, tuple((index,) for index in range(n_outputs)), n_outputs)
    of_imagenet = {*known} <= {*CATEGORIES}
    if of_imagenet and n_outputs == _IMAGENET_OUTPUTS:
        return imagenet_mapping(known)
    ways = f"{len(known)} outputs, one per category" + (", or ImageNet's 1000" if of_imagenet else "")
    raise InvalidInputError(
        f"The classifier has {n_outputs} outputs. No mapping to the {len(known)} categories of the stimuli "
        f"({', '.join(known)}) is known for this number, only for {ways}. Give mapping, with the class "
        "indices of each category."
    )


def category_probabilities(logits: npt.NDArray[Any], mapping: LabelMapping) -> npt.NDArray[np.float32]:
    """Softmax over all outputs in float32, then the mean over the members of each category.

    The probabilities are averaged, not summed, since a sum would favor categories with many classes (109 dogs); they
    are not renormalized.

    Args:
        logits: ``[N, outputs]``, finite.
        mapping: Outputs of each category.

    Returns:
        ``[N, categories]`` in the order of ``mapping.categories``, in [0, 1]; a row does not sum to 1. Each row depends
        only on its own logits.

    Raises:
        InvalidInputError: ``mapping`` does not match, or a logit is not finite.

    Source:
        Geirhos et al., ICLR 2019, arXiv:1811.12231, and the toolbox model-vs-human.
    """
    values = np.asarray(logits, dtype=np.float32)
    mapping.check_outputs(values.shape[1])
    if not np.isfinite(values).all():
        raise InvalidInputError(
            "The classifier gave outputs that are not finite. They do not define a decision. Check its weights and, "
            "if the precision is reduced, measure with precision 'fp32'."
        )
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    # Sums in float64, since numpy's order of summing depends on how it lays out a batch.
    means = [softmax[:, list(members)].mean(axis=1, dtype=np.float64) for members in mapping.indices]
    return np.stack(means, axis=1).astype(np.float32)


def decide(probabilities: npt.NDArray[np.float32], categories: Sequence[str]) -> tuple[str, ...]:
    """Choose the category with the highest probability, ``[N, categories]`` with the categories in alphabetical order.

    Ties go to the alphabetically last, as in model-vs-human.
    """
    backwards = np.argmax(probabilities[:, ::-1], axis=1)
    return tuple(categories[len(categories) - 1 - index] for index in backwards.tolist())


def margins(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Difference of the two highest probabilities, as a fraction of the highest, ``[N]`` in [0, 1]."""
    highest = np.sort(probabilities.astype(np.float64), axis=1)[:, -2:]
    ahead: npt.NDArray[np.float64] = 1 - highest[:, 0] / np.maximum(highest[:, 1], np.finfo(np.float64).tiny)
    return ahead


def _index(value: Any) -> int:
    number = whole(value)
    if number is None:
        raise TypeError(f"{value!r} is not a class index")
    return number


def _mapping(name: str, record: Mapping[str, Sequence[int]], n_outputs: int | None) -> LabelMapping:
    return LabelMapping(name, tuple(record), tuple(record.values()), n_outputs)  # type: ignore[arg-type]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Convert the pairs of a JSON object and check that names are unique, since json keeps only the last duplicate."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"category {twice!r} is given twice")
    return dict(pairs)


def _are_indices(members: Any) -> bool:
    return isinstance(members, list) and all(type(index) is int for index in members)
