from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import zipfile

import numpy as np
import pytest

from replk_probe.erf.area_protocols import area_ratios
from replk_probe.erf.jackknife import Blocks
from replk_probe.erf.latex import latex_number
from replk_probe.erf.map_numbers import NUMBER_COLUMNS, ErfNumbers
from replk_probe.erf.map_statistics import erf_numbers, statistics_of
from replk_probe.erf.result import ErfResult, RatioRow, write_csv
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.provenance import RunInfo, WeightsInfo


def make_result(**changes) -> ErfResult:
    contribution = np.random.default_rng(0).random((6, 9)) ** 3
    answers = area_ratios(contribution, (0.2, 0.99))
    fields = dict(
        contribution=contribution,
        run=RunInfo(
            model="resnet101",
            weights=WeightsInfo("random-init", seed=3, dropped=("head.weight",)),
            image_source="folder:val",
            image_ids=("a/1.jpg", "b/ü.png"),
            input_size=(6, 9),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            seed=0,
            device="cpu",
            precision="fp32",
            backend="aten",
            seconds=1.5,
            skipped=({"id": "c.jpg", "reason": "truncated"},),
            config={"sampling": "stratified"},
        ),
        n_images=2,
        n_skipped=1,
        input_size=(6, 9),
        layer="layer4",
        feature_size=(1, 2),
        center=(3.5, 4.0),
        center_source="receptive field",
        theoretical_rf=None,
        ratios=tuple(
            RatioRow(protocol, threshold, answer.side, answer.ratio, None if threshold == 0.99 else (0.1, 0.4))
            for (protocol, threshold), answer in answers.items()
        ),
        notes=("A note.",),
    )
    return ErfResult(**{**fields, **changes})


def same(left: ErfResult, right: ErfResult) -> bool:
    names = [field.name for field in dataclasses.fields(ErfResult) if field.name != "contribution"]
    return (left.contribution == right.contribution).all() and all(
        getattr(left, name) == getattr(right, name) for name in names
    )


def test_save_and_load_give_the_same_result(tmp_path):
    result = make_result()
    result.save(tmp_path / "deep" / "folder")
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == ["erf.csv", "erf.json", "erf.npz"]
    assert same(ErfResult.load(tmp_path / "deep" / "folder"), result)


def test_the_record_has_the_promised_names(tmp_path):
    make_result().save(tmp_path)
    record = json.loads((tmp_path / "erf.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert list(record) == ["schema_version", "run", "erf"]
    assert record["erf"].keys() >= {
        "n_images",
        "n_skipped",
        "input_size",
        "layer",
        "feature_size",
        "centre",
        "ratios",
        "centre_source",
        "theoretical_rf",
        "notes",
    }
    assert record["run"]["weights"]["source"] == "random-init"
    assert record["run"]["skipped"] == [{"id": "c.jpg", "reason": "truncated"}]
    assert len(record["erf"]["ratios"]) == 8
    row = record["erf"]["ratios"][0]
    assert list(row) == ["protocol", "threshold", "side", "ratio", "ci95"]
    assert row["protocol"] == "paper" and isinstance(row["side"], int) and row["ci95"] == [0.1, 0.4]
    assert record["erf"]["ratios"][1]["ci95"] is None


def test_arrays_and_table(tmp_path):
    result = make_result()
    result.save(tmp_path)
    with np.load(tmp_path / "erf.npz", allow_pickle=False) as arrays:
        assert arrays.files == ["contribution"]
        assert arrays["contribution"].dtype == np.float64
    rows = list(csv.DictReader(io.StringIO((tmp_path / "erf.csv").read_text())))
    assert [(row["protocol"], float(row["threshold"])) for row in rows] == [
        (row.protocol, row.threshold) for row in result.ratios
    ]
    assert [float(row["ratio"]) for row in rows] == [row.ratio for row in result.ratios]
    assert rows[0]["model"] == "resnet101" and rows[0]["weights"] == "RANDOM WEIGHTS (seed 3)"
    assert (rows[0]["ci95_low"], rows[1]["ci95_low"]) == ("0.1", "")


def test_saving_twice_gives_the_same_bytes(tmp_path):
    make_result().save(tmp_path / "one")
    make_result().save(tmp_path / "two")
    for name in ("erf.json", "erf.npz", "erf.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_one_csv_for_several_models(tmp_path):
    write_csv([make_result(), make_result(n_images=7)], tmp_path / "all.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text())))
    assert [row["n_images"] for row in rows] == ["2"] * 8 + ["7"] * 8


def test_results_are_frozen():
    result = make_result()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.n_images = 5
    with pytest.raises(ValueError, match="read-only"):
        result.contribution[0, 0] = 1.0


def test_rows_are_found_by_protocol_and_threshold():
    result = make_result()
    assert result.row("pixels", 0.99) is result.ratios[-1]
    assert result.thresholds == (0.2, 0.99)
    with pytest.raises(InvalidInputError, match=r"'paper' at threshold 0\.5.*0\.2, 0\.99"):
        result.row("paper", 0.5)


def test_a_map_of_another_size_is_refused():
    with pytest.raises(InvalidInputError, match=r"shape \[6, 9\].*\[9, 6\]"):
        make_result(input_size=(9, 6))


def test_numbers_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InvalidInputError, match="JSON"):
        make_result(center=(math.nan, 1.0)).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="Cannot write"):
        make_result().save(tmp_path / "file")


def edit(folder, change):
    record = json.loads((folder / "erf.json").read_text())
    change(record)
    (folder / "erf.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "erf.json").unlink(), "Cannot read .*erf.json"),
        (lambda d: (d / "erf.npz").unlink(), "Cannot read .*erf.npz"),
        (lambda d: (d / "erf.json").write_text("{"), "not JSON"),
        (lambda d: (d / "erf.json").write_bytes(b"\xff\xfe"), "not JSON"),
        (lambda d: (d / "erf.json").write_text("[]"), "not a JSON object"),
        (lambda d: (d / "erf.npz").write_bytes(b""), "Cannot read .*erf.npz"),
        (lambda d: (d / "erf.npz").write_bytes((d / "erf.npz").read_bytes()[:200]), "Cannot read .*erf.npz"),
        (lambda d: np.savez(d / "erf.npz", other=np.ones(3)), "Cannot read .*erf.npz"),
        (lambda d: np.savez(d / "erf.npz", contribution=np.array([None])), "Cannot read .*erf.npz"),
        (lambda d: np.savez(d / "erf.npz", contribution=np.ones((6, 9), np.float32)), "not float64"),
        (lambda d: np.savez(d / "erf.npz", contribution=np.ones((3, 3))), "shape"),
        (lambda d: edit(d, lambda r: r.update(schema_version=99)), "schema version 99.*reads 1"),
        (lambda d: edit(d, lambda r: r.pop("schema_version")), "schema version None"),
        (lambda d: edit(d, lambda r: r["erf"].pop("layer")), "not a complete ERF record.*layer"),
        (lambda d: edit(d, lambda r: r["erf"].pop("centre")), "not a complete ERF record.*centre"),
        (lambda d: edit(d, lambda r: r["run"].pop("weights")), "not a complete ERF record.*weights"),
        (lambda d: edit(d, lambda r: r["erf"].update(centre=[1])), "not a complete ERF record"),
        (lambda d: edit(d, lambda r: r.update(erf=None)), "not a complete ERF record"),
    ],
)
def test_damaged_results_are_one_clear_error(tmp_path, damage, message):
    make_result().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        ErfResult.load(tmp_path)


def test_a_missing_folder_is_one_clear_error(tmp_path):
    with pytest.raises(InvalidInputError, match="no-such"):
        ErfResult.load(tmp_path / "no-such")


def test_the_arrays_are_stored_without_timestamps(tmp_path):
    make_result().save(tmp_path)
    with zipfile.ZipFile(tmp_path / "erf.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def numbers(n_images: int = 4) -> ErfNumbers:
    y, x = np.indices((6, 9))
    shape = np.exp(-((y - 2.5) ** 2) / 4 - (x - 4) ** 2 / 9)
    maps = shape * np.random.default_rng(1).uniform(0.8, 1.2, (n_images, 6, 9))
    return statistics_of(Blocks(maps, [1] * n_images), (0.2, 0.99)).numbers()


@pytest.mark.parametrize(
    "numbers", [numbers(), numbers(1), erf_numbers(np.ones((6, 9)), (0.2, 0.99))], ids=["all", "one image", "uniform"]
)
def test_numbers_are_saved_and_loaded(numbers, tmp_path):
    result = make_result(numbers=numbers)
    result.save(tmp_path)
    loaded = ErfResult.load(tmp_path)
    assert loaded == result and loaded.numbers == numbers
    loaded.save(tmp_path / "again")
    first, second = (json.loads((folder / "erf.json").read_text()) for folder in (tmp_path, tmp_path / "again"))
    assert json.dumps(first["erf"]["numbers"]) == json.dumps(second["erf"]["numbers"])


def test_the_record_of_the_numbers_has_the_promised_names(tmp_path):
    make_result(numbers=numbers()).save(tmp_path)
    record = json.loads((tmp_path / "erf.json").read_text())["erf"]["numbers"]
    names = ("center_of_mass", "standard_deviation", "effective_area", "peak", "radial_share", "border_share")
    for owner, promised in (
        (record, names),
        (record["gaussian"], ("amplitude", "center", "sigma", "angle", "r_squared")),
    ):
        for name in promised:
            value, interval = np.array(owner[name]), np.array(owner[f"{name}_ci95"])
            assert interval.shape == (*(value[:, 1] if name == "radial_share" else value).shape, 2)
        assert [name for name in owner if not name.endswith("_ci95") and f"{name}_ci95" not in owner] in (
            [],
            ["gaussian"],
        )
    assert [radius for radius, _ in record["radial_share"]] == list(range(len(record["radial_share"])))


def test_files_of_earlier_versions_have_no_numbers(tmp_path):
    make_result(numbers=numbers()).save(tmp_path)
    edit(tmp_path, lambda record: record["erf"].pop("numbers"))
    assert ErfResult.load(tmp_path) == make_result() and make_result().numbers is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.update(effective_area=1.5), "'effective_area' cannot be 1.5"),
        (lambda saved: saved["radial_share"].__setitem__(2, [2, -0.1]), "'share within 2 px' cannot be -0.1"),
        (lambda saved: saved["gaussian"].pop("angle"), "gaussian: it lacks 'angle'"),
        (lambda saved: saved.update(peak=[1.5, 2]), r"numbers.peak\[0\] is 1.5, not an integer"),
        (lambda saved: saved.pop("border_share_ci95"), "lacks 'border_share_ci95'"),
        (lambda saved: saved["radial_share_ci95"].pop(), "radial_share_ci95"),
        (lambda saved: saved["threshold_radii_ci95"].pop(), "threshold_radii_ci95"),
    ],
)
def test_damaged_numbers_are_refused(tmp_path, change, message):
    make_result(numbers=numbers()).save(tmp_path)
    edit(tmp_path, lambda record: change(record["erf"]["numbers"]))
    with pytest.raises(InvalidInputError, match=f"not a complete ERF record.*{message}"):
        ErfResult.load(tmp_path)


def test_the_table_has_the_numbers_after_its_other_columns(tmp_path):
    result = make_result(numbers=numbers())
    result.save(tmp_path)
    make_result().save(tmp_path / "without")
    reader = csv.DictReader(io.StringIO((tmp_path / "erf.csv").read_text()))
    rows = list(reader)
    assert reader.fieldnames[-len(NUMBER_COLUMNS) :] == list(NUMBER_COLUMNS)
    assert reader.fieldnames[: -len(NUMBER_COLUMNS)][-4:] == ["side", "ratio", "ci95_low", "ci95_high"]
    radii = {threshold: (radius, interval) for threshold, radius, interval in result.numbers.radii()}
    for row in rows:
        radius, (low, high) = radii[float(row["threshold"])]
        found = [float(row[f"threshold_radius{end}"]) for end in ("", "_ci95_low", "_ci95_high")]
        assert found == [radius, low, high]
        for name, (value, (low, high)) in result.numbers.named().items():
            assert [float(row[f"{name}{end}"]) for end in ("", "_ci95_low", "_ci95_high")] == [value, low, high]
    for row in csv.DictReader(io.StringIO((tmp_path / "without" / "erf.csv").read_text())):
        assert {row[name] for name in NUMBER_COLUMNS} == {""}


def test_latex_has_every_number():
    text = make_result(numbers=numbers(), run=dataclasses.replace(make_result().run, model="a_b&c^d")).to_latex()
    lines = text.splitlines()
    assert lines[:3] == [
        r"\begin{tabular}{llrr}",
        r"\toprule",
        r"a\_b\&c\textasciicircum{}d & unit & value & 95 \% interval \\",
    ]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"] and text.count(r"\midrule") == 4 + 2
    rows = [line for line in lines[3:-2] if line != r"\midrule"]
    assert len(rows) == 8 + 2 + 19 and all(len(row.split(" & ")) == 4 and row.endswith(r" \\") for row in rows)
    ratio = make_result().row("paper", 0.2).ratio
    assert rows[0] == rf"area ratio, paper, 20 \% & \% & ${100 * ratio:#.4g}$ & [$10.00$, $40.00$] \\"
    assert rows[1].endswith("$ &  \\\\")  # no interval
    assert any(row.startswith(r"effective area & \% & ") for row in rows)
    assert "nan" not in text and make_result().to_latex().count(r"\midrule") == 4


def test_latex_numbers():
    assert [latex_number(value) for value in (0.0, -3.25, 1.5e-9, 123456.0, math.nan)] == [
        "$0.000$", r"$-3.250$", r"$1.500 \times 10^{-9}$", r"$1.235 \times 10^{5}$", "",
    ]  # fmt: skip
