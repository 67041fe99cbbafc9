"""Figures in the sizes of papers, talks and notebooks."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fontTools.ttLib import TTFont
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from replk_probe import plot_style
from replk_probe.cli._options import command_line, style_option
from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    BAND,
    COLORS,
    GRAY,
    INK,
    LABEL_SIZE,
    MUTED,
    OTHER_COLOR,
    PRESETS,
    SHAPE_COLOR,
    TEXTURE_COLOR,
    badge_style,
    column_width,
    figure_preset,
    figure_style,
    map_inches,
    new_figure,
    page_width,
    preset,
    save_figure,
    threshold_colors,
)


def contrast(color: str, background: str = "white") -> float:
    """Contrast by WCAG 2.2."""
    light, dark = sorted((luminance(color), luminance(background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_and_marks_have_enough_contrast() -> None:
    assert min(contrast(color) for color in (INK, MUTED, SHAPE_COLOR, TEXTURE_COLOR, OTHER_COLOR)) >= 4.5
    assert contrast(MUTED, BAND) >= 4.5 and contrast("black", badge_style()["bbox"]["facecolor"]) >= 4.5
    assert min(contrast(color) for color in (*COLORS, GRAY)) >= 3
    shades = [contrast(to_hex(color)) for color in threshold_colors((0.99, 0.2, 0.5, 0.3)).values()]
    assert shades == sorted(shades) and shades[0] >= 3


def test_colors_are_defined_in_one_module() -> None:
    modules = [path for path in Path(plot_style.__file__).parent.rglob("plot*.py") if path != Path(plot_style.__file__)]
    assert len(modules) > 20
    assert not [
        path
        for path in modules
        if re.search(r'"#[0-9a-fA-F]{6}|"(crest|rocket|vlag)"', path.read_text(encoding="utf-8"))
    ]


def drawn(width: float) -> Figure:
    with figure_style():
        figure = new_figure(width, 1.0)
        ax = figure.add_axes((0.2, 0.4, 0.7, 0.5))
        ax.set_xlabel("label")
    return figure


def inches(path: Path) -> tuple[float, ...]:
    """Width and height of the page of a file."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            assert min(image.info["dpi"]) >= 299.9
            return tuple(side / dots for side, dots in zip(image.size, image.info["dpi"], strict=True))
    text = path.read_text(encoding="latin-1")
    if path.suffix == ".svg":
        return tuple(float(found) / 72 for found in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    box = re.search(r"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", text)
    return tuple(float(found) / 72 for found in box.groups())


@pytest.mark.parametrize("name", PRESETS)
def test_files_have_the_size_of_the_preset(name: str, tmp_path: Path) -> None:
    with figure_preset(name):
        chosen = preset()
        assert LABEL_SIZE * chosen.magnification == pytest.approx(chosen.text)
        for width, expected in (
            (column_width(), chosen.column), (page_width(), chosen.page),
            # A figure that could not be drawn narrower is not wider than a page.
            (1.5 * page_width(), chosen.page),
        ):  # fmt: skip
            written = save_figure(drawn(width), tmp_path, "figure", 10)
            assert [path.suffix for path in written] == [f".{suffix}" for suffix in chosen.formats]
            for path in written:
                # Dots are whole numbers.
                assert inches(path) == pytest.approx((expected, expected / width), abs=0.01)
        first = {path: path.read_bytes() for path in written}
        assert {path: path.read_bytes() for path in save_figure(drawn(width), tmp_path, "figure", 10)} == first
        if "pdf" in chosen.formats:
            # The font is embedded.
            assert b"/FontFile2" in first[tmp_path / "figure.pdf"]


def embedded_font(pdf: bytes) -> TTFont:
    """The only font in a PDF file."""
    (found,) = re.findall(rb"/Length1 \d+.*?stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return TTFont(io.BytesIO(zlib.decompress(found)))


def test_embedded_fonts_have_no_tables_for_layout(tmp_path: Path) -> None:
    figure, stream = drawn(3.4), io.BytesIO()
    save_figure(figure, tmp_path, "figure", 10)
    ours = embedded_font((tmp_path / "figure.pdf").read_bytes())
    with figure_style():
        figure.savefig(stream, format="pdf")  # as matplotlib does it, also after one of our figures
    theirs = embedded_font(stream.getvalue())
    assert {*theirs.keys()} - {*ours.keys()} == {"GDEF", "GPOS", "GSUB"}
    assert len(ours["glyf"].glyphs) == len(theirs["glyf"].glyphs) > 5
    assert ours["glyf"] == theirs["glyf"] and ours["hmtx"] == theirs["hmtx"] and ours["fpgm"] == theirs["fpgm"]


def test_a_preset_ends_with_its_context(tmp_path: Path) -> None:
    usual = column_width(), page_width(), map_inches()
    with pytest.raises(InvalidInputError, match=r"Unknown figure style 'poster'\. Choose from paper, talk, notebook"):
        figure_preset("poster").__enter__()
    with figure_preset("paper"):
        assert column_width() == pytest.approx(3.25 * 7 / 8) and map_inches() < usual[2]
    assert (column_width(), page_width(), map_inches()) == usual == (3.4, 7.0, 2.62)
    assert [path.suffix for path in save_figure(drawn(3.4), tmp_path, "figure", 10)] == [".png", ".pdf"]


def test_the_option_applies_to_the_command_and_is_repeated_in_its_command_line() -> None:
    @click.command()
    @style_option
    @click.option("--seed", type=int)
    def command(seed: int) -> None:
        click.echo(f"{preset().text} {command_line('--resume')}")

    done = CliRunner().invoke(command, ["--style", "talk", "--seed", "3"], prog_name="probe")
    assert done.stdout == "14.0 probe --style talk --seed 3 --resume\n"
    assert CliRunner().invoke(command, [], prog_name="probe").stdout == "7.0 probe --resume\n"
