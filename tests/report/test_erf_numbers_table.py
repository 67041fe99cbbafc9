from __future__ import annotations

import numpy as np
import pytest

from replk_probe.erf.jackknife import Blocks
from replk_probe.erf.map_statistics import erf_numbers, statistics_of
from replk_probe.erf.result import ErfResult
from replk_probe.errors import InvalidInputError
from replk_probe.report.erf_numbers_table import erf_numbers_table, parse_numbers
from replk_probe.report.text import Layout
from replk_probe.runtime.provenance import RunInfo, WeightsInfo

THRESHOLDS = (0.2, 0.5)


def make(**changes) -> ErfResult:
    y, x = np.indices((32, 40))
    shape = np.exp(-((y - 15) ** 2) / 18 - (x - 22) ** 2 / 50)
    maps = shape * np.random.default_rng(0).uniform(0.9, 1.1, (4, 32, 40))
    weights = WeightsInfo("random-init", seed=0)
    run = RunInfo("net", weights, "folder:val", ("a",), (32, 40), (0.5,) * 3, (0.5,) * 3, 0, "cpu", "fp32", "aten", 1.0)
    fields = dict(
        contribution=maps.mean(axis=0), run=run, n_images=4, n_skipped=0, input_size=(32, 40), layer="layer4",
        feature_size=(4, 5), center=(16.0, 20.0), center_source="receptive field", theoretical_rf=None, ratios=(),
        numbers=statistics_of(Blocks(maps, [1] * 4), THRESHOLDS, (16.0, 20.0)).numbers(),
    )  # fmt: skip
    return ErfResult(**{**fields, **changes})


def test_every_number_has_a_line_with_its_interval_and_unit() -> None:
    result = make()
    lines = erf_numbers_table([result], ["all"]).splitlines()
    assert lines[0].split() == ["number", "value", "95", "%", "unit"]
    assert len(lines) == 1 + 2 + 19 and max(map(len, lines)) <= 80
    low, high = result.numbers.effective_area_ci95
    (line,) = [line for line in lines if line.startswith("effective area")]
    value, low, high = (f"{100 * number:#.4g}" for number in (result.numbers.effective_area, low, high))
    assert line.split()[2:] == [value, low, "to", high, "%"]
    assert lines[1].startswith("radius, 20 %") and lines[1].endswith("px")


@pytest.mark.parametrize(
    ("names", "starts"),
    [
        ("threshold_radii", ["radius, 20 %", "radius, 50 %"]),
        ("peak, border_share", ["peak, y", "peak, x", "share of the border ring"]),
        ("gaussian_sigma,gaussian_angle", ["Gaussian, sigma y", "Gaussian, sigma x", "Gaussian, angle"]),
        ("standard_deviation", ["standard deviation, y", "standard deviation, x", "standard deviations, y / x"]),
        ("center_offset_x", ["offset from the center, x"]),
    ],
)
def test_numbers_are_chosen_by_name(names: str, starts: list[str]) -> None:
    lines = erf_numbers_table([make()], parse_numbers(names)).splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == starts


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'width' is unknown.*all, threshold_radii, center_of_mass"):
        parse_numbers("peak,width")


def test_several_models_and_undefined_numbers() -> None:
    uniform = make(numbers=erf_numbers(np.ones((32, 40)), THRESHOLDS))
    text = erf_numbers_table([make(), uniform, make(numbers=None)], ("gaussian_angle",), Layout(60))
    lines = text.splitlines()
    assert [line for line in lines if line == "net"] == ["net"] * 3
    assert lines[4].split() == lines[6].split() == ["Gaussian,", "angle", "-", "-", "degrees"]
