"""Networks from names, factories and files, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import replk_probe
from replk_probe.errors import InvalidInputError, ReplkProbeError, UnknownModelError, WeightsError
from replk_probe.models import (
    DataConfig,
    builders,
    create_model,
    data_config,
    load_checkpoint,
    weights_info,
)

FACTORY = """
import torch
import neighbor

SEVEN = 7
class Nets:
    small = staticmethod(lambda: torch.nn.Conv2d(3, 4, 3))
def build(width=4): return torch.nn.Conv2d(3, width, neighbor.KERNEL)
def broken(): raise RuntimeError("no\\nluck")
def number(): return 3
def quits(): raise SystemExit(3)
READY = build()
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "neighbor.py").write_text("KERNEL = 5\n")
    path = tmp_path / "nets.py"
    path.write_text(FACTORY)
    return path


def test_registered_names_are_created_in_eval_mode_and_random_weights_are_reported() -> None:
    model = replk_probe.create_model("mobilenetv2_k3", seed=5)
    assert not model.training
    info = weights_info(model)
    assert (info.source, info.seed, info.is_random) == ("random-init", 5, True)


def test_the_seed_decides_and_nothing_else_is_disturbed() -> None:
    state = torch.random.get_rng_state()
    first, again = create_model("mobilenetv2_k3"), create_model("mobilenetv2_k3", "random")
    other = create_model("mobilenetv2_k3", seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [model.features[0][0].weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_overrides_reach_the_builder_even_none() -> None:
    model = create_model("replknet3", layers=(1, 1), channels=(8, 8), kernel_sizes=(7, 7), small_kernel=5)
    assert hasattr(model.stages[0].blocks[0].large_kernel, "small_conv")
    model = create_model("replknet7", layers=(1, 1), channels=(8, 8), kernel_sizes=(7, 7), small_kernel=None)
    assert not hasattr(model.stages[0].blocks[0].large_kernel, "small_conv")
    assert create_model("timm:resnet18", num_classes=3).fc.out_features == 3


def test_torchvision() -> None:
    model = create_model("torchvision:squeezenet1_0")
    assert type(model).__module__.startswith("torchvision.") and not model.training
    assert weights_info(model).is_random and data_config(model).input_size == (224, 224)


def test_trained_weights_from_a_file(data_dir: Path) -> None:
    path = data_dir / "weights" / "squeezenet1_0_imagenet.safetensors"
    info = weights_info(create_model("torchvision:squeezenet1_0", path))
    assert info.source == f"file:{path.name}" and not info.is_random and info.seed is None
    assert info.sha256 is not None and len(info.sha256) == 64


def test_loading_a_file_later_is_noted_too(tmp_path: Path) -> None:
    source = create_model("mobilenetv2_k3", seed=1)
    path = tmp_path / "mine.pth"
    torch.save(source.state_dict(), path)
    model = create_model("mobilenetv2_k3")
    report = load_checkpoint(model, path)
    assert weights_info(model).source == "file:mine.pth" and weights_info(model).sha256 == report.sha256
    assert torch.equal(model.features[0][0].weight, source.features[0][0].weight)


def test_a_file_of_merged_weights_makes_a_merged_model(tmp_path: Path) -> None:
    options = {"layers": (1, 1), "channels": (8, 8), "kernel_sizes": (7, 7), "num_classes": 3}
    merged = create_model("replknet7", seed=1, **options).reparameterize()
    torch.save(merged.state_dict(), tmp_path / "merged.pth")
    model = create_model("replknet7", tmp_path / "merged.pth", **options)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x), merged(x)) and weights_info(model).form == "merged"


def test_factories_in_files(factory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(f"{factory}:build", width=6)
    assert isinstance(model, nn.Conv2d) and model.kernel_size == (5, 5) and not model.training
    assert weights_info(model).source == "user-module" and data_config(model) == DataConfig()
    assert weights_info(create_model(f"{factory}:build", "auto")).source == "user-module"
    assert weights_info(create_model(f"{factory}:build", "random")).is_random
    assert isinstance(create_model(f"{factory}:Nets.small"), nn.Conv2d)
    assert isinstance(create_model(f"{factory}:READY"), nn.Conv2d)
    monkeypatch.chdir(factory.parent)
    assert isinstance(create_model("nets.py:build"), nn.Conv2d)


def test_factories_in_modules(factory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory.rename(factory.parent / "probe_test_nets.py")
    monkeypatch.chdir(factory.parent)
    assert isinstance(create_model("probe_test_nets:build"), nn.Conv2d)
    assert isinstance(create_model("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("replknet31", UnknownModelError, r"similar: .*replknet31b"),
        ("RepLKNet-31B", UnknownModelError, r"similar: replknet31b"),
        ("xqzzy", UnknownModelError, "replk-probe models"),
        ("", UnknownModelError, "There is no model of that name"),
        ("replknet31b.in1k", UnknownModelError, "Choose from replknet31b.in1k_224"),
        ("resnet18.nonsense", UnknownModelError, "resnet18.a1_in1k"),
        ("torchvision:resnet11", UnknownModelError, "similar: resnet101"),
        ("torchvision:raft_small", UnknownModelError, "no model of that name for classification, segmentation, detec"),
        ("nowhere.py:build", UnknownModelError, "There is no such file"),
        ("no_such_package.nets:build", UnknownModelError, "No module named"),
        ("torch.nn:Identty", UnknownModelError, "similar: Identity"),
        (":build", UnknownModelError, "One side of the colon"),
        ("nets.py", UnknownModelError, "FUNCTION"),
        (
            "hf-hub:foo/bar",
            UnknownModelError,
            "prefix 'hf-hub:' is not supported. Give the model's name in timm's registry",
        ),
        ("hf-hub:timm/resnet18.a1_in1k", UnknownModelError, r"it is 'resnet18\.a1_in1k'"),
        ("timm:hf_hub:foo/bar", UnknownModelError, "prefix 'hf_hub:' is not supported"),
        ("local-dir:/nowhere", UnknownModelError, "prefix 'local-dir:' is not supported"),
        ("os:path", InvalidInputError, r"os:path is the module posixpath, which|os:path is the module ntpath, which"),
        ("json:nothing", UnknownModelError, r"\. The module json has no attribute .*Correct the name\."),
        (3, UnknownModelError, "an object of type int"),
        (None, UnknownModelError, "an object of type NoneType"),
        (nn.Identity(), UnknownModelError, "a network already"),
    ],
)
def test_unknown_names(name: Any, error: type[ReplkProbeError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        create_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "error", "message"),
    [
        ("biuld", UnknownModelError, "similar: build"),
        ("broken", InvalidInputError, "RuntimeError: no luck"),
        ("quits", InvalidInputError, "SystemExit: 3"),
        ("number", InvalidInputError, "type int. It must return an nn.Module"),
        ("SEVEN", InvalidInputError, "cannot be called"),
    ],
)
def test_broken_factories(factory: Path, attribute: str, error: type[ReplkProbeError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        create_model(f"{factory}:{attribute}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def build(:\n")
    with pytest.raises(UnknownModelError, match=r"SyntaxError.*Correct the name or the code\."):
        create_model(f"{tmp_path / 'bad.py'}:build")
    with pytest.raises(UnknownModelError, match=r"No module named 'no'\. Correct the name or the code\.$"):
        create_model("no.such:fn")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *[
            ({"seed": seed}, InvalidInputError, "2\\*\\*63 - 1")
            for seed in ("a", None, 1.5, True, -1, 2**63, 2**70, float("nan"))
        ],
        *[({name: 1}, InvalidInputError, f"The option {name} cannot be 1.*Use True") for name in ("pretrained", "ema")],
        *[({"weights": weights}, WeightsError, "as a name or a path") for weights in (True, 3, b"random")],
    ],
)
def test_options_of_the_wrong_kind(options: dict[str, Any], error: type[ReplkProbeError], message: str) -> None:
    with pytest.raises(error, match=message):
        create_model("replknet3", **options)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, np.int64(7), np.uint8(7)])
def test_seeds_are_whole_numbers_of_any_type(seed: Any) -> None:
    info = weights_info(create_model("test_resnet", seed=seed))
    assert (info.seed, type(info.seed)) == (seed, int)


def test_files_are_loaded_into_networks_from_paths(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"create_model\('resnet18'\)"):
        load_checkpoint("resnet18", tmp_path / "any.pth")  # type: ignore[arg-type]
    for path in (None, 3, b"any.pth"):
        with pytest.raises(WeightsError, match="Pass the path of a file"):
            load_checkpoint(nn.Identity(), path)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["replknet3", "resnet18", "torchvision:resnet18"])
def test_options_that_the_builder_does_not_have(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"with color='red'.*color"):
        create_model(name, color="red")


def test_wrong_weights_are_an_error_before_the_network_is_built(
    factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> nn.Module:
        raise AssertionError("built")

    monkeypatch.setattr(builders, "_built", build)
    monkeypatch.setattr(builders, "build_from_factory", build)
    for name in ("replknet31b", "resnet18", "torchvision:resnet18", f"{factory}:build"):
        with pytest.raises(WeightsError, match="no such file"):
            create_model(name, tmp_path / "missing.pth")
    with pytest.raises(UnknownModelError, match=r"similar: .*replknet31b"):
        create_model("replknet31", tmp_path / "missing.pth")


def test_pretrained_weights_that_do_not_exist_are_an_error() -> None:
    with pytest.raises(WeightsError, match="replknet25"):
        create_model("replknet25", "pretrained")
    with pytest.raises(WeightsError, match="replknet25"):
        timm.create_model("replknet25", pretrained=True)
    assert weights_info(create_model("mobilenetv2_k9", "auto")).note is not None


def test_pretrained_as_in_timm() -> None:
    name = "replknet_micro_k13"
    expected = create_model(name, "pretrained")
    for options in ({"pretrained": True}, {"pretrained": True, "weights": "pretrained"}):
        model = create_model(name, **options)
        assert weights_info(model) == weights_info(expected)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert weights_info(create_model(name, "shape90", pretrained=True)) == weights_info(expected)
    assert weights_info(create_model(name, pretrained=False)).is_random
    for weights in ("random", "auto"):
        with pytest.raises(InvalidInputError, match=f"pretrained=True with weights='{weights}'"):
            create_model(name, weights, pretrained=True)
    with pytest.raises(WeightsError, match="No pretrained weights are known for replknet25"):
        create_model("replknet25", pretrained=True)


def test_device_and_dtype_are_applied_after_loading() -> None:
    name = "replknet_micro_k13"
    plain, half = create_model(name, "pretrained"), create_model(name, "pretrained", device="cpu", dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert weights_info(half) == weights_info(plain) and data_config(half) == data_config(plain) and not half.training
    for rounded, exact in zip(half.parameters(), plain.parameters(), strict=True):
        assert torch.equal(rounded, exact.bfloat16())
    assert next(create_model("mobilenetv2_k3", device=torch.device("cpu")).parameters()).device.type == "cpu"
    for options, message in (
        ({"dtype": torch.int8}, "floating-point type"),
        ({"dtype": "half"}, "floating"),
        ({"device": "x"}, "device"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            create_model(name, **options)


@pytest.mark.cuda
def test_networks_on_a_gpu() -> None:
    model = create_model("replknet_micro_k13", device="cuda", dtype=torch.float16)
    assert {(value.device.type, value.dtype) for value in model.parameters()} == {("cuda", torch.float16)}
