"""Conversations that a model holds itself, and a judge whose log-probs are written down."""

from __future__ import annotations

import pytest

from burnish.data.examples import Message
from burnish.evaluation.answers import Answer
from burnish.evaluation.evidence_lines import drift_lines
from burnish.evaluation.intervals import Interval
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.suite import Card, Suite
from burnish.evaluation.topic_turns import Dialogue, DriftEvidence, hold_dialogues, measure_drift, up_to
from tests.evaluation.test_topic_likelihood import BATS, CARS, ROWS, TEA, Judge, row

SINGLE = row("single", "Why?")


class Speaker:
    """Answers with the number of messages that it reads and the last of them; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[list[Message]]]] = []

    def __call__(self, names: list[str], conversations: list[list[Message]]) -> list[Answer]:
        self.asked.append((names, conversations))
        return [Answer(f"{len(messages)}: {messages[-1].content}", True, 3) for messages in conversations]


def test_each_answer_is_the_model_s_own_and_stands_in_its_next_prompt() -> None:
    speaker = Speaker()
    held = hold_dialogues(speaker, [BATS, SINGLE, CARS])
    assert [dialogue.row.id for dialogue in held] == ["bats", "cars"], "a single turn is no conversation"
    assert [names for names, _ in speaker.asked] == [
        ["bats, turn 1", "cars, turn 1"],
        ["bats, turn 2", "cars, turn 2"],
        ["cars, turn 3"],
    ]
    assert speaker.asked[0][1][0] == [Message("user", "How do bats fly?")]
    (last,) = speaker.asked[2][1]
    assert last == [
        Message("user", "How do cars stop?"),
        Message("assistant", "1: How do cars stop?"),  # not the row's "By brakes."
        Message("user", "Why?"),
        Message("assistant", "3: Why?"),
        Message("user", "And on ice?"),
    ]
    assert [answer.text for answer in held[1].answers] == ["1: How do cars stop?", "3: Why?", "5: And on ice?"]


def test_what_a_system_message_says_is_kept() -> None:
    speaker = Speaker()
    told = EvalRow("told", "topic", (Message("system", "Be brief."), *BATS.messages))
    hold_dialogues(speaker, [told])
    assert speaker.asked[1][1][0] == [
        Message("system", "Be brief."),
        Message("user", "How do bats fly?"),
        Message("assistant", "2: How do bats fly?"),
        Message("user", "And see?"),
    ]


def test_a_row_up_to_a_turn_of_the_user() -> None:
    assert up_to(CARS, 1).messages == CARS.messages[:1]
    assert up_to(CARS, 2).messages == CARS.messages[:3]
    assert up_to(CARS, 3).messages == CARS.messages
    assert up_to(BATS, 3).messages == BATS.messages, "it has no third one"
    assert (CARS.n_turns, up_to(CARS, 2).id) == (3, "cars")


def said(held: EvalRow, *texts: str) -> Dialogue:
    return Dialogue(held, tuple(Answer(text, True, 1) for text in texts))


def found() -> DriftEvidence:
    """Answers name the conversation that they belong to: bats stay, tea leaves at once and comes back, cars leave."""
    dialogues = [said(BATS, "bats", "bats"), said(TEA, "cars", "tea"), said(CARS, "cars", "cars", "bats")]
    judge = Judge(lambda prompt, text: -1.0 if text.strip() in prompt else -5.0)
    return measure_drift(judge, dialogues, ROWS)


def test_each_turn_is_judged_in_the_row_s_conversation_up_to_it() -> None:
    judge = Judge(lambda prompt, text: -1.0 if text.strip() in prompt else -5.0)
    measure_drift(judge, [said(CARS, "cars", "brakes", "ice")], ROWS)
    prompts = [prompt for prompt, _ in judge.items]
    assert (
        prompts[1:4]
        == [
            "User: How do cars stop?\nAssistant:",  # its own
            *sorted(prompts[2:4]),
        ]
    )
    assert set(prompts[2:4]) == {"User: How do bats fly?\nAssistant:", "User: What is tea?\nAssistant:"}
    assert prompts[5] == "User: How do cars stop?\nAssistant: By brakes.\nUser: Why?\nAssistant:"
    assert "User: What is tea?\nAssistant: A leaf.\nUser: Hot?\nAssistant:" in prompts[6:8]
    assert prompts[9].endswith("User: And on ice?\nAssistant:")


def test_drift_is_from_the_first_turn_of_a_conversation_to_its_own_last() -> None:
    evidence = found()
    assert [[record.wins for record in turn.records] for turn in evidence.turns] == [
        [True, False, True],
        [True, True, True],
        [False],
    ]
    assert evidence.wins(evidence.dialogues[2]) == [True, True, False]
    assert evidence.ends == [(True, True), (False, True), (True, False)]
    assert evidence.drift.value == pytest.approx(2 / 3 - 2 / 3)
    assert evidence.drift.n == 3


def card(name: str, drift: DriftEvidence | None) -> Card:
    suite = Suite(tuple(ROWS), (), (), (), 0, None, 8)
    return Card(name, suite, (), None, drift=drift)


def test_the_lines_hold_the_rate_at_each_turn_and_the_drift() -> None:
    judge = Judge(lambda prompt, text: -1.0 if text.strip() in prompt else -5.0)
    lost = measure_drift(
        judge,
        [said(BATS, "bats", "tea"), said(TEA, "tea", "bats"), said(CARS, "cars", "cars", "bats")],
        ROWS,
    )
    lines = {line.key: line for line in drift_lines([card("a", found()), card("b", lost), card("api", None)])}
    assert list(lines) == ["topic_turn.1", "topic_turn.2", "topic_turn.3", "topic_drift"]
    assert [lines[f"topic_turn.{turn}"].n for turn in (1, 2, 3)] == [3, 3, 1]
    drift = lines["topic_drift"]
    assert drift.cells[2] is None
    assert drift.cells[0] is not None
    assert drift.cells[1] is not None
    assert (drift.cells[0].text, drift.cells[1].text) == ("0", "\u2212100")
    assert drift.changes[1] is not None
    # b falls from right to wrong in all three, a rises in one and falls in another: -1 and 0 on average.
    assert drift.changes[1].value == pytest.approx(-1.0)
    assert (drift.changes[0], drift.changes[2]) == (None, None)
    assert drift_lines([card("a", None)]) == []


def test_report_json_has_every_conversation() -> None:
    data = found().to_dict()
    assert data["judge"] == "raw"
    assert [(turn["turn"], turn["rate"]["n"]) for turn in data["turns"]] == [(1, 3), (2, 3), (3, 1)]
    assert data["dialogues"][2]["asked"] == ["How do cars stop?", "Why?", "And on ice?"]
    assert data["dialogues"][2]["wins"] == [True, True, False]
    assert isinstance(found().drift.interval, Interval)
    assert data["drift"]["low"] < data["drift"]["value"] < data["drift"]["high"]
