"""Shape and texture categories of a stimulus, parsed from its file name.

Source: Geirhos et al., ICLR 2019, arXiv:1811.12231; the names are those of the published cue-conflict stimuli.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.errors import InvalidInputError

CATEGORIES = tuple(
    "airplane bear bicycle bird boat bottle car cat chair clock dog elephant keyboard knife oven truck".split()
)
"""Names of the 16 categories of the published cue-conflict stimuli, in alphabetical order."""

_DIGITS = str.maketrans("", "", "0123456789")
# These separate the parts of a file name, so no category can contain them.
_SEPARATORS = frozenset("0123456789-_./\\")


@dataclass(frozen=True)
class Stimulus:
    """One stimulus.

    Attributes:
        name: Base name of the file, such as ``airplane1-bicycle2.png``.
        shape: Category of its shape.
        texture: Category of its texture.

    Examples:
        >>> from replk_probe.shape_bias import Stimulus
        >>> Stimulus("cat1-dog1.png", "cat", "dog").is_conflict
        True
        >>> Stimulus("cat1-cat2.png", "cat", "cat").is_conflict
        False
    """

    name: str
    shape: str
    texture: str

    @property
    def is_conflict(self) -> bool:
        """Whether the cues conflict; only such stimuli count for the shape bias."""
        return self.shape != self.texture

    @property
    def image_id(self) -> str:
        """The name without the prefix in human and older files; decisions are paired by it."""
        return image_id_of(self.name)


class StimulusNameError(InvalidInputError):
    """A name that does not contain a valid shape and texture.

    Attributes:
        reason: The reason, as a sentence.
    """

    def __init__(self, name: object, reason: str, advice: str) -> None:  # noqa: D107
        super().__init__(f"Cannot use stimulus {name!r}. {reason} {advice}")
        self.reason = reason


def image_id_of(name: str) -> str:
    """``0001_s5n_s01_0_bird_00_bird3-bird2.png`` -> ``bird3-bird2.png``; a name without a prefix is its own id."""
    return name.rpartition("_")[2]


def parse_stimulus_name(name: str, categories: Sequence[str] = CATEGORIES) -> Stimulus:
    """Parse shape and texture from a name such as ``airplane1-bicycle2.png``.

    As in model-vs-human: after the last ``_`` and up to the first dot, the texture is what follows the last dash and
    the shape what precedes it. All digits are removed; none are required.

    Args:
        name: Base name of the file. A prefix that ends in ``_``, as in human and older files, is ignored.
        categories: Possible categories.

    Returns:
        The stimulus, with the unchanged name.

    Raises:
        StimulusNameError: No shape or no texture is left, a category is unknown, or the name is not UTF-8.

    Examples:
        >>> from replk_probe.shape_bias import parse_stimulus_name
        >>> parse_stimulus_name("airplane1-bicycle2.png")
        Stimulus(name='airplane1-bicycle2.png', shape='airplane', texture='bicycle')
    """
    if not is_text(name):
        raise StimulusNameError(
            name, "A name must be text that can be encoded in UTF-8.", "Rename it, or remove it from the folder."
        )
    stem = image_id_of(name).partition(".")[0]
    before, dash, after = stem.rpartition("-")
    shape, texture = before.translate(_DIGITS), after.translate(_DIGITS)
    if not (dash and shape and texture):
        raise StimulusNameError(
            name,
            "Its name does not contain shape and texture, as airplane1-bicycle2.png does.",
            "Rename it, or remove it from the folder.",
        )
    for cue, category in (("shape", shape), ("texture", texture)):
        if category not in categories:
            raise StimulusNameError(
                name,
                f"Its {cue} {category!r} is not one of the {len(categories)} categories ({', '.join(categories)}).",
                "Remove it from the folder, or give mapping, with the class indices of each category.",
            )
    return Stimulus(name, shape, texture)


def is_text(name: object) -> bool:
    """Whether the name is text that can be encoded in UTF-8, which file names with other bytes cannot."""
    return isinstance(name, str) and name.encode("utf-8", "ignore").decode("utf-8") == name


def check_categories(categories: Sequence[str]) -> tuple[str, ...]:
    """Check that categories can be parsed from file names, and return them in the given order.

    Raises:
        InvalidInputError: There are fewer than two, one is given twice, or a name is empty or contains a digit or one
            of ``-_./``.
    """
    names = tuple(categories)
    if len(names) < 2:
        raise InvalidInputError(
            f"Expected at least two categories, got {len(names)}. A decision is a choice among several. Give more."
        )
    for name in names:
        if not isinstance(name, str) or not name or _SEPARATORS & set(name):
            raise InvalidInputError(
                f"Cannot use category {name!r}. Digits, dashes, underscores, dots and slashes separate the parts of a "
                "stimulus's name. Give a name without these characters."
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidInputError(
            f"Category {repeated[0]!r} is given twice. Category names must be unique. Remove one of them."
        )
    return names
