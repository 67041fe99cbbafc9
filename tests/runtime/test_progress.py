from __future__ import annotations

import io
import sys

import pytest

from replk_probe.runtime.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_progress_without_a_terminal(capsys):
    assert list(progress([1, 2, 3], desc="measuring")) == [1, 2, 3]
    with progress(total=3) as bar:
        bar.update(3)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_count_and_the_speed_are_shown_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(total=4, desc="resnet101", initial=1) as bar:
        bar.update(3)
        bar.refresh()
    assert "resnet101" in terminal.getvalue() and "4/4" in terminal.getvalue() and "images/s" in terminal.getvalue()


@pytest.mark.parametrize("total", [5, None])
def test_slow_things_are_counted_per_second_too(monkeypatch, total):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(total=total, desc="replknet31b") as bar:
        bar.update(1)
        bar.start_t -= 10  # as if ten seconds had gone by for this one
        bar.refresh()
        last = terminal.getvalue().rpartition("replknet31b")[2]
        rate = bar.format_dict["n"] / bar.format_dict["elapsed"]
    assert rate == pytest.approx(0.1, rel=0.05)
    assert "0.10 images/s" in last and "s/ image" not in last and ("1/5" in last) == (total == 5)


@pytest.mark.parametrize(("unit", "message"), [("B", "5.00M"), ("layer", "layers")])
def test_units(monkeypatch, unit, message):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(total=5_000_000, unit=unit):
        pass
    assert message in terminal.getvalue()


def test_progress_can_be_disabled_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), disable=True)) == [0, 1, 2]
    assert terminal.getvalue() == ""


def test_no_standard_error_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress(range(2))) == [0, 1]
