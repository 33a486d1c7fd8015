"""Results on disk: a JSON file for each thing that was measured, and the markdown that is made of them.

A record holds everything that its section of RESULTS.md says: `stage`, `machine`, `date`, `commands`, `notes`, the
setting and every run. So each can be measured again alone, and RESULTS.md is rendered anew from all of them.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.machine import describe

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results"
WIDTH = 120

Record = dict[str, Any]


def new_record(stage: str, **values: Any) -> Record:
    """A record of today on this machine; `notes` is for what a reader of the numbers must be told besides.

    `preload` are the libraries that this process, and every side that it starts, was given by LD_PRELOAD: such as an
    allocator, which decides how much memory a process takes.
    """
    date = datetime.date.today().isoformat()
    preload = " ".join(Path(name).name for name in re.split("[ :]+", os.environ.get("LD_PRELOAD", "")) if name)
    return {"stage": stage, "date": date, "machine": describe(), "notes": "", "preload": preload, **values}


def save(name: str, record: Record, directory: Path) -> Path:
    """Write a record as `DIRECTORY/NAME.json`, in the place of an older one measured with the same libraries."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{slug(' '.join([name, record.get('preload', '')]))}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load_all(directory: Path = RESULTS) -> list[Record]:
    """All records, by file name.

    Raises:
        SystemExit: a file is no record.
    """
    records = []
    for path in sorted(directory.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            assert isinstance(record["stage"], str)
        except (json.JSONDecodeError, KeyError, TypeError, AssertionError):
            raise SystemExit(f"{path} is no result of a benchmark\n  to do: delete it, or measure again") from None
        records.append(record)
    return records


def slug(text: str) -> str:
    """A file name made of a text."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def data_label(data: str) -> str:
    """What a data set is called in results: its file's name, without the path to it."""
    return data if data.startswith("starter/") else Path(data).name


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with columns of equal width, the numbers to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| "
        + " | ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def with_range(values: tuple[float, float, float], form: str = ".2f") -> str:
    """`1.66 (1.61 to 1.71)` of (value, lowest, highest); of a single round, whose value is all three, `1.66`."""
    value, low, high = values
    return f"{value:{form}}" if value == low == high else f"{value:{form}} ({low:{form}} to {high:{form}})"


def ratio_title(rounds: Sequence[Record]) -> str:
    """What a column of `with_range` is called."""
    return "ratio" if len(rounds) == 1 else "ratio (range over the rounds)"


def counted(n: int, thing: str) -> str:
    """`1 round`, `2 rounds`."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def commands(record: Record) -> str:
    """The record's commands as an indented block."""
    preload = f"LD_PRELOAD={shlex.quote(record['preload'])} " if record.get("preload") else ""
    return "\n".join(f"    {preload}{command}" for command in record["commands"])


def setting_title(title: str, record: Record) -> str:
    """A section's title, with the libraries that all sides were given besides."""
    return f"{title}, with {record['preload']}" if record.get("preload") else title


def versions(results: Sequence[Record]) -> str:
    """`trl 1.16.0, torch 2.13.0` of the first result of a side."""
    return ", ".join(f"{name} {number}" for name, number in results[0]["versions"].items())


def section(title: str, parts: Sequence[str]) -> str:
    """A section of RESULTS.md, its paragraphs one below the other; those of one line are wrapped."""
    return f"## {title}\n\n" + "\n\n".join(_wrapped(part.strip("\n")) for part in parts if part.strip()) + "\n"


def _wrapped(part: str) -> str:
    if "\n" in part or part.startswith(("|", "    ", "!")):
        return part
    return textwrap.fill(part, WIDTH, break_long_words=False, break_on_hyphens=False)
