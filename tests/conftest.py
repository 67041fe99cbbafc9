"""Settings and fixtures of all tests: no display, no downloads, no access to the user's cache."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    import torch
    from torch import Tensor

    from replk_probe.runtime.transfer import Transfer

DATA_VARIABLE = "REPLK_PROBE_TEST_DATA"
NETWORK_VARIABLE = "REPLK_PROBE_TEST_NETWORK"

# No server listens on the discard port, so connections are refused immediately, in child processes as well.
_NOWHERE = "http://127.0.0.1:9"

os.environ.setdefault("MPLBACKEND", "Agg")
# Tests use small tensors, for which several threads are slower on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The test modules import a million objects, none of which is garbage.
gc.set_threshold(100_000)


# The same examples in every run; --hypothesis-profile=search generates new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that this machine cannot run, with the reason, and trace one case of each test for coverage.

    Tracing takes a third of the time of all tests, and the cases of one test run mostly the same lines. Slow tests come
    first, so that no process waits for one of them at the end.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    traced: set[tuple[Path, str]] = set()
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            test = item.path, item.originalname
            if test in traced:
                item.add_marker("no_cover")
            traced.add(test)
    if any(item.get_closest_marker("cuda") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("cuda"):
                    item.add_marker(pytest.mark.skip(reason="torch finds no NVIDIA GPU"))
    if not os.environ.get(NETWORK_VARIABLE):
        for item in items:
            if item.get_closest_marker("network"):
                item.add_marker(pytest.mark.skip(reason=f"set {NETWORK_VARIABLE}=1 to run tests that use the internet"))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Begin each test with the same random numbers, whichever tests the process ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_collection_finish() -> None:
    """Leave the million objects of the imported packages out of searches for garbage, a tenth of the time otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of one new cache after another; pytest's own numbering reads the names of all folders for each of them."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caches: Iterator[Path]) -> None:
    """Set an empty weights cache and block internet access, except for tests marked ``network``.

    ``COLUMNS`` is removed, because pytest-xdist sets it for its workers and tables would be cut to that width.
    Files are not written through to the disk: only a power failure would show a difference, and it takes 5 ms each.
    """
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    cache = next(caches)
    cache.mkdir()
    monkeypatch.setenv("REPLK_PROBE_CACHE", str(cache))
    if request.node.get_closest_marker("network"):
        return
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, _NOWHERE)
        monkeypatch.setenv(name.upper(), _NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "localhost,127.0.0.1,::1")


@pytest.fixture(params=["default", "onednn"])
def product_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute float32 products of any size with torch's default library and with oneDNN, on every processor."""
    import torch

    from replk_probe.ops import matrices

    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if request.param == "onednn" and operator is None:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(matrices, "_LEAST_PRODUCTS", 0)
    monkeypatch.setattr(matrices, "_onednn_linear", lambda: operator if request.param == "onednn" else None)
    return str(request.param)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images, stimuli and weights; tests that require it are skipped if it is not set."""
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        pytest.skip(f"{DATA_VARIABLE} is not set: it names the folder of real images and weights")
    folder = Path(value).resolve()
    if not folder.is_dir():
        pytest.fail(f"{DATA_VARIABLE} is set to {value!r}, which is not a folder")
    return folder


@pytest.fixture
def rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands render figures as coarse PNG files only, since rendering takes most of the time of a command.

    The tests of the plots render them in full, as do most commands that are run as processes.
    """
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def write(figure: Figure, stream: IO[bytes], *, format: str, **options: Any) -> None:
        if format == "png":
            savefig(figure, stream, format="png", dpi=20)
        else:
            stream.write(format.encode())

    monkeypatch.setattr(Figure, "savefig", write)


@pytest.fixture
def replk_probe(rendering: None) -> Callable[..., Result]:
    """Function that runs ``replk-probe ARGS...`` in this process and returns click's ``Result``."""
    from replk_probe.cli.main import PROGRAM, cli

    def run(*args: object) -> Result:
        # catch_exceptions=False: an error of another type must fail the test with its traceback.
        return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name=PROGRAM, catch_exceptions=False)

    return run


@pytest.fixture
def overlapping_copies() -> type[Transfer]:
    """Copies to and from a device that are complete only when they are awaited, as on a GPU.

    ``outstanding`` is the number of copies in progress, ``most`` the largest one so far. Memory that was uploaded is
    filled with NaN unless ``keeps_uploads`` is set.
    """
    import torch

    from replk_probe.runtime.transfer import Transfer

    class Overlapping(Transfer):
        depth = 2
        outstanding = most = 0
        keeps_uploads = False

        def __init__(self, device: torch.device) -> None:
            super().__init__(torch.device("cpu", 0))  # differs from the device of the images
            self._next = threading.Event()

        def empty(self, shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
            return super().empty(shape, dtype).fill_(torch.nan)

        def upload(self, batch: Tensor) -> Tensor:
            found = batch.clone()
            if not self.keeps_uploads:
                batch.fill_(torch.nan)
            return found

        def download(self, values: Tensor) -> Callable[[], Tensor]:
            Overlapping.outstanding += 1
            Overlapping.most = max(Overlapping.most, Overlapping.outstanding)
            self._next.set()
            self._next = following = threading.Event()

            def wait() -> Tensor:
                following.wait(0.05)  # for the next batch, unless this one is the last
                Overlapping.outstanding -= 1
                return values.cpu()

            return wait

    return Overlapping


# What ``python ARGUMENTS...`` does, with other standard streams.
_PYTHON = """
import os, runpy, sys
for number, stream in enumerate(streams):
    os.dup2(stream.fileno(), number)
sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))
os.environ.clear()
os.environ.update(environment)
os.chdir(folder)
first, *others = arguments
if first == "-m":
    sys.argv = others
    runpy.run_module(others[0], run_name="__main__", alter_sys=True)
elif first == "-c":
    sys.argv = ["-c", *others[1:]]
    exec(others[0], {"__name__": "__main__"})
else:
    sys.argv = arguments
    sys.path.insert(0, os.path.dirname(first))
    runpy.run_path(first, run_name="__main__")
"""


class ForkedPython:
    """Runs Python programs in forks of one process, which has imported torch, timm and matplotlib once.

    It is for tests of what a program does: importing these takes four seconds of each new process. How a program starts
    and exits, and what it imports, is tested in new processes.
    """

    def __init__(self, forks: ForkServerContext) -> None:
        self._forks = forks

    def start(
        self,
        *arguments: object,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
        cwd: Path | None = None,
        **environment: str,
    ) -> ForkServerProcess:
        """Start ``python ARGUMENTS...``: a script, or -m or -c; the environment is this one and the given variables."""
        with Path(os.devnull).open("r+b") as nothing:
            files = [nothing if stream == subprocess.DEVNULL else stream for stream in (stdin, stdout, stderr)]
            numbers = [file if isinstance(file, int) else file.fileno() for file in files]
            task = {
                "arguments": [str(argument) for argument in arguments],
                "streams": [Connection(os.dup(number)) for number in numbers],
                "environment": {**os.environ, **environment},
                "folder": str(cwd or Path.cwd()),
            }
            process = self._forks.Process(target=exec, args=(_PYTHON, task))
            process.start()
        return process

    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS...`` with the options of :meth:`start`, and return its status and output."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.start(*arguments, stdout=out, stderr=err, **options)
            process.join(500)
            process.kill()
            process.join()
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, process.exitcode or 0, out.read(), err.read())


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> ForkServerContext:
    """Context whose processes are forks of one that has imported what most commands need.

    This one has the environment of the first test that uses the fixture, and one thread.
    """
    from replk_probe.sweeps.engines.interface import THREAD_VARIABLES

    for name in THREAD_VARIABLES:  # read when the packages are imported
        monkeypatch.setenv(name, "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["replk_probe.sweeps.work", "replk_probe.erf.plot", "replk_probe.shape_bias.plot", "replk_probe.kernels.plot"]
    )
    return context


@pytest.fixture
def forked_python(forks: ForkServerContext) -> ForkedPython:
    """Runs Python programs in forks."""
    return ForkedPython(forks)
