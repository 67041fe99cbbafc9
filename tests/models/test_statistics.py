"""Mean and standard deviation of a network's images, from the configurations that networks carry."""

from __future__ import annotations

import types
from typing import Any

import pytest
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import DataConfig, data_config
from replk_probe.models.records import statistics_note


def network(**configs: Any) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    for name, config in configs.items():
        setattr(model, name, config)
    return model


HALVES = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 160, 192)}
EXPECTED = DataConfig((0.5,) * 3, (0.25,) * 3, (160, 192))


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ({"pretrained_cfg": HALVES}, EXPECTED),
        ({"default_cfg": HALVES}, EXPECTED),
        ({"default_cfg": types.SimpleNamespace(**HALVES)}, EXPECTED),
        ({"pretrained_cfg": {"url": ""}, "default_cfg": HALVES}, EXPECTED),
        ({"pretrained_cfg": HALVES, "default_cfg": {"mean": 0, "std": 1}}, EXPECTED),
        ({"pretrained_cfg": None, "default_cfg": HALVES}, EXPECTED),
        ({"pretrained_cfg": {"mean": 0.5, "std": [0.25]}}, DataConfig((0.5,) * 3, (0.25,) * 3)),
        ({"pretrained_cfg": {"mean": 0.5, "std": (0.25,) * 3}}, DataConfig((0.5,) * 3, (0.25,) * 3)),
        ({"default_cfg": {"mean": 0, "std": 1, "input_size": (1, 28, 28)}}, DataConfig((0.0,), (1.0,), (28, 28))),
        (
            {"default_cfg": {"mean": (0.0,) * 4, "std": 1, "input_size": (4, 8, 8)}},
            DataConfig((0.0,) * 4, (1.0,) * 4, (8, 8)),
        ),
    ],
)
def test_a_configuration_that_names_mean_and_std_is_used(configs: Any, expected: DataConfig) -> None:
    model = network(**configs)
    assert data_config(model) == expected
    assert statistics_note(model) is None


@pytest.mark.parametrize(
    "configs", [{}, {"pretrained_cfg": {"url": "x"}}, {"default_cfg": {"mean": 0.5}}, {"default_cfg": 3}]
)
def test_the_note_depends_on_what_was_found(configs: Any) -> None:
    model = network(**configs)
    assert data_config(model) == DataConfig()
    assert "normalization of Sequential is unknown" in str(statistics_note(model))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"mean": (0.5,) * 2, "std": 1}, r"mean and std is \(\(0\.5, 0\.5\), 1\), but one number or 3 are needed"),
        ({"mean": (0.5,) * 3, "std": (1.0,) * 4}, "mean and std"),
        ({"mean": "0.5", "std": "x"}, "std is 'x'"),
        ({"mean": {}, "std": 1}, "mean is {}"),
        ({"mean": (0.5, None, 1), "std": 1}, "mean is"),
        ({"mean": float("nan"), "std": 1}, "mean is nan"),
        ({"mean": 0.5, "std": 0}, "std is 0, but a standard deviation is positive"),
        ({"mean": 0.5, "std": 1, "input_size": 224}, "input_size is 224"),
        ({"mean": 0.5, "std": 1, "input_size": (3, 224)}, "input_size is"),
    ],
)
@pytest.mark.parametrize("name", ["pretrained_cfg", "default_cfg"])
def test_an_unusable_configuration_is_named(name: str, config: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"The configuration Sequential\.{name} cannot be used\..*{says}"):
        data_config(network(**{name: config}))
