"""`replk-probe shape-bias`: its files, its words, its errors."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias import CATEGORIES, Decisions, plot_stimuli
from replk_probe.shape_bias.model_vs_human.raw_data import write_decisions
from replk_probe.shape_bias.plot_stimuli import spread_over
from replk_probe.shape_bias.result import ShapeBiasResult

Run = Callable[..., Result]

FILES = {
    "shape_bias.json",
    "decisions.csv",
    "decisions.npz",
    "shape_bias.csv",
    "shape_bias.png",
    "shape_bias.pdf",
    "contact_sheet.png",
    "contact_sheet.pdf",
}

NETWORKS = '''
import torch
from torch import nn

class Red(nn.Module):
    """A classifier of red alone: output k is higher, the closer the mean red of the picture is to k sixteenths."""
    OUTPUTS = 16
    at = None
    calls = 0

    def __init__(self):
        super().__init__()
        self.color = nn.Parameter(torch.linspace(-2, 2, self.OUTPUTS))

    def forward(self, x):
        # Batches alone count, not the calls that look at the network.
        if torch.is_tensor(x) and x.shape[0] > 1:
            if Red.calls == Red.at:
                raise KeyboardInterrupt
            Red.calls += 1
        return -(x[:, 0].mean((1, 2))[:, None] - self.color).square()

class Wide(Red):
    OUTPUTS = 1000

class Odd(Red):
    OUTPUTS = 17

class Lost(Red):
    def forward(self, x):
        return super().forward(x) / 0 * 0

def red(): return Red()
def wide(): return Wide()
def odd(): return Odd()
def lost(): return Lost()
'''


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw one stimulus on each contact sheet, since 48 of them take as long as the rest of a command."""
    monkeypatch.setattr(plot_stimuli, "spread_over", lambda groups, count: spread_over(groups, 1))


@pytest.fixture
def networks(tmp_path: Path) -> str:
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return str(path)


@pytest.fixture
def stimuli(tmp_path: Path) -> Path:
    """Four stimuli of each category, every fourth without a conflict; red tells the texture."""
    folder = tmp_path / "stimuli"
    for index, shape in enumerate(CATEGORIES):
        for step in range(4):
            texture = (index + 5 * step) % 16
            pixels = np.full((40, 40, 3), 128, dtype=np.uint8)
            pixels[..., 0] = 8 + 16 * texture
            path = folder / shape / f"{shape}{step + 1}-{CATEGORIES[texture]}1.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def test_one_model(replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path) -> None:
    out = tmp_path / "out"
    done = replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == FILES
    record = json.loads((out / "shape_bias.json").read_text())
    assert record["schema_version"] == 1
    assert record["run"]["image_source"] == "folder:stimuli"
    numbers = record["shape_bias"]
    assert {
        "overall", "macro", "median", "ci95", "shape", "texture", "other", "n_conflict", "cue_accuracy",
        "congruent_accuracy", "by_category", "error_consistency",
    } <= set(numbers)  # fmt: skip
    assert numbers["n_conflict"] == 48
    assert numbers["shape"] + numbers["texture"] + numbers["other"] == 48
    assert numbers["texture"] > 0
    assert set(numbers["by_category"]["cat"]) == {"shape", "texture", "other", "bias"}
    assert "observers" not in record
    assert "published" not in done.stdout.partition("note:")[0]  # none of the stimuli is
    with (out / "decisions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["subj"] for row in rows} == {"red"}
    assert len(rows) == 64
    assert ShapeBiasResult.load(out).shape_bias == numbers["overall"]


def test_files_of_other_kinds_of_stimuli_are_removed(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    """Stimuli with a cue conflict have decisions, images with one cue each have scores."""
    single = tmp_path / "single"
    for cue in ("shapes", "textures"):
        for category in CATEGORIES[:2]:
            (single / cue / category).mkdir(parents=True)
            Image.new("RGB", (32, 32), (90, 90, 90)).save(single / cue / category / "1.png")
    (single / "set.toml").write_text(
        f'schema_version = 1\nname = "single"\ncues = ["shape", "texture"]\nlabels = {json.dumps(CATEGORIES)}\n'
        'layout = ["shapes/{shape}/{file}", "textures/{texture}/{file}"]\n'
    )
    out = tmp_path / "out"
    found = []
    for source in (stimuli, single, stimuli):
        models = ("--model", f"{networks}:red", "--model", f"{networks}:wide")
        done = replk_probe("shape-bias", *models, "--stimuli", source, "--output", out)
        assert done.exit_code == 0, done.output
        found.append({path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()})
    folders = {name.partition("/")[0] for name in found[1]}
    scores = {"shape_bias.json", *(f"cue_scores.{suffix}" for suffix in ("csv", "npz", "png", "pdf"))}
    assert len(folders) == 2 and found[1] == {f"{folder}/{name}" for folder in folders for name in scores}
    assert found[0] == found[2] and found[0].isdisjoint(found[1] - {f"{one}/shape_bias.json" for one in folders})


def test_its_decisions_are_imported_again_with_the_same_numbers(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", first)
    done = replk_probe("shape-bias", "--import", first, "--output", second)
    assert done.exit_code == 0, done.output
    measured = json.loads((first / "shape_bias.json").read_text())["shape_bias"]
    record = json.loads((second / "shape_bias.json").read_text())
    assert record["shape_bias"] is None
    assert record["run"]["model"] is None
    assert set(record["observers"]) == {"red"}
    for key in ("overall", "macro", "median", "ci95", "shape", "texture", "other", "by_category", "cue_accuracy"):
        assert record["observers"]["red"][key] == measured[key]
    assert {path.name for path in second.iterdir()} == {
        "shape_bias.json", "shape_bias.csv", "shape_bias.png", "shape_bias.pdf",
    }  # fmt: skip


def test_several_models_with_imported_observers(replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path) -> None:
    other = tmp_path / "other"
    replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", other)
    out = tmp_path / "out"
    shutil.copy(other / "decisions.csv", tmp_path / "raw.csv")
    raw = tmp_path / "raw"
    raw.mkdir()
    text = (tmp_path / "raw.csv").read_bytes().replace(b"red,1,", b"subject-01,1,")
    (raw / "people.csv").write_bytes(text)
    models = ("--model", f"{networks}:red", "--model", f"{networks}:wide")
    done = replk_probe("shape-bias", *models, "--stimuli", stimuli, "--import", raw, "--output", out)
    assert done.exit_code == 0, done.output
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert len(folders) == 2
    assert all({path.name for path in folder.iterdir()} == FILES for folder in folders)
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "comparison.png", "comparison.pdf", "comparison.csv", "comparison.json",
    }  # fmt: skip
    record = json.loads((folders[0] / "shape_bias.json").read_text())
    assert set(record["observers"]) == {"humans", "subject-01"}
    assert record["shape_bias"]["error_consistency"]["mean_human"] == 1.0  # its own decisions under another name
    assert set(record["shape_bias"]["error_consistency"]["by_observer"]) == {"subject-01", "wide"}
    assert "points of shape bias" in " ".join(done.stdout.split())
    compared = json.loads((out / "comparison.json").read_text())
    assert compared["schema_version"] == 1
    (pair,) = compared["pairs"]
    assert (pair["first"], pair["second"]) == ("red", "wide")
    assert set(pair) == {
        "first", "second", "difference", "ci95", "n_pairs", "first_only", "second_only", "p_value",
    }  # fmt: skip
    biases = [json.loads((folder / "shape_bias.json").read_text())["shape_bias"]["overall"] for folder in folders]
    assert pair["difference"] == pytest.approx(biases[0] - biases[1])
    # The folder of them all is no folder of raw data, those in it are.
    again = replk_probe("shape-bias", "--import", out, "--output", tmp_path / "again")
    assert again.exit_code == 1
    assert "folders of several models" in again.stderr and str(folders[1]) in again.stderr


def test_models_with_the_same_file_name_are_distinguished(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    other, out = tmp_path / "other.py", tmp_path / "out"
    shutil.copy(networks, other)
    names = [f"{networks}:red", f"{other}:red", f"{networks}:wide"]
    models = [word for name in names for word in ("--model", name)]
    done = replk_probe("shape-bias", *models, "--stimuli", stimuli, "--output", out)
    assert done.exit_code == 0, done.output
    records = {}
    for path in out.glob("*/shape_bias.json"):
        record = json.loads(path.read_text())
        records[record["run"]["model"]] = record["shape_bias"]
    assert {name: record["observer"] for name, record in records.items()} == {
        names[0]: "red", names[1]: "red", names[2]: "wide",
    }  # fmt: skip
    assert set(records[names[0]]["error_consistency"]["by_observer"]) == {names[1], "wide"}
    assert set(records[names[2]]["error_consistency"]["by_observer"]) == set(names[:2])
    pairs = json.loads((out / "comparison.json").read_text())["pairs"]
    apart = [*names[:2], "wide"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        (apart[0], apart[1]), (apart[0], apart[2]), (apart[1], apart[2]),
    ]  # fmt: skip
    with (out / "comparison.csv").open(newline="") as stream:
        assert list(dict.fromkeys(row["observer"] for row in csv.DictReader(stream))) == apart


@pytest.mark.parametrize("several", [False, True])
def test_stimuli_without_a_conflict_are_measured_all_the_same(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path, several: bool
) -> None:
    for path in stimuli.glob("*/*[234]-*.png"):
        path.unlink()
    out = tmp_path / "out"
    models = [word for name in ("red", "wide")[: 1 + several] for word in ("--model", f"{networks}:{name}")]
    done = replk_probe("shape-bias", *models, "--stimuli", stimuli, "--output", out)
    assert done.exit_code == 0, done.output
    assert "without a conflict" in done.stdout and "Differences" not in done.stdout
    assert not list(out.rglob("contact_sheet.png"))
    if several:
        assert json.loads((out / "comparison.json").read_text())["pairs"] == []


def test_the_table_is_printed_even_if_the_sheets_cannot_be_drawn(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise InvalidInputError("No paper left.")

    monkeypatch.setattr("replk_probe.shape_bias.plot_stimuli.save_contact_sheet", fails)
    run = ("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", tmp_path / "out")
    done = replk_probe(*run)
    assert done.exit_code == 1
    assert "cue accuracy" in done.stdout


def test_a_file_name_that_is_no_text_is_refused_before_the_run(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    path = next(stimuli.glob("cat/*.png"))
    try:
        shutil.copy(path, stimuli / "cat" / os.fsdecode(b"\xff\xfe_cat5-dog3.png"))
    except OSError:
        pytest.skip("this file system takes names of text alone")
    out = tmp_path / "out"
    done = replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", out)
    assert done.exit_code == 1
    assert "UTF-8" in done.stderr
    assert not out.exists()


def test_published_observers_are_shown_for_the_published_stimuli(
    replk_probe: Run, data_dir: Path, tmp_path: Path, networks: str
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(data_dir / "cue-conflict" / "bear", folder / "bear")
    run = ("shape-bias", "--model", f"{networks}:red", "--stimuli", folder, "--output", tmp_path / "out")
    done = replk_probe(*run)
    assert done.exit_code == 0, done.output
    assert "Humans (10), published" in done.stdout
    assert "Published observers decided on the 1200 published stimuli" in done.stdout
    # Rows are the shapes there are.
    assert "\nbear " in done.stdout and "\noven " not in done.stdout


def test_a_failed_run_leaves_no_state(replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path) -> None:
    run = ("shape-bias", "--model", f"{networks}:lost", "--stimuli", stimuli, "--output", tmp_path / "out")
    done = replk_probe(*run, "--batch-size", 8)
    assert done.exit_code == 1
    assert "not finite" in done.stderr and "or measure with precision" not in done.stderr
    assert not list(tmp_path.glob("out/**/*"))


def test_imported_decisions_between_other_categories_are_refused_before_the_run(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    first = tmp_path / "first"
    replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", first)
    out = tmp_path / "out"
    model = ("--model", f"{networks}:red", "--stimuli", "synthetic")
    done = replk_probe("shape-bias", *model, "--import", first, "--output", out)
    assert done.exit_code == 1
    assert "cannot be compared" in done.stderr
    assert not out.exists()


def test_an_interrupted_run_is_continued(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--batch-size", 8, "--workers", 0)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert replk_probe(*run, "--output", whole).exit_code == 0
    source = NETWORKS.replace("at = None", "at = 4")
    Path(networks).write_text(source)
    stopped = replk_probe(*run, "--output", out)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert not (out / "shape_bias.json").exists()
    Path(networks).write_text(NETWORKS)
    done = replk_probe(*run, "--output", out, "--resume")
    assert done.exit_code == 0, done.output
    assert (out / "decisions.csv").read_bytes() == (whole / "decisions.csv").read_bytes()
    assert (out / "decisions.npz").read_bytes() == (whole / "decisions.npz").read_bytes()
    again = replk_probe(*run, "--output", out, "--resume")
    assert "already measured" in again.stderr


def test_a_finished_run_with_other_input_options_is_not_replaced(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    run = ("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", tmp_path / "out")
    assert replk_probe(*run, "--bgr").exit_code == 0
    before = (tmp_path / "out" / "shape_bias.json").read_bytes()
    other = replk_probe(*run, "--resume")
    assert other.exit_code == 1 and "created with bgr true, but this run has bgr none" in other.stderr
    assert (tmp_path / "out" / "shape_bias.json").read_bytes() == before
    assert "already measured" in replk_probe(*run, "--bgr", "--resume").stderr
    assert replk_probe(*run).exit_code == 0 and "already measured" in replk_probe(*run, "--resume").stderr


def test_a_finished_run_keeps_imported_observers(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    run = ("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output")
    assert replk_probe(*run, tmp_path / "first").exit_code == 0
    out = tmp_path / "out"
    assert replk_probe(*run, out, "--import", tmp_path / "first").exit_code == 0
    refused = replk_probe(*run, out, "--resume")
    assert refused.exit_code == 1 and "Give --import with the folder first, or start again" in refused.stderr
    assert [one.source for one in ShapeBiasResult.load(out).observers] == ["import:first"]
    assert replk_probe(*run, out, "--resume", "--import", tmp_path / "first").exit_code == 0


def test_nothing_asked_for_offline(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a model, the small ones on drawn stimuli are announced with the command for an ImageNet model."""
    from replk_probe.cli import shape_bias

    chosen = shape_bias._without_model(("auto",), None, None)
    assert chosen == (("replknet_micro_k3.shape100", "replknet_micro_k3.shape50"), ("pretrained",), "synthetic")
    expected = capsys.readouterr().err
    assert "small models trained on synthetic data" in expected
    assert "For an ImageNet model: replk-probe shape-bias --model replknet31b\n" in expected


def test_small_models_are_measured_on_their_categories(replk_probe: Run, tmp_path: Path, stimuli: Path) -> None:
    run = ("shape-bias", "--model", "replknet_micro_k13", "--workers", 0, "--output", tmp_path / "out")
    refused = replk_probe(*run, "--stimuli", stimuli)
    assert refused.exit_code == 1
    assert "has none of the categories of these stimuli" in refused.stderr
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({category: [index] for index, category in enumerate(CATEGORIES)}))
    assert replk_probe(*run, "--stimuli", stimuli, "--mapping", labels).exit_code == 0


def test_nothing_asked_for_with_all_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from replk_probe.cli import shape_bias

    monkeypatch.setattr("replk_probe.models.weights.resolve.cached_path", lambda entry: tmp_path)
    monkeypatch.setattr("replk_probe.shape_bias.stimuli.cue_conflict.cached_cue_conflict", lambda: tmp_path)
    chosen = shape_bias._without_model(("auto",), None, None)
    assert chosen == (("replknet31b",), ("replknet31b.in1k_224",), "cue-conflict")
    assert "replknet31b.in1k_224 on cue-conflict, both from the cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--import", "nowhere"), "Cannot import nowhere"),
        (
            ("--stimuli", "nowhere"),
            "--stimuli was given without --model. The default models are measured on their own stimuli",
        ),
        (("--weights", "random"), "--weights was given without --model."),
        (("--mapping", "labels.json"), "--mapping was given without --model."),
        (("--model", "resnet18", "--stimuli", "synthetic", "--allow-partial"), "Leave --allow-partial out"),
        (("--model", "resnet18", "--stimuli", "nowhere", "--allow-partial"), "Leave --allow-partial out"),
        (("--allow-partial",), "Leave --allow-partial out"),
        (
            ("--model", "resnet18", "--weights", "random", "--stimuli", "synthetic"),
            "the 16 categories of the stimuli (",
        ),
        (("--model", "resnet18", "--weights", "random", "--stimuli", "nowhere"), "Cannot find stimuli at 'nowhere'"),
        (("--model", "resnet18", "--mapping", "nowhere.json"), "Cannot read the mapping nowhere.json"),
        (("--model", "resnet18", "--device", "abacus"), "abacus"),
        (("--model", "resnet18", "--weights", "random", "--stimuli", "synthetic"), "Give --mapping, with"),
        (("--model", "resnet18", "--weights", "random"), "cue-conflict"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    replk_probe: Run, arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = replk_probe("shape-bias", *arguments)
    assert done.exit_code == 1
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--stimuli", "synthetic"),
        ("--weights", "random"),
        ("--batch-size", "32"),
        ("--workers", "0"),
        ("--precision", "fp32"),
        ("--device", "cpu"),
        ("--seed", "0"),
        ("--ema", None),
        ("--entry", "teacher"),
        ("--prefix", "net."),
        ("--resume", None),
        ("--allow-partial", None),
    ],
)
def test_options_of_a_measurement_without_one(replk_probe: Run, tmp_path: Path, option: str, value: str | None) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_decisions(Decisions.from_names("net", ["cat1-dog1.png"], ["cat"]), raw / "net.csv")
    run = ("shape-bias", "--import", raw, "--output", out)
    done = replk_probe(*run, option, *([] if value is None else [value]))
    assert done.exit_code == 1
    assert f"{option} was given with --import but without --model" in done.stderr
    assert not out.exists()


def test_a_mapping_names_the_categories_of_imported_decisions(replk_probe: Run, tmp_path: Path) -> None:
    write_decisions(
        Decisions.from_names("net", ["disc1-dots1.png"], ["disc"], ("disc", "dots")), tmp_path / "raw" / "net.csv"
    )
    (tmp_path / "labels.json").write_text('{"disc": [0], "dots": [1]}')
    run = ("shape-bias", "--import", tmp_path / "raw", "--mapping", tmp_path / "labels.json")
    done = replk_probe(*run, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output


def test_a_folder_of_the_name_of_a_set_is_pointed_at(
    replk_probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cue-conflict").mkdir()
    done = replk_probe("shape-bias", "--model", "resnet18", "--stimuli", "cue-conflict")
    assert done.exit_code == 1
    assert "give ./cue-conflict" in done.stderr


def test_a_head_of_another_size_names_the_mapping(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    run = ("shape-bias", "--model", f"{networks}:odd", "--stimuli", stimuli, "--output", tmp_path / "out")
    done = replk_probe(*run)
    assert done.exit_code == 1
    assert "17 outputs" in done.stderr
    assert "Give --mapping, with" in done.stderr
    assert not (tmp_path / "out").exists()
    mapping = tmp_path / "labels.json"
    mapping.write_text(json.dumps({category: [index + 1] for index, category in enumerate(CATEGORIES)}))
    assert replk_probe(*run, "--mapping", mapping).exit_code == 0


def test_published_decisions_reproduce_the_published_table(replk_probe: Run, data_dir: Path, tmp_path: Path) -> None:
    done = replk_probe("shape-bias", "--import", data_dir / "raw-data" / "cue-conflict", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    observers = json.loads((tmp_path / "out" / "shape_bias.json").read_text())["observers"]
    assert len(observers) == 15
    humans = observers["humans"]
    assert (humans["shape"], humans["texture"], humans["other"], humans["na"]) == (9236, 398, 2366, 118)
    assert humans["error_consistency"]["mean_human"] == pytest.approx(0.331052, abs=5e-7)
    vgg = observers["vgg"]
    assert (vgg["shape"], vgg["texture"], vgg["other"]) == (130, 625, 445)
    assert vgg["overall"] == pytest.approx(130 / 755, abs=1e-12)
