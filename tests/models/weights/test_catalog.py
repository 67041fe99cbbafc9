"""The catalog, and finding the file for a user's request."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm

import replk_probe.models  # noqa: F401 (registers our models)
from replk_probe.errors import WeightsError
from replk_probe.models.model_id import ModelId
from replk_probe.models.weights import hub, resolve
from replk_probe.models.weights.catalog import (
    CATALOG,
    catalog_entries,
    default_entry,
    entries_with_digest,
    find_entry,
)
from replk_probe.models.weights.resolve import (
    ResolvedWeights,
    cached_path,
    digest_in_name,
    fetch_entry,
    weights_path,
)
from replk_probe.runtime import download as downloads


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def resolve_weights(model: str, weights: str | None, **options: Any) -> ResolvedWeights:
    """The weights for a model as a user names it."""
    return resolve.resolve_weights(ModelId.parse(model), weights, **options)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every download is only noted."""
    calls: list[tuple[Any, ...]] = []

    def fetch(source: str, dest: Path, sha256: str | None, *_: Any, **__: Any) -> Path:
        calls.append((source, dest, sha256))
        return put(dest)

    monkeypatch.setattr(resolve, "fetch", fetch)
    monkeypatch.setattr(resolve, "fetch_drive", fetch)
    return calls


# Those that are a part of the package are looked at in test_embedded.py.
PUBLISHED = {name: entry for name, entry in CATALOG.items() if not entry.embedded}


def test_every_entry_can_be_fetched_and_names_its_publisher() -> None:
    assert len(PUBLISHED) == 28
    for name, entry in PUBLISHED.items():
        assert name == entry.name
        assert name.startswith(f"{entry.model}.")
        assert timm.is_model(entry.model)
        assert entry.license.startswith(("MIT", "Apache-2.0"))
        assert "as published by" in entry.provenance
        assert (entry.drive_id is None) == (entry.hub_file is not None)
        assert entry.hub_file or (entry.url is None) == (entry.sha256 is None)
        if entry.url:
            assert entry.url.startswith("https://")
            assert digest_in_name(Path(entry.url)) == entry.sha256
        assert default_entry(entry.model) is not None
        assert catalog_entries(entry.model)[0] == default_entry(entry.model)


def test_catalog_equals_the_published_lists(data_dir: Path) -> None:
    path = data_dir.parent / "facts" / "models.json"
    if not path.is_file():
        pytest.skip(f"there is no list of published weights at {path}")
    facts = json.loads(path.read_text())["weights"]
    ids = {value for name, value in facts["google_drive"].items() if "OLD_WRONG_FILE" not in name}
    assert {entry.drive_id for entry in PUBLISHED.values() if entry.drive_id} == ids
    for published in facts["openmmlab"]:
        (entry,) = [entry for entry in CATALOG.values() if entry.url == published["url"]]
        assert entry.sha256 == published["sha256_prefix"]
        assert entry.drive_id == facts["google_drive"][published["converted_from"]]
        assert entry.top1 == pytest.approx(published["top1"], abs=0.25)
    assert sum(entry.url is not None for entry in CATALOG.values()) == len(facts["openmmlab"]) == 6


def test_catalog_of_unireplknet_equals_the_published_lists(data_dir: Path) -> None:
    path = data_dir.parent / "facts" / "FAMILIES.md"
    if not path.is_file():
        pytest.skip(f"there is no list of published weights at {path}")
    tags = {"": "in1k_224", "22k-1k 384": "in22k_ft_in1k_384", "22k": "in22k"}
    known = re.findall(r"^(a|f|p|s|b|l|xl) +([\d.]+|22k-1k 384|22k) +([0-9a-f]{64})$", path.read_text(), re.MULTILINE)
    assert len(known) == 9
    digests = {f"unireplknet_{size}.{tags.get(what, 'in1k_224')}": digest for size, what, digest in known}
    found = {name: entry for name, entry in PUBLISHED.items() if entry.hub_file}
    assert {name: entry.sha256 for name, entry in found.items() if entry.sha256} == digests
    text = path.read_text()
    for name, entry in found.items():
        assert entry.top1 is None or f"{entry.top1:.2f}" in text, name


def test_find_entry() -> None:
    assert find_entry("replknet31b").name == "replknet31b.in1k_224"
    assert find_entry("replknet31b.in22k").num_classes == 21841
    with pytest.raises(WeightsError, match=r"similar: .*replknet31b\.in1k_224"):
        find_entry("replknet31b.in1k224")
    assert [entry.name for entry in entries_with_digest("fd08e268" + "0" * 56)] == ["replknet31b.in1k_224"]


def test_random_needs_nothing() -> None:
    for weights in (None, "random"):
        assert resolve_weights("replknet31b", weights).info.is_random
    assert resolve_weights("package.module:factory", None).info.source == "user-module"
    assert resolve_weights("package.module:factory", "auto").info.source == "user-module"
    assert resolve_weights("package.module:factory", "random").info.is_random


@pytest.mark.parametrize("model", ["replknet31b", "slak_tiny", "torchvision:resnet101", "resnet10t", "replknet25"])
def test_offline(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", not_in_cache)
    resolved = resolve_weights(model, "auto")
    assert (resolved.info.source, resolved.path) == ("random-init", None)
    assert resolved.info.note is not None
    assert resolved.info.note.startswith("Using random weights: no pretrained weights available. ")
    assert "\n" not in resolved.info.note
    with pytest.raises(WeightsError):
        resolve_weights(model, "pretrained")


def not_in_cache(*_: Any, local_files_only: bool = False, **__: Any) -> str:
    assert local_files_only, "the network was tried without asking whether it is there"
    raise FileNotFoundError


def test_pretrained_from_openmmlab(fetched: list[tuple[Any, ...]]) -> None:
    resolved = resolve_weights("replknet31b", "pretrained")
    entry = CATALOG["replknet31b.in1k_224"]
    assert (resolved.info.source, resolved.data) == ("catalog:replknet31b.in1k_224", entry.data_config)
    assert fetched == [(entry.url, resolved.path, "fd08e268")]
    assert resolved.path == weights_path(entry)
    assert resolved.path is not None
    assert resolved.path.name.endswith("fd08e268.pth")


@pytest.mark.parametrize("name", ["replknet31b.in1k_120ep", "in1k_120ep"])
def test_catalog_name_with_or_without_the_model(fetched: list[tuple[Any, ...]], name: str) -> None:
    resolved = resolve_weights("replknet31b", name)
    assert resolved.info.source == "catalog:replknet31b.in1k_120ep"
    assert resolved.info.note is not None
    assert "Table 10" in resolved.info.note
    assert fetched[0][0] == CATALOG["replknet31b.in1k_120ep"].drive_id


def test_weights_of_another_model() -> None:
    with pytest.raises(WeightsError, match="They are for slak_tiny"):
        resolve_weights("replknet31b", "slak_tiny.in1k")


def test_cached_drive_file_needs_no_network() -> None:
    entry = CATALOG["slak_tiny.in1k"]
    assert cached_path(entry) is None
    path = put(weights_path(entry))
    assert cached_path(entry) == path
    assert resolve_weights("slak_tiny", "auto").path == path


def test_the_authors_copy_in_the_cache_is_used(fetched: list[tuple[Any, ...]]) -> None:
    entry = CATALOG["replknet31b.in1k_224"]
    path = fetch_entry(entry, host="drive")
    assert fetched == [(entry.drive_id, path, None)]
    assert fetch_entry(entry) == path
    assert len(fetched) == 1
    with pytest.raises(WeightsError, match="not on openmmlab"):
        fetch_entry(CATALOG["slak_tiny.in1k"], host="openmmlab")


@pytest.mark.parametrize("force", [False, True])
def test_damaged_drive_file_is_fetched_again(monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    def download(*, id: str, output: str, quiet: bool) -> str:
        Path(output).write_bytes(b"weights as published")
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    monkeypatch.setattr(downloads, "check_reachable", lambda *_: None)
    entry = CATALOG["slak_tiny.in1k"]
    if force:  # Put there by the user, with unknown contents.
        path = put(weights_path(entry), b"damaged")
        assert fetch_entry(entry).read_bytes() == b"damaged"
    else:
        path = fetch_entry(entry)
        path.write_bytes(b"damaged")
    assert fetch_entry(entry, force=force) == path
    assert path.read_bytes() == b"weights as published"
    path.write_bytes(b"damaged again")
    assert resolve_weights("slak_tiny", "auto").path == path
    assert path.read_bytes() == b"weights as published"


def test_damaged_copy_of_the_authors_is_not_used(fetched: list[tuple[Any, ...]]) -> None:
    entry = CATALOG["replknet31b.in1k_224"]
    copy = put(weights_path(entry, "drive"))
    copy.with_name(f"{copy.name}.sha256").write_text("0" * 64)
    assert fetch_entry(entry) == weights_path(entry)
    assert fetched == [(entry.url, weights_path(entry), entry.sha256)]


def test_path(tmp_path: Path) -> None:
    path = put(tmp_path / "my.pth")
    resolved = resolve_weights("resnet10t", str(path))
    assert (resolved.info.source, resolved.path) == ("file:my.pth", path)
    with pytest.raises(WeightsError, match="It is a folder"):
        resolve_weights("resnet10t", str(tmp_path))


@pytest.mark.parametrize(
    ("model", "weights", "close"),
    [
        ("replknet31b", "replknet31b.in1k_22", "replknet31b.in1k_224"),
        ("replknet31b", "pretrainde", "pretrained"),
        ("torchvision:resnet101", "IMAGENET1K_V3", "IMAGENET1K_V2"),
        ("resnet101", "tv_in1", "tv_in1k"),
        ("replknet31b", "missing.pth", "no such file"),
    ],
)
def test_unknown_name(model: str, weights: str, close: str) -> None:
    with pytest.raises(WeightsError, match=close):
        resolve_weights(model, weights)


def test_factories_have_no_pretrained_weights() -> None:
    with pytest.raises(WeightsError, match="user factory"):
        resolve_weights("package.module:factory", "pretrained")


@pytest.mark.parametrize(
    ("weights", "tag", "digest"),
    [("pretrained", "IMAGENET1K_V1", "63fe2227"), ("IMAGENET1K_V2", "IMAGENET1K_V2", "cd907fc2")],
)
def test_torchvision(
    fetched: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    weights: str,
    tag: str,
    digest: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    resolved = resolve_weights("torchvision:resnet101", weights)
    assert resolved.info.source == f"torchvision:ResNet101_Weights.{tag}"
    assert resolved.path == tmp_path / "hub" / "checkpoints" / f"resnet101-{digest}.pth"
    assert fetched[0][2] == digest


@pytest.mark.parametrize(
    ("model", "weights", "tag"),
    [
        ("resnet101", "pretrained", "a1h_in1k"),
        ("resnet101", "tv_in1k", "tv_in1k"),
        ("resnet101", "resnet101.tv_in1k", "tv_in1k"),
        ("resnet101.tv_in1k", "auto", "tv_in1k"),
    ],
)
def test_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, weights: str, tag: str) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str, **_: Any) -> str:
        asked.append((repository, file))
        return str(put(tmp_path / file))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    resolved = resolve_weights(model, weights)
    assert resolved.info.source == f"timm:resnet101.{tag}"
    assert asked == [(f"timm/resnet101.{tag}", "model.safetensors")]


def test_timm_by_force(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def download(repository: str, file: str, **how: Any) -> str:
        asked.append(how)
        return str(put(tmp_path / file))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "check_reachable", lambda *_: None)
    resolve_weights("resnet101", "pretrained", force=True)
    assert asked == [{"revision": None, "endpoint": "https://huggingface.co", "force_download": True}]


def test_timm_hub_failure_is_a_package_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise RuntimeError("404\nnot found")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "check_reachable", lambda *_: None)
    with pytest.raises(
        WeightsError, match=r"Cannot fetch timm/resnet10t\.\w+ from the Hugging Face hub\. 404 not found"
    ):
        resolve_weights("resnet10t", "pretrained")


@pytest.mark.parametrize(
    ("name", "digest"),
    [("resnet101-63fe2227.pth", "63fe2227"), ("weights.pth", None), ("x-20221118.pth", "20221118")],
)
def test_digest_in_name(name: str, digest: str | None) -> None:
    assert digest_in_name(Path(name)) == digest
