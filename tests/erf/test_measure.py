"""The whole measurement: blocks, skipped images, sizes, and runs that are interrupted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import replk_probe
from replk_probe.erf import ErfConfig, ErfResult, contribution_scores, measure_erf, prepare
from replk_probe.erf.accumulator import BlockSums, block_bounds
from replk_probe.erf.input_size import resized
from replk_probe.erf.plan import plan_erf
from replk_probe.errors import BackendError, InvalidInputError, ResumeError
from replk_probe.images import sample_images
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.inference import environment
from replk_probe.models.inference.environment import environment_of, versions_on
from replk_probe.ops import native_info
from replk_probe.runtime.checkpoint import Checkpoint, ResumeWarning
from replk_probe.runtime.provenance import software_versions


class Tiny(nn.Module):
    """A network whose final map is one and a half pixels off the grid of its patches."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 4, 4, stride=4)
            self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


def batch(n: int, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(5))


def image_folder(root: Path, n: int = 6) -> Path:
    generator = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"image{index}.png")
    return root


def test_the_map_is_the_mean_of_the_scores_in_float64() -> None:
    model, images = Tiny(), batch(5)
    result = measure_erf(model, images)
    expected = torch.stack([contribution_scores(model, image[None])[0].double() for image in images]).mean(0).numpy()
    np.testing.assert_allclose(result.contribution, expected, rtol=1e-5, atol=1e-9)
    assert result.contribution.dtype == np.float64
    assert (result.n_images, result.n_skipped) == (5, 0)
    assert result.input_size == (32, 32)
    assert result.feature_size == (8, 8)
    assert (result.center, result.center_source, result.theoretical_rf) == ((17.5, 17.5), "receptive field", 12)
    assert result.run.image_ids == tuple(f"tensor-{i:04d}" for i in range(5))
    assert (result.run.image_source, result.run.model, result.run.weights.source) == ("tensor", "Tiny", "user-module")
    assert {row.protocol for row in result.ratios} == {"paper", "linear", "centred", "pixels"}
    assert all(row.ci95 is not None for row in result.ratios)


def test_the_true_center_makes_a_shifted_window_smaller() -> None:
    result = measure_erf(Tiny(), batch(8), thresholds=[0.99])
    assert result.row("centred", 0.99).side == 12
    assert result.row("linear", 0.99).side > 12


def test_arrays_and_modules_are_never_changed() -> None:
    model, images = Tiny().train(), batch(2).numpy()
    before, state = images.copy(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_erf(model, images)
    assert np.array_equal(images, before) and all(module.training for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_batches_change_rounding_only() -> None:
    one, three = measure_erf(Tiny(), batch(7)), measure_erf(Tiny(), batch(7), batch_size=3)
    np.testing.assert_allclose(one.contribution, three.contribution, rtol=1e-5, atol=1e-9)
    assert one.run.image_ids == three.run.image_ids


def test_one_image_has_no_interval() -> None:
    assert all(row.ci95 is None for row in measure_erf(Tiny(), batch(1)).ratios)


@pytest.mark.parametrize("n", [1, 2, 19, 20, 21, 50, 1000])
def test_blocks_cover_every_image_once(n: int) -> None:
    bounds = block_bounds(n)
    sizes = np.diff(bounds)
    assert bounds[0] == 0 and bounds[-1] == n and len(sizes) == min(n, 20) and sizes.max() - sizes.min() <= 1


def test_sums_do_not_depend_on_the_run_that_computed_each_block() -> None:
    generator = np.random.default_rng(0)
    maps = generator.random((50, 3, 4)) * 10.0 ** generator.integers(-8, 8, (50, 1, 1))
    whole = BlockSums(50, (3, 4))
    for scores in maps:
        whole.add(scores)
    parts = BlockSums(50, (3, 4))
    for first, last in zip(block_bounds(50), block_bounds(50)[1:], strict=False):
        alone = BlockSums(50, (3, 4), done=first)
        (block,) = {alone.add(scores) for scores in maps[first:last]}
        parts.sums[block], parts.counts[block] = alone.sums[block], alone.counts[block]
    assert parts.mean().tobytes() == whole.mean().tobytes()
    assert parts.stacked().tobytes() == whole.stacked().tobytes()


# ---------------------------------------------------------------------------------------------------- images


def test_unreadable_and_non_finite_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
    image_folder(tmp_path, 3)
    (tmp_path / "notes.jpg").write_text("this is text")
    result = measure_erf(Tiny(), tmp_path, size=32)
    assert (result.n_images, result.n_skipped) == (3, 1)
    assert result.run.skipped[0]["id"] == "notes.jpg" and result.run.skipped[0]["reason"]
    assert "notes.jpg" not in result.run.image_ids
    assert any("skipped" in note for note in result.notes) and any("were requested" in note for note in result.notes)

    images = batch(4)
    images[1, 0, 3, 3] = float("nan")
    result = measure_erf(Tiny(), images)
    assert (result.n_images, [skipped["id"] for skipped in result.run.skipped]) == (3, ["tensor-0001"])


def test_non_finite_scores_are_skipped() -> None:
    class Fragile(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / (x.mean() > 0))

    images = batch(3).abs()
    images[1] *= -1
    result = measure_erf(Fragile(), images)
    assert [skipped["id"] for skipped in result.run.skipped] == ["tensor-0001"]


def test_no_usable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(InvalidInputError, match=r"None of the 1 images could be used.*a\.jpg"):
        measure_erf(Tiny(), tmp_path, size=32, checkpoint=tmp_path / "ckpt")
    assert not (tmp_path / "ckpt").exists()


def test_the_images_of_a_folder_and_of_an_image_set_are_the_same(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    from_path = measure_erf(Tiny(), str(folder), images=4, size=24, seed=3)
    from_set = measure_erf(Tiny(), sample_images(folder, 4, 3), size=24, seed=3)
    assert from_path.run.image_ids == from_set.run.image_ids
    assert from_path.contribution.tobytes() == from_set.contribution.tobytes()


def test_missing_intervals_are_explained() -> None:
    images = batch(40)
    images[2:] = float("nan")
    result = measure_erf(Tiny(), images)
    assert result.n_images == 2 and all(row.ci95 is None for row in result.ratios)
    assert any("No 95 % intervals: all 2 usable images are in one of the 20 blocks" in n for n in result.notes)
    for usable in (1, 3):  # one image has none anyway, three lie in two blocks
        images[:usable] = batch(usable)
        images[usable:] = float("nan")
        assert not any("intervals" in note for note in measure_erf(Tiny(), images).notes)


def test_default_statistics_are_reported_as_those_of_imagenet(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 1)

    def notes(model: nn.Module | str, images: Any = folder) -> str:
        return " ".join(plan_erf(model, images, ErfConfig(images=1, size=64, weights="random")).notes)

    assert "normalization of Tiny is unknown: ImageNet's mean" in notes(Tiny())
    assert "ImageNet" not in notes(Tiny(), batch(1)), "these come normalized"
    for name in ("resnet10t", "torchvision:squeezenet1_1"):
        assert "ImageNet" not in notes(name), name
        assert "ImageNet" not in notes(replk_probe.create_model(name)), name


def test_autocast_of_the_caller_has_no_effect() -> None:
    model, images = Tiny(), batch(3)
    expected = measure_erf(model, images).contribution
    with torch.autocast("cpu"):
        assert measure_erf(model, images).contribution.tobytes() == expected.tobytes()


# ------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": [1.5]}, "1.5"),
        ({"thresholds": []}, "No thresholds"),
        ({"precision": "fp8"}, "fp8"),
        ({"size": 2}, "size 2"),
        ({"images": 0}, "number of images cannot be 0"),
        ({"batch_size": 0}, "batch size cannot be 0"),
        ({"batch_size": "2"}, "batch size cannot be '2'"),
        ({"device": "abacus"}, "abacus"),
        ({"layer": "nowhere"}, "nowhere"),
        ({"layer": " "}, "Expected a layer name or a module of the model, got ' '"),
        ({"layer": 3}, "Expected a layer name or a module of the model, got 3"),
        ({"sampling": "best"}, "best"),
        ({"data": torch.zeros(3, 8, 8)}, r"\[3, 8, 8\]"),
        ({"images": torch.zeros(3, 8, 8)}, "Pass the images themselves as data"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    options = {"data": None, "images": 1, "size": 16, **arguments}
    with pytest.raises(InvalidInputError, match=message):
        measure_erf(Tiny(), **options)


@pytest.mark.parametrize(
    ("model", "message"),
    [(5, "an object of type int"), (timm.create_model, "the function create_model"), (Tiny, "the class Tiny")],
)
def test_what_is_no_model(model: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"Expected an nn.Module or a model name, but got {message}"):
        measure_erf(model, batch(1))


def test_options_are_keywords_or_a_config() -> None:
    config = ErfConfig(thresholds=[0.5, 0.2, 0.5], size=24, images=1)
    assert (config.size, config.thresholds) == ((24, 24), (0.5, 0.2))
    result = measure_erf(Tiny(), config=replace(config, images=2, name="mine"))
    assert (result.n_images, result.input_size, result.thresholds) == (2, (24, 24), (0.5, 0.2))
    assert result.run.model == "mine"
    with pytest.raises(TypeError, match="n_images"):
        measure_erf(Tiny(), n_images=2)  # type: ignore[call-arg]


def test_a_prepared_model_is_measured_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch(2, 64)
    expected = measure_erf(large_kernels(), images, precision="bf16")
    prepared = prepare(large_kernels(), "bf16")
    contribution_scores(prepared, images)
    monkeypatch.setattr("replk_probe.erf.plan.prepare", None)
    result = measure_erf(prepared, images)
    assert result.contribution.tobytes() == expected.contribution.tobytes()
    assert (result.run.precision, result.run.backend) == ("bf16", expected.run.backend)
    assert (result.run.model, result.notes) == (expected.run.model, expected.notes)
    with pytest.raises(InvalidInputError, match="prepared for precision 'bf16', but 'fast' is requested"):
        measure_erf(prepared, images, precision="fast")
    monkeypatch.setattr("replk_probe.erf.plan.resolve_device", lambda device: torch.device("meta"))
    with pytest.raises(InvalidInputError, match="prepared on cpu, but device 'cpu' is requested"):
        measure_erf(prepared, images, device="cpu")


def test_freed_memory_is_kept_during_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []

    @contextmanager
    def kept_blocks() -> Iterator[None]:
        inside.append(True)
        yield
        inside.clear()

    class Watching(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            assert inside or x.is_meta
            return super().forward(x)

    monkeypatch.setattr("replk_probe.runtime.devices.kept_blocks", kept_blocks)
    measure_erf(Watching(), batch(1))
    assert not inside


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        ErfConfig(size=16, device="cuda")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_for_one_size_are_rebuilt_and_left_alone(name: str) -> None:
    few = {"depth": 1} if "vit" in name else {"depths": (2, 1, 1, 1)}
    model = timm.create_model(name, **few)
    plan = plan_erf(model, None, ErfConfig(images=1, size=256))
    assert plan.target.layout.size == ((16, 16) if "vit" in name else (8, 8))
    assert any("256x256" in note for note in plan.notes)
    assert model.patch_embed.img_size == (224, 224)
    if "swin" in name:
        assert {block.window_size for block in plan.model.layers[0].blocks} == {(7, 7)}
    else:  # by name it is the same network, weights and all
        named = plan_erf(name, None, ErfConfig(images=1, size=256, weights="random"))
        assert named.model.patch_embed.img_size == (256, 256)


def test_torchvisions_transformer_keeps_its_function_at_its_own_size() -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16).eval()
    nn.init.normal_(model.encoder.pos_embedding)
    ((same, _),) = resized(model, (32, 32))
    torch.testing.assert_close(same.encoder.pos_embedding, model.encoder.pos_embedding)
    result = measure_erf(model, batch(2, 48))
    assert result.feature_size == (6, 6) and result.center_source == "stride rule" and result.center == (27.5, 27.5)
    assert result.theoretical_rf is None and model.image_size == 32


def test_modules_are_distinguished_by_their_weights() -> None:
    configs = [plan_erf(Tiny(seed), batch(1)).record for seed in (0, 0, 1)]
    assert configs[0] == configs[1] != configs[2]


def test_factories_are_distinguished_by_their_models(tmp_path: Path) -> None:
    def config(channels: int, layer: str, weights: str) -> dict[str, Any]:
        source = f"from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, {channels}, 3), {layer})\n"
        (tmp_path / "nets.py").write_text(source)
        return plan_erf(f"{tmp_path}/nets.py:net", batch(1), ErfConfig(layer="0", weights=weights)).record

    for weights in ("auto", "random"):
        assert config(4, "nn.ReLU()", weights) == config(4, "nn.ReLU()", weights)
        assert config(4, "nn.ReLU()", weights) != config(5, "nn.ReLU()", weights)
        assert config(4, "nn.ReLU()", weights) != config(4, "nn.GELU()", weights)


# ------------------------------------------------------------------------------------------------ resumption


class Interrupted(Tiny):
    """Stops the run after some images, as a user would."""

    calls = 0
    stop_after: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and x.requires_grad and x.shape[-1] != 96:  # not the image on which copies are compared
            if Interrupted.calls == Interrupted.stop_after:
                raise KeyboardInterrupt
            Interrupted.calls += 1
        return super().forward(x)


def files_of(result: ErfResult, folder: Path) -> dict[str, bytes]:
    result.save(folder)
    seconds = f'"seconds": {result.run.seconds}'
    return {path.name: path.read_bytes().replace(seconds.encode(), b'"seconds": 0') for path in folder.glob("erf.*")}


@pytest.mark.parametrize("stop_after", [1, 4, 5])
def test_a_resumed_run_gives_the_same_bytes(stop_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch(23)
    images[2, 0, 0, 0] = float("inf")
    images[22, 0, 0, 0] = float("nan")
    whole = measure_erf(Interrupted(), images, batch_size=1, checkpoint=tmp_path / "other")

    monkeypatch.setattr(Interrupted, "calls", 0)
    monkeypatch.setattr(Interrupted, "stop_after", stop_after)
    with pytest.raises(KeyboardInterrupt):
        measure_erf(Interrupted(), images, batch_size=1, checkpoint=tmp_path / "ckpt")
    monkeypatch.setattr(Interrupted, "stop_after", None)
    monkeypatch.setattr(Interrupted, "calls", 0)
    resumed = measure_erf(Interrupted(), images, batch_size=1, checkpoint=tmp_path / "ckpt", resume=True)

    assert Interrupted.calls == 21 - stop_after, "images that were done are not measured again"
    assert files_of(resumed, tmp_path / "a") == files_of(whole, tmp_path / "b")


def interrupted_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the state of a run of :class:`Interrupted` in a folder."""
    with monkeypatch.context() as patch:
        patch.setattr(Interrupted, "calls", 0)
        patch.setattr(Interrupted, "stop_after", 2)
        with pytest.raises(KeyboardInterrupt):
            measure_erf(Interrupted(), batch(4), batch_size=1, checkpoint=folder)


def test_a_run_is_resumed_with_its_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def watched(self: Tiny, x: Tensor) -> Tensor:
        used.append(torch.get_num_threads())
        return self.body(self.stem(x))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        interrupted_run(tmp_path, monkeypatch)
        torch.set_num_threads(1)
        monkeypatch.setattr(Tiny, "forward", watched)
        with pytest.warns(ResumeWarning, match=r"was started with 3 threads, but this process has 1\. .* with 3"):
            measure_erf(Interrupted(), batch(4), batch_size=1, checkpoint=tmp_path, resume=True)
        assert used[-1] == 3 and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_run_is_resumed_on_its_device_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_run(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(environment, "describe_machine", lambda: {"cpu": "Another Processor"})
        with pytest.raises(ResumeError, match=r"but this run has processor Another Processor\. .*allow-other-device"):
            measure_erf(Interrupted(), batch(4), batch_size=1, checkpoint=tmp_path, resume=True)
        with pytest.warns(ResumeWarning, match="is resumed on another device"):
            found = measure_erf(
                Interrupted(), batch(4), batch_size=1, checkpoint=tmp_path, resume=True, allow_other_device=True
            )
    whole = measure_erf(Interrupted(), batch(4), batch_size=1)
    np.testing.assert_array_equal(found.contribution, whole.contribution)
    (note,) = {*found.notes} - {*whole.notes}
    assert re.match(r"The measurement was continued on another device \(processor .*, then Another Processor\)\.", note)


def test_the_environment_of_a_cpu_has_the_library_of_products(
    product_library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"onednn": "oneDNN", "default": "torch's own choice"}[product_library]
    assert environment_of(torch.device("cpu"))["large float32 products"] == expected
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert environment_of(torch.device("cpu"))["large float32 products"] == "torch's own choice"


def test_the_environment_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC 12.2.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90800)
    monkeypatch.setattr(environment, "_DRIVER", driver)
    monkeypatch.setattr(environment, "_triton_version", lambda: {"Triton version": "3.8.0"})
    found = environment_of(torch.device("cuda", 0))
    assert found == {
        "threads": torch.get_num_threads(), "GPU": "NVIDIA H200", "driver version": "570.86.15",
        "CUDA version": "12.8", "cuDNN version": 90800, "Triton version": "3.8.0",
        "convolutions": "aten (the device is cuda)",
    }  # fmt: skip
    versions = versions_on(torch.device("cuda", 0))
    assert versions == {**software_versions(), **{
        "driver version": "570.86.15", "CUDA version": "12.8", "cuDNN version": "90800", "Triton version": "3.8.0",
    }}  # fmt: skip
    assert versions_on(torch.device("cpu")) == software_versions()
    Checkpoint(tmp_path / "ckpt", {}, environment=found).save({})
    for name, value in (("GPU", "NVIDIA A100"), ("driver version", None), ("cuDNN version", 91000)):
        other = Checkpoint(tmp_path / "ckpt", {}, environment={**found, name: value})
        with pytest.raises(ResumeError, match=f"created with {name} {found[name]}, but this run has {name}"):
            other.load({})


def test_a_run_with_other_options_is_not_resumed(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    arguments: dict[str, Any] = {"images": 3, "size": 16, "checkpoint": tmp_path / "ckpt"}
    measure_erf(Tiny(), folder, **arguments)
    for change, message in (
        ({"seed": 1}, "created with seed 0, but this run has seed 1. Give seed 0"),
        ({"size": 20}, "size 16, but this run has size 20. Give size 16"),
        ({"layer": "stem"}, "layer body, but this run has layer stem"),
        ({"images": 4}, "images 3, but this run has images 4"),
    ):
        with pytest.raises(ResumeError, match=message):
            measure_erf(Tiny(), folder, **{**arguments, **change}, resume=True)
    with pytest.raises(ResumeError, match="parameters"):
        measure_erf(Tiny(1), folder, **arguments, resume=True)
    measure_erf(Tiny(), folder, **arguments, resume=True, thresholds=[0.7])  # thresholds cost nothing


def measured_state(folder: Path) -> tuple[ErfResult, dict[str, Any], dict[str, Any], Callable[..., None]]:
    """A result, the state and the arrays of its run, and a function that saves others in their place."""
    result = measure_erf(Tiny(), batch(3), checkpoint=folder)
    record = json.loads((folder / "state.json").read_text())
    arrays = {name: np.load(folder / file) for name, file in record["arrays"].items()}
    return result, record["state"], arrays, Checkpoint(folder, record["config"], environment=record["environment"]).save


@pytest.mark.parametrize(
    "change",
    [
        {"done": "3"},
        {"done": 4},
        {"done": -1},
        {"done": 2, "counts": [-1, 1, 2]},
        {"used": []},
        {"seconds": -1.0},
        {"counts": [1, 1]},
        {"counts": [1, 0, 2]},
        {"counts": [1, 2, 1]},
        {"used": [1]},
        {"skipped": {}},
        {"seconds": None},
        {"methods": "x"},
    ],
)
def test_a_damaged_state_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    _, state, arrays, save = measured_state(tmp_path)
    save(state | change, arrays)
    with pytest.raises(ResumeError, match="damaged"):
        measure_erf(Tiny(), batch(3), checkpoint=tmp_path, resume=True)


def test_sums_that_are_not_those_of_the_images_are_an_error(tmp_path: Path) -> None:
    expected, state, arrays, save = measured_state(tmp_path)
    for block in (np.zeros((4, 4)), np.full((32, 32), np.nan), np.zeros((32, 32), np.float32)):
        save(state, arrays | {"block-01": block})
        with pytest.raises(ResumeError, match="Its sums are not those of its images"):
            measure_erf(Tiny(), batch(3), checkpoint=tmp_path, resume=True)
    save(state, arrays | {"block-01": np.zeros((32, 32))})
    assert measure_erf(Tiny(), batch(3), checkpoint=tmp_path, resume=True).run.image_ids == expected.run.image_ids


def test_other_images_of_the_same_names_are_not_resumed(tmp_path: Path) -> None:
    folder, other = image_folder(tmp_path / "a" / "images"), tmp_path / "b" / "images"
    shutil.copytree(folder, other)  # keeps the times: these are the same images
    plan = plan_erf(Tiny(), folder, ErfConfig(size=16))
    result = plan.run()
    assert plan_erf(Tiny(), other, ErfConfig(size=16)).difference(result) is None

    changed = next(other.iterdir())
    before = changed.stat()
    Image.new("RGB", (30, 20)).save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # the size alone
    assert plan_erf(Tiny(), other, ErfConfig(size=16)).difference(result)
    shutil.copy2(folder / changed.name, changed)
    assert plan_erf(Tiny(), other, ErfConfig(size=16)).difference(result) is None
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))  # the time alone
    assert plan_erf(Tiny(), other, ErfConfig(size=16)).difference(result)

    measure_erf(Tiny(), folder, size=16, checkpoint=tmp_path / "ckpt")
    with pytest.raises(ResumeError, match="image files"):
        measure_erf(Tiny(), other, size=16, checkpoint=tmp_path / "ckpt", resume=True)
    assert plan_erf(Tiny(), None, ErfConfig(images=2, size=16)).record["image files"] is None


def test_a_new_run_replaces_an_old_state(tmp_path: Path) -> None:
    measure_erf(Tiny(), batch(3), checkpoint=tmp_path / "ckpt")
    result = measure_erf(Tiny(), batch(2), checkpoint=tmp_path / "ckpt")
    assert result.n_images == 2


class Slow(nn.Conv2d):
    """As the class of that name below, for the run that is resumed in this process."""

    images = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and x.shape[-1] == 16:  # not the image on which copies are compared
            Slow.images += 1
        return super().forward(x)


_KILLED = """
import sys, time, torch
from torch import nn
from replk_probe import measure_erf
from replk_probe.runtime import checkpoint

checkpoint.SAVE_EVERY = 0

class Slow(nn.Conv2d):
    def forward(self, x):
        if x.requires_grad and x.shape[-1] == 16:
            time.sleep(0.03)
            print("image", flush=True)
        return super().forward(x)

torch.manual_seed(0)
model = Slow(3, 4, 5, padding=2)
images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(5))
measure_erf(model, images, batch_size=1, checkpoint=sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_process_loses_at_most_one_image(forked_python: Any, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = forked_python.start("-c", _KILLED, tmp_path / "ckpt", stdout=writer)
    os.close(writer)
    seen = 0
    with os.fdopen(reader) as output:
        for line in output:
            seen += line.strip() == "image"
            if seen == 7:  # killed while it works on the one after
                time.sleep(0.01)
                process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Slow(3, 4, 5, padding=2)
    whole = measure_erf(model, batch(12, 16), batch_size=1)
    counted = Slow.images
    resumed = measure_erf(model, batch(12, 16), batch_size=1, checkpoint=tmp_path / "ckpt", resume=True)
    assert 12 <= seen + Slow.images - counted <= 13
    for name, result in {"whole": whole, "resumed": resumed}.items():
        result.save(tmp_path / name)
    for file in ("erf.npz", "erf.csv"):
        assert (tmp_path / "resumed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_random_weights_that_leave_branches_closed_are_noted():
    """Timm starts the last norm of every residual branch at zero: the map is that of the shortcuts."""
    closed = measure_erf("resnet10t", weights="random", size=64, images=1)
    assert any("suppresses 4 of its branches" in note for note in closed.notes)
    plain = measure_erf("torchvision:resnet18", weights="random", size=64, images=1)
    assert not any("of its branches" in note for note in plain.notes)


def test_a_registered_model_keeps_its_name():
    model = replk_probe.create_model("test_resnet", "random")
    assert measure_erf(model, torch.randn(1, 3, 64, 64)).run.model == "test_resnet"


def test_threads_do_not_disturb_each_other():
    def measure(_: int) -> Any:
        return measure_erf(model, images, layer="layer1").contribution

    model = replk_probe.create_model("test_resnet", "random", num_classes=4)
    images = torch.randn(1, 3, 64, 64)
    expected = measure(0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(measure, range(4)):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())


def large_kernels() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RepLKNet(kernel_sizes=(31, 13), layers=(1, 1), channels=(8, 16)).eval()


@pytest.mark.parametrize("forced", ["", "direct", "aten"])
def test_the_record_names_what_computed_the_large_kernels(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLK_PROBE_METHOD", forced)
    backend = measure_erf(large_kernels(), batch(1, 64)).run.backend
    if not native_info().loaded:
        assert backend.startswith("aten: the native library is not available")
    elif forced == "aten":
        assert backend == "aten: REPLK_PROBE_METHOD=aten forces torch's convolution"
    else:
        assert backend.startswith(f"native {native_info().isa}: ") and (not forced or ": direct" in backend)
    # The small kernels of the stem stay in the layout of the layers around them, unless a method is forced.
    assert ("small channels-last" in backend) is (native_info().loaded and not forced)
    assert measure_erf(Tiny(), batch(1)).run.backend == "torch"


def test_a_resumed_run_knows_what_the_first_part_ran_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native_info().loaded:
        pytest.skip("no native library here")
    whole = measure_erf(large_kernels(), batch(2, 64), checkpoint=tmp_path)
    monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
    arguments: dict[str, Any] = {"checkpoint": tmp_path, "resume": True}
    with pytest.raises(ResumeError, match=r"created with convolutions native .*, but this run has convolutions aten"):
        measure_erf(large_kernels(), batch(2, 64), **arguments)
    with pytest.warns(ResumeWarning, match="convolutions native"):
        resumed = measure_erf(large_kernels(), batch(2, 64), **arguments, allow_other_device=True)
    assert resumed.run.backend == whole.run.backend
