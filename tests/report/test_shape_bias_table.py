"""The tables of shape bias: every number where it belongs, no line too wide."""

from __future__ import annotations

import pytest

from replk_probe.report.shape_bias_table import shape_bias_table
from replk_probe.report.text import WIDTH
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.published import published_observers
from replk_probe.shape_bias.result import ShapeBiasResult

CATEGORIES = ("bear", "cat", "dog")
NAMES = ("bear1-cat1.png", "bear2-dog1.png", "cat1-bear1.png", "cat2-dog1.png", "dog1-bear1.png", "dog1-dog1.png")


def decided(observer: str, *response: str) -> Decisions:
    return Decisions.from_names(observer, NAMES, response, CATEGORIES)


@pytest.fixture
def model() -> Decisions:
    # shape 2 (bear, dog), texture 2 (dog, dog), other 1; without a conflict: right
    return decided("net", "bear", "dog", "dog", "dog", "dog", "dog")


def test_the_numbers_of_a_model(model: Decisions) -> None:
    table = shape_bias_table([ShapeBiasResult.from_decisions(model)])
    assert "shape bias 50.0 % (S / (S + T) of all decisions; Wilson 15.0 to 85.0" in table
    assert "mean of 3 categories 50.0 %" in table  # 1/2, 0/1, 1/1
    assert "cue accuracy 80.0 % of 5; without a conflict 1 of 1 correct (100.0 %)" in table
    row = next(line for line in table.split("\n") if line.startswith("net ") and "to" in line)
    assert row.split() == ["net", "50.0", "15.0", "to", "85.0", "50.0", "50.0", "2", "2", "1", "80.0", "-"]
    assert next(line for line in table.split("\n") if line.startswith("bear")).split() == ["bear", "50.0", "(1/2)"]


def test_categories_without_a_decision_for_a_cue_are_undefined() -> None:
    table = shape_bias_table(
        [ShapeBiasResult.from_decisions(decided("lost", "dog", "cat", "dog", "bear", "cat", "cat"))]
    )
    assert "shape bias undefined: no decision followed either cue" in table
    assert "nan" not in table


def test_categories_without_a_conflict_have_no_row() -> None:
    decisions = Decisions.from_names("net", ["bear1-cat1.png", "cat1-cat2.png"], ["bear", "cat"], CATEGORIES)
    table = shape_bias_table([ShapeBiasResult.from_decisions(decisions)])
    assert "mean of 1 category 100.0 %" in table
    starts = {line.split(" ")[0] for line in table.split("\n")}
    assert "bear" in starts and not starts & {"cat", "dog"}


def test_two_models_are_compared_in_pairs(model: Decisions) -> None:
    other = decided("other", "cat", "dog", "bear", "dog", "bear", "dog")  # texture throughout
    table = shape_bias_table([ShapeBiasResult.from_decisions(one) for one in (model, other)])
    assert "net - other: +50.0 points" in table
    assert "opposite cues on 2 of 4 (2 / 0), McNemar's exact p = 0.5" in " ".join(table.split())


def test_published_observers_are_distinguished_from_measured_ones_of_the_same_name() -> None:
    published = published_observers()
    table = shape_bias_table([ShapeBiasResult.from_decisions(decided("resnet50", *["bear"] * 6))], published)
    names = [line[:30].strip() for line in table.split("\n")]
    assert "resnet50" in names
    assert "ResNet-50, published" in names
    assert "Published observers decided on the 1200 published stimuli with a cue conflict." in table


def test_no_line_is_too_wide(model: Decisions) -> None:
    long = model.renamed("a_name_" * 20)
    humans = [model.renamed(f"subject-{n:02}") for n in range(12)]
    results = [ShapeBiasResult.from_decisions(one, observers=humans) for one in (model, long)]
    table = shape_bias_table(results, published_observers())
    assert max(map(len, table.split("\n"))) <= WIDTH
