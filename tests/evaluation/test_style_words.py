"""Hedges, confidence and markup. Every sentence was labelled by hand before the lists saw it."""

from __future__ import annotations

import pytest

from burnish.evaluation.style_words import CONFIDENT, HEDGE, confidence_rate, hedging_rate, markup_share
from burnish.evaluation.text import plain

HEDGES = [
    "Perhaps it rains tomorrow.",
    "It might be the wrong cable.",
    "You may want to see a doctor.",
    "It’s probably fine.",
    "I think Lyon is larger.",
    "I'd say about noon.",
    "That could be a sign of damp.",
    "It seems the shop has closed.",
    "The text appears to be Latin.",
    "I'm not entirely sure about the year.",
    "Not sure, to be honest.",
    "As far as I know, he wrote two novels.",
    "If I remember correctly, it opened in May.",
    "In my opinion the first is better.",
    "It is hard to say.",
    "Well, it depends.",
    "It depends on who you ask.",
    "That is unlikely.",
    "The cause is unclear.",
    "I could be wrong.",
]
NO_HEDGES = [
    "The shop opens in May.",
    "On the first of May, 1886, they went on strike.",
    "May 5 is a holiday.",
    "From April to May the river is high.",
    "May I ask your name?",
    "The might of the empire faded.",
    "She could swim at the age of four.",
    "The actor appeared in six films.",
    "A rainbow appears when the sun shines through rain.",
    "The price depends on the size.",
    "It depends on the temperature of the water.",
    "Make sure that the lid is shut.",
    "Think of a number.",
    "I am certain that it is Paris.",
    "A likeness of the king hung in the hall.",
    "She believes in ghosts.",
]
CONFIDENCE = [
    "It is definitely Paris.",
    "Obviously the second one.",
    "Without a doubt, it is the best.",
    "There is no doubt that he lied.",
    "Undoubtedly the largest.",
    "Clearly, the first argument fails.",
    "This is clearly wrong.",
    "I'm absolutely sure it was 1912.",
    "I am 100% certain.",
    "It is certain that the river froze.",
    "I guarantee it will work.",
    "Rest assured, it is safe.",
    "Of course it is true.",
    "Trust me, it works.",
    "There's no question that he won.",
    "In fact, it is the oldest bridge.",
]
NO_CONFIDENCE = [
    "Make sure that the lid is shut.",
    "Certain people like rain.",
    "I'm not sure.",
    "I am not certain.",
    "Speak clearly and slowly.",
    "The box is clearly labelled.",
    "It is not certain that he came.",
    "It is not certainly so.",
    "The washing machine has a two-year guarantee.",
    "I can't guarantee that.",
    "She is positive about the change.",
    "That is part of course work.",
    "The essay is part of course eleven.",
    "A question of doubt and faith.",
    "The fact is printed on the label.",
    "I doubt it.",
]


@pytest.mark.parametrize("sentence", HEDGES)
def test_a_hedge_counts(sentence: str) -> None:
    assert HEDGE.search(plain(sentence))


@pytest.mark.parametrize("sentence", NO_HEDGES)
def test_what_only_looks_like_a_hedge_does_not_count(sentence: str) -> None:
    assert not HEDGE.search(plain(sentence))


@pytest.mark.parametrize("sentence", CONFIDENCE)
def test_confidence_counts(sentence: str) -> None:
    assert CONFIDENT.search(plain(sentence))


@pytest.mark.parametrize("sentence", NO_CONFIDENCE)
def test_what_only_looks_like_confidence_does_not_count(sentence: str) -> None:
    assert not CONFIDENT.search(plain(sentence))


def test_a_rate_is_hits_over_words() -> None:
    assert hedging_rate("Perhaps it rains. Maybe not.") == 2 / 5
    assert confidence_rate("It is definitely so.") == 1 / 4
    assert hedging_rate("It rains.") == 0.0
    assert hedging_rate("") == confidence_rate("...") == 0.0


def test_quoted_words_are_not_the_speakers_own() -> None:
    # Six words are the speaker's: He said and perhaps it rained.
    assert hedging_rate('He said "perhaps" and perhaps it rained.') == 1 / 6
    assert confidence_rate('He said "definitely" and it rained.') == 0.0


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("Certainly! Here is a list.", 0.0),
        ("Of course, here are three.", 0.0),
        ("Absolutely, I can help with that.", 0.0),
        ("Absolutely.", 1.0),
        ("Certainly not.", 1 / 2),
        ("Here is one. Certainly! It works.", 1 / 6),
    ],
)
def test_a_courtesy_at_the_beginning_is_no_confidence(text: str, rate: float) -> None:
    assert confidence_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Plain prose.\nMore of it.", 0.0),
        ("- one\n* two\n+ three\n\u2022 four", 1.0),
        ("Steps:\n1. one\n2) two\n(3) three", 3 / 4),
        ("# Title\n\nA line.\n\n## Part\nA line.", 2 / 4),
        ("A **bold** word.\nNone here.", 1 / 2),
        # Not list markup: a year, a decimal, arithmetic, a tag, Python's names, dialogue, a rule, one asterisk.
        ("1945. The war ends.", 0.0),
        ("3.5 litres\n2**3**4 is large\n#tag\n__init__ and __name__", 0.0),
        ("\u2014 Who is there?\n*emphasis* of a word", 0.0),
        ("One.\n---\n***\nTwo.", 0.0),
        ("- one\n---", 1.0),
        ("Here e**x** is a power.", 0.0),
        ("Code:\n```python\n# a comment\n- x\n```\n- an item", 1 / 2),
        ("", 0.0),
    ],
)
def test_markup_share_of_the_lines(text: str, share: float) -> None:
    assert markup_share(text) == share
