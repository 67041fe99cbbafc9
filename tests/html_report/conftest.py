"""A page with every analyzer, built once from results in memory and from the folders they were saved to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replk_probe.attribution.result import AttributedImage, AttributionResult, ErfWindow
from replk_probe.bench.result import Layer, Machine, SpeedCase, SpeedResult, Timing
from replk_probe.collection import Collection, find_results
from replk_probe.erf.area_protocols import area_ratios
from replk_probe.erf.convergence import convergence_of
from replk_probe.erf.jackknife import Blocks, jackknife
from replk_probe.erf.map_statistics import statistics_of
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.html_report import render_report
from replk_probe.kernels.kernel import Kernel
from replk_probe.kernels.result import KernelResult, KernelRun, save_results
from replk_probe.reliance import RelianceResult, parse_suppressions
from replk_probe.runtime.provenance import RANDOM_INIT, RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.stimuli.names import CATEGORIES

EVIL = "<script>alert(1)</script>"
WEIGHTS = {
    "wide_net.a1": WeightsInfo("timm:wide_net.a1", "a" * 64),
    "replknet_micro_k3": WeightsInfo("embedded:replknet_micro_k3.synthetic", "b" * 64, note="Small model."),
    EVIL: WeightsInfo(RANDOM_INIT, seed=3),
}
THRESHOLDS = (0.2, 0.3, 0.5, 0.99)


def make_run(model: str, size: int) -> RunInfo:
    return RunInfo(
        model=model, weights=WEIGHTS[model], image_source="embedded:dead-leaves", image_ids=("a", "b", "c", "d"),
        input_size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3, seed=7, device="cuda:0 (Some GPU)", precision="fp32",
        backend="aten", seconds=1.5, config={"images": 4, "intervals": "95 %, jackknife"},
        versions={"replk-probe": "0", "torch": "2"},
    )  # fmt: skip


def make_erf(model: str, width: float, size: int = 48, seed: int = 0) -> ErfResult:
    y, x = np.mgrid[:size, :size] - size // 2
    noise = np.random.default_rng(seed).random((6, size, size))
    blocks = np.exp(-(x**2 + y**2) / (2 * width**2)) * (0.5 + noise)
    counts, center = [1] * 6, (size // 2 - 0.5, size // 2 + 0.5)
    mean = Blocks(blocks, counts).mean
    ratios = area_ratios(mean, THRESHOLDS, center=center)
    intervals = jackknife(blocks, counts, THRESHOLDS, center)
    return ErfResult(
        contribution=mean, run=make_run(model, size), n_images=6, n_skipped=0, input_size=(size, size), layer="layer4",
        feature_size=(6, 6), center=center, center_source="receptive field", theoretical_rf=None,
        ratios=tuple(RatioRow(*key, one.side, one.ratio, intervals[key]) for key, one in ratios.items()),
        notes=(f"A note on {model}.",), numbers=statistics_of(Blocks(blocks, counts), THRESHOLDS, center).numbers(),
        convergence=convergence_of(blocks, counts, THRESHOLDS, center),
    )  # fmt: skip


def make_shape_bias(model: str, shape: float) -> ShapeBiasResult:
    """Decisions of which about the fraction ``shape`` follow the shape."""
    generator = np.random.default_rng(len(model))
    cues = [(one, other) for one in CATEGORIES[:5] for other in CATEGORIES[:5]]
    names = [f"{one}{index}-{other}{index}.png" for index in range(1, 4) for one, other in cues]
    answers = [
        (one if generator.random() < shape else other)
        for index in range(1, 4)
        for one, other in cues
    ]  # fmt: skip
    humans = [Decisions.from_names(f"subject-0{i}", names, [one for _ in range(3) for one, _ in cues]) for i in (1, 2)]
    return ShapeBiasResult.from_decisions(
        Decisions.from_names(model, names, answers), observers=humans, run=make_run(model, 48)
    )


def make_kernels(model: str) -> KernelResult:
    generator = np.random.default_rng(1)
    found = tuple(
        Kernel(
            f"stage{stage}.0", f"m.{stage}", variant, generator.random((side, side)), 16, branches=("large", "small")
        )
        for stage, large in ((1, 13), (2, 7))
        for variant, side in (("large", large), ("small", 5), ("merged", large))
    )
    return KernelResult(found, KernelRun(model, WEIGHTS[model], ("all",), "all", "sum", 1.0, {"torch": "2"}))


def make_speed() -> SpeedResult:
    timings = (Timing("module", 1e-3, 2e-3, 9, 2e-7), Timing("channels_last", 3e-3, 4e-3, 9))
    cases = tuple(SpeedCase(Layer(1, 8, 9, 9, k, k), "forward", timings, "fft", "avx2", (8, 8), 1) for k in (3, 5))
    return SpeedResult(cases, Machine("Some CPU", 2, (0.1, 0.2), None, None, None, "AVX2", {}), "float32", 9)


def make_attribution(model: str) -> AttributionResult:
    generator = np.random.default_rng(2)
    images = tuple(
        AttributedImage(
            id=f"{index}.png", target=index, target_name=f"class <{index}>", predicted=1, predicted_name="class <1>",
            score=2.0, probability=0.25, total=1.0, entropy_bits=7.5, effective_area=0.5, peak=(3, 4), position=(0, 1),
            center=(12.0, 20.0),
            windows=(ErfWindow(threshold=0.5, top=2, left=8, bottom=22, right=32, area=480 / 48**2, share=0.375),),
        )
        for index in range(6)
    )  # fmt: skip
    run = replace(
        make_run(model, 48), image_source="files", image_ids=tuple(image.id for image in images),
        config={"thresholds": [0.5], "target": None, "method": "saliency"},
    )  # fmt: skip
    maps, pictures = generator.normal(size=(6, 48, 48)), generator.integers(0, 255, (6, 48, 48, 3))
    return AttributionResult(maps, pictures, images, run, "saliency", "layer4", "image", notes=("A note.",))


def make_reliance(model: str) -> RelianceResult:
    suppressions = parse_suppressions("patch-shuffle,gaussian-blur,grayscale,patch-shuffle+grayscale")
    random = np.random.default_rng(len(model))
    targets = np.arange(40) % 4
    decisions = np.where(random.random((1 + len(suppressions), 40)) < 0.7, targets, (targets + 1) % 4)
    run = replace(make_run(model, 48), image_source="folder:val", config={"images": None, "mapping": None})
    pictures = random.integers(0, 256, (len(suppressions), 48, 48, 3))
    return RelianceResult.from_decisions(
        decisions, targets, suppressions, pictures=pictures, run=run, label_space="indices", classes="0123",
        notes=("A note.",),
    )  # fmt: skip


def save_all(folder: Path) -> None:
    for index, model in enumerate(WEIGHTS):
        make_erf(model, 4.0 + 3 * index, seed=index).save(folder / "erf" / str(index))
    for index, model in enumerate([*WEIGHTS][:2]):
        make_shape_bias(model, 0.3 + 0.4 * index).save(folder / "shape-bias" / str(index))
    save_results([make_kernels(model) for model in [*WEIGHTS][1:]], folder / "kernels")
    make_attribution("wide_net.a1").save(folder / "attribution")
    for index, model in enumerate([*WEIGHTS][1:]):
        make_reliance(model).save(folder / "reliance" / str(index))
    make_speed().save(folder / "bench")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("results")
    save_all(folder)
    return find_results(folder)


@pytest.fixture(scope="module")
def page(collection: Collection) -> str:
    return render_report(collection, title="Four networks & more")


@pytest.fixture(scope="module")
def without_convergence(collection: Collection) -> Collection:
    first = collection.erf[0]
    return Collection(erf=(replace(first, result=replace(first.result, convergence=None, numbers=None)),))
