"""Rows to evaluate on: read from JSON Lines, checked, and sampled in a fixed way.

An evaluation row is `{"id", "behaviour", "messages"}` and the fields that its behaviour is judged by: `checks` for
`format`, `topic` and optionally `off` for `topic`, optionally `gold` (accepted answers) and `category` for any.
Multiple choice is `{"id", "question", "choices", "answer"}` with the answer's index (and a `category`), prose
`{"id", "text"}` (and a `title`). A directory of such files is read as one, file by file in the order of their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from burnish.data.conversations import RowError, require_encodable
from burnish.data.examples import Message
from burnish.data.formats import data_suffix, open_data
from burnish.errors import ConfigError, DataError, suggest
from burnish.evaluation.format import Constraint, parse_constraints

BEHAVIOUR_NAMES = ("answers", "format", "harm", "lookalike", "abstain", "answerable", "topic", "open")
"""In the order of every table."""

_STARTER = "starter/"


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One prompt and what its answer is judged by; `category` is what details are counted by."""

    id: str
    behaviour: str
    messages: tuple[Message, ...]
    constraints: tuple[Constraint, ...] = ()
    gold: tuple[str, ...] = ()
    topic: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    category: str = ""

    @property
    def prompt(self) -> str:
        """The last user turn."""
        return self.messages[-1].content

    @property
    def n_turns(self) -> int:
        """How many turns the user has."""
        return sum(message.role == "user" for message in self.messages)


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice question.

    Attributes:
        answer: the index of the right choice.
        category: the subject, where the data has one.
        also_right: indices of further right choices (TruthfulQA's MC2).
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    category: str = ""
    also_right: tuple[int, ...] = ()

    @property
    def right(self) -> frozenset[int]:
        """Every right choice."""
        return frozenset((self.answer, *self.also_right))


@dataclass(frozen=True, slots=True)
class Prose:
    """A held-out plain text."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows came from: what they are, the name that the user gave, the file's sha256 (unzipped) and its number of
    rows."""

    kind: str
    name: str
    sha256: str
    n_rows: int


Row = TypeVar("Row", EvalRow, Choice, Prose)


def load_rows(data: str | Path = "starter/evaluation") -> tuple[list[EvalRow], Source]:
    """Read evaluation rows from a JSON Lines file, a directory of them, or the packaged `starter/NAME`.

    Raises:
        DataError: when the file can't be read or a row is not usable; the message has file, line and field.
    """
    return _load("prompts", data, _eval_row)


def load_choices(data: str | Path = "starter/mcq") -> tuple[list[Choice], Source]:
    """Read multiple-choice questions. Raises DataError as `load_rows`."""
    return _load("multiple choice", data, _choice)


def load_prose(data: str | Path = "starter/prose") -> tuple[list[Prose], Source]:
    """Read plain texts. Raises DataError as `load_rows`."""
    return _load("prose", data, _prose)


def stratified_sample(rows: Sequence[EvalRow], n: int | None, *, seed: int = 0) -> list[EvalRow]:
    """A fixed sample of n rows, shared evenly among the behaviours, in the order of `rows`.

    Each behaviour's first row is always in (a file begins with the ones to show); the others are taken in the
    order of sha256(seed, id), so that the same seed gives the same sample on any machine, a larger sample holds
    the smaller, and a row added elsewhere changes nothing. A behaviour with too few rows gives all of them, and
    its share goes to the others. None, or n of at least the number of rows, gives them all.

    Raises:
        ConfigError: when n is less than the number of behaviours.
    """
    if n is None or n >= len(rows):
        return list(rows)
    queues: dict[str, list[EvalRow]] = {}
    for row in rows:
        queues.setdefault(row.behaviour, []).append(row)
    if n < len(queues):
        raise ConfigError(
            f"a sample needs at least one row for each of the {len(queues)} behaviours, got {n}",
            where="sample",
            fix=f"give a number from {len(queues)} on, or leave it out for all {len(rows)} rows",
        )
    for queue in queues.values():
        queue[1:] = sorted(queue[1:], key=lambda row: hashlib.sha256(f"{seed}:{row.id}".encode()).digest())
    chosen: set[str] = set()
    while len(chosen) < n:
        for queue in queues.values():
            if queue and len(chosen) < n:
                chosen.add(queue.pop(0).id)
    return [row for row in rows if row.id in chosen]


def _load(kind: str, data: str | Path, parse: Callable[[dict[str, Any], str, str], Row]) -> tuple[list[Row], Source]:
    name, files = str(data), _files(data)
    rows: list[Row] = []
    seen: dict[str, str] = {}
    digest = hashlib.sha256()
    for file in files:
        content = read_bytes(file)
        digest.update(content)
        for number, values in objects(str(file), content):
            where = f"{file}:{number}"
            demand_whole_texts(values, where)
            identity = values.get("id")
            if not isinstance(identity, str) or not identity:
                raise DataError(
                    "field 'id' must be a non-empty text", where=where, fix="give every row an id of its own"
                )
            if identity in seen:
                raise DataError(f"id {identity!r} is also that of {seen[identity]}", where=where, fix="rename one")
            seen[identity] = f"line {number}" if len(files) == 1 else where
            rows.append(parse(values, identity, where))
    if not rows:
        raise DataError("no rows", where=name, fix="give a JSON Lines file with at least one row")
    return rows, Source(kind, name, digest.hexdigest(), len(rows))


def _files(data: str | Path) -> list[str | Path]:
    """The file itself, or the `.jsonl` files of a directory, gzipped or not, in the order of their names."""
    if str(data).startswith(_STARTER) or not Path(data).is_dir():
        return [data]
    files: list[str | Path] = [file for file in sorted(Path(data).iterdir()) if data_suffix(file) == ".jsonl"]
    if not files:
        raise DataError("the directory holds no .jsonl file", where=str(data), fix="see docs/suites.md for the rows")
    return files


def read_bytes(data: str | Path) -> bytes:
    """The bytes of a file, unzipped where it ends in `.gz`, or of the packaged `starter/NAME`.

    Raises:
        DataError: it can't be read, or unzipped.
    """
    name = str(data)
    try:
        if isinstance(data, str) and name.startswith(_STARTER) and not Path(name).exists():
            packaged = resources.files("burnish.starter") / f"{name.removeprefix(_STARTER)}.jsonl"
            return packaged.read_bytes()
        with open_data(Path(name), name) as file:
            return file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "give a JSON Lines file, or starter/evaluation, starter/mcq or starter/prose"
        raise DataError(f"can't read the evaluation data: {reason}", where=name, fix=fix) from None


def objects(name: str, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON Lines with their line numbers. Raises DataError where a line holds none."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"not valid UTF-8: {error.reason}", where=where, fix="save the file as UTF-8") from None
        except ValueError as error:
            raise DataError(f"not valid JSON: {error}", where=where, fix="one JSON object a line") from None
        if not isinstance(value, dict):
            raise DataError(f"a row must be an object, got {type(value).__name__}", where=where)
        yield number, value


def demand_whole_texts(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record that holds half a surrogate pair. Raises DataError, which names the field."""
    try:
        require_encodable(record)
    except RowError as error:
        fix = "a text was cut within a character: give it whole, or leave the row out"
        raise DataError(str(error), where=where, fix=fix) from None


def _eval_row(values: dict[str, Any], identity: str, where: str) -> EvalRow:
    _refuse_unknown(values, ("id", "behaviour", "category", "messages", "checks", "gold", "topic", "off"), where)
    behaviour = values.get("behaviour")
    if behaviour not in BEHAVIOUR_NAMES:
        close = suggest(str(behaviour), list(BEHAVIOUR_NAMES))
        raise DataError(
            f"unknown behaviour {behaviour!r}{close}", where=where, fix=f"one of {', '.join(BEHAVIOUR_NAMES)}"
        )
    for field, owner in (("checks", "format"), ("topic", "topic")):
        if (field in values) != (behaviour == owner):
            missing = behaviour == owner
            raise DataError(
                f"field {field!r} {'is missing' if missing else f'does not belong to behaviour {behaviour!r}'}",
                where=where,
                fix=f"{field!r} goes with behaviour {owner!r}, and only with it",
            )
    return EvalRow(
        id=identity,
        behaviour=behaviour,
        messages=_messages(values.get("messages"), where),
        constraints=parse_constraints(values["checks"], where=where) if "checks" in values else (),
        gold=_texts(values, "gold", where),
        topic=_texts(values, "topic", where),
        off=_texts(values, "off", where),
        category=_text(values, "category", where) if "category" in values else "",
    )


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    fix = 'e.g. "messages": [{"role": "user", "content": "..."}]; turns alternate and the user\'s is the last'
    if not isinstance(value, list) or not value:
        raise DataError("field 'messages' must be a non-empty list", where=where, fix=fix)
    messages = []
    for i, turn in enumerate(value):
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            raise DataError(f"messages[{i}] must have a role and a content", where=where, fix=fix)
        if not isinstance(turn["content"], str) or not turn["content"].strip():
            raise DataError(f"messages[{i}].content must be a non-empty text", where=where, fix=fix)
        messages.append(Message(turn["role"], turn["content"]))
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"]:
        raise DataError(f"the roles are {', '.join(map(str, roles))}", where=where, fix=fix)
    return tuple(messages)


def _choice(values: dict[str, Any], identity: str, where: str) -> Choice:
    _refuse_unknown(values, ("id", "category", "question", "choices", "answer"), where)
    choices = _texts(values, "choices", where)
    if len(choices) < 2 or len(set(choices)) != len(choices):
        raise DataError("field 'choices' needs at least two different texts", where=where)
    answer = values.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DataError(
            f"field 'answer' must be an index from 0 to {len(choices) - 1}, got {answer!r}",
            where=where,
            fix="give the place of the right choice, counted from 0",
        )
    category = _text(values, "category", where) if "category" in values else ""
    return Choice(identity, _text(values, "question", where), choices, answer, category)


def _prose(values: dict[str, Any], identity: str, where: str) -> Prose:
    _refuse_unknown(values, ("id", "title", "text"), where)
    return Prose(identity, _text(values, "text", where))


def _refuse_unknown(values: dict[str, Any], known: Sequence[str], where: str) -> None:
    for field in values:
        if field not in known:
            close = suggest(field, list(known))
            raise DataError(f"unknown field {field!r}{close}", where=where, fix=f"known: {', '.join(known)}")


def _text(values: dict[str, Any], field: str, where: str) -> str:
    value = values.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"field {field!r} must be a non-empty text, got {value!r}", where=where)
    return value


def _texts(values: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    if field not in values:
        return ()
    value = values[field]
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise DataError(f"field {field!r} must be a non-empty list of non-empty texts, got {value!r}", where=where)
    return tuple(value)
