"""The classes of images among those of a classifier."""

from __future__ import annotations

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.models.class_names import imagenet_classes
from replk_probe.reliance.label_space import ALPHABETICAL, find_label_space
from replk_probe.shape_bias import LabelMapping
from replk_probe.shape_bias.decision_mapping import imagenet_mapping
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.synthetic import SYNTHETIC_CATEGORIES

PETS = LabelMapping("pets", ("cat", "dog"), ((1, 2), (0,)))


@pytest.mark.parametrize(
    ("labels", "outputs", "options", "name", "targets"),
    [
        (["n01440764", "n09472597"], 1000, {}, "imagenet", [0, 980]),
        (["tench", "Traffic_Light", "great_white_shark"], 1000, {}, "imagenet", [920, 2, 0]),
        (["tench", "n09472597"], 1000, {}, "imagenet", [980, 0]),
        (["oven", "cat"], 1000, {}, "16 categories", [CATEGORIES.index("cat"), CATEGORIES.index("oven")]),
        (["7", "0"], 1000, {}, "indices", [0, 7]),
        (["7", "0"], 8, {}, "indices", [0, 7]),
        (["b_b", "A"], 3, {"names": ("a", "B b", "c")}, "names of the outputs", [0, 1]),
        (["zebra", "ant", "cow"], 3, {}, ALPHABETICAL, [0, 1, 2]),
        (["dog", "cat"], 3, {"mapping": PETS}, "mapping pets", [0, 1]),
        (
            [*SYNTHETIC_CATEGORIES[3:5]], 16, {"is_embedded": True}, "synthetic",
            [sorted(SYNTHETIC_CATEGORIES).index(one) for one in sorted(SYNTHETIC_CATEGORIES[3:5])],
        ),
    ],
)  # fmt: skip
def test_label_spaces_by_the_names_of_classes(labels, outputs, options, name, targets) -> None:
    space = find_label_space(labels, outputs, **options)
    assert (space.name, [space.targets[label] for label in sorted({*labels})]) == (name, targets)


@pytest.mark.parametrize(
    ("labels", "outputs", "options", "says"),
    [
        (["crane", "tench"], 1000, {}, "The class 'crane' of the images is ambiguous. Classes 134 and 517"),
        (["tench", "thing"], 1000, {}, r"The 2 folders of the images \(tench, thing\) cannot be matched with the 1000"),
        (["a", "b"], 3, {}, "cannot be matched with the 3 outputs of the model. Their names are not all names"),
        (["9"], 3, {}, "cannot be matched"),
        (["cat", "cow"], 3, {"mapping": PETS}, "classes that the model does not know: cow"),
        (["cat"], 2, {"mapping": PETS}, "The classifier has 2 outputs. The mapping pets needs at least 3"),
        (["cat"], 16, {"is_embedded": True}, "classes that the model does not know: cat"),
    ],
)
def test_classes_that_do_not_match(labels, outputs, options, says) -> None:
    with pytest.raises(InvalidInputError, match=says):
        find_label_space(labels, outputs, **options)


def test_the_classes_of_imagenet() -> None:
    classes = imagenet_classes(1000)
    assert classes is not None and len(classes) == 1000
    assert classes[0] == ("n01440764", ("tench", "Tinca tinca"))
    assert [wordnet_id for wordnet_id, _ in classes] == sorted(wordnet_id for wordnet_id, _ in classes)
    assert imagenet_classes(999) is None


def test_decisions_are_the_highest_output_or_the_mean_of_a_category() -> None:
    outputs = np.array([[1, 3, 2], [2, 2, 0], [0, 1, 1]], np.float32)
    space = find_label_space(["0", "1"], 3)
    found, is_close = space.decide(outputs, 1e-4)
    # Of equal outputs the first one.
    assert found.tolist() == [1, 0, 1] and is_close.tolist() == [False, True, True]
    by_category, is_close = find_label_space(["cat"], 3, mapping=PETS).decide(outputs, 1e-4)
    shares = np.exp(outputs.astype(np.float64)) / np.exp(outputs.astype(np.float64)).sum(1, keepdims=True)
    cat, dog = shares[:, 1:].mean(1), shares[:, 0]
    assert by_category.tolist() == np.where(dog >= cat, 1, 0).tolist() and not is_close.any()
    with pytest.raises(InvalidInputError, match="outputs that are not finite"):
        space.decide(np.array([[1, np.nan, 0]], np.float32), 1e-4)


def test_the_categories_are_decided_as_for_the_shape_bias() -> None:
    from replk_probe.shape_bias.decision_mapping import category_probabilities, decide

    outputs = np.random.default_rng(0).normal(size=(50, 1000)).astype(np.float32)
    space = find_label_space(["cat", "dog"], 1000)
    expected = decide(category_probabilities(outputs, imagenet_mapping()), CATEGORIES)
    assert [space.classes[index] for index in space.decide(outputs, 1e-5)[0]] == [*expected]
