"""Add runs of benchmarks to the history in figures/bench/, and write its table.

    python scripts/bench_prepare.py --json prepare.json
    python scripts/bench_history.py prepare.json
    python scripts/bench_history.py                      # only write the table again

history.csv has one row for each variant of each run, and table.md shows the latest runs of each machine. Runs of a
checkout with changes, or of an unknown commit, are refused.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterable
from pathlib import Path

from _bench_record import ROOT, Run, load_runs, median_interval

from replk_probe.results import csv_text
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.formatting import counted

FOLDER = ROOT / "figures" / "bench"
SHOWN = 4  # runs in the table of each machine
# The columns that say which machine a row is from, and which run.
MACHINE = ("script", "processor", "device", "threads", "torch_capability")
RUN = ("date", "commit", "replk_probe", "torch", "load")
COLUMNS = (
    *MACHINE, *RUN, "name", "variant", "unit", "repeats", "median", "peer", "speedup", "speedup_low", "speedup_high",
)  # fmt: skip
Row = dict[str, str]
HEADING = """# History of the benchmarks

Medians of all repeats of a run. The number with an x is the speed-up over the peer in the same run: the time of the
peer divided by that of the variant, as the median over the turns with an interval of this median (at least 84 %). It
depends less on other programs on the machine than the time does. The load at the end includes that of the run itself.
`history.csv` has all runs. To add one, see CONTRIBUTING.md.
"""


def rows_of(run: Run) -> list[Row]:
    """The rows of a run."""
    place = {name: str(getattr(run, name)) for name in MACHINE}
    versions = {"replk_probe": run.versions["replk-probe"], "torch": run.versions["torch"]}
    place |= {"date": run.date, "commit": run.commit or "", "load": f"{run.load:.1f}", **versions}
    rows = []
    for case in run.cases:
        row = place | {"name": case.name, "variant": case.variant, "unit": case.unit}
        row |= {"repeats": str(len(case.repeats)), "median": f"{statistics.median(case.repeats):.4g}"}
        peer = run.peer_of(case)
        if peer is not None:
            speedups = [1 / ratio for ratio in run.ratios(case, peer)]
            low, high = median_interval(speedups) or ("", "")
            row |= {"peer": peer, "speedup": f"{statistics.median(speedups):.4g}"}
            row |= {name: f"{end:.4g}" for name, end in (("speedup_low", low), ("speedup_high", high)) if end != ""}
        rows.append({column: row.get(column, "") for column in COLUMNS})
    return rows


def cell(row: Row | None) -> str:
    """A row as text in the table."""
    if row is None:
        return ""
    median, unit = float(row["median"]), row["unit"]
    if unit.endswith("s") and median < 0.1:
        median, unit = 1e3 * median, unit.removesuffix("s") + "ms"
    low, speedup, high = (
        f"{float(row[name]):.3g}" if row[name] else "" for name in ("speedup_low", "speedup", "speedup_high")
    )
    return f"{median:.3g} {unit}" + (f", {speedup}x" if speedup else "") + (f" ({low} to {high})" if low else "")


def markdown(rows: Iterable[Row]) -> str:
    """The tables of all machines, each with its latest runs as columns, the latest first."""
    rows = [*rows]
    parts = [HEADING]
    for machine in sorted({tuple(row[name] for name in MACHINE) for row in rows}):
        own = [row for row in rows if tuple(row[name] for name in MACHINE) == machine]
        runs = sorted({tuple(row[name] for name in RUN) for row in own}, reverse=True)[:SHOWN]
        script, processor, device, threads, capability = machine
        place = f"{processor}, {counted(int(threads), 'thread')}, {capability}" if device == "cpu" else device
        titles = [f"{date[:10]}, {commit[:8]}, torch {torch}, load {load}" for date, commit, _, torch, load in runs]
        lines = [
            f"## {script}: {place}\n",
            f"| Case | Variant | Peer | {' | '.join(titles)} |",
            f"|---|---|---|{'---|' * len(runs)}",
        ]
        keys = dict.fromkeys((row["name"], row["variant"], row["unit"], row["peer"]) for row in own)
        for key in keys:
            found = {
                tuple(row[name] for name in RUN): row
                for row in own
                if (row["name"], row["variant"], row["unit"], row["peer"]) == key
            }
            name, variant, _, peer = key
            cells = (name, variant, peer, *(cell(found.get(run)) for run in runs))
            lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Add the given runs, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="File that a benchmark wrote with --json.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="Folder of the history; by default figures/bench.")
    args = parser.parse_args()
    history = args.folder / "history.csv"
    rows: list[Row] = []
    if history.exists():
        with history.open(encoding="utf-8", newline="") as stream:
            rows = [*csv.DictReader(stream)]
    for path, run in zip(args.runs, load_runs(parser, args.runs), strict=True):
        if run.commit is None or run.commit.endswith("-dirty"):
            parser.exit(
                2,
                f"Error: {path} cannot be added. It was measured with a commit that is not known, or with changes. "
                "Commit the changes and measure again.\n",
            )
        rows += [row for row in rows_of(run) if row not in rows]
    atomic_write_text(history, csv_text(rows, COLUMNS))
    atomic_write_text(args.folder / "table.md", markdown(rows))
    print(f"{history}: {counted(len({row['date'] for row in rows}), 'run')}, {counted(len(rows), 'row')}")


if __name__ == "__main__":
    main()
