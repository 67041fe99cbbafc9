"""The one exit of text from outside, and the table that all commands share."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from replk_probe.report.text import Layout, note_lines, table, terminal_layout, wrapped
from replk_probe.runtime.escaping import printable
from replk_probe.runtime.formatting import shortened

EVIL = "a\x1b[31m\nb\u202ec"
ESCAPED = r"a\x1b[31m\nb\u202ec"


CONTROLS = (0, 7, 9, 10, 13, 0x1B, 0x7F, 0x85, 0x9B, 0x2028, 0xFEFF, 0xD800, 0xDCFF)
BIDIRECTIONAL = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))


@pytest.mark.parametrize("code", [*CONTROLS, *BIDIRECTIONAL])
def test_what_a_terminal_would_not_show_is_escaped(code: int) -> None:
    text = printable(f"a{chr(code)}b")
    assert text.isascii() and text.isprintable() and text[:2] == "a\\" and text[-1] == "b"


def test_other_text_stays() -> None:
    assert printable("Größe 深度 \\ {} %") == "Größe 深度 \\ {} %"
    assert printable("95\u00a0%") == "95\u00a0%"
    assert printable(ValueError(EVIL)) == ESCAPED


def test_the_middle_is_left_out() -> None:
    assert shortened("replknet_micro_k13_rep", 15, mark="...") == "replkn...13_rep"
    assert shortened("short", 5) == "short"


def test_a_table_with_known_values() -> None:
    lines = table(("name", "n", "kind"), [["one", "1", "x"], "heading", ["  two", "22", "long"]], left=("kind",))
    assert lines == ["name    n  kind", "one     1  x", "heading", "  two  22  long"]


def test_names_are_cut_and_numbers_are_not() -> None:
    rows = [["n" * 40 + "END", "123456789"]]
    head, row = table(("name", "n"), rows, Layout(30))
    assert head == "name".ljust(29) + "n" and row == "nnnnnnnn...nnnnnnEND 123456789"
    assert table(("name", "n"), rows, Layout(10))[1] == "nnnn...nnEND 123456789"
    assert table(("name", "n"), rows, Layout(30, cut_tables=False))[1] == "n" * 40 + "END  123456789"


def test_cells_headings_and_paragraphs_are_escaped() -> None:
    lines = table(("name", "n"), [EVIL, [EVIL, "1"]], Layout(color=True))
    lines += [*wrapped(EVIL), *note_lines([("net", [EVIL])])]
    text = "\n".join(lines)
    assert text.count(ESCAPED) == 4 and "\x1b[31m\n" not in text and "\u202e" not in text and len(lines) == 5


def test_markup_of_rich_is_text() -> None:
    assert table(("name", "n"), [["[red]a[/red] :smile:", "1"]])[1] == "[red]a[/red] :smile:  1"


def test_a_note_of_several_models_is_printed_once() -> None:
    notes = [("a", ["both", "only a"]), ("b", ["both"])]
    assert note_lines(notes) == ["note: both", "note (a): only a"]


def test_colors_are_for_terminals() -> None:
    rows = [["net (RANDOM WEIGHTS)", "1"]]
    assert "\x1b[" not in "".join(table(("name", "n"), rows))
    assert "\x1b[33m" in table(("name", "n"), rows, Layout(color=True))[1]


def test_tables_are_cut_to_the_terminal_or_to_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_layout() == Layout(100, False, cut_tables=False)
    monkeypatch.setenv("COLUMNS", "120")
    assert terminal_layout() == Layout(120, False, cut_tables=True)
    monkeypatch.setenv("COLUMNS", "0")
    assert terminal_layout().width > 0


@pytest.mark.parametrize(("variable", "color"), [("NO_COLOR", False), ("FORCE_COLOR", True)])
def test_the_environment_decides_on_colors(variable: str, color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, "1")
    assert terminal_layout() == Layout(70, color)


def test_rich_is_imported_only_for_a_table() -> None:
    code = "import sys, replk_probe.cli.main, replk_probe.report.erf_table; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_names_of_rows_are_only_cut_as_far_as_they_differ() -> None:
    names = [f"stages.0.blocks.{block}.token_mixer.mixer.conv_kxk" for block in range(12)]
    lines = table(("layer", "value"), [[name, "1.0"] for name in names], Layout(20))
    shown = [line.split()[0] for line in lines[1:]]
    assert len({*shown}) == len(names) and max(map(len, shown)) < len(names[0])


def test_columns_are_omitted_before_names_become_unreadable() -> None:
    head, rows = ("name", "a", "b", "kind"), [["n" * 22, "1", "2", "k" * 40], ["m" * 22, "3", "4", "k" * 40]]

    def show(width: int) -> list[str]:
        return [" ".join(line.split()) for line in table(head, rows, Layout(width), ("kind",), ("b", "kind"))]

    assert show(51)[0] == "name a b kind" and "n" * 22 + " 1 2 " in show(51)[1]
    assert show(50)[0] == "name a kind"
    assert show(40)[0] == "name a" and show(40)[1] == "n" * 22 + " 1"


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [30, 60, 80])
def test_no_line_is_wider_than_the_terminal(color: bool, width: int) -> None:
    rows = [["a_name_" * 6 + str(number), "1.0", "text " * 9] for number in range(3)]
    lines = table(("name", "value", "training"), rows, Layout(width, color), left=("training",))
    visible = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert max(map(len, visible)) <= width and not any(line.endswith(" ") for line in visible)
    assert visible[0].startswith("name ")
    assert len({line.split()[0] for line in visible[1:]}) == 3
