"""Series of input sizes and of checkpoints: their results, tables and figures."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from replk_probe.erf import (
    ErfConfig,
    ErfResult,
    draw_checkpoints,
    draw_sizes,
    import_erf,
    measure_erf,
    measure_erf_series,
)
from replk_probe.erf.labels import distinct_labels, row_names
from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model
from replk_probe.runtime.provenance import WeightsInfo

Run = Callable[..., Result]

MODEL = "replknet_micro_k13"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def series() -> tuple[ErfResult, ...]:
    return measure_erf_series(MODEL, sizes=[48, 32], images=2, thresholds=[0.3, 0.9])


def test_every_size_is_a_measurement_of_its_own(series: tuple[ErfResult, ...]) -> None:
    assert [result.input_size for result in series] == [(48, 48), (32, 32)]
    assert series[1] == measure_erf(MODEL, images=2, size=32, thresholds=[0.3, 0.9])
    assert distinct_labels(series) == [f"{MODEL}, 48 px", f"{MODEL}, 32 px"]


def test_the_figure_has_ratios_and_sides(series: tuple[ErfResult, ...]) -> None:
    left, right = draw_sizes(series).axes
    large, small = series
    for index, threshold in enumerate((0.3, 0.9)):
        ratios = [result.row("pixels", threshold).ratio for result in (small, large)]
        assert list(left.lines[index].get_xdata()) == [32, 48]
        assert list(left.lines[index].get_ydata()) == ratios
        sides = [result.row("pixels", threshold).side for result in (small, large)]
        assert list(right.lines[index].get_ydata()) == pytest.approx(sides)
    assert list(right.lines[2].get_ydata()) == [32, 48]  # the whole image
    draw_sizes(series, protocol="centred")


def test_what_is_no_series(series: tuple[ErfResult, ...]) -> None:
    for results in (series[:1], [series[0], import_erf(torch.ones(4, 4).numpy(), "other")]):
        with pytest.raises(InvalidInputError, match="do not form a series of sizes"):
            draw_sizes(results)
    for sizes in ([], [32, 32], [32, (32, 32)]):
        with pytest.raises(InvalidInputError, match="do not form a series"):
            measure_erf_series(MODEL, sizes=sizes)
    with pytest.raises(InvalidInputError, match="cannot be given here"):
        measure_erf_series(MODEL, sizes=[32], config=ErfConfig(), images=2)
    with pytest.raises(InvalidInputError, match="smallest side is 3"):
        measure_erf_series(MODEL, sizes=[32, 1])


def test_several_sizes_of_one_model(replk_probe: Run, tmp_path: Path) -> None:
    run = ("erf", "--model", MODEL, "--images", 2, "--size", "32,48x40", "--output", tmp_path)
    done = replk_probe(*run)
    assert done.exit_code == 0, done.output
    assert {"32", "48x40", "erf_sizes.png", "erf_sizes.pdf", "comparison.png", "comparison.csv"} <= names_in(tmp_path)
    assert {"erf.json", "erf.npz", "erf.csv", "erf.png", "erf.pdf"} == names_in(tmp_path / "32")
    assert f"{MODEL}, 32 px" in done.stdout and f"{MODEL}, 48x40 px" in done.stdout
    with (tmp_path / "comparison.csv").open() as stream:
        assert {(row["input_height"], row["input_width"]) for row in csv.DictReader(stream)} == {
            ("32", "32"), ("48", "40"),
        }  # fmt: skip
    again = replk_probe(*run, "--resume")
    assert again.exit_code == 0 and again.stderr.count("already measured") == 2


def test_a_size_that_fails_leaves_the_others(replk_probe: Run, tmp_path: Path) -> None:
    for text, reason in (
        ("32,32", "contain one twice"), ("32,", "Cannot parse size ''"), ("32,2", "smallest side is 3 px"),
        ("32,32x32", "contain one twice"),
    ):  # fmt: skip
        done = replk_probe("erf", "--model", MODEL, "--images", 1, "--size", text, "--output", tmp_path / "out")
        assert done.exit_code == 1 and done.stderr.count("\n") == 1 and reason in done.stderr, done.output


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    paths = []
    for seed, name in enumerate(("a/last.pth", "b/last.pth", "b/first.pth")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.save(create_model(MODEL, weights="random", seed=seed).state_dict(), path)
        paths.append(path)
    return paths


def test_checkpoints_of_one_model(replk_probe: Run, tmp_path: Path, checkpoints: list[Path]) -> None:
    weights = [text for path in checkpoints for text in ("--weights", path)]
    done = replk_probe("erf", "--model", MODEL, *weights, "--images", 2, "--size", 32, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    folders = [f"{MODEL}-a-last.pth", f"{MODEL}-b-last.pth", f"{MODEL}-first.pth"]
    assert {*folders, "erf_checkpoints.png", "erf_checkpoints.pdf", "comparison.png"} <= names_in(tmp_path / "out")
    results = [ErfResult.load(tmp_path / "out" / folder) for folder in folders]
    assert len({result.run.weights.sha256 for result in results}) == 3
    labels = distinct_labels(results)
    assert len({*labels}) == 3 and all(label in done.stdout for label in labels)
    left, right = draw_checkpoints(results).axes
    assert list(right.lines[0].get_ydata()) == [result.row("pixels", 0.2).ratio for result in results]
    assert [label.get_text() for label in left.get_xticklabels()] != [""] * 3
    # The same by repeated models.
    models = ("--model", MODEL) * 3
    again = replk_probe("erf", *models, *weights, "--images", 2, "--size", 32, "--output", tmp_path / "out", "--resume")
    assert again.exit_code == 0 and again.stderr.count("already measured") == 3


def test_labels_name_what_differs() -> None:
    one = import_erf(torch.ones(8, 8).numpy(), "net")

    def loaded(source: str, sha256: str | None, **changes: object) -> ErfResult:
        run = dataclasses.replace(one.run, weights=WeightsInfo(source, sha256=sha256))
        return dataclasses.replace(one, run=run, **changes)

    first, second = loaded("file:a.pth", "1" * 64), loaded("file:b.pth", "2" * 64)
    assert distinct_labels([one]) == ["net"]
    assert distinct_labels([first, second]) == ["net, a.pth", "net, b.pth"]
    same = loaded("file:a.pth", "3" * 64)
    assert distinct_labels([first, same]) == ["net, a.pth [11111111]", "net, a.pth [33333333]"]
    assert distinct_labels([first, dataclasses.replace(first, layer="stage1")]) == ["net, unknown", "net, stage1"]


def test_results_of_other_definitions_or_positions_are_told_apart(series: tuple[ErfResult, ...]) -> None:
    first = series[0]
    other = dataclasses.replace(first, run=dataclasses.replace(first.run, config={"convention": {"name": "openerf"}}))
    assert distinct_labels([first, other]) == [f"{MODEL}, replknet convention", f"{MODEL}, openerf convention"]
    assert row_names([first, other]) == ["replknet convention", "openerf convention"]
    assert row_names([first]) == row_names([first, first])[:1] == [MODEL]
    placed = dataclasses.replace(first, position="0,0")
    assert row_names([first, placed]) == ["position center", "position 0,0"]
    for results in ([first, dataclasses.replace(series[1], position="0,0")], [series[1], other]):
        with pytest.raises(InvalidInputError, match="do not form a series of sizes"):
            draw_sizes(results)


def test_conventions_attributions_and_sizes_of_one_model(replk_probe: Run, tmp_path: Path) -> None:
    run = ("erf", "--model", MODEL, "--images", 2, "--size", "32,48", "--output", tmp_path)
    done = replk_probe(*run, "--convention", "openerf", "--convention", "replknet", "--convention", "openerf")
    assert done.exit_code == 0, done.output
    assert {"openerf", "replknet", "comparison.csv"} <= names_in(tmp_path)
    assert {"erf_sizes.png", "32", "48"} <= names_in(tmp_path / "openerf")
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [row["convention"] for row in rows[:: len(rows) // 4]] == ["openerf", "openerf", "replknet", "replknet"]
    columns = (tmp_path / "replknet" / "32" / "erf.csv").read_text().splitlines()[0].split(",")
    assert not {"convention", "attribution", "target", "position"} & {*columns}
    result = ErfResult.load(tmp_path / "openerf" / "48")
    assert result == measure_erf(MODEL, images=2, size=48, convention="openerf")
    assert set(result.to_dataframe()["convention"]) == {"openerf"}
    both = replk_probe(
        "erf", "--model", MODEL, "--images", 2, "--size", 32, "--output", tmp_path / "both",
        "--attribution", "gradient", "--attribution", "input-x-gradient",
    )  # fmt: skip
    assert both.exit_code == 0 and "input-x-gradient" in both.output, both.output
    assert {"gradient", "input-x-gradient", "comparison.png"} <= names_in(tmp_path / "both")
    # Saved results of one model are compared without labels.
    again = replk_probe(
        "erf", "--from", tmp_path / "both" / "gradient", "--from", tmp_path / "both" / "input-x-gradient",
        "--output", tmp_path / "again",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert f"{MODEL}-input-x-gradient" in {name.replace("--", "-") for name in names_in(tmp_path / "again")}


def test_headings_state_the_definition(series: tuple[ErfResult, ...]) -> None:
    config = {"convention": {"name": "openerf"}, "attribution": {"name": "smooth-grad"}}
    changed = [
        dataclasses.replace(one, position="0,0", run=dataclasses.replace(one.run, config=config)) for one in series
    ]
    texts = [text.get_text() for text in draw_sizes(changed).texts]
    assert any(text.endswith("position 0,0; openerf convention, smooth-grad") for text in texts)
