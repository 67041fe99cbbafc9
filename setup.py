"""Builds the native library of `replk_probe.ops`; the metadata is in setup.cfg.

The library has a plain C interface and is loaded with ctypes. It needs a C++17 compiler, but no headers of Python or
torch, so that one wheel works with every version of both. Without a compiler the package is installed without the
library, and the reason is written to a file that `replk-probe info` reads.

Environment: CXX names the compiler; CXXFLAGS and LDFLAGS are added to the flags.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "csrc"
PACKAGE = Path("replk_probe", "ops")
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
LIBRARY = f"libreplk_dwconv2d{SUFFIX}"
REASON = "_build_error.txt"

# Compiler flags by name: csrc/flags.mk explains them.
_LINES = [line.partition("=") for line in (SOURCE / "flags.mk").read_text(encoding="utf-8").splitlines()]
CONFIG = {name.strip(): shlex.split(value) for name, _, value in _LINES if value and not name.startswith("#")}
# Warnings are enabled in csrc/tests/Makefile; here they would only precede an error message.
FLAGS = [*CONFIG["FLAGS"], "-O3", "-w", *(CONFIG["POSIX_FLAGS"] if sys.platform != "win32" else [])]
ONCE = [f"{name}.cpp" for name in CONFIG["ONCE"]]
JOBS = max(2, os.cpu_count() or 1)


class BuildError(Exception):
    """The library cannot be built on this machine; the message explains why."""


class BuildNative(build_ext):
    """Compiles csrc into `replk_probe/ops`, or writes the reason of a failure there."""

    def run(self) -> None:
        """Build the library; a failure is reported, not raised."""
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        try:
            compiler = find_compiler()
            isas = build_library(compiler, folder / LIBRARY, Path(self.build_temp) / "csrc")
        except BuildError as error:
            # A library from an earlier build may have another interface.
            (folder / LIBRARY).unlink(missing_ok=True)
            (folder / REASON).write_text(f"{error}\n", encoding="utf-8")
            report(f"The native library was not built; torch's convolutions are used instead. {error}")
        else:
            (folder / REASON).unlink(missing_ok=True)
            seconds = time.perf_counter() - start
            report(f"Built {LIBRARY} with {shlex.join(compiler)} for {', '.join(isas)} in {seconds:.1f} s.")

    def get_outputs(self) -> list[str]:
        """The files that a build creates, for the list of installed files."""
        made = [name for name in (LIBRARY, REASON) if (self._folder / name).exists()]
        return [str(Path(self.build_lib) / PACKAGE / name) for name in made]

    def get_output_mapping(self) -> dict[str, str]:
        """The locations of the files for editable installs."""
        return {path: str(self._folder / Path(path).name) for path in self.get_outputs()}

    @property
    def _folder(self) -> Path:
        in_place = self.inplace or getattr(self, "editable_mode", False)
        return (ROOT if in_place else Path(self.build_lib)) / PACKAGE

    def get_source_files(self) -> list[str]:
        """Empty: MANIFEST.in names all of csrc for source distributions."""
        return []


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """`py3-none-<platform>`, for one architecture even if Python itself was built for two."""
        tag: str = super().get_tag()[2]
        return "py3", "none", tag.replace("universal2", platform.machine())


def report(message: str) -> None:
    """Print a message to stderr."""
    sys.stderr.write(f"{message}\n")


def find_compiler() -> list[str]:
    """The command of a C++ compiler: that of CXX, else the first common one on the PATH.

    Raises:
        BuildError: No compiler was found.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    usual = ("clang++", "g++", "c++") if sys.platform == "darwin" else ("g++", "clang++", "c++")
    for command in [named] if named else [[name] for name in usual]:
        if shutil.which(command[0]):
            return command
    if named:
        raise BuildError(f"The compiler that CXX names was not found: {shlex.join(named)}.")
    raise BuildError(f"No C++ compiler was found: none of {', '.join(usual)} is on the PATH.")


def build_library(compiler: list[str], library: Path, objects: Path) -> list[str]:
    """Compile and link the library.

    Args:
        compiler: Command of a compiler that accepts g++'s options.
        library: File to write.
        objects: Folder for object files; created if missing.

    Returns:
        The instruction sets that the library has kernels for.

    Raises:
        BuildError: The compiler failed.
    """
    objects.mkdir(parents=True, exist_ok=True)
    more = shlex.split(os.environ.get("CXXFLAGS", ""))
    base = [*compiler, *FLAGS, *more, f"-I{SOURCE}", f"-I{SOURCE / 'include'}"]
    candidates = ["portable", *CONFIG.get(f"ISAS_{architecture([*compiler, *more])}", [])]
    with ThreadPoolExecutor(JOBS) as pool:
        refusals = dict(zip(candidates, pool.map(lambda isa: refusal(base, isa, objects), candidates), strict=True))
    if refusals["portable"] is not None:
        raise refusals["portable"]
    isas = [isa for isa, error in refusals.items() if error is None]
    base += [f"-DREPLK_NO_{isa.upper()}" for isa in candidates if isa not in isas]
    commands: dict[Path, list[str]] = {}
    # Kernels first, the slowest before the others, so that a parallel build does not wait for them at its end.
    kernels = [file for file in (SOURCE / "cpu").glob("*.cpp") if file.name not in ONCE]
    kernels.sort(key=lambda file: (-source_bytes(file), file.name))
    for file in kernels:
        for isa in isas:
            commands[objects / f"{file.stem}_{isa}.o"] = [*base, *isa_flags(isa), "-c", str(file)]
    for file in [*sorted((SOURCE / "common").glob("*.cpp")), *(SOURCE / "cpu" / name for name in ONCE)]:
        commands[objects / f"{file.stem}.o"] = [*base, "-c", str(file)]
    with ThreadPoolExecutor(JOBS) as pool:
        for _ in pool.map(run, [[*command, "-o", str(output)] for output, command in commands.items()]):
            pass
    linking = [] if sys.platform == "win32" else ["-pthread"]
    if sys.platform.startswith("linux"):
        linking.append("-Wl,-z,defs")  # missing symbols are errors now, not when the library is loaded
    linking += shlex.split(os.environ.get("LDFLAGS", ""))
    # Replaced atomically: a process that has loaded the old library keeps it.
    linked = library.with_suffix(f".new{SUFFIX}")
    run([*compiler, "-shared", *more, "-o", str(linked), *map(str, commands), *linking])
    linked.replace(library)
    return isas


def architecture(compiler: Sequence[str]) -> str:
    """The architecture that a compiler compiles for, as in csrc/flags.mk; that of this machine may be another one.

    Raises:
        BuildError: The compiler could not be started or failed.
    """
    name = run([*compiler, "-dumpmachine"]).strip().partition("-")[0]
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def isa_flags(isa: str) -> list[str]:
    """Compiler flags of an instruction set."""
    return [f"-DREPLK_ISA={isa}", *CONFIG.get(f"FLAGS_{isa}", [])]


def source_bytes(kernel: Path) -> int:
    """Size of a kernel's file and of the folder of its name, as an estimate of the time to compile."""
    return sum(file.stat().st_size for file in [kernel, *kernel.with_suffix("").glob("*.h")])


def refusal(base: Sequence[str], isa: str, folder: Path) -> BuildError | None:
    """The compiler's error for the flags or intrinsics (`cpu/simd/<isa>.h`) of an instruction set, or None."""
    probe = folder / f"probe_{isa}.cpp"
    probe.write_text('#include "cpu/simd/isa.h"\n')
    try:
        run([*base, *isa_flags(isa), "-fsyntax-only", str(probe)])
    except BuildError as error:
        return error
    return None


def run(command: Sequence[str]) -> str:
    """Run the compiler and return its output.

    Raises:
        BuildError: The compiler could not be started or failed; the message includes the start of its output.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BuildError(f"The compiler cannot be run: {shlex.join(command)}: {error}.") from error
    if done.returncode:
        output = "\n".join((done.stderr or done.stdout).strip().splitlines()[:20])
        raise BuildError(f"The compiler failed with status {done.returncode}: {shlex.join(command)}\n{output}".rstrip())
    return done.stdout


setup(
    # Declares that something is compiled; BuildNative determines what.
    ext_modules=[Extension("replk_probe.ops.native", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
