"""Constraint types on the shape of an answer: how much there is of it, how it is laid out, what stands around it.

In the manner of IFEval (Zhou et al. 2023, arXiv:2311.07911). `constraint.py` says how a type is written.
"""

from __future__ import annotations

import json as json_module
import re
import unicodedata
from typing import Any

from burnish.evaluation import text as prose
from burnish.evaluation.constraint import bounded, constraint, within

# Three marks and nothing else are a line across the page ("* * *") and no bullet.
_BULLET = re.compile(r"^(?!([-*])(?:\s*\1){2,}$)[-*\u2022\u25e6]\s+(?=\S)")
_NUMBERED = re.compile(r"^(\d{1,3})[.)]\s+(?=\S)")
_HEADING = re.compile(r"^#{1,6}\s+(?=\S)")
_FENCE = re.compile(r"^```(?:json)?[ \t]*\n(.*?)\n?```$", re.DOTALL | re.IGNORECASE)
_CODE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_DIVIDER_OF_CELLS = re.compile(r"^\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$")
_POSTSCRIPT = re.compile(r"[*_\s]*p\.?\s?(?:p\.?\s?)?s(?:\.|:|\b)[*_:.\s]*", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
# An asterisk after a letter or digit opens nothing ("2*3*4"), but scripts without spaces have no other place for it.
_HIGHLIGHT = re.compile(rf"(?<!\*)(?<![^\W{prose.UNSPACED}])(\*{{1,3}})(?=[^\s*])[^*\n]*[^\s*]\1(?!\*)")


def _counted(found: int, wanted: int, what: str) -> str | None:
    return None if found == wanted else f"{found} {what}, not {wanted}"


def _lines_outside_code(answer: str) -> list[str]:
    """The lines that are not blank, less fenced code: a comment or an option there is no item of a list."""
    return prose.lines(_CODE.sub("\n", answer))


@constraint
def one_word(answer: str, /) -> str | None:
    """The answer is a single word: nothing but quotes, emphasis or closing punctuation beside it. A hyphen or an
    apostrophe inside is part of the word."""
    # Combining marks (the vowel signs of Hindi) belong to their letter, but are not \w.
    letters = "".join(c for c in prose.unwrapped(answer) if not unicodedata.category(c).startswith("M"))
    if re.fullmatch(r"[^\W_]+(?:['.&/-][^\W_]+)*", letters):
        return None
    count = len(prose.words(answer))
    return f"{count} words" if count != 1 else "not a plain word"


@constraint
def yes_no(answer: str, /) -> str | None:
    """The answer is yes or no, in any case, and nothing else but closing punctuation."""
    return None if prose.unwrapped(answer).lower() in {"yes", "no"} else "not a bare yes or no"


@constraint
def number(answer: str, /) -> str | None:
    """The answer is one number in digits (sign, thousands commas and decimals allowed) and nothing else but a
    closing full stop."""
    bare = prose.normalise(answer).strip(prose.WRAPPING).removesuffix(".").strip(prose.WRAPPING)
    raised = any(c.isdigit() and not c.isdecimal() for c in answer)  # normal form would read a square as 52
    return None if _NUMBER.fullmatch(bare) and not raised else "not a bare number"


@constraint
def choice(answer: str, /, *, options: list[str], only: bool = True) -> str | None:
    """The answer is exactly one of the options, whatever the case, with nothing else but quotes, emphasis or
    closing punctuation. With only=false it may be a sentence, but it must name one option and no other; an option
    inside a longer one ("agree" in "strongly agree") is not named by it."""
    if only:
        fits = _bare_option(answer) in map(_bare_option, options)
        return None if fits else f"not one of {', '.join(options)} alone"
    named: list[str] = []
    for option in sorted(options, key=len, reverse=True):  # the longest first: "strongly agree" names no "agree"
        if prose.find_phrase(option, answer):
            named.append(option)
            answer = prose.without_phrase(option, answer)
    return None if len(named) == 1 else f"names {', '.join(named) or 'no option'}"


def _bare_option(text: str) -> str:
    """An option as it is compared: without closing punctuation and the brackets of a letter, "(a)" or "a)"."""
    return prose.fold(prose.unwrapped(text).strip("()"))


@constraint
def comma_list(answer: str, /, *, n: int) -> str | None:
    """The answer is one line of exactly n items with commas between them and nothing else: no lead-in, at most
    five words an item. An "and" after the last comma and a closing full stop are allowed."""
    if len(prose.lines(answer)) != 1:
        return f"{len(prose.lines(answer))} lines"
    items = [item.strip() for item in prose.unwrapped(answer).split(",")]
    if len(items) != n:
        return f"{len(items)} items, not {n}"
    items[-1] = re.sub(r"^(?:and|or)\s+", "", items[-1], flags=re.IGNORECASE)
    if any(not prose.has_word(item) for item in items):
        return "an empty item"
    if ":" in answer or any(len(prose.words(item)) > 5 for item in items):
        return "more than a list"
    return None


@constraint
def sentences(answer: str, /, *, n: int) -> str | None:
    """The answer has exactly n sentences. A sentence ends at a full stop, question or exclamation mark or at the
    end of a line; titles, initials and abbreviations such as Dr. or e.g. do not end one."""
    return _counted(len(prose.sentences(answer)), n, "sentences")


@bounded
def sentence_count(answer: str, /, *, at_least: int | None = None, at_most: int | None = None) -> str | None:
    """At least, or at most, so many sentences, counted as for `sentences`."""
    return within(len(prose.sentences(answer)), at_least, at_most, "sentences")


@constraint
def paragraphs(answer: str, /, *, n: int) -> str | None:
    """Exactly n paragraphs, divided by blank lines (a line of asterisks or dashes between them is allowed)."""
    return _counted(len(prose.paragraphs(answer)), n, "paragraphs")


@constraint
def paragraph_start(answer: str, /, *, paragraphs: int, place: int, word: str) -> str | None:
    """There are exactly so many paragraphs, divided by blank lines, and the one at `place` (counted from 1) begins
    with the word, whatever the case; quotes and emphasis before it are passed over."""
    found = prose.paragraphs(answer)
    if len(found) != paragraphs:
        return f"{len(found)} paragraphs, not {paragraphs}"
    if place > len(found):
        return f"no paragraph {place}"
    opening = prose.fold(found[place - 1]).lstrip(prose.WRAPPING)
    begins = re.match(re.escape(prose.fold(word)) + r"(?!\w)", opening)
    return None if begins else f"paragraph {place} does not start so"


@constraint
def divided(answer: str, /, *, n: int, by: str = "***", different: bool = False) -> str | None:
    """The answer has exactly n parts with the divider between them (and none empty); one divider before the first and
    one after the last part are let pass. With different=true no two parts are the same."""
    parts = [part.strip() for part in answer.split(by)]
    if parts and not parts[0]:
        parts = parts[1:]
    if parts and not parts[-1]:
        parts = parts[:-1]
    if not all(parts):
        return "an empty part"
    if len(parts) != n:
        return f"{len(parts)} parts, not {n}"
    same = different and len({prose.fold(part) for part in parts}) != len(parts)
    return "two parts are the same" if same else None


@constraint
def sections(answer: str, /, *, n: int, marker: str = "Section") -> str | None:
    """At least n sections, each begun by the marker as it is written and a number: Section 1, Section 2."""
    count = len(re.findall(re.escape(marker.strip()) + r"\s?\d+", answer))
    return None if count >= n else f"{count} sections"


@constraint
def bullets(answer: str, /, *, n: int) -> str | None:
    """Exactly n lines begin with a bullet mark (-, * or a dot) and a space. A line before or after the list is
    allowed, a numbered item is not. Nested bullets count as well; lines of fenced code and dividers (* * *) do not."""
    found = _lines_outside_code(answer)
    if any(_NUMBERED.match(line) for line in found):
        return "numbered items among the bullets"
    return _counted(sum(bool(_BULLET.match(line)) for line in found), n, "bullets")


@constraint
def numbered(answer: str, /, *, n: int) -> str | None:
    """Exactly n lines are numbered, 1. or 1) up to n in order. A line before or after the list is allowed, nested
    bullets too; lines of fenced code do not count."""
    marks = [int(match.group(1)) for line in _lines_outside_code(answer) if (match := _NUMBERED.match(line))]
    if len(marks) != n:
        return f"{len(marks)} numbered items, not {n}"
    return None if marks == list(range(1, n + 1)) else f"numbered {marks}"


@bounded
def headings(answer: str, /, *, at_least: int | None = None, at_most: int | None = None) -> str | None:
    """At least, or at most, so many Markdown headings (# to ######); lines of fenced code do not count."""
    count = sum(bool(_HEADING.match(line)) for line in _lines_outside_code(answer))
    return within(count, at_least, at_most, "headings")


@constraint
def table(answer: str, /, *, columns: int | None = None) -> str | None:
    """There is a Markdown table: a row of cells, the line of dashes under it, and at least one more row, all with the
    same number of cells (the asked one, if any)."""
    found = _lines_outside_code(answer)
    for head, dashes, row in zip(found, found[1:], found[2:], strict=False):
        if _DIVIDER_OF_CELLS.match(dashes) and "|" in dashes:
            widths = {_cells(line) for line in (head, dashes, row)}
            if len(widths) > 1:
                return f"rows of {', '.join(map(str, sorted(widths)))} cells"
            return None if columns in (None, *widths) else f"{widths.pop()} columns, not {columns}"
    return "no table"


def _cells(line: str) -> int:
    return len(re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|")))


@constraint
def code_block(answer: str, /, *, language: str | None = None) -> str | None:
    """There is fenced code (``` or ~~~) that is closed and not empty, marked with the language if one is asked."""
    blocks = [(mark.lower(), code) for _, mark, code in _CODE.findall(answer) if code.strip()]
    if not blocks:
        return "no fenced code"
    wanted = language and language.lower()
    return None if wanted is None or any(mark == wanted for mark, _ in blocks) else f"no code marked {language}"


@constraint
def json(answer: str, /, *, keys: list[str] | None = None, any_value: bool = False) -> str | None:
    """The whole answer is one valid JSON object (a code fence around it is allowed) whose keys are the asked ones,
    no more and no fewer, each once. With any_value=true a list or a bare value will do as well."""
    fenced = _FENCE.match(answer)
    try:
        value = json_module.loads(
            fenced.group(1) if fenced else answer, object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    if any_value and keys is None:
        return None
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
def quoted(answer: str, /) -> str | None:
    """The whole answer stands in double quotation marks."""
    plain = prose.normalise(answer).strip()
    inside = len(plain) > 2 and plain[0] == plain[-1] == '"' and prose.has_word(plain)
    return None if inside else "not in double quotes from first to last"


@constraint
def title(answer: str, /) -> str | None:
    """There is a title in double angle brackets: <<The Long Way Home>>."""
    # The raw answer: normal form would turn guillemets into plain quotes, and they are not what was asked.
    return None if re.search(r"<<[^<>\n]*\w[^<>\n]*>>", answer) else "no <<title>>"


@constraint
def postscript(answer: str, /, *, marker: str | None = None) -> str | None:
    """A line begins with P.S. (or PS:, P.P.S.), or with the marker if one is given, and says something."""
    pattern = _POSTSCRIPT if marker is None else re.compile(r"[*_\s]*" + re.escape(marker.strip()), re.IGNORECASE)
    for line in prose.lines(answer):
        match = pattern.match(line)
        if match and prose.has_word(line[match.end() :]):
            return None
    return "no postscript"


@constraint
def placeholder(answer: str, /, *, n: int = 1) -> str | None:
    """At least n placeholders in square brackets, such as [name]; a link or a tick box is not one."""
    count = len(re.findall(r"\[[^\[\]\n]*[^\W\d_]{2,}[^\[\]\n]*\](?!\()", answer))
    return None if count >= n else f"{count} placeholders"


@constraint
def highlight(answer: str, /, *, n: int = 1) -> str | None:
    """At least n passages are *highlighted* or **highlighted** with asterisks. One that begins in the middle of a word
    (as 2*3*4 or a*b*c) does not count, except in scripts without spaces between words."""
    count = len(_HIGHLIGHT.findall(answer))
    return None if count >= n else f"{count} highlighted passages"
