from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from replk_probe.errors import InvalidInputError
from replk_probe.sweeps.analyzers import ANALYZERS
from replk_probe.sweeps.document import EXAMPLE, read_document
from replk_probe.sweeps.job import Job
from replk_probe.sweeps.plan import plan_jobs

UNPUBLISHED = "resnet200"
SMALL = {"models": ["resnet18"], "weights": "random", "kernels": {}}


def jobs(**values: Any) -> list[Job]:
    return plan_jobs(read_document({**SMALL, **values}))


def keys(found: Sequence[Job]) -> list[str]:
    return [job.key for job in found]


def test_jobs_are_in_the_order_of_the_file() -> None:
    found = jobs(models=["resnet34", "resnet18"], erf={"images": 1, "matrix": {"size": [64, 96], "seed": [0, 1]}})
    assert [job.label for job in found] == [
        "kernels/resnet34",
        "kernels/resnet18",
        *(
            f"erf/{model} size={size} seed={seed}"
            for model in ("resnet34", "resnet18")
            for size in (64, 96)
            for seed in (0, 1)
        ),
    ]


def test_a_shared_matrix_applies_to_the_analyzers_that_have_the_option() -> None:
    found = jobs(matrix={"size": [64, 96]}, erf={"images": 1})
    assert [job.label for job in found] == ["kernels/resnet18", "erf/resnet18 size=64", "erf/resnet18 size=96"]


def test_options_of_a_model_take_precedence() -> None:
    entry = {"model": "resnet34", "size": 48, "name": "mine"}
    found = jobs(models=["resnet18", entry], matrix={"size": [64, 96]}, erf={"images": 1})
    assert [job.label for job in found] == [
        "kernels/resnet18",
        "kernels/mine",
        "erf/resnet18 size=64",
        "erf/resnet18 size=96",
        "erf/mine size=48",
    ]


def test_patterns_are_expanded() -> None:
    assert [job.name for job in jobs(models=["resnet1[08]t", "resnet18"])] == ["resnet10t", "resnet18"]
    names = [job.name for job in jobs(models=["convnext_tiny*.fb_in1k"], weights="random")]
    assert "convnext_tiny.fb_in1k" in names and all(name.endswith(".fb_in1k") for name in names)


def test_auto_is_decided_without_a_download(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("build = None")
    names = ["resnet18", "replknet_micro_k13", "torchvision:resnet18", UNPUBLISHED, f"{net}:build"]
    found = jobs(models=names, weights="auto")
    assert [job.options["weights"] for job in found] == ["pretrained", "pretrained", "pretrained", "random", "auto"]


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "pretrained"},
        {"seed": 1},
        {"threads": 2},
        {"kernels": {"variant": "all"}},
        {"models": ["resnet34"]},
        {"models": [{"model": "resnet18", "name": "other"}]},
    ],
)
def test_the_key_depends_on_what_decides_the_bytes(change: dict[str, Any]) -> None:
    assert keys(jobs(**change)) != keys(jobs())


def test_the_key_does_not_depend_on_how_the_options_are_written() -> None:
    assert keys(jobs(kernels={"variant": "merged", "seed": 0})) == keys(jobs(figures=False))
    assert keys(jobs(erf={"batch-size": 2})) == keys(jobs(erf={"batch_size": 2}))


def test_the_key_depends_on_the_contents_of_files(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import timm\ndef build():\n    return timm.create_model('resnet18')\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / "a.toml"
    path.write_text(
        'models = ["net.py:build"]\nweights = "random"\n[erf]\ndata = "."\nimages = 1\nsize = 64\n', encoding="utf-8"
    )
    (first,) = plan_jobs(read_document(path))
    assert (first.name, first.model) == ("net.py:build", f"{tmp_path}/net.py:build")
    assert first.options["data"] == str(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (second,) = plan_jobs(read_document(path))
    with (tmp_path / "net.py").open("a") as stream:
        stream.write("# changed\n")
    (third,) = plan_jobs(read_document(path))
    assert len({first.key, second.key, third.key}) == 3


def test_paths_are_named_as_written(tmp_path: Path) -> None:
    texts = []
    for place in (tmp_path / "a", tmp_path / "b"):
        (place / "photos").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "photos" / "a.png")
        path = place / "a.toml"
        path.write_text(
            'models = ["resnet18"]\nweights = "random"\n[erf]\nimages = 1\n[erf.matrix]\ndata = ["photos"]\n'
        )
        (job,) = plan_jobs(read_document(path))
        assert job.options["data"] == str(place / "photos")
        texts.append((job.key, job.label, job.varied))
    assert texts[0] == texts[1] == (texts[0][0], "erf/resnet18 data=photos", {"data": "photos"})


def test_labels_are_distinct(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text(name)
    path = tmp_path / "a.toml"
    path.write_text(
        'weights = "random"\nmodels = [{ model = "resnet18", weights = "a.pth" }, '
        '{ model = "resnet18", weights = "b.pth" }, "resnet34"]\n[kernels]\n'
    )
    labels = ["kernels/resnet18 weights=a.pth", "kernels/resnet18 weights=b.pth", "kernels/resnet34"]
    assert [job.label for job in plan_jobs(read_document(path))] == labels
    # Models that differ only in what the label does not show.
    found = jobs(models=[{"model": one, "name": "mine"} for one in ("resnet18", "resnet34")])
    assert [job.label for job in found] == [f"kernels/mine key={job.key}" for job in found]


def test_every_option_of_the_configurations_can_be_given() -> None:
    for analyzer in ANALYZERS.values():
        assert {field.name for field in fields(analyzer.config)} <= {*analyzer.options}


def test_an_option_may_need_another_one() -> None:
    erf = {"until_ratios": ["pixels@0.5"], "images": 9, "size": 64}
    *_, job = jobs(erf=erf | {"until": 0.5})
    assert job.options["until_ratios"] == ["pixels@0.5"]
    with pytest.raises(InvalidInputError, match=r"erf\.until_ratios: .*needs the option until"):
        jobs(erf=erf)
    with pytest.raises(InvalidInputError, match=r"erf\.images: "):
        jobs(erf=erf | {"until": 0.5, "images": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[kernels]\nlayer = "all"', r"a\.toml: The list of models is missing"),
        ("models = []\n[kernels]", r"line 1, models: The list of models is missing or empty"),
        ('models = ["resnet18"]', r"a\.toml: No analyzer is given"),
        ('models = ["resnet1"]\n[kernels]', r"line 1, models\[0\]: Unknown model 'resnet1'"),
        ('models = ["zzz*"]\n[kernels]', r"line 1, models\[0\]: No model matches 'zzz\*'"),
        ("models = [1]\n[kernels]", r"line 1, models\[0\]: 1 is not a model"),
        ('models = ["resnet18"]\n\n[erf]\nsize = "x"', r"line 4, erf\.size: Images of size 'x' cannot be measured"),
        ('models = ["resnet18"]\n[erf]\nimages = true', r"line 3, erf\.images: The number of images cannot be True"),
        ('models = ["resnet18"]\n[erf]\nsizes = 3', r"line 3, erf\.sizes: Unknown option 'sizes'.*similar: size"),
        ('models = ["resnet18"]\nsize = 3\n[kernels]', r"line 2, size: Unknown option 'size'"),
        ('models = ["resnet18"]\nkernels = 1', r"line 2, kernels: 1 is not a table"),
        ('models = ["resnet18"]\n[kernels.matrix]\nseed = 1', r"line 3, kernels\.matrix\.seed: 1 is not a list"),
        ('models = ["resnet18"]\n[kernels.matrix]\nseed = [1, -1]', r"line 3, kernels\.matrix\.seed\[1\]: The seed -1"),
        ('models = ["resnet18"]\n[attribute]\nsteps = 9', r"a\.toml, line 2, attribute: No images are given"),
        (
            'models = ["resnet18"]\n[attribute]\ndata = "nets.py"\nsteps = 9',
            r"line 3, attribute\.data: The option steps cannot be used with method 'saliency'",
        ),
        ('models = ["resnet18"]\n[attribute]\ndata = "none.png"', r"line 3, attribute\.data: Cannot read .*none\.png"),
        ('models = ["resnet18"]\n[erf]\ndata = 3', r"line 3, erf\.data: 3 is not a path"),
        ('models = ["resnet18"]\n[erf]\ndata = "nowhere"', r"line 3, erf\.data: .*nowhere"),
        ('models = ["resnet18"]\nweights = "nope"\n[kernels]', r"line 2, weights: No weights 'nope' for resnet18"),
        ('models = ["resnet18"]\nthreads = 0\n[kernels]', r"line 2, threads: The number of threads cannot be 0"),
        ('models = ["resnet18"]\n[erf]\nbatch-size = 1\nbatch_size = 2', r"line 4, erf\.batch_size: .*given twice"),
        ('models = ["none.py:build"]\n[kernels]', r"line 1, models\[0\]: .*There is no such file"),
        ('models = ["nets.py:bild"]\n[erf]', r"line 1, models\[0\]: .*nets\.py defines no 'bild' \(similar: build\)"),
        ('models = ["broken.py:build"]\n[erf]', r"line 1, models\[0\]: .*SyntaxError"),
        ('models = ["resnet18"]\n[erf]\nlayer = "layer9"', r"line 3, erf\.layer: .*layer9"),
        ('models = ["resnet18", "slak_tiny"]\n[kernels]\nlayer = "layer1"', r"line 3, kernels\.layer: .*layer1"),
        (
            'models = ["resnet18"]\n[kernels.matrix]\nlayer = ["layer1", "layer9"]',
            r"line 3, kernels\.matrix\.layer\[1\]: .*layer9",
        ),
    ],
)
def test_everything_is_checked_first(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "nets.py").write_text("def build():\n    raise AssertionError('not run')\n")
    (tmp_path / "broken.py").write_text("def build(\n")
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        plan_jobs(read_document(path))


def test_the_example_can_be_planned(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(EXAMPLE)
    assert [job.label for job in plan_jobs(read_document(path))] == [
        "erf/resnet18 seed=0",
        "erf/resnet18 seed=1",
        "erf/replknet_micro_k13 seed=0",
        "erf/replknet_micro_k13 seed=1",
        "kernels/resnet18",
        "kernels/replknet_micro_k13",
    ]
