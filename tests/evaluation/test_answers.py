from __future__ import annotations

import pytest

from burnish.evaluation.answers import (
    Answer,
    answers_and_stops,
    asks_no_quiz,
    names_gold,
    repeats_nothing,
    speaks_no_further_turn,
)

QUESTION = "What is the capital of France?"

GOOD = [
    "The capital of France is Paris.",
    "Paris",
    "Answer: Paris",
    'People ask "Why Paris?" and the kings chose it.',
    "What is the capital of France? The capital of France is Paris.",
    "AI: short for artificial intelligence.",
    "The user: a person who uses a system.",
    "It is very, very old.",
    "Paris. It lies on the Seine. It is old.",
    "Paris is big. Paris is old.",
    "Nancy: Paris is the capital, said the guide.",
    "Exercise.",
    "Exercise: walk daily.",
    "1. Sleep: eight hours.\n2. Exercise: walk daily.\n3. Problem: none.",
]
BAD = [
    ("", "empty"),
    (" \n\u2026", "empty"),
    ("The capital of France is Paris. What is the capital of Spain?", "asks a question"),
    ("Paris\nWhat is the capital of Spain?\nMadrid", "asks a question"),
    ("Paris. Do you want to know more?", "asks a question"),
    ("Paris.\n\nQuestion: Name a river.\nAnswer: The Seine.", "quiz"),
    ("Q: Name a river.\nA: The Seine.", "quiz"),
    ("2. Question 2: name a river.", "quiz"),
    ("Paris.\nExercise 2: name a river.", "quiz"),
    ("Paris.\n**Problem #3.** Name a river.", "quiz"),
    ("Paris.\n\u5df4\u9ece\u662f\u54ea\u91cc\uff1f\u6211\u4e0d\u77e5\u9053\u3002", "asks a question"),
    ("Paris\nAnswer: Paris", "quiz"),
    ("A. London\nB. Paris\nC. Rome", "quiz"),
    ("Paris.\nUser: thanks\nAssistant: you are welcome", "further turn"),
    ("Paris.\n\nHuman: and Spain", "further turn"),
    ("**User:** and Spain", "further turn"),
    ("Paris.\nAI: Madrid", "further turn"),
    ("Paris<|im_start|>user", "further turn"),
    ("Paris<end_of_turn>", "further turn"),
    ("Paris.\n### Instruction:\nName a river.", "further turn"),
    ("The capital is Paris. The capital is Paris.", "repeats"),
    ("Paris is big, old and nice\nParis is big, old and nice", "repeats"),
    ("Paris Paris Paris Paris Paris", "repeats"),
    ("the city of the city of the city of the city of", "repeats"),
    ("it is where the king is where the king is where the king", "repeats"),
]


@pytest.mark.parametrize("text", GOOD)
def test_a_plain_answer_passes(text: str) -> None:
    verdict = answers_and_stops(Answer(text, True, 9), QUESTION)
    assert verdict, verdict.why


@pytest.mark.parametrize(("text", "why"), BAD)
def test_a_bad_answer_fails_and_says_why(text: str, why: str) -> None:
    verdict = answers_and_stops(Answer(text, True, 9), QUESTION)
    assert not verdict
    assert why in verdict.why


def test_an_answer_that_was_cut_off_fails() -> None:
    verdict = answers_and_stops(Answer("The capital of France is Paris.", False, 32), QUESTION)
    assert not verdict
    assert "did not stop" in verdict.why


def test_lettered_options_are_no_quiz_when_the_prompt_has_them() -> None:
    assert asks_no_quiz("A. a snail\nB. a rocket", "Which is faster?\nA. a snail\nB. a rocket")
    assert not asks_no_quiz("A. a snail\nB. a rocket", "Which is faster?")


def test_only_a_first_sentence_may_repeat_the_question() -> None:
    assert not asks_no_quiz("Paris. What is the capital of France?", QUESTION)


def test_short_sentences_may_come_twice() -> None:
    assert repeats_nothing("I see. I see. It is late.")
    assert not repeats_nothing("I see it clearly. Yes. I see it clearly.")


def test_a_label_in_mid_line_is_no_turn() -> None:
    assert speaks_no_further_turn("Write it as user: name, password: secret.")


@pytest.mark.parametrize(
    ("text", "gold", "found"),
    [
        ("It is Paris.", ["paris"], True),
        ("Comparison", ["paris"], False),
        ("Charlotte Bront\u00eb wrote it.", ["bronte"], True),
        ("The way  out.", ["exit", "way out"], True),
        ("There are 15.", ["5"], False),
        ("It weighs 5.5 kilos.", ["5"], False),
        ("There are 1,500.", ["500"], False),
        ("There are 5, I think.", ["5"], True),
        ("Exactly 5.", ["5"], True),
        ("It was -5 degrees.", ["5"], False),
        ("It was \u22125 degrees.", ["5"], False),
        ("-5", ["5"], False),
        ("It was -5 degrees.", ["-5"], True),
        ("About 1/5 of it.", ["5"], False),
        ("About 1/5 of it.", ["1"], False),
        ("About 1/5 of it.", ["1/5"], True),
        ("About \u00bd of it.", ["2"], False),
        ("At 12:30.", ["12"], False),
        ("At 12:30.", ["30"], False),
        ("At 12:30.", ["12:30"], True),
        # A range, a compound and a name hold the number itself, and not a longer one.
        ("The war lasted 1939-1945.", ["1945"], True),
        ("A 5-year plan.", ["5"], True),
        ("Apollo-11 did.", ["11"], True),
        ("Answer:5", ["5"], True),
        ("Tools: 5/hammer, 3.", ["3"], True),
        ("London/Paris", ["paris"], True),
        ("-Paris", ["paris"], True),
        ("**Eight** legs", ["eight", "8"], True),
        ("", ["paris"], False),
    ],
)
def test_accepted_answers_are_found_as_whole_words(text: str, gold: list[str], found: bool) -> None:
    assert names_gold(text, gold) is found
