"""`replk-probe models`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from replk_probe.cli.main import cli


def run(*args: str) -> str:
    result = CliRunner().invoke(cli, ["models", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_every_number() -> None:
    (row,) = json.loads(run("replknet31b", "--json"))
    assert row["name"] == "replknet31b" and row["family"] == "RepLKNet"
    assert row["kernel_sizes"] == [31, 29, 27, 13]
    assert (row["parameters"], row["parameters_merged"]) == (79_864_168, 79_527_272)
    assert (row["macs"], row["macs_unmerged"]) == (15_353_525_248, 15_431_298_048)
    assert row["input_size"] == [224, 224]
    assert "replknet31b.in1k_224" in row["weights"]


def test_table_of_a_pattern() -> None:
    lines = run("mobilenetv2_k13*").splitlines()
    assert lines[0].split() == ["name", "family", "kernels", "params", "merged", "MACs", "px", "weights"]
    assert [line.split()[0] for line in lines[1:]] == [
        f"mobilenetv2_k13{rest}" for rest in ("", "_noskip", "_rep", "_rep_noskip")
    ]
    assert "4.65M" in lines[1] and "0.67G" in lines[1]


def test_a_pattern_reaches_timm_and_may_be_a_part_of_a_name() -> None:
    assert [row["name"] for row in json.loads(run("resnet101", "--json"))] == ["resnet101"]
    assert "slak_tiny" in run("k_tin")


def test_many_models_are_listed_without_counting() -> None:
    rows = json.loads(run("*resnet*", "--json"))
    assert len(rows) > 40 and all(row["parameters"] is None for row in rows)


def test_nothing_matches() -> None:
    result = CliRunner().invoke(cli, ["models", "zzz"])
    assert result.exit_code == 1 and "No model matches 'zzz'" in result.output


def test_the_default_list_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from replk_probe.models import summary

    counted = []
    describe = summary.describe
    monkeypatch.setattr(
        summary, "describe", lambda name, count=True: counted.append(count) or describe(name, count=False)
    )
    assert len(run().splitlines()) == len(counted) + 1 > 40 and all(counted)
