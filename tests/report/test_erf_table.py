from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from replk_probe.erf.area_protocols import area_ratios
from replk_probe.erf.published import TABLE_10, find_published
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.report.erf_table import erf_table
from replk_probe.report.text import WIDTH, Layout
from replk_probe.runtime.provenance import RunInfo, WeightsInfo

RANDOM = WeightsInfo("random-init", seed=0)


def make(model="resnet101", weights=RANDOM, *, size=(1024, 1024), thresholds=(0.2, 0.3, 0.5, 0.99), **changes):
    profile = np.exp(-((np.arange(64) - 32) ** 2) / 200)
    answers = area_ratios(np.outer(profile, profile), thresholds)
    rows = tuple(
        RatioRow(protocol, threshold, answer.side, answer.ratio, (0.9 * answer.ratio, min(1.1 * answer.ratio, 1)))
        for (protocol, threshold), answer in answers.items()
    )
    run = RunInfo(model, weights, "folder:val", ("a",), size, (0.5,) * 3, (0.5,) * 3, 0, "cpu", "fp32", "aten", 1.0)
    fields = dict(
        contribution=np.ones(size),
        run=run,
        n_images=50,
        n_skipped=0,
        input_size=size,
        layer="layer4",
        feature_size=(32, 32),
        center=(512.0, 512.0),
        center_source="receptive field",
        theoretical_rf=None,
        ratios=rows,
    )
    return ErfResult(**{**fields, **changes})


@pytest.mark.parametrize(
    "backend", ["native avx512: direct, fft, lanes; aten: the device is cuda", "aten " + "why " * 40]
)
def test_the_backend_of_the_convolutions_is_reported(backend):
    result = make()
    table = erf_table([dataclasses.replace(result, run=dataclasses.replace(result.run, backend=backend))])
    assert f"convolutions: {backend}".strip() in " ".join(table.split())
    assert max(map(len, table.splitlines()[:6])) <= WIDTH


def test_every_protocol_and_threshold_is_there():
    result = make("slak_tiny", WeightsInfo("file:a.pth", sha256="0123456789"))
    table = erf_table([result])
    lines = table.splitlines()
    assert lines[0] == "slak_tiny: file:a.pth [01234567]"
    assert "50 images of folder:val, 1024x1024 px; layer layer4, map 32x32; fp32 on cpu" in lines[1]
    for protocol in ("paper", "linear", "centred"):
        (line,) = [line for line in lines if line.startswith(protocol + " ")]
        for threshold in (0.2, 0.3, 0.5, 0.99):
            row = result.row(protocol, threshold)
            assert re.search(rf"\b{row.side} px +{100 * row.ratio:#.3g} %", line)
    assert sum(line.startswith("  95 %") for line in lines) == 4
    assert "published" not in table and "RANDOM" not in table


@pytest.mark.parametrize(
    ("model", "figures"),
    [
        ("resnet101", "1.0 1.7 3.5 23.4"),
        ("resnet101.tv_in1k", "1.0 1.7 3.5 23.4"),
        ("torchvision:resnet101", "1.0 1.7 3.5 23.4"),
        ("resnet152", "1.3 2.1 4.5 34.9"),
        ("replknet13", "10.2 15.8 28.5 96.3"),
        ("replknet31b", "15.0 23.4 41.4 98.6"),
        ("timm:replknet31b", "15.0 23.4 41.4 98.6"),
    ],
)
def test_the_values_of_table_10_are_below_the_paper_row(model, figures):
    lines = erf_table([make(model)]).splitlines()
    (index,) = [i for i, line in enumerate(lines) if line.startswith("  published")]
    assert lines[index].replace("%", "").split() == ["published", *figures.split()]
    assert lines[index - 2].startswith("paper")


@pytest.mark.parametrize("model", ["replknet31l", "resnet50", "replknet3", "wide_resnet101_2", "my.resnet101:build"])
def test_other_models_have_no_published_figure(model):
    assert find_published(model) is None
    assert "published" not in erf_table([make(model)])


def flat(text: str) -> str:
    return " ".join(text.split())


def test_other_weights_are_flagged():
    text = flat(erf_table([make("replknet31b")]))
    assert "measured with 120-epoch weights at 1024x1024 px; these are RANDOM WEIGHTS (seed 0)." in text
    text = flat(erf_table([make("resnet101", WeightsInfo("torchvision:ResNet101_Weights.IMAGENET1K_V2", "cd907fc2"))]))
    assert "these are other weights, torchvision:ResNet101_Weights.IMAGENET1K_V2 [cd907fc2]." in text
    text = flat(erf_table([make("resnet101", size=(224, 224))]))
    assert "this input is 224x224 px" in text


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("resnet101", WeightsInfo("torchvision:ResNet101_Weights.IMAGENET1K_V1")),
        ("resnet101", WeightsInfo("timm:resnet101.tv_in1k")),
        ("resnet101", WeightsInfo("file:resnet101.pth", sha256="63fe2227b86e8f1f")),
        ("replknet31b", WeightsInfo("catalog:replknet31b.in1k_120ep")),
        ("replknet13", WeightsInfo("catalog:replknet13.in1k_120ep")),
    ],
)
def test_the_weights_of_the_table_are_not_flagged(model, weights):
    text = flat(erf_table([make(model, weights)]))
    assert "published: " in text and "other weights" not in text and "RANDOM" not in text


def test_published_figures_can_be_left_out_and_thresholds_may_differ():
    assert "published" not in erf_table([make()], published=None)
    (line,) = [
        line for line in erf_table([make(thresholds=(0.25, 0.5))]).splitlines() if line.startswith("  published")
    ]
    assert line.split() == ["published", "-", "3.5", "%"]


def test_random_weights_skipped_images_and_notes_are_reported():
    text = flat(erf_table([make("slak_tiny", n_skipped=2, notes=("The map is small.",))]))
    assert "slak_tiny: RANDOM WEIGHTS (seed 0)" in text
    assert "50 images (2 skipped)" in text and "note: The map is small." in text
    note = "No connection, so the weights are random."
    assert flat(erf_table([make("a", WeightsInfo("random-init", note=note), notes=(note,))])).count(note) == 1


def test_no_interval_is_a_dash_or_nothing():
    result = make("a", thresholds=(0.2, 0.5))
    rows = tuple(RatioRow(row.protocol, row.threshold, row.side, row.ratio) for row in result.ratios)
    assert "95 %" not in erf_table([make("a", ratios=rows)])
    text = erf_table([make("a", ratios=(result.ratios[0], *rows[1:]))])
    assert text.count("  95 %") == 1


@pytest.mark.parametrize("count", [1, 4, 9, 23])
def test_tables_are_plain_and_at_most_100_columns_wide(count):
    thresholds = tuple(np.linspace(0.01, 0.99, count).round(3).tolist())
    long = "some/very/long/path/to/" + "folder/" * 14 + "models.py:factory"
    results = [make(long, thresholds=thresholds, notes=("word " * 60,)), make("resnet101", thresholds=thresholds)]
    text = erf_table(results)
    assert text.isascii() and max(map(len, text.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert f"{100 * thresholds[-1]:g} %" in text


def test_several_models_end_in_a_summary():
    text = erf_table([make("resnet101"), make("replknet31b", WeightsInfo("catalog:replknet31b.in1k_120ep"))])
    summary = text[text.index("area ratio, %") :]
    assert "resnet101 (RANDOM)" in summary and "\npaper, with 95 % intervals\n" in summary
    assert "\ncentred\n" in summary and "\npixels\n" in summary
    assert "replknet31b (RANDOM" not in summary
    assert "area ratio" not in erf_table([make()])


def test_the_published_table():
    assert [row.title for row in TABLE_10] == ["ResNet-101", "ResNet-152", "RepLKNet-13", "RepLKNet-31"]
    # The paper's own example: 20 % of ResNet-101 lie within 103 x 103 px.
    assert round((103 / 1024) ** 2, 3) == TABLE_10[0].ratios[0.2]


def test_tables_need_neither_torch_nor_matplotlib():
    code = "import sys, replk_probe.report.erf_table; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("width", "narrow"), [(80, True), (120, False)])
def test_a_comparison_is_one_table_at_every_usual_width(width: int, narrow: bool) -> None:
    results = [make("replknet_micro_k13_rep"), make("resnet101", WeightsInfo("file:a.pth"))]
    lines = erf_table(results, layout=Layout(width)).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("area ratio, %") for line in lines) == 1
    row = results[1].row("centred", 0.3)
    number, (low, high) = (f"{100 * row.ratio:#.3g}"), (f"{100 * end:#.3g}" for end in row.ci95)
    if narrow:
        (found,) = [line.split() for line in lines if line.startswith("resnet101 ") and " centred " in line]
        assert found[3] == number
        paper = results[1].row("paper", 0.3)
        place = next(i for i, line in enumerate(lines) if line.startswith("resnet101 ") and " paper " in line)
        assert lines[place + 1].split()[:2] == ["95", "%"]
        assert lines[place + 1].split()[3] == "-".join(f"{100 * end:#.3g}" for end in paper.ci95)
        assert lines[place + 2].split()[:2] == ["published", "1.0"]
    else:
        assert any(f"{number} ({low}-{high})" in line for line in lines[lines.index("centred") :])
