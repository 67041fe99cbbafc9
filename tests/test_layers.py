"""Import directions: which package may import which, read from the source without running it.

An import under ``if TYPE_CHECKING:`` is free; one inside a function counts like any other, except in ``cli``,
where everything heavy has to be inside functions so that ``--help`` stays instant.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import replk_probe

PACKAGE = "replk_probe"
ROOT = Path(replk_probe.__file__).parent

# The runtime modules that all files may import, because they import only the standard library and tqdm.
LIGHT_RUNTIME = (
    "archive",
    "atomic_files",
    "checks",
    "deferred_imports",
    "download",
    "escaping",
    "formatting",
    "nested",
    "locks",
    "paths",
    "processes",
    "progress",
    "provenance",
)
RESULT_FILES = (
    "result",
    "kernel",
    "area_protocols",
    "jackknife",
    "convergence",
    "gaussian_fit",
    "labels",
    "latex",
    "result_notes",
    "map_numbers",
    "occlusion_rows",
    "position_rule",
    "map_statistics",
    "published",
    "statistics",
    "channel_statistics",
    "model_vs_human.raw_data",
    "stimuli.names",
    "decision_mapping",
    "decisions",
    "display_names",
    "observers",
    "cue_scores",
    "suppressions",
    "benchmark_sets",
    "consistency",
    "people",
    "raw_data",
    "scores",
    "trials",
)
# What the benchmark of people and networks shares with the shape bias.
DECISIONS = tuple(
    f"shape_bias.{name}" for name in ("decisions", "model_vs_human.raw_data", "result", "statistics", "stimuli.names")
)


@dataclass(frozen=True)
class Rule:
    """What the files matching ``files`` may import in addition to the standard library.

    Attributes:
        files: Patterns of paths relative to the package; the first rule that matches a file is its rule.
        modules: Patterns of modules of this package, without its name; ``{package}`` is the file's own subpackage.
        packages: Top-level names of other packages.
        not_modules: Exceptions to ``modules``.
        lazily: Whether everything may be imported inside functions.
        torch_free: Importing the file must not load torch, directly or indirectly.
    """

    files: tuple[str, ...]
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    not_modules: tuple[str, ...] = ()
    lazily: bool = False
    torch_free: bool = False


LIGHT = ("errors", "_version", *(f"runtime.{name}" for name in LIGHT_RUNTIME))
RESULTS = ("results", "runtime.file_reading", *(f"{{package}}.{name}" for name in RESULT_FILES))
PLOTS = ("*.plot", "*.plot_*")
ANALYZERS = ("erf", "shape_bias", "behaviour", "kernels", "bench", "attribution", "reliance")


def in_analyzers(*names: str) -> tuple[str, ...]:
    """Patterns of the files of that name in every analyzer's package."""
    return tuple(f"{package}/{name.replace('.', '/')}.py" for package in ANALYZERS for name in names)


RULES = (
    Rule(("__init__.py",), ("_version",), torch_free=True),
    Rule(("_lazy.py", "_version.py"), torch_free=True),
    Rule(("__main__.py",), ("cli.main",)),
    Rule(("errors.py",), torch_free=True),
    Rule(("plot_style.py",), LIGHT, ("matplotlib", "seaborn", "numpy"), torch_free=True),
    # A result imports pandas and the plots only when it creates a table or a plot.
    Rule(("results.py",), (*LIGHT, "plot_style"), ("numpy", "pandas"), torch_free=True),
    Rule(("runtime/file_reading.py",), LIGHT, ("numpy",), torch_free=True),
    Rule(tuple(f"runtime/{name}.py" for name in LIGHT_RUNTIME), LIGHT, ("tqdm",), torch_free=True),
    Rule(("runtime/__init__.py",), torch_free=True),
    Rule(("runtime/*",), ("errors", "runtime.*"), ("torch", "numpy", "tqdm")),
    Rule(("images/*",), ("errors", "runtime.paths", "images.*"), ("PIL", "numpy"), torch_free=True),
    # Only loaded where it is used, because Triton is optional.
    Rule(("ops/methods/toeplitz_kernels.py",), (), ("triton",)),
    # Choices are stored in the cache folder and sent to other processes.
    Rule(("ops/tuning/*",), ("errors", "_version", "ops", "ops.*", "runtime.*"), ("torch",)),
    Rule(("ops/*",), ("errors", "runtime.deferred_imports", "ops", "ops.*"), ("torch",)),
    Rule(
        ("models/*",),
        (*LIGHT, "runtime.devices", "runtime.dispatch_mode", "ops", "ops.*", "models", "models.*"),
        ("timm", "torch", "torchvision", "safetensors", "numpy", "gdown", "huggingface_hub", "open_clip"),
    ),
    # An analyzer's __init__ may import everything inside it, but not load torch, which reading results does not need.
    Rule(in_analyzers("__init__"), ("{package}.*",), torch_free=True),
    # A result draws itself with its plots, which know only the names of its attributes.
    Rule(
        in_analyzers("result"),
        (*LIGHT, *RESULTS, *DECISIONS, "{package}.plot", "{package}.plot_*"),
        ("numpy", "scipy"),
        torch_free=True,
    ),
    Rule(in_analyzers(*RESULT_FILES), (*LIGHT, *RESULTS, *DECISIONS), ("numpy", "scipy"), torch_free=True),
    Rule(
        in_analyzers("plot", "plot_*"),
        (
            *(*LIGHT, "plot_style", "{package}.plot", "{package}.plot_*", *RESULTS, "{package}.synthetic.*"),
            *(*DECISIONS, "shape_bias.plot_stimuli"),
        ),
        ("matplotlib", "contourpy", "seaborn", "numpy", "scipy"),
        torch_free=True,
    ),
    # Stimuli are files or drawings, which do not need torch.
    Rule(
        (
            *(f"shape_bias/{name}" for name in ("stimuli/*", "stimulus_source.py", "loading.py", "synthetic/*")),
            *("behaviour/image_sets.py", "behaviour/download_sets.py"),
        ),
        (*LIGHT, "images", "images.*", "{package}.*", "shape_bias.stimuli.*", "shape_bias.stimulus_source"),
        ("PIL", "numpy", "tomli"),
        not_modules=PLOTS,
        torch_free=True,
    ),
    # The benchmark measures the operator itself.
    Rule(
        ("bench/*",),
        ("errors", "models", "models.*", "ops", "ops.*", "runtime.*", "{package}.*"),
        ("torch", "numpy"),
        not_modules=PLOTS,
    ),
    # It compares attributions of a classifier with its effective receptive field.
    Rule(
        ("attribution/*",),
        (
            *("errors", "models", "models.*", "images", "images.*", "runtime.*", "erf.*", "{package}.*"),
            *("shape_bias.classifier", "shape_bias.synthetic"),
        ),
        ("torch", "numpy", "captum"),
        not_modules=PLOTS,
    ),
    # It decides as the shape bias does, on other images.
    Rule(
        ("behaviour/*",),
        ("errors", "runtime.checks", "models", "{package}.*", "shape_bias.*"),
        ("torch",),
        not_modules=PLOTS,
    ),
    # It classifies images whose classes are those of several label spaces; OpenCV is optional.
    Rule(
        ("reliance/*",),
        (
            *("errors", "models", "models.*", "images", "images.*", "runtime.*", "{package}.*"),
            *("shape_bias.classifier", "shape_bias.loading", "shape_bias.decision_mapping", "shape_bias.stimuli.names"),
            *("shape_bias.stimuli.stimulus_set", "shape_bias.synthetic"),
        ),
        ("torch", "torchvision", "numpy", "PIL", "cv2"),
        not_modules=PLOTS,
    ),
    # It looks up which names model-vs-human takes from torchvision.
    Rule(("shape_bias/model_vs_human/register.py",), ("errors", "models", "models.*"), ("torch", "torchvision")),
    Rule(
        in_analyzers("*"),
        ("errors", "models", "models.*", "images", "images.*", "runtime.*", "{package}.*"),
        ("torch", "numpy", "captum"),
        not_modules=PLOTS,
    ),
    # The folder of a sweep is read without torch.
    Rule(("sweeps/__init__.py",), ("sweeps.*",), torch_free=True),
    Rule(("sweeps/storage.py",), LIGHT, ("fsspec",), torch_free=True),
    Rule(
        (
            *(f"sweeps/{name}.py" for name in ("document", "folder", "job", "result", "stored_folder")),
            "sweeps/engines/*",
        ),
        (*LIGHT, "results", "runtime.file_reading", "sweeps.*"),
        ("tomllib", "tomli", "ray"),
        torch_free=True,
    ),
    # Workers draw the figures of their results.
    Rule(
        ("sweeps/*",),
        (*LIGHT, "runtime.*", "results", "models.*", "images", *(f"{name}.*" for name in ANALYZERS), "sweeps.*"),
        ("torch", "timm"),
    ),
    Rule(
        ("collection.py",),
        (*LIGHT, "results", "sweeps.folder", *(f"{name}.result" for name in (*ANALYZERS, "sweeps"))),
        torch_free=True,
    ),
    Rule(("comparison/__init__.py", "html_report/__init__.py"), ("{package}.*",), torch_free=True),
    Rule(
        ("comparison/*",),
        (*LIGHT, "results", "collection", "plot_style", "{package}.*", *(f"*.{name}" for name in RESULT_FILES)),
        ("matplotlib", "numpy", "seaborn"),
        torch_free=True,
    ),
    Rule(
        ("html_report/*",),
        (*LIGHT, "results", "collection", "plot_style", "{package}.*", *PLOTS, *(f"*.{name}" for name in RESULT_FILES)),
        ("jinja2", "matplotlib", "seaborn", "numpy", "PIL"),
        torch_free=True,
    ),
    Rule(("report/text.py",), LIGHT, ("rich",), torch_free=True),
    Rule(
        ("report/*",),
        (*LIGHT, "report.*", "comparison.differences", *PLOTS, *(f"*.{name}" for name in RESULT_FILES)),
        ("matplotlib", "seaborn", "numpy"),
        torch_free=True,
    ),
    Rule(("cli/*",), ("errors", "cli.*"), ("click",), lazily=True, torch_free=True),
)


@dataclass(frozen=True)
class Import:
    """One import statement: its module, its line, and whether it is inside a function."""

    module: str
    line: int
    in_function: bool


def rule_for(path: str) -> Rule | None:
    """The rule of a file, given its path relative to the package; None if no rule matches."""
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
    """``module.name`` if that is a module of this package; the home of a lazy public name; otherwise ``module``."""
    if module.split(".")[0] != PACKAGE:
        return module
    if module in LAZY and name in LAZY[module]:
        # The home of a public name of the whole package is a subpackage, where it has a home as well.
        return submodule(f"{module}.{LAZY[module][name]}", name)
    folder = ROOT.joinpath(*module.split(".")[1:])
    return f"{module}.{name}" if (folder / name).is_dir() or (folder / f"{name}.py").is_file() else module


def homes(path: Path) -> dict[str, str]:
    """The table ``_HOME`` of a package: its lazy public names, and the modules that define them."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            table: dict[str, str] = ast.literal_eval(node.value)
            return table
    return {}


LAZY = {
    ".".join([PACKAGE, *path.parent.relative_to(ROOT).parts]): homes(path) for path in sorted(ROOT.rglob("__init__.py"))
}


def violations(path: str, source: str) -> list[str]:
    """What a file imports and may not, one line each."""
    rule = rule_for(path)
    if rule is None:
        return [f"{path}: no rule for this package; add it to RULES in tests/test_layers.py"]
    package = path.split("/")[0]
    allowed = [pattern.format(package=package) for pattern in rule.modules]
    allowed += ["_lazy"] * path.endswith("__init__.py")  # it defines what dir() lists
    found = []
    for item in imports(path, source):
        top, _, rest = item.module.partition(".")
        if top == PACKAGE:
            # `replk_probe` itself holds the version and imports nothing.
            refused = bool(rest) and not any(fnmatchcase(rest, pattern) for pattern in allowed)
            refused = refused or any(fnmatchcase(rest, pattern) for pattern in rule.not_modules)
        else:
            refused = top not in sys.stdlib_module_names and top not in rule.packages
        if refused and not (rule.lazily and item.in_function):
            found.append(f"{path}:{item.line}: may not import {item.module}")
    return found


FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_imports_go_one_way(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def module_of(path: str) -> str:
    """The module's full name, given its path relative to the package."""
    return ".".join([PACKAGE, *path.removesuffix(".py").split("/")]).removesuffix(".__init__")


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Each module of the package, and the modules of the package that it imports, inside functions too."""
    names = {module_of(path) for path in sources}
    return {
        module_of(path): {item.module for item in imports(path, source) if item.module in names} - {module_of(path)}
        for path, source in sources.items()
    }


def private_imports(path: str, source: str) -> list[str]:
    """Imports of underscore modules that belong neither to the file's own package nor to one around it."""
    own = module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
    found = []
    for item in imports(path, source):
        package, _, name = item.module.rpartition(".")
        if item.module.startswith(f"{PACKAGE}.") and name.startswith("_") and not f"{own}.".startswith(f"{package}."):
            found.append(f"{path}:{item.line}: {item.module} is private to {package}")
    return found


SOURCES = {path: (ROOT / path).read_text(encoding="utf-8") for path in FILES}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return import_graph(SOURCES)


def test_no_file_imports_itself_by_way_of_others(graph: dict[str, set[str]]) -> None:
    graphlib.TopologicalSorter(graph).prepare()


def test_no_package_imports_itself_by_way_of_others(graph: dict[str, set[str]]) -> None:
    packages: dict[str, set[str]] = {}
    for name, imported in graph.items():
        package = name.split(".")[1:2]
        targets = {target.split(".")[1] for target in imported if target != PACKAGE}
        packages.setdefault(*package or [PACKAGE], set()).update(targets - {*package})
    graphlib.TopologicalSorter(packages).prepare()


@pytest.mark.parametrize(
    "statement",
    [
        "from replk_probe.erf.measure import measure_erf",
        # Public names that are looked up on first use.
        "from replk_probe.erf import measure_erf",
        "from replk_probe import measure_erf",
        "from . import measure_erf",
    ],
)
def test_an_import_cycle_is_found(statement: str) -> None:
    sources = {
        "erf/measure.py": "from .plan import ErfPlan",
        "erf/plan.py": f"def run():\n    {statement}",
        "erf/result.py": "from . import plan",
    }
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(sources)).prepare()


# Files that import modules whose names are known only when they run: lazy names, commands,
# deferred packages, files and packages of users.
DYNAMIC = {
    "_lazy.py",
    "cli/main.py",
    "models/builders.py",
    "models/timm_registry.py",
    "runtime/deferred_imports.py",
    "runtime/download.py",
    "shape_bias/model_vs_human/register.py",
}


def test_no_other_file_imports_by_a_computed_name() -> None:
    found = {path for path, source in SOURCES.items() if re.search(r"\b(import_module|__import__)\b", source)}
    assert found == DYNAMIC


@pytest.mark.parametrize("path", FILES)
def test_private_modules_stay_in_their_package(path: str) -> None:
    assert private_imports(path, SOURCES[path]) == []


def test_a_private_import_is_found() -> None:
    source = "from replk_probe.ops._cpu import x\nfrom .._lazy import lazy_names\nfrom ..ops import _shapes"
    assert [line.split(": ")[0] for line in private_imports("erf/measure.py", source)] == [
        "erf/measure.py:1",
        "erf/measure.py:3",
    ]
    assert private_imports("ops/modules.py", "from . import _cpu") == []


def test_contributing_lists_every_package() -> None:
    text = ROOT.parent.joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    packages = {path.split("/")[0].removesuffix(".py") for path in FILES if not path.startswith("__")}
    assert sorted(listed) == sorted(name for name in packages if not name.startswith("_"))


def test_torch_free_modules_do_not_load_torch() -> None:
    modules = []
    for path in FILES:
        rule = rule_for(path)
        if rule is not None and rule.torch_free:
            modules.append(module_of(path))
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
        ("erf/measure.py", "from . import plot_erf"),
        ("erf/plan.py", "from replk_probe.erf import draw_comparison"),
        ("erf/published.py", "from .plot import plot_erf"),
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
            "import json\nfrom replk_probe._version import __version__\nfrom ..errors import ReplkProbeError",
        ),
        (
            "models/architectures/replknet.py",
            "import torch\nfrom timm.models import register_model\nfrom ...errors import WeightsError",
        ),
        ("erf/result.py", "import numpy as np\nfrom ..runtime.provenance import RunInfo"),
        ("erf/result.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("erf/result.py", "def plot():\n    from .plot import plot_erf"),
        ("erf/result.py", "import typing\nif typing.TYPE_CHECKING:\n    from .measure import measure_erf"),
        ("erf/measure.py", "import torch\nfrom replk_probe.models import create_model"),
        ("erf/plot_comparison.py", "import seaborn\nfrom ..plot_style import figure_style\nfrom .plot import plot_erf"),
        ("report/html.py", "from replk_probe.erf.plot_comparison import draw_comparison"),
        ("shape_bias/plot.py", "import seaborn\nfrom .result import ShapeBiasResult"),
        ("cli/erf.py", "import click\ndef command():\n    import torch\n    from replk_probe.erf import measure_erf"),
    ],
)
def test_the_rules_allow(path: str, source: str) -> None:
    assert violations(path, source) == []
