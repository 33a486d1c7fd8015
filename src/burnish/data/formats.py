"""Files to rows: JSON Lines, JSON, CSV and Parquet, each row with the place where it stands.

A row that can't be read at all (not UTF-8, not JSON, too many cells) comes out as a `BadRow` in its place, so that
the caller decides whether it is an error or is left out and counted.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from burnish.data.examples import BadRow, Origin
from burnish.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
TEXT_SUFFIXES = (".jsonl", ".json", ".csv")
_PARQUET_ROWS_AT_ONCE = 1024
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as its file has it: column names and values."""

    origin: Origin
    values: dict[str, Any]


def data_suffix(path: Path) -> str | None:
    """The format of a file by its name (`.jsonl` for `a.jsonl` and `a.jsonl.gz`), or None if it is no data file."""
    name = path.name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix) or (suffix in TEXT_SUFFIXES and name.endswith(suffix + ".gz")):
            return suffix
    return None


def read_rows(path: Path, shown_as: str) -> Iterator[RawRow | BadRow]:
    """The rows of one file, in order, read as they are asked for (JSON files as a whole).

    Args:
        path: a file with one of `SUFFIXES`; the text formats may end in `.gz`.
        shown_as: what origins call the file.

    Raises:
        DataError: when the file as a whole can't be read: missing, cut off, not what its name says.
    """
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    suffix = data_suffix(path)
    if suffix is None:
        raise DataError(
            f"{path.name} has no known data format", where=shown_as, fix=f"name it {', '.join(SUFFIXES)} or .jsonl.gz"
        )
    try:
        yield from readers[suffix](path, shown_as)
    except OSError as error:
        raise DataError(f"can't read the file: {error.strerror or error}", where=shown_as) from None


@contextmanager
def open_data(path: Path, shown_as: str) -> Iterator[BinaryIO]:
    """A file to read from, unzipped where its name ends in `.gz`.

    Args:
        path: the file.
        shown_as: what errors call it.

    Raises:
        DataError: also while it is read: the gzip file is damaged or cut off.
        OSError: it can't be read.
    """
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path, "rb") as file:
                yield file  # type: ignore[misc]  # a GzipFile reads as a BinaryIO does
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the gzip file is damaged or cut off: {error}", where=shown_as) from None


# ---- JSON ----


def _read_jsonl(path: Path, shown_as: str) -> Iterator[RawRow | BadRow]:
    with open_data(path, shown_as) as file:
        yield from _json_lines(file, shown_as)


def _json_lines(lines: Iterable[bytes], shown_as: str) -> Iterator[RawRow | BadRow]:
    """One JSON object a line. Lines are split at newline bytes only: text may hold U+2028 and the like."""
    for number, line in enumerate(lines, start=1):
        data = line.removeprefix(_UTF8_BOM) if number == 1 else line
        if data.strip():
            yield _json_line(data, Origin(shown_as, number))


def _json_line(data: bytes, origin: Origin) -> RawRow | BadRow:
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = f"0x{data[error.start]:02x}"
        return BadRow(origin, "", f"invalid UTF-8: byte {byte} at column {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return BadRow(origin, "", f"not valid JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        return BadRow(origin, "", f"not valid JSON: {error}")
    return _json_row(value, origin)


def _json_row(value: Any, origin: Origin) -> RawRow | BadRow:
    if not isinstance(value, dict):
        return BadRow(origin, "", f"a row must be a JSON object, this is {type_name(value)}")
    return RawRow(origin, value)


def type_name(value: Any) -> str:
    """A value's type in JSON's words, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _read_json(path: Path, shown_as: str) -> Iterator[RawRow | BadRow]:
    """A JSON array of objects; a single object; or JSON Lines under the name `.json`, as they are often stored."""
    with open_data(path, shown_as) as file:
        data = file.read().removeprefix(_UTF8_BOM)
    if data.lstrip()[:1] == b"[":
        yield from _json_array(_decode_whole(data, shown_as), shown_as)
        return
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        yield from _json_lines(data.split(b"\n"), shown_as)
    else:
        first = data[: len(data) - len(data.lstrip())].count(b"\n") + 1
        yield _json_row(value, Origin(shown_as, first))


def _decode_whole(data: bytes, shown_as: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise DataError(
            f"invalid UTF-8: byte 0x{data[error.start]:02x} at column {column} of the line",
            where=f"{shown_as}:{line}",
            fix="save the file as UTF-8; in a JSON array one bad byte makes the whole file unreadable",
        ) from None


def _json_array(text: str, shown_as: str) -> Iterator[RawRow | BadRow]:
    """The items of a JSON array, decoded one by one so that each has its line.

    After a syntax error the rest of the array can't be found, so it is an error of the file, not of a row.
    """
    decoder = json.JSONDecoder()
    position, line, counted = text.index("[") + 1, 1, 0
    item, line_before = 0, 0
    need_comma = False
    while True:
        position = _skip_space(text, position)
        if text[position : position + 1] == "]":
            break
        if need_comma:
            if text[position : position + 1] != ",":
                raise _array_error("Expecting ',' or ']'", text, position, shown_as)
            position = _skip_space(text, position + 1)
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _array_error(error.msg, text, error.pos, shown_as) from None
        except (ValueError, RecursionError) as error:
            raise _array_error(str(error), text, position, shown_as) from None
        item += 1
        yield _json_row(value, Origin(shown_as, line, item=item if line == line_before else None))
        line_before, need_comma = line, True
    end = _skip_space(text, position + 1)
    if end < len(text):
        raise _array_error("Extra data after the array", text, end, shown_as)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _array_error(problem: str, text: str, position: int, shown_as: str) -> DataError:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return DataError(
        f"not valid JSON: {problem} at column {column}",
        where=f"{shown_as}:{line}",
        fix="mend the file; as JSON Lines (.jsonl, an object a line) single bad rows could be left out",
    )


# ---- CSV ----


@contextmanager
def _long_csv_fields() -> Iterator[None]:
    """The csv module refuses fields above 128 KiB unless told; the limit is global, so it is put back."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_csv(path: Path, shown_as: str) -> Iterator[RawRow | BadRow]:
    """Comma-separated values with a header line; quoted cells may hold newlines.

    A row's line is the one that it begins on. Undecodable bytes travel as lone surrogates, so that only the rows
    that hold them are bad.
    """
    with open_data(path, shown_as) as file:
        text = (line.decode("utf-8", "surrogateescape") for line in file)
        reader = csv.reader(_without_bom(text), strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            origin = Origin(shown_as, line)
            try:
                with _long_csv_fields():
                    cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:
                    raise DataError(f"the header line is not valid CSV: {error}", where=str(origin)) from None
                yield BadRow(origin, "", f"not valid CSV: {error}")
                continue
            if not cells:
                continue
            if header is None:
                header = _csv_header(cells, origin)
            else:
                yield _csv_row(header, cells, origin)


def _without_bom(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if number == 0 else line


def _csv_header(cells: list[str], origin: Origin) -> list[str]:
    names = [name.strip() for name in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"the header names a column twice: {', '.join(map(repr, twice))}", where=str(origin))
    if any(_has_bad_bytes(name) for name in names):
        raise DataError("the header line is not valid UTF-8", where=str(origin), fix="save the file as UTF-8")
    return names


def _csv_row(header: list[str], cells: list[str], origin: Origin) -> RawRow | BadRow:
    if len(cells) != len(header):
        return BadRow(origin, "", f"the row has {len(cells)} cells, the header has {len(header)}")
    for name, cell in zip(header, cells, strict=True):
        if _has_bad_bytes(cell):
            return BadRow(origin, name, "invalid UTF-8")
    return RawRow(origin, dict(zip(header, cells, strict=True)))


def _has_bad_bytes(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)


# ---- Parquet ----


def _read_parquet(path: Path, shown_as: str) -> Iterator[RawRow | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS_AT_ONCE):
                for values in _batch_rows(batch):
                    number += 1
                    origin = Origin(shown_as, number, "row")
                    yield BadRow(origin, "", "invalid UTF-8") if values is None else RawRow(origin, values)
    except pa.ArrowException as error:
        raise DataError(
            f"not a readable Parquet file: {str(error).splitlines()[0]}",
            where=shown_as,
            fix="check or rewrite the file",
        ) from None


def _batch_rows(batch: Any) -> list[dict[str, Any] | None]:
    """The rows of an Arrow record batch; None for one whose text is not UTF-8 (Arrow checks only when it converts)."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for index in range(batch.num_rows) for row in _batch_rows(batch.slice(index, 1))]
