"""Data by its name to examples: a file, a directory, `starter/NAME` or a hub id.

A row that can't be used is an error that names its file, line and field; with `on_bad_row="skip"` it is counted and
listed instead. Nothing is left out silently.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from burnish.data.conversations import RowError
from burnish.data.examples import BadRow, Example, Kind, Message, Origin
from burnish.data.formats import SUFFIXES, RawRow, data_suffix, read_rows
from burnish.data.shapes import UNDERSTOOD, example_from_row, names_of, with_margin
from burnish.errors import DataError, suggest

__all__ = ["BadRow", "Example", "Kind", "LoadedData", "Message", "Origin", "load_as_one_of", "load_examples"]

_STARTER = "starter/"
_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?")
_SPLIT_NAME = re.compile(r"(train|test|valid|validation|val|dev|eval)(?![a-z])", re.IGNORECASE)
_LISTED = 10
"""How many bad rows a message lists; the count is always of all."""
_LOOKED_AT = 100
"""Usable rows, at most, from which the kind of the data is told; given up after ten times as many rows in all."""


@dataclass(frozen=True)
class LoadedData:
    """Examples, and what became of every row.

    Attributes:
        examples: the usable rows, in the order of the data.
        bad_rows: the rows left out (`on_bad_row="skip"`).
        n_read: rows read, good and bad.
        shapes: how many rows were read as which shape.
    """

    examples: list[Example]
    bad_rows: list[BadRow]
    n_read: int
    source: str = ""
    shapes: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """What was read and what was left out, in a few lines."""
        read_as = "; ".join(f"{count:,} as {shape}" for shape, count in self.shapes.items())
        lines = [f"{self.source}: {_rows(self.n_read)} read" + (f" ({read_as})" if read_as else "")]
        if self.bad_rows:
            lines.append(left_out(self.bad_rows))
        return "\n".join(lines)


def left_out(bad_rows: list[BadRow]) -> str:
    """How many rows were left out, and the first of them with their reasons."""
    return "\n".join([f"{_rows(len(bad_rows))} left out:", *(f"  {line}" for line in _listing(bad_rows))])


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _listing(bad_rows: list[BadRow]) -> list[str]:
    more = len(bad_rows) - _LISTED
    return [str(row) for row in bad_rows[:_LISTED]] + ([f"and {more:,} more"] if more > 0 else [])


def load_examples(
    data: str | Path,
    *,
    kind: Kind,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    limit: int | None = None,
    split: str | None = None,
    margin: str | None = None,
) -> LoadedData:
    """Read data in any of the shapes of `burnish.data.shapes`.

    Args:
        data: a `.jsonl`, `.json`, `.csv` (each also `.gz`) or `.parquet` file; a directory of them; `starter/NAME`
            for data that comes with burnish; or a hub id, `ORG/NAME` or `ORG/NAME:CONFIG`.
        kind: what a row must yield.
        columns: old column name to new, applied before anything else (`--map old=new`).
        on_bad_row: `error` reads everything and then raises with every bad row counted; `skip` leaves them out.
        limit: stop after that many examples.
        split: of a hub id (default `train`), or of a directory, where the files' names begin with it.
        margin: of pairs, the column (after `columns`) with each one's margin; a row without a usable one is bad.

    Raises:
        DataError: when the data can't be found or read, holds no rows, or no usable ones; on bad rows unless skipped.
    """
    rows = _find_rows(str(data), split)
    return _load(rows, str(data), kind, columns, on_bad_row=on_bad_row, limit=limit, margin=margin)


def load_as_one_of(
    data: str | Path,
    *,
    kinds: Sequence[Kind],
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    limit: int | None = None,
    split: str | None = None,
) -> tuple[Kind, LoadedData]:
    """Read data whose kind its rows must tell: that which most of the first rows can be, the earlier one of a tie.

    Prompts, which nearly any row can be, are taken only where the rows can be nothing else.

    Args:
        data: as for `load_examples`, and so are the others.
        kinds: what the rows may be, two at least.
        columns: see there.
        on_bad_row: see there.
        limit: see there.
        split: see there.

    Raises:
        DataError: see there; and when the rows are of none of these kinds.
    """
    rows = iter(_find_rows(str(data), split))
    head, kind = _look(rows, str(data), kinds, _Renames(columns or {}))
    return kind, _load(chain(head, rows), str(data), kind, columns, on_bad_row=on_bad_row, limit=limit)


def _look(
    rows: Iterator[RawRow | BadRow], source: str, kinds: Sequence[Kind], renames: _Renames
) -> tuple[list[RawRow | BadRow], Kind]:
    """The first rows, and the kind that they are of; where none of them can be used, the one that some begin to be."""
    whole = [kind for kind in kinds if kind != "prompt"]
    head: list[RawRow | BadRow] = []
    usable, begun = Counter[Kind](), Counter[Kind]()
    for row in rows:
        head.append(row)
        for kind in kinds:
            why = _why_not(row, kind, renames)
            usable[kind] += why is None
            begun[kind] += why is None or bool(why.field)
        if len(head) >= 10 * _LOOKED_AT or max(usable[kind] for kind in whole) >= _LOOKED_AT:
            break
    if head and not any(begun.values()) and all(isinstance(row, RawRow) for row in head):
        renames.check(source)
        raise _no_known_shape(head, kinds)
    found = usable if any(usable.values()) else begun
    return head, max(whole if any(found[kind] for kind in whole) else kinds, key=lambda kind: found[kind])


def _why_not(row: RawRow | BadRow, kind: Kind, renames: _Renames) -> RowError | None:
    """Why a row can't be of that kind, if so; with no field where it has nothing of the kind's columns."""
    if isinstance(row, BadRow):
        return RowError("", row.why)
    try:
        example_from_row(renames.apply(row), row.origin, kind)
    except RowError as error:
        return error
    return None


def _no_known_shape(head: Sequence[RawRow | BadRow], kinds: Sequence[Kind]) -> DataError:
    first = head[0]
    has = names_of(first.values) if isinstance(first, RawRow) else "nothing"
    understood = "; or ".join(f"{kind} data: {UNDERSTOOD[kind]}" for kind in kinds)
    return DataError(
        f"no row is of a known shape: the first has {has}",
        where=str(first.origin),
        fix=f"a row holds {understood}. Columns of other names can be mapped (--map old=new)",
    )


def _load(
    rows: Iterable[RawRow | BadRow],
    source: str,
    kind: Kind,
    columns: Mapping[str, str] | None,
    *,
    on_bad_row: Literal["error", "skip"],
    limit: int | None,
    margin: str | None = None,
) -> LoadedData:
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}", fix="leave limit away to read everything")
    renames = _Renames(columns or {})
    examples: list[Example] = []
    bad_rows: list[BadRow] = []
    shapes: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, BadRow):
            bad_rows.append(row)
            continue
        try:
            example, shape = example_from_row(renames.apply(row), row.origin, kind)
            example = example if margin is None else with_margin(example, margin)
        except RowError as error:
            bad_rows.append(BadRow(row.origin, error.field, error.why))
            continue
        examples.append(example)
        shapes[shape] += 1
        if limit is not None and len(examples) == limit:
            break
    renames.check(source)
    loaded = LoadedData(examples, bad_rows, len(examples) + len(bad_rows), source, dict(shapes))
    _check_loaded(loaded, kind, on_bad_row)
    return loaded


def _check_loaded(loaded: LoadedData, kind: Kind, on_bad_row: str) -> None:
    if loaded.n_read == 0:
        raise DataError("the data holds no rows", where=loaded.source)
    if not loaded.bad_rows or (loaded.examples and on_bad_row == "skip"):
        return
    if not loaded.examples:
        fix = f"{kind} data is {UNDERSTOOD[kind]}; columns of other names can be mapped (--map old=new)"
    else:
        fix = "mend what is listed, or leave bad rows out with on_bad_row: skip"
    first, count = loaded.bad_rows[0], len(loaded.bad_rows)
    if count == 1:
        raise DataError(first.why, where=first.place, fix=fix)
    of_all = f"all {count:,} rows" if not loaded.examples else f"{count:,} of {loaded.n_read:,} rows"
    if len({(row.field, row.why) for row in loaded.bad_rows}) == 1:
        where = f"{first.place}, and {_rows(count - 1)} more of the same"
        raise DataError(f"{of_all} can't be used: {first.why}", where=where, fix=fix)
    raise DataError(f"{of_all} can't be used", where="\n         ".join(_listing(loaded.bad_rows)), fix=fix)


# ---- columns ----


class _Renames:
    """`--map old=new`, remembering which old names occurred: one that never does is a typing error."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        targets = list(columns.values())
        twice = next((new for new in targets if targets.count(new) > 1), None)
        if twice is not None:
            raise DataError(f"two columns are mapped to {twice!r}", where="--map", fix="map one of them")
        self.columns = {old: new for old, new in columns.items() if old != new}
        self.found: set[str] = set()
        self.names: dict[str, None] = {}

    def apply(self, row: RawRow) -> dict[str, Any]:
        """The row's values under their new names; nothing is overwritten."""
        if not self.columns:
            return row.values
        self.names.update(dict.fromkeys(row.values))
        present = {old: new for old, new in self.columns.items() if old in row.values}
        self.found |= present.keys()
        for old, new in present.items():
            if new in row.values and new not in present:
                raise RowError(new, f"exists, so {old!r} can't be mapped to it")
        return {present.get(name, name): value for name, value in row.values.items()}

    def check(self, source: str) -> None:
        """Raise if a name to be mapped was in no row."""
        for old, new in self.columns.items():
            if self.names and old not in self.found:
                has = ", ".join(map(repr, self.names))
                raise DataError(
                    f"no row has the column {old!r} that is mapped to {new!r}{suggest(old, list(self.names))}",
                    where=source,
                    fix=f"the columns are {has}",
                )


# ---- places ----


def _find_rows(data: str, split: str | None) -> Iterable[RawRow | BadRow]:
    path = Path(data).expanduser()
    if data.startswith(_STARTER) and data_suffix(path) is None and not path.exists():
        return _starter_rows(data)
    if path.is_dir():
        return _directory_rows(path, data, split)
    if path.exists():
        if split is not None:
            raise DataError("a single file has no splits", where=data, fix="leave split away")
        return read_rows(path, data)
    hub = _HUB_ID.fullmatch(data)
    if hub is None or data_suffix(path) is not None or data.startswith("."):
        raise _no_such_file(path, data)
    return _hub_rows(data, hub["id"], hub["config"], split or "train")


def _no_such_file(path: Path, data: str) -> DataError:
    try:
        names = sorted(item.name for item in path.parent.iterdir() if item.is_dir() or data_suffix(item))
    except OSError:
        names = []
    close = suggest(path.name, names)
    return DataError(
        f"no such data file{close}", where=data, fix="give a file, a directory, starter/NAME, or a hub id as ORG/NAME"
    )


def _starter_rows(data: str) -> Iterator[RawRow | BadRow]:
    folder = resources.files("burnish.starter")
    name = data.removeprefix(_STARTER)
    names = sorted(item.name.removesuffix(".jsonl") for item in folder.iterdir() if item.name.endswith(".jsonl"))
    if name not in names:
        known = ", ".join(_STARTER + known for known in names)
        raise DataError(f"no starter data of that name{suggest(name, names)}", where=data, fix=f"there is: {known}")
    with resources.as_file(folder / f"{name}.jsonl") as path:
        yield from read_rows(path, data)


def _directory_rows(path: Path, data: str, split: str | None) -> Iterator[RawRow | BadRow]:
    """The rows of every data file below a directory, files in the order of their names."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and data_suffix(file) and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    if not files:
        raise DataError("the directory holds no data files", where=data, fix=f"burnish reads {', '.join(SUFFIXES)}")
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    names = sorted({name for name in splits.values() if name})
    if split is not None:
        files = [file for file in files if splits[file] == _split_name(split)]
        if not files:
            raise DataError(
                f"no file of split {split!r}", where=data, fix=f"there is: {', '.join(names) or 'no split'}"
            )
    elif len(names) > 1:
        raise DataError(
            f"the directory holds several splits ({', '.join(names)}), which must not be mixed",
            where=data,
            fix="name one as split, or give its file",
        )
    for file in files:
        yield from read_rows(file, str(Path(data) / file.relative_to(path)))


def _split_name(name: str) -> str:
    return {"valid": "validation", "val": "validation", "dev": "validation"}.get(name.lower(), name.lower())


def _split_of(relative: Path) -> str | None:
    """The split that a file's name, or a folder above it, begins with: `train` for `train-00000-of-00002.parquet`."""
    for part in reversed(relative.parts):
        if match := _SPLIT_NAME.match(part):
            return _split_name(match[1])
    return None


def _hub_rows(data: str, hub_id: str, config: str | None, split: str) -> Iterator[RawRow | BadRow]:
    """The rows of a dataset on the hub. `datasets` runs no code of the repository."""
    import datasets

    try:
        table = datasets.load_dataset(hub_id, config, split=split)
    except Exception as error:
        # The hub client raises dozens of types, from DNS failures to a missing split: all mean the same here.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{data!r} is no local file, and can't be loaded from the Hugging Face hub: {reason}",
            where=f"{data} (split {split!r})",
            fix="check the path or the id, the split and the network; or download the data and give the file",
        ) from None
    for number, values in enumerate(table, start=1):
        yield RawRow(Origin(f"{data} {split}", number, "row"), dict(values))
