"""Networks that are loaded in part, and the norm that follows a convolution."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.models import create_model, weights_info
from replk_probe.models.factory import create_partly
from replk_probe.models.inference.norms import norms_behind

PLACE = "stages.3.blocks.0.large_kernel"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights under the authors' names in both serializations, and as safetensors."""
    folder = tmp_path_factory.mktemp("files")
    state = create_model("replknet_micro_k13", "random", seed=5).state_dict()
    official = {re.sub(r"(?<=large_kernel\.)large_conv", "lkb_origin", name): value for name, value in state.items()}
    found = {name: folder / name for name in ("zip.pth", "legacy.pth", "own.safetensors")}
    torch.save({"model": official}, found["zip.pth"])
    torch.save(official, found["legacy.pth"], _use_new_zipfile_serialization=False)
    save_file(state, found["own.safetensors"])
    return found


@pytest.mark.parametrize("kind", ["zip.pth", "legacy.pth", "own.safetensors"])
def test_only_what_is_needed_becomes_real(files: dict[str, Path], kind: str) -> None:
    whole = create_model("replknet_micro_k13", files[kind])
    part = create_partly("replknet_micro_k13", files[kind], lambda model: [PLACE])
    for name, value in part.state_dict().items():
        # torch itself makes the counter of a norm on the CPU, whatever the device.
        if not name.endswith("num_batches_tracked"):
            assert value.is_meta != name.startswith(f"{PLACE}."), name
    for name, value in part.get_submodule(PLACE).state_dict().items():
        assert torch.equal(value, whole.get_submodule(PLACE).state_dict()[name])
    assert not part.training
    assert weights_info(part) == weights_info(whole)


def test_what_is_not_needed_may_not_differ_either(files: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(files["legacy.pth"])
    del state["stages.0.blocks.0.pw1.conv.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"1 missing key \(stages.0.blocks.0.pw1.conv.weight\)"):
        create_partly("replknet_micro_k13", tmp_path / "short.pth", lambda model: [PLACE])


def test_what_is_needed_and_missing_is_named_first(files: dict[str, Path], tmp_path: Path) -> None:
    state = {name: value for name, value in torch.load(files["legacy.pth"]).items() if not name.startswith("stages.")}
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=rf"missing keys \({PLACE}.large_conv.conv.weight, "):
        create_partly("replknet_micro_k13", tmp_path / "short.pth", lambda model: [PLACE])


def test_unused_numbers_are_not_checked(files: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(files["legacy.pth"])
    state["head.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match="NaN"):
        create_model("replknet_micro_k13", tmp_path / "nan.pth")
    create_partly("replknet_micro_k13", tmp_path / "nan.pth", lambda model: [PLACE])
    with pytest.raises(WeightsError, match="NaN"):
        create_partly("replknet_micro_k13", tmp_path / "nan.pth", lambda model: ["head"])


def test_random_weights_are_those_of_the_whole_network() -> None:
    part = create_partly("replknet_micro_k13", "random", lambda model: [PLACE], seed=3)
    whole = create_model("replknet_micro_k13", "random", seed=3)
    assert all(map(torch.equal, part.state_dict().values(), whole.state_dict().values()))


def test_what_is_needed_is_asked_before_a_file_is_read(files: dict[str, Path]) -> None:
    def refuse(model: nn.Module) -> list[str]:
        raise InvalidInputError("no such layer")

    for weights in (files["zip.pth"], "random"):
        with pytest.raises(InvalidInputError, match="no such layer"):
            create_partly("replknet_micro_k13", weights, refuse)


class Written(nn.Module):
    """Norms are registered in another order than they are called in, and one is shared with another reader."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, groups=4)
        self.norm_b = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, groups=4)
        self.norm_a = nn.BatchNorm2d(4)
        self.third = nn.Conv2d(4, 4, 3, groups=4)
        self.norm_c = nn.BatchNorm2d(4)
        self.pair = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity(), nn.BatchNorm2d(4))
        self.blind = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm_b(self.second(self.norm_a(self.first(x))))
        y = self.third(x)
        return self.blind(self.pair(self.norm_c(y) + y))


class Untraceable(Written):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else x


class Blocks(nn.Module):
    """Cannot be traced as a whole; its blocks can."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Written()
        self.conv = nn.Conv2d(4, 4, 3, groups=4)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Conv2d(4, 4, 3)
        self.last = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.block(x)))
        return self.last(x) if x.sum() > 0 else x


PATHS = ("first", "second", "third", "pair.0", "blind.0")


def test_norms_are_found_by_the_calls() -> None:
    known = {"first": "norm_a", "second": "norm_b", "third": None, "pair.0": "pair.2", "blind.0": None}
    assert norms_behind(Written(), PATHS) == known
    assert norms_behind(Written(), ["second"]) == {"second": "norm_b"}
    assert norms_behind(nn.Conv2d(4, 4, 3), [""]) == {"": None}


def test_norms_of_a_network_that_cannot_be_traced_as_a_whole() -> None:
    assert norms_behind(Untraceable(), PATHS) == {"pair.0": "pair.2", "blind.0": None}
    paths = ["block.first", "block.pair.0", "conv", "unused", "last.0"]
    assert norms_behind(Blocks(), paths) == {"block.first": "block.norm_a", "block.pair.0": "block.pair.2"}
    with torch.device("meta"):
        maxvit = timm.create_model("maxvit_tiny_tf_224")  # pads by the size of its input
    path = "stages.0.blocks.0.conv"
    assert norms_behind(maxvit, [f"{path}.conv2_kxk"]) == {f"{path}.conv2_kxk": f"{path}.norm2"}


class Nested(nn.Module):
    """The norm is outside of the module that ends in the convolution, first in a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)))])
        self.rest = nn.Sequential(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.rest(x)


def test_norms_outside_of_the_module_around_a_convolution() -> None:
    assert norms_behind(Nested(), ["blocks.0.0.1", "rest.1"]) == {"blocks.0.0.1": "rest.0.0", "rest.1": None}


def test_norms_with_an_activation_of_their_own_and_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = timm.create_model("efficientnet_b0")
    assert norms_behind(model, ["blocks.0.0.conv_dw", "blocks.1.0.conv_dw"]) == {
        "blocks.0.0.conv_dw": "blocks.0.0.bn1",
        "blocks.1.0.conv_dw": "blocks.1.0.bn2",
    }
