"""Topic likelihood against a judge whose log-probs are written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from burnish.data.examples import Message
from burnish.errors import ConfigError, ModelError
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.topic_likelihood import (
    MAX_WORDS,
    PREMISE,
    TopicEvidence,
    draw_contexts,
    first_words,
    measure_topic,
    transcript,
)


def row(identity: str, *turns: str) -> EvalRow:
    roles = ["user", "assistant"] * len(turns)
    return EvalRow(identity, "topic", tuple(Message(role, text) for role, text in zip(roles, turns, strict=False)))


BATS = row("bats", "How do bats fly?", "By skin.", "And see?")
TEA = row("tea", "What is tea?", "A leaf.", "Hot?")
CARS = row("cars", "How do cars stop?", "By brakes.", "Why?", "Friction.", "And on ice?")
ROWS = [BATS, TEA, CARS]


class Judge:
    """log p from a function of (prompt, continuation)."""

    name = "raw"

    def __init__(self, logp: Callable[[str, str], float]) -> None:
        self.logp = logp
        self.items: list[tuple[str, list[str]]] = []

    def continuation_logprobs(self, items: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        self.items += [(prompt, list(texts)) for prompt, texts in items]
        return [[self.logp(prompt, text) for text in texts] for prompt, texts in items]


def by_first_word(table: dict[tuple[str, str], float]) -> Callable[[str, str], float]:
    """Log-probs by the conversation's first noun ("alone" for none) and the answer's first word."""

    def logp(prompt: str, text: str) -> float:
        context = next((name for name in ("bats", "tea", "cars") if name in prompt), "alone")
        return table[context, text.split()[0]]

    return logp


def test_the_judge_reads_a_plain_transcript() -> None:
    assert transcript(BATS.messages) == "User: How do bats fly?\nAssistant: By skin.\nUser: And see?\nAssistant:"
    system = (Message("system", " Be kind. "), Message("user", "Hello\n"))
    assert transcript(system) == "Be kind.\nUser: Hello\nAssistant:"


TABLE = {
    ("bats", "Echoes"): -5.0, ("tea", "Echoes"): -9.0, ("cars", "Echoes"): -8.0, ("alone", "Echoes"): -9.5,
    ("bats", "Yes"): -2.0, ("tea", "Yes"): -2.0, ("cars", "Yes"): -3.0, ("alone", "Yes"): -2.5,
    ("bats", "Bats"): -4.0, ("tea", "Bats"): -7.0, ("cars", "Bats"): -6.0, ("alone", "Bats"): -5.5,
}  # fmt: skip
ANSWERS = [(BATS, "Echoes guide them well"), (TEA, "Yes it is"), (CARS, "Bats can fly")]


def test_the_true_conversation_must_win_alone() -> None:
    """Echoes after bats wins; Yes is as likely after bats as after its own tea, and a tie is no win; Bats after cars
    loses."""
    judge = Judge(by_first_word(TABLE))
    found = measure_topic(judge, ANSWERS, ROWS)
    assert [record.wins for record in found.records] == [True, False, False]
    assert (found.rate.passed, found.rate.n) == (1, 3)
    assert found.judge == "raw"
    echoes = found.records[0]
    assert (echoes.own, echoes.alone, echoes.pmi) == (-5.0, -9.5, 4.5)
    assert dict(zip(echoes.contexts, echoes.others, strict=True)) == {"tea": -9.0, "cars": -8.0}
    assert found.records[2].pmi == pytest.approx(-0.5)
    # (4.5 + 0.5 - 0.5) nats over 4 + 3 + 3 words
    assert found.pmi_per_word is not None
    assert found.pmi_per_word.value == pytest.approx(4.5 / 10)


def test_the_rate_by_turns_comes_with_its_n() -> None:
    found = measure_topic(Judge(by_first_word(TABLE)), ANSWERS, ROWS)
    assert [record.turns for record in found.records] == [2, 2, 3]
    assert {turns: (rate.passed, rate.n) for turns, rate in found.by_turns.items()} == {2: (1, 2), 3: (0, 1)}
    data = found.to_dict()
    assert [(entry["turns"], entry["passed"], entry["n"]) for entry in data["by_turns"]] == [(2, 1, 2), (3, 0, 1)]
    assert data["rate"]["value"] == pytest.approx(1 / 3)
    assert data["records"][0]["wins"] is True


def test_an_empty_answer_does_not_win_and_costs_nothing() -> None:
    judge = Judge(lambda prompt, text: -1.0)
    found = measure_topic(judge, [(BATS, " \n"), (TEA, "")], ROWS)
    assert judge.items == []
    assert (found.rate.passed, found.rate.n) == (0, 2)
    assert found.pmi_per_word is None
    assert found.records[0].own is None


def test_a_context_is_asked_once_for_all_answers_that_stand_against_it() -> None:
    judge = Judge(lambda prompt, text: -float(len(prompt)))
    measure_topic(judge, ANSWERS, ROWS)
    prompts = [prompt for prompt, _ in judge.items]
    assert sorted(prompts) == sorted([PREMISE, *(transcript(one.messages) for one in ROWS)])
    assert all(len(texts) == 3 for _, texts in judge.items)
    assert judge.items[0][1][0] == " Echoes guide them well"  # a word brings its own space


def test_many_answers_share_contexts_in_parts() -> None:
    rows = [row(f"r{i}", f"question {i}", "yes", "more?") for i in range(40)]
    judge = Judge(lambda prompt, text: 0.0 if text.split()[-1] in prompt.split() else -1.0)
    found = measure_topic(judge, [(one, f"about {i}") for i, one in enumerate(rows)], rows)
    assert max(len(texts) for _, texts in judge.items) <= 16
    assert found.rate.passed == 40
    assert all(len(record.others) == 4 for record in found.records)


def test_other_contexts_are_fixed_by_the_seed_and_by_nothing_else() -> None:
    rows = [row(f"r{i}", f"question {i}", "yes", "more?") for i in range(12)]
    drawn = [other.id for other in draw_contexts(rows[3], rows, 4, seed=0)]
    assert drawn == [other.id for other in draw_contexts(rows[3], rows[::-1], 4, seed=0)]
    assert "r3" not in drawn
    assert len(set(drawn)) == 4
    assert drawn != [other.id for other in draw_contexts(rows[3], rows, 4, seed=1)]
    fewer = [one for one in rows if one.id in {"r3", *drawn}]
    assert drawn == [other.id for other in draw_contexts(rows[3], fewer, 4, seed=0)]
    assert {tuple(o.id for o in draw_contexts(one, rows, 4, seed=0)) for one in rows} != {tuple(drawn)}


def test_a_copy_of_the_conversation_is_no_other_context() -> None:
    copy = EvalRow("copy", "topic", BATS.messages)
    assert [other.id for other in draw_contexts(BATS, [BATS, copy, TEA], 4, seed=0)] == ["tea"]
    with pytest.raises(ConfigError, match="no other conversation"):
        measure_topic(Judge(lambda prompt, text: -1.0), [(BATS, "Echoes")], [BATS, copy])
    with pytest.raises(ConfigError, match="no conversation to judge"):
        measure_topic(Judge(lambda prompt, text: -1.0), [], ROWS)


def test_an_answer_is_cut_at_its_words_with_its_white_space() -> None:
    assert first_words("  one  two\nthree four", 3) == ("one  two\nthree", 3)
    assert first_words("one", 3) == ("one", 1)
    assert first_words("\n ", 3) == ("", 0)
    long = "word " * 100
    judge = Judge(lambda prompt, text: -1.0 if "bats" in prompt else -2.0)
    found = measure_topic(judge, [(BATS, long)], ROWS)
    assert found.records[0].words == MAX_WORDS
    assert all(len(text.split()) == MAX_WORDS for _, texts in judge.items for text in texts)


def test_a_log_probability_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ModelError, match="not finite"):
        measure_topic(Judge(lambda prompt, text: math.nan), ANSWERS, ROWS)


def test_a_judge_that_knows_nothing_is_right_by_chance_alone() -> None:
    """A judge with one number for everything never has a single winner: 0, not 1 in 5."""
    found: TopicEvidence = measure_topic(Judge(lambda prompt, text: -3.0), ANSWERS, ROWS)
    assert found.rate.passed == 0
