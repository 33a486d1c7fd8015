from __future__ import annotations

from typing import Any

import pytest

from burnish.errors import DataError
from burnish.evaluation.answers import Answer
from burnish.evaluation.constraint import constraint
from burnish.evaluation.format import CONSTRAINTS, follows_format, held, parse_constraints

CASES: dict[str, list[tuple[dict[str, Any], str, bool]]] = {
    "one_word": [
        ({}, "Honey", True),
        ({}, " **Honey.** ", True),
        ({}, '"Mother-in-law!"', True),
        ({}, "don\u2019t", True),
        ({}, "Honey bees", False),
        ({}, "Bees make honey.", False),
        ({}, "!", False),
        ({}, "", False),
        ({}, "Honey\nWhat do cows make?", False),
    ],
    "sentences": [
        ({"n": 1}, "Bees make honey.", True),
        ({"n": 1}, "Bees make honey", True),
        ({"n": 2}, "Dr. Lee keeps bees. They make 3.5 kg of honey.", True),
        ({"n": 1}, "Bees make honey. It is sweet.", False),
        ({"n": 1}, "", False),
        ({"n": 1}, '"I love the park!"', True),
    ],
    "bullets": [
        ({"n": 2}, "- one\n- two", True),
        ({"n": 2}, "Here they are:\n* one\n\u2022 two", True),
        ({"n": 2}, "- one\n- two\n- three", False),
        ({"n": 2}, "1. one\n2. two", False),
        ({"n": 2}, "one\ntwo", False),
        ({"n": 2}, "-one\n-two", False),
        ({"n": 1}, "**bold** is no bullet", False),
    ],
    "numbered": [
        ({"n": 3}, "1. a\n2. b\n3. c", True),
        ({"n": 2}, "Steps:\n1) a\n2) b", True),
        ({"n": 3}, "1. a\n2. b", False),
        ({"n": 2}, "1. a\n1. b", False),
        ({"n": 2}, "2. a\n1. b", False),
        ({"n": 2}, "- a\n- b", False),
        ({"n": 1}, "1.5 litres", False),
    ],
    "paragraphs": [
        ({"n": 2}, "One.\n\nTwo.", True),
        ({"n": 2}, "One.\n\n***\n\nTwo.", True),
        ({"n": 2}, "One.\nTwo.", False),
        ({"n": 1}, "One.\n\nTwo.", False),
    ],
    "json": [
        ({"keys": ["name", "age"]}, '{"name": "Ana", "age": 3}', True),
        ({"keys": ["name", "age"]}, '```json\n{"age": 3, "name": "Ana"}\n```', True),
        ({"keys": ["name"]}, '{"name": "Ana", "age": 3}', False),
        ({"keys": ["name", "age"]}, '{"name": "Ana"}', False),
        ({"keys": ["name"]}, 'Here it is: {"name": "Ana"}', False),
        ({"keys": ["name"]}, "{'name': 'Ana'}", False),
        ({"keys": ["name"]}, '{"name": "Ana", "name": "Bo"}', False),
        ({"keys": ["name"]}, '{"name": NaN}', False),
        ({}, "{}", True),
        ({}, "[1, 2]", False),
        ({}, "[" * 5000, False),
        ({"any_value": True}, "[1, 2]", True),
        ({"any_value": True}, "[1, 2", False),
        ({"any_value": True, "keys": ["a"]}, "[1, 2]", False),
    ],
    "yes_no": [
        ({}, "Yes", True),
        ({}, "no.", True),
        ({}, "YES!", True),
        ({}, "Yes, they can.", False),
        ({}, "yes yes", False),
        ({}, "Maybe", False),
    ],
    "upper": [
        ({}, "BEES MAKE 3 KG OF HONEY!", True),
        ({}, "\u00c9T\u00c9", True),
        ({}, "BEES MAKE HONEy", False),
        ({}, "123", False),
    ],
    "lower": [
        ({}, "bees make 3 kg of honey.", True),
        ({}, "Bees make honey.", False),
        ({}, "!!", False),
    ],
    "starts_with": [
        ({"text": "Hello"}, "Hello, class!", True),
        ({"text": "Hello"}, '"hello" it said', True),
        ({"text": "Hello"}, "Hellos to all", False),
        ({"text": "Hello"}, "Oh, hello", False),
        ({"text": "It's"}, "It\u2019s late.", True),
    ],
    "ends_with": [
        ({"text": "The end."}, "They lived well. The end.", True),
        ({"text": "The end."}, "They lived well. THE END.", True),
        ({"text": "The end."}, "They lived well. The end", False),
        ({"text": "Good luck!"}, "You can do it. Good luck!", True),
        ({"text": "Good luck!"}, "You can do it. Good luck.", False),
        ({"text": "bye"}, "see you soon, bye.", True),
        ({"text": "bye"}, "see you, goodbye", False),
        ({"text": "bye"}, "bye for now", False),
        ({"text": "bye"}, "**bye**", True),
    ],
    "no_comma": [({}, "Bees make honey and wax.", True), ({}, "Bees, wasps", False), ({}, "a\uff0cb", False)],
    "includes": [
        ({"words": ["garden", "sun"]}, "The Sun warms the garden.", True),
        ({"words": ["garden", "sun"]}, "Sunday in the garden", False),
        ({"words": ["Elodie carved"]}, "elodie  carved it", True),
        ({"words": ["250"]}, '{"amount": 250.00}', True),
        ({"words": ["sun"], "parts": True}, "Sunday", True),
    ],
    "excludes": [
        ({"words": ["fur"]}, "A cat has soft furniture.", True),
        ({"words": ["fur"]}, "Its Fur is soft.", False),
        ({"words": ["fur", "hair"]}, "Its hair is soft.", False),
    ],
    "max_words": [({"n": 3}, "one two three!", True), ({"n": 3}, "one two - three four", False)],
    "min_words": [({"n": 3}, "one two three", True), ({"n": 3}, "one two -", False)],
    "comma_list": [
        ({"n": 3}, "red, green, blue", True),
        ({"n": 3}, "Red, green, and blue.", True),
        ({"n": 3}, "red, green and blue", False),
        ({"n": 2}, "red, green, blue", False),
        ({"n": 3}, "Colours: red, green, blue", False),
        ({"n": 2}, "red,\ngreen", False),
        ({"n": 3}, "red,, blue", False),
        ({"n": 2}, "The sky over the old town is red, green", False),
    ],
    "number": [
        ({}, "2", True),
        ({}, "1,250.5.", True),
        ({}, "-3", True),
        ({}, "two", False),
        ({}, "2 eyes", False),
        ({}, "2 3", False),
        ({}, "1,25,0", False),
    ],
    "title": [
        ({}, "<<Clouds>>\nThey drift.", True),
        ({}, "<< >>", False),
        ({}, "Clouds", False),
        ({}, "\u00abClouds\u00bb", False),
    ],
    "quoted": [
        ({}, '"Throw the ball!"', True),
        ({}, "\u201cThrow the ball!\u201d", True),
        ({}, 'It says "ball"', False),
        ({}, '"ball', False),
        ({}, '""', False),
    ],
    "postscript": [
        ({}, "Dear Paul,\nhappy birthday.\nP.S. Bring cake.", True),
        ({}, "Dear Paul\nPS: bring cake", True),
        ({}, "P.P.S. One more thing.", True),
        ({}, "Dear Paul,\nP.S.", False),
        ({}, "Psalms are old.", False),
        ({}, "It ends, p.s. here.", False),
        ({"marker": "P.P.S"}, "Dear Paul\nP.P.S. bring cake", True),
        ({"marker": "P.P.S"}, "Dear Paul\nP.S. bring cake", False),
    ],
    "choice": [
        ({"options": ["happy", "unhappy"]}, "Unhappy.", True),
        ({"options": ["happy", "unhappy"]}, "The customer is unhappy.", False),
        ({"options": ["A", "B"]}, "B)", True),
        ({"options": ["A", "B"]}, "C", False),
        ({"options": ["happy", "unhappy"], "only": False}, "The customer is unhappy.", True),
        ({"options": ["happy", "unhappy"], "only": False}, "Happy or unhappy, who knows.", False),
        ({"options": ["happy", "unhappy"], "only": False}, "Who knows.", False),
    ],
    "placeholder": [
        ({}, "Dear [name],", True),
        ({"n": 2}, "Dear [first name], on [date]", True),
        ({"n": 2}, "Dear [name],", False),
        ({}, "[x] done, [1]", False),
        ({}, "see [this page](http)", False),
    ],
    "highlight": [
        ({}, "A *fresh* salad", True),
        ({}, "A **very fresh** salad", True),
        ({"n": 2}, "*one* and *two*", True),
        ({"n": 2}, "*one* and two", False),
        ({}, "* a bullet\n* another", False),
        ({}, "3 * 4 * 5", False),
    ],
    "sentence_count": [
        ({"at_least": 2}, "Bees hum. They work.", True),
        ({"at_least": 2}, "Bees hum.", False),
        ({"at_most": 1}, "Bees hum. They work.", False),
        ({"at_least": 1, "at_most": 2}, "Bees hum.", True),
    ],
    "paragraph_start": [
        ({"paragraphs": 2, "place": 2, "word": "bees"}, "First.\n\nBees hum.", True),
        ({"paragraphs": 2, "place": 2, "word": "bees"}, "First.\n\nBeeswax melts.", False),
        ({"paragraphs": 2, "place": 2, "word": "bees"}, "Bees hum.\n\nFirst.", False),
        ({"paragraphs": 2, "place": 2, "word": "bees"}, "Only one.", False),
    ],
    "divided": [
        ({"n": 2}, "One.\n***\nTwo.", True),
        ({"n": 2}, "One.\n\nTwo.", False),
        ({"n": 2, "by": "******", "different": True}, "Rex\n******\nRover", True),
        ({"n": 2, "by": "******", "different": True}, "Rex\n******\nrex", False),
    ],
    "sections": [
        ({"n": 2}, "Section 1\nOne.\nSection 2\nTwo.", True),
        ({"n": 2, "marker": "PART"}, "PART 1: one PART 2: two", True),
        ({"n": 2, "marker": "PART"}, "Part 1: one Part 2: two", False),
        ({"n": 3}, "Section 1\nOne.\nSection 2\nTwo.", False),
    ],
    "headings": [
        ({"at_least": 2}, "# Bees\nThey hum.\n## Wax\nIt melts.", True),
        ({"at_least": 1}, "#bees hum", False),
        ({"at_most": 1}, "# Bees\n## Wax", False),
    ],
    "table": [
        ({}, "| a | b |\n|---|---|\n| 1 | 2 |", True),
        ({"columns": 2}, "a | b\n--|--\n1 | 2", True),
        ({"columns": 2}, "a | b\n---|:---:\n1 | 2", True),
        ({"columns": 3}, "| a | b |\n|---|---|\n| 1 | 2 |", False),
        ({}, "| a | b |\n|---|---|", False),
    ],
    "code_block": [
        ({}, "So:\n```python\nprint(1)\n```", True),
        ({"language": "python"}, "```Python\nprint(1)\n```", True),
        ({"language": "python"}, "```\nprint(1)\n```", False),
        ({}, "`print(1)`", False),
    ],
    "language": [
        ({"code": "de"}, "Der Hund ist nicht im Haus, und die Katze auch nicht.", True),
        ({"code": "de"}, "The dog is not in the house and the cat is not.", False),
        ({"code": "kn"}, "\u0c87\u0ca6\u0cc1 \u0c92\u0cb3\u0ccd\u0cb3\u0cc6\u0caf \u0ca6\u0cbf\u0ca8", True),
        ({"code": "kn"}, "A good day.", False),
    ],
    "capital_words": [
        ({"at_least": 2}, "NEVER mix BLEACH with acid", True),
        ({"at_least": 1}, "Never mix bleach", False),
        ({"at_most": 1}, "NEVER mix BLEACH", False),
    ],
    "repeats": [
        ({"text": "Write a poem."}, "write a poem. Here it is: bees hum.", True),
        ({"text": "Write a poem."}, "Sure! Write a poem.", False),
        ({"text": "Write a poem."}, "Write a poem, please.", False),
    ],
    "occurs": [
        ({"word": "bee", "at_least": 2}, "Bee after bee.", True),
        ({"word": "bee", "at_least": 2}, "Bees like a bee.", False),
        ({"word": "bee", "at_least": 2, "parts": True}, "Bees like a bee.", True),
        ({"word": "bee", "at_most": 0}, "No wasps.", True),
        ({"word": "bee", "at_most": 0}, "A bee.", False),
    ],
    "letters": [
        ({"letter": "e", "at_most": 2}, "Bees hum", True),
        ({"letter": "E", "at_least": 3}, "Bees hum", False),
        ({"letter": "!", "at_least": 2}, "Bees! Hum!", True),
    ],
}
FLAT = [(name, args, text, ok) for name, cases in CASES.items() for args, text, ok in cases]


@pytest.mark.parametrize(("name", "args", "text", "ok"), FLAT)
def test_a_constraint_holds_or_not(name: str, args: dict[str, Any], text: str, ok: bool) -> None:
    (item,) = parse_constraints([{"type": name, **args}], where="here")
    assert (item.failure(text) is None) is ok, item.failure(text)


def test_every_constraint_has_cases_both_ways_and_a_rule() -> None:
    assert set(CASES) == set(CONSTRAINTS)
    assert len(CONSTRAINTS) >= 20
    for name, kind in CONSTRAINTS.items():
        assert {ok for _, _, ok in CASES[name]} == {True, False}, name
        assert len(kind.rule) > 20


@pytest.mark.parametrize(
    ("checks", "what"),
    [
        ([{"type": "bulets", "n": 3}], "did you mean 'bullets'"),
        ([{"type": "bullets"}], "needs the argument 'n'"),
        ([{"type": "bullets", "m": 3}], "has no argument 'm'"),
        ([{"type": "bullets", "n": 0}], "not usable"),
        ([{"type": "bullets", "n": True}], "not usable"),
        ([{"type": "bullets", "n": "3"}], "not usable"),
        ([{"type": "includes", "words": []}], "not usable"),
        ([{"type": "includes", "words": "sun"}], "not usable"),
        ([{"type": "ends_with", "text": " "}], "not usable"),
        ([{"type": "choice", "options": ["a"], "only": 1}], "not usable"),
        ([{"type": "title", "n": 1}], "has no argument 'n'"),
        ([{"type": "occurs", "word": "bee"}], "needs 'at_least' or 'at_most'"),
        ([{"type": "letters", "letter": "e", "at_least": 3, "at_most": 2}], "at_least is more than at_most"),
        ([{"type": "letters", "letter": "e", "at_least": 0}], "not usable"),
        ([{"type": "language", "code": "english"}], "none of the known languages"),
        ([{"type": "upper", "language": "xx"}], "none of the known languages"),
        ([{"type": "letters", "letter": "e", "at_most": -1}], "not usable"),
        ([], "non-empty list"),
        ({}, "non-empty list"),
        (["one_word"], "must be an object"),
        ([{"n": 3}], "must be an object"),
    ],
)
def test_a_wrong_check_is_refused_with_its_place(checks: Any, what: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_constraints(checks, where="rows.jsonl:7")
    assert what in str(caught.value)
    assert "rows.jsonl:7" in str(caught.value)


def test_all_constraints_of_a_prompt_must_hold_and_the_answer_must_stop() -> None:
    items = parse_constraints([{"type": "upper"}, {"type": "max_words", "n": 3}], where="here")
    assert follows_format(Answer("BREAD AND CAKES", True, 3), items)
    assert "max_words" in follows_format(Answer("BREAD AND FRESH CAKES", True, 4), items).why
    assert "upper" in follows_format(Answer("Bread", True, 1), items).why
    assert "did not stop" in follows_format(Answer("BREAD", False, 9), items).why
    assert "empty" in follows_format(Answer("", True, 0), items).why


def test_constraints_are_counted_one_by_one() -> None:
    items = parse_constraints([{"type": "upper"}, {"type": "max_words", "n": 3}], where="here")
    assert held(Answer("BREAD AND FRESH CAKES", True, 4), items) == (True, False)
    assert held(Answer("Bread", True, 1), items) == (False, True)
    # What does not end, or says nothing, meets nothing: a prompt passes no more often than its constraints.
    assert held(Answer("BREAD", False, 9), items) == (False, False)
    assert held(Answer(" ", True, 0), items) == (False, False)


def test_a_name_is_registered_once() -> None:
    def title(answer: str, /) -> str | None:
        """A rule."""
        return None

    with pytest.raises(ValueError, match="twice"):
        constraint(title)
