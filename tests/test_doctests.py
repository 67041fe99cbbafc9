"""Every public name has a documented example, and all examples run and give the output that is shown."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import replk_probe
from replk_probe.sweeps.engines.interface import Finished, attempt

ROOT = Path(replk_probe.__file__).parent

# Classes without an example of their own, and the public name whose example shows them.
SHOWN_BY = {
    # Functions return them.
    "collection.Collection": "collection.find_results",
    "comparison.Comparison": "comparison.compare_results",
    "models.BranchMerging": "models.merge_parallel_branches",
    "models.CheckpointReport": "models.load_checkpoint",
    "models.DataConfig": "models.data_config",
    "models.LayerRef": "models.resolve_layer",
    "models.ProbeSpec": "models.probe_spec",
    "models.ReparamReport": "models.reparam_checkpoint",
    "ops.NativeInfo": "ops.native_info",
    "ops.NativeKernel": "ops.native_kernels",
    "ops.PlannedMethod": "ops.planned_method",
    "ops.TuningResult": "ops.tune",
    "sweeps.SweepResult": "sweeps.sweep",
    # They are parts of such objects.
    "attribution.AttributedImage": "attribution.measure_attribution",
    "attribution.ErfWindow": "attribution.measure_attribution",
    "bench.Gpu": "bench.measure_speed",
    "bench.MethodChoice": "bench.measure_speed",
    "bench.SpeedCase": "bench.measure_speed",
    "bench.Timing": "bench.measure_speed",
    "collection.Saved": "collection.find_results",
    "comparison.Difference": "comparison.compare_results",
    "erf.MeasuredPosition": "erf.draw_positions",
    "behaviour.Scores": "behaviour.BehaviourResult",
    "erf.RatioRow": "erf.ErfResult",
    "reliance.CueAccuracy": "reliance.measure_reliance",
    "reliance.SuppressedAccuracy": "reliance.measure_reliance",
    "models.Difference": "models.reparam_checkpoint",
    "shape_bias.CueScore": "shape_bias.CueScores",
    # They are caught or filtered like their base classes.
    "errors.BackendError": "errors.ReplkProbeError",
    "errors.InvalidInputError": "errors.ReplkProbeError",
    "errors.ResumeError": "errors.ReplkProbeError",
    "errors.UnknownModelError": "errors.ReplkProbeError",
    "errors.WeightsError": "errors.ReplkProbeError",
    "ops.TuningWarning": "ops.tune",
}

# Examples that call the native library directly.
NATIVE_ONLY = {"replk_probe.ops.gelu"}


def load_public_names() -> ModuleType:
    """The module with the public names, which the documentation site uses as well."""
    path = ROOT.parent / "scripts" / "site" / "public_names.py"
    spec = importlib.util.spec_from_file_location("public_names", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = load_public_names()


def public_objects() -> Iterator[tuple[str, str, Any]]:
    """The package, the name and the value of each public name; those of the whole package are in one of its own too."""
    for package in SITE.public_modules(replk_probe):
        home = getattr(replk_probe, package)
        for name in SITE.public_names(home):
            yield home.__name__, name, getattr(home, name)


OBJECTS = {
    f"{package.removeprefix('replk_probe.')}.{name}": value
    for package, name, value in public_objects()
    if callable(value)
}
CONSTANTS = {name for _, name, value in public_objects() if not callable(value)} | {"__version__"}
EXAMPLES = re.compile(r"^ *>>> ", re.MULTILINE)
MODULES = {
    ".".join(["replk_probe", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): examples
    for path in sorted(ROOT.rglob("*.py"))
    if (examples := len(EXAMPLES.findall(path.read_text(encoding="utf-8"))))
}


def has_example(value: Any) -> bool:
    """Whether a docstring has an example."""
    return EXAMPLES.search(inspect.getdoc(value) or "") is not None


def test_every_constant_has_a_description() -> None:
    # A text after the assignment, which documentation generators read.
    texts = SITE.constant_texts(ROOT)
    assert CONSTANTS and {*texts} >= CONSTANTS
    assert texts["CATEGORIES"].startswith("Names of the 16 categories")


def test_all_names_of_the_package_belong_to_a_public_package() -> None:
    values = [getattr(replk_probe, name) for name in replk_probe.__all__]
    own = [value for value in values if callable(value)]
    assert own and all(any(value is other for other in OBJECTS.values()) for value in own)


def test_every_public_name_has_an_example() -> None:
    assert [name for name, value in OBJECTS.items() if not has_example(value) and name not in SHOWN_BY] == []


def test_names_that_other_examples_show_are_classes_without_an_example() -> None:
    stale = [name for name in SHOWN_BY if not inspect.isclass(OBJECTS.get(name)) or has_example(OBJECTS[name])]
    assert stale == []
    assert [other for other in SHOWN_BY.values() if not has_example(OBJECTS[other])] == []


@pytest.fixture
def model_vs_human(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the registration of models uses of model-vs-human, which is not installed."""
    toolbox = {
        "registry": SimpleNamespace(list_models=lambda kind: [], register_model=lambda kind: lambda function: function),
        "pytorch.model_zoo": SimpleNamespace(),
        "wrappers.pytorch": SimpleNamespace(PytorchModel=object),
    }
    for name, module in toolbox.items():
        monkeypatch.setitem(sys.modules, f"modelvshuman.models.{name}", module)


class ThisProcess:
    """An engine that runs each task when it is submitted; a worker process would import torch again."""

    free = 1

    def __init__(self, workers: int, **limits: Any) -> None:
        self.finished: list[Finished] = []
        self.threads = torch.get_num_threads()  # jobs set it

    def submit(self, task: str, function: Callable[..., None], *args: Any) -> None:
        self.finished.append(Finished(task, attempt(function, *args)))

    def wait(self, seconds: float) -> list[Finished]:
        done, self.finished = self.finished, []
        return done

    def close(self) -> None:
        torch.set_num_threads(self.threads)


@pytest.mark.usefixtures("model_vs_human")
@pytest.mark.parametrize("name", MODULES)
def test_examples_run_and_give_the_output_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NATIVE_ONLY and not replk_probe.ops.native_info().loaded:
        pytest.skip("the native library is not available")
    monkeypatch.setattr("replk_probe.sweeps.run.LocalEngine", ThisProcess)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        folder = tmp_path / test.name
        folder.mkdir()
        monkeypatch.chdir(folder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            runner.run(test, out=output.append)
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
    assert runner.failures == 0, "".join(output)
    # Every example of the file ran, also those of wrapped functions and of methods.
    assert runner.tries == MODULES[name]
