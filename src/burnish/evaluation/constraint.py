"""Constraints on the form of an answer: what one is, the registry of their types, and how a row names them.

A constraint type is a function of the answer and of typed keyword arguments. Its signature is the schema of a check
in an evaluation row (`{"type": "bullets", "n": 3}`), its docstring is the rule that the report prints. It returns None
when the text meets it, or in a few words why not; on arguments that make no sense it raises ValueError. The types are
in `constraints_shape.py` and `constraints_words.py`; importing `format.py` registers them all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from burnish.errors import DataError, suggest

Checker = Callable[..., str | None]


@dataclass(frozen=True, slots=True)
class ConstraintType:
    """A kind of constraint.

    Attributes:
        name: as in the `type` of a check.
        rule: when it holds, in words.
        check: the rule as code.
        arguments: the keyword arguments with their types.
        required: those that must be given.
        one_of: of these at least one must be given.
    """

    name: str
    rule: str
    check: Checker
    arguments: Mapping[str, Any]
    required: frozenset[str]
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint type with its arguments, as it stands in an evaluation row.

    `said_as` is what the data calls it where that is not our type's name (IFEval's instruction ids).
    """

    kind: ConstraintType
    arguments: Mapping[str, Any]
    said_as: str = ""

    @property
    def label(self) -> str:
        """What reports count it under."""
        return self.said_as or self.kind.name

    def failure(self, text: str) -> str | None:
        """Why `text` does not meet the constraint, or None when it does."""
        return self.kind.check(text.strip(), **self.arguments)

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.kind.name}({inner})" if inner else self.kind.name


CONSTRAINTS: dict[str, ConstraintType] = {}


def constraint(function: Checker) -> Checker:
    """Register a constraint under its function's name; arguments are `int`, `str`, `bool` or `list[str]`."""
    return _register(function, ())


def bounded(function: Checker) -> Checker:
    """Register a constraint on a count, which takes `at_least`, `at_most` or both."""
    return _register(function, ("at_least", "at_most"))


def _register(function: Checker, one_of: tuple[str, ...]) -> Checker:
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
        arguments={key: _without_none(hints[key]) for key in parameters},
        required=frozenset(key for key, p in parameters.items() if p.default is inspect.Parameter.empty),
        one_of=one_of,
    )
    return function


def _without_none(hint: Any) -> Any:
    """`int` of `int | None`."""
    options = [option for option in get_args(hint) if option is not type(None)]
    return options[0] if type(None) in get_args(hint) else hint


def within(count: int, at_least: int | None, at_most: int | None, what: str) -> str | None:
    """None when the count is inside the bounds, else what was counted and what was wanted."""
    if at_least is not None and count < at_least:
        return f"{count} {what}, not at least {at_least}"
    if at_most is not None and count > at_most:
        return f"{count} {what}, not at most {at_most}"
    return None


def parse_constraints(checks: Any, *, where: str) -> tuple[Constraint, ...]:
    """Read the `checks` of an evaluation row.

    Raises:
        DataError: when it is not a non-empty list of objects with a known `type` and that type's arguments.
    """
    if not isinstance(checks, list) or not checks:
        raise DataError(
            f"'checks' must be a non-empty list, got {checks!r}", where=where, fix='e.g. [{"type": "one_word"}]'
        )
    return tuple(parse_constraint(check, where=f"{where}: checks[{i}]") for i, check in enumerate(checks))


def parse_constraint(check: Any, *, where: str) -> Constraint:
    """Read one check. Raises DataError as `parse_constraints`."""
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
    if kind.one_of and not set(kind.one_of) & set(given):
        raise DataError(f"{name} needs {' or '.join(map(repr, kind.one_of))}", where=where, fix=takes)
    for key, value in given.items():
        if not _fits(key, value, kind.arguments[key]):
            raise DataError(f"{name}: {key}={value!r} is not usable", where=where, fix=takes)
    if given.get("at_least", 0) > given.get("at_most", float("inf")):
        raise DataError(f"{name}: at_least is more than at_most", where=where, fix="no answer could meet it")
    try:
        kind.check("a", **given)
    except ValueError as error:
        raise DataError(f"{name}: {error}", where=where, fix=takes) from None
    return Constraint(kind, given)


def _fits(key: str, value: Any, wanted: Any) -> bool:
    """Type and sense: counts are at least 1 (an upper limit may be 0), texts and lists are not empty."""
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= (0 if key == "at_most" else 1)
    if wanted is str:
        return isinstance(value, str) and bool(value.strip())
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)


def _describe(kind: ConstraintType) -> str:
    meaning = {int: "a whole number from 1", str: "a text", bool: "true or false"}
    parts = []
    for key, wanted in kind.arguments.items():
        what = "a whole number from 0" if key == "at_most" else meaning.get(wanted, "a list of texts")
        optional = "" if key in kind.required else ", at least one of them" if key in kind.one_of else ", optional"
        parts.append(f"{key} ({what}{optional})")
    return ", ".join(parts) or "no arguments"
