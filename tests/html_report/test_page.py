"""The page as text: escaping, policy, size, numbers, commands."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import yaml

import replk_probe
from replk_probe.cli import main as program
from replk_probe.collection import Collection, Saved, collected, find_results
from replk_probe.erf import import_erf
from replk_probe.erf.result import RatioRow
from replk_probe.errors import InvalidInputError
from replk_probe.html_report import commands, definitions, render_report, shape_bias_section, write_report
from replk_probe.html_report.charts import log_ticks, round_ticks
from replk_probe.html_report.map_images import LARGEST, map_image
from replk_probe.html_report.names import erf_names
from replk_probe.html_report.summary import summary_of
from replk_probe.reliance import RelianceResult, parse_suppressions
from replk_probe.runtime.provenance import RANDOM_INIT, USER_MODULE, HeadInfo, RunInfo, WeightsInfo
from replk_probe.sweeps.folder import SweepFolder
from replk_probe.sweeps.result import SweepResult

VOID = {"meta", "link", "input", "img", "br", "wbr"}


class Page(HTMLParser):
    """The elements of a page: checks that tags are balanced, and collects attributes, texts and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.open, self.getpos())

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


NOTES = (("a", "about two"), ("b", "about two"), ("c", "about one"))


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


def cells(page: str, table: str) -> list[list[tuple[str, str]]]:
    """The rows of a table: the value of the record and the text of every cell."""
    found = re.search(rf'<table class="{table}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert found is not None
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    return [re.findall(r'<td(?: data-value="(.*?)")?><span class="value">(.*?)</span>', row) for row in rows]


def test_the_page_is_well_formed_and_has_landmarks(parsed: Page) -> None:
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("main") == tags.count("h1") == tags.count("header") == tags.count("nav") == 1
    identifiers = parsed.attributes("id")
    assert len(identifiers) == len({*identifiers})
    links = [link for link in parsed.attributes("href") if link.startswith("#")]
    labels = [one for value in parsed.attributes("aria-labelledby") for one in value.split()]
    assert {*(link[1:] for link in links), *labels, *parsed.attributes("for")} <= {*identifiers}
    assert all(attrs.get("aria-label") for tag, attrs in parsed.tags if attrs.get("role") == "img")
    assert parsed.texts["title"][0] == "Four networks & more"


def test_nothing_is_requested_and_no_style_or_handler_is_inline(parsed: Page, page: str) -> None:
    for name in ("src", "href", "action", "data", "poster", "srcset"):
        assert all(value.startswith(("#", "data:")) for value in parsed.attributes(name)), name
    assert not [name for _, attrs in parsed.tags for name in attrs if name == "style" or name.startswith("on")]
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_the_policy_permits_only_the_texts_of_the_page(parsed: Page, page: str) -> None:
    policy = next(attrs["content"] for _, attrs in parsed.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; style-src '")
    assert "unsafe" not in policy and "base-uri 'none'; form-action 'none'" in policy
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<script>")
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy


def test_names_are_text(page: str, parsed: Page) -> None:
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert [attrs for tag, attrs in parsed.tags if tag == "script"] == [
        {"type": "application/json", "id": "values"},
        {},
    ]


@pytest.mark.parametrize("name", ['"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "</style>", "a\u202eb", "a' b"])
def test_other_names_are_text_as_well(collection: Collection, name: str) -> None:
    first = collection.erf[0].result
    text = render_report([replace(first, run=replace(first.run, model=name))], title=name)
    parsed = Page(text)
    assert len([tag for tag, _ in parsed.tags if tag == "script"]) == 2 and "img" not in {tag for tag, _ in parsed.tags}
    assert "\u202e" not in text and ">49<" not in text


def test_the_summary_has_the_numbers_of_the_records(page: str, collection: Collection) -> None:
    rows = cells(page, "summary")
    assert len(rows) == 3
    for row, saved in zip(rows, collection.erf, strict=True):
        result = saved.result
        assert result.numbers is not None
        numbers = (result.row("centred", 0.5).ratio, result.row("paper", 0.5).ratio, result.numbers.effective_area)
        assert [float(value) for value, _ in row[:3]] == [*numbers]
    for row, saved in zip(rows, collection.shape_bias, strict=False):
        model = saved.result.model
        assert model is not None
        assert [float(value) for value, _ in row[3:5]] == [model.counts.overall, model.counts.cue_accuracy]
    for row, saved in zip(rows[1:], collection.kernels, strict=True):
        kernel = saved.result.kernel("stage2.0")
        assert [value for value, _ in row[5:7]] == ["7", repr(kernel.center3x3_share)]
    for row, saved in zip(rows[1:], collection.reliance, strict=True):
        assert [float(value) for value, _ in row[7:]] == [one.relative_accuracy for one in saved.result.profile[:2]]
    assert [value for value, _ in rows[2][3:5]] == ["", ""] and rows[2][3][1] == "\u2013"


def test_color_is_in_the_summary_if_no_other_cue_was_suppressed(collection: Collection) -> None:
    targets, run = np.arange(40) % 4, collection.reliance[0].result.run
    gray = RelianceResult.from_decisions(
        np.stack([targets, targets.clip(1)]), targets, parse_suppressions("grayscale"),
        pictures=np.zeros((2, 48, 48, 3), np.uint8), run=run, label_space="indices", classes="0123",
    )  # fmt: skip
    summary = summary_of(collected([gray]))
    assert [name for name, _ in summary.columns] == ["no color"] and summary.rows[0].cells[0].value == 0.75


def test_weights_are_told_apart_by_words(page: str) -> None:
    table = page[page.index('<table class="summary">') : page.index("</table>")]
    assert [*re.findall(r'badge (\w+)"><span aria-hidden="true">(.)</span> ([\w ]+)<', table)] == [
        ("trained", "\u25cf", "trained"),
        ("synthetic", "\u25d0", "synthetic data"),
        ("random", "\u25cb", "random weights"),
    ]


def test_every_number_has_its_provenance(page: str, collection: Collection) -> None:
    groups = (
        *(collection.erf, collection.shape_bias, collection.kernels, collection.attribution, collection.reliance),
        collection.bench,
    )
    assert all(groups)
    for group in groups:
        for saved in group:
            assert saved.record in page and saved.sha256 in page
    assert page.count('class="origin"') == collection.n_results
    assert "cuda:0 (Some GPU)" in page and "torch 2" in page


def test_equal_results_give_equal_bytes(page: str, collection: Collection) -> None:
    assert render_report(collection, title="Four networks & more") == page


def test_commands_are_those_of_the_program(collection: Collection) -> None:
    found = [
        *(commands.erf_command(one.result) for one in collection.erf),
        *(commands.shape_bias_command(one.result) for one in collection.shape_bias),
        *(commands.kernels_command(one.result) for one in collection.kernels),
        *(commands.attribution_command(one.result) for one in collection.attribution),
        *(commands.reliance_command(one.result) for one in collection.reliance),
        commands.sweep_command("out/paper/sweep.json"),
        *(commands.bench_command(one.result) for one in collection.bench),
    ]
    assert found[0] == (
        "replk-probe erf --model wide_net.a1 --weights wide_net.a1 --images 4 --size 48x48 "
        "--thresholds 0.2,0.3,0.5,0.99 --seed 7 --device cuda:0"
    )
    for line in found:
        assert line is not None
        _, name, *options = shlex.split(line)
        command = program.cli.get_command(click.Context(program.cli), name)
        assert command is not None
        command.make_context(name, options)  # raises for an unknown option or an invalid value


def test_commands_have_the_options_that_are_not_usual(collection: Collection) -> None:
    first = collection.erf[0].result
    config = {
        "images": 9, "given_layer": True, "target": "logit:3", "bgr": True, "channels": 1, "mean": [0.5], "check": None,
        "convention": {"name": "openerf"}, "sampling": "first", "until": 0.02,
    }  # fmt: skip
    run = replace(
        first.run, model="m", weights=WeightsInfo("file:net.pth", wrapper="model_ema"), config=config, precision="bf16",
        image_source="folder:val", device="cpu",
    )  # fmt: skip
    assert commands.erf_command(replace(first, run=run)) == (
        "replk-probe erf --model m --weights net.pth --ema --images 9 --data val --size 48x48 --layer layer4 "
        "--thresholds 0.2,0.3,0.5,0.99 --target logit:3 --until 0.02 --channels 1 --mean 0.5 --bgr "
        "--convention openerf --sampling first --seed 7 --precision bf16"
    )
    module = replace(first, run=replace(run, weights=WeightsInfo(USER_MODULE)))
    assert commands.erf_command(module) is None
    assert "No command is known" in render_report([module])


def test_the_citations_are_those_of_the_citation_file() -> None:
    path = Path(replk_probe.__file__).parents[1] / "CITATION.cff"
    if not path.is_file():
        pytest.skip("CITATION.cff is not part of an installed package")
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert definitions.SOFTWARE.title == record["title"]
    assert definitions.SOFTWARE.authors == record["authors"][0]["name"]
    assert len(definitions.PAPERS) == len(record["references"])
    for paper, reference in zip(definitions.PAPERS, record["references"], strict=True):
        *others, last = [author["family-names"] for author in reference["authors"]]
        assert paper.authors == f"{', '.join(others)} and {last}"
        assert paper.title == reference["title"] and paper.where.endswith(f" {reference['year']}")
        assert f"arXiv:{paper.arxiv}" == reference["identifiers"][0]["value"]


def test_six_large_models_fit_five_megabytes(page: str, collection: Collection) -> None:
    first = collection.erf[0].result
    noise = np.random.default_rng(0).random((1024, 1024))  # the worst case of a PNG file
    large = replace(first, contribution=noise, input_size=(1024, 1024), center=(512, 512))
    text = render_report([large, collection.shape_bias[0].result, collection.kernels[0].result])
    assert "drawn as means over squares of pixels" in text
    # Everything that all models share is counted six times as well.
    assert 6 * len(text.encode()) < 5e6


def test_images_are_small_and_have_the_colors_of_the_scale() -> None:
    from io import BytesIO

    from PIL import Image

    values = np.ones((3 * LARGEST, LARGEST))
    image = Image.open(BytesIO(base64.b64decode(map_image(values).partition(",")[2])))
    assert image.mode == "P" and image.size == (86, 256)
    assert image.convert("RGB").getpixel((0, 0))[0] > 240
    dark = Image.open(BytesIO(base64.b64decode(map_image(np.array([[1.0, 1e-4]]), 1e-3).partition(",")[2])))
    assert sum(dark.convert("RGB").getpixel((1, 0))) < 60


def test_parts_without_results_are_absent(without_convergence: Collection, tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_report(without_convergence, path)
    text = path.read_text(encoding="utf-8")
    assert 'id="erf"' in text
    for name in ("shape-bias", "kernels", "attributions", "reliance", "bench", "sweeps"):
        assert f'id="{name}"' not in text and f'href="#{name}"' not in text
    assert "Radial curves" not in text and "Convergence</h3>" not in text
    assert 'id="summary"' not in render_report([])


def test_an_imported_map_has_no_intervals(tmp_path: Path) -> None:
    np.save(tmp_path / "map.npy", np.eye(9) + 0.1)
    text = render_report([import_erf(tmp_path / "map.npy")])
    assert "replk-probe erf --from map.npy" in re.sub(r"</?span.*?>", "", text) and "unknown weights" in text
    assert "95 %: " not in re.sub(r"<script>.*", "", text, flags=re.DOTALL)


def test_one_model_with_several_seeds_has_different_names(collection: Collection) -> None:
    first = collection.erf[0].result
    seeds = [replace(first, run=replace(first.run, seed=seed)) for seed in (1, 2)]
    assert erf_names([*seeds, first]) == ["wide_net.a1, seed 1", "wide_net.a1, seed 2", "wide_net.a1, seed 7"]
    assert erf_names([first, first]) == ["wide_net.a1 #1", "wide_net.a1 #2"]
    bias = collection.shape_bias[0].result
    text = render_report([*seeds, bias, bias])
    rows = cells(text, "summary")
    assert [len(row) for row in rows] == [5, 5] and "wide_net.a1 #2" in re.sub("<wbr>", "", text)


def test_one_model_with_several_heads_has_several_rows(collection: Collection) -> None:
    heads = [HeadInfo("linear", f"file:{name}.safetensors", name * 64, 10) for name in "ab"]

    def with_heads(saved: Saved[Any]) -> tuple[Saved[Any], ...]:
        runs = (
            replace(saved.result.run, weights=replace(saved.result.run.weights, head=head, source=RANDOM_INIT))
            for head in heads
        )
        return tuple(replace(saved, result=replace(saved.result, run=run)) for run in runs)

    kernels = with_heads(collection.kernels[0])
    names = [f"{kernels[0].result.run.model}, {head.label}" for head in heads]
    assert [row.name for row in summary_of(Collection(kernels=kernels)).rows] == names
    biases = with_heads(next(one for one in collection.shape_bias if isinstance(one.result.run, RunInfo)))
    names = [f"{biases[0].result.run.model}, {head.label}" for head in heads]
    assert [row.name for row in summary_of(Collection(shape_bias=biases)).rows] == names
    (part,) = shape_bias_section.shape_bias_sections(biases, [0, 1])
    assert [row.name for row in part.observers[:2]] == names
    assert [(name, hollow) for name, _, hollow in part.shown[:2]] == [(name, True) for name in names]


def test_a_note_on_all_models_is_shown_once() -> None:
    results = [
        SimpleNamespace(run=None, model=SimpleNamespace(name=name), notes=("about all", *notes))
        for name, *notes in NOTES
    ]
    assert shape_bias_section.notes_of_models(results, "source") == [
        ([], "about all"),
        (["a", "b"], "about two"),
        (["c"], "about one"),
    ]


def test_a_sweep_lists_its_jobs(collection: Collection, tmp_path: Path) -> None:
    jobs = (
        {"label": "erf/a seed=0", "state": "done", "seconds": 1.25},
        {"label": "erf/<b>", "state": "failed", "reason": "No <b>."},
    )
    sweep = SweepResult(tmp_path, jobs, SweepFolder(tmp_path))
    text = render_report(replace(collection, sweeps=(Saved(sweep, "out/sweep.json", "0"),)))
    assert "1 of 2 jobs are done, 1 failed" in text and "No &lt;b&gt;." in text and 'data-value="1.25"' in text
    Page(text)


def test_sequences_and_volumes_are_drawn_as_figures(collection: Collection) -> None:
    first = collection.erf[0].result
    line = replace(
        first, contribution=np.hanning(34)[1:-1], input_size=(32,), center=(16.0,), feature_size=(4,), numbers=None,
        ratios=(RatioRow("centred", 0.5, 9, 9 / 32),),
    )  # fmt: skip
    text = render_report([line])
    assert 'class="paper" src="data:image/png;base64,' in text and "28.1" in text
    Page(text)


def test_results_are_found_once_and_damaged_ones_are_listed(collection: Collection, tmp_path: Path) -> None:
    collection.erf[0].result.save(tmp_path / "a" / "b")
    collection.erf[1].result.save(tmp_path / "c")
    (tmp_path / "c" / "erf.npz").write_bytes(b"no archive")
    found = find_results([tmp_path, tmp_path / "a"])
    assert [one.record for one in found.erf] == [f"{tmp_path.name}/a/b/erf.json"]
    assert [record for record, _ in found.unreadable] == [f"{tmp_path.name}/c/erf.json"]
    assert "Left out" in render_report(found)
    with pytest.raises(InvalidInputError, match=r"is not a folder\. Give the output folder"):
        find_results(tmp_path / "none")
    with pytest.raises(InvalidInputError, match=r"There are no readable results in .*c\. .*erf\.npz"):
        find_results(tmp_path / "c")
    with pytest.raises(InvalidInputError, match="object of type int"):
        collected([3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("highest", "ticks"), [(64, [0, 20, 40, 60, 80]), (100, [0, 20, 40, 60, 80, 100]), (8, [0, 2, 4, 6, 8])]
)
def test_ticks_are_round(highest: float, ticks: list[float]) -> None:
    assert round_ticks(highest) == ticks


def test_ticks_of_logarithmic_axes() -> None:
    assert log_ticks(0.02, 0.4) == [0.02, 0.05, 0.1, 0.2]
    assert log_ticks(1e-3, 1e3) == [1e-3, 1e-2, 0.1, 1, 10, 100, 1000]
    assert log_ticks(0.31, 0.33) == [0.31, 0.33]
