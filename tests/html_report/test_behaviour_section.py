"""The part of the page on decisions on the sets of model-vs-human."""

from __future__ import annotations

from pathlib import Path

from replk_probe.behaviour import BehaviourResult, Trials
from replk_probe.collection import find_results
from replk_probe.html_report import render_report

NAMES = ("cat1.png", "dog1.png", "bear1.png", "oven1.png")
ANSWERS = ("cat", "dog", "bear", "oven")


def edge(observer: str, *responses: str) -> Trials:
    return Trials.from_names(observer, "edge", NAMES, responses, ANSWERS)


def test_networks_and_people_are_shown(tmp_path: Path) -> None:
    trials = [
        edge("<b>net</b>", "cat", "dog", "bear", "car"),
        edge("subject-01", "cat", "dog", "car", "oven"),
        edge("subject-02", "cat", "dog", "bear", "oven"),
    ]
    result = BehaviourResult.from_trials(trials, source="import:raw-data")
    result.save(tmp_path / "a")
    found = find_results(tmp_path)
    assert [one.result for one in found.behaviour] == [result] and found.n_results == 1
    page = render_report(found)
    assert 'id="behaviour"' in page and "OOD accuracy" in page and "People (mean)" in page
    assert "<b>net</b>" not in page
    assert "75.0" in page  # the accuracy of the network
    assert "87.5" in page  # that of people: 3 / 4 and 1
    assert 'href="#behaviour"' in page
