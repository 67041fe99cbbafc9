from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from replk_probe.bench.plot import draw_speed, save_figures
from replk_probe.bench.result import Layer, Machine, SpeedCase, SpeedResult, Timing
from replk_probe.errors import InvalidInputError
from replk_probe.report.bench_table import bench_table, sweep_summary
from replk_probe.report.text import WIDTH


def case(layer: Layer, direction: str = "forward", ours: float = 1e-3, **torch_seconds: float) -> SpeedCase:
    names = ("functional",) if direction == "grad_weight" else ("module", "functional")
    timings = [Timing(name, ours, 1.1 * ours, 9, 2e-7) for name in names]
    timings += [Timing(name, seconds, 1.2 * seconds, 9, 2e-7) for name, seconds in torch_seconds.items()]
    if "nchw" not in torch_seconds:
        timings.append(Timing("nchw", None, None, 0, None, "left out: about 9 s a call"))
    return SpeedCase(layer, direction, tuple(timings), "fft", "avx512", (96, 96), 3 << 20)


def result(*cases: SpeedCase) -> SpeedResult:
    machine = Machine("A processor", 2, (0.1, 0.2), 480.0, "avx512", "g++ 12.2.0", "AVX512", {"torch": "2.10.0"})
    return SpeedResult(cases, machine, "float32", 9)


ROWS = result(
    case(Layer(1, 128, 256, 256, 31, 31), nchw=1.8, channels_last=0.1, fft=9e-3),
    case(Layer(1, 124, 56, 56, 51, 5, count=18), "grad_input", channels_last=2e-3, fft=5e-4),
    case(Layer(1, 8, 56, 40, 7, 7), "grad_weight", channels_last=2e-3, fft=3e-3),
)
SWEEP = result(
    *(case(Layer(1, 256, 64, 64, k, k), ours=1e-3, channels_last=k * 3e-4, fft=8e-3) for k in (3, 5, 7, 13, 31))
)


def test_ratios_are_to_the_best_of_torch() -> None:
    first, second, third = ROWS.cases
    assert first.ratio == pytest.approx(9) and first.ratio_to(first.timing("nchw")) == pytest.approx(1800)
    assert second.ratio == pytest.approx(0.5) and third.ratio == pytest.approx(2)
    assert first.ratio_of_medians == pytest.approx(9 * 1.2 / 1.1)
    assert first.gflops == pytest.approx(2 * 128 * 256**2 * 31**2 / 1e-3 / 1e9)


def test_the_table_is_complete_within_its_width() -> None:
    table = bench_table(ROWS, {("1,128,256,31", "forward"): 9.0})
    assert max(map(len, table.splitlines())) <= WIDTH
    for text in (
        "A processor, 2 threads",
        "peak 480 GFLOP/s",
        "9.00x",
        "target",
        " 9x",
        "0.50x",
        "fft 96x96",
        "2.0e-07",
    ):
        assert text in table and "2.0e-07" in table
    assert "1,124,56,51x5 (x18)" in table and "at most 3.0 MB" in table
    assert "1,124,56,51x5, input gradient, nchw: left out: about 9 s a call" in table


def test_the_summary_of_a_sweep_lists_what_is_slower() -> None:
    text = sweep_summary(SWEEP)
    assert text.startswith("5 cases: the fastest torch variant is faster in 1, torch in the same layout in 0 ")
    (row,) = [line for line in text.splitlines() if line.startswith("0.90x")]
    assert "1,256,64,3 " in row


def test_time_is_drawn_against_the_kernel_where_there_are_enough() -> None:
    figure = draw_speed(SWEEP)
    times, ratios = figure.axes
    assert times.get_yscale() == "log" and "forward" in times.get_title()
    assert [patch.get_height() for patch in ratios.patches] == pytest.approx([c.ratio for c in SWEEP.cases])
    assert not plt.get_fignums()


def test_layers_are_drawn_line_by_line() -> None:
    figure = draw_speed(ROWS)
    times, ratios = figure.axes
    assert [label.get_text() for label in times.get_yticklabels()][1] == "1,124,56,51x5  input gradient"
    assert [patch.get_width() for patch in ratios.patches] == pytest.approx([9, 0.5, 2])
    assert figure.get_figwidth() <= 7


def test_no_number_is_crossed_by_the_line_at_one_and_the_legend_shows_what_is_drawn() -> None:
    figure = draw_speed(ROWS)
    figure.draw_without_rendering()
    times, ratios = figure.axes
    line = ratios.transData.transform((1.0, 0.0))[0]
    assert {text.get_text() for text in ratios.texts} == {"9.0", "0.5", "2.0"}
    assert all(text.get_window_extent().x0 > line for text in ratios.texts)
    faces = {handle.get_label(): handle.get_markerfacecolor() for handle in figure.legends[0].legend_handles}
    assert faces["replk-probe, function"] == "white" and faces["replk-probe, module in eval mode"] != "white"
    hollow = [mark for mark in times.lines if mark.get_markerfacecolor() == "white" and len(mark.get_xdata())]
    assert hollow


def test_figures_are_written(tmp_path) -> None:
    assert [path.name for path in save_figures(ROWS, tmp_path)] == ["bench.png", "bench.pdf"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidInputError, match="nothing to draw"):
        draw_speed(result())
