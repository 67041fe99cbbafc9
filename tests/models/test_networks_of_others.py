"""Networks in the manner of published families, given by a file and a factory: measured, and merged if possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn

from replk_probe.erf import contribution_scores, measure_erf
from replk_probe.erf.preparation import prepare
from replk_probe.kernels import measure_kernels
from replk_probe.models import create_model

NETWORKS = Path(__file__).parent / "networks_of_others.py"
# Kernels that are shown, and convolutions before and after preparation.
FAMILIES = {
    "repvgg": ({"stem": (3, 3), "blocks.0": (3, 3), "blocks.1": (3, 3)}, (5, 3)),
    "overlock": ({"blocks.0": (13, 13), "blocks.1": (13, 13)}, (13, 3)),
    "repnext": ({"blocks.0": (7, 7), "blocks.1": (7, 7)}, (11, 3)),
    "moganet": (
        {f"blocks.{n}.{part}": size for n in (0, 1) for part, size in
         {"first": (5, 5), "middle": (5, 5), "last": (7, 7)}.items()},
        (9, 9),
    ),
    "van": (
        {f"blocks.{n}.{part}": size for n in (0, 1) for part, size in
         {"conv0": (5, 5), "conv_spatial": (7, 7)}.items()},
        (7, 7),
    ),
    "inceptionnext": (
        {"stem": (3, 3)} | {f"blocks.{n}.{part}": size for n in (0, 1) for part, size in
                            {"square": (3, 3), "row": (1, 11), "column": (11, 1)}.items()},
        (7, 7),
    ),
    "wtconvnext": ({f"blocks.{n}.{part}": (5, 5) for n in (0, 1) for part in ("base", "wavelets")}, (5, 5)),
}  # fmt: skip


def convolutions(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.Conv2d) for layer in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_in_a_file_is_measured_with_its_weights(family: str, tmp_path: Path) -> None:
    name = f"{NETWORKS}:{family}"
    sizes, (before, after) = FAMILIES[family]
    state = {f"module.{key}": value + 0.01 for key, value in create_model(name).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "trained.pth")
    model = create_model(name, str(tmp_path / "trained.pth"))

    result = measure_kernels(name, weights=str(tmp_path / "trained.pth"))
    assert {kernel.layer: kernel.kernel_size for kernel in result.kernels} == sizes
    assert result.run.weights.prefix == "module."

    prepared = prepare(model)
    assert (prepared.left_out, convolutions(model), convolutions(prepared.module)) == ("", before, after)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    erf = measure_erf(name, images, weights=str(tmp_path / "trained.pth"), layer="forward_features")
    plain = contribution_scores(model, images, "forward_features").double().mean(0)
    np.testing.assert_allclose(erf.contribution, plain.numpy(), rtol=1e-4, atol=1e-5 * float(plain.max()))


def test_the_commands_of_the_page(replk_probe: Callable[..., Result], tmp_path: Path) -> None:
    name = f"{NETWORKS}:repnext"
    torch.save(create_model(name).state_dict(), tmp_path / "trained.pth")
    merged = tmp_path / "merged.safetensors"
    done = replk_probe("reparam", str(tmp_path / "trained.pth"), "--model", name, "-o", str(merged))
    assert done.exit_code == 0, done.output
    assert "2 layers with 10 convolutions; the network's own methods merged 2 of these layers" in done.output
    out = tmp_path / "kernels"
    done = replk_probe("kernels", "--model", name, "--weights", str(merged), "--variant", "all", "-o", str(out))
    assert done.exit_code == 0, done.output
