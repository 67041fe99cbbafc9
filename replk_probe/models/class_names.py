"""Names of the classes of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn

from .records import weights_info

# Attributes in which networks store the names of their classes.
_ATTRIBUTES = ("class_names", "classes", "categories")


def class_names(model: nn.Module, classes: int) -> tuple[str, ...] | None:
    """The names of the classes of a network, by index, or None if they are not known.

    They are the list ``class_names``, ``classes`` or ``categories`` of the network, or ``config.id2label`` as in
    transformers. Without these, the number of classes identifies ImageNet and its supersets, unless the weights are
    random.

    Args:
        model: The classifier.
        classes: Number of its outputs.
    """
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(labels, Mapping):
        labels = [labels.get(index, labels.get(str(index))) for index in range(classes)]
    given: list[Any] = [*(getattr(model, name, None) for name in _ATTRIBUTES), labels]
    for names in given:
        if _are_names(names, classes):
            return tuple(names)
    subset = infer_imagenet_subset({"num_classes": classes})
    weights = weights_info(model)
    if subset is None or weights.is_random or weights.is_embedded:
        return None
    info = ImageNetInfo(subset)
    # The first of several synonyms.
    return tuple(info.index_to_description(index).partition(",")[0] for index in range(classes))


def imagenet_classes(classes: int) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
    """The WordNet id and the names of each class of ImageNet or the superset of it with this number of classes.

    Args:
        classes: Number of classes.

    Returns:
        A WordNet id such as ``"n01440764"`` and all synonyms by class index; None if no set has this number of classes.
    """
    subset = infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(
        (info.index_to_label_name(index), tuple(name.strip() for name in info.index_to_description(index).split(",")))
        for index in range(classes)
    )


def _are_names(names: Any, classes: int) -> bool:
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence) or len(names) != classes:
        return False
    return all(isinstance(name, str) and name for name in names)
