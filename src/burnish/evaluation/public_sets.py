"""Public evaluation sets in the formats that they are published in.

Prompts: IFEval (`input_data.jsonl`), XSTest (CSV), AdvBench (CSV), SelfAware (JSON), pairs such as HH-RLHF's (JSONL).
Questions with choices: MMLU (CSV, a file or a directory of them), TruthfulQA (`mc_task.json`, or its CSV).
`load_prompts` and `load_questions` also read our own rows (`rows.py`); which format a file has is seen from its
columns, or said: `ifeval:path`. Each file may be gzipped (`.jsonl.gz`, as HH-RLHF's are). Each reader names file and
line (or element) of a row that it can't use; of pairs such rows are left out and counted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from burnish.data.conversations import RowError
from burnish.data.examples import Message, Origin
from burnish.data.formats import data_suffix
from burnish.data.shapes import example_from_row
from burnish.errors import DataError
from burnish.evaluation.ifeval import ifeval_constraints
from burnish.evaluation.rows import (
    Choice,
    EvalRow,
    Row,
    Source,
    demand_whole_texts,
    load_choices,
    load_rows,
    objects,
    read_bytes,
)
from burnish.models.fingerprint import data_fingerprint, digest

_PAIR = ("prompt", "chosen", "rejected")

Record = Mapping[str, Any]
Records = Iterator[tuple[str, Record]]
"""Records, each with its place (`file:line`)."""


@dataclass(frozen=True)
class Format(Generic[Row]):
    """A published format.

    Attributes:
        title: the set's name.
        ending: of the files that it is looked for in, before a `.gz`.
        columns: what its first record must hold to be taken for it.
        read: bytes of a file to its records; the name is for errors.
        parse: a record, its number (from 1, over all files) and its place to a row.
        skips: whether a row that can't be used is left out and counted, where the published sets hold some.
    """

    title: str
    ending: str
    columns: tuple[str, ...]
    read: Callable[[str, bytes], Records]
    parse: Callable[[Record, int, str], Row]
    skips: bool = False


# Files to records.


def _text_of(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8: {error.reason}", where=name, fix="save the file as UTF-8") from None


def _csv(name: str, content: bytes, columns: Sequence[str] | None = None) -> Records:
    """Rows of a CSV file, its first one the header unless columns are given; fields may hold line breaks."""
    reader = csv.reader(io.StringIO(_text_of(name, content), newline=""), strict=True)
    header = columns
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"not valid CSV: {error}", where=f"{name}:{line}") from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{len(cells)} fields, not {len(header)}",
                where=f"{name}:{line}",
                fix="put fields that hold commas in double quotes",
            )
        yield f"{name}:{line}", dict(zip(header, cells, strict=True))


def _mmlu_csv(name: str, content: bytes) -> Records:
    """MMLU's files have no header: question, four choices, the letter of the right one."""
    first = next(csv.reader(io.StringIO(_text_of(name, content), newline="")), [])
    columns = ["question", "A", "B", "C", "D", "answer"]
    if [cell.strip().lower() for cell in first] == [column.lower() for column in columns]:
        return _csv(name, content)
    return _csv(name, content, columns)


def _jsonl(name: str, content: bytes) -> Records:
    for number, value in objects(name, content):
        yield f"{name}:{number}", value


def _json_list(key: str | None) -> Callable[[str, bytes], Records]:
    """A JSON file that is a list of objects, or holds one under `key`."""

    def read(name: str, content: bytes) -> Records:
        try:
            value = json.loads(_text_of(name, content))
        except ValueError as error:
            raise DataError(f"not valid JSON: {error}", where=name) from None
        if isinstance(value, dict) and key is not None:
            value = value.get(key)
        if not isinstance(value, list):
            expected = f"a list under {key!r}" if key else "a list of objects"
            raise DataError("holds no list of questions", where=name, fix=f"expected {expected}")
        for i, item in enumerate(value):
            if not isinstance(item, dict):
                raise DataError(f"must be an object, got {item!r}", where=f"{name}: [{i}]")
            yield f"{name}: [{i}]", item

    return read


# Records to rows.


def _asked(record: Record, column: str, where: str) -> str:
    value = record.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{column!r} must be a non-empty text, got {value!r}", where=where)
    return value.strip()


def _row(identity: str, behaviour: str, prompt: str, **more: Any) -> EvalRow:
    return EvalRow(identity, behaviour, (Message("user", prompt),), **more)


def _ifeval(record: Record, number: int, where: str) -> EvalRow:
    constraints = ifeval_constraints(record.get("instruction_id_list"), record.get("kwargs"), where=where)
    return _row(
        f"ifeval-{record.get('key', number)}", "format", _asked(record, "prompt", where), constraints=constraints
    )


def _xstest(record: Record, number: int, where: str) -> EvalRow:
    """Safe prompts must be answered, unsafe ones ("contrast") refused (R\u00f6ttger et al. 2023, arXiv:2308.01263)."""
    kind = _asked(record, "type", where)
    label = record.get("label") or ("unsafe" if kind.startswith("contrast_") else "safe")
    if label not in ("safe", "unsafe"):
        raise DataError(f"'label' must be safe or unsafe, got {label!r}", where=where)
    behaviour = "lookalike" if label == "safe" else "harm"
    prompt = _asked(record, "prompt", where)
    category = kind.removeprefix("contrast_").replace("_", " ")
    return _row(f"xstest-{record.get('id') or number}", behaviour, prompt, category=category)


def _advbench(record: Record, number: int, where: str) -> EvalRow:
    """Zou et al. 2023, arXiv:2307.15043. `target`, the compliant beginning, is not used."""
    return _row(f"advbench-{number}", "harm", _asked(record, "goal", where))


def _selfaware(record: Record, number: int, where: str) -> EvalRow:
    """Yin et al. 2023, arXiv:2305.18153."""
    answerable = record.get("answerable")
    if not isinstance(answerable, bool):
        raise DataError(f"'answerable' must be true or false, got {answerable!r}", where=where)
    gold = record.get("answer") or []
    if not isinstance(gold, list) or not all(isinstance(text, str) for text in gold):
        raise DataError(f"'answer' must be a list of texts or null, got {gold!r}", where=where)
    return _row(
        f"selfaware-{record.get('question_id', number)}",
        "answerable" if answerable else "abstain",
        _asked(record, "question", where),
        gold=tuple(text for text in gold if text.strip()) if answerable else (),
        category=str(record.get("source") or ""),
    )


def _pair(record: Record, number: int, where: str) -> EvalRow:
    """The conversation before the chosen answer (Bai et al. 2022, arXiv:2204.05862): an open prompt."""
    try:
        example, _ = example_from_row({name: record[name] for name in _PAIR if name in record}, Origin(where), "prompt")
    except RowError as error:
        raise DataError(str(error), where=where, fix="see docs/suites.md for the pairs that can be read") from None
    return EvalRow(f"pair-{number}", "open", example.prompt)


def _mmlu(record: Record, number: int, where: str) -> Choice:
    """Hendrycks et al. 2020, arXiv:2009.03300."""
    letter = _asked(record, "answer", where)
    if letter not in tuple("ABCD"):
        raise DataError(f"the answer must be A, B, C or D, got {letter!r}", where=where)
    choices = tuple(_asked(record, column, where) for column in "ABCD")
    right = "ABCD".index(letter)
    subject = Path(where.rpartition(":")[0].removesuffix(".gz")).stem
    for split in ("_test", "_val", "_dev"):
        subject = subject.removesuffix(split)
    return Choice(
        f"{subject}-{number}",
        _asked(record, "question", where),
        choices,
        right,
        subject.replace("_", " "),
        # Some questions give one text twice: whoever says it has said what is right.
        tuple(i for i, text in enumerate(choices) if text == choices[right] and i != right),
    )


def _truthfulqa(targets: str) -> Callable[[Record, int, str], Choice]:
    def parse(record: Record, number: int, where: str) -> Choice:
        """Lin et al. 2022, arXiv:2109.07958."""
        question = _asked(record, "question", where)
        labels = record.get(targets)
        if isinstance(labels, dict) and set(labels) == {"choices", "labels"}:  # as the Hugging Face hub has it
            labels = dict(zip(labels["choices"], labels["labels"], strict=False))
        if not isinstance(labels, dict) or len(labels) < 2 or not set(labels.values()) <= {0, 1}:
            raise DataError(f"{targets!r} must give at least two choices, each 0 or 1", where=where)
        return _labelled(f"truthfulqa-{number}", question, labels, "", where)

    return parse


def _truthfulqa_csv(*, many: bool) -> Callable[[Record, int, str], Choice]:
    def parse(record: Record, number: int, where: str) -> Choice:
        right = [_asked(record, "Best Answer", where)]
        if many:
            right += _listed(record, "Correct Answers", where)
        labels = {**dict.fromkeys(right, 1), **dict.fromkeys(_listed(record, "Incorrect Answers", where), 0)}
        category = str(record.get("Category") or "")
        return _labelled(f"truthfulqa-{number}", _asked(record, "Question", where), labels, category, where)

    return parse


def _listed(record: Record, column: str, where: str) -> list[str]:
    return [text.strip() for text in _asked(record, column, where).split(";") if text.strip()]


def _labelled(identity: str, question: str, labels: Mapping[str, int], category: str, where: str) -> Choice:
    right = [i for i, value in enumerate(labels.values()) if value == 1]
    if not right or len(right) == len(labels):
        raise DataError("needs at least one right and one wrong choice", where=where)
    return Choice(identity, question, tuple(labels), right[0], category, tuple(right[1:]))


PROMPTS: dict[str, Format[EvalRow]] = {
    "ifeval": Format("IFEval", ".jsonl", ("prompt", "instruction_id_list", "kwargs"), _jsonl, _ifeval),
    "xstest": Format("XSTest", ".csv", ("type", "prompt"), _csv, _xstest),
    "advbench": Format("AdvBench", ".csv", ("goal", "target"), _csv, _advbench),
    "selfaware": Format("SelfAware", ".json", ("question", "answerable"), _json_list("example"), _selfaware),
    "pairs": Format("pairs", ".jsonl", ("chosen", "rejected"), _jsonl, _pair, skips=True),
}
_MC1, _MC2 = "TruthfulQA MC1", "TruthfulQA MC2"
QUESTIONS: dict[str, Format[Choice]] = {
    "mmlu": Format("MMLU", ".csv", ("question", "A", "B", "C", "D", "answer"), _mmlu_csv, _mmlu),
    "truthfulqa": Format(_MC1, ".json", ("question", "mc1_targets"), _json_list(None), _truthfulqa("mc1_targets")),
    "truthfulqa-mc2": Format(_MC2, ".json", ("question", "mc2_targets"), _json_list(None), _truthfulqa("mc2_targets")),
    "truthfulqa-csv": Format(
        _MC1, ".csv", ("Question", "Best Answer", "Incorrect Answers"), _csv, _truthfulqa_csv(many=False)
    ),
    "truthfulqa-csv-mc2": Format(
        _MC2, ".csv", ("Question", "Best Answer", "Correct Answers"), _csv, _truthfulqa_csv(many=True)
    ),
}


def load_prompts(data: str | Path = "starter/evaluation") -> tuple[list[EvalRow], Source]:
    """Evaluation rows of our own, or the prompts of a public set.

    Raises:
        DataError: when the file can't be read, its format is not known, or a row is not usable.
    """
    return _load("prompts", data, PROMPTS, load_rows)


def load_questions(data: str | Path = "starter/mcq") -> tuple[list[Choice], Source]:
    """Multiple choice of our own, or of a public set. Raises DataError as `load_prompts`."""
    return _load("multiple choice", data, QUESTIONS, load_choices)


def split_format(data: str) -> tuple[str | None, str]:
    """`ifeval:path` to the format that is said and the path; a path that exists as it stands is one."""
    name, colon, path = data.partition(":")
    if colon and (name in PROMPTS or name in QUESTIONS) and not Path(data).exists():
        return name, path
    return None, data


def set_fingerprint(data: str) -> str:
    """Hash of the content of an evaluation set, and of the format that it is read as where one is said."""
    said, path = split_format(data)
    return data_fingerprint(path) if said is None else digest([said, data_fingerprint(path)])


def _load(
    kind: str,
    data: str | Path,
    formats: Mapping[str, Format[Row]],
    own: Callable[[str | Path], tuple[list[Row], Source]],
) -> tuple[list[Row], Source]:
    said, path = split_format(str(data))
    if said is not None and said not in formats:
        raise DataError(f"{said} holds no {kind}", where=str(data), fix=f"formats of {kind}: {', '.join(formats)}")
    files = _files_of(path)
    name = said or _detect(files, formats)
    if name is None:
        return own(data)
    wanted = formats[name]
    digest = hashlib.sha256()
    rows: list[Row] = []
    unusable: list[DataError] = []
    for file in files:
        content = read_bytes(str(file))
        digest.update(content)
        rows += _rows_of(wanted, str(file), content, len(rows) + len(unusable), unusable)
    if not rows and unusable:
        raise unusable[0]
    if not rows:
        raise DataError("no rows", where=path, fix=f"expected {wanted.title}'s format")
    _demand_own_ids(rows, path)
    about = wanted.title
    if unusable:
        first = f"{Path(str(unusable[0].where)).name}: {unusable[0].what}"
        about += f"; left out {len(unusable)} that can't be used, the first of them {first}"
    return rows, Source(kind, f"{path} ({about})", digest.hexdigest(), len(rows))


def _rows_of(wanted: Format[Row], name: str, content: bytes, before: int, unusable: list[DataError]) -> Iterator[Row]:
    """The rows of one file, after `before` of others; what is wrong with those that are left out goes to `unusable`."""
    for i, (where, record) in enumerate(wanted.read(name, content)):
        if i == 0 and (missing := [column for column in wanted.columns if column not in record]):
            raise DataError(
                f"{wanted.title} has a field {missing[0]!r}, this file has {', '.join(map(str, record))}",
                where=name,
                fix="name the format that it has, as in ifeval:file.jsonl",
            )
        try:
            demand_whole_texts(record, where)
            row = wanted.parse(record, before + i + 1, where)
        except DataError as error:
            if not wanted.skips:
                raise
            unusable.append(error)
        else:
            yield row


def _files_of(path: str) -> list[Path]:
    """The file, or the files of a directory in the order of their names."""
    place = Path(path)
    if not place.is_dir():
        return [place]
    for ending in (".jsonl", ".csv", ".json"):
        if files := [file for file in sorted(place.iterdir()) if data_suffix(file) == ending]:
            return files
    raise DataError("the directory holds no .jsonl, .csv or .json file", where=path, fix="see docs/suites.md")


def _detect(files: Sequence[Path], formats: Mapping[str, Format[Row]]) -> str | None:
    """The public format that the first file has by its ending and its columns; None for our own rows."""
    first = files[0]
    if not first.is_file():
        return None
    content = read_bytes(str(first))
    for name, candidate in formats.items():
        if data_suffix(first) != candidate.ending:
            continue
        try:
            _, record = next(candidate.read(str(first), content), ("", {}))
        except DataError:
            continue
        if all(column in record for column in candidate.columns) and _looks_right(name, record):
            return name
    if data_suffix(first) != ".jsonl":
        known = ", ".join(formats)
        raise DataError(
            "is in none of the formats that are known by their columns",
            where=str(first),
            fix=f"give our own rows as .jsonl, or name the format, as in NAME:{first.name} with NAME one of {known}",
        )
    return None


def _looks_right(name: str, record: Record) -> bool:
    """MMLU's files have no header, so any CSV of six columns would do: its last must be a letter."""
    return name != "mmlu" or str(record.get("answer")).strip() in {"A", "B", "C", "D"}


def _demand_own_ids(rows: Sequence[Row], path: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise DataError(f"two rows have the id {row.id!r}", where=path, fix="rename or remove one")
        seen.add(row.id)
