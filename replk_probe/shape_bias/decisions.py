"""The decisions of one observer, a network or a human."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.escaping import printable

from .statistics import Choices, CueCounts, choices, count_cues
from .stimuli.names import CATEGORIES, image_id_of, is_text, parse_stimulus_name

NO_ANSWER = "na"
HUMAN_PREFIX = "subject-"
HUMANS = "humans"  # all human observers pooled


@dataclass(frozen=True)
class Decisions:
    """The decisions of one observer, one per stimulus.

    Rows are sorted in the order of an image folder (by shape category, then by name), so that two records of the same
    decisions are equal.

    Attributes:
        observer: Name of the observer.
        names: Base names of the stimuli, ``[N]``.
        shape: Category of each shape, ``[N]``.
        texture: Category of each texture, ``[N]``.
        response: Chosen category, ``[N]``; ``"na"`` for a trial without an answer.
        categories: Possible categories, in alphabetical order.

    Examples:
        >>> from replk_probe.shape_bias import Decisions
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> decisions = Decisions.from_names("network", names, ["cat", "dog", "cat", "truck"])
        >>> decisions.names[0], decisions.shape[0], decisions.texture[0], decisions.response[0]
        ('bear1-cat2.png', 'bear', 'cat', 'cat')
        >>> decisions.counts().n_shape, decisions.counts().n_texture
        (2, 1)
    """

    observer: str
    names: tuple[str, ...]
    shape: tuple[str, ...]
    texture: tuple[str, ...]
    response: tuple[str, ...]
    categories: tuple[str, ...] = CATEGORIES

    def __post_init__(self) -> None:
        """Check the columns and sort the rows."""
        check_observer(self.observer)
        columns = (self.shape, self.names, self.texture, self.response)
        if len({len(column) for column in columns}) != 1:
            raise InvalidInputError(
                f"The decisions of {self.observer!r} have columns of unequal length "
                f"({', '.join(str(len(column)) for column in columns)}). Each stimulus has one name, shape, texture "
                "and response. Give columns of equal length."
            )
        if not self.names:
            raise InvalidInputError(
                f"Observer {self.observer!r} has no decisions. A shape bias cannot be computed from none. "
                "Give at least one."
            )
        nameless = [name for name in self.names if not is_text(name)]
        if nameless:
            raise InvalidInputError(
                f"Observer {self.observer!r} has a decision on a stimulus named {nameless[0]!r}. A name must be "
                "text that can be encoded in UTF-8. Rename the stimulus."
            )
        known = set(self.categories)
        for column, also in ((self.shape, ()), (self.texture, ()), (self.response, (NO_ANSWER,))):
            allowed = known.union(also)
            unknown = [value for value in column if not isinstance(value, str) or value not in allowed]
            if unknown:
                raise InvalidInputError(
                    f"Observer {self.observer!r} has the category {unknown[0]!r}. It is not one of the "
                    f"{len(known)} categories ({', '.join(self.categories)}). Correct it, or give categories that "
                    "contain it; those of a model follow from its mapping."
                )
        shape, names, texture, response = zip(*sorted(zip(*columns, strict=True)), strict=True)
        for field, column in (("shape", shape), ("names", names), ("texture", texture), ("response", response)):
            object.__setattr__(self, field, column)
        ids = self.image_ids
        if len(set(ids)) < len(ids):
            twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
            raise InvalidInputError(
                f"Observer {self.observer!r} has two decisions on stimulus {twice!r}. Observers are compared stimulus "
                "by stimulus, with one decision each. Remove one of them."
            )

    @classmethod
    def from_names(
        cls, observer: str, names: Sequence[str], response: Sequence[str], categories: Sequence[str] = CATEGORIES
    ) -> Decisions:
        """Make decisions from the names of stimuli, which contain shape and texture.

        Args:
            observer: Name of the observer.
            names: Base names of the stimuli, ``[N]``, in any order.
            response: Chosen category, ``[N]``.
            categories: Possible categories.

        Returns:
            The decisions, sorted.

        Raises:
            InvalidInputError: A name does not parse, or a category is unknown.
        """
        stimuli = [parse_stimulus_name(name, categories) for name in names]
        return cls(
            observer,
            tuple(names),
            tuple(stimulus.shape for stimulus in stimuli),
            tuple(stimulus.texture for stimulus in stimuli),
            tuple(response),
            tuple(categories),
        )

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Names without the prefix in human and older files; decisions of different observers are paired by them."""
        return tuple(map(image_id_of, self.names))

    @property
    def is_human(self) -> bool:
        """Whether the observer is a human, by the naming rule of model-vs-human."""
        return self.observer.startswith(HUMAN_PREFIX)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the response is the category of the shape, ``[N]``, conflict or not."""
        return np.array([one == other for one, other in zip(self.shape, self.response, strict=True)], dtype=bool)

    def counts(self) -> CueCounts:
        """Count the decisions for each cue."""
        return count_cues(self.shape, self.texture, self.response, self.categories)

    def choices(self) -> Choices:
        """Shape, texture or other, ``[N]``; the correct answer to a stimulus without conflict counts as shape."""
        return choices(self.shape, self.texture, self.response)

    def renamed(self, observer: str) -> Decisions:
        """The same decisions under another name."""
        return replace(self, observer=observer)


def as_observer(name: str) -> str:
    """The name of a model in a record as that of an observer: printable, on one line."""
    return " ".join(printable(name).split())


def check_observer(name: Any) -> None:
    """Check the name of an observer.

    Raises:
        InvalidInputError: The name is not text, blank, contains unprintable characters, or is ``humans``.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidInputError(
            f"An observer cannot be called {name!r}. The name is printed in files and figures. Give a name of "
            "printable characters."
        )
    if name == HUMANS:
        raise InvalidInputError(
            f"An observer has the name {HUMANS!r}. This name is reserved for all humans pooled. Rename the observer."
        )
