"""Hard cases for every constraint type: what a reader would say of them, not what the code does."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.evaluation.format import CONSTRAINTS, parse_constraints

_AGREE = ["agree", "strongly agree", "disagree"]
HARD: dict[str, list[tuple[dict[str, Any], str, bool]]] = {
    "one_word": [
        ({}, "  Caf\u00e9 \n\n", True),
        ({}, "O'Brien", True),
        ({}, "\u6771\u4eac", True),
        ({}, "U.S.", True),
        ({}, "Honey (a food)", False),
        ({}, "`honey`", True),
        ({}, "\u0939\u093f\u0928\u094d\u0926\u0940", True),
        ({}, "nai\u0308ve", True),
        ({}, "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e", False),
        ({}, "\u0301", False),
    ],
    "yes_no": [
        ({}, "**Yes.**\n", True),
        ({}, "'No!'", True),
        ({}, "Yes\n\nBecause they can.", False),
        ({}, "Nope", False),
    ],
    "number": [
        ({}, " 1,000,000\n", True),
        ({}, "\u22125", True),
        ({}, "**42**", True),
        ({}, "3/4", False),
        ({}, "10%", False),
        ({}, "1e9", False),
        ({}, "5\u00b2", False),
        ({}, "42!", False),
        ({}, "5?", False),
        ({}, "5..", False),
        ({}, "**42**.", True),
        ({}, '"42."', True),
        ({}, "\uff14\uff12", True),
    ],
    "choice": [
        ({"options": ["left", "right"]}, '"Left."\n', True),
        ({"options": ["caf\u00e9", "bar"]}, "Cafe", True),
        ({"options": ["yes", "no"], "only": False}, "No, I know nothing of that.", True),
        ({"options": ["new", "old"], "only": False}, "Older than most.", False),
        ({"options": ["(a)", "(b)"]}, "(a)", True),
        ({"options": ["(a)", "(b)"]}, "**b.**", True),
        ({"options": ["(a)", "(b)"]}, "(c)", False),
        ({"options": ["(a)", "(b)"]}, "(a) or (b)", False),
        ({"options": _AGREE, "only": False}, "I strongly agree.", True),
        ({"options": _AGREE, "only": False}, "I agree.", True),
        ({"options": _AGREE, "only": False}, "I agree, even strongly agree.", False),
        ({"options": _AGREE, "only": False}, "I neither agree nor disagree.", False),
        ({"options": ["New York", "York City"], "only": False}, "New York City.", True),
    ],
    "comma_list": [
        ({"n": 3}, "*red*, green, blue \n", True),
        ({"n": 2}, "1,000, 2", False),
        ({"n": 3}, "- red, green, blue, and", False),
        ({"n": 3}, "red, green, blue.\n\nEnjoy!", False),
    ],
    "sentences": [
        ({"n": 2}, "Dr. Lee met Mr. J. R. Smith at 5 p.m. They left.", True),
        ({"n": 2}, "He works for Acme Inc. It pays well.", True),
        ({"n": 1}, "It costs 3.50 euros, i.e. less than a coffee, e.g. a latte.", True),
        ({"n": 1}, 'She asked "Why?" and left.', True),
        ({"n": 2}, "Wait... What?!", True),
        ({"n": 1}, "Well... maybe later.", True),
        ({"n": 2}, "- Bees hum\n- Wasps sting", True),
        ({"n": 1}, "This sentence breaks off\nand goes on in the next line.", True),
        ({"n": 2}, "Take vitamin C. It helps.  \n", True),
        ({"n": 1}, "See fig. 3 in vol. 2.", True),
        ({"n": 2}, "\u8fd9\u662f\u7b2c\u4e00\u53e5\u3002\u8fd9\u662f\u7b2c\u4e8c\u53e5\u3002", True),
        ({"n": 1}, "The answer is B. Option A is wrong.", False),
    ],
    "sentence_count": [
        ({"at_most": 1}, "It was 3 a.m. in the U.S. and nobody slept.", True),
        ({"at_least": 3}, "One. Two? Three!", True),
        ({"at_least": 1}, "...", False),
    ],
    "paragraphs": [
        ({"n": 2}, "One.\r\n\r\nTwo.", True),
        ({"n": 2}, "One.\n   \n\n\nTwo.\n\n", True),
        ({"n": 2}, "One.\n\n---\n\nTwo.", True),
        ({"n": 2}, "Title\n\nOne.\n\nTwo.", False),
    ],
    "paragraph_start": [
        ({"paragraphs": 1, "place": 1, "word": "It's"}, "\u201cIt\u2019s late,\u201d she said.", True),
        ({"paragraphs": 2, "place": 1, "word": "cafe"}, "**Caf\u00e9** life.\n\n\nMore.", True),
        ({"paragraphs": 2, "place": 3, "word": "a"}, "A b.\n\nA c.", False),
    ],
    "divided": [
        ({"n": 3}, "***\nOne.\n***\nTwo.\n***\nThree.\n***", True),
        ({"n": 2}, "One.\n***\n***\nTwo.", False),
        ({"n": 1}, "***\n***\nOne.", False),
        ({"n": 2}, "One **bold** word.\n***\nTwo.", True),
    ],
    "sections": [
        ({"n": 2, "marker": "SECTION"}, "**SECTION 1**\nx\n\n## SECTION 2\ny", True),
        ({"n": 2, "marker": "Day"}, "Day one. Day two.", False),
        ({"n": 1, "marker": "C++"}, "C++ 11", True),
    ],
    "bullets": [
        ({"n": 3}, "- one\n  - nested\n- two\n", True),
        ({"n": 1}, "- one\n```sh\n- not an item\n```", True),
        ({"n": 2}, "* one  \n\n* two\t", True),
        ({"n": 2}, "- one goes\n  on here\n- two", True),
        ({"n": 2}, "\u2022 eins\n\u2022 zwei", True),
        ({"n": 2}, "- one\n- two\n1. three", False),
        ({"n": 1}, "**Note:** no list\n---", False),
        ({"n": 1}, "-5 degrees", False),
        ({"n": 2}, "* a\n* b\n\n* * *\nThe end.", True),
        ({"n": 1}, "- a\n\n- - -", True),
        ({"n": 2}, "- - nested at once\n* * starred", True),
    ],
    "numbered": [
        ({"n": 2}, "1. one\n   - nested\n2. two", True),
        ({"n": 2}, "1) one\n2) two\n\nThat's all.", True),
        ({"n": 1}, "1. one\n```\n2. not an item\n```", True),
        ({"n": 2}, "1. one\n3. three", False),
        ({"n": 1}, "2024. What a year", False),
        ({"n": 2}, "**1.** one\n**2.** two", False),
    ],
    "headings": [
        ({"at_least": 1}, "```python\n# a comment\n```", False),
        ({"at_least": 1}, "### Caf\u00e9s in Paris  ", True),
        ({"at_most": 0}, "Use # and #tags freely.", True),
    ],
    "table": [
        ({"columns": 2}, "Here:\n\n| a \\| b | c |\n| --- | --- |\n| 1 | 2 |\n\nDone.", True),
        ({}, "```\n| a | b |\n|---|---|\n| 1 | 2 |\n```", False),
        ({}, "| a | b |\n|---|---|\n| 1 |", False),
        ({}, "a | b\n1 | 2", False),
        ({}, "| a | b |\n|:-:|:-:|\n| 1 | 2 |", True),
        ({"columns": 2}, "| a | b |\n| - | - |\n| 1 | 2 |", True),
        ({"columns": 2}, "| a | b |\n|--|--|\n| 1 | 2 |", True),
        ({}, "| a | b |\n|::|::|\n| 1 | 2 |", False),
        ({}, "| a | b |\n| | |\n| 1 | 2 |", False),
        ({}, "a - b\n- - -\n1 - 2", False),
    ],
    "code_block": [
        ({"language": "c++"}, "1. Write:\n   ```c++\n   int x;\n   ```", True),
        ({}, "~~~\nls\n~~~", True),
        ({}, "```python\nprint(1)", False),
        ({}, "```\n\n```", False),
    ],
    "json": [
        ({"keys": ["caf\u00e9"]}, '{"caf\\u00e9": [1, {"a": null}]}\n', True),
        ({}, 'Sure, here it is:\n```json\n{"a": 1}\n```', False),
        ({}, '```json\n{"a": 1}\n```\nHope this helps!', False),
        ({}, '{"a": 1,}', False),
        ({}, '{"a": 1} {"b": 2}', False),
        ({}, "{\u201ca\u201d: 1}", False),
        ({"any_value": True}, '```\n"a"\n```', True),
        ({"keys": ["a"]}, '{"A": 1}', False),
    ],
    "quoted": [
        ({}, "\u201eHallo\u201c", True),
        ({}, '"One."\n\n"Two."', True),
        ({}, "'Hallo'", False),
        ({}, '"Hallo", sagte er', False),
    ],
    "title": [
        ({}, "**<<Caf\u00e9 life>>**", True),
        ({}, "<<Two\nlines>>", False),
        ({}, "1 << 2 >> 1", True),
        ({}, "<title>", False),
    ],
    "postscript": [
        ({}, "Dear Paul\n**P.S.** Bring cake  ", True),
        ({}, "Dear Paul\np.s. bring cake", True),
        ({}, "Dear Paul\nPsst, quiet", False),
        ({"marker": "P.S."}, "Dear Paul\nP.S.\n", False),
    ],
    "placeholder": [
        ({"n": 3}, "[name], [Stra\u00dfe] and [name]", True),
        ({"n": 1}, "- [ ] buy milk\n- [x] call", False),
        ({"n": 1}, "a[0] = b[1]", False),
        ({"n": 1}, "[[nested name]]", True),
    ],
    "highlight": [
        ({"n": 2}, "***both*** and *\u00e9t\u00e9*", True),
        ({"n": 1}, "2*3*4 and a*b*c", False),
        ({"n": 1}, "\u8fd9\u662f**\u91cd\u70b9**\u5185\u5bb9", True),
        ({"n": 1}, "\u8fd9\u662f*\u91cd\u70b9*\u5185\u5bb9", True),
        ({"n": 1}, "*first*word", True),
        ({"n": 2}, "**bold**ly and *again*", True),
        ({"n": 2}, "**bold**ly", False),
        ({"n": 1}, "Prices* are net* of tax.", False),
        ({"n": 1}, "3*4=12 and 5*6=30", False),
        ({"n": 1}, "** not closed", False),
        ({"n": 1}, "*two\nlines*", False),
    ],
    "upper": [
        ({}, "\u00c9T\u00c9, 3 KG & 100 %\n", True),
        ({}, "STRA\u00dfE", False),
        ({"language": "en"}, "THE BEES ARE NOT IN THE HOUSE AND THEY HUM.", True),
        ({"language": "en"}, "DIE BIENEN SIND NICHT IM HAUS UND SIE SUMMEN.", False),
    ],
    "lower": [
        ({}, "\u00e9t\u00e9 \u0130stanbul", False),
        ({}, "\u03b1\u03b2\u03b3", True),
        ({"language": "en"}, "la maison est dans la ville et les rues sont grandes", False),
    ],
    "language": [
        ({"code": "pt"}, "O cachorro n\u00e3o est\u00e1 na casa e \u00e9 muito grande.", True),
        ({"code": "es"}, "O cachorro n\u00e3o est\u00e1 na casa e \u00e9 muito grande.", False),
        ({"code": "ja"}, "\u3053\u308c\u306f\u826f\u3044\u672c\u3067\u3059", True),
        ({"code": "zh"}, "\u3053\u308c\u306f\u826f\u3044\u672c\u3067\u3059", False),
        (
            {"code": "mr"},
            "\u092f\u0939 \u090f\u0915 \u0905\u091a\u094d\u091b\u093e \u0926\u093f\u0928 \u0939\u0948",
            False,
        ),
        (
            {"code": "hi"},
            "\u092f\u0939 \u090f\u0915 \u0905\u091a\u094d\u091b\u093e \u0926\u093f\u0928 \u0939\u0948",
            True,
        ),
        ({"code": "en"}, "Paris", True),
        ({"code": "en"}, "123", False),
    ],
    "capital_words": [
        ({"at_least": 3}, "I saw an X-RAY of the HDMI-plug and \u00c9T\u00c9!", True),
        ({"at_least": 1}, "McDonald's iPhone", False),
        ({"at_most": 0}, "1984 was 3 kg", True),
    ],
    "starts_with": [
        ({"text": "Dear Ana"}, "**Dear  Ana**,", True),
        ({"text": "\u00c9t\u00e9"}, "ete comes", True),
        ({"text": "C++"}, "C++ is old", True),
        ({"text": "No"}, "Nothing", False),
    ],
    "ends_with": [
        ({"text": "Any other questions?"}, 'I like it. "Any other questions?"  \n', True),
        ({"text": "Any other questions?"}, "Any other questions? Ask me!", False),
        ({"text": "caf\u00e9"}, "In a Caf\u00e9.", True),
    ],
    "repeats": [
        ({"text": "Write  a\npoem."}, "Write a poem.\n\nBees hum.", True),
        ({"text": "Say \u201chi\u201d."}, 'Say "hi". Hi!', True),
        ({"text": "Write a poem."}, '"Write a poem." Here it is.', False),
    ],
    "no_comma": [({}, "1.000 euros; then 2", True), ({}, "1,000 euros", False), ({}, "\u4e00\u3001\u4e8c", False)],
    "includes": [
        ({"words": ["na\u00efve", "Stra\u00dfe"]}, "A NAIVE walk down the stra\u00dfe.", True),
        ({"words": ["set up"]}, "We set\nup camp.", True),
        ({"words": ["art"], "parts": True}, "A party.", True),
        ({"words": ["art"]}, "A party.", False),
    ],
    "excludes": [
        ({"words": ["C++"]}, "We use C+ here.", True),
        ({"words": ["don't"]}, "We don\u2019t.", False),
        ({"words": ["cat"]}, "**Cat**s and a concatenation", True),
    ],
    "occurs": [
        ({"word": "it's", "at_least": 2}, "It\u2019s late. IT'S dark.", True),
        ({"word": "ana", "at_most": 1, "parts": True}, "banana", True),
        ({"word": "a b", "at_least": 1}, "A\nB", True),
        ({"word": "rock", "at_most": 0}, "A rock-hard cake", False),
    ],
    "letters": [
        ({"letter": "\u00e9", "at_least": 2}, "\u00c9t\u00e9", True),
        ({"letter": "#", "at_least": 2}, "# one ## two", True),
        ({"letter": "t", "at_most": 1}, "The cat", False),
    ],
    "max_words": [
        ({"n": 3}, "mother-in-law \u2013 isn\u2019t here \n", True),
        ({"n": 2}, "* one\n* two", True),
        ({"n": 2}, "one/two three four", False),
    ],
    "min_words": [
        ({"n": 2}, "\u2014 . one !", False),
        ({"n": 2}, "3.5 kg", True),
        ({"n": 3}, "\u00e9t\u00e9\u00a0one two", True),
    ],
}
FLAT = [(name, args, text, ok) for name, cases in HARD.items() for args, text, ok in cases]


@pytest.mark.parametrize(("name", "args", "text", "ok"), FLAT)
def test_a_hard_case(name: str, args: dict[str, Any], text: str, ok: bool) -> None:
    (item,) = parse_constraints([{"type": name, **args}], where="here")
    assert (item.failure(text) is None) is ok, item.failure(text)


def test_every_constraint_has_hard_cases_both_ways() -> None:
    assert set(HARD) == set(CONSTRAINTS)
    for name, cases in HARD.items():
        assert {ok for _, _, ok in cases} == {True, False}, name


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_no_answer_breaks_a_check(name: str) -> None:
    arguments = next(args for args, _, _ in HARD[name])
    (item,) = parse_constraints([{"type": name, **arguments}], where="here")
    for text in (
        "",
        " \n\t",
        "\x00\ud800"[:1],
        "\u202e\u200d",
        "`" * 999,
        "[" * 999,
        "*" * 999,
        "a " * 20_000,
        "|-" * 500,
    ):
        item.failure(text)
