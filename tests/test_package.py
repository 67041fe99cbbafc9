from __future__ import annotations

import importlib
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


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".attribution",
        ".bench",
        ".comparison",
        ".erf",
        ".html_report",
        ".images",
        ".kernels",
        ".models",
        ".ops",
        ".reliance",
        ".shape_bias",
        ".sweeps",
    ],
)
def test_every_public_name_can_be_imported(name: str) -> None:
    package = importlib.import_module(f"replk_probe{name}")
    for public in package.__all__:
        assert getattr(package, public) is not None
    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match=f"module 'replk_probe{name}' has no attribute 'measure_erff'"):
        package.measure_erff  # noqa: B018 (reading it is the test)


def test_the_public_errors_are_classes() -> None:
    errors = replk_probe.errors
    own = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert set(errors.__all__) == {name for name in own if name.endswith("Error")}


def test_the_gradient_of_a_convolution_has_a_name_of_its_own() -> None:
    assert replk_probe.input_gradient is replk_probe.erf.input_gradient
    assert not hasattr(replk_probe.ops, "input_gradient") and callable(replk_probe.ops.conv_input_gradient)


def test_the_version_is_the_installed_one() -> None:
    assert importlib.metadata.version("replk-probe") == replk_probe.__version__


def test_the_architectures_are_classes() -> None:
    for name in ("LargeKernelConvNeXt", "LargeKernelMobileNetV2", "RepLKNet", "SLaK", "UniRepLKNet"):
        assert isinstance(getattr(replk_probe.models, name), type)
