"""Plain-text tools that the checkers share: normal form, words, sentences, lines and paragraphs of an answer."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_QUOTES = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201b": "'",
        "\u02bc": "'",
        "\u00b4": "'",
        "`": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u201f": '"',
        "\u00ab": '"',
        "\u00bb": '"',
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u2013": "-",
        "\u2014": " - ",
        "\u2212": "-",
        "\u200b": "",
        "\u200c": "",
        "\u200d": "",
        "\ufeff": "",
    }
)
_EMPHASIS = re.compile(r"\*{1,3}|(?<!\w)_{1,2}(?=\w)|(?<=\w)_{1,2}(?!\w)")
_WORD = re.compile(r"[^\W_]")
_QUOTED = re.compile(r'"[^"\n]{0,400}"')
_LIST_MARK = re.compile(r"^\s*(?:[-*\u2022\u2013\u2014]\s+|\(?\d{1,3}[.)]\s+|\(?[a-zA-Z][.)]\s+)")


def word_set(block: str) -> frozenset[str]:
    """The words of a block of text, as a set."""
    return frozenset(block.split())


_TITLES = word_set("mr mrs ms dr prof st mt vs sr gen col capt sgt lt maj rev hon gov sen rep dept approx vol pp")
_NEVER_LAST = word_set("e.g i.e cf viz")
_SOMETIMES_LAST = word_set("etc a.m p.m u.s u.k u.n e.u inc ltd co jr ph.d b.c a.d")
_MONTHS = word_set("jan feb mar apr jun jul aug sep sept oct nov dec")
_STARTERS = word_set(
    """the it its there this that these those in a an he she they we you but and or if when what who which where why how
    is are for however also i option options answer answers choice"""
)
_LETTER_OF_A_LIST = re.compile(
    r"\b(?:answer|option|choice|letter|vitamin|hepatitis|plan|grade|type|choose|pick|select)"
    r"(?: is| was|:)? [\"'(*_]*[a-e]$",
    re.IGNORECASE,
)
UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
"""Letters of scripts that put no spaces between words (kana, Han), as a range of a character class."""
_STOPS = "\u3002\u0964\u0965\u061f\u06d4"  # Chinese and Japanese, Hindi, Arabic and Urdu
_CLOSERS = "\"')\\]*_\u201d\u2019\u300d\u300f\uff09"
# Beside such letters a mark ends the sentence without a space. `!` and `?` are seen by their neighbours, because NFKC
# makes the wide ones plain; a closing quotation mark after it most often is followed by "she said", and ends none.
_END = re.compile(
    rf"[.!?\u2026{_STOPS}]+[{_CLOSERS}]*(?=\s|$)"
    rf"|(?:[{_STOPS}][!?{_STOPS}]*|(?<=[{UNSPACED}])[!?]+|[!?]+(?=[{UNSPACED}]))(?![!?{_STOPS}{_CLOSERS}])"
)


def normalise(text: str) -> str:
    """Unicode NFKC with straight quotes, plain hyphens and no zero-width characters; line breaks are kept."""
    # Quotes go first: NFKC would turn an acute accent used as an apostrophe into a space and a combining mark.
    return unicodedata.normalize("NFKC", text.translate(_QUOTES)).replace("\r\n", "\n").replace("\r", "\n")


def fold(text: str) -> str:
    """`normalise`, then lower case without accents and without Markdown emphasis, runs of spaces made one."""
    plain = unicodedata.normalize("NFD", normalise(text))
    plain = "".join(c for c in plain if not unicodedata.combining(c)).lower()
    return re.sub(r"[ \t]+", " ", _EMPHASIS.sub("", plain)).strip()


_CONTRACTIONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), full)
    for pattern, full in (
        (r"\bcan(?:'t|not|t)\b", "can not"),
        (r"\bw(?:on't|ont)\b", "will not"),
        (r"\bshan't\b", "shall not"),
        (r"\b(do|does|did|is|are|was|were|has|have|had|would|could|should|must)n'?t\b", r"\1 not"),
        (r"\b(i)'m\b", r"\1 am"),
        (r"(\w)'re\b", r"\1 are"),
        (r"(\w)'ve\b", r"\1 have"),
        (r"(\w)'ll\b", r"\1 will"),
        (r"\b(i|you|he|she|it|we|they|that|there|who)'d\b", r"\1 would"),
        (r"\blet's\b", "let us"),
        (r"\b(it|that|this|there|here|what|who|where|how|he|she|one|nobody)'s\b", r"\1 is"),
    )
)


def plain(text: str) -> str:
    """`fold` with contractions written out ("can't" is "can not"): the form in which wordings are looked for."""
    result = fold(text)
    for pattern, full in _CONTRACTIONS:
        result = pattern.sub(full, result)
    return result


def wordings(block: str, **classes: str) -> re.Pattern[str]:
    """Compile a list of wordings, one a line, into one pattern.

    A line is a regular expression over `plain` text in which `<name>` stands for one of the word classes given
    by keyword, each itself a block of alternatives that may name an earlier one. Lines that begin with `#` are
    comments, and a backslash at the end of a line joins it with the next. Unless a wording begins with `^`, it
    starts at the beginning of a word.
    """
    known: dict[str, str] = {}

    def expand(line: str) -> str:
        return re.sub(r"<(\w+)>", lambda match: known[match.group(1)], line)

    for name, body in classes.items():
        if body.endswith(" ") and "\n" not in body:
            raise ValueError(f"class {name!r} ends with a space, which would be lost: write a class of its own for it")
        known[name] = "(?:" + "|".join(expand(line) for line in _lines_of(body)) + ")"
    patterns = [expand(line) if line.startswith("^") else rf"\b{expand(line)}" for line in _lines_of(block)]
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def _lines_of(block: str) -> list[str]:
    block = re.sub(r"\\\n\s*", "", block)
    return [line.strip() for line in block.splitlines() if line.strip() and not line.strip().startswith("#")]


def without_quotations(text: str) -> str:
    """The text less what stands in double quotes: words reported or drafted are not the speaker's own.

    When nothing else is left (the whole answer is quoted), the text is returned as it is.
    """
    outside = _QUOTED.sub(' "" ', text)
    return outside if has_word(outside) else text


def has_word(text: str) -> bool:
    """Is there at least one letter or digit?"""
    return _WORD.search(text) is not None


def words(text: str) -> list[str]:
    """Words as a reader counts them: split at white space, each with at least one letter or digit."""
    return [token for token in text.split() if _WORD.search(token)]


def paragraphs(text: str) -> list[str]:
    """Blocks between blank lines that hold at least one letter or digit (a line of asterisks is a divider)."""
    return [block.strip() for block in re.split(r"\n\s*\n", normalise(text)) if has_word(block)]


def lines(text: str) -> list[str]:
    """The lines that are not blank, without surrounding white space."""
    return [line.strip() for line in normalise(text).split("\n") if line.strip()]


WRAPPING = "\"'*_ \t\n"
"""What may stand around words without being said: quotes, emphasis, white space."""


def unwrapped(text: str) -> str:
    """Without the quotes and emphasis around it and without closing punctuation."""
    return normalise(text).strip(WRAPPING).rstrip(".!?" + WRAPPING)


def strip_list_mark(line: str) -> str:
    """A line without its bullet, number or letter mark."""
    return _LIST_MARK.sub("", line, count=1)


def is_list_item(line: str) -> bool:
    """Does the line begin with a bullet, a number or a letter mark?"""
    return _LIST_MARK.match(line) is not None


def find_phrase(phrase: str, text: str) -> bool:
    """Does `phrase` stand in `text` as whole words, whatever the case, accents and runs of white space?"""
    return count_phrase(phrase, text) > 0


def count_phrase(phrase: str, text: str) -> int:
    """How often `phrase` stands in `text` as whole words (see `find_phrase`)."""
    return len(_phrase_pattern(phrase).findall(fold(text).replace("\n", " ")))


def without_phrase(phrase: str, text: str) -> str:
    """The folded text with a bar where `phrase` stood (see `find_phrase`), so that its words are not found again."""
    return _phrase_pattern(phrase).sub("|", fold(text).replace("\n", " "))


@lru_cache(maxsize=4096)
def _phrase_pattern(phrase: str) -> re.Pattern[str]:
    inner = r"\s+".join(re.escape(part) for part in fold(phrase).split())
    return re.compile(rf"(?<!\w){inner}(?!\w)")


def sentences(text: str) -> list[str]:
    """Split into sentences.

    A sentence ends at `.`, `!`, `?` or an ellipsis followed by white space (closing quotes and brackets belong
    to it), or at the end of a line; at the marks of Chinese, Japanese, Hindi and Arabic also without the space. A full
    stop after a title (`Dr.`), an initial or `e.g.` does not end one; after a month (`Jan.`), `etc.`, `p.m.` and the
    like only when a capital letter follows. A line that breaks off in mid-sentence is
    joined with the next one when that goes on in lower case and is not a list item. Marks of lists are not part
    of the sentence, and pieces without a letter or digit are not counted.
    """
    found: list[str] = []
    for line in _joined_lines(normalise(text)):
        found.extend(_split_line(strip_list_mark(line)))
    return [sentence for sentence in found if has_word(sentence)]


def _joined_lines(text: str) -> list[str]:
    joined: list[str] = []
    open_line = False
    for raw in text.split("\n"):
        line = raw.strip()
        if not line:
            open_line = False
            continue
        if open_line and line[0].islower() and not is_list_item(line):
            joined[-1] += " " + line
        else:
            joined.append(line)
        open_line = not re.search(r"[.!?:\u2026" + _STOPS + r"][\"')\]*_]*$", line)
    return joined


def _split_line(line: str) -> list[str]:
    pieces: list[str] = []
    start = 0
    for match in _END.finditer(line):
        if match.end() < len(line) and not _ends_here(line, match):
            continue
        pieces.append(line[start : match.end()].strip())
        start = match.end()
    pieces.append(line[start:].strip())
    return [piece for piece in pieces if piece]


def _ends_here(line: str, match: re.Match[str]) -> bool:
    """Whether the terminator `match`, which is not the last thing of the line, ends a sentence."""
    mark = match.group()
    after = line[match.end() :].lstrip()
    follows = after.lstrip("\"'([*_")[:1]
    if mark[0] != ".":
        # "Who?" she asked.   The quotation goes on in lower case.
        return not (mark[-1] in "\"')" and follows.islower())
    if mark.startswith(("...", "\u2026")):
        return not follows.islower()
    before = line[: match.start()].split()
    token = before[-1].lstrip("\"'([*_").lower() if before else ""
    if mark == "." and (token in _TITLES or token in _NEVER_LAST):
        return False
    if mark == "." and token in {"no", "fig"} and follows.isdigit():
        return False
    if token in _MONTHS:
        return not (follows.isdigit() or follows.islower())
    if _LETTER_OF_A_LIST.search(line[: match.start()]):
        return True
    if mark == "." and len(token) == 1 and token.isalpha() and token != "i":
        # An initial ("J. Smith"), unless a word follows that begins sentences and no surname ("vitamin C. It is").
        return after.split()[0].strip(",;:'\"").lower() in _STARTERS
    if token in _SOMETIMES_LAST:
        return follows.isupper() or follows.isdigit()
    return True
