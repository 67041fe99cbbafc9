"""Messages of the library name the options of the command that shows them."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
from click.testing import Result

from replk_probe.cli._output import with_options

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("shape_bias", "Leave allow_partial out.", "Leave --allow-partial out."),
        ("reliance", "Give data, a folder.", "Give --data, a folder."),
        ("erf", "Set data to a folder, or omit it.", "Set --data to a folder, or omit it."),
        (
            "erf",
            "Give until, such as 0.02, or omit until_ratios.",
            "Give --until, such as 0.02, or omit --until-ratios.",
        ),
        ("erf", "Give images 50, or start again without resume.", "Give --images 50, or start again without --resume."),
        ("behaviour", "Give sets 'edge, contrast', or omit it.", "Give --sets 'edge, contrast', or omit it."),
        ("reliance", "Give the same suppressions, or omit it.", "Give the same --suppressions, or omit it."),
        ("erf", "Give images that can be read.", "Give images that can be read."),
        ("erf", "Give allow_partial, an option of others.", "Give allow_partial, an option of others."),
    ],
)
def test_parameters_in_advice_are_options(command: str, text: str, expected: str) -> None:
    assert with_options(text, importlib.import_module(f"replk_probe.cli.{command}").command) == expected


def test_only_options_of_the_command_are_advised(replk_probe: Run) -> None:
    models = ("--model", "replknet_micro_k3", "--model", "replknet_micro_k3")
    result = replk_probe("reliance", *models)
    assert result.exit_code == 1 and result.stderr.endswith(
        "Measure one of them in a separate run with another --output.\n"
    )


def test_an_error_names_the_option(replk_probe: Run) -> None:
    result = replk_probe("reliance", "--model", "test_resnet", "--weights", "random")
    assert result.exit_code == 1 and "Give --data, a folder of images" in result.stderr
