"""The 17 sets of images of the benchmark model-vs-human, and the rules of their names.

Source: Geirhos et al., Partial success in closing the gap between human and machine vision, NeurIPS 2021,
arXiv:2106.07411; https://github.com/bethgelab/model-vs-human.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from replk_probe.errors import InvalidInputError, close_hint
from replk_probe.shape_bias.stimuli.names import CATEGORIES

CUE_CONFLICT = "cue-conflict"
IMAGENET_TERMS = "ImageNet terms of access (research and education only)"
ONLY_CONDITION = "0"  # of a set without conditions
# Side of every image in pixels.
SIDE = 224

_GROUPS = ("all", "shape", "noise")
# Fields of the name of an image with a condition: 0001_cop_dnn_c30_knife_10_n03041632_7380.png
_CONDITION, _CATEGORY = 3, 4


@dataclass(frozen=True)
class BenchmarkSet:
    """One set of images that people and networks classify into 16 categories.

    Attributes:
        name: Name in the benchmark.
        title: Name in figures.
        license: License or terms of its images.
        n_images: Number of images, as many in each condition and category as in the others.
        n_people: Number of people whose decisions are published.
        levels: Conditions from the easiest to the hardest, in the spelling of the images.
        left_out: The levels that the benchmark leaves out: the one without a manipulation, and those on which people
            are right in less than 20 % of the trials.
        axis: Label of the axis of conditions in figures; empty for a set without conditions.
        labels: Labels of the levels, where they differ from their spelling.

    Examples:
        >>> from replk_probe.behaviour import BENCHMARK_SETS
        >>> BENCHMARK_SETS["contrast"].conditions
        ('c50', 'c30', 'c15', 'c10', 'c05')
        >>> BENCHMARK_SETS["uniform-noise"].level("0.1")  # conditions are compared as numbers
        '0.10'
    """

    name: str
    title: str
    license: str
    n_images: int
    n_people: int
    levels: tuple[str, ...] = (ONLY_CONDITION,)
    left_out: tuple[str, ...] = ()
    axis: str = ""
    labels: tuple[str, ...] = ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """The levels that count for the benchmark."""
        return tuple(level for level in self.levels if level not in self.left_out)

    @property
    def has_conditions(self) -> bool:
        """Whether its images have conditions, which are part of their names."""
        return len(self.levels) > 1

    @property
    def n_per_cell(self) -> int:
        """Number of images of each condition and category."""
        return self.n_images // len(self.levels) // len(CATEGORIES)

    def level(self, condition: str) -> str:
        """The level that a condition spells: levels are compared as numbers, or without regard to case.

        Args:
            condition: Condition in a file; ignored for a set without conditions.

        Returns:
            The level.

        Raises:
            InvalidInputError: The set has no such condition.
        """
        if not self.has_conditions:
            return ONLY_CONDITION
        key = _compared(condition)
        for level in self.levels:
            if _compared(level) == key:
                return level
        raise InvalidInputError(
            f"The set {self.name} has no condition {condition!r}. Its conditions are {', '.join(self.levels)}. Check "
            "that the file belongs to this set."
        )

    def label(self, level: str) -> str:
        """The label of a level in figures."""
        return self.labels[self.levels.index(level)] if self.labels else level

    def parse_name(self, name: str) -> tuple[str, str]:
        """Condition and category in the name of an image of a set with conditions.

        Args:
            name: Base name, such as ``0001_cop_dnn_c30_knife_10_n03041632_7380.png``.

        Returns:
            The level and the category.

        Raises:
            InvalidInputError: The name has another form, an unknown condition or an unknown category.
        """
        fields = self.fields_of(name)
        if fields is None:
            raise InvalidInputError(
                f"Cannot use image {name!r} of the set {self.name}. Its name does not contain condition and category, "
                f"as 0001_cop_dnn_c30_knife_10_n03041632_7380.png does. Fetch the set again, or remove the file."
            )
        return self.level(fields[0]), fields[1]

    @staticmethod
    def fields_of(name: str) -> tuple[str, str] | None:
        """Condition, in any spelling, and category in the name of an image; None if the name does not contain them.

        Args:
            name: Base name. In files of people, it contains them in every set; in those of networks, only in sets with
                conditions.
        """
        fields = name.split("_")
        if len(fields) <= _CATEGORY + 1 or fields[_CATEGORY] not in CATEGORIES:
            return None
        return fields[_CONDITION], fields[_CATEGORY]

    def csv_condition(self, name: str) -> str:
        """The condition that model-vs-human writes for an image of a network."""
        return name.split("_")[_CONDITION] if self.has_conditions else "NaN"


def image_id_of(name: str) -> str:
    """What is common to the names of one image in the files of different observers.

    The last two fields if the first of them is an id of ImageNet, else the last field, without the suffix.
    """
    fields = (name.rpartition(".")[0] or name).split("_")
    return "_".join(fields[-2:] if len(fields) > 1 and fields[-2].startswith("n0") else fields[-1:])


def choose_sets(names: str | Iterable[str]) -> tuple[str, ...]:
    """Names of sets, in the order of the benchmark.

    Args:
        names: ``"all"``; ``"shape"`` for the five sets without conditions; ``"noise"`` for the twelve sets of distorted
            images; names of sets, separated by commas; or a sequence of all these.

    Returns:
        The names, each once.

    Raises:
        InvalidInputError: A name is unknown, or there is none.

    Examples:
        >>> from replk_probe.behaviour import choose_sets
        >>> choose_sets("shape, rotation")
        ('cue-conflict', 'edge', 'silhouette', 'sketch', 'stylized', 'rotation')
    """
    given = [name for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
    chosen: set[str] = set()
    for name in (one.strip() if isinstance(one, str) else one for one in given):
        if name in _GROUPS:
            chosen.update(
                one.name for one in BENCHMARK_SETS.values() if name == "all" or one.has_conditions == (name == "noise")
            )
        elif name in BENCHMARK_SETS:
            chosen.add(name)
        else:
            known = [*_GROUPS, *BENCHMARK_SETS]
            hint = close_hint(name, known) if isinstance(name, str) else ""
            raise InvalidInputError(
                f"Unknown set {name!r}{hint}. The benchmark has 17 sets. Choose from {', '.join(known)}."
            )
    if not chosen:
        raise InvalidInputError("No sets were chosen. A measurement requires at least one. Give 'all' or a name.")
    return tuple(name for name in BENCHMARK_SETS if name in chosen)


def _compared(condition: str) -> str:
    """A condition as a number, if it is one, or without regard to case."""
    text = condition.strip()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text.casefold()


def _eidolon(name: str, title: str, middle: int, left_out: Sequence[int]) -> BenchmarkSet:
    reaches = [2**power for power in range(8)]
    return BenchmarkSet(
        name, title, IMAGENET_TERMS, 1280, 4, tuple(f"{reach}-{middle}-10" for reach in reaches),
        tuple(f"{reach}-{middle}-10" for reach in left_out), "reach of the eidolon", tuple(map(str, reaches)),
    )  # fmt: skip


_SETS = (
    BenchmarkSet(CUE_CONFLICT, "cue conflict", "CC-BY-4.0", 1280, 10),
    BenchmarkSet("edge", "edges", "CC-BY-4.0", 160, 10),
    BenchmarkSet("silhouette", "silhouettes", "CC-BY-4.0", 160, 10),
    BenchmarkSet("sketch", "sketches", "MIT", 800, 7),
    BenchmarkSet("stylized", "stylized", IMAGENET_TERMS, 800, 5),
    BenchmarkSet(
        "colour", "grayscale", IMAGENET_TERMS, 1280, 4, ("cr", "bw"), ("cr",), "colors", ("color", "gray"),
    ),
    BenchmarkSet(
        "contrast", "low contrast", IMAGENET_TERMS, 1280, 4,
        ("c100", "c50", "c30", "c15", "c10", "c05", "c03", "c01"), ("c100", "c03", "c01"),
        "contrast (%)", ("100", "50", "30", "15", "10", "5", "3", "1"),
    ),
    BenchmarkSet(
        "high-pass", "high-pass", IMAGENET_TERMS, 1280, 4,
        ("inf", "3.0", "1.5", "1.0", "0.7", "0.55", "0.45", "0.4"), ("inf", "0.55", "0.45", "0.4"),
        "standard deviation of the filter (px)", ("∞", "3", "1.5", "1", "0.7", "0.55", "0.45", "0.4"),
    ),
    BenchmarkSet(
        "low-pass", "low-pass", IMAGENET_TERMS, 1280, 4, ("0", "1", "3", "5", "7", "10", "15", "40"),
        ("0", "15", "40"), "standard deviation of the filter (px)",
    ),
    BenchmarkSet(
        "phase-scrambling", "phase noise", IMAGENET_TERMS, 1120, 4, ("0", "30", "60", "90", "120", "150", "180"),
        ("0", "150", "180"), "width of the phase noise (degrees)",
    ),
    BenchmarkSet(
        "power-equalisation", "power equalized", IMAGENET_TERMS, 1120, 4, ("0", "pow"), ("0",),
        "power spectrum", ("original", "equalized"),
    ),
    BenchmarkSet(
        "false-colour", "opponent colors", IMAGENET_TERMS, 1120, 4, ("true", "false"), ("true",),
        "colors", ("true", "opponent"),
    ),
    BenchmarkSet(
        "rotation", "rotated", IMAGENET_TERMS, 1280, 4, ("0", "90", "180", "270"), ("0",), "angle (degrees)",
    ),
    _eidolon("eidolonI", "eidolon I", 10, (1, 64, 128)),
    _eidolon("eidolonII", "eidolon II", 3, (1, 32, 64, 128)),
    _eidolon("eidolonIII", "eidolon III", 0, (1, 16, 32, 64, 128)),
    BenchmarkSet(
        "uniform-noise", "uniform noise", IMAGENET_TERMS, 1280, 4,
        ("0.00", "0.03", "0.05", "0.10", "0.20", "0.35", "0.60", "0.90"), ("0.00", "0.60", "0.90"),
        "width of the noise", ("0", "0.03", "0.05", "0.1", "0.2", "0.35", "0.6", "0.9"),
    ),
)  # fmt: skip

BENCHMARK_SETS = {one.name: one for one in _SETS}
"""The 17 sets of the benchmark by name, in its order: :class:`BenchmarkSet`."""
