"""Constraint types on the words and letters of an answer: which, how often, in what case, in what language.

In the manner of IFEval (Zhou et al. 2023, arXiv:2311.07911). `constraint.py` says how a type is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from burnish.evaluation import text as prose
from burnish.evaluation.constraint import bounded, constraint, within
from burnish.evaluation.language import in_language


@constraint
def upper(answer: str, /, *, language: str | None = None) -> str | None:
    """Every letter is a capital, and there is at least one; in the language, if one is given (see `language`)."""
    return _first(_one_case(answer, str.islower, "small letters"), _in(answer, language))


@constraint
def lower(answer: str, /, *, language: str | None = None) -> str | None:
    """Every letter is a small one, and there is at least one; in the language, if one is given (see `language`)."""
    return _first(_one_case(answer, str.isupper, "capital letters"), _in(answer, language))


def _one_case(answer: str, wrong: Callable[[str], bool], what: str) -> str | None:
    if not any(c.isalpha() for c in answer):
        return "no letters"
    found = "".join(c for c in answer if wrong(c))
    return f"{what}: {found[:12]}" if found else None


def _first(*failures: str | None) -> str | None:
    return next((failure for failure in failures if failure), None)


def _in(answer: str, language: str | None) -> str | None:
    return None if language is None else in_language(answer, language)


@constraint
def language(answer: str, /, *, code: str) -> str | None:
    """The answer is in the language of that ISO 639-1 code, as far as its script, and its most common words or
    letters where languages share one, tell. An answer too short to tell passes when its script fits."""
    return in_language(answer, code)


@bounded
def capital_words(answer: str, /, *, at_least: int | None = None, at_most: int | None = None) -> str | None:
    """At least, or at most, so many words in capitals only ("I" and "A" are such words, "X-RAY" is one)."""
    count = sum(1 for token in prose.words(answer) if token.isupper())
    return within(count, at_least, at_most, "words in capitals")


@constraint
def starts_with(answer: str, /, *, text: str) -> str | None:
    """The answer begins with the given words, whatever the case; quotes and emphasis before them are passed over,
    and the last word must be whole."""
    opening = prose.fold(answer).lstrip(prose.WRAPPING)
    return None if re.match(re.escape(prose.fold(text)) + r"(?!\w)", opening) else "does not start so"


@constraint
def ends_with(answer: str, /, *, text: str) -> str | None:
    """The answer ends with the given words, whatever the case; quotes and emphasis after them are passed over, and
    so is closing punctuation when the words themselves have none. The first word must be whole."""
    wanted = prose.fold(text).rstrip(prose.WRAPPING)
    ending = prose.fold(answer).rstrip(prose.WRAPPING)
    if wanted[-1:].isalnum():
        ending = ending.rstrip(".!?" + prose.WRAPPING)
    return None if re.search(r"(?<!\w)" + re.escape(wanted) + r"$", ending) else "does not end so"


@constraint
def repeats(answer: str, /, *, text: str) -> str | None:
    """The answer begins with the given text word for word, whatever the case; nothing stands before it."""
    bare = " ".join(prose.normalise(answer).lower().split())
    wanted = " ".join(prose.normalise(text).lower().split())
    return None if bare.startswith(wanted) else "does not begin with it"


@constraint
def no_comma(answer: str, /) -> str | None:
    """There is no comma anywhere in the answer."""
    count = sum(answer.count(mark) for mark in ",\uff0c\u3001")
    return f"{count} commas" if count else None


@constraint
def includes(answer: str, /, *, words: list[str], parts: bool = False) -> str | None:
    """Each given word or phrase stands in the answer as a whole word, whatever the case; with parts=true also as part
    of a longer word."""
    missing = [word for word in words if not _times(word, answer, parts)]
    return f"without {', '.join(missing)}" if missing else None


@constraint
def excludes(answer: str, /, *, words: list[str]) -> str | None:
    """None of the given words or phrases stands in the answer as a whole word, whatever the case."""
    found = [word for word in words if prose.find_phrase(word, answer)]
    return f"has {', '.join(found)}" if found else None


@bounded
def occurs(
    answer: str, /, *, word: str, at_least: int | None = None, at_most: int | None = None, parts: bool = False
) -> str | None:
    """The word or phrase comes at least, or at most, so many times as a whole word, whatever the case; with parts=true
    also as part of a longer word."""
    return within(_times(word, answer, parts), at_least, at_most, f"times {word!r}")


def _times(word: str, answer: str, parts: bool) -> int:
    return prose.fold(answer).count(prose.fold(word)) if parts else prose.count_phrase(word, answer)


@bounded
def letters(answer: str, /, *, letter: str, at_least: int | None = None, at_most: int | None = None) -> str | None:
    """The letter or mark comes at least, or at most, so many times, whatever the case."""
    return within(answer.lower().count(letter.strip().lower()), at_least, at_most, f"times {letter!r}")


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
