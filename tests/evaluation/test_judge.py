"""The judge's verdicts: how they are read, and what two of them in opposite orders make together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from burnish.data.examples import Message
from burnish.evaluation.judge import JUDGE_PROMPT, JudgedPair, judge_pairs, judge_prompt, read_verdict
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.suite import Record
from burnish.rollout.answers import Answer


def record(identity: str, text: str) -> Record:
    row = EvalRow(identity, "answers", (Message("user", f"What is {identity}?"),))
    return Record(row, text, True, 3, True, "", None)


class Judge:
    """Answers the text of each comparison by a rule."""

    name = "judge"

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule, self.asked = rule, []  # type: ignore[var-annotated]

    def answer(self, conversations, *, max_new_tokens, progress):  # type: ignore[no-untyped-def]
        self.asked = [messages[-1].content for messages in conversations]
        return [Answer(self.rule(text), True, 1) for text in self.asked]


def shown(text: str, place: str) -> str:
    """The answer that stands in a place of the comparison."""
    return text.split(f"[answer {place}]\n")[1].split(f"\n[end of answer {place}]")[0]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is right and B invents a name.\nVerdict: A", "A"),
        ("Both name Paris.\n\n**Verdict: B**", "B"),
        ("verdict: tie.", "tie"),
        ("Verdict: answer B", "B"),
        ("> Final verdict: [A]", "A"),
        ("Verdict: **B**\n\nVerdict: B", "B"),
        ("A", "A"),
        (" [[B]]. ", "B"),
        ("Tie", "tie"),
        ("Verdict: A\nOn second thought:\nVerdict: B", None),
        ("Verdict: A or B", None),
        ("I prefer A.", None),
        ("A verdict: B is hard to give.", None),
        ("Verdict: C", None),
        ("Verdict:", None),
        ("", None),
    ],
)
def test_a_verdict_is_a_line_of_its_own(reply: str, verdict: str | None) -> None:
    assert read_verdict(reply) == verdict


def test_the_prompt_shows_the_whole_conversation_and_both_answers_as_they_are() -> None:
    talk = [Message("system", "Be brief."), Message("user", "{a} or %s?")]
    text = judge_prompt(talk, "First {b}.", "  ")
    assert "system: Be brief.\nuser: {a} or %s?" in text
    assert shown(text, "A") == "First {b}."
    assert shown(text, "B") == "(no text)"
    assert text.startswith(JUDGE_PROMPT[:60])


@pytest.mark.parametrize(
    ("baseline_first", "model_first", "points", "place"),
    [
        ("B", "A", 1.0, False),  # the model's answer in both places
        ("A", "B", 0.0, False),
        ("A", "A", 0.5, True),  # the first place in both orders
        ("B", "B", 0.5, True),
        ("tie", "tie", 0.5, False),
        ("B", "tie", 0.5, False),
        ("tie", "B", 0.5, False),
        (None, "A", None, None),
        ("B", None, None, None),
    ],
)
def test_a_win_is_one_in_both_orders(baseline_first, model_first, points, place) -> None:  # type: ignore[no-untyped-def]
    pair = JudgedPair("x", baseline_first, model_first)
    assert (pair.points, pair.follows_place) == (points, place)


def test_both_orders_are_asked_and_go_to_the_right_prompt() -> None:
    """The judge prefers the longer answer: of p1 the model's, of p2 the baseline's; p3's two are the same text."""
    base = [record("p1", "short"), record("p2", "a long answer"), record("p3", "same ")]
    model = [record("p1", "a long answer"), record("p2", "short"), record("p3", "same")]

    def longer(text: str) -> str:
        return f"Verdict: {'A' if len(shown(text, 'A')) > len(shown(text, 'B')) else 'B'}"

    judge = Judge(longer)
    assert judge_pairs(judge, base, model) == [
        JudgedPair("p1", "B", "A"),
        JudgedPair("p2", "A", "B"),
        JudgedPair("p3", "tie", "tie", identical=True),
    ]
    assert [(shown(text, "A"), shown(text, "B")) for text in judge.asked] == [
        ("short", "a long answer"),
        ("a long answer", "short"),
        ("a long answer", "short"),
        ("short", "a long answer"),
    ]


def test_a_judge_that_always_takes_the_first_place_prefers_nobody() -> None:
    pairs = judge_pairs(Judge(lambda _: "Verdict: A"), [record("p", "x")], [record("p", "y")])
    assert [(pair.points, pair.follows_place) for pair in pairs] == [(0.5, True)]


def test_records_of_other_prompts_are_no_pair() -> None:
    with pytest.raises(ValueError, match="different prompts: p and q"):
        judge_pairs(Judge(str), [record("p", "x")], [record("q", "y")])
