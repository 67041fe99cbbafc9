"""Settings and fixtures of all tests: no display, no downloads, no access to the user's cache."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

if TYPE_CHECKING:
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

    Tracing takes a third of the time of all tests, and the cases of one test run mostly the same lines.
    """
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
    """
    monkeypatch.delenv("COLUMNS", raising=False)
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
def replk_probe() -> Callable[..., Result]:
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
