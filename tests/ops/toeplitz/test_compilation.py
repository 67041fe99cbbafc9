"""Some of the configurations of `scripts/compile_triton.py`, compiled without a GPU, and what it counts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from replk_probe.ops.methods.interface import ConvProblem, Direction
from replk_probe.ops.methods.toeplitz_tiles import tiling_of

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "compile_triton.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    pytest.importorskip("triton")
    spec = importlib.util.spec_from_file_location("compile_triton", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("direction", "dtype", "sizes", "capability"),
    [
        ("forward", "bfloat16", (64, 384, 64, 64, 31, 31), (8, 0)),
        ("forward", "bfloat16", (64, 384, 64, 64, 31, 31), (9, 0)),
        ("forward", "bfloat16", (8, 64, 200, 200, 61, 61), (10, 0)),
        ("forward", "float32", (64, 384, 64, 64, 31, 31), (12, 0)),
        ("grad_weight", "bfloat16", (64, 384, 64, 64, 31, 31), (9, 0)),
        ("grad_weight", "bfloat16", (64, 384, 64, 64, 13, 13), (10, 0)),
        ("grad_weight", "float16", (8, 96, 57, 57, 21, 21), (12, 0)),
        ("grad_weight", "float32", (64, 384, 64, 64, 31, 31), (8, 0)),
    ],
    ids=str,
)
def test_compiled_kernels_stay_within_limits(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    direction: Direction,
    dtype: str,
    sizes: tuple[int, int, int, int, int, int],
    capability: tuple[int, int],
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    problem = ConvProblem(direction, dtype, False, *sizes)
    tiling = tiling_of(problem, capability)
    assert tiling is not None
    is_disassembled = direction == "grad_weight" and dtype == "bfloat16"
    found = script.examine(problem, tiling, capability, is_disassembled)
    assert found.stack == found.local == 0 and 16 < found.registers <= 255
    assert found.shared <= tiling.shared_bytes <= found.limit and found.tensor_memory <= 512 and not found.faults
    if is_disassembled:
        # Index arithmetic is done before the loop.
        assert found.matrix_instructions > 0 and found.share_of_peak > 0.2


LISTING = """
        /*0000*/                   LDC R1, c[0x0][0x37c] ;
.L_x_1:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R2], desc[UR8][R4.64] ;
.L_x_2:
        /*0020*/              @!P0 HGMMA.64x128x16.F32.BF16 R24, gdesc[UR12], R24 ;
        /*0030*/              @P1  BRA `(.L_x_2) ;
        /*0040*/              @UP0 BRA.U `(.L_x_1) ;
        /*0050*/                   BRA `(.L_x_3) ;
.L_x_3:
        /*0060*/                   EXIT ;
"""


def test_loops_of_a_listing(script: ModuleType) -> None:
    assert list(script.loops(LISTING)) == [(4, 1)]


def test_share_of_columns(script: ModuleType) -> None:
    """One pixel wide, one of the products of a tile of 16 columns and a window of 16 pixels is a term."""
    problem = ConvProblem("forward", "bfloat16", False, 1, 1, 1, 1, 1, 1)
    tiling = tiling_of(problem, (8, 0))
    assert script.useful_columns(problem, tiling) == 1 / 256
