"""The scripts run; their measurements are not checked."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from replk_probe.shape_bias.stimuli import manifest

Run = Callable[..., str]

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def run(forked_python: Any) -> Callable[..., str]:
    """Function that runs a script and returns its output."""

    def run(script: str | Path, *arguments: object, **environment: str) -> str:
        done = forked_python.run(script, *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    return run


@pytest.mark.slow
def test_the_erf_benchmark_compares_every_variant(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    printed = run(
        SCRIPTS / "bench_erf.py", "--model", "replknet_micro_k13_rep", "--size", 64, "--repeats", 1, "--json", out
    )
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert [(case["variant"], case["peer"]) for case in cases] == [
        ("plain", None),
        ("fp32", "plain"),
        ("fast", "plain"),
        ("bf16", "plain"),
    ]
    rows = [case["details"] for case in cases]
    assert all(case["repeats"] == [row["seconds_min"]] for case, row in zip(cases, rows, strict=True))
    assert all(row["seconds_median"] > 0 and row["peak_GB"] > 0 for row in rows)
    assert rows[0]["map_relative_l2"] == 0 and rows[1]["map_relative_l2"] < 3e-2
    assert "speed-up" in printed


@pytest.mark.slow
def test_the_preparation_benchmark_compares_every_precision_with_plain_torch(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ("--size", 64, "--repeats", 1, "--threads", 1, "--json", out)
    printed = run(SCRIPTS / "bench_prepare.py", "--models", "resnet10t", *options)
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert [case["variant"] for case in cases] == ["plain", "fp32", "fast", "bf16"]
    assert {case["name"] for case in cases} == {"resnet10t 64x64"} and {case["unit"] for case in cases} == {"CPU s"}
    assert all(len(case["repeats"]) == 1 for case in cases) and cases[1]["details"]["map_relative_l2"] < 1e-2
    assert "Ratio of the medians" in printed


# Runs a script whose commands, ``python ARGUMENTS...``, are forks of its process as well, and render coarse figures.
FORKS_ONLY = """
import os, runpy, subprocess, sys, time
from matplotlib.figure import Figure

savefig, run = Figure.savefig, subprocess.run
Figure.savefig = lambda figure, *args, **options: savefig(figure, *args, **options | {"dpi": 20})

def cost(command, **options):
    if command[0] != sys.executable:
        return run(command, **options)
    sys.stdout.flush()
    start, child = time.perf_counter(), os.fork()
    if not child:
        subprocess.run = run
        option, first, *others = command[1:]
        sys.argv = [option, *others]
        try:
            if option == "-m":
                runpy.run_module(first, run_name="__main__", alter_sys=True)
            else:
                exec(first, {"__name__": "__main__"})
        except SystemExit as end:
            assert not end.code
        finally:
            sys.stdout.flush()
            os._exit(sys.exc_info()[0] is not None)
    _, status, used = os.wait4(child, 0)
    assert status == 0, command
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6

sys.path.insert(0, os.path.dirname(sys.argv[1]))
import _process_cost
_process_cost.cost = subprocess.run = cost
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_kernels_benchmark_compares_with_a_simple_implementation(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ("--model", "replknet_micro_k13_rep", "--repeats", 1, "--json", out)
    printed = run("-c", FORKS_ONLY, SCRIPTS / "bench_kernels.py", *options)
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert len(cases) == 6 and {case["unit"] for case in cases} == {"s", "CPU s", "GB"}
    assert "replknet_micro_k13_rep, 4 kernels" in printed
    assert all(re.search(rf"  {name} +\d+\.\d\d s, .* GB", printed) for name in ("plain", "replk-probe kernels"))


@pytest.mark.slow
def test_the_shape_bias_benchmark_compares_with_the_forward_passes(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ("--model", "replknet_micro_k3", "--count", 32, "--repeats", 1, "--json", out)
    assert "error consistency of 24 observers" in run(SCRIPTS / "bench_shape_bias.py", *options)
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert [(case["variant"], case["peer"]) for case in cases] == [("bare", None), ("measured", "bare")]


@pytest.mark.slow
def test_the_benchmark_of_whole_commands(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    # The bytecode of torch is that of this environment: an empty value is Python's usual place.
    bytecode = os.environ.get("PYTHONPYCACHEPREFIX", "")
    options = ("--commands", "help", "--repeats", 1, "--json", out)
    assert "s of CPU" in run(SCRIPTS / "bench_startup.py", *options, PYTHONPYCACHEPREFIX=bytecode)
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert [(case["variant"], case["peer"]) for case in cases] == [("import torch", None), ("help", "import torch")]
    assert cases[1]["repeats"][0] < cases[0]["repeats"][0]


@pytest.mark.slow
def test_the_reliance_benchmark_compares_with_bare_forward_passes(run: Run) -> None:
    options = ("--model", "test_resnet", "--images", 2, "--without", "bilateral,non-local-means,gaussian-blur")
    printed = run(SCRIPTS / "bench_reliance.py", *options)
    assert "test_resnet, 2 images without and with 14 suppressions" in printed
    assert all(re.search(rf"  {name} +CPU time +\d+\.\d\d s", printed) for name in ("bare forward loop", "measured"))


@pytest.mark.slow
def test_figures_are_rebuilt_from_their_commands(run: Run, tmp_path: Path) -> None:
    scripts, figure = tmp_path / "scripts", tmp_path / "figures" / "small"
    scripts.mkdir()
    figure.mkdir(parents=True)
    for name in ("make_figures.py", "_process_cost.py"):
        shutil.copy(SCRIPTS / name, scripts)
    (figure / "command.txt").write_text(
        "# some seconds\nreplk-probe erf --model replknet_micro_k3 --images 1 --size 64\n", encoding="utf-8"
    )
    make = ("-c", FORKS_ONLY, scripts / "make_figures.py")
    assert "small: rebuilt, data.csv, figure.png changed" in run(*make)
    assert "small: rebuilt, no byte changed" in run(*make, "small")
    assert (figure / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (figure / "data.csv").read_text(encoding="utf-8").startswith("model,")
    (figure / "command.txt").write_text("replk-probe erf --data $NO_SUCH_VARIABLE_HERE\n", encoding="utf-8")
    printed = run(scripts / "make_figures.py", "small")
    assert "Kept as it is: small (an environment variable of its command is not set)" in printed
    # Without names, figures that take long or differ from run to run are kept.
    (figure / "command.txt").write_text("replk-probe bench --planes 64\n", encoding="utf-8")
    assert "small (it measures times, which differ from run to run)" in run(scripts / "make_figures.py")
    (figure / "command.txt").write_text("python scripts/train.py --hours 9\n", encoding="utf-8")
    assert "small (it is made by a script, which may take long)" in run(scripts / "make_figures.py")


def test_every_figure_has_a_command_that_exists(replk_probe: Callable[..., Result]) -> None:
    folders = sorted(path for path in (SCRIPTS.parent / "figures").iterdir() if path.is_dir())
    assert len(folders) > 8
    for folder in folders:
        assert {path.name for path in folder.iterdir()} & {"figure.png", "table.md"}, folder.name
        (command,) = [
            line for line in (folder / "command.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"
        ]
        program, *arguments = shlex.split(command)
        if program == "replk-probe":
            # --help runs nothing, but click refuses unknown commands and options before it prints anything.
            assert replk_probe(*arguments, "--help").exit_code == 0, command
        else:
            assert program == "python" and (SCRIPTS.parent / arguments[0]).is_file(), command


def test_a_network_is_measured_while_it_is_trained(run: Run, tmp_path: Path) -> None:
    options = ("--epochs", 2, "--steps", 2, "--batch-size", 8, "--images", 3, "--size", 32, "--output", tmp_path)
    printed = run(SCRIPTS / "erf_in_training.py", *options)
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["epoch 0", "epoch 1", "epoch 2"]
    assert (tmp_path / "erf_in_training.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "erf_in_training.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 16 and {row["epoch"] for row in rows} == {"0", "1", "2"}
    ratios = [row["ratio"] for row in rows if (row["protocol"], row["threshold"]) == ("pixels", "0.5")]
    assert len({*ratios}) == 3  # the network changes
    assert f"{100 * float(ratios[0]):.1f} %" in printed


def test_the_manifest_is_what_its_script_makes_of_the_stimuli(run: Run, tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SCRIPTS / "make_manifest.py", tmp_path / "scripts")
    assert "1280 files" in run(script, data_dir / "cue-conflict")
    shipped = Path(manifest.__file__).parent / manifest.MANIFEST_FILE
    made = tmp_path / "replk_probe" / "shape_bias" / "stimuli" / manifest.MANIFEST_FILE
    assert gzip.decompress(made.read_bytes()) == gzip.decompress(shipped.read_bytes())
