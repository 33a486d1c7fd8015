"""Does an answer abstain: does it say that the question can't be answered, instead of answering it?

The rule is in `is_abstention`, the wordings in `abstain_words.py`. Three kinds count: it can't be known, there is no
such thing, and the question's premise is false.
"""

from __future__ import annotations

import re

from burnish.evaluation import abstain_words as words_of
from burnish.evaluation.answers import Verdict, accept, reject
from burnish.evaluation.text import fold, has_word, normalise, plain, sentences, without_quotations, words

_REACH = 5
"""A denial is of the question's premise when one of its words comes within so many words after the 'not'."""
_TELLS = 3
"""A sentence with so many content words that are not in the question tells something new."""
_LONG = 50
"""From so many words on, "but I can offer some tips" is the beginning of an answer and not a mere offer."""


def is_abstention(text: str, prompt: str = "") -> Verdict:
    """The first sentence after a polite lead-in (or the second, when the first gives no answer) says that it can't be
    known or has not been told, seen or recorded, that the matter is not settled or one of taste, that there is no
    such thing, or that the question's premise is wrong: with such words ("that isn't right", "the other way round"),
    or by denying, to a question that takes it for granted, what the question says ("Marie Curie never walked on the
    Moon"). Words in quotation marks are not the speaker's own. It does not count when an answer comes with it: a
    sentence before it that explains what was asked, a clause before it in the same sentence, a guess ("I think", "it
    is probably"), an estimate where a number is asked for, a definite statement after "but" ("nobody knows the exact
    date, but it was 1066"), a long answer that goes on after "but" ("but I can offer some tips"), or the question's
    own words completed with a new name or number; nor does a denial that is the answer ("not until 1865" to "when"),
    a poem or story that was asked for, or what a definition says of its thing ("a place that no one has mapped"). A
    correction of the premise may give the right fact."""
    own = without_quotations(normalise(text))
    if words_of.CREATIVE.search(plain(prompt)):
        return reject("a text that was asked for")
    raw = [s for s in sentences(own) if not words_of.LEAD_IN.match(plain(s))]
    if not raw:
        return reject("empty" if not has_word(own) else "no words of abstention")
    for place, sentence in enumerate(raw[:2]):
        if place == 1 and _gives_an_answer(raw[0], prompt):
            break
        simple = plain(sentence)
        if why := _corrects(simple, prompt):
            return accept(why)
        patterns = [words_of.SPEAKER_DOES_NOT_KNOW]
        if place == 0 or not _explains(raw[0], prompt):  # "The exact cause is not known" takes no answer back
            patterns.append(words_of.NOBODY_KNOWS)
        matches = [m for pattern in patterns if (m := pattern.search(simple))]
        if not matches:
            continue
        match = min(matches, key=lambda m: m.start())
        phrase = match.group().strip()
        if words_of.RELATIVE.search(simple[: match.start()]) and words_of.DEFINES.search(plain(prompt)):
            continue  # "a place that no one has mapped" says what the thing is
        if words_of.CLAUSE_BEFORE.search(words_of.APOLOGY.sub("", simple[: match.start()])):
            return reject(f"answers before it says {phrase!r}")
        tail = simple[match.end() :]
        if answer := _answer_after(sentence, tail, raw[place + 1 :], prompt):
            return reject(f"says {phrase!r}, then {answer}")
        return accept(f"says {phrase!r}")
    return reject("no words of abstention")


def _corrects(sentence: str, prompt: str) -> str | None:
    """How the sentence says that there is no such thing, or that the premise is wrong; None when it does not."""
    asked = plain(prompt)
    if _says_when(sentence, asked):
        return None
    whether = words_of.ASKS_WHETHER.match(asked) is not None  # "no, that's a myth" answers "is it true that ..."
    for pattern in (words_of.NO_SUCH_THING,) if whether else (words_of.NO_SUCH_THING, words_of.FALSE_PREMISE):
        if match := pattern.search(sentence):
            return f"says {match.group().strip()!r}"
    if whether or not words_of.PRESUPPOSES.search(asked):
        return None
    if words_of.ASKS_WITH_A_DENIAL.search(asked) or words_of.ASKS_FOR_A_DEFINITION.search(asked):
        return None
    denial = _denial(sentence, asked)
    return f"denies the premise ({denial.strip(' ,')!r})" if denial else None


def _denial(sentence: str, asked: str) -> str | None:
    """The words with which the sentence denies what the question `asked` takes for granted, or None."""
    subject = _content(asked)
    if flat := words_of.FLAT_DENIAL.match(sentence):
        return flat.group()
    for match in words_of.DENIAL.finditer(sentence):
        if _answers_by_denying(match.group(), sentence[match.end() :], asked):
            continue
        before = re.split(r"[;:]", sentence[: match.start()])[-1]
        if words_of.SPEAKS_OF_ITSELF.search(before) or (not before.strip() and match.group() == "do not"):
            continue  # "I can't ..." says what the speaker can't do, "don't ..." is advice
        if words_of.GIVES_A_REASON.search(before):
            continue  # "he left because he could not find work" answers "why did he leave"
        after = re.split(r"[;:]", sentence[match.end() :])[0]
        needed = 1 if words_of.PRONOUN.match(before) else 2  # "it is not made of glass"
        if _overlap(" ".join(after.split()[:_REACH]), subject) and len(_overlap(before + after, subject)) >= needed:
            return match.group()
    instead = words_of.NOT_THIS.search(sentence) if " or " not in asked else None
    if instead and _overlap(instead.group(), subject) and len(_overlap(sentence, subject)) >= 2:
        return instead.group()
    if (never := words_of.NEVER_DID.search(sentence)) and words_of.ASKS_OF_THE_PAST.search(asked):
        before = sentence[: never.start()]
        if _overlap(before, subject) or re.fullmatch(r"(?:actually,? )?(?:he|she|it|they) ", before):
            return never.group()
    return None


def _says_when(sentence: str, asked: str) -> bool:
    """Does "not until" or "not since" tell the time that is asked for, as in "slavery did not end until 1865"?"""
    match = words_of.NOT_UNTIL.search(sentence) if words_of.ASKS_FOR_A_TIME.search(asked) else None
    return match is not None and bool(_overlap(match.group(), _content(asked)))


def _answers_by_denying(denial: str, after: str, asked: str) -> bool:
    """Is what the words of denial say, with what comes after them, an answer rather than a correction?"""
    if words_of.ASKS_HOW_MANY.search(asked):  # "there are no moons" answers "how many moons"
        return denial.startswith("no") or "only" in denial or words_of.HAS_NONE.match(after) is not None
    if denial == "no" and after.startswith(" other"):
        return True
    if denial == "no" and after.startswith(" longer"):
        return words_of.ASKS_OF_AN_END.search(asked) is not None
    if " only " in denial:  # "won only one" corrects a question that speaks of another number
        verb, _, number = denial.split()
        return number in asked.split() or not (verb in {"has", "have", "had"} or words_of.A_NUMBER.search(asked))
    return False


def _answer_after(sentence: str, tail: str, later: list[str], prompt: str) -> str | None:
    """What kind of answer comes with an abstention, or None.

    `sentence` is the abstaining one, `tail` what follows the abstention in it (plain), `later` the sentences after.
    """
    known = _content(plain(prompt))
    quantity = not prompt or words_of.ASKS_FOR_A_NUMBER.search(plain(prompt)) is not None
    length = sum(len(words(raw)) for raw in (sentence, *later))
    for part in (tail, *(plain(s) for s in later)):
        if words_of.GUESS.search(part.strip(" ,;:-")):
            return "guesses"
        if quantity and words_of.ESTIMATE.search(part) and not words_of.AHEAD.search(part):
            return "estimates"
    for raw in (sentence, *later):
        clause = words_of.CONTRAST.split(raw, maxsplit=1)
        if len(clause) == 2 and _states(clause[1], known, quantity):
            return "states an answer"
        if len(clause) == 2 and length >= _LONG and words_of.GOES_ON.match(plain(clause[1])):
            return "goes on to answer"
    for raw in later:
        if len(words(raw)) <= 3 and _new_names_or_numbers(raw, known, skip_first=False):
            return "names an answer"
        head, completion = _split_at_copula(raw)
        echoes = len(_overlap(plain(head), known)) >= 2 and not words_of.DENIAL.search(plain(raw))
        if echoes and _new_names_or_numbers(completion, known, skip_first=False):
            return "completes the question"
    return None


def _states(clause: str, known: frozenset[str], quantity: bool) -> bool:
    """Does what follows a "but" state something definite?"""
    simple = plain(clause).strip(" ,;:-")
    new = _new_names_or_numbers(clause, known, skip_first=False)
    if quantity and words_of.A_NUMBER.search(simple) and not words_of.AHEAD.search(simple):
        return bool(new) or not re.search(r"\d", simple)
    if words_of.STATES_IT.match(simple):
        return True
    if words_of.DENIAL.search(simple):
        return False
    completion = _split_at_copula(clause)[1]
    echoes = bool(new) and len(_overlap(simple, known)) >= 2
    return echoes or bool(_new_names_or_numbers(completion, known, skip_first=False))


def _gives_an_answer(raw: str, prompt: str) -> bool:
    """Does a sentence that comes before an abstention look like an answer?"""
    simple = plain(raw)
    if words_of.NAMES_A_KIND.match(simple) and words_of.DEFINES.search(plain(prompt)):
        return True
    opens_so = re.match(r"^(?:yes|no|because|the answer is|it (?:is|was|will)|he |she |they )\b", simple)
    if opens_so or len(words(raw)) <= 3:
        return True
    return bool(_new_names_or_numbers(raw, _content(plain(prompt)), skip_first=True))


def _explains(raw: str, prompt: str) -> bool:
    """Does the sentence tell something new in ordinary words where these are the answer, as to a "why"?"""
    asked = plain(prompt)
    return words_of.ASKS_TO_EXPLAIN.search(asked) is not None and len(_content(plain(raw)) - _content(asked)) >= _TELLS


def _split_at_copula(raw: str) -> tuple[str, str]:
    """What stands before and after the first `is`, `was` and the like; nothing after when there is none."""
    match = re.search(r"\b(?:is|was|are|were|will be)\b", raw)
    return (raw[: match.start()], raw[match.end() :]) if match else (raw, "")


def _new_names_or_numbers(raw: str, known: frozenset[str], *, skip_first: bool) -> list[str]:
    """Numbers and capitalised words of `raw` that the question does not hold and that are no function words."""
    tokens = re.findall(r"[\w'-]+", raw)[1 if skip_first else 0 :]
    return [t for t in tokens if (t[0].isupper() or t[0].isdigit()) and not _content(plain(t)) <= known]


def _overlap(text: str, subject: frozenset[str]) -> set[str]:
    """The words of `subject` that stand in the text; a word of three letters or more also as the start of another."""
    return {
        known
        for known in subject
        for word in _content(text)
        if word == known or (min(len(word), len(known)) >= 3 and (word.startswith(known) or known.startswith(word)))
    }


def _content(folded: str) -> frozenset[str]:
    """The content words of plain text, cut down to a crude stem (plural, -ed and -ing endings off)."""
    return frozenset(
        _stem(word) for word in re.findall(r"[^\W_]+", fold(folded)) if word not in words_of.WITHOUT_CONTENT
    )


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
