"""The classes between which a classifier decides, and those of the images among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.models.class_names import imagenet_classes
from replk_probe.runtime.formatting import counted
from replk_probe.shape_bias.decision_mapping import LabelMapping, category_probabilities, imagenet_mapping, margins
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.synthetic import SYNTHETIC_CATEGORIES

ALPHABETICAL = "outputs in alphabetical order"
_SHOWN = 3  # names of classes in an error


@dataclass(frozen=True)
class LabelSpace:
    """The classes between which a classifier decides.

    Attributes:
        name: Where they come from, such as ``"imagenet"`` or ``"16 categories"``.
        classes: Their names.
        targets: Index of the class by the name that the images have.
        mapping: Outputs of each class if several outputs belong to one; None if each output is a class.
    """

    name: str
    classes: tuple[str, ...]
    targets: dict[str, int]
    mapping: LabelMapping | None = None

    def decide(
        self, logits: npt.NDArray[np.float32], tolerance: float
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """The class with the highest output, or with the highest mean probability of its outputs.

        Among equals it is the first output, or the last category as in model-vs-human.

        Args:
            logits: ``[N, outputs]``.
            tolerance: Difference that is rounding, relative to the largest absolute output.

        Returns:
            Index of the class of each image, and whether rounding could change it.

        Raises:
            InvalidInputError: An output is not finite.
        """
        if not np.isfinite(logits).all():
            raise InvalidInputError(
                "The classifier gave outputs that are not finite. They do not define a decision. Check its weights "
                "and, if the precision is reduced, measure with precision 'fp32'."
            )
        bound = tolerance * np.abs(logits).max(axis=1)
        if self.mapping is None:
            highest = np.sort(logits, axis=1)[:, -2:]
            return logits.argmax(axis=1).astype(np.int32), highest[:, -1] - highest[:, 0] < bound
        shares = category_probabilities(logits, self.mapping)
        last = shares.shape[1] - 1 - shares[:, ::-1].argmax(axis=1)
        return last.astype(np.int32), margins(shares) < bound


def find_label_space(
    labels: Collection[str],
    outputs: int,
    names: Sequence[str] | None = None,
    *,
    mapping: LabelMapping | None = None,
    is_embedded: bool = False,
) -> LabelSpace:
    """The label space of a classifier and images, from the names of the classes of the images.

    Args:
        labels: Names of the classes of the images.
        outputs: Number of outputs of the classifier.
        names: Names of its outputs, if they are known.
        mapping: Outputs of each class, if they were given.
        is_embedded: Whether the classes are the synthetic ones, in the order of the small models of this package.

    Raises:
        InvalidInputError: A class of the images is none of the classifier's.
    """
    known = sorted({*labels})
    if mapping is not None:
        mapping.check_outputs(outputs)
        return _by_category(f"mapping {mapping.name}", known, mapping)
    if is_embedded:
        one_each = tuple((index,) for index in range(len(SYNTHETIC_CATEGORIES)))
        synthetic = LabelMapping("synthetic", SYNTHETIC_CATEGORIES, one_each, len(one_each))
        synthetic.check_outputs(outputs)
        return _by_category("synthetic", known, synthetic)
    if outputs == imagenet_mapping().n_outputs and {*known} <= {*CATEGORIES}:
        return _by_category("16 categories", known, imagenet_mapping())
    if names is not None:
        found = _matching(known, [(name,) for name in names])
        if found is not None:
            return LabelSpace("names of the outputs", tuple(names), found)
    imagenet = imagenet_classes(outputs)
    if imagenet is not None:
        found = _matching(known, [(wordnet_id, *synonyms) for wordnet_id, synonyms in imagenet])
        if found is not None:
            return LabelSpace("imagenet", tuple(synonyms[0] for _, synonyms in imagenet), found)
    if all(label.isascii() and label.isdecimal() and int(label) < outputs for label in known):
        return LabelSpace("indices", tuple(map(str, range(outputs))), {label: int(label) for label in known})
    if len(known) == outputs:
        return LabelSpace(ALPHABETICAL, tuple(known), {label: index for index, label in enumerate(known)})
    shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    ways = "" if imagenet is None else "WordNet ids, class names of ImageNet, the 16 categories of model-vs-human, "
    raise InvalidInputError(
        f"The {counted(len(known), 'folder')} of the images ({shown}) cannot be matched with the {outputs} outputs of "
        f"the model. Their names are not all {ways}names or indices of its classes, and their number is another one. "
        "Rename the folders, or give mapping, with the class indices of each folder."
    )


def _by_category(name: str, labels: Sequence[str], mapping: LabelMapping) -> LabelSpace:
    unknown = [label for label in labels if label not in mapping.categories]
    if unknown:
        raise InvalidInputError(
            f"The images have classes that the model does not know: {', '.join(unknown[:_SHOWN])}"
            f"{', ...' if len(unknown) > _SHOWN else ''}. Its classes are those of the label space {name} "
            f"({', '.join(mapping.categories[:_SHOWN])}, ...). Use images of these classes, another model, or another "
            "mapping."
        )
    return LabelSpace(name, mapping.categories, {label: mapping.categories.index(label) for label in labels}, mapping)


def _matching(labels: Sequence[str], names: Sequence[Sequence[str]]) -> dict[str, int] | None:
    """The index of the class of each label, given all names of each class; None if a label is none of them.

    Raises:
        InvalidInputError: Several classes have the name of a label.
    """
    indices: dict[str, list[int]] = {}
    for index, synonyms in enumerate(names):
        for name in dict.fromkeys(map(_normalized, synonyms)):
            indices.setdefault(name, []).append(index)
    found = {}
    for label in labels:
        members = indices.get(_normalized(label))
        if members is None:
            return None
        if len(members) > 1:
            raise InvalidInputError(
                f"The class {label!r} of the images is ambiguous. Classes {' and '.join(map(str, members))} of the "
                "model have this name. Rename its folder, for instance to a WordNet id or to the index of the class if "
                "all folders have indices."
            )
        found[label] = members[0]
    return found


def _normalized(name: str) -> str:
    """A name of a class as it is compared: folders often have underscores instead of spaces."""
    return name.replace("_", " ").strip().casefold()
