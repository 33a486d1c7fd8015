from __future__ import annotations

import random

import pytest

from burnish.evaluation.overoptimisation import distinct_n
from burnish.evaluation.repetition import longest_repeat, matched_distinct, repeated_share


def test_the_share_of_repeated_4_grams_of_one_answer() -> None:
    # a b c d, b c d a, c d a b, d a b c, a b c d: one of five is repeated.
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_share("one two three") == 0.0


@pytest.mark.parametrize(
    ("text", "longest", "words"),
    [
        ("", 0, 1),
        ("alone", 0, 1),
        ("all words differ here", 0, 4),
        ("the cat saw the dog", 1, 5),
        ("a b c x a b c", 3, 7),
        ("no no no no", 3, 4),  # the first three and the last three overlap
        ("a b a b a b", 4, 6),
        ("x a b c d y a b c d", 4, 10),
    ],
)
def test_the_longest_run_that_comes_twice(text: str, longest: int, words: int) -> None:
    assert longest_repeat(text) == pytest.approx(longest / words)


def test_bisection_finds_what_trying_every_length_finds() -> None:
    generator = random.Random(0)
    for _ in range(200):
        words = [generator.choice("abc") for _ in range(generator.randint(1, 30))]
        repeated = [
            n
            for n in range(1, len(words))
            if len({tuple(words[i : i + n]) for i in range(len(words) - n + 1)}) < len(words) - n + 1
        ]
        assert longest_repeat(" ".join(words)) == pytest.approx(max(repeated, default=0) / len(words))


def test_answers_are_compared_at_equal_lengths() -> None:
    """The first prompt's answers are cut to three words, the second's to two."""
    (first, _), (second, _) = matched_distinct([["a b c d e f g", "a b"], ["a b x", "a b c d"]])
    assert first == pytest.approx(2 / 5)  # ab, bc, ab
    assert second == pytest.approx(2 / 5)  # ab, bx, ab
    ((alone, _),) = matched_distinct([["a b c d e f g", "a b"]])
    assert alone == pytest.approx(6 / 9)


def test_leaving_out_each_prompt_is_computing_anew_without_it() -> None:
    answers = ["a b c a b", "b c d", "", "a b c a", "x"]
    ((value, left_out),) = matched_distinct([answers])
    assert value == distinct_n(answers, 2)
    for place, found in enumerate(left_out):
        assert found == pytest.approx(distinct_n([*answers[:place], *answers[place + 1 :]], 2))
    ((_, left_out),) = matched_distinct([["a b", ""]])
    assert left_out == [0.0, 0.5]


def test_one_answer_to_every_prompt_is_seen() -> None:
    same = ["I am sorry, I can not help with that"] * 12
    varied = [f"word{i} and{i} then{i} more{i} of{i} it{i}" for i in range(12)]
    (collapsed, _), (rich, _) = matched_distinct([same, varied])
    assert collapsed < 0.12 < 0.8 < rich
