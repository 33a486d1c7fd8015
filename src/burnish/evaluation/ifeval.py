"""IFEval's instructions (Zhou et al. 2023, arXiv:2311.07911) as constraints.

All 25 instruction types of its registry are mapped. Where our rule and the reference implementation differ, ours is the
stricter reading of the instruction; docs/suites.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from burnish.errors import DataError, suggest
from burnish.evaluation.constraint import Constraint
from burnish.evaluation.format import parse_constraint

_OPTIONS = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
_RELATIONS = {"at least": "at_least", "less than": "at_most"}

Arguments = Mapping[str, Any]


class _Missing(Exception):
    """An instruction without an argument that it needs, or with an unusable one."""


def _need(given: Arguments, name: str) -> Any:
    if given.get(name) is None:
        raise _Missing(f"needs {name!r}")
    value = given[name]
    # The copies of the data that went through a table hold whole numbers as 3.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bounds(given: Arguments, count: str, relation: str) -> dict[str, int]:
    """`at least 3` as it stands, `less than 3` as at most 2."""
    n, how = _need(given, count), _need(given, relation)
    if how not in _RELATIONS:
        raise _Missing(f"{relation}={how!r} is neither 'at least' nor 'less than'")
    if not isinstance(n, int) or isinstance(n, bool):
        raise _Missing(f"{count}={n!r} is not a whole number")
    return {_RELATIONS[how]: n if how == "at least" else n - 1}


def _words(given: Arguments) -> dict[str, Any]:
    bound = _bounds(given, "num_words", "relation")
    if "at_least" in bound:
        return {"type": "min_words", "n": bound["at_least"]}
    return {"type": "max_words", "n": bound["at_most"]}


INSTRUCTIONS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "keywords:existence": lambda a: {"type": "includes", "words": _need(a, "keywords"), "parts": True},
    "keywords:frequency": lambda a: {
        "type": "occurs", "word": _need(a, "keyword"), "parts": True, **_bounds(a, "frequency", "relation")
    },
    "keywords:forbidden_words": lambda a: {"type": "excludes", "words": _need(a, "forbidden_words")},
    "keywords:letter_frequency": lambda a: {
        "type": "letters", "letter": _need(a, "letter"), **_bounds(a, "let_frequency", "let_relation")
    },
    "language:response_language": lambda a: {"type": "language", "code": _need(a, "language")},
    "length_constraints:number_sentences": lambda a: {
        "type": "sentence_count", **_bounds(a, "num_sentences", "relation")
    },
    "length_constraints:number_paragraphs": lambda a: {"type": "divided", "n": _need(a, "num_paragraphs"), "by": "***"},
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": lambda a: {
        "type": "paragraph_start",
        "paragraphs": _need(a, "num_paragraphs"),
        "place": _need(a, "nth_paragraph"),
        "word": _need(a, "first_word"),
    },
    "detectable_content:number_placeholders": lambda a: {"type": "placeholder", "n": _need(a, "num_placeholders")},
    "detectable_content:postscript": lambda a: {"type": "postscript", "marker": _need(a, "postscript_marker")},
    "detectable_format:number_bullet_lists": lambda a: {"type": "bullets", "n": _need(a, "num_bullets")},
    "detectable_format:constrained_response": lambda a: {"type": "choice", "options": _OPTIONS, "only": False},
    "detectable_format:number_highlighted_sections": lambda a: {"type": "highlight", "n": _need(a, "num_highlights")},
    "detectable_format:multiple_sections": lambda a: {
        "type": "sections", "n": _need(a, "num_sections"), "marker": _need(a, "section_spliter")
    },
    "detectable_format:json_format": lambda a: {"type": "json", "any_value": True},
    "detectable_format:title": lambda a: {"type": "title"},
    "combination:two_responses": lambda a: {"type": "divided", "n": 2, "by": "******", "different": True},
    "combination:repeat_prompt": lambda a: {"type": "repeats", "text": _need(a, "prompt_to_repeat")},
    "startend:end_checker": lambda a: {"type": "ends_with", "text": _need(a, "end_phrase")},
    "startend:quotation": lambda a: {"type": "quoted"},
    "change_case:capital_word_frequency": lambda a: {
        "type": "capital_words", **_bounds(a, "capital_frequency", "capital_relation")
    },
    "change_case:english_capital": lambda a: {"type": "upper", "language": "en"},
    "change_case:english_lowercase": lambda a: {"type": "lower", "language": "en"},
    "punctuation:no_comma": lambda a: {"type": "no_comma"},
}  # fmt: skip
"""Every instruction id, and the check that it becomes."""


def ifeval_constraints(ids: Any, kwargs: Any, *, where: str) -> tuple[Constraint, ...]:
    """The constraints of one row of IFEval's `input_data.jsonl`, each labelled with its instruction id.

    Args:
        ids: its `instruction_id_list`.
        kwargs: its `kwargs`, one object for each; arguments that are null are left out.
        where: file and line, for errors.

    Raises:
        DataError: on an unknown instruction, a missing argument, or lists of different lengths.
    """
    if not isinstance(ids, list) or not ids or not isinstance(kwargs, list) or len(ids) != len(kwargs):
        raise DataError(
            "'instruction_id_list' and 'kwargs' must be lists of the same length, and not empty",
            where=where,
            fix="as in IFEval's input_data.jsonl",
        )
    return tuple(_one(name, given, where) for name, given in zip(ids, kwargs, strict=True))


def _one(name: Any, given: Any, where: str) -> Constraint:
    if name not in INSTRUCTIONS:
        close = suggest(str(name), list(INSTRUCTIONS))
        raise DataError(
            f"unknown instruction {name!r}{close}", where=where, fix=f"one of {', '.join(sorted(INSTRUCTIONS))}"
        )
    if not isinstance(given, dict):
        raise DataError(f"{name}: its kwargs must be an object, got {given!r}", where=where)
    try:
        check = INSTRUCTIONS[name](given)
    except _Missing as error:
        raise DataError(f"{name} {error}", where=where, fix="as in IFEval's input_data.jsonl") from None
    return replace(parse_constraint(check, where=f"{where}: {name}"), said_as=name)
