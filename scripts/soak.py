"""Kill a sweep again and again, and compare its results with those of a sweep that nobody disturbed.

A sweep of three jobs for each model is run to its end many times. At random moments, a worker, the main process or
everything is killed with SIGKILL, with Ray also a node, and the sweep is continued. It must end with the same bytes and
every job done once, and leave no process or file behind. Linux only. Example::

    python scripts/soak.py --kills 100 --minutes 60
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

MODELS = ["replknet_micro_k13", "resnet10t", "resnet18", "mobilenetv3_small_050"]
SWEEP = """\
models = {models}
weights = "random"
figures = false
[erf]
images = 4
size = 64
[erf.matrix]
seed = [0, 1]
[kernels]
layer = "all"
"""
JOBS_OF_A_MODEL = 3
# Worker processes of the local engine; the nodes of Ray's cluster have one core each.
VARIANTS = {"local": [1, 2, 3], "ray": ["ray"]}
# A job is not tried again when its process was killed three times.
MOST_WORKERS_KILLED = 2
SECONDS_TO_END = 60  # for processes whose parent was killed

Process = tuple[int, str]  # its number and the time of its start, since numbers are used again


def check(condition: object, message: str) -> None:
    """End the soak test with a message unless the condition holds."""
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def stat_of(process: int) -> list[str]:
    """State, parent, group, session and so on, as in ``/proc/PID/stat``; empty if there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def command_of(process: int) -> str:
    """Command line of a process."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def descendants(root: int) -> list[Process]:
    """The processes that a process has started, directly or indirectly."""
    stats = {int(path.name): stat_of(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found, parents = [], [root]
    while parents:
        parent = parents.pop()
        children = [process for process, stat in stats.items() if stat and stat[1] == str(parent)]
        found += [(process, stats[process][19]) for process in children]
        parents += children
    return found


def is_running(process: Process) -> bool:
    """Whether a process exists, and is not one that only waits for its parent."""
    stat = stat_of(process[0])
    return bool(stat) and stat[19] == process[1] and stat[0] != "Z"


def kill(process: int) -> None:
    """Kill a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def wait_for_end(processes: list[Process]) -> None:
    """Wait until processes have ended, which is only a matter of time."""
    until = time.monotonic() + SECONDS_TO_END
    while (left := [one for one in processes if is_running(one)]) and time.monotonic() < until:
        time.sleep(0.05)
    check(not left, f"orphan processes: {[(number, command_of(number)) for number, _ in left]}")


def files(folder: Path) -> set[str]:
    """All files and empty folders."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files that may not differ between two runs; the others have times."""
    return {name: (folder / name).read_bytes() for name in files(folder) if name.endswith((".csv", ".npz"))}


class Nodes:
    """A Ray cluster of two nodes on this machine."""

    def __init__(self) -> None:  # noqa: D107
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._options = {"num_cpus": 1, "object_store_memory": 100 << 20}
        head = self._options | {"include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self._second: Any = self._cluster.add_node(**self._options)
        self.address: str = self._cluster.address

    def remove_or_add(self) -> str:
        """Remove the second node or add it again; which of the two was done."""
        if self._second is None:
            self._second = self._cluster.add_node(**self._options)
            return "add node"
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None
        return "remove node"

    def end(self) -> None:
        """End all processes of the cluster."""
        self._cluster.shutdown()


class Soak:
    """A sweep that is killed and continued.

    Args:
        folder: Folder of the file, of the undisturbed sweep, and of the current one.
        chance: Source of all random choices; the moments also depend on how fast the machine is.
        engines: Names of engines, which are used in turn.
        models: Number of models.
    """

    def __init__(self, folder: Path, chance: random.Random, engines: list[str], models: int) -> None:  # noqa: D107
        self.file, self.reference, self.out = folder / "sweep.toml", folder / "undisturbed", folder / "out"
        self.chance = chance
        self.variants = [variant for engine in engines for variant in VARIANTS[engine]]
        self.counts: Counter[str] = Counter()
        self.nodes: Nodes | None = None
        self.jobs = JOBS_OF_A_MODEL * models
        self.file.write_text(SWEEP.format(models=json.dumps(MODELS[:models])))
        start = time.monotonic()
        check(self.start(self.reference, 1).wait() == 0, "the undisturbed sweep")
        self.seconds = time.monotonic() - start
        self.expected, self.names = contents(self.reference), files(self.reference)
        done = len(list(self.reference.glob("*/*/job.json")))
        check(done == self.jobs, f"the undisturbed sweep has {done} instead of {self.jobs} jobs")

    def start(self, out: Path, variant: int | str) -> subprocess.Popen[bytes]:
        """Start or continue a sweep."""
        options = ["--workers", str(variant)]
        if variant == "ray":
            self.nodes = self.nodes or Nodes()
            options = ["--engine", "ray", "--address", self.nodes.address]
        command = [sys.executable, "-m", "replk_probe", "sweep", self.file, "--output", out, *options]
        with out.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def until_done(self, most_kills: int, until: float) -> None:
        """Run one sweep to its end, with kills, and check what it leaves behind."""
        shutil.rmtree(self.out, ignore_errors=True)
        done: dict[Path, tuple[int, int]] = {}
        finished = False
        while not finished:
            variant = self.variants[self.counts["starts"] % len(self.variants)]
            self.counts["starts"] += 1
            driver = self.start(self.out, variant)
            workers_killed = 0
            while True:
                may_kill = self.counts["kills"] < most_kills and time.monotonic() < until
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(self.chance.uniform(0, 2 * self.seconds) if may_kill else None)
                if driver.returncode is not None:
                    log = self.out.with_suffix(".log").read_text(errors="replace")
                    check(driver.returncode == 0, f"the sweep failed:\n{log[-3000:]}")
                    finished = True
                    break
                kinds = ["driver", "everything", *["worker"] * (workers_killed < MOST_WORKERS_KILLED)]
                kind = self.chance.choice([*kinds, *["node"] * (variant == "ray")])
                self.disturb(kind, variant, driver)
                workers_killed += kind in ("worker", "node")
                if kind in ("driver", "everything"):
                    break
            found = {path.parent: (path.parent.stat().st_ino, path.stat().st_mtime_ns) for path in self.results()}
            check(
                found.items() >= done.items(),
                f"done twice or lost: {[str(one) for one in done.items() - found.items()]}",
            )
            done = found
        self.counts["sweeps"] += 1
        check(files(self.out) == self.names, f"other files: {sorted(files(self.out) ^ self.names)}")
        check(contents(self.out) == self.expected, "other bytes")
        states = Counter(job["state"] for job in json.loads((self.out / "sweep.json").read_text())["jobs"])
        check(states == {"done": self.jobs}, f"states of the jobs: {states}")

    def results(self) -> list[Path]:
        """The records of the jobs that are done."""
        return [path for path in self.out.glob("*/*/job.json") if "unfinished" not in path.parts]

    def disturb(self, kind: str, variant: int | str, driver: subprocess.Popen[bytes]) -> None:
        """Kill something, and wait until the processes have ended that depend on it."""
        started = descendants(driver.pid)
        if kind == "node":
            assert self.nodes is not None
            kind = self.nodes.remove_or_add()
        elif kind == "worker":
            # The workers of Ray are processes of its nodes, which this process has started; they have the keys of jobs.
            root = os.getpid() if variant == "ray" else driver.pid
            is_worker = re.compile(r"ray::[0-9a-f]{16}" if variant == "ray" else "spawn_main")
            workers: list[int] = []
            while not workers:  # they start later
                if driver.poll() is not None:
                    return
                time.sleep(0.1)
                workers = [process for process, _ in descendants(root) if is_worker.search(command_of(process))]
            kill(self.chance.choice(workers))
        else:
            if kind == "everything":
                os.killpg(driver.pid, signal.SIGKILL)
                if variant == "ray" and self.nodes is not None:
                    started += descendants(os.getpid())
                    self.nodes.end()
                    self.nodes = None
            driver.kill()
            driver.wait()
            wait_for_end(started)
        self.counts["kills"] += kind != "add node"
        self.counts[f"{kind}, {'ray' if variant == 'ray' else 'local'}"] += 1
        print(
            f"{self.counts['kills']:4}  {kind:12} {variant!s:4} {len(self.results()):3} of {self.jobs} jobs done",
            flush=True,
        )

    def end(self) -> None:
        """End the cluster, and check that no process is left."""
        if self.nodes is not None:
            self.nodes.end()
        wait_for_end(descendants(os.getpid()))


def main() -> None:
    """Kill sweeps until there were enough kills or the time has passed, and print how often what was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default 100)")
    parser.add_argument(
        "--minutes", type=float, default=60, help="time after which nothing more is killed (default 60)"
    )
    parser.add_argument("--engine", choices=["local", "ray", "both"], default="both", help="(default both)")
    parser.add_argument(
        "--models",
        type=int,
        choices=range(1, len(MODELS) + 1),
        default=len(MODELS),
        help="number of models (default 4)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default 0)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="replk-probe-soak-"))
    engines = list(VARIANTS) if options.engine == "both" else [options.engine]
    print(f"Working in {folder}", flush=True)
    soak = Soak(folder, random.Random(options.seed), engines, options.models)
    print(f"The undisturbed sweep took {soak.seconds:.0f} s", flush=True)
    until = time.monotonic() + 60 * options.minutes
    try:
        while soak.counts["kills"] < options.kills and time.monotonic() < until:
            soak.until_done(options.kills, until)
    finally:
        soak.end()
        print(json.dumps(dict(sorted(soak.counts.items())), indent=2))
    shutil.rmtree(folder)
    print("All sweeps ended with the same bytes, every job was done once, and nothing was left behind.")


if __name__ == "__main__":
    main()
