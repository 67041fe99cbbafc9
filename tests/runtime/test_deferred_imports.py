"""Packages whose code runs only when it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[[str], list[str]]
HEAVY = ("torch._dynamo", "sympy", "triton", "torchvision.datasets", "timm.models.beit", "scipy.stats", "pandas")
# Each line is a script, which runs in a fork of this process, because importing torch takes seconds.
SERVER = """
import json, os, sys
from replk_probe.runtime.deferred_imports import defer_imports, when_imported
defer_imports()
import torch
for line in sys.stdin:
    script, output = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
file = os.open(output, os.O_WRONLY | os.O_CREAT)
os.dup2(file, 1)
os.dup2(file, 2)
exec(script, {"sys": sys, "when_imported": when_imported, "__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[str]]]:
    """Function that runs a script in a process in which imports are deferred, and returns the lines that it writes."""
    output = tmp_path_factory.mktemp("deferred") / "output"
    command = [sys.executable, "-W", "error", "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        scripts, statuses = process.stdin, process.stdout
        assert scripts is not None and statuses is not None

        def run(script: str) -> list[str]:
            output.unlink(missing_ok=True)
            scripts.write(json.dumps([textwrap.dedent(script), str(output)]) + "\n")
            scripts.flush()
            status, text = statuses.readline(), output.read_text()
            assert status == "0\n" and "nanobind" not in text, text
            return text.splitlines()

        yield run


def test_the_commands_load_no_package_that_they_do_not_need(run: Run) -> None:
    # One process for all commands, because starting one takes seconds.
    loaded = run(
        f"""
        import os, tempfile
        os.chdir(tempfile.mkdtemp())
        os.mkdir("stimuli")
        from PIL import Image
        Image.new("RGB", (64, 64)).save("stimuli/cat1-dog1.png")
        with open("labels.json", "w") as file:
            file.write('{{"cat": [0], "dog": [1]}}')
        # Coarse figures, since rendering takes most of the time.
        from matplotlib.figure import Figure
        savefig = Figure.savefig
        Figure.savefig = lambda figure, stream, **options: savefig(figure, stream, **options | {{"dpi": 20}})
        from replk_probe.cli.main import cli
        for line in (
            "kernels --model replknet_micro_k13 --layer stage4.0",
            "erf --model replknet_micro_k3 --images 1 --size 64",
            "shape-bias --model replknet_micro_k3 --stimuli stimuli --mapping labels.json",
        ):
            cli.main(line.split(), standalone_mode=False)
        from replk_probe.shape_bias import open_stimuli
        open_stimuli("synthetic", size=32).load(0)  # the stimuli by default
        print("loaded", [name for name in {HEAVY} if name in sys.modules])
        """
    )
    assert loaded[-1] == "loaded []"


def test_everything_works_as_always(run: Run) -> None:
    lines = run(
        """
        from timm.models import build_model_with_cfg  # found without running the package
        import timm, torchvision, seaborn, timm.models.resnet
        print(type(timm).__name__, type(torchvision).__name__, "timm.models.beit" in sys.modules)
        print(timm.is_model("vit_tiny_patch16_224"), callable(timm.models.xception), type(timm).__name__)
        from replk_probe.models import timm_registry
        # A former name, which only the whole package knows.
        print(timm_registry.is_model("vit_base_patch8_224_in21k"), timm_registry.is_model("no_such_model"))
        from timm.data import create_transform
        from torchvision.models import resnet18
        print(torchvision.ops.nms.__name__, torchvision.transforms.Resize.__name__, resnet18.__name__)
        print(seaborn.heatmap.__name__, hasattr(seaborn, "no_such_name"), seaborn.cm.rocket.name)
        """
    )
    assert lines == [
        "_DeferredPackage _DeferredPackage False",
        "True True module",
        "True False",
        "nms Resize resnet18",
        "heatmap False rocket",
    ]


def test_seaborn_imports_pandas_when_it_uses_it(run: Run) -> None:
    lines = run(
        """
        import os
        import seaborn, seaborn.cm, seaborn.utils
        print(len(seaborn.color_palette("crest", 3)), "pandas" in sys.modules)
        if os.fork() == 0:
            print(seaborn.utils.remove_na(seaborn.utils.np.array([1.0, float("nan")])), flush=True)
            os._exit(0)
        os.wait()
        import pandas
        print(pandas.DataFrame is seaborn.utils.pd.DataFrame, hasattr(seaborn.utils.pd, "no_such_name"))
        print(seaborn.lineplot(pandas.DataFrame({"a": [1, 2], "b": [3, 4]}), x="a", y="b").get_ylabel())
        """
    )
    assert lines == ["3 False", "[1.]", "True False", "b"]


def test_a_module_that_uses_pandas_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "uses_pandas.py").write_text("import pandas as pd\nLENGTH = len(pd.DataFrame([1, 2]))\n")
    (tmp_path / "fails.py").write_text("import pandas as pd\nraise RuntimeError('as always')\n")
    lines = run(
        f"""
        from replk_probe.runtime import deferred_imports
        deferred_imports._PANDAS_LATER += ("uses_pandas", "fails")
        sys.path.insert(0, {str(tmp_path)!r})
        try:
            import fails
        except RuntimeError as error:
            print(error)
        import uses_pandas
        print(uses_pandas.LENGTH, type(sys.modules["pandas"]).__name__)
        """
    )
    assert lines == ["as always", "2 module"]


def test_any_module_may_be_imported_first(run: Run) -> None:
    lines = run(
        """
        import importlib, os
        import torch
        for name in ("timm.data.create_dataset", "seaborn.matrix"):
            if os.fork() == 0:
                module, _, attribute = name.rpartition(".")
                found = getattr(importlib.import_module(module), attribute)
                print(found.__name__, flush=True)
                os._exit(0)
            os.wait()
        """
    )
    assert lines == ["create_dataset", "seaborn.matrix"]


def test_one_module_of_timm_is_imported_for_a_model(run: Run) -> None:
    lines = run(
        """
        from replk_probe.models import timm_registry
        print(timm_registry.is_model("resnet18"), len(timm_registry.list_models()) > 1000)
        print(type(timm_registry.create("resnet18")).__name__, timm_registry.entrypoint("resnet10t").__module__)
        print("timm.models.resnet" in sys.modules, "timm.models.beit" in sys.modules)
        """
    )
    assert lines == ["True True", "ResNet timm.models.resnet", "True False"]


def test_functions_wait_for_a_module(run: Run) -> None:
    lines = run(
        """
        when_imported("fractions", lambda: print("now"))
        print("fractions" in sys.modules)
        import fractions
        when_imported("fractions", lambda: print("again", fractions.Fraction(1, 2)))
        import replk_probe.ops
        print("torch.utils.flop_counter" in sys.modules)
        from torch.utils.flop_counter import flop_registry
        print(any("replk_probe" in str(operator) for operator in flop_registry))
        """
    )
    assert lines == ["False", "now", "again 1/2", "False", "True"]
