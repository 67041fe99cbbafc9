"""The table of a sweep, without worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from replk_probe.attribution import result as attribution
from replk_probe.behaviour import result as behaviour
from replk_probe.erf import result as erf
from replk_probe.errors import InvalidInputError
from replk_probe.kernels import result as kernels
from replk_probe.reliance import result as reliance
from replk_probe.shape_bias import result as shape_bias
from replk_probe.sweeps.result import TABLES, _numbers

TABLE = TABLES["erf"]
HEADER = ",".join(column for column in erf._CSV_COLUMNS if column not in TABLE.added)
CELLS = "resnet18,random,images,0,fp32,2,64,64,stage4,paper,0.5,31,0.25,,"


def test_the_tables_have_every_column_of_the_results() -> None:
    columns = {"erf": erf._CSV_COLUMNS, "shape-bias": shape_bias._CSV_COLUMNS, "kernels": kernels._COLUMNS}
    columns["attribute"] = attribution._COLUMNS
    columns |= {"behaviour": behaviour._CSV_COLUMNS, "reliance": reliance._COLUMNS}
    for name, table in TABLES.items():
        assert {*table.items, *table.others, *table.numbers} == {*columns[name]}
        assert table.numbers == tuple(column for column in columns[name] if column in table.numbers)


def test_every_number_is_in_the_table(tmp_path: Path) -> None:
    (tmp_path / TABLE.file).write_text(f"{HEADER}\n{CELLS}\n")
    item = "layer=stage4 protocol=paper threshold=0.5"
    assert [*_numbers(tmp_path, TABLE)] == [
        (item, "n_images", "2"),
        (item, "side", "31"),
        (item, "ratio", "0.25"),
        (item, "ci95_low", ""),
        (item, "ci95_high", ""),
    ]


def test_numbers_of_the_whole_map_are_listed_once(tmp_path: Path) -> None:
    header = ",".join((*HEADER.split(","), *TABLE.added))
    rows = [",".join((cells, *map(str, range(len(TABLE.added))))) for cells in (CELLS, CELLS.replace("0.5", "0.9"))]
    (tmp_path / TABLE.file).write_text("\n".join((header, *rows)))
    found = [*_numbers(tmp_path, TABLE)]
    items = [item for item, name, _ in found if name == "threshold_radius"]
    assert items == ["layer=stage4 protocol=paper threshold=0.5", "layer=stage4 protocol=paper threshold=0.9"]
    assert [one for one in found if one[1] in TABLE.repeated] == [
        ("layer=stage4", name, str(index)) for index, name in enumerate(TABLE.added) if name in TABLE.repeated
    ]
    assert len(found) == 2 * (5 + 3) + len(TABLE.repeated)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"erf\.csv has no column 'layer'"),
        (f"{HEADER}\n", r"erf\.csv has no rows"),
        (f"{HEADER.replace('ratio', 'share')}\n{CELLS}\n", r"erf\.csv has no column 'ratio'"),
        (f"{HEADER}\n{CELLS}\n{CELLS[:40]}", r"Line 3 of .*erf\.csv is not a row of the table"),
        (f"{HEADER}\n{CELLS.replace('0.25', 'x')}\n", r"Line 2 of .*erf\.csv is not a row of the table"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / TABLE.file).write_text(text)
    with pytest.raises(
        InvalidInputError, match=rf"{reason}\. It may have .* Remove its folder and run the sweep again"
    ):
        [*_numbers(tmp_path, TABLE)]


def test_columns_that_were_added_later_may_be_missing(tmp_path: Path) -> None:
    table = TABLES["kernels"]
    old = [column for column in kernels._COLUMNS if column not in table.added]
    (tmp_path / table.file).write_text(",".join(old) + "\n" + ",".join("0" for _ in old) + "\n")
    found = [name for _, name, _ in _numbers(tmp_path, table)]
    assert found == [name for name in table.numbers if name not in table.added]
    assert set(table.added) < set(table.numbers)
    (tmp_path / table.file).write_text(",".join(old[:-1]) + "\n" + ",".join("0" for _ in old[:-1]) + "\n")
    with pytest.raises(InvalidInputError, match="has no column 'maximum'"):
        [*_numbers(tmp_path, table)]
