"""Files to rows: real line numbers, and bad rows in their place."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.data.examples import BadRow
from burnish.data.formats import RawRow, data_suffix, read_rows
from burnish.errors import DataError


def read(path: Path, content: bytes | str) -> list[RawRow | BadRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(path, path.name))


def lines(rows: list[RawRow | BadRow]) -> list[int | None]:
    return [row.origin.line for row in rows]


# ---- JSON Lines ----


def test_jsonl_counts_real_lines_over_blank_ones(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.jsonl", '\n{"a": 1}\n\n  \r\n{"a": 2}\r\n{"a": 3}')
    assert lines(rows) == [2, 5, 6]
    assert [str(row.origin) for row in rows] == ["a.jsonl:2", "a.jsonl:5", "a.jsonl:6"]
    assert [row.values for row in rows if isinstance(row, RawRow)] == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_jsonl_lines_end_at_newlines_only(tmp_path: Path) -> None:
    """U+2028 and U+0085 are text, although `str.splitlines` breaks at them."""
    text = "one\u2028two\u0085three"
    rows = read(tmp_path / "a.jsonl", f'{{"a": "{text}"}}\n{{"a": 2}}\n')
    assert lines(rows) == [1, 2]
    assert isinstance(rows[0], RawRow)
    assert rows[0].values["a"] == text


def test_jsonl_bad_rows_come_in_their_place(tmp_path: Path) -> None:
    content = b'{"a": "ok"}\n{"a": "\xff\xfe"}\n{"a": 1,}\n[1, 2]\n"text"\nnull\n{"a": "ok"}\n'
    rows = read(tmp_path / "a.jsonl", content)
    assert [type(row).__name__ for row in rows] == ["RawRow"] + ["BadRow"] * 5 + ["RawRow"]
    assert lines(rows) == [1, 2, 3, 4, 5, 6, 7]
    why = [row.why for row in rows if isinstance(row, BadRow)]
    assert why[0] == "invalid UTF-8: byte 0xff at column 8 of the line"
    assert why[1].startswith("not valid JSON: ")
    assert "column" in why[1]
    assert why[2:] == [
        "a row must be a JSON object, this is a list",
        "a row must be a JSON object, this is a string",
        "a row must be a JSON object, this is null",
    ]


@pytest.mark.parametrize("line", ['{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_jsonl_survives_hostile_lines(tmp_path: Path, line: str) -> None:
    rows = read(tmp_path / "a.jsonl", line + '\n{"a": 1}\n')
    assert isinstance(rows[0], BadRow)
    assert rows[0].why.startswith("not valid JSON")
    assert isinstance(rows[1], RawRow)


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    for name, content in [("a.jsonl", b'{"a": "1"}\n'), ("a.json", b'[{"a": "1"}]'), ("a.csv", b"a\n1\n")]:
        (row,) = read(tmp_path / name, mark + content)
        assert isinstance(row, RawRow)
        assert row.values == {"a": "1"}


# ---- JSON ----


def test_json_array_items_have_their_lines(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.json", '\n[\n  {"a": 1},\n\n  {"a":\n 2}, {"a": 3},\n  5\n]\n')
    assert lines(rows) == [3, 5, 6, 7]
    assert [row.values["a"] for row in rows if isinstance(row, RawRow)] == [1, 2, 3]
    assert isinstance(rows[3], BadRow)
    assert rows[3].why == "a row must be a JSON object, this is a number"


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b'[\n{"a": 1},\n{"a": }\n]', 3, "Expecting value"),
        (b'[\n{"a": 1}\n{"a": 2}]', 3, "Expecting ',' or ']'"),
        (b'[{"a": 1},\n', 2, "Expecting value"),
        (b'[{"a": 1}]\n\n{}', 3, "Extra data"),
        (b'[\n{"a": "\xc3("}]', 2, "invalid UTF-8: byte 0xc3 at column 8"),
    ],
)
def test_json_array_errors_name_the_line(tmp_path: Path, content: bytes, line: int, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.json", content)
    assert problem in caught.value.what
    assert caught.value.where == f"a.json:{line}"


def test_json_may_hold_one_object_or_json_lines(tmp_path: Path) -> None:
    one = read(tmp_path / "a.json", '\n{\n "a": 1\n}\n')
    assert [(row.origin.line, row.values) for row in one if isinstance(row, RawRow)] == [(2, {"a": 1})]
    rows = read(tmp_path / "b.json", '{"a": 1}\n{"a": 2}\nnot json\n')
    assert lines(rows) == [1, 2, 3]
    assert isinstance(rows[2], BadRow)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", "") == []
    assert read(tmp_path / "a.csv", "") == []
    assert read(tmp_path / "a.json", "[ ]") == []


# ---- CSV ----


def test_csv_counts_the_newlines_in_quotes(tmp_path: Path) -> None:
    content = 'prompt,completion\nq1,a1\n"q\n2","a\n\n2"\n\nq3,"a, 3"\r\nq4,a4\n'
    rows = read(tmp_path / "a.csv", content)
    # q2 begins on line 3 and ends on 6; 7 is blank.
    assert lines(rows) == [2, 3, 8, 9]
    assert isinstance(rows[1], RawRow)
    assert rows[1].values == {"prompt": "q\n2", "completion": "a\n\n2"}
    assert isinstance(rows[2], RawRow)
    assert rows[2].values["completion"] == "a, 3"


def test_csv_bad_rows(tmp_path: Path) -> None:
    content = b'prompt,completion\nq1\nq2,a,b\n"q\n3",\xe9t\xe9\n"q"4,a4\nq5,a5\n"open,a6\n'
    rows = read(tmp_path / "a.csv", content)
    assert lines(rows) == [2, 3, 4, 6, 7, 8]
    assert [(row.field, row.why.split(":")[0]) for row in rows if isinstance(row, BadRow)] == [
        ("", "the row has 1 cells, the header has 2"),
        ("", "the row has 3 cells, the header has 2"),
        ("completion", "invalid UTF-8"),
        ("", "not valid CSV"),
        ("", "not valid CSV"),
    ]
    assert isinstance(rows[4], RawRow)


def test_csv_fields_may_be_long_and_the_global_limit_is_put_back(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = csv.field_size_limit(100_000)
    request.addfinalizer(lambda: csv.field_size_limit(before))
    (row,) = read(tmp_path / "a.csv", "prompt,completion\nq," + "x" * 300_000 + "\n")
    assert isinstance(row, RawRow)
    assert len(row.values["completion"]) == 300_000
    assert csv.field_size_limit() == 100_000


@pytest.mark.parametrize(("header", "problem"), [("a,b,a\n", "a column twice: 'a'"), ('"a\n', "not valid CSV")])
def test_csv_header_errors(tmp_path: Path, header: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        read(tmp_path / "a.csv", header)
    assert caught.value.where == "a.csv:1"


# ---- Parquet ----


def test_parquet_counts_rows_over_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [f"q{i}" for i in range(2500)], "n": range(2500)}), path)
    rows = list(read_rows(path, "a.parquet"))
    assert len(rows) == 2500
    assert str(rows[2048].origin) == "a.parquet row 2049"
    assert isinstance(rows[2048], RawRow)
    assert rows[2048].values == {"prompt": "q2048", "n": 2048}


def test_parquet_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    values = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    text = pa.StringArray.from_buffers(3, values.buffers()[1], values.buffers()[2])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": text}), path)
    rows = list(read_rows(path, "a.parquet"))
    assert [type(row).__name__ for row in rows] == ["RawRow", "BadRow", "RawRow"]
    assert str(rows[1]) == "a.parquet row 2: invalid UTF-8"


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(tmp_path / "a.parquet", "prompt,completion\n" * 10)


# ---- files ----


def test_gzip_is_read_by_name(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.jsonl.gz", gzip.compress(b'{"a": 1}\n\n{"a": 2}\n'))
    assert lines(rows) == [1, 3]


def test_a_gzip_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps({"a": "x" * 1000}).encode())
    for content in (whole[: len(whole) // 2], b"no gzip at all"):
        with pytest.raises(DataError, match="damaged or cut off"):
            read(tmp_path / "a.json.gz", content)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.jsonl", ".jsonl"),
        ("A.JSONL.GZ", ".jsonl"),
        ("a.csv.gz", ".csv"),
        ("a.parquet", ".parquet"),
        ("a.parquet.gz", None),
        ("a.txt", None),
        ("jsonl", None),
    ],
)
def test_formats_by_name(name: str, suffix: str | None) -> None:
    assert data_suffix(Path(name)) == suffix


def test_items_of_an_array_on_one_line_stand_in_places_of_their_own(tmp_path: Path) -> None:
    """What looks a row up by its place (a reward function's `rows`) would else find another one."""
    path = tmp_path / "rows.json"
    path.write_text('[{"n": 1}, {"n": 2},\n{"n": 3},\n\n{"n": 4}, {"n": 5}]')
    places = [str(row.origin).removeprefix("rows.json") for row in read_rows(path, "rows.json")]
    assert places == [":1", ":1 item 2", ":2", ":4", ":4 item 5"]
