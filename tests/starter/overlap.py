"""When is a held-out text too near to a training text? The rule that keeps the starter splits apart.

1. No five words in a row that stand in a held-out text (any turn of an evaluation conversation, a multiple-choice
   question, a paragraph of prose) stand in a training text (any turn, chosen or rejected), unless fewer than two of
   the five are content words: "what do you call a" is anybody's, "explain how to poison a" is not.
2. Of the content words of a held-out prompt and of a training prompt taken together, fewer than half are common to
   both (Jaccard similarity below 0.5), or not more than one is. Compared are single user turns and all user turns of
   a conversation.
3. No two prompts are the same but for case, punctuation and white space.

A content word is a word that is not in `STOP`, cut to its stem. `STOP` holds function words, and the words in which
the form of an answer is prescribed, since "in three bullet points" says nothing about the subject of a prompt.
The rules see words, not meaning: that no evaluation prompt asks in other words for what training teaches was checked
by reading.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

RUN = 5
JACCARD = 0.5

_FUNCTION_WORDS = """
    a about after again all also always am an and any anybody anyone anything are aren't as ask at away be because been
    before being below best better between both but by call called came can can't cannot come could did didn't do does
    doesn't doing don't down each either else ever every few for from get gets give given gives go goes going gone good
    got had has have having he her here hers him his how i i'd i'll i'm i've if in into is isn't it it's its just keep
    kind know known let like made main make makes making many may me mean means might mine more most much must my myself
    name named need never no nor not nothing now of off often on once one ones only or other our out over own part
    people person place put re really right said same say says she should show side so some somebody someone something
    sort still such sure take takes tell than thank thanks that that's the their them then there there's these they
    thing things this those through time to too two under until up upon us use used uses using usually very want was
    wasn't way we well went were what what's when where which while who who's whom whose why will with within without
    won't work would yet you you're your yours
"""
_INSTRUCTION_WORDS = """
    answer answers bullet bullets capital capitals caps case comma commas containing describe double end exactly example
    explain false include includes json key keys letter letters line lines list lists long lowercase message no number
    numbered paragraph paragraphs please point points question quote quotes reply respond response sentence sentences
    separated short start step steps text title true uppercase word words write yes brief
"""
STOP = frozenset(f"{_FUNCTION_WORDS} {_INSTRUCTION_WORDS}".split())
_ENDINGS = ("ing", "ies", "ed", "es", "s", "ly")


@dataclass(frozen=True)
class Text:
    """A text with the name of its row, for messages."""

    name: str
    text: str


def words(text: str) -> list[str]:
    """Lower-case words and numbers, with an apostrophe inside."""
    return re.findall(r"[^\W_]+(?:'[^\W\d_]+)?", text.lower())


def normal(text: str) -> str:
    """The text as its words alone."""
    return " ".join(words(text))


def stem(word: str) -> str:
    """A word without its commonest ending, so that `wheels` and `wheel` are one."""
    word = word.removesuffix("'s")
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word


def content(text: str) -> frozenset[str]:
    """The stems of the content words; single letters do not count."""
    return frozenset(stem(w) for w in words(text) if w not in STOP and (len(w) > 1 or w.isdigit()))


def telling_runs(text: str) -> Iterator[str]:
    """The runs of five words with at least two different content words."""
    tokens = words(text)
    for i in range(len(tokens) - RUN + 1):
        run = tokens[i : i + RUN]
        if len({w for w in run if w not in STOP and len(w) > 1}) >= 2:
            yield " ".join(run)


def shared_runs(held_out: Iterable[Text], training: Iterable[Text]) -> list[str]:
    """Breaches of rule 1, one message each."""
    where: dict[str, str] = defaultdict(str)
    for text in training:
        for run in telling_runs(text.text):
            where[run] = text.name
    return [
        f"{text.name} and {where[run]} share {run!r}"
        for text in held_out
        for run in telling_runs(text.text)
        if run in where
    ]


def similar_prompts(held_out: Iterable[Text], training: Iterable[Text]) -> list[str]:
    """Breaches of rules 2 and 3, one message each."""
    known = [(text, content(text.text), normal(text.text)) for text in training]
    found = []
    for text in held_out:
        mine, plain = content(text.text), normal(text.text)
        for other, theirs, other_plain in known:
            common = len(mine & theirs)
            share = common / len(mine | theirs) if common >= 2 else 0.0
            if share >= JACCARD or plain == other_plain:
                found.append(f"{text.name} {text.text!r} is too near to {other.name} {other.text!r} ({share:.2f})")
    return found
