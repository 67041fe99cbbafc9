"""Checks of the project: ``nox`` runs the default ones, ``nox -s NAME`` runs one, ``nox -l`` lists all.

Each session creates a virtual environment once and reuses it. ``.ci/run`` runs the same sessions with
``--no-venv --no-install``, in one environment that has everything already.
"""

from __future__ import annotations

import configparser
import os
import shutil
import zipfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "docs", "test"]
nox.options.reuse_existing_virtualenvs = True

PACKAGE = Path("replk_probe")
LIBRARY = "libreplk_dwconv2d."
BUILD_ERROR = "_build_error.txt"
CHECK_WITHOUT_LIBRARY = """
import sys
import torch
from click.testing import CliRunner
import replk_probe
from replk_probe.cli.main import cli
from replk_probe.ops import DepthwiseConv2d, native_info

info = CliRunner().invoke(cli, ["info"])
assert info.exit_code == 0 and "compiler" in info.output.lower(), info.output
assert replk_probe.__file__.startswith(sys.argv[1]), replk_probe.__file__
assert not native_info().loaded and "compiler" in native_info().load_error.lower(), native_info()
x = torch.randn(1, 4, 9, 9)
conv = DepthwiseConv2d(4, 4, 7, padding=3, groups=4).eval()
torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=3, groups=4))
"""


def requirements(section: str, option: str) -> list[str]:
    """Requirements listed in setup.cfg; installing an extra by its name would compile the native library again."""
    config = configparser.ConfigParser()
    config.read("setup.cfg", encoding="utf-8")
    # An extra that is named inside another, %(test)s, leaves an empty line.
    return [line for line in config[section][option].splitlines() if line]


def extra(name: str) -> list[str]:
    """Requirements of an extra."""
    return requirements("options.extras_require", name)


def build_wheel(session: nox.Session, folder: Path, **env: str) -> Path:
    """Build the wheel into a new folder and return its path."""
    # setuptools would copy files of an earlier build from its build folder.
    for stale in (Path("build"), folder):
        shutil.rmtree(stale, ignore_errors=True)
    # An isolated environment for each build would be downloaded again.
    session.install(*nox.project.load_toml("pyproject.toml")["build-system"]["requires"])
    command = ("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
    session.run(*command, str(folder), ".", env=env)
    return next(folder.glob("*.whl"))


def wheel_problems(path: Path) -> list[str]:
    """Files that are missing from a wheel or do not belong there."""
    built = (".pyc", BUILD_ERROR)
    files = [file for file in PACKAGE.rglob("*") if file.is_file()]
    ours = {file.as_posix() for file in files if not file.name.startswith(LIBRARY) and not file.name.endswith(built)}
    archive = zipfile.ZipFile(path)
    names = set(archive.namelist())
    licenses = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    libraries = sorted(name for name in names if name.startswith(f"{PACKAGE}/ops/{LIBRARY}"))
    reason = f"{PACKAGE}/ops/{BUILD_ERROR}"
    return [
        *(f"missing: {name}" for name in sorted(ours - names)),
        *(f"unexpected: {name}" for name in sorted(names) if not name.startswith(f"{PACKAGE}")),
        *(f"missing: {name}" for name in sorted({"LICENSE", "NOTICE"} - licenses)),
        *([] if len(libraries) == 1 else [f"expected one native library, found {libraries}"]),
        *([archive.read(reason).decode()] if reason in names else []),
    ]


@nox.session
def test(session: nox.Session) -> None:
    """Run all tests and measure branch coverage, or run the tests given after ``--``."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *(session.posargs or ["--cov", "--durations=20"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style and format of Python and C++."""
    session.install(*extra("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = [str(path) for path in Path("csrc").rglob("*") if path.suffix in (".h", ".cpp")]
    session.run("clang-format", "--dry-run", "--Werror", *sources)


@nox.session
def types(session: nox.Session) -> None:
    """Check types strictly."""
    session.install(*requirements("options", "install_requires"), *extra("types"))
    session.run("mypy", "--strict")


@nox.session
def docs(session: nox.Session) -> None:
    """Check links, commands and Python examples of the documentation, execute its tutorials, and build its site.

    ``nox -s docs -- site`` only executes the tutorials and builds the site.
    """
    session.install("-e", ".[test,docs]")
    if session.posargs != ["site"]:
        session.run("python", "-m", "pytest", "-n0", "tests/test_documentation.py")
    # The theme otherwise prints an advertisement of its successor.
    session.run("python", "-m", "mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(venv_backend="none")
def sanitizers(session: nox.Session) -> None:
    """Run the native library under the address, undefined-behavior and thread sanitizers, and fuzz it."""
    build, jobs = f"BUILD={Path(session.create_tmp()).resolve()}", f"--jobs={os.cpu_count()}"
    session.run("make", "--directory=csrc/tests", jobs, "--output-sync=target", build, "asan", "tsan")
    session.run("make", "--directory=csrc/tests", build, "FUZZ_SECONDS=10", "fuzz")


@nox.session(venv_backend="none")
def arm64(session: nox.Session) -> None:
    """Run the native library for 64-bit Arm in an emulator, where a cross compiler and QEMU are installed."""
    missing = [name for name in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(name) is None]
    if missing:
        session.skip(
            f"The NEON kernels were not run: there is no {' and no '.join(missing)}. "
            "Install the Debian packages g++-aarch64-linux-gnu and qemu-user."
        )
    build, jobs = f"BUILD={Path(session.create_tmp()).resolve()}", f"--jobs={os.cpu_count()}"
    session.run("make", "--directory=csrc/tests", jobs, "--output-sync=target", build, "arm64")


@nox.session
def wheel(session: nox.Session) -> None:
    """Check the contents of the wheel, or of the wheels given after ``--``."""
    given = [Path(path) for path in session.posargs]
    # The contents do not depend on the optimization, which takes most of the time.
    for path in given or [build_wheel(session, Path(session.create_tmp(), "wheel"), CXXFLAGS="-O0")]:
        if problems := wheel_problems(path):
            session.error("\n".join([f"{path.name}:", *problems]))
        session.log(f"{path.name} is complete.")


@nox.session
def no_compiler(session: nox.Session) -> None:
    """Check that the package installs and works without a C++ compiler, and reports why it is slower."""
    session.install(*requirements("options", "install_requires"))
    folder = Path(session.create_tmp()).resolve()
    # A failing compiler, and no compiler: PATH then contains at most the folder of the session's Python.
    for kind, env in {"failing": {"CXX": "/bin/false"}, "none": {"CXX": "", "PATH": ""}}.items():
        package = folder / kind / "package"
        path = build_wheel(session, folder / kind, **env)
        session.run("python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(package), str(path))
        with session.chdir(folder):
            session.run(
                "python", "-c", CHECK_WITHOUT_LIBRARY, str(package), env={"PYTHONPATH": str(package)}, log=False
            )
