"""What a stimulus shows, read from its file name: the category of its shape and that of its texture.

Source: Geirhos et al., ICLR 2019, arXiv:1811.12231; the names are those of the published cue-conflict stimuli.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.errors import InvalidInputError

CATEGORIES = (
    "airplane",
    "bear",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "car",
    "cat",
    "chair",
    "clock",
    "dog",
    "elephant",
    "keyboard",
    "knife",
    "oven",
    "truck",
)

_DIGITS = str.maketrans("", "", "0123456789")
# These separate the parts of a file name, so no category can contain them.
_SEPARATORS = frozenset("0123456789-_./\\")


@dataclass(frozen=True)
class Stimulus:
    """One stimulus.

    Attributes:
        name: Base name of its file, as found, such as ``airplane1-bicycle2.png``.
        shape: Category of its shape.
        texture: Category of its texture.
    """

    name: str
    shape: str
    texture: str

    @property
    def is_conflict(self) -> bool:
        """Whether the cues disagree; the shape bias counts these alone."""
        return self.shape != self.texture

    @property
    def image_id(self) -> str:
        """The name without the prefix of human and older files, by which observers are paired."""
        return image_id_of(self.name)


class StimulusNameError(InvalidInputError):
    """A name that does not tell what the stimulus shows.

    Attributes:
        reason: Why, in a sentence.
    """

    def __init__(self, name: object, reason: str, advice: str) -> None:  # noqa: D107
        super().__init__(f"Cannot use stimulus {name!r}. {reason} {advice}")
        self.reason = reason


def image_id_of(name: str) -> str:
    """``0001_s5n_s01_0_bird_00_bird3-bird2.png`` -> ``bird3-bird2.png``; a name without a prefix is its own id."""
    return name.rpartition("_")[2]


def parse_stimulus_name(name: str, categories: Sequence[str] = CATEGORIES) -> Stimulus:
    """Read shape and texture from a name such as ``airplane1-bicycle2.png``.

    As the toolbox reads it: after the last ``_`` and up to the first dot, the texture is what follows the last dash and
    the shape what precedes it. Digits are left out wherever they stand, and there need not be any.

    Args:
        name: Base name of the file. A prefix that ends in ``_``, as in human and older files, is passed over.
        categories: What shapes and textures there are.

    Returns:
        The stimulus, under the name as given.

    Raises:
        StimulusNameError: No shape or no texture is left, a category is unknown, or the name is not UTF-8.
    """
    if not is_text(name):
        raise StimulusNameError(
            name, "A name is text that UTF-8 can write.", "Rename it, or take it out of the folder."
        )
    stem = image_id_of(name).partition(".")[0]
    before, dash, after = stem.rpartition("-")
    shape, texture = before.translate(_DIGITS), after.translate(_DIGITS)
    if not (dash and shape and texture):
        raise StimulusNameError(
            name,
            "Its name does not tell shape and texture, as airplane1-bicycle2.png does.",
            "Rename it, or take it out of the folder.",
        )
    for cue, category in (("shape", shape), ("texture", texture)):
        if category not in categories:
            raise StimulusNameError(
                name,
                f"Its {cue} {category!r} is none of the {len(categories)} categories ({', '.join(categories)}).",
                "Take it out of the folder, or name your own categories with --mapping.",
            )
    return Stimulus(name, shape, texture)


def is_text(name: object) -> bool:
    """Whether it is a text that can be written; names of files that are not UTF-8 become texts that cannot."""
    return isinstance(name, str) and name.encode("utf-8", "ignore").decode("utf-8") == name


def check_categories(categories: Sequence[str]) -> tuple[str, ...]:
    """Categories that file names can carry, in the order given.

    Raises:
        InvalidInputError: Fewer than two, one twice, or a name that is empty or holds a digit or one of ``-_./``.
    """
    names = tuple(categories)
    if len(names) < 2:
        raise InvalidInputError(
            f"Cannot tell {len(names)} categories apart. A decision is one category of several. Give at least two."
        )
    for name in names:
        if not isinstance(name, str) or not name or _SEPARATORS & set(name):
            raise InvalidInputError(
                f"Cannot use category {name!r}. Digits, dashes, underscores, dots and slashes separate the parts of a "
                "stimulus's name. Give it a name without them."
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidInputError(
            f"Category {repeated[0]!r} is given twice. Each needs a name of its own. Remove one of them."
        )
    return names
