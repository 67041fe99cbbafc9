"""Builds the native library of `replk_probe.ops`, and nothing else: metadata lives in setup.cfg.

The library has a plain C interface and is opened by ctypes, so it needs a C++17 compiler, but neither Python's headers
nor torch's, and one wheel serves every Python and every torch of a platform. Without a compiler the package installs
all the same: the reason is written beside the package, where `replk-probe info` reads it.

Environment: CXX names the compiler; CXXFLAGS and LDFLAGS are added to what stands here.
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
IS_X86_64 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
# Warnings are enabled in csrc/tests/Makefile; here they would only precede an error message.
FLAGS = [*CONFIG["FLAGS"], "-O3", "-w", *(CONFIG["POSIX_FLAGS"] if sys.platform != "win32" else [])]
ISAS = ["portable", *(CONFIG["ISAS_x86_64"] if IS_X86_64 else [])]
ISA_FLAGS = {isa: CONFIG.get(f"FLAGS_{isa}", []) for isa in ISAS}
ONCE = [f"{name}.cpp" for name in CONFIG["ONCE"]]
JOBS = max(2, os.cpu_count() or 1)


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


class BuildNative(build_ext):
    """Compiles csrc into `replk_probe/ops`, or leaves the reason there."""

    def run(self) -> None:
        """Build; a failure is told, not raised."""
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        try:
            compiler = find_compiler()
            isas = build_library(compiler, folder / LIBRARY, Path(self.build_temp) / "csrc")
        except BuildError as error:
            # A library of an earlier build may have another interface.
            (folder / LIBRARY).unlink(missing_ok=True)
            (folder / REASON).write_text(f"{error}\n", encoding="utf-8")
            tell(f"The native library was not built, torch's convolutions are used instead. {error}")
        else:
            (folder / REASON).unlink(missing_ok=True)
            seconds = time.perf_counter() - start
            tell(f"Built {LIBRARY} with {shlex.join(compiler)} for {', '.join(isas)} in {seconds:.1f} s.")

    def get_outputs(self) -> list[str]:
        """What a build leaves, for the record of what is installed."""
        made = [name for name in (LIBRARY, REASON) if (self._folder / name).exists()]
        return [str(Path(self.build_lib) / PACKAGE / name) for name in made]

    def get_output_mapping(self) -> dict[str, str]:
        """Where editable installs find what was built in place."""
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
        """`py3-none-<platform>`; one architecture, also where Python itself was built for two."""
        tag: str = super().get_tag()[2]
        return "py3", "none", tag.replace("universal2", platform.machine())


def tell(message: str) -> None:
    """Say something to whoever installs."""
    sys.stderr.write(f"{message}\n")


def find_compiler() -> list[str]:
    """The command of a C++ compiler: what CXX names, else the first usual one.

    Raises:
        BuildError: There is none.
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
    """Compile and link.

    Args:
        compiler: Command of a compiler that understands g++'s options.
        library: File to write.
        objects: Folder for object files; made if need be.

    Returns:
        The instruction sets that the library has kernels for.

    Raises:
        BuildError: The compiler refused.
    """
    objects.mkdir(parents=True, exist_ok=True)
    more = shlex.split(os.environ.get("CXXFLAGS", ""))
    base = [*compiler, *FLAGS, *more, f"-I{SOURCE}", f"-I{SOURCE / 'include'}"]
    with ThreadPoolExecutor(JOBS) as pool:
        refusals = dict(zip(ISA_FLAGS, pool.map(lambda isa: refusal(base, isa, objects), ISA_FLAGS), strict=True))
    if refusals["portable"] is not None:
        raise refusals["portable"]
    isas = [isa for isa, error in refusals.items() if error is None]
    base += [f"-DREPLK_NO_{isa.upper()}" for isa in ISA_FLAGS if isa not in isas]
    commands: dict[Path, list[str]] = {}
    # Kernels first, the longest of them before the others: what a build would wait for at its end.
    kernels = [file for file in (SOURCE / "cpu").glob("*.cpp") if file.name not in ONCE]
    kernels.sort(key=lambda file: (-source_bytes(file), file.name))
    for file in kernels:
        for isa in isas:
            commands[objects / f"{file.stem}_{isa}.o"] = [*base, f"-DREPLK_ISA={isa}", *ISA_FLAGS[isa], "-c", str(file)]
    for file in [*sorted((SOURCE / "common").glob("*.cpp")), *(SOURCE / "cpu" / name for name in ONCE)]:
        commands[objects / f"{file.stem}.o"] = [*base, "-c", str(file)]
    with ThreadPoolExecutor(JOBS) as pool:
        for _ in pool.map(run, [[*command, "-o", str(output)] for output, command in commands.items()]):
            pass
    linking = [] if sys.platform == "win32" else ["-pthread"]
    if sys.platform.startswith("linux"):
        linking.append("-Wl,-z,defs")  # a missing symbol is an error now, not when the library is opened
    linking += shlex.split(os.environ.get("LDFLAGS", ""))
    # Replaced in one step: a process that has the old one open keeps it.
    linked = library.with_suffix(f".new{SUFFIX}")
    run([*compiler, "-shared", *more, "-o", str(linked), *map(str, commands), *linking])
    linked.replace(library)
    return isas


def source_bytes(kernel: Path) -> int:
    """Size of a kernel's file and of the folder of its name: how long the compiler will take, roughly."""
    return sum(file.stat().st_size for file in [kernel, *kernel.with_suffix("").glob("*.h")])


def refusal(base: Sequence[str], isa: str, folder: Path) -> BuildError | None:
    """What the compiler says against an instruction set: against its flags, or its intrinsics in `cpu/simd/<isa>.h`."""
    probe = folder / f"probe_{isa}.cpp"
    probe.write_text('#include "cpu/simd/isa.h"\n')
    try:
        run([*base, f"-DREPLK_ISA={isa}", *ISA_FLAGS[isa], "-fsyntax-only", str(probe)])
    except BuildError as error:
        return error
    return None


def run(command: Sequence[str]) -> None:
    """Run the compiler.

    Raises:
        BuildError: It could not be started, or failed: with its first words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BuildError(f"The compiler cannot be run: {shlex.join(command)}: {error}.") from error
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[:20])
        raise BuildError(f"The compiler failed with status {done.returncode}: {shlex.join(command)}\n{said}".rstrip())


setup(
    # The name only tells setuptools that something is compiled; BuildNative decides what.
    ext_modules=[Extension("replk_probe.ops.native", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
