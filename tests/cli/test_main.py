from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from replk_probe import __version__
from replk_probe.cli import main as program
from replk_probe.cli._output import SAVED
from replk_probe.errors import InvalidInputError

Run = Callable[..., Result]

HEAVY = ("torch", "matplotlib", "timm", "numpy", "scipy", "seaborn", "PIL")


def script(name: str = "replk-probe") -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed in the folder of {sys.executable}")
    return str(path)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def loaded_by(*args: str) -> tuple[list[str], float]:
    """Which heavy packages a fresh process has loaded after ``replk-probe ARGS``, and its wall-clock seconds."""
    code = (
        "import json, sys\n"
        "from replk_probe.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[2:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(json.dumps(sorted(set(json.loads(sys.argv[1])) & set(sys.modules))))\n"
    )
    start = time.perf_counter()
    done = run(sys.executable, "-c", code, json.dumps(HEAVY), *args)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), seconds


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes ``replk-probe erf`` a command that raises the given exception."""

    def install(error: BaseException) -> None:
        def fail() -> None:
            raise error

        command = click.Command("erf", callback=fail)
        monkeypatch.setattr(program.LazyGroup, "get_command", lambda self, ctx, name: command)

    return install


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_instant_options_load_nothing_heavy(option: str) -> None:
    heavy, seconds = loaded_by(option)
    print(f"replk-probe {option}: {seconds:.2f} s")  # noqa: T201 (shown by `pytest -rP`)
    assert heavy == []
    # The promise is 0.5 s; the bound here only tells an import of torch from a busy machine.
    assert seconds < 5.0


@pytest.mark.parametrize("name", program.COMMANDS)
def test_help_of_a_command_loads_neither_torch_nor_matplotlib(name: str) -> None:
    heavy, _ = loaded_by(name, "--help")
    assert not {"torch", "timm", "matplotlib"} & set(heavy)


@pytest.mark.parametrize("name", program.COMMANDS)
def test_help_of_every_command(replk_probe: Run, name: str) -> None:
    result = replk_probe(name, "--help")
    assert result.exit_code == 0
    assert f"replk-probe {name}" in result.stdout
    assert "--help" in result.stdout


@pytest.mark.parametrize("name", program.COMMANDS)
def test_help_of_every_command_below_a_command(replk_probe: Run, name: str) -> None:
    context = click.Context(program.cli)
    command = program.cli.get_command(context, name)
    for below in command.list_commands(context) if isinstance(command, click.Group) else ():
        result = replk_probe(name, below, "--help")
        assert result.exit_code == 0
        assert f"replk-probe {name} {below}" in result.stdout


def test_help_lists_every_command(replk_probe: Run) -> None:
    result = replk_probe("--help")
    assert result.exit_code == 0
    for name, entry in program.COMMANDS.items():
        assert name in result.stdout
        assert entry.summary in result.stdout


def test_version(replk_probe: Run) -> None:
    result = replk_probe("--version")
    assert (result.exit_code, result.stdout) == (0, f"replk-probe {__version__}\n")


@pytest.mark.parametrize("args", [["--help"], ["--version"], [], ["no-such-command"], ["erf", "--no-such-option"]])
def test_python_m_replk_probe_is_the_program(args: list[str]) -> None:
    as_module = run(sys.executable, "-m", "replk_probe", *args)
    as_script = run(script(), *args)
    assert as_module.returncode == as_script.returncode
    assert as_module.stdout == as_script.stdout
    assert as_module.stderr == as_script.stderr


def test_the_program_exits_in_order() -> None:
    script = "import atexit, sys; atexit.register(print, 'left'); from replk_probe.cli.main import main; "
    done = run(sys.executable, "-c", f"{script} sys.argv[1:] = ['--version']; main()")
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"replk-probe {__version__}", "left"])
    done = run(sys.executable, "-c", f"{script} sys.argv[1:] = ['no-such']; main()")
    assert (done.returncode, done.stdout) == (2, "left\n") and "No such command" in done.stderr
    # Called with arguments, it is part of another program, which continues.
    inside = "\ntry:\n main(['--version'])\nexcept SystemExit as end:\n print('status', end.code)"
    assert run(sys.executable, "-c", script + inside).stdout.splitlines()[1:] == ["status 0", "left"]


def test_unknown_command_suggests_the_close_one(replk_probe: Run) -> None:
    result = replk_probe("model")
    assert result.exit_code == 2
    assert "No such command 'model'. Did you mean 'models'?" in result.stderr


def test_unknown_command_far_from_all_lists_them(replk_probe: Run) -> None:
    result = replk_probe("qqq")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in program.COMMANDS)


def test_a_package_error_is_one_line(replk_probe: Run, failing: Callable[[BaseException], None]) -> None:
    failing(InvalidInputError("The folder is empty. It has no image.\nName another one."))
    result = replk_probe("erf")
    assert result.exit_code == 1
    assert result.stderr == "Error: The folder is empty. It has no image. Name another one.\n"
    assert result.stdout == ""


def test_any_other_error_is_not_hidden(replk_probe: Run, failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        replk_probe("erf")


@pytest.mark.parametrize(
    ("can_resume", "saved", "says"),
    [
        (True, [], "Nothing was saved"),
        (True, [Path("out")], "Files that were written are complete"),
        (False, [], "Files that were written are complete"),
    ],
)
def test_interrupt(
    replk_probe: Run, monkeypatch: pytest.MonkeyPatch, can_resume: bool, saved: list[Path], says: str
) -> None:
    def interrupted(**options: bool) -> None:
        click.get_current_context().meta[SAVED] = saved
        raise KeyboardInterrupt

    options: list[click.Parameter] = [click.Option(["--resume"], is_flag=True)] if can_resume else []
    command = click.Command("erf", callback=interrupted, params=options)
    monkeypatch.setattr(program.LazyGroup, "get_command", lambda self, ctx, name: command)
    result = replk_probe("erf")
    assert result.exit_code == 130
    assert result.stderr == f"\nInterrupted. {says}. Run the command again.\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    done = run(script(), _REPLK_PROBE_COMPLETE=f"{shell}_source")
    # click reports a missing or old bash, but prints the script nevertheless.
    assert done.returncode == 0, done.stderr
    assert "_REPLK_PROBE_COMPLETE" in done.stdout
    assert "replk-probe" in done.stdout


def test_completion_of_commands(replk_probe: Run) -> None:
    done = run(script(), _REPLK_PROBE_COMPLETE="bash_complete", COMP_WORDS="replk-probe m", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,models"]
