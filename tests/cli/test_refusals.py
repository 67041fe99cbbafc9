"""Wrong values of options are refused before stimuli, images or models are read, drawn or built."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import timm
from click.testing import Result

from replk_probe.models.weights import resolve

Run = Callable[..., Result]

_WRONG = [
    (("--weights", "/nowhere/net.pth"), "No weights '/nowhere/net.pth' for resnet18."),
    (("--weights", "slak_tiny.in1k"), "The weights slak_tiny.in1k do not match resnet18."),
    (("--model", "resnet1888"), "Unknown model 'resnet1888'."),
    (("--model", "replknet31b.in1k"), "Unknown model 'replknet31b.in1k'."),
    (("--model", "torchvision:resnet1888"), "Unknown model 'torchvision:resnet1888'."),
    (("--model", "nowhere.py:build"), "Unknown model 'nowhere.py:build'. There is no such file."),
]


@pytest.mark.parametrize("command", ["erf", "shape-bias", "kernels"])
@pytest.mark.parametrize(("options", "message"), _WRONG)
def test_before_any_slow_step(
    replk_probe: Run, monkeypatch: pytest.MonkeyPatch, command: str, options: tuple[str, ...], message: str
) -> None:
    def slow(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a slow step before the refusal")

    # Imported before the functions that they use are replaced.
    for module in ("replk_probe.erf.plan", "replk_probe.kernels.measure", "replk_probe.shape_bias.plan"):
        importlib.import_module(module)
    monkeypatch.setattr("replk_probe.shape_bias.stimulus_source.open_stimuli", slow)
    monkeypatch.setattr("replk_probe.images.sample_images", slow)
    monkeypatch.setattr(timm, "create_model", slow)
    monkeypatch.setattr(resolve, "fetch", slow)
    # The wrong value is that of the last model, or of all weights.
    done = replk_probe(command, "--model", "resnet18", *options)
    assert done.exit_code == 1, done.output
    assert message in done.stderr
