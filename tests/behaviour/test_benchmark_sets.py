"""The sets, their conditions and the rules of their names."""

from __future__ import annotations

import pytest

from replk_probe.behaviour import BENCHMARK_SETS, choose_sets
from replk_probe.behaviour.benchmark_sets import image_id_of
from replk_probe.errors import InvalidInputError


def test_the_sets_are_those_of_the_benchmark() -> None:
    assert len(BENCHMARK_SETS) == 17
    assert sum(one.has_conditions for one in BENCHMARK_SETS.values()) == 12
    published = {
        "colour": "bw",
        "contrast": "c50 c30 c15 c10 c05",
        "high-pass": "3.0 1.5 1.0 0.7",
        "low-pass": "1 3 5 7 10",
        "phase-scrambling": "30 60 90 120",
        "power-equalisation": "pow",
        "false-colour": "false",
        "rotation": "90 180 270",
        "eidolonI": "2-10-10 4-10-10 8-10-10 16-10-10 32-10-10",
        "eidolonII": "2-3-10 4-3-10 8-3-10 16-3-10",
        "eidolonIII": "2-0-10 4-0-10 8-0-10",
        "uniform-noise": "0.03 0.05 0.10 0.20 0.35",
    }
    for name, conditions in published.items():
        assert BENCHMARK_SETS[name].conditions == tuple(conditions.split())
    for known in BENCHMARK_SETS.values():
        assert known.n_per_cell * 16 * len(known.levels) == known.n_images
        assert not known.labels or len(known.labels) == len(known.levels)
        assert {*known.left_out} <= {*known.levels}


@pytest.mark.parametrize(
    ("dataset", "spelled", "level"),
    [
        ("uniform-noise", "0.1", "0.10"),
        ("uniform-noise", "0", "0.00"),
        ("high-pass", "3", "3.0"),
        ("high-pass", "Inf", "inf"),
        ("false-colour", "True", "true"),
        ("eidolonI", "16-10-10", "16-10-10"),
        ("edge", "NaN", "0"),
        ("cue-conflict", "0", "0"),
    ],
)
def test_conditions_are_compared_as_numbers_or_without_regard_to_case(dataset: str, spelled: str, level: str) -> None:
    assert BENCHMARK_SETS[dataset].level(spelled) == level


def test_unknown_conditions_and_names() -> None:
    with pytest.raises(InvalidInputError, match=r"contrast has no condition 'c20'\. Its conditions are c100, c50"):
        BENCHMARK_SETS["contrast"].level("c20")
    for name in ("c30_knife.png", "0001_cop_dnn_c30_spoon_10_n03041632_7380.png"):
        with pytest.raises(InvalidInputError, match="does not contain condition and category"):
            BENCHMARK_SETS["contrast"].parse_name(name)
    assert BENCHMARK_SETS["contrast"].parse_name("0001_cop_dnn_c30_knife_10_n03041632_7380.png") == ("c30", "knife")


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("0001_cop_s01_c30_knife_10_n03041632_7380.png", "n03041632_7380"),
        ("7_cop_dnn_c30_knife_10_n03041632_7380.JPEG", "n03041632_7380"),
        ("0001_edg_s01_0_oven_00_oven10.png", "oven10"),
        ("oven10.png", "oven10"),
        ("0001_ske_s01_0_boat_00_boat-0068-sketch-23.png", "boat-0068-sketch-23"),
        ("0002_s5n_dnn_0_airplane_00_airplane1-chair2.png", "airplane1-chair2"),
        ("plain", "plain"),
    ],
)
def test_the_id_of_an_image_is_common_to_observers(name: str, image_id: str) -> None:
    assert image_id_of(name) == image_id


def test_choosing_sets() -> None:
    assert choose_sets("all") == tuple(BENCHMARK_SETS)
    assert choose_sets("shape") == ("cue-conflict", "edge", "silhouette", "sketch", "stylized")
    assert len(choose_sets("noise")) == 12 and not {*choose_sets("noise")} & {*choose_sets("shape")}
    assert choose_sets("rotation, edge") == ("edge", "rotation") == choose_sets(["rotation", "edge", "edge"])
    with pytest.raises(InvalidInputError, match=r"Unknown set 'edges' \(similar: edge\)\. .*all, shape, noise"):
        choose_sets("edges")
    with pytest.raises(InvalidInputError, match="No sets were chosen"):
        choose_sets([])
    with pytest.raises(InvalidInputError, match="No sets were chosen"):
        choose_sets(" ,")
