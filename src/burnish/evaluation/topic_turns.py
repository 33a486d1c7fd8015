"""Does a model leave its topic over a conversation that it holds itself?

The user's turns are those of a row; each answer is the model's own and stands in the history of its next one. The judge
of `topic_likelihood.py` then asks of every answer whether it fits its conversation, as the row has it up to that turn:
the contexts are the same for every model, so that one that leads its own conversation astray finds no support in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish.data.examples import Message
from burnish.evaluation.intervals import Difference, paired_rate_difference
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.topic_likelihood import LIKELIEST_RULE, ScoresText, TopicEvidence, measure_topic
from burnish.rollout.answers import Answer

DIALOGUE_TOKENS = 64
"""The longest answer in a conversation that is held: of longer ones the judge reads the beginning alone, and the next
turn's prompt grows with each."""

TURN_RULE = (
    "The model holds the conversation itself: the user's turns are the row's, each answer is its own and part of what "
    f"it reads next, at most {DIALOGUE_TOKENS} tokens long. Counted at one of the user's turns, of the conversations "
    f"that have so many. The contexts are the rows' conversations up to that turn, the same for every model. "
    f"{LIKELIEST_RULE}"
)
DRIFT_RULE = (
    "Of conversations that the model holds itself: the rate at their last turn less that at their first, on the same "
    "conversations. Below 0, it loses its topic on the way. Later turns of the user also say more, or less, of what a "
    "conversation is about than first ones do, whoever answers: compare models."
)

Ask = Callable[[list[str], list[list[Message]]], list[Answer]]
"""Names of conversations and the conversations, to which answers are given."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation that a model held.

    Attributes:
        row: has the user's turns.
        answers: the model's own, one to each of them.
    """

    row: EvalRow
    answers: tuple[Answer, ...]

    @property
    def asked(self) -> list[str]:
        """The user's turns."""
        return [message.content for message in self.row.messages if message.role == "user"]


@dataclass(frozen=True, slots=True)
class DriftEvidence:
    """What the judge says of the conversations that one model held.

    Attributes:
        dialogues: those, in the suite's order.
        turns: for the user's first turn, second and so on: the answers to it, of the conversations that have it.
    """

    dialogues: tuple[Dialogue, ...]
    turns: tuple[TopicEvidence, ...]

    def wins(self, dialogue: Dialogue) -> list[bool]:
        """For each answer of a conversation whether its own context alone makes it the likeliest."""
        found = [record for turn in self.turns for record in turn.records if record.id == dialogue.row.id]
        return [record.wins for record in found]

    @property
    def ends(self) -> list[tuple[bool, bool]]:
        """For each conversation whether the first answer belongs to it, and whether the last does."""
        wins = [self.wins(dialogue) for dialogue in self.dialogues]
        return [(own[0], own[-1]) for own in wins]

    @property
    def drift(self) -> Difference:
        """The rate at the last turns less that at the first."""
        ends = self.ends
        return paired_rate_difference([first for first, _ in ends], [last for _, last in ends])

    def to_dict(self) -> dict[str, Any]:
        """For `report.json`: the rate at each turn, their drift, and every conversation."""
        drift = self.drift
        return {
            "judge": self.turns[0].judge,
            "turns": [{"turn": k, **turn.to_dict()} for k, turn in enumerate(self.turns, start=1)],
            "drift": {"value": drift.value, "low": drift.interval.low, "high": drift.interval.high, "n": drift.n},
            "dialogues": [
                {
                    "id": dialogue.row.id,
                    "asked": dialogue.asked,
                    "answers": [
                        {"text": answer.text, "finished": answer.finished, "tokens": answer.n_tokens}
                        for answer in dialogue.answers
                    ],
                    "wins": self.wins(dialogue),
                }
                for dialogue in self.dialogues
            ],
        }


def up_to(row: EvalRow, turn: int) -> EvalRow:
    """The row as it stands when the user has spoken for the `turn`-th time, counted from 1; as a whole where the user
    speaks less often."""
    spoken = 0
    for place, message in enumerate(row.messages):
        spoken += message.role == "user"
        if spoken == turn:
            return replace(row, messages=row.messages[: place + 1])
    return row


def hold_dialogues(ask: Ask, rows: Sequence[EvalRow]) -> tuple[Dialogue, ...]:
    """Let a model hold the conversations in which the user speaks more than once, all of them a turn at a time.

    Args:
        ask: gives the model's answers.
        rows: of which the user's turns are taken, and what a system message says.
    """
    held = [row for row in rows if row.n_turns > 1]
    answers: list[list[Answer]] = [[] for _ in held]
    for turn in range(1, max((row.n_turns for row in held), default=0) + 1):
        places = [place for place, row in enumerate(held) if row.n_turns >= turn]
        names = [f"{held[place].id}, turn {turn}" for place in places]
        conversations = [_history(up_to(held[place], turn), answers[place]) for place in places]
        for place, answer in zip(places, ask(names, conversations), strict=True):
            answers[place].append(answer)
    return tuple(Dialogue(row, tuple(own)) for row, own in zip(held, answers, strict=True))


def _history(row: EvalRow, answers: Sequence[Answer]) -> list[Message]:
    """The row without its own answers: after each turn of the user but the last stands one of the model's."""
    own = iter(answers)
    history: list[Message] = []
    for message in row.messages:
        if message.role == "assistant":
            continue
        if history and history[-1].role == "user":
            history.append(Message("assistant", next(own).text))
        history.append(message)
    return history


def measure_drift(
    judge: ScoresText, dialogues: Sequence[Dialogue], rows: Sequence[EvalRow], *, seed: int = 0
) -> DriftEvidence:
    """Let a base model judge the conversations that one model held.

    Args:
        judge: the base model.
        dialogues: at least one.
        rows: where other conversations are drawn from; they count up to the same turn.
        seed: of the draw and the intervals.

    Raises:
        ConfigError, ModelError: as `measure_topic`.
    """
    turns = []
    for turn in range(1, max(len(dialogue.answers) for dialogue in dialogues) + 1):
        there = [dialogue for dialogue in dialogues if len(dialogue.answers) >= turn]
        answers = [(up_to(dialogue.row, turn), dialogue.answers[turn - 1].text) for dialogue in there]
        turns.append(measure_topic(judge, answers, [up_to(row, turn) for row in rows], seed=seed))
    return DriftEvidence(tuple(dialogues), tuple(turns))
