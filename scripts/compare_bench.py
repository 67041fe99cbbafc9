"""What became slower between two runs of a benchmark by more than the noise.

    python scripts/bench_prepare.py --json old.json     # before a change
    python scripts/bench_prepare.py --json new.json     # after it, on the same machine
    python scripts/compare_bench.py old.json new.json

A value is compared relative to its peer in the same run, such as plain torch, turn by turn, because other load on the
machine slows both. Values without a peer are compared directly. The median of the repeats of each run has an interval
that holds for any distribution (84 %, between order statistics; at least four repeats). The interval of the change is
the quotient of these: from the lower end of NEW over the upper end of OLD, to the upper over the lower. A case is
slower if all of this interval is above 1 + TOLERANCE, and faster if all of it is below 1 / (1 + TOLERANCE). The
tolerance stands for what differs between two runs of the same code, such as the placement of memory, and what repeats
within a run do not show.

The exit status is 1 if a case is slower, and 2 if the runs cannot be compared: they are of different scripts,
processors, GPUs, instruction sets or numbers of threads, or have no case in common.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from _bench_record import FEWEST, Case, Run, load_runs, median_interval

from replk_probe.report.text import table, terminal_layout
from replk_probe.runtime.formatting import counted

MOST_ROWS = 15
SLOWER, FASTER, SAME, FEW = "slower", "faster", "", f"fewer than {FEWEST} repeats"


class Change(NamedTuple):
    """Change of a case between two runs.

    Attributes:
        case: The case in the new run.
        peer: Variant to which both values are relative, or None.
        old: Median of the old run, as a multiple of the peer or in the unit of the case.
        new: That of the new run.
        interval: Interval of new over old, or None with too few repeats.
    """

    case: Case
    peer: str | None
    old: float
    new: float
    interval: tuple[float, float] | None

    def verdict(self, tolerance: float) -> str:
        """Whether the case became slower or faster by more than the noise."""
        if self.interval is None:
            return FEW
        low, high = self.interval
        return SLOWER if low > 1 + tolerance else FASTER if high < 1 / (1 + tolerance) else SAME

    def row(self, tolerance: float) -> list[str]:
        """The change as cells of the table."""
        unit = f" {self.case.unit}" if self.peer is None else "x"
        interval = "" if self.interval is None else " ({:.2f} to {:.2f})".format(*self.interval)
        return [
            f"{self.case.name}, {self.case.variant}",
            self.peer or "",
            f"{self.old:.3g}{unit}",
            f"{self.new:.3g}{unit}",
            f"{self.new / self.old:.2f}{interval}",
            self.verdict(tolerance),
        ]


def changes(old: Run, new: Run) -> list[Change]:
    """The change of every case of both runs that is not only a reference for others."""
    found = []
    for case in new.cases:
        before = next((other for other in old.cases if other.key == case.key), None)
        if before is None or new.is_reference(case):
            continue
        # The fastest variant of torch may be another one in the new run.
        peer = old.peer_of(before)
        peer = peer if peer is not None and new.repeats_of((case.name, peer, case.unit)) else None
        values = old.ratios(before, peer), new.ratios(case, peer)
        (first, last), intervals = map(statistics.median, values), [*map(median_interval, values)]
        interval = None
        if intervals[0] is not None and intervals[1] is not None:
            interval = intervals[1][0] / intervals[0][1], intervals[1][1] / intervals[0][0]
        found.append(Change(case, peer, first, last, interval))
    return found


def differences(old: Run, new: Run) -> str | None:
    """Why two runs cannot be compared, or None."""
    different = [
        f"{name} {value} and {new.place[name]}" for name, value in old.place.items() if value != new.place[name]
    ]
    if different:
        return f"The runs cannot be compared. They differ in {', '.join(different)}. Repeat one of them as the other."
    if not changes(old, new):
        return "The runs cannot be compared. They have no case in common. Run both with the same options."
    return None


def notes(old: Run, new: Run) -> list[str]:
    """Facts about two runs that help to judge the changes: other packages, and cases of one run only."""
    found = [
        f"{name}: {version} and {new.versions.get(name)}"
        for name, version in old.versions.items()
        if new.versions.get(name) != version
    ]
    lines = [f"Versions differ: {', '.join(found)}."] if found else []
    for name, run, other in (("OLD", old, new), ("NEW", new, old)):
        alone = sorted({case.name for case in run.cases} - {case.name for case in other.cases})
        if alone:
            lines.append(f"Only in {name}: {'; '.join(alone[:5])}{f' and {len(alone) - 5} more' * (len(alone) > 5)}.")
    return lines


def main() -> None:
    """Compare two runs and print what changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="File that a benchmark wrote with --json.")
    parser.add_argument("new", type=Path, metavar="NEW", help="File of a later run.")
    parser.add_argument("--tolerance", type=float, default=0.05, help="Change that is always noise; by default 0.05.")
    parser.add_argument("--all", action="store_true", help=f"Show all cases instead of at most {MOST_ROWS}.")
    args = parser.parse_args()
    if not 0 <= args.tolerance < math.inf:
        parser.error(f"--tolerance {args.tolerance} is not a positive number or 0")
    old, new = load_runs(parser, (args.old, args.new))
    reason = differences(old, new)
    if reason is not None:
        parser.exit(2, f"Error: {reason}\n")
    found = changes(old, new)
    # What changed comes first: the slower cases, then the faster ones, by the size of the change.
    order = [SLOWER, FASTER, FEW, SAME]
    found.sort(key=lambda one: (order.index(one.verdict(args.tolerance)), -abs(math.log(one.new / one.old))))
    shown = found if args.all else found[:MOST_ROWS]
    print(f"{new.script}, {new.processor}, {new.device}, {counted(new.threads, 'thread')}")
    for name, run in (("OLD", old), ("NEW", new)):
        print(f"{name}: {run.date[:10]}, commit {run.commit_label}, load {run.load:.1f}")
    print()
    rows = [one.row(args.tolerance) for one in shown]
    print("\n".join(table(("case", "relative to", "OLD", "NEW", "NEW / OLD", ""), rows, terminal_layout())))
    if len(found) > len(shown):
        print(f"... and {counted(len(found) - len(shown), 'other case')}; --all shows them.")
    print()
    verdicts = [one.verdict(args.tolerance) for one in found]
    slower, faster, same, few = (verdicts.count(one) for one in (SLOWER, FASTER, SAME, FEW))
    unclear = f", {few} with {FEW}" if few else ""
    print(f"{counted(len(found), 'case')}: {slower} slower, {faster} faster, {same} unchanged", end=" ")
    print(f"within {100 * args.tolerance:g} % and the noise{unclear}.")
    for line in notes(old, new):
        print(line)
    sys.exit(SLOWER in verdicts)


if __name__ == "__main__":
    main()
