"""Results of kernels: saved and read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.kernels import Kernel, KernelResult, load_results, save_results
from replk_probe.kernels.result import KernelRun, distinct_names
from replk_probe.runtime.provenance import WeightsInfo

FIELDS = {
    "model", "weights", "layer", "path", "variant", "kernel_size", "channels", "operation", "aggregated_over",
    "branches", "batch_norm", "maximum", "relative_mass", "centre3x3_share", "centre_shares", "centre3x3_mean",
    "outside3x3_mean", "skeleton_share", "effective_size", "radial_profile", "entropy_bits", "relative_entropy",
    "symmetry", "zero_fraction", "small_branch_share", "strongest_channels", "notes", "array", "composed_of",
    "channel_statistics", "change", "dilation",
}  # fmt: skip


def result(model: str = "net", seed: int = 0) -> KernelResult:
    generator = np.random.default_rng(seed)
    kernels = tuple(
        Kernel(
            layer="stage4.0",
            path="stages.3.blocks.0.large_kernel",
            variant=variant,
            magnitude=generator.random(size),
            channels=16,
            zero_fraction=0.25,
            small_branch_share=0.125,
            batch_norm=("a.bn",),
            strongest=generator.standard_normal((2, *size)),
            strongest_channels=((3,), (0,)),
            notes=("A note.",),
        )
        for variant, size in (("large", (13, 13)), ("small", (3, 3)), ("merged", (13, 13)), ("column", (13, 5)))
    )
    weights = WeightsInfo("file:net.pth", sha256="ab" * 32, form="train", dropped=("x",))
    return KernelResult(kernels, KernelRun(model, weights, ("stage4.0",), "all", "sum", 1.5))


def test_round_trip(tmp_path: Path) -> None:
    first = result()
    first.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "kernels.json", "kernels.npz", "kernels.csv", "strongest.npz",
    }  # fmt: skip
    again = KernelResult.load(tmp_path)
    assert again.run == first.run and again.notes == ("A note.",)
    for one, other in zip(first.kernels, again.kernels, strict=True):
        np.testing.assert_array_equal(one.magnitude, other.magnitude)
        np.testing.assert_array_equal(one.strongest, other.strongest)
        assert one.to_json() == other.to_json()
        assert (one.batch_norm, one.strongest_channels) == (other.batch_norm, other.strongest_channels)


def test_the_record_has_every_field(tmp_path: Path) -> None:
    one = result()
    one.save(tmp_path)
    record = json.loads((tmp_path / "kernels.json").read_text())
    assert record["schema_version"] == 1
    (model,) = record["run"]["models"]
    assert model["model"] == "net" and model["weights"]["sha256"] == "ab" * 32 and model["aggregate"] == "sum"
    assert "torch" in model["versions"]
    with np.load(tmp_path / "kernels.npz") as arrays:
        for entry, kernel in zip(record["kernels"], one.kernels, strict=True):
            assert set(entry) == FIELDS
            assert arrays[entry["array"]].dtype == np.float64
            np.testing.assert_array_equal(arrays[entry["array"]], kernel.magnitude)
            assert entry["kernel_size"] == list(kernel.kernel_size)
            assert entry["centre3x3_share"] == kernel.center3x3_share == entry["centre_shares"]["3"]
            assert entry["effective_size"] == {str(p): side for p, side in kernel.effective_size.items()}
        assert len(arrays.files) == 4


def test_the_table_is_that_of_the_record(tmp_path: Path) -> None:
    one = result()
    one.save(tmp_path)
    record = json.loads((tmp_path / "kernels.json").read_text())
    with (tmp_path / "kernels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row, entry in zip(rows, record["kernels"], strict=True):
        assert (row["variant"], int(row["kernel_height"]), row["aggregate"]) == (
            entry["variant"], entry["kernel_size"][0], "sum",
        )  # fmt: skip
        assert float(row["centre3x3_share"]) == entry["centre3x3_share"]
        assert int(row["effective_size_90"]) == entry["effective_size"]["90"]
        assert float(row["symmetry_left_right"]) == entry["symmetry"]["left_right"]
    assert rows[3]["symmetry_transpose"] == ""  # a strip


def test_several_models_share_a_folder_and_get_distinct_names(tmp_path: Path) -> None:
    both = [result("net", 0), result("net", 1), result("other", 2)]
    assert distinct_names(both) == ["net #1", "net #2", "other"]
    save_results(both, tmp_path)
    again = load_results(tmp_path)
    assert [one.run.model for one in again] == ["net", "net", "other"]
    for first, second in zip(both, again, strict=True):
        np.testing.assert_array_equal(first.kernels[0].magnitude, second.kernels[0].magnitude)
    with pytest.raises(InvalidInputError, match="contains 3 models"):
        KernelResult.load(tmp_path)
    with pytest.raises(InvalidInputError, match="list of results is empty"):
        save_results([], tmp_path)


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        result().save(tmp_path / folder)
    for name in ("kernels.json", "kernels.npz", "strongest.npz", "kernels.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_kernels_by_name() -> None:
    one = result()
    assert one.kernel("stage4.0").variant == "merged"
    assert one.kernel("stages.3.blocks.0.large_kernel", "small").kernel_size == (3, 3)
    with pytest.raises(InvalidInputError, match=r"This result has stage4\.0 large, stage4\.0 small"):
        one.kernel("stage1.0")


def test_records_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="'replk-probe kernels'"):
        KernelResult.load(tmp_path)
    result().save(tmp_path)
    record = json.loads((tmp_path / "kernels.json").read_text())
    (tmp_path / "kernels.json").write_text(json.dumps(record | {"schema_version": 99}))
    with pytest.raises(InvalidInputError, match="schema version 99"):
        KernelResult.load(tmp_path)
    record["kernels"][0]["array"] = "nowhere"
    (tmp_path / "kernels.json").write_text(json.dumps(record))
    with pytest.raises(InvalidInputError, match=r"Cannot read .*kernels\.npz. It has an unexpected array '[\w/.]+'"):
        KernelResult.load(tmp_path)
    (tmp_path / "kernels.npz").write_bytes((tmp_path / "kernels.npz").read_bytes()[:100])
    with pytest.raises(InvalidInputError, match=r"Cannot read .*kernels\.npz"):
        KernelResult.load(tmp_path)
