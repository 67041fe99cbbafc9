"""The table of decisions on the sets of model-vs-human."""

from __future__ import annotations

import numpy as np
import pytest

from replk_probe.behaviour import BENCHMARK_SETS, BehaviourResult, Trials
from replk_probe.report.behaviour_table import behaviour_table
from replk_probe.report.text import Layout
from replk_probe.shape_bias.stimuli.names import CATEGORIES


def trials(observer: str, dataset: str, seed: int) -> Trials:
    """Random decisions on twenty images of each condition, for which intervals have no note."""
    random = np.random.default_rng(seed)
    levels = [level for level in BENCHMARK_SETS[dataset].levels for _ in range(20)]
    names = [f"{index}_x_x_{level}_cat_0_n0_{index}.png" for index, level in enumerate(levels)]
    responses = [CATEGORIES[index] for index in random.integers(6, 9, len(levels))]
    return Trials(observer, dataset, tuple(names), ("cat",) * len(levels), tuple(levels), tuple(responses))


def test_the_table_of_all_sets_has_twenty_short_lines() -> None:
    observers = ["network", "subject-01", "subject-02", "subject-03"]
    everything = [trials(name, dataset, seed) for seed, name in enumerate(observers) for dataset in BENCHMARK_SETS]
    lines = behaviour_table([BehaviourResult.from_trials(everything)], Layout(80)).splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= 80
    assert "The numbers of 17 sets are in behaviour.csv." in lines
    people = [one for one in everything if one.is_human]
    lines = behaviour_table([BehaviourResult.from_trials(people)], Layout(80)).splitlines()
    assert len(lines) <= 26 and any(line.startswith("uniform-noise") for line in lines)


def test_the_numbers_are_those_of_the_result() -> None:
    members = [trials(name, "edge", seed) for seed, name in enumerate(["net", "subject-01", "subject-02"])]
    result = BehaviourResult.from_trials([*members, trials("part", "rotation", 5), trials("net", "rotation", 6)])
    text = behaviour_table([result])
    row = next(line for line in text.splitlines() if line.startswith("net "))
    assert f"{100 * result.scores('net').accuracy:.1f}" in row
    assert "part (1 of 2 sets)" in text
    legend = "networks with fewer sets"
    assert "rank: mean rank of the networks with all sets" in " ".join(text.split())
    assert legend in text and legend not in behaviour_table([BehaviourResult.from_trials(members)])
    assert row.endswith(" -")  # the only network with both sets
    edge = next(line for line in text.splitlines() if line.startswith("edge "))
    assert f"{100 * result.scores('net', 'edge').accuracy:.1f}" in edge
    assert f"{result.scores('net', 'edge').error_consistency:.3f}" in edge
    assert text.count("Import the folder raw-data") == 1  # the people of rotation are the published ones


@pytest.mark.parametrize("width", [30, 60, 200])
def test_any_width(width: int) -> None:
    assert "people" in behaviour_table([BehaviourResult.from_trials([trials("net", "edge", 0)])], Layout(width))
