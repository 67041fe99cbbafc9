"""The memory that measuring a large checkpoint takes; ``scripts/bench_kernels.py`` shows the seconds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from replk_probe.models import create_model

# Runs the command in a child of its own, whose peak is then the only one known to the resource module.
MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "replk_probe", "kernels", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return create_model("replknet31b").state_dict()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is POSIX")
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_all_kernels_of_replknet31b_from_a_checkpoint(kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"replknet31b.{kind}"
    if kind == "pth":
        pattern = re.compile(r"(?<=\.large_kernel\.)large_conv")
        torch.save({pattern.sub("lkb_origin", name): value for name, value in state.items()}, path)
    else:
        save_file(state, path)
    assert path.stat().st_size > 300e6
    arguments = ["--model", "replknet31b", "--weights", str(path), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    assert len(json.loads((tmp_path / "out/kernels.json").read_text())["kernels"]) == 24
    # Of the process that measures; the one that draws takes a tenth of that.
    assert float(done.stdout) < 1.5e9
