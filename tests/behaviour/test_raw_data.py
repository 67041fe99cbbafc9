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
        ("s,1,1,1,knife,spoon,c30,0001_cop_s01_c30_knife_10_n0_1.png", "'spoon' is not one of the 16 categories"),
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
    with pytest.raises(InvalidInputError, match="no raw data for the sets sketch"):
        read_raw_data(tmp_path, ["sketch"])
