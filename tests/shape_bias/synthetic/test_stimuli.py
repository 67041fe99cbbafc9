"""The synthetic set: the properties of its design, and each cue predicted by a simple classifier."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias import CATEGORIES, open_stimuli, parse_stimulus_name
from replk_probe.shape_bias.stimuli.names import check_categories
from replk_probe.shape_bias.synthetic import (
    CUES,
    SYNTHETIC_CATEGORIES,
    random_numbers,
    scenes,
    silhouettes,
    synthetic_images,
    synthetic_stimuli,
    synthetic_training,
    textures,
)
from replk_probe.shape_bias.synthetic.draw import coverage, draw
from replk_probe.shape_bias.synthetic.fields import FULL, SIDE, SOFTNESS, box_sum, soften

Floats = npt.NDArray[np.float64]
CLASSES = np.arange(16)


def digest(*arrays: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


# -- names and contents -----------------------------------------------------------------------------------------------


def test_names_are_those_of_a_cue_conflict_set():
    stimuli = synthetic_stimuli(size=64)
    assert stimuli.source == "synthetic" and stimuli.size == (64, 64) and stimuli.notes
    assert stimuli.categories == SYNTHETIC_CATEGORIES == tuple(sorted(SYNTHETIC_CATEGORIES))
    assert check_categories(stimuli.categories) and not set(stimuli.categories) & set(CATEGORIES)
    names = [stimulus.name for stimulus in stimuli.stimuli]
    assert len(set(names)) == len(stimuli) == 1280
    # ImageFolder's order: folders sorted, then names as strings.
    assert names == [name for _, name in sorted((stimulus.shape, stimulus.name) for stimulus in stimuli.stimuli)]
    for stimulus in stimuli.stimuli:
        assert parse_stimulus_name(stimulus.name, SYNTHETIC_CATEGORIES) == stimulus
    pairs = Counter((stimulus.shape, stimulus.texture) for stimulus in stimuli.stimuli)
    assert len(pairs) == 256 and set(pairs.values()) == {5}
    assert sum(stimulus.is_conflict for stimulus in stimuli.stimuli) == 1200


def test_every_class_has_a_shape_and_a_texture_of_its_own():
    assert tuple(CUES) == SYNTHETIC_CATEGORIES
    assert len({shape for shape, _ in CUES.values()}) == len({texture for _, texture in CUES.values()}) == 16
    # Named by the shape, so that tables by category of the shape can be read aloud.
    assert all(name == shape for name, (shape, _) in CUES.items())
    assert CUES["crescent"] == ("crescent", "checks")


def test_the_bytes_never_change():
    images, labels = synthetic_training(32, first=16)
    assert images.shape == (32, 64, 64, 3) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.tolist() == [*range(16), *range(16)]
    assert digest(images) == "42e5f2076e75c929"
    stimuli = synthetic_stimuli()
    assert digest(*(np.asarray(stimuli.load(index)) for index in (0, 700, 1279))) == "a49f44e092994879"


def test_stimuli_are_drawn_where_they_are_loaded():
    stimuli = open_stimuli("synthetic", size=64, seed=3)
    image = pickle.loads(pickle.dumps(stimuli)).load(1279)
    assert image.mode == "RGB" and image.size == (64, 64)
    assert np.array_equal(image, stimuli.load(1279))
    assert np.array_equal(image, draw(scenes.crossed_scenes(3)[0], 64)[1279])
    with pytest.raises(IndexError):
        stimuli.load(1280)


def test_the_digest_differs_between_sets():
    same = synthetic_stimuli(64)
    assert same.digest == synthetic_stimuli(np.int64(64), np.int64(0)).digest
    assert len({same.digest, synthetic_stimuli(224).digest, synthetic_stimuli(64, seed=1).digest}) == 3


def test_a_training_image_depends_on_its_number_alone():
    whole, labels = synthetic_training(40, seed=5)
    pieces = [synthetic_training(n, seed=5, first=first) for n, first in ((7, 0), (0, 7), (33, 7))]
    assert np.array_equal(whole, np.concatenate([images for images, _ in pieces]))
    assert np.array_equal(labels, np.concatenate([piece for _, piece in pieces]))
    assert np.array_equal(whole, synthetic_images(labels, labels, seed=5))
    other = synthetic_training(40, seed=6)[0]
    assert not (whole.reshape(40, -1) == other.reshape(40, -1)).all(axis=1).any()
    assert len({image.tobytes() for image in synthetic_training(512, size=16)[0]}) == 512


def test_the_shape_belongs_to_the_label_with_the_given_probability():
    n, seed = 4800, 3
    labels = np.arange(n) % 16
    for validity in (0.75, 0.9):
        shape = scenes.shapes_given(labels, validity, seed, 0)
        wrong = shape != labels
        assert 1 - wrong.mean() == pytest.approx(validity, abs=4 * np.sqrt(validity * (1 - validity) / n))
        others = Counter((shape[wrong] - labels[wrong]) % 16)  # the other shapes are equally frequent
        assert sorted(others) == [*range(1, 16)]
        assert max(others.values()) < wrong.sum() / 15 + 5 * np.sqrt(wrong.sum() / 15)
        images, given = synthetic_training(16, seed=seed, first=32, shape_validity=validity)
        assert np.array_equal(given, CLASSES)
        assert np.array_equal(images, synthetic_images(shape[32:48], CLASSES, seed=seed, first=32))
    assert not (scenes.shapes_given(labels, 0.0, seed, 0) == labels).any()
    assert np.array_equal(scenes.shapes_given(labels, 1.0, seed, 0), labels)
    # Where a higher probability gives another shape, a lower one gives the same.
    low, high = (scenes.shapes_given(labels, validity, seed, 0) for validity in (0.75, 0.9))
    assert np.array_equal(low[high != labels], high[high != labels])


def test_each_cue_can_be_varied_separately():
    drawn = [synthetic_images([3], [texture], size=64)[0] for texture in (3, 4)]
    assert not np.array_equal(*drawn)
    figure = coverage(scenes.random_scenes(np.array([3]), np.array([3]), 0, 0), 64)[0].reshape(64, 64)
    assert np.array_equal(drawn[0][figure == 0], drawn[1][figure == 0])


@pytest.mark.parametrize("size", [15, 2049, 64.0, True, None])
def test_sizes_that_cannot_be_drawn_are_refused(size):
    for make in (
        synthetic_stimuli,
        lambda size: synthetic_training(1, size),
        lambda size: synthetic_images([0], [0], size),
    ):
        with pytest.raises(InvalidInputError, match=r"Cannot draw .* from 16 to 2048\. Give another size\."):
            make(size)


def test_other_arguments_that_cannot_be_used_are_refused():
    for wrong in (-1, 0.5, False, 1 << 63):
        with pytest.raises(InvalidInputError, match=r"seed=.* must be a non-negative integer"):
            synthetic_stimuli(seed=wrong)
        with pytest.raises(InvalidInputError, match=r"first=.* must be a non-negative integer"):
            synthetic_training(1, first=wrong)
        with pytest.raises(InvalidInputError, match=r"n=.* must be a non-negative integer"):
            synthetic_training(wrong)
    for shape, texture in (([0, 1], [0]), ([16], [0]), ([0], [-1]), ([[0]], [[0]]), ([0.5], [0]), (0, 0)):
        with pytest.raises(InvalidInputError, match=r"from 0 to 15"):
            synthetic_images(shape, texture)
    for wrong in (-0.1, 1.5, float("nan"), True, "1"):
        with pytest.raises(InvalidInputError, match=r"shape_validity=.* must be a number from 0 to 1"):
            synthetic_training(1, shape_validity=wrong)
    assert synthetic_training(0)[0].shape == (0, 64, 64, 3)


# -- the design -------------------------------------------------------------------------------------------------------


def test_silhouettes_patches_and_palettes_are_crossed_with_the_other_cue():
    made, patch = scenes.crossed_scenes(0)
    pose = np.arange(1280) // 16 % 5
    for shape in CLASSES:
        for number in range(5):
            rows = (made.shape == shape) & (pose == number)
            assert sorted(made.texture[rows]) == [*CLASSES] and len(np.unique(made.pose[rows], axis=0)) == 1
    for texture in CLASSES:
        for number in range(5):
            rows = (made.texture == texture) & (patch == number)
            assert sorted(made.shape[rows]) == [*CLASSES] and len(np.unique(made.patch[rows], axis=0)) == 1
    colors = made.colors.reshape(1280, 9)
    assert len(np.unique(colors, axis=0)) == 80
    for cue in (made.shape, made.texture):
        for index in CLASSES:
            assert len(np.unique(colors[cue == index], axis=0)) == 80


def test_poses_and_patches_of_a_class_are_spread_over_their_ranges():
    made, _ = scenes.crossed_scenes(0)
    for cue, values, (low, high) in (
        (made.shape, made.pose[:, 0], scenes.RADII),
        (made.texture, made.patch[:, 0] / textures.coarseness()[made.texture], scenes.WAVELENGTHS),
    ):
        for index in CLASSES:
            parts = np.floor(5 * (np.unique(values[cue == index]) - low) / (high - low))
            assert parts.tolist() == [0, 1, 2, 3, 4]


def test_textures_have_four_scales():
    assert Counter(textures.coarseness().tolist()) == {1.0: 4, 1.34: 4, 1.8: 4, 2.4: 4}
    # They do not overlap, and the coarsest texture has two periods in the smallest figure.
    low, high = scenes.WAVELENGTHS
    assert high < 1.34 * low
    assert 2 * 2.4 * high < 2 * scenes.RADII[0]


def test_angles_are_spread_over_forty_degrees():
    cosine, sine = scenes._directions((np.arange(4000) + 0.5) / 4000)
    assert np.hypot(cosine, sine) == pytest.approx(1, abs=1e-15)
    angles = np.degrees(np.arctan2(sine, cosine))
    assert (angles[0], angles[-1]) == pytest.approx((-20, 20), abs=0.02)
    # The tangent of half the angle is uniform, so that steps vary by a factor of 1 + tan(10 degrees)**2.
    steps = np.diff(angles) * 4000 / 40
    assert steps.min() > 0.97 and steps.max() < 1.02


def test_colors_have_equal_contrast_and_are_uninformative():
    palettes = scenes.palettes()
    assert len(palettes) > 10_000
    ink, ground, background = np.moveaxis(palettes, 1, 0)
    middle = (ink + ground) / 2
    low, high = scenes.CONTRASTS
    # The background is at about equal distances from ink and ground, after it was moved toward their mean by a fifth:
    # an equilateral triangle of this side has a height of 0.866 sides.
    distance = np.sqrt(((ink - ground) ** 2).sum(axis=1))
    assert distance.min() >= low and distance.max() <= high
    for color in (ink, ground):
        distance = np.sqrt(((color - background) ** 2).sum(axis=1))
        assert 0.7 * low < distance.min() and distance.max() < high
    height = np.sqrt(((background - middle) ** 2).sum(axis=1))
    assert height.mean() == pytest.approx(0.8 * 0.866 * (low + high) / 2, rel=0.05)
    brightness = palettes[:, :2] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.diff(brightness)).min() > scenes.LEAST_STEP - 1
    assert {*map(bytes, palettes[:, [1, 0, 2]])} == {*map(bytes, palettes)}
    assert palettes.min() >= 0 and palettes.max() <= 255


def test_shapes_have_one_area_one_center_and_a_bounded_reach():
    for shape in silhouettes.OUTLINES:
        rows, columns = np.nonzero(silhouettes.silhouette(shape))
        assert len(rows) == pytest.approx(np.pi * silhouettes.RADIUS**2, rel=0.01)
        off = np.stack([rows, columns]) - (SIDE - 1) / 2
        assert np.abs(off.mean(axis=1)).max() < 1
        assert np.hypot(*off).max() < silhouettes.REACH * silhouettes.RADIUS


def test_every_shape_stays_in_the_frame_wherever_it_may_be():
    extremes = np.stack(np.meshgrid([0, 1 - 2.0**-53], [0, 1 - 2.0**-53], [0, 1 - 2.0**-53], np.arange(8) / 8), axis=-1)
    poses = scenes._poses(extremes.reshape(-1, 4))
    n = len(poses)
    patch = scenes._patches(np.zeros((n, 4)), np.zeros(n, int))
    for shape in CLASSES:
        made = scenes.Scenes(
            np.full(n, shape), np.zeros(n, int), poses, patch, np.zeros((n, 3, 3), int), np.zeros(n, np.uint64)
        )
        figure = coverage(made, 64)[0].reshape(n, 64, 64)
        assert not figure[:, (0, -1)].any() and not figure[:, :, (0, -1)].any()
        # Not a second one that a periodic drawing would show in a corner, either.
        assert figure.sum(axis=(1, 2)) / 256 / 64**2 == pytest.approx(np.pi * poses[:, 0] ** 2, rel=0.04)


def test_textures_have_one_share_of_ink_and_one_length_of_edges():
    texture = np.repeat(CLASSES, 6)
    made = scenes.random_scenes(np.zeros_like(texture), texture, 1, 0)
    patch = made.patch.copy()
    patch[:, 0] = 0.1
    ink = coverage(dataclasses.replace(made, patch=patch), 256)[1].reshape(16, 6, 256, 256) >= 128
    for name, images in zip(textures.TILES, ink, strict=True):
        assert textures.tile(name).mean() == pytest.approx(0.5, abs=0.005)
        edges = np.mean([open_edge_length(image) for image in images])
        assert edges == pytest.approx(2 / (0.1 * 256), rel=0.1), name


def open_edge_length(image: npt.NDArray[np.bool_]) -> float:
    """Crofton's formula in four directions, for an image without a wrap."""
    across = (image[1:] != image[:-1]).mean() + (image[:, 1:] != image[:, :-1]).mean()
    diagonal = (image[1:, 1:] != image[:-1, :-1]).mean() + (image[1:, :-1] != image[:-1, 1:]).mean()
    return float(np.pi / 8 * (across + diagonal / np.sqrt(2)))


def test_the_length_of_edges_is_known_for_known_drawings():
    rows, columns = np.ogrid[:SIDE, :SIDE]
    disc = (rows - 256) ** 2 + (columns - 256) ** 2 < 200**2
    assert textures.edge_length(disc) * SIDE**2 == pytest.approx(2 * np.pi * 200, rel=0.01)
    # Four directions are few: a straight edge along one of them comes out 5 % short.
    assert textures.edge_length(np.broadcast_to(rows < 256, (SIDE, SIDE))) == pytest.approx(2 / SIDE, rel=0.06)


def test_a_scene_is_the_same_at_every_size():
    made = scenes.random_scenes(CLASSES, CLASSES, 2, 0)
    small, large = draw(made, 128).astype(float), draw(made, 512).astype(float)
    large = large.reshape(16, 128, 4, 128, 4, 3).mean(axis=(2, 4))
    for one, other in zip(small, large, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98
    # The smallest sizes are averages of larger drawings.
    blocks = draw(made, 64).reshape(16, 32, 2, 32, 2, 3).astype(float).mean(axis=(2, 4))
    assert np.abs(draw(made, 32) - blocks).max() <= 0.5
    assert draw(made, 23).shape == (16, 23, 23, 3)


def test_colors_fill_their_regions():
    made = scenes.random_scenes(CLASSES, CLASSES, 3, 0)
    images, (figure, ink) = draw(made, 96).reshape(16, -1, 3).astype(int), coverage(made, 96)
    parts = ((figure == 256) & (ink == 256), (figure == 256) & (ink == 0), figure == 0)
    for image in CLASSES:
        for part, where in enumerate(parts):
            noise = images[image, where[image]] - made.colors[image, part]
            assert noise.min() >= -8 and noise.max() <= 7 and np.ptp(noise, axis=1).max() == 0
            assert abs(noise.mean() + 0.5) < 5 * 4.61 / np.sqrt(where[image].sum())
    mixed = (figure > 0) & (figure < 256)
    assert 0.02 < mixed.mean() < 0.1


def test_drawings_are_smoothed_by_a_triangular_filter():
    spot = np.zeros((SIDE, SIDE), dtype=bool)
    spot[0, 5] = True
    field = (soften(spot).astype(int) + FULL) // 2
    tent = np.maximum(SOFTNESS - np.abs(np.arange(SIDE) - SIDE // 2), 0)
    assert np.array_equal(field, np.outer(np.roll(tent, SIDE // 2), np.roll(tent, SIDE // 2 + 5)))
    assert soften(np.ones((SIDE, SIDE), dtype=bool)).min() == FULL == -soften(np.zeros((SIDE, SIDE), dtype=bool)).max()
    assert box_sum(np.eye(7, dtype=np.int64), 3, 1)[0].tolist() == [1, 1, 0, 0, 0, 0, 1]


def test_random_words_are_those_of_splitmix():
    # The first outputs of SplitMix64 from the state 0.
    words = random_numbers.following_words(np.zeros(1, dtype=np.uint64), 3)[0]
    assert [hex(word) for word in words] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]
    several = random_numbers.random_words((1, 2), np.array([4, 0, 3]), 5)
    assert np.array_equal(several[2], random_numbers.random_words((1, 2), np.array([3]), 7)[0, :5])
    assert not np.intersect1d(several, random_numbers.random_words((2, 1), np.arange(5), 5)).size
    drawn = random_numbers.integers_below(6, random_numbers.random_words((0,), np.arange(6000), 1))
    assert np.bincount(drawn.ravel(), minlength=6) == pytest.approx(1000, abs=150)


# -- predictability of the cues ---------------------------------------------------------------------------------------


def ridge_accuracy(features: Floats, labels: npt.NDArray[np.int64], training: int, penalty: float) -> float:
    """Share of right answers of ridge regression on standardized features, on the rows after the first ``training``."""
    mean, scale = features[:training].mean(axis=0), features[:training].std(axis=0) + 1e-9
    rows = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    seen, target = rows[:training], np.eye(16)[labels[:training]]
    weights = np.linalg.solve(seen.T @ seen + penalty * np.eye(rows.shape[1]), seen.T @ target)
    return float(((rows[training:] @ weights).argmax(axis=1) == labels[training:]).mean())


def with_products(features: Floats) -> Floats:
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    pairs = np.triu_indices(z.shape[1])
    return np.column_stack([z, z[:, pairs[0]] * z[:, pairs[1]]])


def test_color_brightness_area_and_position_are_uninformative():
    n = 4800
    images, labels = synthetic_training(n)
    figure = coverage(scenes.random_scenes(labels, labels, 0, 0), 64)[0].reshape(n, 64, 64)
    color, background = images.mean(axis=(1, 2)), images[:, 0, 0].astype(float)
    area = figure.sum(axis=(1, 2))
    center = [(figure.sum(axis=axis) * np.arange(64)).sum(axis=1) / area for axis in (1, 2)]
    trivial = {
        "mean color": color,
        "mean brightness": color @ np.array([[0.299], [0.587], [0.114]]),
        "background": background,
        "area": area[:, None],
        "place": np.column_stack(center),
        "all": np.column_stack([color, background, area, *center]),
    }
    # Chance is 1/16; its standard deviation over 1600 answers is 0.006.
    for name, features in trivial.items():
        assert ridge_accuracy(with_products(features), labels, 3200, 1.0) < 1 / 16 + 4 * 0.006, name


def test_silhouettes_predict_the_shape_but_not_the_texture():
    labels, other = np.tile(CLASSES, 100), np.tile(CLASSES, 20)
    known, seen = (scenes.random_scenes(shape, shape * 0, seed, 0) for shape, seed in ((labels, 1), (other, 2)))
    # The nearest neighbor after taking out place and size, which are no matter of shape; angles stay as they are.
    matched = []
    for made in (known, seen):
        pose = made.pose.copy()
        pose[:, :3] = 0.25, 0, 0
        figure = coverage(dataclasses.replace(made, pose=pose), 64)[0].astype(np.float32)
        matched.append(figure - 128)
    assert (labels[(matched[1] @ matched[0].T).argmax(axis=1)] == other).mean() > 0.97

    made, _ = scenes.crossed_scenes(0)
    figure = np.array([silhouette.tobytes() for silhouette in coverage(made, 64)[0]])
    for texture in CLASSES:
        assert len({*figure[made.texture == texture]}) == 80 and {*figure[made.texture == texture]} == {*figure}


def test_patches_of_seven_pixels_predict_the_texture():
    """Statistics of small patches, summed over the figure, without their positions or the shape."""
    training, n, side = 2400, 3200, 7
    texture = np.arange(n) % 16
    shape = random_numbers.integers_below(16, random_numbers.random_words((9,), np.arange(n), 1))[:, 0]
    images = synthetic_images(shape, texture, seed=4)
    figures = coverage(scenes.random_scenes(shape, texture, 4, 0), 64)[0].reshape(n, 64, 64) == 256
    pieces = [pieces_of(image, figure, side) for image, figure in zip(images, figures, strict=True)]

    some = np.concatenate([piece[::7] for piece in pieces[:640]])
    mean = some.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((some - mean).T))
    whiten = (vectors / np.sqrt(values + 0.05 * values.mean()))[:, values > 0.02 * values.max()]
    known = normed((some - mean) @ whiten)
    # A dictionary by k-means on the sphere, in which a piece and its negative are one.
    words = known[:: len(known) // 160][:160]
    for _ in range(5):
        match = known @ words.T
        best = np.abs(match).argmax(axis=1)
        sums = np.zeros_like(words)
        np.add.at(sums, best, known * np.sign(match[np.arange(len(known)), best])[:, None])
        words = normed(sums)
    features = np.empty((n, 2 * len(words)))
    for row, piece in enumerate(pieces):
        match = np.abs(normed((piece - mean) @ whiten) @ words.T)
        features[row] = np.concatenate([np.maximum(match - level, 0).mean(axis=0) for level in (0.3, 0.55)])
    assert ridge_accuracy(features, texture, training, 10.0) > 0.93


def pieces_of(image: npt.NDArray[np.uint8], figure: npt.NDArray[np.bool_], side: int) -> Floats:
    """Squares inside the figure, along the axis of color that ink and ground are on, ``[P, side * side]``."""
    inside = image[figure].astype(float)
    axis = np.linalg.eigh(np.cov(inside.T))[1][:, -1]
    level = (image - inside.mean(axis=0)) @ axis
    share = sliding_window_view(figure, (side, side)).mean(axis=(2, 3))
    chosen = share >= min(1.0, 0.9 * share.max())
    squares = sliding_window_view(level / level[figure].std(), (side, side))[chosen]
    return np.asarray(squares.reshape(-1, side * side))


def normed(rows: Floats) -> Floats:
    return np.asarray(rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True) + 1e-3))
