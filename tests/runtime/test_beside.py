"""A function in another process: what it returns and raises, and how that process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from replk_probe.runtime.beside import Beside

MODULE = """
import os, time
from replk_probe.errors import InvalidInputError

def where(*args):
    return os.getpid(), args

def refuse():
    raise InvalidInputError("Cannot do this.")

def talk():
    print("said", flush=True)
    return 3

def vanish(parent):
    if os.getpid() == parent:
        return "called here"
    os._exit(3)

def endless(path):
    with open(path, "w") as stream:
        try:
            stream.write(str(os.getpid()))
            stream.flush()
            time.sleep(600)
        finally:
            os.unlink(path)
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "called_beside.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_it_is_called_in_another_process() -> None:
    with Beside("called_beside", "where") as where:
        process, args = where(1, "two")
    assert process != os.getpid() and args == (1, "two")


def test_its_error_is_raised_here() -> None:
    with Beside("called_beside", "refuse") as refuse, pytest.raises(Exception, match="Cannot do this") as caught:
        refuse()
    assert type(caught.value).__name__ == "InvalidInputError"


def test_a_lost_process_is_replaced_by_this_one() -> None:
    with Beside("called_beside", "vanish") as vanish:
        assert vanish(os.getpid()) == "called here"


def test_without_processes_it_is_called_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/interpreter")
    with Beside("called_beside", "where") as where:
        assert where() == (os.getpid(), ())


def test_one_that_is_never_called_ends() -> None:
    with Beside("called_beside", "where") as where:
        process = where._process
    assert process is not None and process.returncode is not None


def test_the_main_module_is_not_run_again_and_a_worker_may_use_it(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import multiprocessing\n"
        "print('once')\n"
        "def worker(_):\n"
        "    from replk_probe.runtime.beside import Beside\n"
        "    with Beside('called_beside', 'where') as where:\n"
        "        return where('answer')[1]\n"
        "print(worker(0), multiprocessing.get_context('fork').Pool(1).map(worker, [1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "once\n('answer',) [('answer',)]\n" and done.stderr == ""


def test_what_is_printed_there_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Beside("called_beside", "talk") as talk:
        assert talk() == 3
    assert capfd.readouterr().err == "said\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(
    ("how", "name"), [("SIGINT", "endless"), ("SIGINT", "where"), ("SIGKILL", "endless"), ("SIGKILL", "where")]
)
def test_it_ends_with_its_parent(how: str, name: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "from replk_probe.runtime.beside import Beside\n"
        "if __name__ == '__main__':\n"
        "    import sys, threading, time\n"
        "    with Beside('called_beside', sys.argv[1]) as f:\n"
        "        print(f._process.pid, flush=True)\n"
        "        f('started') if sys.argv[1] == 'endless' else time.sleep(600)\n"
    )
    # It works, or it waits to be called, and may not even have started.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, script, name]
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    if name == "endless":
        _until((tmp_path / "started").exists)
    if how == "SIGINT":  # as of a terminal, to all of its processes
        os.killpg(parent.pid, signal.SIGINT)
    else:
        parent.kill()
    said = parent.communicate(timeout=60)[1]
    assert said.count(b"Traceback") == (how == "SIGINT"), said
    _until(lambda: not _is_running(child))
    assert not (tmp_path / "started").exists(), "what it was writing is not removed"


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)
