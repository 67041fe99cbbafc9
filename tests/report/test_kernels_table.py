"""The table of kernels."""

from __future__ import annotations

import numpy as np

from replk_probe.kernels import Kernel, KernelResult
from replk_probe.kernels.result import KernelRun
from replk_probe.report.kernels_table import kernels_table
from replk_probe.runtime.provenance import WeightsInfo


def kernel(layer: str, size: tuple[int, int], **fields: object) -> Kernel:
    return Kernel(layer, fields.pop("path", layer), "merged", np.ones(size), 64, **fields)


def result(*kernels: Kernel, model: str = "net") -> KernelResult:
    return KernelResult(
        kernels,
        KernelRun(model, WeightsInfo("file:net.pth", note="As the authors made them."), ("all",), "all", "sum", 1.0),
    )


def test_rows_with_known_values() -> None:
    lines = kernels_table(
        [
            result(
                kernel("stage4.0", (5, 5), zero_fraction=0.4, small_branch_share=0.125),
                kernel("stages.3.blocks.0.a_long_path.conv_dw", (51, 5)),
            )
        ]
    ).splitlines()
    assert lines[1] == "net: file:net.pth"
    cells = lines[2].split()
    # Of a uniform 5 x 5: 9 of 25, 9 of 25; half of 25 are in 5 x 5 only, as 3 x 3 has 9.
    assert cells == ["stage4.0", "merged", "5", "64", "36.0", "36.0", "5/5/5", "1.000", "1.000", "40.0", "12.5"]
    strip = lines[3].split()
    assert strip[0].startswith("stages") and strip[0].endswith("conv_dw") and "..." in strip[0]
    assert strip[2] == "51x5" and strip[-1] == strip[-2] == "-"
    assert "note: As the authors made them." in lines


def test_no_line_is_wider_than_a_terminal() -> None:
    table = kernels_table([result(kernel("x" * 80, (51, 5)), model="m" * 150)])
    assert max(map(len, table.splitlines())) <= 100


def test_a_kernel_without_mass_has_dashes() -> None:
    empty = Kernel("stage1.0", "conv", "merged", np.zeros((3, 3)), 4, zero_fraction=1.0)
    row = next(line for line in kernels_table([result(empty)]).splitlines() if line.startswith("stage1.0"))
    assert row.split()[4:] == ["-", "-", "-/-/-", "-", "-", "100.0", "-"]


def test_published_shares_are_only_below_their_layer() -> None:
    paper = kernel("stage6.1", (13, 13), path="features.15.conv.1.0")
    other = kernel("stage6.2", (13, 13), path="features.16.conv.1.0")
    assert "published" in kernels_table([result(paper, model="mobilenetv2_k13_rep")])
    assert "published, trained" not in kernels_table([result(paper, model="mobilenetv2_k13_rep")])
    assert "published" not in kernels_table([result(other, model="mobilenetv2_k13_rep")])
    assert "published" not in kernels_table([result(paper, model="mobilenetv2_k9_rep")])
