"""The decisions of one observer, a person or a network, on one set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.results import ByValue
from replk_probe.shape_bias.decisions import HUMAN_PREFIX, NO_ANSWER, check_observer
from replk_probe.shape_bias.stimuli.names import CATEGORIES

from .benchmark_sets import BENCHMARK_SETS, BenchmarkSet, choose_sets, image_id_of

_RESPONSES = frozenset({*CATEGORIES, NO_ANSWER})
# Between condition and image id in the key of a trial; neither contains it.
_SEPARATOR = "\n"


@dataclass(frozen=True, eq=False)
class Trials(ByValue):
    """The decisions of one observer on one set, one per image.

    Rows are sorted in the order of model-vs-human: by name, in a set without conditions first by category.

    Attributes:
        observer: Name of the observer; that of a person begins with ``subject-``.
        dataset: Name of the set.
        names: Base names of the images, ``[N]``.
        category: Correct category, ``[N]``; that of the shape for cue-conflict.
        condition: Level of the set, ``[N]``.
        response: Chosen category, ``[N]``; ``"na"`` for a trial without an answer.

    Examples:
        >>> from replk_probe.behaviour import Trials
        >>> names = ["0001_cop_dnn_c50_cat_10_n02123045_1.png", "0002_cop_dnn_c05_dog_10_n02085620_2.png"]
        >>> trials = Trials.from_names("network", "contrast", names, ["cat", "bear"])
        >>> trials.condition, trials.category, trials.correct.tolist()
        (('c50', 'c05'), ('cat', 'dog'), [True, False])
    """

    observer: str
    dataset: str
    names: tuple[str, ...]
    category: tuple[str, ...]
    condition: tuple[str, ...]
    response: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the columns and sort the rows."""
        check_observer(self.observer)
        choose_sets([self.dataset])
        columns = (self.names, self.category, self.condition, self.response)
        where = f"The trials of {self.observer!r} on {self.dataset} cannot be used."
        if len({len(column) for column in columns}) != 1 or not self.names:
            raise InvalidInputError(
                f"{where} Its columns have {', '.join(str(len(column)) for column in columns)} rows. Give columns of "
                "equal length with at least one row."
            )
        unknown = {*self.category} - {*CATEGORIES} or {*self.response} - _RESPONSES
        if unknown:
            raise InvalidInputError(
                f"{where} {min(map(str, unknown))!r} is not one of the 16 categories ({', '.join(CATEGORIES)}). "
                "Correct it."
            )
        wrong = {*self.condition} - {*self.benchmark_set.levels}
        if wrong:
            raise InvalidInputError(
                f"{where} {min(map(str, wrong))!r} is not a condition of the set. Its conditions are "
                f"{', '.join(self.benchmark_set.levels)}. Use BenchmarkSet.level to find the one that a text spells."
            )
        first = self.names if self.benchmark_set.has_conditions else self.category
        rows = sorted(zip(first, *columns, strict=True))
        for field, column in zip(
            ("names", "category", "condition", "response"), list(zip(*rows, strict=True))[1:], strict=True
        ):
            object.__setattr__(self, field, column)
        keys = self._sorted[0]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            image_id = str(keys[twice[0]]).partition(_SEPARATOR)[2]
            raise InvalidInputError(
                f"{where} There are two decisions on the image {image_id!r}. Observers are compared image by image, "
                "with one decision each. Remove one of them."
            )

    @classmethod
    def from_names(
        cls,
        observer: str,
        dataset: str,
        names: Sequence[str],
        response: Sequence[str],
        category: Sequence[str] | None = None,
    ) -> Trials:
        """Make trials from the names of images.

        Args:
            observer: Name of the observer.
            dataset: Name of the set.
            names: Base names of the images, ``[N]``, in any order.
            response: Chosen category, ``[N]``.
            category: Correct category, ``[N]``, of a set without conditions, whose names do not contain it.

        Returns:
            The trials, sorted.

        Raises:
            InvalidInputError: A name does not parse, or a category is unknown.
        """
        known = BENCHMARK_SETS[choose_sets([dataset])[0]]
        if known.has_conditions:
            parsed = [known.parse_name(name) for name in names]
            conditions, category = (tuple(column) for column in zip(*parsed, strict=True)) if parsed else ((), ())
        else:
            conditions = (known.levels[0],) * len(names)
        return cls(observer, dataset, tuple(names), tuple(category or ()), tuple(conditions), tuple(response))

    @property
    def benchmark_set(self) -> BenchmarkSet:
        """The set of the images."""
        return BENCHMARK_SETS[self.dataset]

    @property
    def is_human(self) -> bool:
        """Whether the observer is a person, by the naming rule of model-vs-human."""
        return self.observer.startswith(HUMAN_PREFIX)

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the response is the correct category, ``[N]``."""
        found: npt.NDArray[np.bool_] = np.array(self.response) == np.array(self.category)
        return found

    @property
    def keys(self) -> npt.NDArray[np.str_]:
        """Condition and image, by which trials of different observers are joined, in ascending order, ``[N]``."""
        return self._sorted[0]

    @property
    def correct_by_key(self) -> npt.NDArray[np.bool_]:
        """:attr:`correct` in the order of :attr:`keys`."""
        return self.correct[self.order]

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """Rows in the order of :attr:`keys`, ``[N]``."""
        return self._sorted[1]

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.intp]]:
        keys = np.array(
            [f"{one}{_SEPARATOR}{image_id_of(name)}" for one, name in zip(self.condition, self.names, strict=True)]
        )
        order = np.argsort(keys, kind="stable")
        return keys[order], order


def conditions_of(keys: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """The level in each of the :attr:`Trials.keys`."""
    found: npt.NDArray[np.str_] = np.char.partition(keys, _SEPARATOR)[..., 0]
    return found
