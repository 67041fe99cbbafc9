from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import replk_probe


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, replk_probe; print(*sorted({'torch', 'numpy', 'click', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", replk_probe.__all__)
def test_every_public_name_leads_somewhere(name: str) -> None:
    assert getattr(replk_probe, name) is not None
    assert name in dir(replk_probe)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'measure_erff'"):
        replk_probe.measure_erff  # noqa: B018 (reading it is the test)


def test_the_version_is_the_installed_one() -> None:
    assert importlib.metadata.version("replk-probe") == replk_probe.__version__
