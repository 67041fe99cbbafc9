"""The suppressions of cues: their names, the cue that each of them suppresses, and their strengths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replk_probe.errors import InvalidInputError, close_hint

SHAPE, TEXTURE, COLOR = "shape", "texture", "color"
CUES = (SHAPE, TEXTURE, COLOR)
"""Names of the three cues."""

PATCH_SHUFFLE, PATCH_ROTATION = "patch-shuffle", "patch-rotation"
BILATERAL, GAUSSIAN_BLUR, NON_LOCAL_MEANS = "bilateral", "gaussian-blur", "non-local-means"
GRAYSCALE, CHANNEL_SHUFFLE = "grayscale", "channel-shuffle"

# The side of an image in pixels for which lengths are given; they are scaled to the side of other images.
REFERENCE_SIDE = 224


@dataclass(frozen=True)
class Method:
    """A method that suppresses a cue.

    Attributes:
        name: Its name.
        title: Its name in figures.
        cue: The cue that it suppresses.
        strengths: The usual strengths, from weak to strong; empty if it has none.
        combined: The usual strength in a combination with others.
        lowest: The lowest possible strength.
        highest: The highest possible strength.
        axis: What the strength is, with its unit.
        label: The same as the label of an axis.
        is_integer: Whether the strength is an integer.
    """

    name: str
    title: str
    cue: str
    strengths: tuple[float, ...] = ()
    combined: float | None = None
    lowest: float = 0.0
    highest: float = math.inf
    axis: str = ""
    label: str = ""
    is_integer: bool = False


_PATCHES: dict[str, Any] = {"axis": "patches per side", "label": "Patches per side", "is_integer": True}
_LEVELS: dict[str, Any] = {"axis": "standard deviation in gray levels", "label": "SD, gray levels"}
_PIXELS: dict[str, Any] = {"axis": "standard deviation in px of an image with 224 px", "label": "SD, px of 224"}
_FILTER: dict[str, Any] = {"axis": "filter strength h in gray levels", "label": "h, gray levels"}
METHODS = {
    method.name: method
    for method in (
        Method(PATCH_SHUFFLE, "Patch shuffle", SHAPE, (2, 4, 8, 16), 4, 2, 64, **_PATCHES),
        Method(PATCH_ROTATION, "Patch rotation", SHAPE, (2, 4, 8, 16), 4, 2, 64, **_PATCHES),
        Method(BILATERAL, "Bilateral filter", TEXTURE, (25, 50, 100, 200), 100, 1, 1000, **_LEVELS),
        Method(GAUSSIAN_BLUR, "Gaussian blur", TEXTURE, (1, 2, 4, 8), 4, 0.1, 32, **_PIXELS),
        Method(NON_LOCAL_MEANS, "Non-local means", TEXTURE, (10, 20, 40), 20, 1, 100, **_FILTER),
        Method(GRAYSCALE, "Grayscale", COLOR),
        Method(CHANNEL_SHUFFLE, "Channel shuffle", COLOR),
    )
}


@dataclass(frozen=True)
class Step:
    """A method with a strength, which is None if the method has none."""

    method: str
    strength: float | None = None

    @property
    def cue(self) -> str:
        """The cue that is suppressed."""
        return METHODS[self.method].cue

    @property
    def text(self) -> str:
        """The method and its strength, such as ``"patch-shuffle:4"``."""
        if self.strength is None:
            return self.method
        # All digits, because results are found by this text.
        number = int(self.strength) if float(self.strength).is_integer() else float(self.strength)
        return f"{self.method}:{number!r}"


@dataclass(frozen=True)
class Suppression:
    """One method, or several that suppress different cues.

    Attributes:
        steps: The methods in the order in which they are applied: filters of the texture first, then color and shape,
            so that a filter does not mix the pixels of patches that were moved.

    Examples:
        >>> from replk_probe.reliance import parse_suppressions
        >>> [one.name for one in parse_suppressions("patch-shuffle:4+gaussian-blur:2,grayscale")]
        ['gaussian-blur:2+patch-shuffle:4', 'grayscale']
    """

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The methods and their strengths, such as ``"gaussian-blur:2+patch-shuffle:4"``."""
        return "+".join(step.text for step in self.steps)

    @property
    def method(self) -> str:
        """The methods without their strengths, such as ``"gaussian-blur+patch-shuffle"``."""
        return "+".join(step.method for step in self.steps)

    @property
    def cues(self) -> str:
        """The suppressed cues, such as ``"shape+texture"``, always in the order shape, texture, color."""
        return "+".join(cue for cue in CUES if any(step.cue == cue for step in self.steps))


_ORDER = (TEXTURE, COLOR, SHAPE)


def parse_suppressions(given: str | Sequence[str] | None = None) -> tuple[Suppression, ...]:
    """Suppressions from their names.

    Args:
        given: Names, or one text with names that are separated by commas. A name is that of a method, which stands for
            all its usual strengths, a method with a strength (``"gaussian-blur:4"``), or several methods of different
            cues (``"patch-shuffle:4+grayscale"``), whose strengths are the usual ones for combinations where they are
            not given. None for all methods at all strengths and all pairs of methods of different cues.

    Returns:
        The suppressions, each once.

    Raises:
        InvalidInputError: A method is unknown, a strength is out of range, or two methods suppress the same cue.

    Examples:
        >>> from replk_probe.reliance import parse_suppressions
        >>> [one.name for one in parse_suppressions(["gaussian-blur", "patch-shuffle+grayscale"])]
        ['gaussian-blur:1', 'gaussian-blur:2', 'gaussian-blur:4', 'gaussian-blur:8', 'grayscale+patch-shuffle:4']
        >>> len(parse_suppressions())
        37
    """
    if given is None:
        pairs = itertools.combinations(METHODS.values(), 2)
        given = [*METHODS, *(f"{one.name}+{other.name}" for one, other in pairs if one.cue != other.cue)]
    names: list[Any] = given.split(",") if isinstance(given, str) else list(given) if _is_list(given) else [given]
    found = [one for name in names for one in _parsed(name)]
    if not found:
        raise InvalidInputError(
            f"There are no suppressions. Without one, nothing is measured. Give at least one of {', '.join(METHODS)}."
        )
    return tuple(dict.fromkeys(found))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence)


def _parsed(name: Any) -> list[Suppression]:
    """The suppressions that a name stands for."""
    if not isinstance(name, str):
        raise InvalidInputError(
            f"Expected the name of a suppression, but got an object of type {type(name).__name__}. "
            f"Give names such as 'patch-shuffle:4' or 'grayscale'."
        )
    parts = [part.strip().partition(":") for part in name.split("+")]
    methods = [_method(method, name) for method, _, _ in parts]
    cues = [method.cue for method in methods]
    if len({*cues}) < len(cues):
        raise InvalidInputError(
            f"Cannot use the suppression {name!r}. Two of its methods suppress the same cue. Combine methods for "
            f"{', '.join(CUES)}."
        )
    choices: list[list[Step]] = []
    for method, (_, colon, text) in zip(methods, parts, strict=True):
        if colon:
            choices.append([Step(method.name, _strength(method, text))])
        elif len(parts) == 1 and method.strengths:
            choices.append([Step(method.name, strength) for strength in method.strengths])
        else:
            choices.append([Step(method.name, method.combined)])
    return [
        Suppression(tuple(sorted(steps, key=lambda step: _ORDER.index(step.cue))))
        for steps in itertools.product(*choices)
    ]


def _method(method: str, name: str) -> Method:
    if method not in METHODS:
        raise InvalidInputError(
            f"Unknown suppression {name!r}. There is no method {method!r}{close_hint(method, METHODS)}. "
            f"Choose from {', '.join(METHODS)}."
        )
    return METHODS[method]


def _strength(method: Method, text: str) -> float:
    """A strength from its text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not method.strengths:
        raise InvalidInputError(
            f"The suppression {method.name!r} has no strength, but {text!r} was given. It is applied or not. Give only "
            "its name."
        )
    if not method.lowest <= value <= method.highest or (method.is_integer and value != int(value)):
        kind = "an integer" if method.is_integer else "a number"
        raise InvalidInputError(
            f"The suppression {method.name!r} cannot have the strength {text!r} ({method.axis}). It is {kind} from "
            f"{method.lowest:g} to {method.highest:g}. Use for instance {method.name}:{method.combined:g}."
        )
    return int(value) if method.is_integer else value
