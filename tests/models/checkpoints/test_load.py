"""Files of every published form into models, and files that must be refused."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

import replk_probe.models
from replk_probe.errors import WeightsError
from replk_probe.models.architectures.mobilenet_v2 import LargeKernelMobileNetV2
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.architectures.slak import SLaK
from replk_probe.models.checkpoints.load import inspect_checkpoint, load_checkpoint
from replk_probe.runtime.atomic_files import sha256_of

State = dict[str, Tensor]


def randomized(model: nn.Module, seed: int = 0) -> Any:
    """The model in eval mode with numbers that the seed alone decides, running statistics among them."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if "var" in name else noise - 0.4)
    return model.eval()


def replknet(seed: int = 0, **changes: Any) -> Any:
    config = {"kernel_sizes": (7, 7, 5, 5), "layers": (1, 1, 1, 1), "channels": (4, 8, 8, 8), "small_kernel": 3}
    return randomized(RepLKNet(**{**config, "num_classes": 10, **changes}), seed)


def slak(seed: int = 0, **changes: Any) -> Any:
    config = {"kernel_sizes": (9, 9, 7, 7), "depths": (1, 1, 1, 1), "dims": (4, 4, 8, 8), "small_kernel": 3}
    return randomized(SLaK(**{**config, "num_classes": 10, **changes}), seed)


def official(state: Mapping[str, Tensor]) -> State:
    """Our names -> those of the authors."""
    names = {"large_conv": "lkb_origin", "reparam_conv": "lkb_reparam", "column_conv": "LoRA1", "row_conv": "LoRA2"}
    return {
        re.sub(rf"\.({'|'.join(names)})\.", lambda found: f".{names[found[1]]}.", name): tensor
        for name, tensor in state.items()
    }


def mmpretrain(state: Mapping[str, Tensor]) -> State:
    renamed = {}
    for name, tensor in official(state).items():
        if name.startswith("head."):
            new = name.replace("head.", "head.fc.")
        else:
            new = f"backbone.{'stages.3.' if name.startswith('norm.') else ''}{name}"
        renamed[new] = tensor
    return renamed


def same(a: nn.Module, b: nn.Module) -> bool:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.equal(a.eval()(x), b.eval()(x))


def snapshot(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: State) -> bool:
    now = model.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], before[name]) for name in now)


def save(path: Path, content: object, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


# The serialization does not depend on the names.
@pytest.mark.parametrize(
    ("naming", "legacy"), [(official, False), (mmpretrain, False), (dict, False), (official, True)]
)
@pytest.mark.parametrize("form", ["train", "merged", "merged+fused"])
def test_replknet_in_every_form_and_naming(file: Path, form: str, naming: Callable[..., State], legacy: bool) -> None:
    trained = replknet(seed=1)
    if form == "merged":
        trained.reparameterize()
    elif form == "merged+fused":
        trained.fuse_bn()
    save(file, collections.OrderedDict(naming(trained.state_dict())), legacy)
    model = replknet(seed=2)
    report = load_checkpoint(model, file)
    assert same(model, trained)
    assert (report.form, report.wrapper, report.dropped, report.missing) == (form, None, (), ())
    assert (report.head, report.num_classes, report.averaged, report.note) == ("loaded", 10, False, None)
    assert report.naming == {"official": "official", "mmpretrain": "mmpretrain", "dict": "own"}[naming.__name__] or (
        form == "merged+fused" and naming is official
    )
    assert report.sha256 == sha256_of(file)
    assert not model.training


def test_fused_without_merging_is_merged_on_the_way(file: Path) -> None:
    trained = replknet(seed=1)
    expected = replknet(seed=1).fuse_bn()
    state = official(trained.fuse_bn().state_dict())
    split: State = {}
    for name, tensor in state.items():
        if ".lkb_reparam." not in name:
            split[name] = tensor
            continue
        stem, kind = name.split("lkb_reparam.")
        # Halves of what they add up to, so that neither the difference here nor the sum there rounds anything.
        margin = (tensor.shape[-1] - 3) // 2
        small = tensor[..., margin:-margin, margin:-margin] / 2 if kind == "weight" else tensor / 2
        split[f"{stem}small_conv.conv.{kind}"] = small
        split[f"{stem}lkb_origin.conv.{kind}"] = tensor - (
            nn.functional.pad(small, [margin] * 4) if kind == "weight" else small
        )
    save(file, split)
    model = replknet(seed=2)
    assert load_checkpoint(model, file).form == "merged+fused"
    assert same(model, expected)


def test_model_already_merged_takes_merged_and_fused_files(file: Path) -> None:
    trained = replknet(seed=1).reparameterize()
    save(file, official(trained.state_dict()))
    model = replknet(seed=2).reparameterize()
    load_checkpoint(model, file)
    assert same(model, trained)
    save(file, official(trained.fuse_bn().state_dict()))
    load_checkpoint(model, file)
    assert same(model, trained)


def test_merged_model_refuses_branches(file: Path) -> None:
    save(file, official(replknet().state_dict()))
    model = replknet(seed=2).reparameterize()
    before = snapshot(model)
    with pytest.raises(WeightsError, match=r"already in merged form.*load the file into a new model"):
        load_checkpoint(model, file)
    assert unchanged(model, before)


def training_file(seed: int = 1) -> dict[str, Any]:
    trained, averaged = replknet(seed=seed), replknet(seed=seed + 1)
    return {
        "model": official(trained.state_dict()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 12,
        "scaler": {"scale": 65536.0},
        "best": np.float64(83.5),
        "args": argparse.Namespace(model="replknet31b", lr=4e-3, nothing=None),
        "model_ema": official(averaged.state_dict()),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("ema", "seed", "wrapper"), [(False, 1, "model"), (True, 2, "model_ema")])
def test_training_file(file: Path, ema: bool, seed: int, wrapper: str, legacy: bool) -> None:
    save(file, training_file(), legacy)
    model = replknet(seed=9)
    report = load_checkpoint(model, file, ema=ema)
    assert same(model, replknet(seed=seed))
    assert (report.wrapper, report.averaged) == (wrapper, ema)


@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (lambda state: {"model": state}, "model"),
        (lambda state: {"state_dict": state, "meta": {"epoch": 1}}, "state_dict"),
        (lambda state: {"model": {"state_dict": state}}, "model.state_dict"),
        (lambda state: {"state_dict": state, "model": state}, "model"),
        (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "module."),
        (lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}}, "model"),
        (lambda state: {"model_ema": state, "epoch": 3}, "model_ema"),
        (lambda state: {"state_dict": {f"module._orig_mod.{n}": t for n, t in state.items()}}, "state_dict"),
    ],
)
def test_wrapped(file: Path, wrap: Callable[[State], Any], wrapper: str) -> None:
    trained = replknet(seed=1)
    save(file, wrap(official(trained.state_dict())))
    model = replknet(seed=2)
    assert load_checkpoint(model, file).wrapper == wrapper
    assert same(model, trained)


def test_averaged_entry_must_exist(file: Path) -> None:
    save(file, {"model": official(replknet().state_dict()), "epoch": 3})
    with pytest.raises(WeightsError, match=r"no averaged weights.*'model', 'epoch'.*Leave out ema"):
        load_checkpoint(replknet(), file, ema=True)


@pytest.mark.parametrize("names", [("LoRA1", "LoRA2"), ("Decom1", "Decom2")])
def test_slak_names_and_zeros(file: Path, names: tuple[str, str]) -> None:
    trained = slak(seed=1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.ndim in (2, 4):
                parameter.mul_(torch.rand(parameter.shape) > 0.4)
    state = {
        name.replace("LoRA1", names[0]).replace("LoRA2", names[1]): tensor
        for name, tensor in official(trained.state_dict()).items()
    }
    save(file, {"model": state, "args": argparse.Namespace(Decom=True)})
    model = slak(seed=2)
    report = load_checkpoint(model, file)
    assert same(model, trained)
    assert (report.form, report.naming) == ("train", "official")
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter == 0, model.get_parameter(name) == 0)


def test_slak_merged(file: Path) -> None:
    trained = slak(seed=1).reparameterize()
    save(file, trained.state_dict())
    model = slak(seed=2)
    assert load_checkpoint(model, file).form == "merged"
    assert same(model, trained)


def test_slak_undecomposed(file: Path) -> None:
    trained = slak(seed=1, decomposed=False)
    save(file, {"model": official(trained.state_dict())})
    assert "large_kernel.lkb_origin.conv.weight" in " ".join(official(trained.state_dict()))
    model = slak(seed=2)
    before = snapshot(model)
    with pytest.raises(WeightsError, match=r"lkb_origin.*decomposed=False"):
        load_checkpoint(model, file)
    assert unchanged(model, before)
    plain = slak(seed=2, decomposed=False)
    load_checkpoint(plain, file)
    assert same(plain, trained)
    save(file, {"model": official(slak().state_dict())})
    with pytest.raises(WeightsError, match="decomposed=True"):
        load_checkpoint(plain, file)


@pytest.mark.parametrize("form", ["train", "merged", "merged+fused"])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_mobilenet(file: Path, form: str, kernel_size: int) -> None:
    def build(seed: int) -> Any:
        setting = ((1, 8, 1, 1), (6, 16, 2, 2))
        return randomized(LargeKernelMobileNetV2(kernel_size, 3, num_classes=10, setting=setting, stem_width=8), seed)

    trained = build(1)
    if form != "train":
        getattr(trained, {"merged": "reparameterize", "merged+fused": "fuse_bn"}[form])()
    save(file, trained.state_dict())
    model = build(2)
    assert load_checkpoint(model, file).form == form
    assert same(model, trained)


def test_torchvision_mobilenet_is_the_3x3_member(file: Path) -> None:
    trained = randomized(torchvision.models.mobilenet_v2(num_classes=10))
    save(file, trained.state_dict())
    model = LargeKernelMobileNetV2(3)
    assert load_checkpoint(model, file).num_classes == 10
    # Not bit by bit: the depthwise convolutions are computed in other ways.
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), trained(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [21841, 3])
def test_other_classes(file: Path, classes: int) -> None:
    trained = replknet(seed=1, num_classes=classes)
    save(file, mmpretrain(trained.state_dict()))
    model = replknet(seed=2).double().requires_grad_(False)
    report = load_checkpoint(model, file)
    assert (report.head, report.num_classes, model.num_classes) == ("replaced", classes, classes)
    assert model.head.weight.dtype == torch.float64
    assert not model.head.weight.requires_grad
    assert same(model.float(), trained)


def test_multi_task_head(file: Path) -> None:
    trained = replknet(seed=1, num_classes=21)
    state = {name.replace("head.", "head.cls_22k."): tensor for name, tensor in trained.state_dict().items()}
    save(file, official(state))
    model = replknet(seed=2)
    assert load_checkpoint(model, file).num_classes == 21
    assert same(model, trained)


def test_no_head_in_the_file(file: Path) -> None:
    trained = replknet(seed=1)
    save(file, {name: tensor for name, tensor in official(trained.state_dict()).items() if "head" not in name})
    model = replknet(seed=2)
    before = snapshot(model)
    report = load_checkpoint(model, file)
    assert (report.head, report.missing, report.num_classes) == ("missing", ("head.weight", "head.bias"), None)
    assert report.note is not None
    assert "class scores are not" in report.note
    assert torch.equal(model.head.weight, before["head.weight"])
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.forward_features(x), trained.forward_features(x))


def test_no_head_in_the_model(file: Path) -> None:
    trained = replknet(seed=1)
    save(file, official(trained.state_dict()))
    model = replknet(seed=2, num_classes=0)
    report = load_checkpoint(model, file)
    assert (report.head, report.dropped) == ("dropped", ("head.weight", "head.bias"))


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_downstream_backbone(file: Path, prefix: str) -> None:
    trained = replknet(seed=1)
    state = {
        prefix + name: tensor
        for name, tensor in official(trained.state_dict()).items()
        if not name.startswith(("head.", "norm."))
    }
    for stage, width in enumerate((4, 8, 8, 8)):
        for name, tensor in nn.BatchNorm2d(width).state_dict().items():
            state[f"{prefix}stages.{stage}.norm.{name}"] = tensor
    if prefix:
        state["decode_head.conv_seg.weight"] = torch.zeros(2)
    save(file, {"state_dict": state})
    model = replknet(seed=2)
    report = load_checkpoint(model, file)
    assert report.head == "missing"
    kept = 3 if prefix else 4  # Behind mmpretrain's prefix the last one is the final norm.
    assert len(report.dropped) == 5 * kept + bool(prefix)
    assert f"{prefix}stages.0.norm.weight" in report.dropped
    assert ("norm.weight" in report.missing) is not bool(prefix)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.forward_features(x), trained.forward_features(x))


def test_old_files_lack_batch_counters(file: Path) -> None:
    trained = replknet(seed=1)
    save(file, {n: t for n, t in official(trained.state_dict()).items() if "num_batches" not in n})
    model = replknet(seed=2)
    assert load_checkpoint(model, file).missing == ()
    assert same(model, trained)


def test_half_precision_file_into_a_float32_model(file: Path) -> None:
    trained = replknet(seed=1).half()
    save(file, official(trained.state_dict()))
    model = replknet(seed=2)
    load_checkpoint(model, file)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert same(model, trained.float())


def test_safetensors(tmp_path: Path) -> None:
    trained = replknet(seed=1)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(official(trained.state_dict()), path)
    model = replknet(seed=2)
    load_checkpoint(model, path)
    assert same(model, trained)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="truncated safetensors"):
        load_checkpoint(model, path)


def test_meta_model_becomes_real(file: Path) -> None:
    trained = replknet(seed=1)
    save(file, official(trained.half().state_dict()))
    with torch.device("meta"):
        model = RepLKNet((7, 7, 5, 5), (1, 1, 1, 1), (4, 8, 8, 8), 3)
    load_checkpoint(model, file)
    assert model.num_classes == 10
    assert same(model, trained.float())


def test_the_file_may_change_afterwards(file: Path) -> None:
    trained = replknet(seed=1)
    save(file, official(trained.state_dict()))
    model = replknet(seed=2)
    load_checkpoint(model, file)
    with file.open("r+b") as stream:
        stream.write(b"\0" * 10_000)
    assert same(model, trained)


def test_timm(file: Path) -> None:
    trained = randomized(timm.create_model("resnet10t", num_classes=7))
    save(file, {"state_dict": trained.state_dict(), "arch": "resnet10t"})
    model = timm.create_model("resnet10t")
    report = load_checkpoint(model, file)
    assert (report.head, report.num_classes, report.form) == ("replaced", 7, None)
    assert same(model, trained)


def test_timm_vit_resizes_its_position_table(file: Path) -> None:
    config: dict[str, Any] = {"embed_dim": 12, "depth": 1, "num_heads": 3, "num_classes": 5}
    trained = timm.create_model("vit_tiny_patch16_224", img_size=64, **config)
    save(file, trained.state_dict())
    model = timm.create_model("vit_tiny_patch16_224", img_size=96, **config)
    load_checkpoint(model, file)
    assert torch.equal(model.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)
    assert model.pos_embed.shape[1] == 37


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "resnet18"])
def test_torchvision(file: Path, name: str) -> None:
    trained = randomized(getattr(torchvision.models, name)(num_classes=6))
    save(file, trained.state_dict(), legacy=True)
    model = getattr(torchvision.models, name)(num_classes=4)
    report = load_checkpoint(model, file)
    assert (report.head, report.num_classes) == ("replaced", 6)
    assert same(model, trained)


def test_torchvision_densenet_names(file: Path) -> None:
    trained = randomized(torchvision.models.DenseNet(4, (1, 1), 8, num_classes=3))
    state = {re.sub(r"(denselayer1\.\w+)([12])\.", r"\1.\2.", n): t for n, t in trained.state_dict().items()}
    assert any(".norm.1." in name for name in state)
    save(file, state)
    model = torchvision.models.DenseNet(4, (1, 1), 8, num_classes=3)
    load_checkpoint(model, file)
    assert same(model, trained)


def test_real_squeezenet(data_dir: Path) -> None:
    path = data_dir / "weights" / "squeezenet1_0_imagenet.safetensors"
    model = torchvision.models.squeezenet1_0()
    report = load_checkpoint(model, path)
    assert (report.title, report.form, report.num_classes) == ("a SqueezeNet", None, 1000)
    assert torch.equal(model.features[0].weight, safetensors.torch.load_file(path)["features.0.weight"])


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.chdir(file.parent)
    save(file, {"model": replknet().state_dict(), "args": Evil()}, legacy)
    with pytest.raises(WeightsError, match=r"Refused to read weights\.pth.*system"):
        load_checkpoint(replknet(), file)
    assert not Path("pwned").exists()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def write_npz(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>Sign in"), "an HTML page"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "a Keras .h5"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        (lambda path: path.write_text("hello"), "a text file"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "gzip"),
        (lambda path: path.write_bytes(bytes(range(255, 0, -1))), "an unknown format"),
        (lambda path: path.write_bytes(pickle.dumps({"stem": np.zeros(3)})), "a pickle of NumPy arrays"),
        (write_npz, "NumPy .npz"),
        (write_zip, "a zip archive without weights"),
        (lambda path: path.mkdir(), "It is a folder"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_is_no_weights_file(file: Path, write: Callable[[Path], object], message: str) -> None:
    write(file)
    with pytest.raises(WeightsError, match=re.escape(message)) as caught:
        load_checkpoint(replknet(), file)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated(file: Path, legacy: bool, share: float) -> None:
    save(file, official(replknet().state_dict()), legacy)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    model = replknet(seed=2)
    before = snapshot(model)
    with pytest.raises(WeightsError, match=r"truncated zip|damaged or incomplete"):
        load_checkpoint(model, file)
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains one list"),
        (torch.zeros(3), "contains one Tensor"),
        ({"epoch": 3}, "It contains no tensors (found: 'epoch')"),
        ({}, "found: nothing"),
    ],
)
def test_files_without_weights(file: Path, content: object, message: str) -> None:
    save(file, content)
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_checkpoint(replknet(), file)


def test_a_wrong_file_is_one_complete_error(file: Path) -> None:
    save(file, torchvision.models.squeezenet1_1(num_classes=10).state_dict())
    model = replknet()
    before = snapshot(model)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(model, file)
    message = str(caught.value)
    assert re.search(r"\d+ missing keys \(stem\.0\.conv\.weight, .*, \.\.\.\)", message)
    assert re.search(r"52 unexpected keys \(features\.0\.weight, ", message)
    assert "appears to be a SqueezeNet" in message
    assert "\n" not in message
    assert unchanged(model, before)


def test_mis_shaped_keys_are_named_as_in_the_file(file: Path) -> None:
    save(file, official(replknet(kernel_sizes=(9, 9, 5, 5)).state_dict()))
    model = replknet()
    before = snapshot(model)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(model, file)
    expected = r"2 mis-shaped keys \(stages\.0\.blocks\.0\.large_kernel\.lkb_origin\.conv\.weight \[4, 1, 9, 9\] for \["
    assert re.search(expected, str(caught.value))
    assert "missing" not in str(caught.value)
    assert unchanged(model, before)


def test_merged_file_of_another_size_leaves_the_model_unmerged(file: Path) -> None:
    save(file, official(replknet(channels=(4, 8, 8, 12)).reparameterize().state_dict()))
    model = replknet()
    before = snapshot(model)
    with pytest.raises(WeightsError, match=r"\d+ mis-shaped keys \(.* for \[") as caught:
        load_checkpoint(model, file)
    assert "appears to be" not in str(caught.value)  # what differs is named, not two networks of the same name
    assert unchanged(model, before)


@pytest.mark.parametrize("form", ["train", "merged"])
def test_a_small_kernel_as_large_as_the_large_one(file: Path, form: str) -> None:
    trained = replknet(seed=3, kernel_sizes=(13, 11, 9, 5), small_kernel=5)
    names = [name for name in trained.state_dict() if name.endswith("small_conv.conv.weight")]
    assert len(names) == 4  # one for each block, in the last stage as well
    x = torch.randn(1, 3, 64, 64)
    expected = trained(x)
    if form == "merged":
        trained.reparameterize()
    save(file, official(trained.state_dict()))
    model = replknet(kernel_sizes=(13, 11, 9, 5), small_kernel=5)
    load_checkpoint(model, file)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_files_of_code_without_a_branch_as_large_as_the_kernel(file: Path) -> None:
    """SLaK's code adds the small branch to larger kernels only."""

    def net() -> nn.Module:
        return SLaK((9, 7, 7, 5), (1, 1, 1, 1), (4, 4, 8, 8), small_kernel=5, decomposed=False).eval()

    without = net()
    assert without.stages[3][0].large_kernel.has_equal_branches
    del without.stages[3][0].large_kernel.small_conv
    save(file, official(without.state_dict()))
    model = net()
    load_checkpoint(model, file)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), without(x))
    assert set(model.state_dict()) == set(without.state_dict())


def test_known_model_is_named_in_the_error(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = timm.create_model("replknet31l").state_dict()
    path = tmp_path / "l.pth"
    save(path, {name: torch.zeros(()).expand(tensor.shape) for name, tensor in official(state).items()})
    with torch.device("meta"):
        model = timm.create_model("replknet31b")
    with pytest.raises(WeightsError, match=r"appears to be RepLKNet-31L, train form: use the model replknet31l"):
        load_checkpoint(model, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights(file: Path, value: float) -> None:
    state = official(replknet(seed=1).state_dict())
    state["stages.0.blocks.0.large_kernel.lkb_origin.conv.weight"][0, 0, 0, 0] = value
    save(file, state)
    model = replknet()
    before = snapshot(model)
    with pytest.raises(WeightsError, match=r"NaN or infinite.*1 tensor \(stages\.0\.blocks\.0\.large_kernel\.lkb_or"):
        load_checkpoint(model, file)
    assert unchanged(model, before)
    assert inspect_checkpoint(file).not_finite == ("stages.0.blocks.0.large_kernel.lkb_origin.conv.weight",)


def test_quantized_weights(file: Path) -> None:
    state = {n: t.to(torch.int8) if "pw1.conv" in n else t for n, t in official(replknet().state_dict()).items()}
    save(file, state)
    with pytest.raises(WeightsError, match=r"quantized.*torch\.int8"):
        load_checkpoint(replknet(), file)


def test_layer_of_a_plain_network_is_not_taken_for_a_missing_head(file: Path) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    save(file, {name: tensor for name, tensor in build().state_dict().items() if name.startswith("0.")})
    with pytest.raises(WeightsError, match="missing keys"):
        load_checkpoint(build(), file)


def test_inspect(file: Path) -> None:
    save(file, {"model": mmpretrain(replknet(num_classes=21841).reparameterize().state_dict())})
    info = inspect_checkpoint(file)
    assert (info.naming, info.wrapper, info.num_classes) == ("mmpretrain", "model", 21841)
    assert (info.title, info.form) == ("a RepLKNet of width 4 with kernels 7-7-5-5", "merged")


KEY_FILES = {
    "RepLKNet-31B": "replknet31b",
    "RepLKNet-31L": "replknet31l",
    "RepLKNet-XL": "replknetxl",
    "RepLKNet-13": "replknet13",
    "RepLKNet-XL.downstream_norm_intermediate": "replknetxl",
    "SLaK-T": "slak_tiny",
    "SLaK-S": "slak_small",
    "SLaK-B": "slak_base",
    "UniRepLKNet-A": "unireplknet_a",
    "UniRepLKNet-T": "unireplknet_t",
    "UniRepLKNet-S": "unireplknet_s",
}


@pytest.mark.parametrize("title", KEY_FILES)
def test_published_key_lists(data_dir: Path, tmp_path: Path, title: str) -> None:
    path = data_dir.parent / "facts" / "keys" / f"{title}.json"
    if not path.is_file():
        pytest.skip(f"there is no list of published keys at {path.parent}")
    lists = json.loads(path.read_text())
    forms = {name: lists[name] for name in ("train", "merged", "state_dict") if name in lists} or {"downstream": lists}
    if "train" in forms:
        names = lists["official_to_mmpretrain"]
        forms["mmpretrain"] = {names[name]: shape for name, shape in forms["train"].items()}
    with torch.device("meta"):
        model = timm.create_model(KEY_FILES[title])  # planning copies it
    keys = set(model.state_dict())
    for form, shapes in forms.items():
        # Expanded from one number each, so that the file stays small.
        state = {
            name: torch.zeros((), dtype=torch.int64 if name.endswith("tracked") else torch.float16).expand(shape)
            for name, shape in shapes.items()
        }
        plan_only = _plan(model, state)
        assert plan_only.faults == 0, (form, plan_only)
        if form == "downstream":
            assert len(plan_only.dropped) == 20
            assert plan_only.head == "missing"
        else:
            assert plan_only.dropped == []
            assert plan_only.head == "loaded"
        if form != "merged" and form != "downstream":
            assert set(plan_only.state) == keys
    assert set(model.state_dict()) == keys


def _plan(model: nn.Module, state: State) -> Any:
    from replk_probe.models.checkpoints import load
    from replk_probe.models.checkpoints.detect import form_of
    from replk_probe.models.checkpoints.match import match

    renamed, origins, dropped, _ = load.to_own_names(state, model.state_dict())
    skeleton = load.meta_copy_of(model)
    load._restructure(skeleton, form_of(renamed), renamed)
    return match(skeleton, renamed, origins, dropped)


assert replk_probe.models  # Imported for what it registers.
