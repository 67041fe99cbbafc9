"""Tasks on Ray: on one that is started here, and on a cluster of two nodes, one of which is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import replk_probe
from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.sweeps.engines.interface import Failure, Finished
from replk_probe.sweeps.engines.ray import RayEngine

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'replk-probe[ray]'")
pytestmark = pytest.mark.slow

SWEEP = {
    "models": ["resnet10t", "replknet_micro_k13"],
    "weights": "random",
    "figures": False,
    "erf": {"images": 2, "size": 64},
    "kernels": {"layer": "all"},
}


def ended(engine: RayEngine, count: int, seconds: float = 120) -> dict[str, Failure | None]:
    found: list[Finished] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        found += engine.wait(1)
    return {finished.task: finished.failure for finished in found}


def processes(folder: Path, count: int) -> list[int]:
    """The processes that have written files into a folder, named by their numbers."""
    until = time.monotonic() + 60
    while len(found := [int(path.name) for path in folder.iterdir()]) < count and time.monotonic() < until:
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Let workers import the package that is tested, which need not be installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        yield


ROOT = Path(replk_probe.__file__).parent.parent


@pytest.fixture(scope="module")
def engine(importable: None) -> Iterator[RayEngine]:
    made = RayEngine(2)
    yield made
    made.close()
    assert not ray.is_initialized()


def test_tasks_run_and_errors_are_returned(engine: RayEngine) -> None:
    engine.submit("good", time.sleep, 0)
    engine.submit("bad", time.sleep, "x")
    assert engine.free == 0
    found = ended(engine, 2)
    assert found["good"] is None and engine.free == 2
    assert found["bad"] is not None and "Traceback" in found["bad"].details
    assert found["bad"].reason.startswith("'str' object cannot be interpreted")
    assert engine.wait(0) == []


def test_a_killed_process_is_replaced(engine: RayEngine, tmp_path: Path) -> None:
    # The shell ends the process of the task, which is its parent.
    marker = tmp_path / "marker"
    engine.submit("victim", os.system, f"if [ ! -e {marker} ]; then touch {marker}; kill -9 $PPID; fi")
    assert ended(engine, 1) == {"victim": None} and marker.exists()


def test_the_threads_of_libraries_are_set(engine: RayEngine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    engine.submit("threads", os.system, f"echo $OMP_NUM_THREADS $MKL_NUM_THREADS $CUDA_VISIBLE_DEVICES > {out}")
    assert ended(engine, 1) == {"threads": None} and out.read_text() == "1 1\n"


def test_a_task_that_ends_its_process_fails_after_some_attempts(engine: RayEngine) -> None:
    engine.submit("deadly", os._exit, 1)
    failure = ended(engine, 1)["deadly"]
    assert failure is not None and "was lost 6 times" in failure.reason


def test_a_task_that_takes_too_long_is_ended(engine: RayEngine) -> None:
    impatient = RayEngine(2, timeout=3)  # on the same Ray
    impatient.submit("slow", time.sleep, 600)
    failure = ended(impatient, 1)["slow"]
    assert failure is not None and "longer than 3 s" in failure.reason
    impatient.submit("fast", time.sleep, 0)
    assert ended(impatient, 1) == {"fast": None}
    impatient.submit("running", time.sleep, 600)
    start = time.monotonic()
    impatient.close()
    assert time.monotonic() - start < 60 and ray.is_initialized()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_the_memory_of_a_task_is_limited(engine: RayEngine) -> None:
    with pytest.raises(InvalidInputError, match=r"No node of Ray can run a job. A job needs 1 cores, 1.05e\+06 GiB"):
        RayEngine(1, max_memory=1 << 50)
    small = RayEngine(1, max_memory=2 << 30)
    small.submit("large", bytearray, 4 << 30)
    failure = ended(small, 1)["large"]
    assert failure is not None and failure.reason.startswith("The memory that the process may take does not suffice.")
    small.close()


def test_a_cluster_has_an_address(importable: None) -> None:
    with pytest.raises(InvalidInputError, match="Only Ray has one"):
        replk_probe.sweep(SWEEP, address="auto")


def test_ray_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"Run pip install 'replk-probe\[ray\]'"):
        RayEngine(1)


def test_the_engine_changes_no_byte(engine: RayEngine, tmp_path: Path) -> None:
    local = replk_probe.sweep(SWEEP, tmp_path / "local", workers=1)
    on_ray = replk_probe.sweep(SWEEP, tmp_path / "ray", workers=2, engine="ray")
    assert local.count("done") == on_ray.count("done") == 4

    def contents(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".csv", ".npz")
        }

    assert contents(local.folder) == contents(on_ray.folder)


@pytest.fixture
def cluster(engine: RayEngine) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    engine.close()
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.second = made.add_node(num_cpus=1, object_store_memory=100 << 20)
    yield made
    made.shutdown()


def test_the_tasks_of_a_removed_node_run_again(cluster: Any, tmp_path: Path) -> None:
    engine = RayEngine(None, address=cluster.address)
    assert engine.free == 64
    command = f"sh -c 'touch {tmp_path}/$$; sleep 6'"
    engine.submit("first", os.system, command)
    engine.submit("second", os.system, command)
    assert len(processes(tmp_path, 2)) == 2
    cluster.remove_node(cluster.second)
    assert ended(engine, 2) == {"first": None, "second": None}
    assert len(processes(tmp_path, 3)) == 3
    engine.close()


LOST = """
import os
import ray._private.worker
from replk_probe.errors import BackendError
from replk_probe.sweeps.engines.ray import RayEngine

engine = RayEngine(1)
engine.submit("first", os.system, "sleep 60")
engine.wait(5)
ray._private.worker._global_node.kill_raylet()
try:
    while True:
        assert engine.wait(1) == []
except BackendError as error:
    print(error)
engine.close()
"""


def test_a_lost_connection_is_no_failure_of_the_jobs() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LOST], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\nThe connection to Ray is lost. " in f"\n{done.stdout}"
