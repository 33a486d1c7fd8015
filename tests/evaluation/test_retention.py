from __future__ import annotations

import math

import pytest

from burnish.errors import ModelError
from burnish.evaluation.retention import choice_prompt, measure_retention
from burnish.evaluation.rows import Choice, Prose
from tests.evaluation.made import ScriptedModel

CHOICES = [
    Choice("m1", "Which is a metal?", ("Iron", "Wood"), 0),
    Choice("m2", "Which is a fruit?", ("Chair", "Plum", "Red lead"), 1),
    Choice("m3", "Which is wet?", ("Sand", "Water"), 1),
]


def test_the_highest_summed_log_probability_is_the_choice() -> None:
    table = {
        choice_prompt("Which is a metal?"): [-3.0, -2.0],
        choice_prompt("Which is a fruit?"): [-5.0, -2.5, -4.0],
        choice_prompt("Which is wet?"): [-1.0, -1.0],
    }
    kept = measure_retention(ScriptedModel("m", {}, choice_logprobs=table), CHOICES, [])
    assert [record.chosen for record in kept.choices] == [1, 1, None]
    assert [record.right for record in kept.choices] == [False, True, False]  # a tie is not right
    assert kept.accuracy is not None
    assert (kept.accuracy.passed, kept.accuracy.n) == (1, 3)
    assert kept.nats_per_token is None


def test_one_text_that_stands_twice_is_one_choice() -> None:
    """Its two log-probs are the same, which is no tie between answers."""
    twice = [Choice("m1", "Which is a metal?", ("None", "Iron", "None", "Wood"), 1)]
    asked = choice_prompt("Which is a metal?")
    for logprobs, chosen in (([-2.0, -3.0, -2.0, -4.0], 0), ([-2.0, -2.0, -2.0, -4.0], None)):
        model = ScriptedModel("m", {}, choice_logprobs={asked: logprobs})
        assert measure_retention(model, twice, []).choices[0].chosen == chosen


def test_the_question_is_raw_text_and_a_choice_follows_after_a_space() -> None:
    seen: list[tuple[str, list[str]]] = []

    class Recorder(ScriptedModel):
        def continuation_logprobs(self, items):  # type: ignore[no-untyped-def]
            seen.extend((prompt, list(choices)) for prompt, choices in items)
            return super().continuation_logprobs(items)

    measure_retention(Recorder("m", {}), CHOICES[:1], [])
    assert seen == [("Question: Which is a metal?\nAnswer:", [" Iron", " Wood"])]


def test_nats_are_pooled_over_tokens_and_over_bytes() -> None:
    nats = {"abc": (6.0, 2), "caf\u00e9": (2.0, 6)}
    model = ScriptedModel("m", {}, nats_of_text=lambda text: nats[text])
    kept = measure_retention(model, [], [Prose("p1", "abc"), Prose("p2", "caf\u00e9")])
    assert kept.nats_per_token is not None
    assert kept.nats_per_byte is not None
    assert kept.nats_per_token.value == pytest.approx(8 / 8)  # not the mean of 3 and 1/3
    assert kept.nats_per_byte.value == pytest.approx(8 / (3 + 5))
    assert kept.accuracy is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_log_probability_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(ModelError, match="not finite") as caught:
        measure_retention(ScriptedModel("m", {}, nats_of_text=lambda text: (bad, 3)), [], [Prose("p1", "abc")])
    assert "p1" in str(caught.value)
    with pytest.raises(ModelError, match="not finite"):
        measure_retention(
            ScriptedModel("m", {}, choice_logprobs={choice_prompt("Which is a metal?"): [0.0, -bad]}), CHOICES[:1], []
        )
