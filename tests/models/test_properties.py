"""Properties of names and weights files: of models, of layers, of the tensors in a file."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ReplkProbeError, UnknownModelError, WeightsError
from replk_probe.models import create_model, load_checkpoint, resolve_layer

OWN_MODELS = timm.list_models(["replknet*", "slak*"])
# The names of the branches in the published files of SLaK, by generation, and of RepLKNet.
SPELLINGS = (
    ("lkb_origin", "LoRA1", "LoRA2"),
    ("lkb_origin", "Decom1", "Decom2"),
    ("large_conv", "column_conv", "row_conv"),
)
names = st.text(st.sampled_from("abkrnetRST0123456789._-:/@ \n\x1b\u202e"), max_size=24)


# -- names ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(names)
def test_a_name_that_is_no_model_is_one_of_our_errors(name: str) -> None:
    try:
        create_model(name)
    except ReplkProbeError:
        return
    assert timm.is_model(name.strip())


@settings(max_examples=25)
@given(st.sampled_from(OWN_MODELS), st.lists(st.sampled_from(["", "", "", "-", "_"]), min_size=40), st.booleans())
def test_the_spelling_of_a_paper_is_recognized(name: str, between: list[str], upper: bool) -> None:
    spelled = "".join(letter + mark for letter, mark in zip(name, between, strict=False))
    spelled = spelled.upper() if upper else spelled
    if timm.is_model(spelled):
        return
    with pytest.raises(UnknownModelError, match=rf"\b{re.escape(name)}\b"):
        create_model(spelled)


@given(st.sampled_from(["", "timm:"]), st.sampled_from(["", " ", "\n"]), st.sampled_from(["", "\t"]))
def test_prefix_and_spaces_do_not_matter(prefix: str, before: str, after: str) -> None:
    model = create_model(f"{before}{prefix}replknet_micro_k3{after}", "random")
    assert type(model) is type(create_model("replknet_micro_k3", "random"))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return create_model("replknet_micro_k13_rep", "random")


@given(st.integers(0, 9), st.integers(0, 9))
def test_a_stage_and_a_block_are_there_or_an_error(network: nn.Module, stage: int, block: int) -> None:
    spec = f"stage{stage}.{block}"
    if 1 <= stage <= 4 and block == 0:
        assert resolve_layer(network, spec).module is network.get_submodule(resolve_layer(network, spec).path)
    else:
        with pytest.raises(InvalidInputError, match=f"Layer '{spec}' does not exist"):
            resolve_layer(network, spec)


@settings(max_examples=50)
@given(st.one_of(names, st.from_regex(r"stage\d+(\.\d+)?", fullmatch=True)))
def test_any_text_is_a_layer_or_an_error(network: nn.Module, spec: str) -> None:
    try:
        layer = resolve_layer(network, spec)
    except InvalidInputError:
        return
    assert network.get_submodule(layer.path) is layer.module


# -- weights files ----------------------------------------------------------------------------------------------------


State = dict[str, Tensor]


def slak(seed: int) -> nn.Module:
    sizes = {"kernel_sizes": (9, 7, 7, 5), "depths": (1, 1, 1, 1), "dims": (4, 4, 8, 8), "small_kernel": 3}
    return create_model("slak_tiny", "random", seed=seed, num_classes=10, **sizes)


@pytest.fixture(scope="module")
def trained() -> State:
    return slak(seed=1).state_dict()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path to write to, anew for every example."""
    return tmp_path_factory.mktemp("weights") / "weights.pth"


def same(a: State, b: State) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@settings(max_examples=25)
@given(
    spelling=st.sampled_from(SPELLINGS),
    prefixes=st.lists(st.sampled_from(["module.", "_orig_mod.", "model."]), max_size=3),
    wrappers=st.lists(st.sampled_from(["model", "state_dict", "module", "net"]), max_size=2),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_file_loads_whatever_its_names_prefixes_wrappers_and_order(
    trained: State, file: Path, spelling: Any, prefixes: list[str], wrappers: list[str], seed: int
) -> None:
    branches = dict(zip(SPELLINGS[-1], spelling, strict=True))
    renamed = {
        "".join(prefixes) + ".".join(branches.get(part, part) for part in name.split(".")): tensor
        for name, tensor in trained.items()
    }
    content: dict[str, Any] = dict(random.Random(seed).sample(list(renamed.items()), len(renamed)))
    for wrapper in reversed(wrappers):
        content = {"epoch": 3, wrapper: content}
    torch.save(content, file)
    model = slak(seed=2)
    report = load_checkpoint(model, file)
    assert same(model.state_dict(), trained)
    assert (report.missing, report.dropped) == ((), ())


@settings(max_examples=25)
@given(data=st.data(), fault=st.sampled_from(["missing", "misshaped", "renamed", "additional"]))
def test_one_tensor_that_does_not_fit_is_named_and_nothing_is_loaded(
    trained: State, file: Path, data: st.DataObject, fault: str
) -> None:
    # A file may lack the classifier, the norm before it, and counters of batches.
    body = [name for name in trained if not name.startswith(("head.", "norm.")) and "num_batches" not in name]
    name = data.draw(st.sampled_from(body))
    content = dict(trained)
    if fault == "additional":
        content[f"{name}_copy"] = trained[name]
    else:
        tensor = content.pop(name)
        if fault == "misshaped":
            content[name] = tensor[None]
        elif fault == "renamed":
            content[f"{name}_copy"] = tensor
    torch.save(content, file)
    model = slak(seed=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=re.escape(name)):
        load_checkpoint(model, file)
    assert same(model.state_dict(), before)
