"""`replk-probe weights list|fetch|verify`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.weights import catalog
from replk_probe.models.weights.resolve import weights_path
from replk_probe.runtime.atomic_files import sha256_of

Run = Callable[..., Result]


def small_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = RepLKNet((3, 3, 3, 3), (1, 1, 1, 1), (4, 4, 4, 4), small_kernel=None, num_classes=7)
    torch.save({"model": model.reparameterize().state_dict()}, path)
    return path


def test_list(replk_probe: Run) -> None:
    result = replk_probe("weights", "list")
    assert result.exit_code == 0
    assert len([line for line in result.stdout.splitlines() if line.split(".")[0] in ("replknet31b", "slak_tiny")]) == 7
    assert "fd08e268" in result.stdout
    assert "License: MIT" in result.stdout
    assert "require gdown: pip install gdown" in result.stdout
    assert max(map(len, replk_probe("weights", "list", "slak*").stdout.splitlines())) < 120


def test_list_json(replk_probe: Run) -> None:
    path = small_file(weights_path(catalog.CATALOG["slak_base.in1k"]))
    rows = json.loads(replk_probe("weights", "list", "slak*", "--json").stdout)
    assert [row["name"] for row in rows] == ["slak_tiny.in1k", "slak_small.in1k", "slak_base.in1k"]
    assert [row["cached"] for row in rows] == [None, None, str(path)]
    assert all(row["licence"] and row["provenance"] and row["host"] == "Google Drive" for row in rows)


def test_list_of_what_is_in_the_package(replk_probe: Run) -> None:
    listed = replk_probe("weights", "list", "replknet_micro*")
    assert listed.exit_code == 0
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("replknet_micro_k13.shape90 ")]
    assert "package" in line and "  yes  " in line and "accuracy on held-out congruent images" in line
    assert "Weights: embedded: small models trained on synthetic data" in listed.stdout
    (row,) = json.loads(replk_probe("weights", "list", "replknet_micro_k13.*", "--json").stdout)
    assert row["embedded"] is True and row["record"]["sha256"] == row["sha256"] and row["num_classes"] == 16
    fetched = replk_probe("weights", "fetch", "replknet_micro_k13")
    assert fetched.stdout == f"{row['cached']}\n"
    verified = replk_probe("weights", "verify", row["cached"])
    assert verified.exit_code == 0
    assert "replknet_micro_k13.shape90" in verified.stdout and "RepLKNet-micro-13" in verified.stdout


def test_list_without_a_match(replk_probe: Run) -> None:
    result = replk_probe("weights", "list", "nosuch*")
    assert result.exit_code == 1
    assert "No weights match" in result.stderr


def test_list_of_timm(replk_probe: Run) -> None:
    result = replk_probe("weights", "list", "swin_tiny*")
    assert result.exit_code == 0
    assert "swin_tiny_patch4_window7_224.ms_in1k" in result.stdout
    assert "timm hub" in result.stdout
    rows = json.loads(replk_probe("weights", "list", "swin_tiny*", "--json").stdout)
    assert all(row["licence"] and row["provenance"].startswith("as published by timm at https://") for row in rows)


def test_fetch_from_timm(replk_probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = small_file(tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(path))
    result = replk_probe("weights", "fetch", "resnet101.tv_in1k")
    assert result.stdout == f"{path}\n"
    assert "license: bsd-3-clause" in result.stderr


def test_fetch_prints_the_path_alone_on_stdout(replk_probe: Run) -> None:
    path = small_file(weights_path(catalog.CATALOG["slak_tiny.in1k"]))
    result = replk_probe("weights", "fetch", "slak_tiny")
    assert result.exit_code == 0
    assert result.stdout == f"{path}\n"
    assert "license: MIT" in result.stderr
    assert sha256_of(path) in result.stderr


def test_fetch_by_force(replk_probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    published = small_file(weights_path(catalog.CATALOG["slak_base.in1k"]))

    def download(*, id: str, output: str, quiet: bool) -> str:
        shutil.copyfile(published, output)
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    monkeypatch.setattr("replk_probe.runtime.download.check_reachable", lambda *_: None)
    damaged = weights_path(catalog.CATALOG["slak_tiny.in1k"])
    damaged.write_bytes(published.read_bytes()[:100])
    verified = replk_probe("weights", "verify", "slak_tiny.in1k")
    assert verified.exit_code == 1 and "weights fetch NAME --force" in verified.stderr
    result = replk_probe("weights", "fetch", "slak_tiny", "--force")
    assert (result.exit_code, result.stdout) == (0, f"{damaged}\n")
    assert damaged.read_bytes() == published.read_bytes()


@pytest.mark.parametrize("name", ["replknet31b.in1k_224", "torchvision:resnet18"])
def test_fetch_offline(replk_probe: Run, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = replk_probe("weights", "fetch", name)
    assert result.exit_code == 1
    assert "Cannot reach" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_fetch_unknown(replk_probe: Run) -> None:
    result = replk_probe("weights", "fetch", "replknet31b.in1k")
    assert result.exit_code == 1
    assert "(similar: " in result.stderr
    assert "replknet31b.in1k_224" in result.stderr


def test_verify(replk_probe: Run, tmp_path: Path) -> None:
    path = small_file(tmp_path / "my.pth")
    result = replk_probe("weights", "verify", path)
    assert result.exit_code == 0
    for fact in (sha256_of(path), "no entry has this digest", "a RepLKNet of width 4", "merged", "model"):
        assert fact in result.stdout
    facts = json.loads(replk_probe("weights", "verify", path, "--json").stdout)
    assert (facts["form"], facts["wrapper"], facts["num_classes"], facts["catalog"]) == ("merged", "model", 7, [])


def test_verify_knows_the_catalog(replk_probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path / "my.pth")
    entry = dataclasses.replace(catalog.CATALOG["slak_tiny.in1k"], sha256=sha256_of(path)[:8])
    monkeypatch.setattr(catalog, "_ENTRIES", (entry,))
    assert "slak_tiny.in1k" in replk_probe("weights", "verify", path).stdout


def test_verify_by_name(replk_probe: Run) -> None:
    result = replk_probe("weights", "verify", "slak_tiny.in1k")
    assert result.exit_code == 1
    assert "not in the cache" in result.stderr
    path = small_file(weights_path(catalog.CATALOG["slak_tiny.in1k"]))
    assert str(path) in replk_probe("weights", "verify", "slak_tiny.in1k").stdout


def test_verify_uses_the_given_name(replk_probe: Run, tmp_path: Path) -> None:
    result = replk_probe("weights", "verify", small_file(tmp_path / "replknet-fd08e268.pth"))
    assert result.exit_code == 1
    assert "does not match the digest in its name" in result.stderr


def test_verify_remembers_what_was_fetched(replk_probe: Run, tmp_path: Path) -> None:
    path = small_file(tmp_path / "mine.pth")
    note = path.with_name("mine.pth.sha256")
    note.write_text(f"{sha256_of(path)}  mine.pth\n")
    assert sha256_of(path) == json.loads(replk_probe("weights", "verify", path, "--json").stdout)["fetched_as"]
    note.write_text(f"{'0' * 64}  mine.pth\n")
    result = replk_probe("weights", "verify", path)
    assert result.exit_code == 1
    assert "has changed since it was fetched" in result.stderr


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_verify_refuses_what_no_model_can_use(replk_probe: Run, tmp_path: Path, option: list[str]) -> None:
    path = small_file(tmp_path / "mine.pth")
    content = torch.load(path, weights_only=True)
    name = next(name for name, value in content["model"].items() if value.is_floating_point())
    content["model"][name].view(-1)[0] = float("nan")
    torch.save(content, path)
    result = replk_probe("weights", "verify", path, *option)
    assert result.exit_code == 1
    assert sha256_of(path) in result.stdout
    assert f"NaN or infinite weights. 1 tensor ({name}) is not finite" in result.stderr


def test_verify_page(replk_probe: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<html>Sign in</html>")
    result = replk_probe("weights", "verify", path)
    assert result.exit_code == 1
    assert "an HTML page" in result.stderr


def test_verify_the_real_file(replk_probe: Run, data_dir: Path) -> None:
    path = data_dir / "weights" / "squeezenet1_0_imagenet.safetensors"
    facts = json.loads(replk_probe("weights", "verify", path, "--json").stdout)
    assert (facts["family"], facts["num_classes"]) == ("a SqueezeNet", 1000)
