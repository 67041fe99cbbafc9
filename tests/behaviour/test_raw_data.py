"""The raw data of model-vs-human: in, out, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from replk_probe.behaviour import Trials, read_raw_data
from replk_probe.behaviour.raw_data import raw_files, read_trials, trials_csv
from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias import Decisions
from replk_probe.shape_bias.model_vs_human.raw_data import decisions_csv

MakeTrials = Callable[..., list[Trials]]


HEADER = "subj,Session,trial,rt,object_response,category,condition,imagename\n"


@pytest.mark.parametrize("dataset", ["edge", "uniform-noise", "false-colour"])
def test_what_is_written_is_read_and_written_again_byte_for_byte(
    tmp_path: Path, dataset: str, random_trials: MakeTrials
) -> None:
    (trials,) = random_trials(["network"], dataset)
    path = tmp_path / "a.csv"
    path.write_bytes(trials_csv(trials))
    (again,) = read_trials(path, dataset)
    assert again == trials and trials_csv(again) == path.read_bytes()
    first = path.read_bytes().split(b"\r\n")[1].decode().split(",")
    known = trials.benchmark_set
    assert first[:4] == ["network", "1", "1", "NaN"]
    assert first[6] == (trials.names[0].split("_")[3] if known.has_conditions else "NaN")


def test_cue_conflict_is_written_as_by_the_shape_bias() -> None:
    names = ["bear1-cat2.png", "airplane10-cat1.png", "airplane2-dog1.png"]
    answers = ["bear", "cat", "oven"]
    trials = Trials.from_names("network", "cue-conflict", names, answers, ["bear", "airplane", "airplane"])
    assert trials_csv(trials) == decisions_csv(Decisions.from_names("network", names, answers))


def test_other_spellings_are_the_same_trials(tmp_path: Path) -> None:
    rows = ["subject-01,1,1,0.5,knife,knife,{},0001_nse_s01_{}_knife_10_n03041632_1.png"]
    for number, condition in enumerate(("0.1", "0.10")):
        text = HEADER + rows[0].format(condition, condition) + "\n"
        (tmp_path / f"{number}.csv").write_text(text)
    (one,), (other,) = (read_trials(tmp_path / f"{number}.csv", "uniform-noise") for number in range(2))
    assert one.condition == other.condition == ("0.10",) and one.keys.tolist() == other.keys.tolist()


def test_an_answer_that_was_not_given_is_not_correct(tmp_path: Path) -> None:
    text = HEADER + "subject-01,1,1,NaN,na,knife,0,0001_edg_s01_0_knife_00_knife1.png\n"
    (tmp_path / "a.csv").write_text(text)
    (trials,) = read_trials(tmp_path / "a.csv", "edge")
    assert trials.response == ("na",) and not trials.correct.any() and trials.is_human


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("s,1,1,1,knife,knife,c20,0001_cop_s01_c20_knife_10_n0_1.png", r"line 2\. The set contrast has no condition"),
        ("s,1,1,1,spoon,knife,c30,0001_cop_s01_c30_knife_10_n0_1.png", "'spoon' is not one of the 16 categories"),
        ("s,1,1,1,knife,spoon,c30,knife_n0_1.png", "'spoon' is not one of the 16 categories"),
        (
            "s,1,1,1,knife,oven,c30,0001_cop_s01_c30_knife_10_n0_1.png",
            r"line 2\. The category is 'oven', but 'knife' in the name",
        ),
        (
            "s,1,1,1,knife,knife,c15,0001_cop_s01_c30_knife_10_n0_1.png",
            r"line 2\. The condition is 'c15', but 'c30' in the name",
        ),
        ("s,1,1,1,knife,knife,c30,0001_cop_s01_c20_knife_10_n0_1.png", r"line 2\. The set contrast has no condition"),
        ("s,1,1,1,knife,knife", "Line 2 has 6 of 8 columns"),
        ("humans,1,1,1,knife,knife,c30,0001_cop_s01_c30_knife_10_n0_1.png", "name 'humans'"),
    ],
)
def test_invalid_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(HEADER + row + "\n")
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_trials(tmp_path / "a.csv", "contrast")
    assert "a.csv" in str(caught.value)


def test_two_decisions_on_one_image_are_refused(tmp_path: Path) -> None:
    rows = [f"s,1,{n},1,knife,knife,c30,000{n}_cop_s01_c30_knife_10_n0_1.png\n" for n in (1, 2)]
    (tmp_path / "a.csv").write_text(HEADER + "".join(rows))
    with pytest.raises(InvalidInputError, match=r"two decisions on the image 'n0_1'"):
        read_trials(tmp_path / "a.csv", "contrast")
    # The same image in another condition is another trial.
    rows[1] = "s,1,2,1,knife,knife,c50,0002_cop_s01_c50_knife_10_n0_1.png\n"
    (tmp_path / "a.csv").write_text(HEADER + "".join(rows))
    assert len(read_trials(tmp_path / "a.csv", "contrast")[0].names) == 2


def test_folders(tmp_path: Path, random_trials: MakeTrials) -> None:
    trials = [*random_trials(["a", "b"], "edge"), *random_trials(["a"], "rotation")]
    for one in trials:
        folder = tmp_path / "raw-data" / one.dataset
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{one.observer}.csv").write_bytes(trials_csv(one))
    for root in (tmp_path, tmp_path / "raw-data"):
        assert read_raw_data(root) == tuple(trials)
    assert read_raw_data(tmp_path, ["rotation"]) == read_raw_data(tmp_path / "raw-data" / "rotation") == (trials[2],)
    assert [*raw_files(tmp_path)] == ["edge", "rotation"]
    (tmp_path / "raw-data" / "edge" / "c.csv").write_bytes(trials_csv(trials[0]))
    with pytest.raises(InvalidInputError, match=r"a\.csv and c\.csv both contain observer 'a'"):
        read_raw_data(tmp_path)
    for place, message in (
        (tmp_path / "nothing", "does not exist"),
        (tmp_path / "raw-data" / "edge" / "a.csv", "is a file"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            read_raw_data(place)
    with pytest.raises(InvalidInputError, match="no raw data for the set sketch, but for edge, rotation"):
        read_raw_data(tmp_path, ["rotation", "sketch"])


def test_a_category_in_the_name_of_an_image_of_any_set_is_compared(tmp_path: Path) -> None:
    row = "subject-01,1,1,1,knife,{},{},{}\n"
    path = tmp_path / "a.csv"
    path.write_text(HEADER + row.format("boat", "0", "0001_edg_s01_0_oven_00_oven10.png"))
    with pytest.raises(InvalidInputError, match=r"line 2\. The category is 'boat', but 'oven' in the name") as caught:
        read_trials(path, "edge")
    assert "\n" not in str(caught.value)
    path.write_text(HEADER + row.format("cat", "NaN", "cat1.png"))
    assert read_trials(path, "edge")[0].category == ("cat",)


def test_observers_agree_on_the_category_of_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    folder.mkdir()
    (folder / "a.csv").write_text(HEADER + "subject-01,1,1,1,cat,cat,0,0001_edg_s01_0_cat_00_cat1.png\n")
    (folder / "b.csv").write_text(HEADER + "net,1,1,1,dog,dog,NaN,dog1.png\nnet,1,2,1,cat,dog,NaN,cat1.png\n")
    with pytest.raises(InvalidInputError, match=r"b\.csv, line 3\. .*'cat1.png' is 'dog', and 'cat' in a\.csv, line 2"):
        read_raw_data(folder)


def test_sessions_of_an_observer_are_joined(tmp_path: Path, random_trials: MakeTrials) -> None:
    first, second = random_trials(["subject-01", "subject-02"], "contrast")
    rows = trials_csv(first).splitlines(keepends=True)
    folder = tmp_path / "contrast"
    folder.mkdir()
    (folder / "a_session_1.csv").write_bytes(b"".join(rows[:50]))
    (folder / "a_session_2.csv").write_bytes(b"".join([rows[0], *rows[50:]]))
    (folder / "b.csv").write_bytes(trials_csv(second))
    assert read_raw_data(folder) == (first, second)
    (folder / "a_session_2.csv").write_bytes(b"".join([rows[0], *rows[48:]]))
    message = (
        r"a_session_1\.csv and a_session_2\.csv both contain observer 'subject-01' and 2 images in common\. Sessions"
    )
    with pytest.raises(InvalidInputError, match=message):
        read_raw_data(folder)


def test_folders_without_files_are_skipped(tmp_path: Path, random_trials: MakeTrials) -> None:
    (trials,) = random_trials(["a"], "edge")
    for name in ("edge", "sketch"):
        (tmp_path / name).mkdir()
    with pytest.raises(InvalidInputError, match=r"The folders of sets in it have no \.csv file"):
        read_raw_data(tmp_path)
    (tmp_path / "edge" / "a.csv").write_bytes(trials_csv(trials))
    assert read_raw_data(tmp_path) == (trials,)
    assert raw_files(tmp_path) == {"edge": (tmp_path / "edge" / "a.csv",), "sketch": ()}
    with pytest.raises(InvalidInputError, match="no raw data for the set sketch, but for edge"):
        read_raw_data(tmp_path, ["sketch"])
