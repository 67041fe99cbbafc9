"""Configurations and refusals of the Triton method, without Triton and without a GPU."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import pytest
import torch

from replk_probe.ops import methods
from replk_probe.ops.methods import toeplitz_tiles, triton_toeplitz
from replk_probe.ops.methods.interface import ConvMethod, ConvProblem, Direction
from replk_probe.ops.methods.toeplitz_tiles import shared_limit, tiling_of, tilings
from replk_probe.ops.methods.triton_toeplitz import TritonToeplitz

CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (13, 5))
SIZES = ((1, 1, 1, 1), (64, 384, 32, 32), (3, 5, 57, 57), (1, 128, 256, 256), (2, 3, 5, 2000), (1000, 1, 1, 7))
KERNELS = ((1, 1), (3, 3), (7, 7), (13, 13), (1, 61), (61, 31), (31, 31), (51, 5), (61, 61), (101, 101))
CUDA = torch.device("cuda")


def problems(direction: Direction, dtype: str = "bfloat16") -> Iterator[ConvProblem]:
    for (n, c, h, w), (kh, kw) in itertools.product(SIZES, KERNELS):
        yield ConvProblem(direction, dtype, False, n, c, h, w, kh, kw)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
def test_every_card_is_offered_what_fits(direction: Direction, dtype: str) -> None:
    for problem, capability in itertools.product(problems(direction, dtype), CAPABILITIES):
        tiling = tiling_of(problem, capability)
        assert tiling is not None, (problem, capability)
        assert 0 < tiling.shared_bytes <= shared_limit(capability) and 0 < tiling.blocks < 2**31
        constants = tiling.constants
        assert int(constants["BM"]) % int(constants["NB"]) == 0
        sizes = [int(constants[name]) for name in ("NB", "BM", "BN", "BK", "GROUP")]
        assert all(size & (size - 1) == 0 for size in sizes) and min(sizes[1:4]) >= 16


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_toeplitz_matrices_lie_within_their_table(dtype: str) -> None:
    """Reads of the table have no mask, so their addresses are checked here for every tile of a plane."""
    for problem, capability in itertools.product(problems("forward", dtype), ((8, 0), (10, 0))):
        for tiling in tilings(problem, capability):
            c = tiling.constants
            bn, window, lead, vec = int(c["BN"]), int(c["BK"]) * int(c["CHUNKS"]), int(c["LEAD"]), int(c["VEC"])
            for w0 in range(0, problem.w, bn):
                start = 0 if c["WHOLE"] else w0 - lead
                firsts = [start - w0 + problem.kw // 2 + int(c["OFFSET"]) - j for j in range(bn)]
                assert min(firsts) >= 0 and max(firsts) // vec * vec + window <= int(c["LENGTH"])
                # The window holds all pixels of the plane that the kernel reaches from the tile.
                last = min(w0 + bn, problem.w) - 1
                assert start <= max(0, w0 - problem.kw // 2)
                assert start + window > min(problem.w - 1, last + problem.kw // 2)
            assert int(c["LENGTH"]) % vec == 0 and lead % vec == 0


def test_a_kernel_that_fits_no_card_is_refused(on_a_card: None) -> None:
    problem = ConvProblem("forward", "float32", False, 1, 1, 8, 8000, 1, 3001)
    assert tiling_of(problem, (8, 6)) is None
    refusal = TritonToeplitz().refusal(problem, CUDA)
    assert refusal is not None and refusal.endswith("bytes of shared memory are required, and the GPU has 101376")


@pytest.fixture
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card of compute capability 8.6 and everything that Triton requires."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(triton_toeplitz, "_capability", lambda device: (8, 6))
    monkeypatch.setenv("CC", "cc")
    triton_toeplitz._missing_tools.cache_clear()
    yield
    triton_toeplitz._missing_tools.cache_clear()


PROBLEM = ConvProblem("forward", "float32", False, 2, 3, 16, 16, 7, 7)


def test_a_problem_that_fits_is_accepted(on_a_card: None) -> None:
    pytest.importorskip("triton")
    method: ConvMethod = TritonToeplitz()
    assert method.refusal(PROBLEM, CUDA) is None and method.name == "triton-toeplitz"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "float64"}, "the dtype is float64, not float16, bfloat16 or float32"),
        ({"kh": 6}, "the kernel is 6x7, and only odd sizes are supported"),
    ],
)
def test_problems_that_are_refused(on_a_card: None, changes: dict[str, object], reason: str) -> None:
    problem = ConvProblem(**{**vars(PROBLEM), **changes})  # type: ignore[arg-type]
    assert TritonToeplitz().refusal(problem, CUDA) == reason


def test_devices_that_are_refused(on_a_card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = TritonToeplitz().refusal
    assert refusal(PROBLEM, torch.device("cpu")) == "the device is cpu, not an NVIDIA GPU"
    monkeypatch.setattr(triton_toeplitz, "_capability", lambda device: (7, 5))
    assert refusal(PROBLEM, CUDA) == "the compute capability is 7.5, and 8.0 is required"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert refusal(PROBLEM, CUDA) == "the device is an AMD GPU, not an NVIDIA GPU"
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(PROBLEM, CUDA) == "torch finds no NVIDIA GPU"


def test_missing_triton_is_named(on_a_card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "replk_probe.ops.methods.toeplitz_kernels", raising=False)
    monkeypatch.delattr(methods, "toeplitz_kernels", raising=False)
    refusal = TritonToeplitz().refusal(PROBLEM, CUDA)
    assert refusal is not None and refusal.startswith("Triton cannot be imported (ModuleNotFoundError: ")


def test_missing_compiler_is_named(on_a_card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    reason = "Triton requires a C compiler, and CC is not set and neither gcc nor clang is installed"
    assert TritonToeplitz().refusal(PROBLEM, CUDA) == reason


def test_workspace_is_that_of_copies_tables_and_sums() -> None:
    method = TritonToeplitz()
    planes = 2 * 3 * 16 * 16 * 4
    aligned = method.workspace_bytes(PROBLEM)
    assert planes < aligned < 2 * planes + 3 * 64 * 64 * 4
    last = ConvProblem(**{**vars(PROBLEM), "channels_last": True, "w": 15})
    assert method.workspace_bytes(last) >= aligned + planes
    gradient = ConvProblem(**{**vars(PROBLEM), "direction": "grad_weight", "n": 64, "c": 1, "h": 256})
    tiling = tiling_of(gradient, (8, 0))
    assert tiling is not None and tiling.splits > 1
    assert method.workspace_bytes(gradient) >= tiling.splits * 7 * 7 * 4


def test_unknown_cards_have_the_smallest_shared_memory() -> None:
    assert shared_limit((13, 5)) == min(toeplitz_tiles._SHARED_KB.values()) * 1024
