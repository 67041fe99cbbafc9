"""Tests of the records of benchmarks, their comparison and their history, with drawn times."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from replk_probe.results import as_plain, strict_json

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
Main = Callable[..., tuple[int, str]]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("_bench_record")


@pytest.fixture
def run_script(
    record: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Function that runs a script in this process and returns its exit status and output."""

    def run_script(name: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        status: Any = 0
        try:
            importlib.import_module(name).main()
        except SystemExit as error:
            status = error.code
        captured = capsys.readouterr()
        return int(status or 0), captured.out + captured.err

    return run_script


def drawn(seed: int, noise: float, factor: float = 1.0, repeats: int = 9, load: float = 1.0) -> dict[str, list[float]]:
    """Times of a peer of one second and of a variant of half a second times a factor; the load slows both in a turn."""
    generator = np.random.default_rng(seed)
    common = load * np.exp(generator.normal(0, 0.2, repeats))
    own = np.exp(generator.normal(0, noise, (2, repeats)))
    return {"plain": [*(common * own[0])], "fast": [*(0.5 * factor * common * own[1])]}


def run_of(record: ModuleType, times: dict[str, Sequence[float]], **changes: Any) -> Any:
    """A run with one case of two variants, the second of which is compared with the first."""
    cases = tuple(
        record.Case("network 64x64", variant, "s", tuple(seconds), None if variant == "plain" else "plain")
        for variant, seconds in times.items()
    )
    run = record.Run(
        script="bench_drawn",
        date="2026-01-02T03:04:05+00:00",
        commit="0123456789abcdef",
        processor="a processor",
        device="cpu",
        threads=1,
        torch_capability="AVX2",
        load=0.5,
        versions={"replk-probe": "1", "torch": "2"},
        cases=cases,
    )
    return replace(run, **changes)


def saved(run: Any, path: Path) -> Path:
    path.write_text(strict_json({"schema_version": 1, **as_plain(run)}), encoding="utf-8")
    return path


@pytest.fixture
def compare(record: ModuleType, run_script: Main, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Function that compares two runs with the script."""

    def compare(old: Any, new: Any, *options: str) -> tuple[int, str]:
        paths = saved(old, tmp_path / "old.json"), saved(new, tmp_path / "new.json")
        return run_script("compare_bench", *paths, *options)

    return compare


@pytest.mark.parametrize(
    ("noise", "factor", "status", "summary"),
    [
        (0.02, 1.0, 0, "1 case: 0 slower, 0 faster, 1 unchanged within 5 % and the noise."),
        (0.02, 1.2, 1, "1 case: 1 slower, 0 faster, 0 unchanged"),
        (0.02, 1 / 1.2, 0, "1 case: 0 slower, 1 faster, 0 unchanged"),
        (0.4, 1.2, 0, "1 case: 0 slower, 0 faster, 1 unchanged"),
    ],
    ids=["no change", "slower", "faster", "slower, but noisy"],
)
def test_a_change_counts_if_it_is_larger_than_the_noise(
    record: ModuleType, compare: Main, noise: float, factor: float, status: int, summary: str
) -> None:
    # All of the second run takes twice as long, peer included, as with another program on the machine.
    old, new = (
        run_of(record, drawn(seed, noise, by, load=load)) for seed, by, load in ((0, 1.0, 1.0), (1, factor, 2.0))
    )
    found, printed = compare(old, new)
    assert (found, summary in printed) == (status, True), printed
    assert "network 64x64, fast" in printed and "network 64x64, plain" not in printed


def test_times_without_a_peer_are_compared_directly(record: ModuleType, compare: Main) -> None:
    times = {"plain": drawn(0, 0.01)["plain"]}
    twice = {"plain": [2 * value for value in times["plain"]]}
    status, printed = compare(run_of(record, times), run_of(record, twice))
    assert status == 1 and "2.00" in printed and "network 64x64, plain" in printed


def test_the_peer_is_that_of_the_old_run(record: ModuleType, compare: Main) -> None:
    # Another variant of torch is the fastest one in the new run; it is not what this package is compared with.
    times = {"plain": [1.0] * 5, "fft": [1.1] * 5, "fast": [0.5] * 5}
    old, new = run_of(record, times), run_of(record, times | {"fft": [0.9] * 5})
    old = replace(old, cases=tuple(replace(one, peer="plain" if one.variant == "fast" else None) for one in old.cases))
    new = replace(new, cases=tuple(replace(one, peer="fft" if one.variant == "fast" else None) for one in new.cases))
    status, printed = compare(old, new)
    assert status == 0 and "1.00 (1.00 to 1.00)" in printed and "1 case:" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processor": "another one"}, "They differ in processor a processor and another one."),
        ({"threads": 2}, "They differ in threads 1 and 2."),
        ({"torch_capability": "AVX512"}, "They differ in torch capability AVX2 and AVX512."),
        ({"script": "bench_other"}, "They differ in script bench_drawn and bench_other."),
        ({"device": "cuda:0 (a GPU)"}, "They differ in device cpu and cuda:0 (a GPU)."),
        ({"cases": ()}, "They have no case in common."),
    ],
)
def test_runs_that_cannot_be_compared(record: ModuleType, compare: Main, changes: dict[str, Any], message: str) -> None:
    run = run_of(record, drawn(0, 0.01))
    status, printed = compare(run, replace(run, **changes))
    assert status == 2 and message in printed and printed.count("\n") == 1


def test_what_else_differs_is_stated(record: ModuleType, compare: Main) -> None:
    run = run_of(record, drawn(0, 0.01))
    other = replace(run.cases[0], name="another network")
    new = replace(run, versions=run.versions | {"torch": "3"}, cases=(*run.cases, other), commit="0123456789-dirty")
    status, printed = compare(run, new)
    assert status == 0 and "Versions differ: torch: 2 and 3." in printed
    assert "Only in NEW: another network." in printed and "commit 01234567, with changes" in printed


def test_three_repeats_are_too_few(record: ModuleType, compare: Main) -> None:
    status, printed = compare(run_of(record, drawn(0, 0.01)), run_of(record, drawn(1, 0.01, 3.0, repeats=3)))
    assert status == 0 and "1 with fewer than 4 repeats" in printed


def test_a_long_table_starts_with_what_changed(record: ModuleType, compare: Main) -> None:
    run = run_of(record, {})
    cases = [record.Case(f"network {number}", "ours", "s", (1.0,) * 4) for number in range(30)]
    slower = [*cases[:20], replace(cases[20], repeats=(1.5,) * 4), *cases[21:]]
    old, new = replace(run, cases=tuple(cases)), replace(run, cases=tuple(slower))
    status, printed = compare(old, new)
    assert status == 1 and len(printed.splitlines()) <= 24
    assert printed.splitlines()[5].startswith("network 20") and "and 15 other cases" in printed
    assert len(compare(old, new, "--all")[1].splitlines()) > 30


@pytest.mark.parametrize(
    ("count", "lowest", "highest"),
    [(3, None, None), (4, 1, 4), (5, 1, 5), (9, 2, 8), (30, 11, 20)],
)
def test_the_interval_of_a_median_lies_between_order_statistics(
    record: ModuleType, count: int, lowest: int | None, highest: int | None
) -> None:
    # The largest k with P(B < k) <= 0.08, where B is the number of heads of ``count`` coins, for any distribution.
    values = [*map(float, range(1, count + 1))]
    expected = None if lowest is None or highest is None else (float(lowest), float(highest))
    assert record.median_interval(values) == expected


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 2}', '{"schema_version": 1, "script": "x"}'])
def test_other_files_are_refused(record: ModuleType, run_script: Main, tmp_path: Path, text: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text, encoding="utf-8")
    good = saved(run_of(record, drawn(0, 0.01)), tmp_path / "good.json")
    status, printed = run_script("compare_bench", good, path)
    assert status == 2 and printed.startswith("Error: ") and "damaged.json" in printed


def test_a_record_is_read_back(record: ModuleType, tmp_path: Path) -> None:
    cases = (record.Case("network", "fast", "CPU s", (1.0, 2.0), "plain", {"sides": [3, 5]}),)
    record.write_run(tmp_path / "run.json", "/some/where/bench_some.py", cases)
    run = record.Run.load_json(tmp_path / "run.json")
    assert run.script == "bench_some" and run.cases == cases and run.threads == 1 and run.versions["torch"]
    record.write_run(None, "bench_some.py", cases)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_runs_are_added_to_the_history_once(record: ModuleType, run_script: Main, tmp_path: Path) -> None:
    runs = [run_of(record, drawn(seed, 0.01), date=f"2026-01-0{seed}T00:00:00+00:00") for seed in (1, 2)]
    paths = [saved(run, tmp_path / f"{number}.json") for number, run in enumerate(runs)]
    folder = tmp_path / "history"
    assert run_script("bench_history", "--folder", folder, *paths)[0] == 0
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert run_script("bench_history", "--folder", folder, paths[0])[0] == 0
    assert (folder / "table.md").read_text(encoding="utf-8") == table
    with (folder / "history.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["variant"], row["peer"], row["date"][:10]) for row in rows] == [
        ("plain", "", "2026-01-01"),
        ("fast", "plain", "2026-01-01"),
        ("plain", "", "2026-01-02"),
        ("fast", "plain", "2026-01-02"),
    ]
    assert float(rows[1]["speedup_low"]) <= float(rows[1]["speedup"]) <= float(rows[1]["speedup_high"])
    assert float(rows[1]["speedup"]) == pytest.approx(2, rel=0.03)
    assert "## bench_drawn: a processor, 1 thread, AVX2" in table
    titles = (f"2026-01-0{day}, 01234567, torch 2, load 0.5" for day in (2, 1))
    assert f"| Case | Variant | Peer | {' | '.join(titles)} |" in table
    assert re.search(r"\| network 64x64 \| fast \| plain \| 0\.\d+ s, \d\.\d+x \(\d\.\d+ to \d\.\d+\) \|", table)


@pytest.mark.parametrize("commit", [None, "0123456789-dirty"])
def test_runs_of_unknown_code_are_not_added(
    record: ModuleType, run_script: Main, tmp_path: Path, commit: str | None
) -> None:
    path = saved(run_of(record, drawn(0, 0.01), commit=commit), tmp_path / "run.json")
    status, printed = run_script("bench_history", "--folder", tmp_path / "history", path)
    assert status == 2 and "Commit the changes and measure again." in printed and not (tmp_path / "history").exists()


def test_the_table_of_this_repository_is_that_of_its_history(run_script: Main, tmp_path: Path) -> None:
    shipped = SCRIPTS.parent / "figures" / "bench"
    (tmp_path / "history.csv").write_bytes((shipped / "history.csv").read_bytes())
    assert run_script("bench_history", "--folder", tmp_path)[0] == 0
    assert (tmp_path / "table.md").read_bytes() == (shipped / "table.md").read_bytes()
    assert (tmp_path / "history.csv").read_bytes() == (shipped / "history.csv").read_bytes()
