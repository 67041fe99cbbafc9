"""Building the native library: with a compiler, without one, and with one that knows less."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE")
LIBRARY = "libreplk_dwconv2d" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

# A kernel file without kernels: how the parts are put together is tested here, not the time that they take.
_EMPTY = """#include "common/task.h"
namespace replk {{
namespace REPLK_ISA {{
const Method {method}_methods[3] = {{}};
}}
}}
"""

# Checks what the real compiler knows, but only creates the files that it would write.
_WRITES_NOTHING = """case "$*" in *-dumpmachine*|*-fsyntax-only*) exec {compiler} "$@";; esac
while [ $# -gt 1 ]; do [ "$1" != -o ] || : > "$2"; shift; done"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the library is not built on Windows")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources, in a folder of their own, with kernels that compile at once."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "csrc", folder / "csrc", ignore=shutil.ignore_patterns("tests"))
    for method in ("direct", "fft", "blocked", "blocked_pfa"):
        (folder / "csrc" / "cpu" / f"{method}.cpp").write_text(_EMPTY.format(method=method))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    ops = folder / "replk_probe" / "ops"
    ops.mkdir(parents=True)
    shutil.copy(ROOT / "replk_probe" / "__init__.py", folder / "replk_probe")
    (ops / "__init__.py").touch()
    return folder


@pytest.fixture
def compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return name
    pytest.skip("there is no C++ compiler here")


def setup(checkout: Path, *command: str, **environment: str) -> str:
    """Run setup.py and return its output."""
    clean = {name: value for name, value in os.environ.items() if name not in ("CXX", "LDFLAGS")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *command],
        cwd=checkout,
        env={**clean, "CXXFLAGS": "-O0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def script(folder: Path, text: str) -> str:
    """An executable that runs ``text``."""
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_in_place(checkout: Path, compiler: str) -> None:
    ops = checkout / "replk_probe" / "ops"
    (ops / "_build_error.txt").write_text("of an earlier build")
    log = checkout.parent / "log"
    logging = script(checkout.parent, f'echo "$@" >> {log}\nexec {compiler} "$@"')
    output = setup(checkout, "build_ext", "--inplace", CXX=logging)
    assert f"Built {LIBRARY} with {logging} for portable" in output
    assert sorted(path.name for path in ops.iterdir()) == sorted(["__init__.py", LIBRARY])
    assert ctypes.CDLL(str(ops / LIBRARY)).replk_abi_version() == 6
    # Whether products and sums are fused is not left to the compiler.
    compiled = [words for words in map(str.split, log.read_text().splitlines()) if "-c" in words]
    assert compiled and all("-ffp-contract=fast" in words for words in compiled)


def test_the_wheel_serves_every_python_of_the_platform(checkout: Path, compiler: str) -> None:
    setup(checkout, "bdist_wheel", CXX=script(checkout.parent, _WRITES_NOTHING.format(compiler=compiler)))
    (wheel,) = (checkout / "dist").iterdir()
    _, _, python, abi, platform = wheel.stem.split("-")
    assert (python, abi) == ("py3", "none") and platform != "any"
    names = zipfile.ZipFile(wheel).namelist()
    assert f"replk_probe/ops/{LIBRARY}" in names
    assert not [name for name in names if name.startswith("csrc") or name.endswith((".cpp", ".h", ".o"))]


@pytest.mark.parametrize("named", ["/bin/false", "no-such-compiler", ""])
def test_without_a_compiler_the_package_builds_and_gives_the_reason(checkout: Path, named: str) -> None:
    ops = checkout / "replk_probe" / "ops"
    (ops / LIBRARY).write_bytes(b"of an earlier build")
    environment = {"CXX": named} if named else {"PATH": "/nowhere"}
    output = setup(checkout, "build_ext", "--inplace", **environment)
    assert "The native library was not built; torch's convolutions are used instead." in output
    reason = (ops / "_build_error.txt").read_text()
    assert not (ops / LIBRARY).exists()
    want = {
        "/bin/false": "The compiler failed with status 1: /bin/false",
        "no-such-compiler": "The compiler that CXX names was not found: no-such-compiler.",
        "": "No C++ compiler was found: none of ",
    }[named]
    assert reason.startswith(want)
    setup(checkout, "bdist_wheel", **environment)
    (wheel,) = (checkout / "dist").iterdir()
    assert zipfile.ZipFile(wheel).read("replk_probe/ops/_build_error.txt").decode().startswith(want)


def test_compiler_output_is_kept(checkout: Path, compiler: str) -> None:
    (checkout / "csrc" / "cpu" / "fft.cpp").write_text("int f( {\n")
    setup(checkout, "build_ext", "--inplace", CXX=compiler)
    reason = (checkout / "replk_probe" / "ops" / "_build_error.txt").read_text()
    assert "The compiler failed with status 1" in reason and "fft.cpp" in reason and "error" in reason


@pytest.mark.parametrize(("refused", "best"), [("-mavx512f", 2), ("-mavx*", 1)])
def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out(
    checkout: Path, compiler: str, refused: str, best: int
) -> None:
    limited = script(
        checkout.parent, f'for word in "$@"; do case $word in {refused}) exit 1;; esac; done\nexec {compiler} "$@"'
    )
    output = setup(checkout, "build_ext", "--inplace", CXX=limited)
    assert "avx512" not in output
    library = ctypes.CDLL(str(checkout / "replk_probe" / "ops" / LIBRARY))
    assert library.replk_best_isa() <= best


def test_an_instruction_set_whose_intrinsics_the_compiler_lacks_is_left_out(checkout: Path, compiler: str) -> None:
    headers, log = checkout.parent / "headers", checkout.parent / "log"
    headers.mkdir()
    (headers / "immintrin.h").write_text("#error no such instructions\n")
    limited = script(
        checkout.parent,
        f'for word in "$@"; do case $word in -mavx512f) set -- "-I{headers}" "$@";; esac; done\necho "$@" >> {log}\n'
        + _WRITES_NOTHING.format(compiler=compiler),
    )
    output = setup(checkout, "build_ext", "--inplace", CXX=limited)
    assert "Built" in output and "portable" in output and "avx512" not in output
    compiled = [words for words in map(str.split, log.read_text().splitlines()) if "-c" in words]
    assert compiled and not any("-DREPLK_ISA=avx512" in words for words in compiled)
    assert all("-DREPLK_NO_AVX512" in words for words in compiled)


def test_the_instruction_sets_are_those_of_the_compilers_target(checkout: Path, compiler: str) -> None:
    log = checkout.parent / "log"
    other = script(
        checkout.parent,
        f'echo "$@" >> {log}\ncase "$*" in *-dumpmachine*) echo riscv64-linux-gnu; exit;; esac\n'
        + _WRITES_NOTHING.format(compiler=compiler),
    )
    output = setup(
        checkout, "build_ext", "--inplace", CXX=other, CXXFLAGS="-O0 -DREPLK_NO_AVX2 -DREPLK_NO_AVX512 -DREPLK_NO_NEON"
    )
    assert "for portable in" in output
    words = log.read_text().split()
    assert "-DREPLK_ISA=portable" in words and not {"-mavx2", "-DREPLK_ISA=neon"} & {*words}


def test_a_cross_compiler_builds_neon_and_nothing_of_x86(checkout: Path) -> None:
    cross = "aarch64-linux-gnu-g++"
    if shutil.which(cross) is None:
        pytest.skip(f"there is no {cross} here")
    output = setup(checkout, "build_ext", "--inplace", CXX=cross)
    assert f"Built {LIBRARY} with {cross} for portable, neon in" in output
    header = (checkout / "replk_probe" / "ops" / LIBRARY).read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_a_source_distribution_has_the_sources(checkout: Path) -> None:
    setup(checkout, "sdist", "--formats=gztar")
    (archive,) = (checkout / "dist").iterdir()
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.py", "csrc/include/replk/dwconv2d.h", "csrc/common/api.cpp", "csrc/cpu/fft.cpp"} <= names
