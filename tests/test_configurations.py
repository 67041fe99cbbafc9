"""The options of the five measurements: as keywords or as a configuration, with one set of defaults."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pydoc
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import pytest
import torch
from torch import nn

import replk_probe
from replk_probe.attribution import AttributionConfig
from replk_probe.behaviour import BehaviourConfig
from replk_probe.cli import attribute as attribute_command
from replk_probe.cli import behaviour as behaviour_command
from replk_probe.cli import erf as erf_command
from replk_probe.cli import kernels as kernels_command
from replk_probe.cli import reliance as reliance_command
from replk_probe.cli import shape_bias as shape_bias_command
from replk_probe.erf import ErfConfig
from replk_probe.erf.config import default_size
from replk_probe.errors import BackendError, InvalidInputError, WeightsError
from replk_probe.kernels import KernelsConfig
from replk_probe.reliance import RelianceConfig
from replk_probe.shape_bias import ShapeBiasConfig


@functools.wraps(replk_probe.measure_attribution)
def measure_images(model: nn.Module | str, **options: Any) -> Any:
    """An attribution, which needs images."""
    return replk_probe.measure_attribution(model, torch.zeros(1, 3, 8, 8), **options)


MEASUREMENTS: list[tuple[type, Callable[..., Any], click.Command]] = [
    (ErfConfig, replk_probe.measure_erf, erf_command.command),
    (KernelsConfig, replk_probe.measure_kernels, kernels_command.command),
    (ShapeBiasConfig, replk_probe.measure_shape_bias, shape_bias_command.command),
    (BehaviourConfig, replk_probe.measure_behaviour, behaviour_command.command),
    (AttributionConfig, measure_images, attribute_command.command),
    (RelianceConfig, replk_probe.measure_reliance, reliance_command.command),
]
CONFIGS = [kind for kind, _, _ in MEASUREMENTS]
# The size is left to the model in the command; names of several models and layers are plural there.
RENAMED = {"models": None, "size": None, "layers": "layer", "mapping": None}


@pytest.mark.parametrize(("kind", "measure", "command"), MEASUREMENTS)
def test_defaults_agree(kind: type, measure: Callable[..., Any], command: click.Command) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    parameters = inspect.signature(measure).parameters
    assert defaults == {name: parameters[name].default for name in defaults}
    normalized = kind()
    compared = set()
    for option, given in command.make_context("command", []).params.items():
        name = RENAMED.get(option, option)
        if name in defaults:
            # Several models have several weights, and several layers may be measured.
            given = given[0] if isinstance(given, tuple) else given
            given = tuple(map(float, given.split(","))) if name == "thresholds" else given
            given = tuple(given.split(",")) if name == "until_ratios" else given
            assert given == getattr(normalized, name), name
            compared.add(name)
    assert {"weights", "ema", "seed"} <= compared and len(compared) >= 6
    assert default_size(["resnet18"]) == ErfConfig.size


@pytest.mark.parametrize(("kind", "measure", "_command"), MEASUREMENTS)
def test_options_are_given_in_one_way_only(kind: type, measure: Callable[..., Any], _command: object) -> None:
    says = r"Got a config and also seed, name\. .*Pass config=dataclasses\.replace\(config, seed=\.\.\.\) instead\."
    with pytest.raises(InvalidInputError, match=says):
        measure("resnet18", config=kind(), seed=np.int64(1), name="mine")
    for wrong in ({"seed": 1}, kind, *(other() for other in CONFIGS if other is not kind)):
        with pytest.raises(
            InvalidInputError, match=f"Expected config to be an instance of {kind.__name__}, but got an"
        ):
            measure("resnet18", config=wrong)
    # The value of the default is no exception.
    with pytest.raises(InvalidInputError, match=r"Got a config and also (seed, ema|ema, seed)"):
        measure("resnet18", config=kind(), ema=kind.ema, seed=kind.seed)
    with pytest.raises(WeightsError, match=r"none\.pth"):
        measure("resnet18", config=kind(weights="none.pth"))


@pytest.mark.parametrize(("kind", "measure", "_command"), MEASUREMENTS)
def test_signatures_are_readable(kind: type, measure: Callable[..., Any], _command: object) -> None:
    text = str(inspect.signature(measure))
    assert "seed: 'int' = 0" in text and "args" not in text.replace("kwargs", "")
    assert measure.__name__ in pydoc.render_doc(measure)
    # Options and fields have the same order, and the documentation names the first and the last one.
    names = [field.name for field in dataclasses.fields(kind)]
    options = [name for name in inspect.signature(measure).parameters if name in names]
    assert f"The options from ``{options[0]}`` to ``{options[-1]}``" in str(measure.__doc__)


def test_a_module_with_its_own_equality_is_no_default() -> None:
    class Equal(nn.Conv2d):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = nn.Module.__hash__

    with pytest.raises(InvalidInputError, match="also layer"):
        replk_probe.measure_kernels("resnet18", Equal(3, 3, 3), config=KernelsConfig())


def test_a_measurement_takes_its_configuration() -> None:
    model = replk_probe.create_model("test_resnet")
    result = replk_probe.measure_kernels(
        model, config=KernelsConfig(layer="conv1.0", aggregate="mean", strongest=1, name="mine")
    )
    assert (result.run.model, result.run.aggregate, len(result.kernels[0].strongest)) == ("mine", "mean", 1)
    same = replk_probe.measure_kernels(model, "conv1.0", aggregate="mean", strongest=1, name="mine")
    assert same.kernels == result.kernels


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations_are_frozen_keywords(kind: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind("x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().seed = 1


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ema": 1}, InvalidInputError, "The option ema cannot be 1. It must be a bool"),
        ({"ema": "yes"}, InvalidInputError, "ema cannot be 'yes'"),
        ({"ema": None}, InvalidInputError, "ema cannot be None"),
        ({"seed": True}, InvalidInputError, "63 bits"),
        ({"seed": 2**63}, InvalidInputError, "63 bits"),
        ({"name": 3}, InvalidInputError, "3"),
        ({"weights": 3}, WeightsError, "as a name or a path, but got 3"),
        ({"weights": b"random"}, WeightsError, "as a name or a path"),
    ],
)
def test_every_configuration_checks_itself(kind: type, options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        kind(**options)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (ErfConfig, {"layer": ""}, "Expected a layer name or a module of the model, got ''"),
        (ErfConfig, {"layer": 5}, "got 5"),
        (ErfConfig, {"layer": ["stage1"]}, "got \\['stage1'\\]"),
        (ErfConfig, {"images": True}, "number of images cannot be True"),
        (ErfConfig, {"batch_size": 1.0}, "batch size cannot be 1.0. It must be an integer. Use 1 or more"),
        (ErfConfig, {"batch_size": 0}, "batch size cannot be 0. It must be at least 1. Use 1 or more"),
        (ErfConfig, {"device": None}, "Unknown device None. A device is a name or a torch.device."),
        (ErfConfig, {"precision": ["fp32"]}, "Unknown precision"),
        (KernelsConfig, {"aggregate": np.array(["sum", "mean"])}, "Unknown aggregate"),
        (KernelsConfig, {"variant": None}, "Unknown variant None"),
        (KernelsConfig, {"strongest": True}, "strongest channels cannot be True"),
        (ShapeBiasConfig, {"allow_partial": 1}, "allow_partial cannot be 1"),
        (ShapeBiasConfig, {"num_classes": 0}, "number of classes cannot be 0"),
        (ShapeBiasConfig, {"num_classes": "16"}, "number of classes cannot be '16'"),
        (ShapeBiasConfig, {"workers": -1}, "number of workers cannot be -1"),
        (ShapeBiasConfig, {"size": 0}, "The smallest side is 1 px"),
    ],
)
def test_values_that_cannot_be_used(kind: type, options: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        kind(**options)


def test_values_get_their_declared_types(tmp_path: Any) -> None:
    four = np.int64(4)
    erf = ErfConfig(
        images=four, size=(four, 5), batch_size=four, seed=four, weights=tmp_path, thresholds=np.array([0.5])
    )
    assert erf == ErfConfig(images=4, size=(4, 5), batch_size=4, seed=4, weights=str(tmp_path), thresholds=(0.5,))
    kernels = KernelsConfig(strongest=four, seed=four, layer=["stage1", "stage2"], weights=tmp_path)
    assert kernels == KernelsConfig(strongest=4, seed=4, layer=("stage1", "stage2"), weights=str(tmp_path))
    shape = ShapeBiasConfig(
        batch_size=four, workers=four, size=four, num_classes=four, seed=four, mapping={"a": [four], "b": [0]}
    )
    assert shape.mapping is not None and shape.mapping.indices == ((4,), (0,))
    for config in (erf, kernels, shape):
        for field in dataclasses.fields(config):
            assert not isinstance(getattr(config, field.name), (np.generic, np.ndarray, list)), field.name


def test_a_device_that_is_none_of_torchs_is_refused() -> None:
    for kind in (ErfConfig, ShapeBiasConfig):
        with pytest.raises((InvalidInputError, BackendError)):
            kind(device=torch.device("meta"))
