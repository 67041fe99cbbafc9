from __future__ import annotations

import os
from pathlib import Path

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.sweeps.document import EXAMPLE, read_document

TEXT = """\
# comment
models = [
    "resnet18",
    { model = "resnet34", size = 3 },
]
weights = "auto"

[erf]
# comment
images = 12
size = 96
thresholds = [
    0.2,
    2,
]

[erf.matrix]
seed = [0, 1]
[kernels]
mean.red = 1
"""


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (("weights",), "line 6, weights"),
        (("erf",), "line 8, erf"),
        (("erf", "images"), "line 10, erf.images"),
        (("erf", "thresholds"), "line 12, erf.thresholds"),
        (("erf", "matrix", "seed", 1), "line 18, erf.matrix.seed[1]"),
        (("models", 0), "line 3, models[0]"),
        (("models", 1, "size"), "line 4, models[1].size"),
        (("erf", "thresholds", 1), "line 14, erf.thresholds[1]"),
        (("kernels", "mean", "red"), "line 20, kernels.mean.red"),
        (("erf", "layer"), "line 8, erf.layer"),  # the table that lacks it
    ],
)
def test_an_error_names_file_line_and_key(tmp_path: Path, keys: tuple[str | int, ...], place: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(TEXT)
    assert str(read_document(path).error(keys, "Reason.")) == f"{path}, {place}: Reason."


def test_invalid_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("models = []\n[erf\n")
    with pytest.raises(InvalidInputError, match=r"a\.toml, line 2: The file is not valid TOML\. .* Correct"):
        read_document(path)
    path.write_text("models = [\n")
    with pytest.raises(InvalidInputError, match=r"a\.toml, line [12]: "):
        read_document(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Cannot read .*missing\.toml"):
        read_document(tmp_path / "missing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        read_document(tmp_path / "bytes.toml")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(TEXT, encoding="utf-8-sig")
    document = read_document(path)
    assert document.values["weights"] == "auto"
    assert "line 6" in str(document.error(("weights",), "Reason."))


def test_an_error_names_the_line_in_a_list_of_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[erf.matrix]\nsize = [  # a ]\n    [\n        64, 64,\n    ],\n    # "]"\n    [96, 0],\n]\n')
    document = read_document(path)
    assert "line 3, " in str(document.error(("erf", "matrix", "size", 0), "Reason."))
    assert "line 7, " in str(document.error(("erf", "matrix", "size", 1), "Reason."))


def test_a_dictionary_has_no_lines() -> None:
    assert str(read_document({"models": 1}).error(("models",), "Reason.")) == "The sweep, models: Reason."


def test_the_example_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(EXAMPLE)
    assert read_document(path).values["erf"]["matrix"] == {"seed": [0, 1]}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InvalidInputError, match="is not a regular file"):
        read_document(tmp_path / "pipe.toml")
