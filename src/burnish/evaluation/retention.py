"""What general ability is kept: multiple choice, how well held-out prose is predicted, and how far the distribution has
moved. All on raw text, without any chat template, so that a raw model and its aligned successors are asked the very
same thing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from burnish.data.examples import Message
from burnish.errors import ModelError, NotFiniteError
from burnish.evaluation.answers import Responder
from burnish.evaluation.intervals import Mean, Rate, bootstrap_mean
from burnish.evaluation.rows import Choice, Prose

CHOICE_RULE = (
    "The question is put as the raw text 'Question: ... / Answer:' without a chat template. The model's choice is the "
    "one whose text has the highest summed log-probability after it (not normalised by length: the sum is the model's "
    "own probability of that answer). Only a single highest choice that is right counts; a tie does not."
)
PROSE_RULE = (
    "The sum of -log p over the tokens of the held-out texts, each scored on its own as raw text, divided by the "
    "number of those tokens (lower is better). Models with different tokenizers compare by nats per byte."
)

KL_TOKENS = 128
"""Of a text, from its beginning, that the KL divergence is measured at: each costs two whole vocabularies."""
KL_QUESTIONS = 64
KL_RULE = (
    "KL(model || starting model) over the whole vocabulary, exact, at every position that predicts a token of the "
    f"held-out prose (the first {KL_TOKENS} tokens of each text) and of up to {KL_QUESTIONS} of the multiple-choice "
    "questions with their right answers, all as raw text; the sum in nats over the number of positions. 0 for a model "
    "that has not moved. Neither near nor far is good in itself."
)


@dataclass(frozen=True, slots=True)
class ChoiceRecord:
    """The outcome of one question: each choice's summed log p in nats, the model's choice (None on a tie)."""

    id: str
    logprobs: tuple[float, ...]
    chosen: int | None
    right: bool


@dataclass(frozen=True, slots=True)
class ProseRecord:
    """The outcome of one text: -log p summed in nats, over how many tokens, and the text's bytes in UTF-8."""

    id: str
    nats: float
    tokens: int
    bytes: int


def prose_unit(models: Iterable[Sequence[ProseRecord]]) -> Literal["token", "byte"]:
    """What the nats of several models on the same texts compare by: per token, or per byte where their tokenizers cut
    any text into another number of tokens."""
    counts = {tuple(record.tokens for record in records) for records in models}
    return "token" if len(counts) < 2 else "byte"


@dataclass(frozen=True, slots=True)
class Retention:
    """What general ability is kept; either half may be missing when its data was not asked for."""

    choices: tuple[ChoiceRecord, ...]
    prose: tuple[ProseRecord, ...]
    seed: int

    @property
    def accuracy(self) -> Rate | None:
        """The rate of right choices."""
        return Rate.of([record.right for record in self.choices]) if self.choices else None

    @property
    def nats_per_token(self) -> Mean | None:
        """All nats over all tokens; the interval is a bootstrap over texts."""
        return self._nats_per([record.tokens for record in self.prose])

    @property
    def nats_per_byte(self) -> Mean | None:
        """All nats over all bytes, for models with different tokenizers."""
        return self._nats_per([record.bytes for record in self.prose])

    def _nats_per(self, units: Sequence[int]) -> Mean | None:
        if not self.prose:
            return None
        return bootstrap_mean([record.nats for record in self.prose], weights=units, seed=self.seed)


@dataclass(frozen=True, slots=True)
class KLRecord:
    """KL(model || starting model) summed over the positions of one text, in nats, and how many those are; `kind` is
    prose or question, of an answer its prompt's behaviour."""

    id: str
    kind: str
    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class KLEvidence:
    """How far a model has moved from the one called `start`; `left_out` says how many answers were empty."""

    start: str
    records: tuple[KLRecord, ...]
    seed: int
    left_out: int = 0

    @property
    def per_token(self) -> Mean:
        """All nats over all positions; the interval is a bootstrap over texts."""
        nats, tokens = [r.nats for r in self.records], [r.tokens for r in self.records]
        return bootstrap_mean(nats, weights=tokens, seed=self.seed)


class Comparable(Protocol):
    """A model whose whole distribution can be set against another's."""

    @property
    def name(self) -> str:
        """What the report calls this model."""
        ...

    def kl_from(self, start: Any, texts: Sequence[str], *, max_tokens: int) -> list[tuple[float, int]]:
        """For each raw text the sum of KL(self || start) in nats and the number of positions it is over."""
        ...

    def kl_after(self, start: Any, items: Sequence[tuple[Sequence[Message], Sequence[int]]]) -> list[tuple[float, int]]:
        """The same for each answer (its token ids) to a conversation, over the answer's positions."""
        ...


def choice_prompt(question: str) -> str:
    """The raw text after which the choices are scored; a choice follows after one space."""
    return f"Question: {question}\nAnswer:"


def measure_retention(
    responder: Responder, choices: Sequence[Choice], prose: Sequence[Prose], *, seed: int = 0
) -> Retention:
    """Score the choices and the texts with one model.

    Raises:
        NotFiniteError: when the model gives a log-probability that is not finite.
    """
    return Retention(_score_choices(responder, choices), _score_prose(responder, prose), seed)


def _score_choices(responder: Responder, choices: Sequence[Choice]) -> tuple[ChoiceRecord, ...]:
    if not choices:
        return ()
    items = [(choice_prompt(item.question), [f" {choice}" for choice in item.choices]) for item in choices]
    records = []
    for item, logprobs in zip(choices, responder.continuation_logprobs(items), strict=True):
        demand_finite(logprobs, responder.name, item.id)
        best = [i for i, value in enumerate(logprobs) if value == max(logprobs)]
        chosen = best[0] if len({item.choices[i] for i in best}) == 1 else None  # one text twice is one choice
        records.append(ChoiceRecord(item.id, tuple(logprobs), chosen, chosen in item.right))
    return tuple(records)


def _score_prose(responder: Responder, prose: Sequence[Prose]) -> tuple[ProseRecord, ...]:
    if not prose:
        return ()
    records = []
    for item, (nats, tokens) in zip(prose, responder.nats([item.text for item in prose]), strict=True):
        demand_finite([nats], responder.name, item.id)
        records.append(ProseRecord(item.id, nats, tokens, len(item.text.encode("utf-8"))))
    return tuple(records)


def measure_kl(
    model: Comparable, start: Comparable, choices: Sequence[Choice], prose: Sequence[Prose], *, seed: int = 0
) -> KLEvidence:
    """KL(model || start) on the prose and on a fixed sample of the questions with their right answers.

    Raises:
        ModelError: the two can't be compared, or there is no text.
    """
    asked = sorted(choices, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())[:KL_QUESTIONS]
    texts = [("prose", item.id, item.text) for item in prose]
    texts += [("question", c.id, f"{choice_prompt(c.question)} {c.choices[c.answer]}") for c in asked]
    if not texts:
        raise ModelError("no prose and no questions to measure the KL divergence on", where=model.name)
    found = model.kl_from(start, [text for _, _, text in texts], max_tokens=KL_TOKENS)
    records = []
    for (kind, identity, _), (nats, tokens) in zip(texts, found, strict=True):
        demand_finite([nats], model.name, identity)
        records.append(KLRecord(identity, kind, nats, tokens))
    return KLEvidence(start.name, tuple(records), seed)


def demand_finite(values: Sequence[float], model: str, item: str) -> None:
    """Raises NotFiniteError where a log-probability is not finite: what comes of it would be no number."""
    if not all(math.isfinite(value) for value in values):
        raise NotFiniteError(
            f"{model} gives a log-probability that is not finite",
            where=item,
            fix="its weights may hold NaN or infinite values: check the checkpoint, or evaluate in float32",
        )
