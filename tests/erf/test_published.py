"""Published area ratios as named references, and the table that shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from replk_probe.erf import ErfResult, import_erf
from replk_probe.erf.published import REFERENCES, TABLE_10, check_references, published_rows
from replk_probe.errors import InvalidInputError
from replk_probe.report.erf_table import erf_table
from replk_probe.runtime.provenance import WeightsInfo

Run = Callable[..., Result]
ALL = check_references([*REFERENCES])
TRAINED = WeightsInfo("timm:resnet101.a1_in1k")


def result(model: str, weights: WeightsInfo, layer: str = "layer4", side: int = 224) -> ErfResult:
    scores = np.random.default_rng(0).random((side, side))
    one = import_erf(scores, model)
    run = dataclasses.replace(one.run, weights=weights, config={"convention": {"name": "openerf"}})
    return dataclasses.replace(one, run=run, layer=layer, notes=(), n_images=3, feature_size=(7, 7))


def test_references_are_chosen_by_name() -> None:
    assert [*map(id, ALL)] == [id(row) for rows in REFERENCES.values() for row in rows]
    assert [row.title for row in check_references(["published"])] == [row.title for row in ALL]
    assert (
        check_references(["replknet"]) == TABLE_10 and check_references(["openerf", "openerf"]) == REFERENCES["openerf"]
    )
    with pytest.raises(InvalidInputError, match="There are no published numbers called 'paper'"):
        check_references(["paper"])


def test_rows_belong_to_a_model_a_layer_and_a_protocol() -> None:
    assert {name: row.title for name, row in published_rows("resnet101.a1_in1k", "layer4", TRAINED, ALL).items()} == {
        "paper": "ResNet-101", "linear": "OpenERF 0.6.1", "pixels": "OpenERF 0.6.1",
    }  # fmt: skip
    for layer in ("layer1", "stage1", "layer1.2"):
        row = published_rows("torchvision:resnet50", layer, TRAINED, ALL, is_default_layer=False)["paper"]
        assert row.source == "MegEngine BaseCls" and list(row.ratios.values()) == [0.0007, 0.0012, 0.0018, 0.0147]
        # The sides that are published with the ratios.
        assert [round((side / 256) ** 2, 3) for side in (7, 9, 11, 31)] == [
            round(ratio, 3) for ratio in row.ratios.values()
        ]
    for layer in ("layer4", "layer1.0"):
        assert published_rows("resnet50", layer, TRAINED, ALL) == {}
    assert published_rows("resnet101.a1_in1k", "layer4", TRAINED, ALL, is_default_layer=False) == {}
    for name in ("audio.py:tf_sepnet_40", "models.audio:TFSepNet40", "TF-SepNet-40"):
        assert published_rows(name, "x", TRAINED, ALL)["paper"].ratios == {0.2: 0.139, 0.3: 0.225, 0.5: 0.438}
    assert published_rows("convnext_tiny", "x", TRAINED, ALL) == {}


def test_the_word_published_needs_the_same_weights() -> None:
    rows = check_references(["published"])
    for model, weights, expected in (
        ("resnet101", TRAINED, ["OpenERF 0.6.1"]),
        ("resnet101.a1_in1k", WeightsInfo("unknown"), ["OpenERF 0.6.1"]),
        ("resnet101", WeightsInfo("unknown"), []),
        ("resnet101", WeightsInfo("timm:resnet101.tv_in1k"), ["ResNet-101"]),
        ("resnet101", WeightsInfo("random-init", seed=0), []),
    ):
        found = published_rows(model, "layer4", weights, rows)
        assert sorted({row.title for row in found.values()}) == expected
    both = check_references(["published", "replknet"])
    assert [*published_rows("resnet101", "layer4", WeightsInfo("unknown"), both)] == ["paper"]


def test_the_table_shows_them_where_weights_agree() -> None:
    same = result("resnet101.a1_in1k", WeightsInfo("timm:resnet101.a1_in1k"))
    text = erf_table([same], REFERENCES["openerf"])
    lines = text.splitlines()
    for protocol, printed in (("linear", "9.5 %"), ("pixels", "8.5 %")):
        at = next(index for index, line in enumerate(lines) if line.startswith(protocol))
        assert lines[at + 1].startswith("  published") and lines[at + 1].split()[1:3] == printed.split()
    assert "measured with timm:resnet101.a1_in1k at 224x224 px.\n" in " ".join(text.split()) + "\n"
    assert text.count("OpenERF 0.6.1") == 1


@pytest.mark.parametrize(
    ("weights", "difference"),
    [
        (WeightsInfo("random-init", seed=0), "; these are RANDOM WEIGHTS (seed 0)"),
        (WeightsInfo("unknown"), "; these are unknown weights"),
        (WeightsInfo("timm:resnet101.tv_in1k"), "; these are other weights, timm:resnet101.tv_in1k"),
    ],
)
def test_what_differs_is_said(weights: WeightsInfo, difference: str) -> None:
    text = " ".join(erf_table([result("resnet101", weights, side=96)], REFERENCES["openerf"]).split())
    assert f"{difference}; this input is 96x96 px." in text
    usual = result("resnet101", weights)
    usual = dataclasses.replace(usual, run=dataclasses.replace(usual.run, config={}))
    text = " ".join(erf_table([usual], REFERENCES["openerf"]).split())
    assert f"{difference}; this map is defined otherwise (replknet convention)." in text


def test_other_protocols_appear_in_a_comparison() -> None:
    weights = WeightsInfo("timm:resnet101.a1_in1k")
    pair = [result("resnet101.a1_in1k", weights), result("other", weights)]
    assert "linear" not in erf_table(pair) and "  published" in erf_table(pair)
    text = erf_table(pair, ALL)
    assert "linear" in text and text.count("  published") == 3


def test_small_ratios_keep_their_digits() -> None:
    text = erf_table([result("resnet50", WeightsInfo("random-init"), "layer1")], REFERENCES["megengine"])
    assert "0.07 %" in text and "0.12 %" in text and "0.18 %" in text and "1.47 %" in text


def test_the_command(replk_probe: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "resnet152.npy", np.random.default_rng(0).random((16, 16)))
    run = ("erf", "--from", tmp_path / "resnet152.npy", "--output", tmp_path / "out")
    assert "published: ResNet-152" in replk_probe(*run).stdout
    assert "published" not in replk_probe(*run, "--compare", "openerf").stdout
    assert "published" not in replk_probe(*run, "--compare", "published").stdout
    assert "published: ResNet-152" in replk_probe(*run, "--compare", "published", "--compare", "replknet").stdout
    done = replk_probe(*run, "--compare", "table10")
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and "called 'table10'" in done.stderr
