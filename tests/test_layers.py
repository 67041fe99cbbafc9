"""Import directions: which room of the house may import which, read from the source without running it.

An import under ``if TYPE_CHECKING:`` is free; one inside a function counts like any other, except in ``cli``,
where everything heavy has to be inside functions so that ``--help`` stays instant.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import replk_probe

PACKAGE = "replk_probe"
ROOT = Path(replk_probe.__file__).parent

# The runtime modules that everything may stand on, because they import nothing but the standard library and tqdm.
LIGHT_RUNTIME = ("archive", "atomic_files", "download", "json_io", "progress", "provenance")
RESULT_FILES = (
    "result",
    "kernel",
    "area_protocols",
    "jackknife",
    "published",
    "statistics",
    "model_vs_human.raw_data",
    "stimuli.names",
    "decision_mapping",
    "decisions",
    "observers",
)


@dataclass(frozen=True)
class Rule:
    """What the files matching ``files`` may import, beside the standard library.

    Attributes:
        files: Patterns of paths relative to the package; the first rule that matches a file is its rule.
        rooms: Patterns of modules of this package, without the package's name; ``{room}`` is the file's own room.
        packages: Top-level names of other packages.
        not_rooms: Exceptions to ``rooms``.
        lazily: Inside functions every room and every package may be imported.
        torch_free: Importing the file must not load torch, by whatever way.
    """

    files: tuple[str, ...]
    rooms: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    not_rooms: tuple[str, ...] = ()
    lazily: bool = False
    torch_free: bool = False


LIGHT = ("errors", *(f"runtime.{name}" for name in LIGHT_RUNTIME))
RESULTS = tuple(f"{{room}}.{name}" for name in RESULT_FILES)
PLOTS = ("*.plot", "*.plot_*")
ANALYZERS = ("erf", "shape_bias", "kernels", "bench")


def in_analyzers(*names: str) -> tuple[str, ...]:
    """Patterns of the files called so in every analyzer's room."""
    return tuple(f"{room}/{name.replace('.', '/')}.py" for room in ANALYZERS for name in names)


RULES = (
    Rule(("__init__.py",), ("_lazy",), torch_free=True),
    Rule(("_lazy.py",), torch_free=True),
    Rule(("__main__.py",), ("cli.main",)),
    Rule(("errors.py",), torch_free=True),
    Rule(("plot_style.py",), LIGHT, ("matplotlib", "seaborn", "numpy"), torch_free=True),
    Rule(tuple(f"runtime/{name}.py" for name in LIGHT_RUNTIME), LIGHT, ("tqdm",), torch_free=True),
    Rule(("runtime/__init__.py",), torch_free=True),
    Rule(("runtime/*",), ("errors", "runtime.*"), ("torch", "numpy", "tqdm")),
    Rule(("images/*",), ("errors", "images.*"), ("PIL", "numpy"), torch_free=True),
    Rule(("ops/*",), ("errors", "ops", "ops.*"), ("torch",)),
    Rule(
        ("models/*",),
        (*LIGHT, "ops", "ops.*", "models", "models.*"),
        ("timm", "torch", "torchvision", "safetensors", "numpy", "gdown"),
    ),
    # A room's door: it may lead anywhere inside, but must not drag torch in for those who only want a result.
    Rule(in_analyzers("__init__"), ("_lazy", "{room}.*"), torch_free=True),
    Rule(in_analyzers(*RESULT_FILES), (*LIGHT, *RESULTS), ("numpy", "scipy"), torch_free=True),
    Rule(
        in_analyzers("plot", "plot_*"),
        (*LIGHT, "plot_style", "{room}.plot", "{room}.plot_*", *RESULTS),
        ("matplotlib", "seaborn", "numpy", "scipy"),
        torch_free=True,
    ),
    # Stimuli are files or drawings; looking at them needs no torch.
    Rule(
        tuple(f"shape_bias/{name}" for name in ("stimuli/*", "stimulus_source.py", "loading.py", "synthetic/*")),
        (*LIGHT, "images", "images.*", "{room}.*"),
        ("PIL", "numpy"),
        not_rooms=PLOTS,
        torch_free=True,
    ),
    # What is measured here is the operator itself.
    Rule(
        ("bench/*",),
        ("errors", "models", "models.*", "ops", "ops.*", "runtime.*", "{room}.*"),
        ("torch", "numpy"),
        not_rooms=PLOTS,
    ),
    Rule(
        in_analyzers("*"),
        ("errors", "models", "models.*", "images", "images.*", "runtime.*", "{room}.*"),
        ("torch", "numpy", "captum"),
        not_rooms=PLOTS,
    ),
    Rule(("report/text.py",), ("errors",), ("rich",), torch_free=True),
    Rule(
        ("report/*",),
        (*LIGHT, "report.*", *PLOTS, *(f"*.{name}" for name in RESULT_FILES)),
        ("matplotlib", "seaborn", "numpy"),
        torch_free=True,
    ),
    Rule(("cli/*",), ("errors", "cli.*"), ("click",), lazily=True, torch_free=True),
)


@dataclass(frozen=True)
class Import:
    """One import statement: the module it names, where it stands, and whether inside a function."""

    module: str
    line: int
    in_function: bool


def rule_for(path: str) -> Rule | None:
    """The rule of a file, given its path relative to the package, or None for an unknown room."""
    return next((rule for rule in RULES if any(fnmatchcase(path, pattern) for pattern in rule.files)), None)


def is_type_checking(test: ast.expr) -> bool:
    """True for ``TYPE_CHECKING`` and ``typing.TYPE_CHECKING``."""
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(path: str, source: str) -> Iterator[Import]:
    """Every import of a file that can run, relative ones made absolute."""
    package = [PACKAGE, *path.split("/")[:-1]]

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.orelse:
                yield from visit(child, in_function)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(submodule(module, alias.name), node.lineno, in_function)
        inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), False)


def submodule(module: str, name: str) -> str:
    """``module.name`` where that is a module of ours (or a public name that leads to one), else ``module``."""
    if module.split(".")[0] != PACKAGE:
        return module
    if module == PACKAGE and name in replk_probe._HOME:
        return f"{PACKAGE}.{replk_probe._HOME[name]}"
    folder = ROOT.joinpath(*module.split(".")[1:])
    return f"{module}.{name}" if (folder / name).is_dir() or (folder / f"{name}.py").is_file() else module


def violations(path: str, source: str) -> list[str]:
    """What a file imports and may not, one line each."""
    rule = rule_for(path)
    if rule is None:
        return [f"{path}: no rule for this room; add it to RULES in tests/test_layers.py"]
    room = path.split("/")[0]
    allowed = [pattern.format(room=room) for pattern in rule.rooms]
    found = []
    for item in imports(path, source):
        top, _, rest = item.module.partition(".")
        if top == PACKAGE:
            # `replk_probe` itself holds the version and imports nothing.
            refused = bool(rest) and not any(fnmatchcase(rest, pattern) for pattern in allowed)
            refused = refused or any(fnmatchcase(rest, pattern) for pattern in rule.not_rooms)
        else:
            refused = top not in sys.stdlib_module_names and top not in rule.packages
        if refused and not (rule.lazily and item.in_function):
            found.append(f"{path}:{item.line}: may not import {item.module}")
    return found


FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_imports_go_one_way(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_torch_free_modules_do_not_load_torch() -> None:
    modules = []
    for path in FILES:
        rule = rule_for(path)
        if rule is not None and rule.torch_free:
            modules.append(".".join([PACKAGE, *path.removesuffix(".py").split("/")]).removesuffix(".__init__"))
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'timm', 'torchvision', 'captum'} & set(sys.modules)\n"
        "    assert not heavy, f'importing {name} loads {sorted(heavy)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("novelty/measure.py", ""),
        ("errors.py", "import numpy"),
        ("runtime/provenance.py", "import torch"),
        ("runtime/download.py", "def fetch():\n    import torch"),
        ("runtime/checkpoint.py", "from ..models import create_model"),
        ("images/folder.py", "import torch"),
        ("models/architectures/replknet.py", "from ...erf.measure import measure_erf"),
        ("models/architectures/replknet.py", "import click"),
        ("erf/result.py", "import torch.nn"),
        ("erf/result.py", "from .measure import measure_erf"),
        ("erf/area_protocols.py", "if True:\n    from torch import Tensor"),
        ("erf/measure.py", "from matplotlib import pyplot"),
        ("erf/measure.py", "from .plot import plot_erf"),
        ("erf/measure.py", "from ..kernels.measure import measure_kernels"),
        ("erf/measure.py", "import click"),
        ("erf/measure.py", "from .plot_comparison import draw_comparison"),
        ("erf/plot.py", "import torch"),
        ("erf/plot_comparison.py", "import torch"),
        ("erf/plot_comparison.py", "from .measure import measure_erf"),
        ("erf/plot.py", "from .measure import measure_erf"),
        ("bench/plot.py", "from replk_probe.erf.plot import plot_erf"),
        ("report/erf_table.py", "from replk_probe.erf.measure import measure_erf"),
        ("report/erf_table.py", "from replk_probe import measure_erf"),
        ("cli/erf.py", "import torch"),
        ("cli/erf.py", "from replk_probe import models"),
        ("erf/plot.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
    ],
)
def test_the_rules_refuse(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "runtime/provenance.py",
            "import json\nfrom replk_probe import __version__\nfrom ..errors import ReplkProbeError",
        ),
        (
            "models/architectures/replknet.py",
            "import torch\nfrom timm.models import register_model\nfrom ...errors import WeightsError",
        ),
        ("erf/result.py", "import numpy as np\nfrom ..runtime.provenance import RunInfo"),
        ("erf/result.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("erf/result.py", "import typing\nif typing.TYPE_CHECKING:\n    from .measure import measure_erf"),
        ("erf/measure.py", "import torch\nfrom replk_probe.models import create_model"),
        ("erf/plot_comparison.py", "import seaborn\nfrom ..plot_style import house_style\nfrom .plot import plot_erf"),
        ("report/html.py", "from replk_probe.erf.plot_comparison import draw_comparison"),
        ("shape_bias/plot.py", "import seaborn\nfrom .result import ShapeBiasResult"),
        ("cli/erf.py", "import click\ndef command():\n    import torch\n    from replk_probe.erf import measure_erf"),
    ],
)
def test_the_rules_allow(path: str, source: str) -> None:
    assert violations(path, source) == []
