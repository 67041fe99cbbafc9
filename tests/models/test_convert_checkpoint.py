"""Merging and renaming weights files: only files that compute the same outputs are written."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from replk_probe import __version__
from replk_probe.errors import InvalidInputError, UnknownModelError, WeightsError
from replk_probe.models import convert_checkpoint, create_model, load_checkpoint, reparam_checkpoint
from replk_probe.models.checkpoints import rename_keys
from replk_probe.models.checkpoints.rename_keys import official_name
from replk_probe.runtime.atomic_files import sha256_of

State = dict[str, Tensor]

NETS = """
from replk_probe.models import LargeKernelConvNeXt, LargeKernelMobileNetV2, RepLKNet, SLaK

shape = (1, 1, 2, 1), (4, 4, 8, 8)

def replknet():
    return RepLKNet((9, 7, 7, 5), *shape, 5, num_classes=10)

def plain_replknet():
    return RepLKNet((9, 7, 7, 5), *shape, None, num_classes=10)

def slak():
    return SLaK((11, 9, 9, 7), *shape, 5, num_classes=10)

def convnext():
    return LargeKernelConvNeXt((11, 9, 9, 7), depths=shape[0], dims=shape[1], num_classes=10)

def mobilenet():
    return LargeKernelMobileNetV2(9, 3, num_classes=10, setting=((1, 16, 1, 1), (6, 24, 2, 2)))
"""
# Convolutions before merging; layers.
FAMILIES = {"replknet": (10, 5), "plain_replknet": (5, 5), "slak": (15, 5), "convnext": (10, 5), "mobilenet": (6, 3)}


@pytest.fixture
def name(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A factory in a file of the test's own; RepLKNet's unless the test asks for another."""
    (tmp_path / "nets.py").write_text(NETS)
    return f"{tmp_path / 'nets.py'}:{getattr(request, 'param', 'replknet')}"


def trained(name: str) -> nn.Module:
    """A network whose batch norms are far from their defaults."""
    model = create_model(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.normal_(generator=generator)
                module.running_var.uniform_(0.05, 4, generator=generator)
    return model


def saved(path: Path, state: Mapping[str, Tensor]) -> Path:
    torch.save({"model": dict(state), "epoch": 3}, path)
    return path


def read(path: Path) -> State:
    return safetensors.torch.load_file(path)


def bitwise_equal(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key].view(torch.uint8), b[key].view(torch.uint8))
        if a[key].ndim
        else torch.equal(a[key], b[key])
        for key in a
    )


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    found: Tensor = model.double()(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(5)).double())
    return found


@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_merged_files_compute_the_same(name: str, tmp_path: Path) -> None:
    family = name.rpartition(":")[2]
    model = trained(name)
    path, out = saved(tmp_path / "trained.pth", model.state_dict()), tmp_path / "merged.safetensors"
    report = reparam_checkpoint(path, out, name)
    assert (report.convolutions, report.layers) == FAMILIES[family]
    assert report.merging is not None and 0 < report.merging.relative < 1e-12
    assert 1e-9 < report.rounding.relative < 1e-5 and report.rounding.absolute >= report.rounding.relative
    assert (report.source.form, report.written.form) == ("train", "merged")
    assert (report.written.path, report.written.sha256) == (out, sha256_of(out))
    before, after = report.parameters
    assert before == sum(parameter.numel() for parameter in model.parameters())

    again = create_model(name, out)
    assert after == sum(parameter.numel() for parameter in again.parameters())
    expected = outputs(model)
    torch.testing.assert_close(outputs(again), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    old, new = model.float().state_dict(), read(out)
    kept = [key for key in new if key in old]
    assert all(torch.equal(new[key], old[key]) for key in kept)
    assert len(new) - len(kept) == 2 * report.layers or family == "mobilenet"
    assert not [key for key in new if any(branch in key for branch in ("large_conv", "small_conv", "row_conv"))]


def test_header_and_bytes(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "trained.pth", trained(name).state_dict())
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    reparam_checkpoint(path, first, name, scheme="official")
    reparam_checkpoint(path, second, name, scheme="official")
    with safetensors.safe_open(first, "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "merged": "yes",
            "model": name,
            "replk_probe_version": __version__,
            "scheme": "official",
            "source_file": "trained.pth",
            "source_sha256": sha256_of(path),
        }
    assert first.read_bytes() == second.read_bytes()
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(first.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("name", ["replknet", "slak", "convnext"], indirect=True)
@pytest.mark.parametrize("form", ["train", "merged", "merged+fused"])
def test_round_trip_of_names_is_bitwise_equal(name: str, form: str, tmp_path: Path) -> None:
    model: Any = trained(name)
    if form != "train":
        model.reparameterize() if form == "merged" else model.fuse_bn()
    state = {official_name(key): value for key, value in model.state_dict().items()}
    assert form == "merged+fused" or state.keys() != model.state_dict().keys()
    path, there, back = saved(tmp_path / "a.pth", state), tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    report = reparam_checkpoint(path, there, name, merge=False)
    assert report.rounding.absolute == 0 and report.merging is None
    assert bitwise_equal(read(there), model.state_dict())
    reparam_checkpoint(there, back, name, scheme="official", merge=False)
    assert bitwise_equal(read(back), state)
    with safetensors.safe_open(back, "pt") as file:
        assert file.metadata()["merged"] == ("no" if form == "train" else "yes")


@pytest.mark.parametrize("name", ["slak", "convnext"], indirect=True)
def test_timm_runs_what_is_merged(name: str, tmp_path: Path) -> None:
    model = trained(name)
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith("gamma"):
                tensor.fill_(1.0)  # with the usual 1e-6 the blocks would not be seen in the output
    path, out = saved(tmp_path / "trained.pth", model.state_dict()), tmp_path / "timm.safetensors"
    report = reparam_checkpoint(path, out, name, scheme="timm")
    assert report.timm_model is not None and report.timm_model.startswith("timm.create_model('convnext_tiny', ")
    theirs = eval(report.timm_model, {"timm": timm})
    theirs.load_state_dict(read(out), strict=True)
    expected = outputs(model)
    torch.testing.assert_close(outputs(theirs.eval()), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    ours, back = create_model(name, out), tmp_path / "back.safetensors"
    torch.testing.assert_close(outputs(ours), outputs(theirs))
    report = reparam_checkpoint(out, back, name, merge=False)
    assert report.source.naming == "timm"
    direct = tmp_path / "direct.safetensors"
    reparam_checkpoint(path, direct, name)
    assert bitwise_equal(read(back), read(direct))
    again = tmp_path / "again.safetensors"
    reparam_checkpoint(direct, again, name, scheme="timm", merge=False)  # merged already, so timm has names for it
    assert bitwise_equal(read(again), read(out))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_file_is_kept(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained(name).to(dtype)
    path, out = saved(tmp_path / "trained.pth", model.state_dict()), tmp_path / "merged.safetensors"
    report = reparam_checkpoint(path, out, name)
    assert report.merging is not None and report.merging.relative < 1e-12
    old, new = model.state_dict(), read(out)
    assert {tensor.dtype for tensor in new.values()} == {dtype, torch.int64}
    assert all(torch.equal(new[key], old[key]) for key in new if key in old)
    # Half of the last place, of each weight of the sum.
    assert report.rounding.relative < 100 * torch.finfo(dtype).eps


def test_missing_entries_of_the_file_are_not_invented(name: str, tmp_path: Path) -> None:
    state = {key: value for key, value in trained(name).state_dict().items() if not key.startswith("head.")}
    state = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    path, out = saved(tmp_path / "trained.pth", state), tmp_path / "merged.safetensors"
    reparam_checkpoint(path, out, name)
    assert not [key for key in read(out) if key.startswith("head.") or "num_batches_tracked" in key]
    assert load_checkpoint(create_model(name), out).head == "missing"


def test_the_averaged_entry(name: str, tmp_path: Path) -> None:
    model = trained(name)
    average = {key: value.clone() for key, value in model.state_dict().items()}
    average["head.bias"] += 1
    path, out = tmp_path / "both.pth", tmp_path / "merged.safetensors"
    torch.save({"model": model.state_dict(), "model_ema": average}, path)
    reparam_checkpoint(path, out, name, ema=True)
    assert torch.equal(read(out)["head.bias"], average["head.bias"])


def test_any_file_that_fits_can_be_rewritten(tmp_path: Path) -> None:
    model = create_model("test_resnet")
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    out = tmp_path / "out.safetensors"
    reparam_checkpoint(saved(tmp_path / "ddp.pth", state), out, "test_resnet", merge=False)
    assert bitwise_equal(read(out), model.state_dict())


@pytest.mark.parametrize(
    ("model", "options", "error", "match"),
    [
        ("test_resnet", {}, InvalidInputError, r"test_resnet has nothing to merge.*ResNet has parallel branches"),
        (
            "test_resnet",
            {"scheme": "official"},
            InvalidInputError,
            r"scheme 'official' does not apply to.*Use replk-probe",
        ),
        ("test_resnet", {"scheme": "timm"}, InvalidInputError, r"its own names are timm's\. Use replk-probe"),
        (
            "replknet_micro_k3",
            {"scheme": "timm"},
            InvalidInputError,
            r"timm has no RepLKNet\. Use official or replk-probe",
        ),
        ("mobilenetv2_micro_k13_rep", {"scheme": "timm"}, InvalidInputError, r"only has 3 x 3 kernels"),
        ("mobilenetv2_micro_k13_rep", {"scheme": "official"}, InvalidInputError, r"no code for"),
        (
            "replknet_micro_k3",
            {"scheme": "keras"},
            InvalidInputError,
            r"Unknown naming scheme 'keras'.*official, replk-probe",
        ),
        ("replknet31", {}, UnknownModelError, r"similar: replknet31"),
    ],
)
def test_models_that_are_refused(
    model: str, options: dict[str, Any], error: type[Exception], match: str, tmp_path: Path
) -> None:
    path, out = saved(tmp_path / "some.pth", {"a": torch.zeros(1)}), tmp_path / "out.safetensors"
    with pytest.raises(error, match=match):
        reparam_checkpoint(path, out, model, **options)
    assert not out.exists()


def test_timm_has_no_families_like_ours() -> None:
    others = [
        known
        for pattern in ("*replk*", "*slak*")
        for known in timm.list_models(pattern)
        if timm.models.model_entrypoint(known).__module__.startswith("timm.")
    ]
    assert others == []


@pytest.mark.parametrize("form", ["merged", "merged+fused"])
def test_what_is_merged_already_is_refused(name: str, form: str, tmp_path: Path) -> None:
    model: Any = trained(name)
    model.reparameterize() if form == "merged" else model.fuse_bn()
    path = saved(tmp_path / "merged.pth", model.state_dict())
    with pytest.raises(WeightsError, match=rf"merged\.pth is already merged. It is in {form.replace('+', '.')} form"):
        reparam_checkpoint(path, tmp_path / "out.safetensors", name)


@pytest.mark.parametrize("name", ["slak"], indirect=True)
def test_branches_have_no_names_in_timm(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "trained.pth", trained(name).state_dict())
    with pytest.raises(InvalidInputError, match=r"has branches, timm's ConvNeXt has one.*Merge the branches"):
        reparam_checkpoint(path, tmp_path / "out.safetensors", name, scheme="timm", merge=False)


def test_files_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    state = trained(name).state_dict()
    out = tmp_path / "out.safetensors"
    lacking = {key: value for key, value in state.items() if ".small_conv." not in key}
    with pytest.raises(WeightsError, match=r"20 missing keys \(stages\.0\.blocks\.0\.large_kernel\.small_conv"):
        reparam_checkpoint(saved(tmp_path / "lacking.pth", lacking), out, name)
    with pytest.raises(
        WeightsError, match=r"does not match \w+\. The file appears to be a RepLKNet.* \d+ missing keys"
    ):
        reparam_checkpoint(saved(tmp_path / "whole.pth", state), out, "slak_tiny")
    assert not out.exists()


def test_non_finite_outputs_are_an_error_about_the_file(name: str, tmp_path: Path) -> None:
    model = trained(name)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].running_var.data[0] = -1.0
    safetensors.torch.save_file(model.state_dict(), tmp_path / "negative.safetensors")
    with pytest.raises(WeightsError, match=r"negative variances\. 1 tensor \(.*\.running_var\) is below zero"):
        reparam_checkpoint(tmp_path / "negative.safetensors", tmp_path / "out.safetensors", name)
    norms[0].running_var.data[0] = 1.0
    for norm in norms:
        norm.weight.data.fill_(3e38)  # the outputs overflow
    safetensors.torch.save_file(model.state_dict(), tmp_path / "large.safetensors")
    with pytest.raises(WeightsError, match=r"large\.safetensors was not rewritten\. .* are NaN or infinite"):
        reparam_checkpoint(tmp_path / "large.safetensors", tmp_path / "out.safetensors", name)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_wrong_merge_is_never_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = convert_checkpoint.merge_as_published

    def wrong(model: Any) -> None:
        right(model)
        with torch.no_grad():
            model.stages[2].blocks[2].large_kernel.reparam_conv.weight[3, 0, 0, 6] *= 1 + 1e-6

    path, out = saved(tmp_path / "trained.pth", trained(name).state_dict()), tmp_path / "folder" / "out.safetensors"
    monkeypatch.setattr(convert_checkpoint, "merge_as_published", wrong)
    with pytest.raises(WeightsError, match=r"was not rewritten.*of stages\.2\.blocks\.2\.large_kernel would differ"):
        reparam_checkpoint(path, out, name)
    assert not out.parent.exists()


def test_a_file_that_computes_something_else_is_not_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(scheme: str, tensors: Mapping[str, Tensor]) -> State:
        state = rename_keys.in_scheme(scheme, tensors)
        first, second = (f"stages.2.blocks.{block}.large_kernel.reparam_conv.bias" for block in (0, 2))
        return {**state, first: state[second], second: state[first]}

    path, out = saved(tmp_path / "trained.pth", trained(name).state_dict()), tmp_path / "folder" / "out.safetensors"
    monkeypatch.setattr(convert_checkpoint, "in_scheme", swap)
    with pytest.raises(WeightsError, match=r"was not rewritten.*rounding explains at most 1e-03"):
        reparam_checkpoint(path, out, name)
    assert list(out.parent.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path, out = saved(tmp_path / "trained.pth", trained(name).state_dict()), tmp_path / "folder" / "out.safetensors"
    out.parent.mkdir()
    out.write_text("the old one")
    monkeypatch.setattr(convert_checkpoint, "write_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reparam_checkpoint(path, out, name, force=True)
    assert [file.read_text() for file in out.parent.iterdir()] == ["the old one"]


def test_a_full_disk(name: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path, out = saved(tmp_path / "trained.pth", trained(name).state_dict()), tmp_path / "folder" / "out.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(InvalidInputError, match=r"Cannot write .*out\.safetensors\. The disk is full"):
            reparam_checkpoint(path, out, name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(out.parent.iterdir()) == []
