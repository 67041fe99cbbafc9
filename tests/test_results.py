"""JSON records, written and read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.results import strict_json
from replk_probe.runtime.file_reading import folder_of, read_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = {"schema_version": 1, "name": "Zürich", "numbers": [1, 0.1, None]}
    path = tmp_path / "record.json"
    path.write_text(strict_json(record))
    assert path.read_bytes().isascii()
    assert read_json(path, folder_of("erf"), (1,)) == record


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_json_does_not_have_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        strict_json({"value": value})


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "It is not JSON"), (b"\xff", "It is not JSON"), (b"[]", "It is not a JSON object")]
)
def test_files_that_hold_no_record_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"{message}.*'replk-probe erf'"):
        read_json(path, folder_of("erf"), (1,))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        read_json(tmp_path / "none.json", folder_of("erf"), (1,))


def test_another_schema_version_is_told_with_those_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(strict_json({"schema_version": 3}))
    with pytest.raises(InvalidInputError, match=r"has schema version 3\. This replk-probe reads 1, 2\."):
        read_json(path, folder_of("erf"), (1, 2))
