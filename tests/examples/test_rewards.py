"""Reward functions of the examples."""

from __future__ import annotations

import pytest

from rewards import FORMAT_REWARD, distinct_words, final_number, gsm8k, sentiment, sober_sentiment, varied_sentiment


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 2 = 4\n#### 4", 4.0),
        ("####1,234", 1234.0),
        ("#### $-3.50 ", -3.5),
        ("#### .5", 0.5),
        ("#### 1 then #### 2", 2.0),
        ("the answer is 4", None),
        ("#### four", None),
        ("", None),
    ],
)
def test_final_number(text: str, number: float | None) -> None:
    assert final_number(text) == number


def test_gsm8k_pays_for_the_number_of_the_row_and_a_little_for_the_form() -> None:
    rows = [{"answer": "6 * 12 = 72\n#### 72"}] * 5
    said = ["#### 72", "so it is 72 #### 72.0", "#### 71", "72", "#### 1 #### 72"]
    assert gsm8k(["?"] * 5, said, rows) == pytest.approx([1 + FORMAT_REWARD, 1 + FORMAT_REWARD, FORMAT_REWARD, 0, 1])


def test_gsm8k_refuses_a_row_without_an_answer() -> None:
    with pytest.raises(ValueError, match="no number after ####"):
        gsm8k(["?"], ["#### 1"], [{"answer": "1"}])


def test_distinct_words() -> None:
    assert distinct_words("great great, Great great") == 1 / 4
    assert distinct_words("a fine film") == 1.0
    assert distinct_words("...") == 0.0


def test_sentiment_has_the_sign_of_the_words() -> None:
    pytest.importorskip("vaderSentiment")
    good, bad, nothing = sentiment(["I think"] * 3, ["it was wonderful.", "it was terrible.", "it was a film."])
    assert good > 0.5 > -0.4 > bad
    assert nothing == 0.0


def test_sober_sentiment_takes_repetition_and_shouting_off() -> None:
    pytest.importorskip("vaderSentiment")
    texts = ["a great film", "a great, great film", "great great great great great", "a great film!!!"]
    once, twice, often, shouted = sober_sentiment(["I think"] * 4, texts)
    plain = sentiment(["I think"] * 4, texts)
    assert once == plain[0]
    assert varied_sentiment(["I think"] * 4, texts)[1] == pytest.approx(plain[1] * 3 / 4)
    # Three of four words differ, one of five; three exclamation marks.
    assert twice == pytest.approx(plain[1] * 27 / 64)
    assert often == pytest.approx(plain[2] / 125)
    assert shouted == pytest.approx(plain[3] / 4)
