"""Sweeps under URLs: files in memory, in a folder by ``file://``, and on an S3 server of this machine."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import replk_probe
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.processes import HOST
from replk_probe.sweeps import SweepResult
from replk_probe.sweeps.document import read_document
from replk_probe.sweeps.plan import plan_jobs
from replk_probe.sweeps.storage import Storage, is_url
from replk_probe.sweeps.stored_folder import StoredFolder, SweepWarning, open_folder
from replk_probe.sweeps.work import execute
from replk_probe.sweeps.worker import run_task

KERNELS: dict[str, Any] = {"models": ["resnet10t", "resnet18"], "weights": "random", "figures": False, "kernels": {}}


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4()}/sweep"


def contents(storage: Storage) -> dict[str, bytes | None]:
    """Every file that may not differ between two runs."""
    return {name: storage.read(name) for name in storage.names() if name.endswith((".csv", ".npz", ".png", ".pdf"))}


def test_a_sweep_is_not_stored_in_memory() -> None:
    with pytest.raises(InvalidInputError, match="do not share their memory"):
        replk_probe.sweep({"models": ["resnet10t"], "weights": "random", "kernels": {}}, "memory://a")


def test_urls_are_not_paths(tmp_path: Path) -> None:
    assert is_url("s3://bucket/a") and is_url("memory://a")
    assert not any(map(is_url, ("a/b", "c:/a", "c:\\a", "/s3://a", tmp_path)))


def test_files_are_written_read_and_removed(memory: str, tmp_path: Path) -> None:
    storage = Storage(memory + "/")
    assert storage.names() == [] and storage.read("a/b") is None
    storage.write("a/b", b"1")
    storage.write("a/c", b"2")
    assert storage.names() == ["a/b", "a/c"] == storage.names("a") and storage.read("a/b") == b"1"
    storage.download(["a/b"], tmp_path)
    assert (tmp_path / "a" / "b").read_bytes() == b"1"
    storage.delete("a")
    storage.delete("a")
    assert storage.names() == [] and storage.location("a/b") == f"{memory}/a/b"


def test_the_marker_of_a_folder_is_written_last(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(memory)
    for name in ("a", "job.json", "z"):
        (tmp_path / name).write_text("new")
    for name in ("a", "job.json", "old"):
        storage.write(f"x/{name}", b"before")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", None)  # ends after the upload of the other files
        with pytest.raises(TypeError):
            storage.upload(tmp_path, "x", last="job.json")
    assert storage.names() == ["x/a", "x/z"] and storage.read("x/a") == b"new"
    storage.upload(tmp_path, "x", last="job.json")
    assert storage.names() == ["x/a", "x/job.json", "x/z"]


def test_errors_name_the_package_or_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InvalidInputError, match=r"Cannot use gs://bucket/a. .*gcsfs.* Install the package with pip"):
        Storage("gs://bucket/a")
    with pytest.raises(InvalidInputError, match=r"Cannot use nonsense://a. Protocol not known"):
        Storage("nonsense://a")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match=r"Cannot use file://.*/file/a. .*Check the address"):
        Storage(f"file://{tmp_path}/file").write("a", b"")


def test_states_are_those_of_the_storage(memory: str) -> None:
    first, second = plan_jobs(read_document(KERNELS))
    folder = StoredFolder.open(memory)
    storage = Storage(memory)
    with pytest.raises(InvalidInputError, match=f"Cannot read {memory}/sweep.json. It does not exist"):
        SweepResult.load(memory)
    with folder.locked():
        folder.fail(first, "It is\nbroken.", "Traceback")
        folder.write_summary([first, second], {second.key: 3.21})
        loaded = SweepResult.load(memory)
        assert [job["state"] for job in loaded.jobs] == ["failed", "running"]
        assert loaded.failed == {"kernels/resnet10t": "It is broken."}
        with (
            pytest.warns(SweepWarning, match=f"may be running: process {os.getpid()} on "),
            open_folder(memory).locked(),
        ):
            pass
    assert [job["state"] for job in SweepResult.load(memory).jobs] == ["failed", "pending"]
    # Half of a record, of a process that was killed while it wrote it.
    storage.write(f"{first.folder}/job.json", b'{"schema')
    assert StoredFolder.open(memory).state(first) == "failed"
    run_task(first.key, memory, execute, first)
    folder.succeed(first)
    assert StoredFolder.open(memory).state(first) == folder.state(first) == "done"
    assert not [name for name in storage.names() if name.startswith("failed/")]
    folder.discard(first)
    assert StoredFolder.open(memory).state(first) == folder.state(first) == "pending"
    assert storage.names() == ["sweep.json"]


@pytest.mark.parametrize(
    ("process", "host", "ago", "running"),
    [(1, "elsewhere", 1000, False), (1, "elsewhere", 1, True), (2**31 - 1, HOST, 1, False), (1, HOST, 1000, True)],
)
def test_processes_elsewhere_run_while_they_report(
    memory: str, process: int, host: str, ago: float, running: bool
) -> None:
    storage = Storage(memory)
    report = {"owner": "process 1 on a", "process": process, "host": host, "time": time.time() - ago}
    storage.write("sweep.lock", json.dumps(report).encode())
    folder = StoredFolder.open(memory)
    assert folder.is_running == running


def test_a_damaged_report_counts_for_nothing(memory: str) -> None:
    storage, folder = Storage(memory), StoredFolder.open(memory)
    with folder.locked():
        assert folder.is_running
        storage.write("sweep.lock", b'{"owner": "process 1 on a"}')
    assert storage.read("sweep.lock") is not None, "it is that of another process"
    storage.write("sweep.lock", b"{}")
    assert not folder.is_running


@pytest.mark.slow
def test_a_job_interrupted_before_its_marker_is_done_again(memory: str) -> None:
    storage = Storage(memory)
    job, _ = plan_jobs(read_document(KERNELS))
    run_task(job.key, memory, execute, job)
    before = {name: storage.read(name) for name in storage.names()}
    assert f"{job.folder}/job.json" in before
    storage.delete(f"{job.folder}/job.json")
    assert StoredFolder.open(memory).state(job) == "pending"
    run_task(job.key, memory, execute, job)
    assert set(storage.names()) == set(before) and contents(storage) == {
        name: content for name, content in before.items() if not name.endswith(".json")
    }
    # A job that is done is not done again.
    record = storage.read(f"{job.folder}/job.json")
    run_task(job.key, memory, execute, job)
    assert storage.read(f"{job.folder}/job.json") == record


def run_and_compare(config: dict[str, Any], url: str, tmp_path: Path, replk_probe_: Any) -> list[str]:
    """Compare a sweep under a URL with one in a folder, and continue it; return the names of its files."""
    local = replk_probe.sweep(config, tmp_path / "local", workers=1)
    stored = replk_probe.sweep(config, url, workers=1)
    storage, there = Storage(url), Storage(f"file://{local.folder}")
    assert contents(storage) == contents(there)
    assert storage.names() == [name for name in there.names() if name != "sweep.lock"]
    assert stored.location("sweep.csv") == f"{url}/sweep.csv"
    assert SweepResult.load(url).to_dataframe().equals(local.to_dataframe())
    records = {name: storage.read(name) for name in storage.names() if name.endswith("job.json")}
    assert replk_probe.sweep(config, url, workers=1).count("done") == len(records) == 2
    assert {name: storage.read(name) for name in records} == records
    status: Result = replk_probe_("sweep", "--status", url)
    assert "2 jobs: 2 done" in status.stderr
    return storage.names()


@pytest.mark.no_cover
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.slow
def test_a_sweep_in_a_file_url(tmp_path: Path, replk_probe: Any) -> None:
    kernels = {"layer": "stage4.0", "strongest": 0}
    config = KERNELS | {"models": ["replknet_micro_k3", "replknet_micro_k7"], "figures": True, "kernels": kernels}
    names = run_and_compare(config, f"file://{tmp_path}/stored", tmp_path, replk_probe)
    assert {"comparison/kernels/kernels.png", "sweep.csv"} <= {*names}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a bucket on a server in this process."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    made.start()
    host, port = made.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/sweep"
    made.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_sweep_on_an_s3_server(s3: str, tmp_path: Path, replk_probe: Any) -> None:
    run_and_compare(KERNELS, s3, tmp_path, replk_probe)
