"""Maps of other tools: their numbers, their provenance, and what cannot be imported."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from replk_probe.erf import ErfResult, area_ratios, draw_comparison, erf_numbers, import_erf
from replk_probe.erf.imported import maps_in
from replk_probe.erf.published import REFERENCES
from replk_probe.errors import InvalidInputError

Run = Callable[..., Result]

# As printed in the table of facts: ratios in percent at 20, 30, 50 and 99 %.
PRINTED = {
    "resnet101.a1_in1k": ("9.5 15.1 29.2 99.1", "8.5 13.8 27.0 95.7", (102.4, 103.7), (53.3, 52.5), 0.840),
    "swin_tiny_patch4_window7_224.ms_in1k": (
        "6.9 15.1 39.6 99.1", "6.0 12.3 29.4 97.6", (110.5, 110.0), (60.1, 59.7), 0.834,
    ),
    "deit_small_patch16_224.fb_in1k": (
        "5.2 13.1 38.5 99.1", "3.6 8.6 22.6 96.5", (107.5, 109.5), (57.5, 58.5), 0.688,
    ),
    "xcit_tiny_12_p16_224.fb_in1k": ("3.7 7.9 27.3 99.1", "2.5 6.3 25.0 97.5", (106.1, 107.5), (54.2, 54.8), 0.697),
    "beit_base_patch16_384.in22k_ft_in22k_in1k": (
        "2.5 6.9 25.8 99.5", "1.9 6.1 21.1 96.7", (185.5, 187.8), (91.1, 93.0), 0.604,
    ),
    "swinv2_cr_small_ns_224.sw_in1k": (
        "25.4 40.8 66.7 100.0", "0.8 3.5 19.3 97.1", (89.4, 134.2), (67.9, 65.8), 0.522,
    ),
}  # fmt: skip


@pytest.fixture
def a_map() -> np.ndarray:
    return np.random.default_rng(0).random((12, 16)) ** 3


def saved(folder: Path, array: Any, name: str = "their.npy") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array, allow_pickle=True)
    return folder / name


@pytest.mark.parametrize("name", PRINTED)
def test_the_published_maps_have_the_published_numbers(name: str, data_dir: Path) -> None:
    path = data_dir / "erf-maps" / f"{name}.npy"
    result = import_erf(path)
    linear, pixels, mass, deviation, area = PRINTED[name]
    for protocol, printed in (("linear", linear), ("pixels", pixels)):
        ratios = [100 * result.row(protocol, threshold).ratio for threshold in (0.2, 0.3, 0.5, 0.99)]
        assert " ".join(f"{ratio:.1f}" for ratio in ratios) == printed
        (row,) = (row for row in REFERENCES["openerf"] if row.weights == f"timm:{name}" and row.protocol == protocol)
        assert " ".join(f"{100 * ratio:.1f}" for ratio in row.ratios.values()) == printed
        assert row.input_size == result.input_size
    assert result.numbers is not None and result.run.model == name
    assert tuple(round(value, 1) for value in result.numbers.center_of_mass) == mass
    assert tuple(round(value, 1) for value in result.numbers.standard_deviation) == deviation
    assert round(result.numbers.effective_area, 3) == area
    assert result.run.config["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_map_has_all_numbers_and_no_intervals(tmp_path: Path, a_map: np.ndarray) -> None:
    path = saved(tmp_path, a_map.astype(np.float32))
    result = import_erf(path, thresholds=[0.5, 0.9], center=(4.5, 7))
    expected = area_ratios(a_map.astype(np.float32), (0.5, 0.9), center=(4.5, 7))
    assert {(row.protocol, row.threshold): (row.side, row.ratio) for row in result.ratios} == {
        key: tuple(answer) for key, answer in expected.items()
    }
    assert result.numbers == erf_numbers(a_map.astype(np.float32), (0.5, 0.9), (4.5, 7))
    assert all(row.ci95 is None for row in result.ratios)
    assert result.is_imported and not result.run.weights.is_random and result.run.weights.label == "unknown weights"
    assert (result.n_images, result.feature_size, result.layer, result.center_source) == (
        None,
        None,
        "unknown",
        "given",
    )
    assert result.run.model == "their" and result.run.image_source == "imported:their.npy"
    result.save(tmp_path / "saved")
    assert ErfResult.load(tmp_path / "saved") == result
    assert import_erf(path).center == (6, 8) and import_erf(path).center_source == "middle pixel"
    assert result.to_dataframe()["n_images"].isna().all() and "their" in result.to_latex()
    draw_comparison([result, import_erf(a_map, name="other")])


def test_arrays_and_archives(tmp_path: Path, a_map: np.ndarray) -> None:
    np.savez(tmp_path / "one.npz", anything=a_map)
    np.savez_compressed(tmp_path / "several.npz", contribution=a_map, other=np.zeros(3))
    for path, entry in (("one.npz", "anything"), ("several.npz", "contribution")):
        result = import_erf(tmp_path / path)
        assert (result.contribution == a_map).all() and result.run.config["array"] == entry
    assert (import_erf(a_map.tolist(), name="list").contribution == a_map).all()
    assert (import_erf(np.asfortranarray(a_map)).contribution == a_map).all()


def test_results_of_this_package_are_loaded_whole(tmp_path: Path, a_map: np.ndarray) -> None:
    result = dataclasses.replace(import_erf(a_map, name="mine"), layer="stage3", notes=("A note.",))
    result.save(tmp_path)
    for source in (tmp_path, tmp_path / "erf.npz", str(tmp_path)):
        assert import_erf(source) == result
    assert import_erf(tmp_path, "another").run.model == "another"
    (tmp_path / "erf.json").unlink()
    alone = import_erf(tmp_path / "erf.npz")
    assert alone.run.model == "erf" and alone.run.config["array"] == "contribution" and alone.layer == "unknown"


def test_scale_matters_to_paper_only(a_map: np.ndarray) -> None:
    small, large = import_erf(a_map / 1e6), import_erf(a_map * 1e6)
    for row, other in zip(small.ratios, large.ratios, strict=True):
        assert row.protocol == "paper" or row == other
    assert any("'paper' is 'linear' here" in note for note in small.notes)
    assert not any("'paper'" in note for note in large.notes)
    assert [row.ratio for row in small.ratios[:4]] == [row.ratio for row in small.ratios[4:8]]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (-np.ones((4, 4)), "negative values (smallest -1)"),
        (np.ones((4, 4), complex), "values of type complex128, which are not real numbers"),
        (np.full((4, 4), np.nan), "16 of 16 values that are not finite"),
        (np.full((4, 4), np.inf), "16 of 16 values that are not finite"),
        (np.ones((3, 4, 4)), "shape [3, 4, 4], but a map has two axes"),
        (np.ones(4), "shape [4], but"),
        (np.ones((0, 4)), "shape [0, 4] and no values"),
        (np.zeros((4, 4)), "zeros only"),
        (np.array([["a", "b"]]), "values of type <U1, which are not real numbers"),
        (np.array([[{}, None]], dtype=object), "Cannot"),
    ],
)
def test_what_is_no_map_is_refused_in_one_line(
    array: np.ndarray, reason: str, tmp_path: Path, replk_probe: Run
) -> None:
    path = saved(tmp_path, array)
    with pytest.raises(InvalidInputError) as caught:
        import_erf(path)
    assert reason in str(caught.value) and str(path) in str(caught.value)
    done = replk_probe("erf", "--from", path, "--output", tmp_path / "out")
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and reason in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.npy", b"1 2 3\n4 5 6\n", "Cannot read"),
        ("text.txt", b"1 2 3", "maps are read from .npy and .npz files"),
        ("damaged.npz", b"PK\3\4", "Cannot read"),
        ("missing.npy", None, "No such file"),
    ],
)
def test_files_that_are_no_arrays(name: str, content: bytes | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match="(?i)" + reason):
        import_erf(tmp_path / name)


def test_archives_of_several_maps_and_folders(tmp_path: Path, a_map: np.ndarray) -> None:
    np.savez(tmp_path / "two.npz", a=a_map, b=a_map)
    with pytest.raises(InvalidInputError, match="It has the arrays 'a', 'b'"):
        import_erf(tmp_path / "two.npz")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidInputError, match="Neither it nor its folders have"):
        maps_in(empty)
    assert maps_in(saved(tmp_path / "maps", a_map)) == [tmp_path / "maps" / "their.npy"]
    saved(tmp_path / "maps", a_map, "a.npy")
    assert [path.name for path in maps_in(tmp_path / "maps")] == ["a.npy", "their.npy"]
    with pytest.raises(InvalidInputError, match="Threshold 2"):
        import_erf(a_map, thresholds=[2])
    with pytest.raises(InvalidInputError, match="The center"):
        import_erf(a_map, center=(99, 0))
    with pytest.raises(InvalidInputError, match="not an array"):
        import_erf([[1, 2], [3]])  # type: ignore[list-item]


def test_maps_stand_beside_measured_ones(replk_probe: Run, tmp_path: Path, a_map: np.ndarray) -> None:
    path = saved(tmp_path, a_map)
    done = replk_probe(
        "erf", "--model", "replknet_micro_k13", "--images", 2, "--size", 32, "--from", path, "--label", "theirs",
        "--output", tmp_path / "out", "--numbers", "effective_area",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "theirs: unknown weights" in done.stdout and "imported from their.npy [" in done.stdout
    assert (tmp_path / "out" / "comparison.png").is_file()
    record = json.loads((tmp_path / "out" / "theirs" / "erf.json").read_text())
    assert record["run"]["config"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {"erf.json", "erf.npz", "erf.csv", "erf.png", "erf.pdf"} <= {
        p.name for p in (tmp_path / "out/theirs").iterdir()
    }
    assert (tmp_path / "out" / "replknet_micro_k13" / "erf.png").is_file()
    csv = (tmp_path / "out" / "comparison.csv").read_text()
    assert "theirs,unknown weights,imported:their.npy" in csv and "replknet_micro_k13" in csv


def test_one_map_alone(replk_probe: Run, tmp_path: Path, a_map: np.ndarray) -> None:
    path = saved(tmp_path, a_map)
    done = replk_probe("erf", "--from", path, "--thresholds", "0.5", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "unknown weights" in done.stdout and "RANDOM" not in done.output and "small models" not in done.output
    assert ErfResult.load(tmp_path / "out").thresholds == (0.5,)
    again = replk_probe("erf", "--from", tmp_path / "out", "--output", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert ErfResult.load(tmp_path / "again") == ErfResult.load(tmp_path / "out")


def test_labels_belong_to_maps(replk_probe: Run, tmp_path: Path, a_map: np.ndarray) -> None:
    path = saved(tmp_path / "maps", a_map)
    saved(tmp_path / "maps", a_map, "b.npy")
    for arguments, reason in (
        (("--from", path, "--label", "a", "--label", "b"), "--label was given 2 times and --from 1 time"),
        (("--label", "a"), "--label was given 1 time and --from 0 times"),
        (("--from", tmp_path / "maps", "--label", "a"), "has 2 maps"),
        (("--from", path, "--from", path), "with another --output, or name a map by --label."),
        (("--from", path, "--compare", "nonsense"), "There are no published numbers called 'nonsense'"),
    ):
        done = replk_probe("erf", *arguments, "--output", tmp_path / "out")
        assert done.exit_code == 1 and done.stderr.strip().count("\n") == 0 and reason in done.stderr, done.output


def test_a_folder_of_results_has_one_map_each(tmp_path: Path) -> None:
    for name in ("b", "a"):
        import_erf(np.random.default_rng(0).random((8, 8)), name).save(tmp_path / name)
    import_erf(np.ones((6, 6)), "c").save(tmp_path / "sizes" / "6")
    found = [import_erf(path).run.model for path in maps_in(tmp_path)]
    assert found == ["a", "b", "c"]
