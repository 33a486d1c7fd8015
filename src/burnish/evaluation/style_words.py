"""Surface features of an answer that a policy could game a reward model with: hedging, confidence, list markup.

The wordings are matched against text with contractions written out (`text.plain`); `text.wordings` says how to read
them. Hedges and confidence are those of a speaker about what is said (Hyland 2005, "Metadiscourse", calls them
hedges and boosters). Approximations ("about 300 km") and frequencies ("often") belong to the content and are left out.
"""

from __future__ import annotations

import re

from burnish.evaluation.text import has_word, normalise, plain, sentences, without_quotations, wordings, words

HEDGE = wordings(
    r"""
    (?:perhaps|maybe|possibly|probably|presumably|conceivably|arguably|seemingly|apparently|somewhat)\b
    (?:un)?likely\b
    might\b(?! (?:of|and main)\b)
    # The modal: not the month, and not a permission asked for.
    (?<!in )(?<!of )(?<!on )(?<!by )(?<!last )(?<!next )(?<!early )(?<!late )(?<!mid-)(?<!this )(?<!since )(?<!until )\
        (?<!and )(?<!to )(?<!from )(?<!between )(?<!during )(?<!every )may\b\
        (?! (?:\d|i\b|we\b|is\b|was\b|to\b|and\b|day\b)|[,.;:!?]|$)
    could (?:well |also |possibly )?(?:be|have been|mean|indicate|suggest|imply)\b(?! (?:able|used)\b)
    (?:it|this|that|there|which|these|those|they|he|she) seems?\b
    # A rainbow "appears when the sun shines".
    it appears,
    (?:seems?|appears?) (?:to|that|as if|as though|like)\b
    i (?:would )?(?:think|believe|guess|suspect|suppose|reckon|assume|imagine|presume)\b
    i would (?:say|estimate|expect)\b
    my (?:best |own )?guess\b
    in my (?:humble |own |personal )?(?:opinion|view|experience)\b
    (?:am|are) not (?:\w+ly |quite |so |too |all that |100 ?% )?(?:sure|certain)\b
    ^not (?:\w+ly |quite |so )?(?:sure|certain)\b
    (?:as far as i|to the best of my|to my) (?:know(?:ledge)?|can tell|am aware)\b
    if i (?:remember|recall|understand)\b
    i (?:could|might|may) be (?:wrong|mistaken)\b
    (?:is|are|remains?|was) (?:unclear|uncertain|debatable)\b
    (?:hard|difficult) to (?:say|tell|know|be (?:sure|certain))\b
    # What depends on something named is content.
    it (?:all |really )?depends\b(?! (?:up)?on\b| how\b| what\b| which\b)
    it (?:all |really )?depends (?:up)?on (?:who you ask|many|several|various|a (?:number|variety|lot) of)\b
    """
)

CONFIDENT = wordings(
    r"""
    (?<!not )(?:definitely|certainly|undoubtedly|doubtless|unquestionably|indisputably|undeniably|surely|obviously\
        |absolutely|evidently)\b
    # "Speak clearly" and "clearly labelled" are manner.
    ^clearly\b
    clearly,
    (?<!not )(?:is|are|was|were|has|have|had) clearly\b(?! (?:labell?ed|marked|visible|written|defined|stated|audible))
    (?<!part )(?<!not )of course\b(?! (?:work|load|materials?|fees|not sure))
    (?:without|beyond) (?:a |any |all )?(?:reasonable |shadow of a )?(?:doubt|question)\b
    no doubt\b
    there is no question\b(?! of\b)
    i (?:am|can be) (?:\w+ly |very |quite |\d+ ?% |\d+ percent )?(?:sure|certain|confident)\b
    i am (?:\w+ly )?(?:positive|convinced) that\b
    it is (?:\w+ly )?(?:certain|clear|obvious|undeniable|indisputable) that\b
    i (?:can )?(?:guarantee|assure|promise)\b
    is guaranteed\b
    rest assured\b
    make no mistake\b
    (?:trust|believe) me\b
    in (?:actual )?fact\b
    """
)

# What an assistant says when it sets to work states no confidence in anything.
_COURTESY = re.compile(
    r"^\s*(?:sure|certainly|of course|absolutely|definitely)"
    r"(?:!|(?=[,.:]?\s+(?:here (?:is|are)|i (?:can|will|would)|let (?:us|me)|happy to|glad to)\b))"
)
_BULLET = re.compile(r"^(?:[-*+\u2022\u2013]\s+|\(?\d{1,3}[.)]\s+)(?=\S)")
_HEADING = re.compile(r"^#{1,6}\s+\S")
# Not `__bold__`: Python's own names look like it. Not `2**3**4` either.
_BOLD = re.compile(r"(?<![\w*])\*\*(?=[^\s*])[^*\n]*[^\s*]\*\*(?![\w*])")
_FENCE = re.compile(r"^(?:```|~~~)")


def hedging_rate(text: str) -> float:
    """Hedges a word of the text, outside of double quotes: at least 0; 0 for an empty text."""
    return _rate(text, HEDGE)


def confidence_rate(text: str) -> float:
    """Words of confidence a word of the text, outside of double quotes: at least 0; 0 for an empty text.

    A courtesy at the very beginning ("Certainly! Here is ...") does not count.
    """
    return _rate(text, CONFIDENT)


def markup_share(text: str) -> float:
    """The share of the lines, between 0 and 1, that begin with a bullet, a number or a heading's mark, or hold bold.

    Blank lines, lines without a letter or digit, and fenced code count neither above nor below; 0 without lines.
    """
    marked = total = 0
    in_code = False
    # Not `text.normalise`: it makes a dash of dialogue a bullet.
    for line in map(str.strip, text.splitlines()):
        if _FENCE.match(line):
            in_code = not in_code
        elif not in_code and has_word(line):
            total += 1
            marked += bool(_BULLET.match(line) or _HEADING.match(line) or _BOLD.search(line))
    return marked / total if total else 0.0


def _rate(text: str, wording: re.Pattern[str]) -> float:
    own = without_quotations(normalise(text))
    total = len(words(own))
    if not total:
        return 0.0
    found = 0
    for place, sentence in enumerate(map(plain, sentences(own))):
        # Only what opens the whole text is a courtesy: "Absolutely." to a later point is confidence.
        stated = sentence if place else _COURTESY.sub("", sentence)
        found += sum(1 for _ in wording.finditer(stated))
    return found / total
