"""Reciprocal ranks against ranks counted by hand, their means and intervals, and measured scores."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from replk_probe import ShapeBiasResult, measure_shape_bias
from replk_probe.cli import shape_bias as shape_bias_command
from replk_probe.errors import InvalidInputError
from replk_probe.html_report import render_report
from replk_probe.images import decode_rgb, normalize
from replk_probe.models import create_model, data_config
from replk_probe.report.shape_bias_table import shape_bias_table
from replk_probe.report.text import Layout
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias import CueScores, draw_cue_scores, plot_cue_scores
from replk_probe.shape_bias.cue_scores import PUBLISHED_SCORES, published_scores, reciprocal_ranks

LOGITS = np.array([[3.0, 1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [5.0, 7.0, 7.0, -1.0]])


@pytest.mark.parametrize(
    ("members", "ranks"),
    [
        ((0,), [1, 4, 3]),  # alone; tied with all others, which rank before it; behind two
        ((1,), [3, 4, 2]),  # the third row has a tie for the first place with a wrong class
        ((3,), [4, 4, 4]),
        ((1, 2), [2, 3, 1]),  # several right classes: the best of them, and ties among them do not count
        ((0, 3), [1, 3, 3]),
        ((0, 1, 2, 3), [1, 1, 1]),
    ],
)
def test_ranks_counted_by_hand(members: tuple[int, ...], ranks: list[int]) -> None:
    found = reciprocal_ranks(LOGITS, (members,))
    assert found.dtype == np.float32 and found[:, 0].tolist() == [np.float32(1 / rank) for rank in ranks]


@given(
    arrays.arrays(np.float32, (3, 6), elements=st.integers(-3, 3).map(float)),
    st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
)
def test_ranks_are_those_of_sorting(logits: Any, members: list[int]) -> None:
    found = reciprocal_ranks(logits, (tuple(members),))[:, 0]
    for row, value in zip(logits, found, strict=True):
        # Wrong classes first among equal ones.
        order = sorted(range(6), key=lambda index: (-row[index], index in members))
        rank = next(place for place, index in enumerate(order, 1) if index in members)
        assert value == np.float32(1 / rank)


def test_outputs_that_are_not_finite_have_no_rank() -> None:
    with pytest.raises(InvalidInputError, match=r"not finite\. They have no rank"):
        reciprocal_ranks(np.array([[1.0, math.nan]]), ((0,),))


def scores_of(values: Sequence[float] = (1.0, 0.5, 0.25, 0.2)) -> CueScores:
    names = tuple(f"{index}.png" for index in range(4))
    cues, labels = ("shape", "shape", "shape", "texture"), ("cat", "cat", "dog", "dog")
    return CueScores(names, cues, labels, np.array(values, np.float32))


def test_means_by_cue_and_label() -> None:
    scores = scores_of()
    assert [*scores.by_cue] == ["shape", "texture"]
    assert scores.by_cue["shape"].mean_reciprocal_rank == (1 + 0.5 + 0.25) / 3
    assert scores.by_label["shape"]["cat"].mean_reciprocal_rank == 0.75
    assert scores.by_label["shape"]["dog"].n_images == 1 and [*scores.by_label["texture"]] == ["dog"]
    assert scores.by_cue["shape"].top1 == 1 / 3 and scores.by_cue["texture"].top1 == 0
    texture = float(np.float32(0.2))
    assert scores.relative == pytest.approx(1.75 / 3 / (1.75 / 3 + texture), abs=1e-15)
    assert math.isnan(CueScores(("a",), ("shape",), ("cat",), np.ones(1, np.float32)).relative)


def test_intervals_of_the_bootstrap() -> None:
    # Within a label: one label is constant, the other has two equally frequent values, whose mean over n images has the
    # standard deviation 0.4 / sqrt(n), so that the mean over both labels has half of it.
    n = 400
    values = np.tile(np.array([1.0, 0.2], np.float32), n // 2)
    ranks = np.concatenate([values, np.full(n, 0.5, np.float32)])
    scores = CueScores(tuple(map(str, range(2 * n))), ("shape",) * 2 * n, ("cat",) * n + ("dog",) * n, ranks)
    assert scores.by_label["shape"]["dog"].ci95 == (0.5, 0.5)
    low, high = scores.by_cue["shape"].ci95
    width = 2 * 1.96 * 0.4 / math.sqrt(n) / 2
    # The quantiles of 1000 draws have a standard error of 0.084 standard deviations each, 3 % of the width together.
    assert high - low == pytest.approx(width, rel=0.12) and (low + high) / 2 == pytest.approx(0.55, abs=width / 10)
    assert (
        scores.by_cue["shape"].ci95 == CueScores(scores.names, scores.cues, scores.labels, ranks).by_cue["shape"].ci95
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ((("a",), ("shape",), ("cat",), [0.0]), r"not in \(0, 1\]"),
        ((("a",), ("shape",), ("cat",), [math.nan]), r"not in \(0, 1\]"),
        ((("a",), ("shape",), (), [1.0]), "but got 1, 1, 0 and 1"),
        (((), (), (), []), "but got 0, 0, 0 and 0"),
    ],
)
def test_scores_that_cannot_be_used(fields: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        CueScores(*fields)


def test_published_scores() -> None:
    assert published_scores("set:refined-bias") == {
        "bagnet9": {"shape": 0.0518}, "bagnet17": {"shape": 0.0988}, "bagnet33": {"shape": 0.2438}
    }  # fmt: skip
    assert published_scores("cue-conflict") == {} and [*PUBLISHED_SCORES] == ["refined-bias"]


class Brightness(nn.Module):
    """Ten classes, of which the one of the number of the gray level has the highest output."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.arange(10.0))

    def forward(self, images: Tensor) -> Tensor:
        return -((images.mean((1, 2, 3))[:, None] * 10 - self.levels) ** 2)


SET = """
schema_version = 1
name = "grays"
cues = ["shape", "texture"]
layout = ["shapes/{shape}/{file}", "textures/{texture}/{file}"]
image_size = 32
images = 4
labels = ["dark", "middle", "light"]
"""


@pytest.fixture
def grays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gray images whose levels are 1, 5 and 9 tenths, with one texture image that is called dark and is light."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "grays"
    for path, level in {
        "shapes/dark/1.png": 0.1, "shapes/middle/1.png": 0.5, "shapes/light/1.png": 0.9, "textures/dark/1.png": 0.9,
    }.items():  # fmt: skip
        (folder / path).parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), (round(255 * level),) * 3).save(folder / path)
    (folder / "set.toml").write_text(SET, encoding="utf-8")
    return folder


OPTIONS: dict[str, Any] = {
    "size": 32, "mean": 0, "std": 1, "mapping": {"dark": [0, 1], "middle": [5], "light": [9]}
}  # fmt: skip


def test_measured_scores(grays: Path) -> None:
    model = Brightness().eval()
    result = measure_shape_bias(model, grays, name="gray", **OPTIONS)
    scores = result.scores
    assert scores is not None and result.model is None and result.decisions is None
    assert scores.names == ("shapes/dark/1.png", "shapes/light/1.png", "shapes/middle/1.png", "textures/dark/1.png")
    # The light image that is called dark: classes 9, 8, ... 2 are nearer than 1, which has rank 9.
    assert scores.reciprocal_ranks.tolist() == [1, 1, 1, np.float32(1 / 9)]
    assert scores.by_cue["shape"].mean_reciprocal_rank == 1 and scores.by_cue["shape"].top1 == 1
    assert "Each image of grays has one cue: shape or texture." in result.notes
    few = "The number of images of the cue shape in 3 labels is only 3: bootstrap intervals over them are too narrow."
    assert few in result.notes
    assert isinstance(result.run, RunInfo) and result.run.image_source == "set:grays"
    assert result.run.config["stimuli record"]["set"]["cues"] == ("shape", "texture")
    # One image at a time, and a resumed run, give the same.
    for options in ({"batch_size": 1}, {"checkpoint": "state"}, {"checkpoint": "state", "resume": True}):
        again = measure_shape_bias(model, grays / "set.toml", name="gray", **OPTIONS, **options).scores
        assert again == scores


def test_results_with_scores_are_saved(grays: Path) -> None:
    result = measure_shape_bias(Brightness().eval(), grays, name="gray", **OPTIONS)
    result.save("out")
    assert {path.name for path in Path("out").iterdir()} == {"shape_bias.json", "cue_scores.csv", "cue_scores.npz"}
    assert ShapeBiasResult.load("out") == result and "shape=1.0, texture=0.1111" in repr(result)
    record = json.loads(Path("out/shape_bias.json").read_text(encoding="utf-8"))
    assert record["shape_bias"] is None and record["scores"]["cues"]["texture"]["n_images"] == 1
    frame = result.to_dataframe()
    assert frame["mean_reciprocal_rank"].tolist() == pytest.approx([1, 1, 1, 1, 1 / 9, 1 / 9])
    assert frame["label"].tolist() == ["all", "dark", "light", "middle", "all", "dark"]
    assert "mean_reciprocal_rank" in result._repr_html_()
    arrays = dict(np.load("out/cue_scores.npz"))
    np.savez("out/cue_scores.npz", **arrays | {"reciprocal_ranks": np.ones(4, np.float32)})
    with pytest.raises(InvalidInputError, match=r"its ranks are not those of shape_bias\.json"):
        ShapeBiasResult.load("out")


def test_figures(grays: Path) -> None:
    result = measure_shape_bias(Brightness().eval(), grays, name="gray", **OPTIONS)
    figure = draw_cue_scores(result)
    assert [ax.get_title() for ax in figure.axes] == ["shape (3 images)", "texture (1 image)"]
    assert figure.get_size_inches()[0] == 7
    ax = result.plot(cue="texture")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all", "dark"] and ax.get_xlim() == (0, 1)
    points = [line for line in ax.lines if line.get_marker() in ("D", "o")]
    assert [line.get_xdata()[0] for line in points] == [pytest.approx(1 / 9)] * 2  # type: ignore[index]
    with pytest.raises(InvalidInputError, match=r"no scores for 'color'\. Its cues are shape, texture"):
        plot_cue_scores(result, cue="color")
    with pytest.raises(InvalidInputError, match="no scores of images with one cue"):
        draw_cue_scores(ShapeBiasResult.from_decisions())


def test_table_and_page(grays: Path) -> None:
    results = [measure_shape_bias(Brightness().eval(), grays, name=name, **OPTIONS) for name in ("one", "other")]
    text = shape_bias_table(results[:1], layout=Layout(80))
    row = next(line for line in text.splitlines() if line.startswith("one "))
    assert row.split()[1:] == ["1.0000", "1.0000", "to", "1.0000", "0.1111", "0.1111", "to", "0.1111"], text
    assert "0.900" in shape_bias_table(results[:1])  # shape / (shape + texture)
    assert "shape: dark 1.000, light 1.000, middle 1.000" in text and len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 80
    assert "other" in shape_bias_table(results) and "dark 1.000" not in shape_bias_table(results)
    page = render_report(results)
    assert "Scores of cues" in page and "<h3>set:grays</h3>" in page and 'id="shape-bias"' not in page


def test_command(grays: Path) -> None:
    arguments = ["--model", "test_resnet", "--weights", "random", "--stimuli", "grays", "--size", "32", "-o", "out"]
    Path("mapping.json").write_text(json.dumps(OPTIONS["mapping"]), encoding="utf-8")
    done = CliRunner().invoke(shape_bias_command.command, [*arguments, "--mapping", "mapping.json"])
    assert done.exit_code == 0, done.output
    assert "4 images of set:grays" in done.output and "test_resnet (RANDOM)" in done.output
    assert Path("out/cue_scores.png").is_file() and Path("out/cue_scores.pdf").is_file()


def test_real_images(data_dir: Path, tmp_path: Path) -> None:
    """A trained network on real images, half of which are called shapes, against ranks from its sorted outputs."""
    info = ImageNetInfo("imagenet-1k")
    classes: dict[str, int] = {}
    for number, path in enumerate(sorted((data_dir / "images").glob("*.JPEG"))[:12]):
        wordnet_id, _, name = path.stem.partition("_")
        label = name.replace("_", " ").replace("-", " ")
        classes[label] = info.label_names().index(wordnet_id)
        cue = "shape" if number < 6 else "texture"
        (tmp_path / cue / label).mkdir(parents=True)
        shutil.copy(path, tmp_path / cue / label)
    labels = "".join(f'"{label}" = [{index}]\n' for label, index in classes.items())
    head = SET.partition("layout")[0] + 'layout = ["shape/{shape}/{file}", "texture/{texture}/{file}"]\n'
    (tmp_path / "set.toml").write_text(f'{head}label_space = "imagenet-1k"\n[labels]\n{labels}', encoding="utf-8")
    model = create_model("torchvision:squeezenet1_0", data_dir / "weights" / "squeezenet1_0_imagenet.safetensors")
    scores = measure_shape_bias(model, tmp_path).scores
    assert scores is not None and len(scores.names) == 12 and scores.cues == ("shape",) * 6 + ("texture",) * 6
    for name, label, found in zip(scores.names, scores.labels, scores.reciprocal_ranks, strict=True):
        image = decode_rgb(tmp_path / name, name).resize((224, 224), Image.Resampling.BICUBIC)
        config = data_config(model)
        with torch.inference_mode():
            logits = model(torch.from_numpy(normalize(np.asarray(image), config.mean, config.std))[None])[0]
        rank = logits.argsort(descending=True).tolist().index(classes[label]) + 1
        assert found == np.float32(1 / rank), name
    # Most images are recognized, so that the mapping to classes is right.
    assert min(score.mean_reciprocal_rank for score in scores.by_cue.values()) > 0.5
