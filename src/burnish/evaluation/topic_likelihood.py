"""Does an answer belong to its conversation? Asked of a base model: among several contexts, does the true one make the
answer most likely?

The judge reads every conversation as the same plain transcript, whatever the models that answered were prompted with.
Pointwise mutual information log p(answer | context) - log p(answer | "Assistant:") takes out what makes an answer
likely anywhere: its length, and phrases that fit every question (Holtzman et al. 2021, arXiv:2104.08315). Of one answer
the second term is the same for every context, so the winner is the winner by log p(answer | context) too.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from burnish.data.examples import Message
from burnish.errors import ConfigError, ModelError
from burnish.evaluation.intervals import Mean, Rate, bootstrap_mean
from burnish.evaluation.rows import EvalRow

CONTEXTS = 5
"""The true context and four others: a coin with five sides is right in 20 %."""
MAX_WORDS = 40
"""Of an answer, from its beginning, that are scored: enough to tell its topic, so that a model that never stops costs
no more than one that does."""
PREMISE = "Assistant:"
PER_ITEM = 16
"""Answers that share one pass over their context."""

LIKELIEST_RULE = (
    "The base model reads the conversation as a plain transcript and gives the answer's log-probability (of its first "
    f"{MAX_WORDS} words), then the same after the conversations of other rows (up to {CONTEXTS} contexts in all, fixed "
    "by the seed). Counts when the true one alone gives the highest; a tie or an empty answer does not."
)
PMI_RULE = (
    "log p(answer | conversation) - log p(answer | 'Assistant:') under the base model, summed over answers and divided "
    "by their words: how much likelier the conversation makes a word of the answer, in nats. Empty answers are left "
    "out."
)


class ScoresText(Protocol):
    """What a judge must be able to do."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def continuation_logprobs(self, items: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """As `Responder.continuation_logprobs`."""
        ...


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """One answer; log-probs are summed over its first `words` words, in nats, and None for an empty answer.

    Attributes:
        id: of the row.
        turns: user turns of its conversation.
        words: that were scored.
        own: log p(answer | its own conversation).
        alone: log p(answer | "Assistant:").
        others: log p(answer | each other conversation).
        contexts: the ids of those.
    """

    id: str
    turns: int
    words: int
    own: float | None
    alone: float | None
    others: tuple[float, ...]
    contexts: tuple[str, ...]

    @property
    def wins(self) -> bool:
        """Whether the true conversation alone makes the answer most likely."""
        return self.own is not None and all(self.own > other for other in self.others)

    @property
    def pmi(self) -> float | None:
        """In nats; None for an empty answer."""
        return None if self.own is None or self.alone is None else self.own - self.alone


@dataclass(frozen=True, slots=True)
class TopicEvidence:
    """What one model's answers say of their conversations, by the judge's measure."""

    judge: str
    records: tuple[TopicRecord, ...]
    seed: int

    @property
    def rate(self) -> Rate:
        """How often the true conversation wins."""
        return Rate.of([record.wins for record in self.records])

    @property
    def by_turns(self) -> dict[int, Rate]:
        """The same by the number of user turns, rising. These are different conversations, and the assistant's earlier
        turns in them are given: it is no drift of a model over one conversation."""
        found = sorted({record.turns for record in self.records})
        return {n: Rate.of([record.wins for record in self.records if record.turns == n]) for n in found}

    def to_dict(self) -> dict[str, Any]:
        """For `report.json`: the records, what they come to, and the rate for each number of turns with its n."""
        return {
            "judge": self.judge,
            "rate": self.rate.as_dict(),
            "by_turns": [{"turns": turns, **rate.as_dict()} for turns, rate in self.by_turns.items()],
            "pmi_per_word": asdict(self.pmi_per_word) if self.pmi_per_word else None,
            "records": [{**asdict(record), "wins": record.wins, "pmi": record.pmi} for record in self.records],
        }

    @property
    def pmi_per_word(self) -> Mean | None:
        """Nats a word; None when every answer is empty."""
        told = [(record.pmi, record.words) for record in self.records if record.pmi is not None]
        if not told:
            return None
        return bootstrap_mean([nats for nats, _ in told], weights=[words for _, words in told], seed=self.seed)


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as plain text, up to where the answer begins."""
    names = {"user": "User: ", "assistant": "Assistant: "}
    spoken = [names.get(message.role, "") + message.content.strip() for message in messages]
    return "\n".join([*spoken, PREMISE])


def draw_contexts(row: EvalRow, rows: Sequence[EvalRow], n: int, *, seed: int) -> list[EvalRow]:
    """Up to n other rows with other conversations, in the order of sha256(seed, both ids): the same on any machine,
    whatever other rows there are."""
    own = transcript(row.messages)
    others = [other for other in rows if other.id != row.id and transcript(other.messages) != own]
    others.sort(key=lambda other: hashlib.sha256(f"{seed}:{row.id}:{other.id}".encode()).digest())
    return others[:n]


def first_words(text: str, limit: int = MAX_WORDS) -> tuple[str, int]:
    """The text up to the end of its last word within the limit, white space kept, and how many words that is."""
    ends = [found.end() for found in re.finditer(r"\S+", text)][:limit]
    return (text[: ends[-1]].lstrip(), len(ends)) if ends else ("", 0)


def measure_topic(
    judge: ScoresText,
    answers: Sequence[tuple[EvalRow, str]],
    rows: Sequence[EvalRow],
    *,
    contexts: int = CONTEXTS,
    seed: int = 0,
) -> TopicEvidence:
    """Let a base model judge one model's answers.

    Args:
        judge: the base model.
        answers: rows with what the model answered to them.
        rows: where other conversations are drawn from.
        contexts: the true one and how many others, fewer where there are not so many.
        seed: of the draw and the intervals.

    Raises:
        ConfigError: a row has no other conversation to stand against, or there is no answer.
        ModelError: a conversation is longer than the judge's context, or a log-prob is not finite.
    """
    if not answers:
        raise ConfigError("no conversation to judge an answer in", where="topic", fix="give rows of behaviour 'topic'")
    drawn = {row.id: draw_contexts(row, rows, contexts - 1, seed=seed) for row, _ in answers}
    if lonely := [row.id for row, _ in answers if not drawn[row.id]]:
        raise ConfigError(
            "there is no other conversation to compare with", where=lonely[0], fix="give at least two rows of 'topic'"
        )
    cut = {row.id: first_words(text) for row, text in answers}
    asked: dict[str, list[str]] = {}
    for row, _ in answers:
        text, words = cut[row.id]
        if words:
            for prompt in (PREMISE, *(transcript(context.messages) for context in (row, *drawn[row.id]))):
                asked.setdefault(prompt, []).append(text)
    scores = _scores(judge, asked)
    records = []
    for row, _ in answers:
        text, words = cut[row.id]
        others = drawn[row.id]
        records.append(
            TopicRecord(
                id=row.id,
                turns=row.n_turns,
                words=words,
                own=scores[transcript(row.messages), text] if words else None,
                alone=scores[PREMISE, text] if words else None,
                others=tuple(scores[transcript(other.messages), text] for other in others) if words else (),
                contexts=tuple(other.id for other in others),
            )
        )
    return TopicEvidence(judge.name, tuple(records), seed)


def _scores(judge: ScoresText, asked: dict[str, list[str]]) -> dict[tuple[str, str], float]:
    """log p of each text after each prompt: a prompt is computed once for up to PER_ITEM texts."""
    items = []
    for prompt, texts in asked.items():
        once = list(dict.fromkeys(texts))
        items += [(prompt, once[start : start + PER_ITEM]) for start in range(0, len(once), PER_ITEM)]
    found: dict[tuple[str, str], float] = {}
    values = judge.continuation_logprobs([(prompt, [f" {text}" for text in texts]) for prompt, texts in items])
    for (prompt, texts), logprobs in zip(items, values, strict=True):
        for text, logprob in zip(texts, logprobs, strict=True):
            if not math.isfinite(logprob):
                raise ModelError(
                    f"{judge.name} gives a log-probability that is not finite", where=f"answer {text[:60]!r}"
                )
            found[prompt, text] = logprob
    return found
