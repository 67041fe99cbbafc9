"""Every public name has a documented example, and all examples run and give the output that is shown."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import replk_probe

ROOT = Path(replk_probe.__file__).parent

# Objects that users receive or catch rather than make, and the public name whose example contains them.
SHOWN_BY = {}

# Examples that call the native library directly.
NATIVE_ONLY = {"replk_probe.ops.gelu"}


def public_objects() -> Iterator[tuple[str, str, Any]]:
    """The package, the name and the value of each public name; those of the whole package are in one of its own too."""
    for package in replk_probe.__all__:
        home = getattr(replk_probe, package)
        if isinstance(home, ModuleType):
            for name in getattr(home, "__all__", [name for name in dir(home) if is_defined_in(home, name)]):
                yield home.__name__, name, getattr(home, name)


def is_defined_in(module: ModuleType, name: str) -> bool:
    """Whether a module without ``__all__`` defines a public class or function of this name."""
    return not name.startswith("_") and getattr(getattr(module, name), "__module__", None) == module.__name__


def is_documented_by_itself(value: Any) -> bool:
    """Whether a value is a class or a function, and not a constant or a module."""
    return callable(value) and not isinstance(value, ModuleType)


OBJECTS = {
    f"{package.removeprefix('replk_probe.')}.{name}": value
    for package, name, value in public_objects()
    if is_documented_by_itself(value)
}
EXAMPLES = re.compile(r"^ *>>> ", re.MULTILINE)
MODULES = {
    ".".join(["replk_probe", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): examples
    for path in sorted(ROOT.rglob("*.py"))
    if (examples := len(EXAMPLES.findall(path.read_text(encoding="utf-8"))))
}


def has_example(value: Any) -> bool:
    """Whether a docstring has an example."""
    return EXAMPLES.search(inspect.getdoc(value) or "") is not None


def test_all_names_of_the_package_belong_to_a_public_package() -> None:
    values = [getattr(replk_probe, name) for name in replk_probe.__all__]
    own = [value for value in values if is_documented_by_itself(value)]
    assert own and all(any(value is other for other in OBJECTS.values()) for value in own)


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in SHOWN_BY])
def test_every_public_name_has_an_example(name: str) -> None:
    assert has_example(OBJECTS[name])


def test_names_that_other_examples_show_are_public_and_have_none() -> None:
    stale = [name for name in SHOWN_BY if name not in OBJECTS or has_example(OBJECTS[name])]
    assert stale == []
    assert [other for other in SHOWN_BY.values() if not has_example(OBJECTS[other])] == []


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty working folder, fixed random numbers, and figures that are closed afterwards.

    model-vs-human, which is not installed, is replaced by what the registration of models uses of it.
    """
    monkeypatch.chdir(tmp_path)
    toolbox = {
        "registry": SimpleNamespace(list_models=lambda kind: [], register_model=lambda kind: lambda function: function),
        "pytorch.model_zoo": SimpleNamespace(),
        "wrappers.pytorch": SimpleNamespace(PytorchModel=object),
    }
    for name, module in toolbox.items():
        monkeypatch.setitem(sys.modules, f"modelvshuman.models.{name}", module)
    with torch.random.fork_rng():
        yield


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("name", MODULES)
def test_examples_run_and_give_the_output_shown(name: str) -> None:
    if name in NATIVE_ONLY and not replk_probe.ops.native_info().loaded:
        pytest.skip("the native library is not available")
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        torch.manual_seed(0)
        runner.run(test, out=output.append)
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
    assert runner.failures == 0, "".join(output)
    # Every example of the file ran, also those of wrapped functions and of methods.
    assert runner.tries == MODULES[name]
