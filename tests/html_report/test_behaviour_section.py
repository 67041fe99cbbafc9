"""The part of the page on decisions on the sets of model-vs-human."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from replk_probe.behaviour import BehaviourResult, Trials
from replk_probe.behaviour.display_names import with_display_names, with_distinct_names
from replk_probe.collection import Saved, collected, find_results
from replk_probe.html_report import render_report
from replk_probe.html_report.behaviour_section import behaviour_section
from replk_probe.html_report.names import with_names
from replk_probe.html_report.summary import summary_of
from replk_probe.runtime.provenance import RANDOM_INIT, RunInfo, WeightsInfo

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


def test_what_tables_and_charts_leave_out_is_said() -> None:
    people = [edge(f"subject-{index:02}", *ANSWERS[: index + 1], *["car"] * (3 - index)) for index in (1, 2, 3)]
    other = Trials.from_names("net", "sketch", NAMES, ANSWERS, ANSWERS)
    first = BehaviourResult.from_trials([edge("net", *ANSWERS), *people])
    both = BehaviourResult.from_trials([*people, other])
    (alone,) = behaviour_section([Saved(first)], [0])
    assert alone.remarks == [
        "The charts show the measured networks and people; imported networks are in the table only."
    ]
    (group,) = behaviour_section([Saved(both)], [0])
    assert group.remarks[0].startswith("The numbers of networks with fewer sets are averages of these sets.")
    assert group.observers[0].cells[0].detail == "1 of 2 sets"
    # The accuracy has its interval over images, and the others have theirs over people.
    scores = first.networks[0]
    low, high = scores.intervals["observed_consistency"].people
    assert alone.observers[0].cells[2].interval == f"{low:.3f} to {high:.3f}"
    assert [title for title, _ in alone.charts] == ["Accuracy by set", "Error consistency with people by set"]
    marks = [mark.text for chart in alone.charts for one in chart[1].series for mark in one.marks]
    assert marks == ["People, edge: 75.0 %", f"People, edge: {first.people.error_consistency:.3f}"]


def measured(model: str, *responses: str, dataset: str = "edge") -> BehaviourResult:
    """The result of a network with random weights."""
    trials = Trials.from_names(model.rpartition(":")[2], dataset, NAMES, responses, ANSWERS)
    run = RunInfo(
        model=model, weights=WeightsInfo(RANDOM_INIT, seed=3), image_source="folder:sets", image_ids=NAMES,
        input_size=(48, 48), mean=(0.5,) * 3, std=(0.5,) * 3, seed=7, device="cpu", precision="fp32", backend="aten",
        seconds=1.5,
    )  # fmt: skip
    return BehaviourResult.from_trials([], measured=[trials], run=run)


def test_names_in_records_become_printable() -> None:
    result = measured("net", *ANSWERS)
    assert isinstance(result.run, RunInfo)
    hostile = replace(result, run=replace(result.run, model="a\x1b[31m\n\u202e\xa0:net"))
    (shown,) = with_display_names([hostile])
    assert [one.name for one in shown.networks] == ["a\\x1b[31m\\n\\u202e :net"]
    assert "a\\x1b[31m" in render_report([hostile])


def test_networks_with_one_short_name_are_measured_ones() -> None:
    results = [
        measured("torchvision:net", *ANSWERS),
        measured("torchvision:net", *ANSWERS, dataset="sketch"),
        measured("net", "cat", "dog", "bear", "car"),
    ]
    groups = behaviour_section([Saved(one) for one in results[:2]], [0, 1])
    assert [[row.name for row in one.observers[:-1]] for one in groups] == [["torchvision:net"], ["torchvision:net"]]
    assert all(len(one.charts[0][1].series) == 2 for one in groups)
    both, _ = behaviour_section([Saved(one) for one in results], [0, 1, 2])
    assert [row.name for row in both.observers[:-1]] == ["torchvision:net", "net"]
    assert len(both.charts[0][1].series) == 3 and both.remarks == []


def test_rows_of_the_summary_say_which_set_they_are_of() -> None:
    rows = summary_of(collected([measured("net", *ANSWERS, dataset=name) for name in ("edge", "sketch")])).rows
    assert [row.cells[0].detail for row in rows] == ["edge", "sketch"]
    people = [edge(f"subject-{index:02}", *ANSWERS[: index + 1], *["car"] * (3 - index)) for index in (1, 2, 3)]
    (row,) = summary_of(collected([measured("net", "cat", "dog", "bear", "car").with_observers(people)])).rows
    assert row.cells[1].value is not None and " to " in row.cells[1].interval


def test_a_folder_has_the_raw_data_of_the_last_run_of_a_network(tmp_path: Path) -> None:
    first = measured("torchvision:net", *ANSWERS, dataset="sketch")
    first.save(tmp_path)
    (tmp_path / "raw-data" / "sketch" / "other.csv").write_text("not ours")
    last, named = with_distinct_names([measured("torchvision:net", *ANSWERS), measured("net", *ANSWERS)])
    measured("torchvision:net", *ANSWERS).save(tmp_path)  # as before the other network was measured
    last.save(tmp_path)
    names = sorted(path.name for path in (tmp_path / "raw-data").rglob("*.csv"))
    assert names == ["edge_torchvision:net_session-1.csv", "other.csv"]
    (tmp_path / "raw-data" / "sketch" / "other.csv").unlink()
    assert BehaviourResult.load(tmp_path) == last and last.model == "torchvision:net" and named.model == "net"
    assert last.scores("torchvision:net").accuracy == 1


def test_a_note_of_all_models_is_shown_once() -> None:
    assert with_names([("a", ["x", "y"]), ("b", ["x"])]) == [([], "x"), (["a"], "y")]
