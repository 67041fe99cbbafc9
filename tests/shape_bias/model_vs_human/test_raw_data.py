"""Files of the toolbox, read and written."""

from __future__ import annotations

from pathlib import Path

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.model_vs_human.raw_data import (
    csv_name,
    read_decisions,
    read_folder,
    subject_of,
    write_decisions,
)

NAMES = ("airplane2-car1.png", "airplane1-bicycle2.png", "airplane10-airplane1.png", "bear1-cat1.png")
DECISIONS = Decisions.from_names("squeezenet1_0", NAMES, ("car", "bottle", "airplane", "bear"))
WRITTEN = (
    b"subj,session,trial,rt,object_response,category,condition,imagename\r\n"
    b"squeezenet1_0,1,1,NaN,bottle,airplane,NaN,airplane1-bicycle2.png\r\n"
    b"squeezenet1_0,1,2,NaN,airplane,airplane,NaN,airplane10-airplane1.png\r\n"
    b"squeezenet1_0,1,3,NaN,car,airplane,NaN,airplane2-car1.png\r\n"
    b"squeezenet1_0,1,4,NaN,bear,bear,NaN,bear1-cat1.png\r\n"
)
HUMAN = (
    b"subj,session,trial,rt,object_response,category,condition,imagename\n"
    b"subject-01,1,1,1.13377118110657,bird,bird,0,0001_s5n_s01_0_bird_00_bird3-bird2.png\n"
    b"subject-01,1,2,NaN,na,bicycle,0,0002_s5n_s01_0_bicycle_00_bicycle5-dog2.png\n"
)


def test_what_is_written_is_the_toolboxs_format_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / csv_name("squeezenet1_0")
    assert path.name == "cue-conflict_squeezenet1-0_session-1.csv"
    write_decisions(DECISIONS, path)
    assert path.read_bytes() == WRITTEN
    assert read_decisions(path) == (DECISIONS,)


@pytest.mark.parametrize(
    ("model", "subject"),
    [
        ("torchvision:squeezenet1_0", "squeezenet1_0"),
        ("replknet31b", "replknet31b"),
        ("package.module:factory", "factory"),
        ("path/to/file.py:factory", "factory"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
    ],
)
def test_subject_is_the_name_after_its_prefix(model: str, subject: str) -> None:
    assert subject_of(model) == subject


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_humans_have_prefixed_names_and_trials_without_an_answer(tmp_path: Path, line_end: bytes) -> None:
    path = tmp_path / "human.csv"
    path.write_bytes(HUMAN.replace(b"\n", line_end))
    (found,) = read_decisions(path)
    assert found.is_human
    assert found.image_ids == ("bicycle5-dog2.png", "bird3-bird2.png")
    assert found.response == ("na", "bird")
    assert (found.counts().na, found.counts().n_other) == (1, 1)


def test_a_file_may_hold_several_observers(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_bytes(WRITTEN + WRITTEN.partition(b"\r\n")[2].replace(b"squeezenet1_0", b"other"))
    assert read_decisions(path) == (DECISIONS, DECISIONS.renamed("other"))


def test_byte_order_marks_and_empty_lines_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "marked.csv"
    path.write_bytes(b"\xef\xbb\xbf" + WRITTEN + b"\r\n")
    assert read_decisions(path) == (DECISIONS,)


def test_real_files_survive_being_written_and_read(data_dir: Path, tmp_path: Path) -> None:
    for decisions in read_folder(data_dir / "raw-data" / "cue-conflict"):
        path = tmp_path / csv_name(decisions.observer)
        write_decisions(decisions, path)
        assert read_decisions(path) == (decisions,)
    assert {one.observer for one in read_folder(tmp_path)} >= {"subject-01", "resnet50"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"object_response,category", b"response,kind", "lacks the columns object_response, category"),
        (b"imagename", b"image", "lacks the column imagename"),
        (b",bear1-cat1.png", b"", "Line 5 has 7 of 8 columns"),
        (b"bear1-cat1.png", b"bear1.png", "line 5: .*does not contain shape and texture"),
        (b"bear1-cat1.png", b"bear1-yak1.png", "line 5: .*'yak' is not one of the 16"),
        (b"NaN,bear1-cat1.png", b"NaN,cat1-cat1.png", "Line 5 has the category 'bear' and the image 'cat1-cat1.png'"),
        (b"NaN,bear,bear", b"NaN,yak,bear", "has the category 'yak'"),
        (b"airplane2-car1", b"airplane1-bicycle2", "two decisions"),
        (b"bear1-cat1.png", b"bear1-cat1\xff.png", "can't decode"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = tmp_path / "bad.csv"
    assert WRITTEN.count(old) == 1
    path.write_bytes(WRITTEN.replace(old, new))
    with pytest.raises(InvalidInputError, match=message):
        read_decisions(path)


@pytest.mark.parametrize("content", [b"", WRITTEN.partition(b"\r\n")[0]])
def test_files_without_decisions_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="Cannot read"):
        read_decisions(path)


def test_two_files_of_one_observer_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(WRITTEN)
    with pytest.raises(InvalidInputError, match=r"a\.csv and b\.csv both contain observer 'squeezenet1_0'"):
        read_folder(tmp_path)


def test_hidden_files_and_own_tables_are_no_raw_data(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(WRITTEN)
    for name in (".b.csv", "._a.csv", "shape_bias.csv", "comparison.csv"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16")
    assert read_folder(tmp_path) == (DECISIONS,)


def test_the_folder_above_those_of_models_points_to_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_decisions(DECISIONS, tmp_path / name / "decisions.csv")
    (tmp_path / "comparison.csv").write_text("observer,kind\n")
    with pytest.raises(InvalidInputError, match=r"folders of several models\. Give one of them: .*/one, .*/two\."):
        read_folder(tmp_path)


def test_a_file_cut_inside_a_name_is_not_to_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv"
    path.write_bytes(WRITTEN[: WRITTEN.rindex(b"cat1")])
    with pytest.raises(InvalidInputError, match=r"line 5: image 'bear1-'.*truncated.*Download it again") as caught:
        read_decisions(path)
    assert "Rename it" not in str(caught.value)


@pytest.mark.parametrize("name", [b"", b" ", b"a\tb", b"humans"])
def test_observers_have_names_that_can_be_read(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(WRITTEN.replace(b"squeezenet1_0", name))
    with pytest.raises(InvalidInputError, match=r"Cannot read .*bad\.csv\. An observer"):
        read_decisions(path)


def test_a_folder_without_raw_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no \.csv file"):
        read_folder(tmp_path)
    with pytest.raises(InvalidInputError, match="does not exist"):
        read_folder(tmp_path / "none")
    (tmp_path / "file.csv").write_bytes(WRITTEN)
    with pytest.raises(InvalidInputError, match="is a file"):
        read_folder(tmp_path / "file.csv")
