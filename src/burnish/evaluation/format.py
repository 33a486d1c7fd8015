"""Verifiable constraints on the form of an answer, in the manner of IFEval (Zhou et al. 2023, arXiv:2311.07911).

A constraint is a function of the answer and of typed keyword arguments. Its signature is the schema of a
check in an evaluation row (`{"type": "bullets", "n": 3}`), its docstring is the rule that the report prints. It
returns None when the text meets it, or in a few words why not.
"""

from __future__ import annotations

import inspect
import json as json_module
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from burnish.errors import DataError, suggest
from burnish.evaluation import text as prose
from burnish.evaluation.answers import Answer, Verdict, accept, reject, says_something, stops

_Checker = Callable[..., str | None]


@dataclass(frozen=True, slots=True)
class ConstraintType:
    """A kind of constraint: its name, its rule in words, its function and its arguments with their types."""

    name: str
    rule: str
    check: _Checker
    arguments: Mapping[str, Any]
    required: frozenset[str]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint type with its arguments, as it stands in an evaluation row."""

    kind: ConstraintType
    arguments: Mapping[str, Any]

    def failure(self, text: str) -> str | None:
        """Why `text` does not meet the constraint, or None when it does."""
        return self.kind.check(text.strip(), **self.arguments)

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.kind.name}({inner})" if inner else self.kind.name


CONSTRAINTS: dict[str, ConstraintType] = {}


def constraint(function: _Checker) -> _Checker:
    """Register a constraint under its function's name; arguments are `int`, `str`, `bool` or `list[str]`."""
    name = function.__name__
    if name in CONSTRAINTS:
        raise ValueError(f"constraint {name!r} is registered twice")
    parameters = dict(inspect.signature(function).parameters)
    parameters.pop("answer")
    hints = get_type_hints(function)
    CONSTRAINTS[name] = ConstraintType(
        name=name,
        rule=" ".join((inspect.getdoc(function) or "").split()),
        check=function,
        arguments={key: hints[key] for key in parameters},
        required=frozenset(key for key, p in parameters.items() if p.default is inspect.Parameter.empty),
    )
    return function


def parse_constraints(checks: Any, *, where: str) -> tuple[Constraint, ...]:
    """Read the `checks` of an evaluation row.

    Raises:
        DataError: when it is not a non-empty list of objects with a known `type` and that type's arguments.
    """
    if not isinstance(checks, list) or not checks:
        raise DataError(
            f"'checks' must be a non-empty list, got {checks!r}", where=where, fix='e.g. [{"type": "one_word"}]'
        )
    return tuple(_parse_one(check, f"{where}: checks[{i}]") for i, check in enumerate(checks))


def _parse_one(check: Any, where: str) -> Constraint:
    if not isinstance(check, dict) or not isinstance(check.get("type"), str):
        raise DataError(
            f"a check must be an object with a 'type', got {check!r}",
            where=where,
            fix='e.g. {"type": "bullets", "n": 3}',
        )
    name = check["type"]
    kind = CONSTRAINTS.get(name)
    if kind is None:
        known = sorted(CONSTRAINTS)
        raise DataError(
            f"unknown constraint type {name!r}{suggest(name, known)}", where=where, fix=f"known: {', '.join(known)}"
        )
    given = {key: value for key, value in check.items() if key != "type"}
    takes = f"{name} takes {_describe(kind)}"
    if unknown := sorted(set(given) - set(kind.arguments)):
        close = suggest(unknown[0], list(kind.arguments))
        raise DataError(f"{name} has no argument {unknown[0]!r}{close}", where=where, fix=takes)
    if missing := sorted(kind.required - set(given)):
        raise DataError(f"{name} needs the argument {missing[0]!r}", where=where, fix=takes)
    for key, value in given.items():
        if not _fits(value, kind.arguments[key]):
            raise DataError(f"{name}: {key}={value!r} is not usable", where=where, fix=takes)
    return Constraint(kind, given)


def _fits(value: Any, wanted: Any) -> bool:
    """Type and sense: counts are at least 1, texts and lists are not empty."""
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if wanted is str:
        return isinstance(value, str) and bool(value.strip())
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)


def _describe(kind: ConstraintType) -> str:
    meaning = {int: "a whole number from 1", str: "a text", bool: "true or false"}
    parts = [
        f"{key} ({meaning.get(wanted, 'a list of texts')}{'' if key in kind.required else ', optional'})"
        for key, wanted in kind.arguments.items()
    ]
    return ", ".join(parts) or "no arguments"


def follows_format(answer: Answer, constraints: Sequence[Constraint]) -> Verdict:
    """The answer is not empty, the model ends it with its own stop token within the limit, and every constraint
    of the prompt holds for the whole answer (each constraint's rule is listed below)."""
    for verdict in (says_something(answer), stops(answer)):
        if not verdict:
            return verdict
    for item in constraints:
        failure = item.failure(answer.text)
        if failure is not None:
            return reject(f"{item}: {failure}")
    return accept("meets " + ", ".join(str(item) for item in constraints))


_WRAPPING = "\"'*_ \t\n"
_BULLET = re.compile(r"^[-*\u2022\u25e6]\s+(?=\S)")
_NUMBERED = re.compile(r"^(\d{1,3})[.)]\s+(?=\S)")
_FENCE = re.compile(r"^```(?:json)?[ \t]*\n(.*?)\n?```$", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def _unwrapped(answer: str) -> str:
    """Without the quotes and emphasis around it and without closing punctuation."""
    return prose.normalise(answer).strip(_WRAPPING).rstrip(".!?" + _WRAPPING)


def _counted(found: int, wanted: int, what: str) -> str | None:
    return None if found == wanted else f"{found} {what}, not {wanted}"


@constraint
def one_word(answer: str, /) -> str | None:
    """The answer is a single word: nothing but quotes, emphasis or closing punctuation beside it. A hyphen or an
    apostrophe inside is part of the word."""
    if re.fullmatch(r"[^\W_]+(?:['.&/-][^\W_]+)*", _unwrapped(answer)):
        return None
    count = len(prose.words(answer))
    return f"{count} words" if count != 1 else "not a plain word"


@constraint
def sentences(answer: str, /, *, n: int) -> str | None:
    """The answer has exactly n sentences. A sentence ends at a full stop, question or exclamation mark or at the
    end of a line; titles, initials and abbreviations such as Dr. or e.g. do not end one."""
    return _counted(len(prose.sentences(answer)), n, "sentences")


@constraint
def bullets(answer: str, /, *, n: int) -> str | None:
    """Exactly n lines begin with a bullet mark (-, * or a dot) and a space. A line before or after the list is
    allowed, a numbered item is not."""
    found = prose.lines(answer)
    if any(_NUMBERED.match(line) for line in found):
        return "numbered items among the bullets"
    return _counted(sum(bool(_BULLET.match(line)) for line in found), n, "bullets")


@constraint
def numbered(answer: str, /, *, n: int) -> str | None:
    """Exactly n lines are numbered, 1. or 1) up to n in order. A line before or after the list is allowed."""
    marks = [int(match.group(1)) for line in prose.lines(answer) if (match := _NUMBERED.match(line))]
    if len(marks) != n:
        return f"{len(marks)} numbered items, not {n}"
    return None if marks == list(range(1, n + 1)) else f"numbered {marks}"


@constraint
def paragraphs(answer: str, /, *, n: int) -> str | None:
    """Exactly n paragraphs, divided by blank lines (a line of asterisks or dashes between them is allowed)."""
    return _counted(len(prose.paragraphs(answer)), n, "paragraphs")


@constraint
def json(answer: str, /, *, keys: list[str] | None = None) -> str | None:
    """The whole answer is one valid JSON object (a code fence around it is allowed) whose keys are the asked ones,
    no more and no fewer, each once."""
    fenced = _FENCE.match(answer)
    try:
        value = json_module.loads(
            fenced.group(1) if fenced else answer, object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    if not isinstance(value, dict):
        return f"JSON, but not an object: {type(value).__name__}"
    if keys is not None and set(value) != set(keys):
        return f"keys {sorted(value)}, not {sorted(keys)}"
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key comes twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@constraint
def yes_no(answer: str, /) -> str | None:
    """The answer is yes or no, in any case, and nothing else but closing punctuation."""
    return None if _unwrapped(answer).lower() in {"yes", "no"} else "not a bare yes or no"


@constraint
def upper(answer: str, /) -> str | None:
    """Every letter is a capital, and there is at least one."""
    return _one_case(answer, str.islower, "small letters")


@constraint
def lower(answer: str, /) -> str | None:
    """Every letter is a small one, and there is at least one."""
    return _one_case(answer, str.isupper, "capital letters")


def _one_case(answer: str, wrong: Callable[[str], bool], what: str) -> str | None:
    if not any(c.isalpha() for c in answer):
        return "no letters"
    found = "".join(c for c in answer if wrong(c))
    return f"{what}: {found[:12]}" if found else None


@constraint
def starts_with(answer: str, /, *, text: str) -> str | None:
    """The answer begins with the given words, whatever the case; quotes and emphasis before them are passed over,
    and the last word must be whole."""
    opening = prose.fold(answer).lstrip(_WRAPPING)
    return None if re.match(re.escape(prose.fold(text)) + r"(?!\w)", opening) else "does not start so"


@constraint
def ends_with(answer: str, /, *, text: str) -> str | None:
    """The answer ends with the given words, whatever the case; quotes and emphasis after them are passed over, and
    so is closing punctuation when the words themselves have none. The first word must be whole."""
    wanted = prose.fold(text).rstrip(_WRAPPING)
    ending = prose.fold(answer).rstrip(_WRAPPING)
    if wanted[-1:].isalnum():
        ending = ending.rstrip(".!?" + _WRAPPING)
    return None if re.search(r"(?<!\w)" + re.escape(wanted) + r"$", ending) else "does not end so"


@constraint
def no_comma(answer: str, /) -> str | None:
    """There is no comma anywhere in the answer."""
    count = sum(answer.count(mark) for mark in ",\uff0c\u3001")
    return f"{count} commas" if count else None


@constraint
def includes(answer: str, /, *, words: list[str]) -> str | None:
    """Each given word or phrase stands in the answer as a whole word, whatever the case."""
    missing = [word for word in words if not prose.find_phrase(word, answer)]
    return f"without {', '.join(missing)}" if missing else None


@constraint
def excludes(answer: str, /, *, words: list[str]) -> str | None:
    """None of the given words or phrases stands in the answer as a whole word, whatever the case."""
    found = [word for word in words if prose.find_phrase(word, answer)]
    return f"has {', '.join(found)}" if found else None


@constraint
def max_words(answer: str, /, *, n: int) -> str | None:
    """At most n words, split at white space (a bare mark of punctuation is not a word)."""
    count = len(prose.words(answer))
    return f"{count} words" if count > n else None


@constraint
def min_words(answer: str, /, *, n: int) -> str | None:
    """At least n words, split at white space (a bare mark of punctuation is not a word)."""
    count = len(prose.words(answer))
    return f"{count} words" if count < n else None


@constraint
def comma_list(answer: str, /, *, n: int) -> str | None:
    """The answer is one line of exactly n items with commas between them and nothing else: no lead-in, at most
    five words an item. An "and" after the last comma and a closing full stop are allowed."""
    if len(prose.lines(answer)) != 1:
        return f"{len(prose.lines(answer))} lines"
    items = [item.strip() for item in _unwrapped(answer).split(",")]
    if len(items) != n:
        return f"{len(items)} items, not {n}"
    items[-1] = re.sub(r"^(?:and|or)\s+", "", items[-1], flags=re.IGNORECASE)
    if any(not prose.has_word(item) for item in items):
        return "an empty item"
    if ":" in answer or any(len(prose.words(item)) > 5 for item in items):
        return "more than a list"
    return None


@constraint
def number(answer: str, /) -> str | None:
    """The answer is one number in digits (sign, thousands commas and decimals allowed) and nothing else but a
    closing full stop."""
    return None if _NUMBER.fullmatch(_unwrapped(answer)) else "not a bare number"


@constraint
def title(answer: str, /) -> str | None:
    """There is a title in double angle brackets: <<The Long Way Home>>."""
    # The raw answer: normal form would turn guillemets into plain quotes, and they are not what was asked.
    return None if re.search(r"<<[^<>\n]*\w[^<>\n]*>>", answer) else "no <<title>>"


@constraint
def quoted(answer: str, /) -> str | None:
    """The whole answer stands in double quotation marks."""
    plain = prose.normalise(answer).strip()
    inside = len(plain) > 2 and plain[0] == plain[-1] == '"' and prose.has_word(plain)
    return None if inside else "not in double quotes from first to last"


@constraint
def postscript(answer: str, /) -> str | None:
    """A line begins with P.S. (or PS:, P.P.S.) and says something."""
    for line in prose.lines(answer):
        match = re.match(r"^[*_\s]*p\.?\s?(?:p\.?\s?)?s(?:\.|:|\b)[*_:.\s]*", line, re.IGNORECASE)
        if match and prose.has_word(line[match.end() :]):
            return None
    return "no postscript"


@constraint
def choice(answer: str, /, *, options: list[str], only: bool = True) -> str | None:
    """The answer is exactly one of the options, whatever the case, with nothing else but quotes, emphasis or
    closing punctuation. With only=false it may be a sentence, but it must name one option and no other."""
    if only:
        bare = prose.fold(_unwrapped(answer).strip("()"))
        fits = bare in {prose.fold(_unwrapped(option)) for option in options}
        return None if fits else f"not one of {', '.join(options)} alone"
    named = [option for option in options if prose.find_phrase(option, answer)]
    return None if len(named) == 1 else f"names {', '.join(named) or 'no option'}"


@constraint
def placeholder(answer: str, /, *, n: int = 1) -> str | None:
    """At least n placeholders in square brackets, such as [name]; a link or a tick box is not one."""
    count = len(re.findall(r"\[[^\[\]\n]*[^\W\d_]{2,}[^\[\]\n]*\](?!\()", answer))
    return None if count >= n else f"{count} placeholders"


@constraint
def highlight(answer: str, /, *, n: int = 1) -> str | None:
    """At least n passages are *highlighted* or **highlighted** with asterisks."""
    count = len(re.findall(r"(?<![*\w])(\*{1,3})(?=[^\s*])[^*\n]*[^\s*]\1(?![*\w])", answer))
    return None if count >= n else f"{count} highlighted passages"
