"""What one observer, a network or a person, answered for each stimulus. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError

from .statistics import Choices, CueCounts, choices, count_cues
from .stimuli.names import CATEGORIES, image_id_of, is_text, parse_stimulus_name

NO_ANSWER = "na"
HUMAN_PREFIX = "subject-"
HUMANS = "humans"  # all people together


@dataclass(frozen=True)
class Decisions:
    """The decisions of one observer, one per stimulus.

    Rows are put in the order of an image folder (shape categories sorted, then names as strings), so that two records
    of the same decisions are equal whatever the order they were given in.

    Attributes:
        observer: Its name.
        names: Base names of the stimuli as their source has them, ``[N]``.
        shape: Category of each shape, ``[N]``.
        texture: Category of each texture, ``[N]``.
        response: Category decided for, ``[N]``; ``"na"`` for a trial without an answer.
        categories: What shapes, textures and responses there are, alphabetical.
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
                "and response. Give as many of each."
            )
        if not self.names:
            raise InvalidInputError(f"Observer {self.observer!r} has no decisions. A shape bias is a ratio. Give some.")
        nameless = [name for name in self.names if not is_text(name)]
        if nameless:
            raise InvalidInputError(
                f"Observer {self.observer!r} decided on a stimulus of the name {nameless[0]!r}. A name is text that "
                "UTF-8 can write. Rename it."
            )
        known = set(self.categories)
        for column, also in ((self.shape, ()), (self.texture, ()), (self.response, (NO_ANSWER,))):
            allowed = known.union(also)
            unknown = [value for value in column if not isinstance(value, str) or value not in allowed]
            if unknown:
                raise InvalidInputError(
                    f"Observer {self.observer!r} has the category {unknown[0]!r}. It is none of the {len(known)} "
                    f"({', '.join(self.categories)}). Correct it, or name your own categories with --mapping."
                )
        shape, names, texture, response = zip(*sorted(zip(*columns, strict=True)), strict=True)
        for field, column in (("shape", shape), ("names", names), ("texture", texture), ("response", response)):
            object.__setattr__(self, field, column)
        ids = self.image_ids
        if len(set(ids)) < len(ids):
            twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
            raise InvalidInputError(
                f"Observer {self.observer!r} decided twice on stimulus {twice!r}. Observers are compared stimulus by "
                "stimulus, which takes one decision each. Remove one of them."
            )

    @classmethod
    def from_names(
        cls, observer: str, names: Sequence[str], response: Sequence[str], categories: Sequence[str] = CATEGORIES
    ) -> Decisions:
        """Decisions on stimuli whose names say what they show.

        Args:
            observer: Its name.
            names: Base names of the stimuli, ``[N]``, in any order.
            response: Category decided for, ``[N]``.
            categories: What categories there are.

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
        """Names without the prefix of human and older files: by these, observers are paired."""
        return tuple(map(image_id_of, self.names))

    @property
    def is_human(self) -> bool:
        """Whether the observer is a person, by the toolbox's rule for names."""
        return self.observer.startswith(HUMAN_PREFIX)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the response is the category of the shape, ``[N]``, conflict or not."""
        return np.array([one == other for one, other in zip(self.shape, self.response, strict=True)], dtype=bool)

    def counts(self) -> CueCounts:
        """Which cue was followed how often."""
        return count_cues(self.shape, self.texture, self.response, self.categories)

    def choices(self) -> Choices:
        """Shape, texture or other, ``[N]``; where both cues agree, the right answer is shape."""
        return choices(self.shape, self.texture, self.response)

    def renamed(self, observer: str) -> Decisions:
        """The same decisions under another name."""
        return replace(self, observer=observer)


def check_observer(name: Any) -> None:
    """What an observer can be called, a person or not.

    Raises:
        InvalidInputError: No text, nothing to see in it, characters that are not printed, or ``humans``.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidInputError(
            f"An observer cannot be called {name!r}. Files and figures tell observers apart by their names, which are "
            "printed. Give it a name of letters and digits."
        )
    if name == HUMANS:
        raise InvalidInputError(
            f"An observer has the name {HUMANS!r}. That is what all people together are called. Rename it."
        )
