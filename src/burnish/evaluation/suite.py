"""The report card of one model: rows are sampled, answered and judged, and general ability is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from burnish.errors import ConfigError
from burnish.evaluation.answers import Answerer, Responder, names_gold
from burnish.evaluation.behaviours import BEHAVIOURS, NEEDLESS_DECLINES
from burnish.evaluation.calibration import Calibration, Forecasts, calibration
from burnish.evaluation.harness_results import HarnessResult
from burnish.evaluation.intervals import Mean, Rate, bootstrap_mean
from burnish.evaluation.public_sets import load_prompts, load_questions
from burnish.evaluation.retention import KLEvidence, Retention, measure_retention
from burnish.evaluation.rows import (
    BEHAVIOUR_NAMES,
    Choice,
    EvalRow,
    Prose,
    Source,
    load_prose,
    stratified_sample,
)
from burnish.evaluation.topic_likelihood import TopicEvidence
from burnish.evaluation.topic_turns import Dialogue, DriftEvidence
from burnish.rollout.answers import Usage

MAX_NEW_TOKENS = 128
"""The default limit of an answer: the longest good answers of the starter set stay well below it."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Suite:
    """What every model is asked: the sampled rows, the retention sets, and where they came from.

    `topic_rows` are all rows of `topic`, the sample aside: other conversations to set an answer against.
    """

    rows: tuple[EvalRow, ...]
    choices: tuple[Choice, ...]
    prose: tuple[Prose, ...]
    sources: tuple[Source, ...]
    seed: int
    sample: int | None
    max_new_tokens: int
    topic_rows: tuple[EvalRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One prompt, one model's answer to it, and the verdict. `right` is None for rows without accepted answers,
    `n_tokens`, `usage` and `ids` (the answer's tokens as they were drawn) where the model does not say."""

    row: EvalRow
    text: str
    finished: bool
    n_tokens: int | None
    passed: bool
    why: str
    right: bool | None
    usage: Usage | None = field(default=None, compare=False)
    ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Card:
    """The report card of one model.

    Attributes:
        name: what the report calls the model.
        suite: what it was asked; cards compare only when they have the same.
        records: one for every row of the suite, in its order.
        retention: multiple choice and prose, or None when the suite has neither, or the model gives no log-probs.
        about: facts about the model for the report (its path, how it was prompted, its size).
        seconds: how long it took.
        topic: what a base model says of the answers' topics; None where it was not asked.
        dialogues: the conversations that it held itself, turn by turn, where it was asked to.
        drift: what the base model says of those.
        harness: what tasks of lm-evaluation-harness gave, where any were asked for.
        kl: how far the model has moved from the report's first; None for that one, and where it was not measured.
        kl_prompts: the same where the model is used: in its own answers to neutral prompts.
        endpoint: whether the model stands behind an API, so that what answers cost belongs into the report.
    """

    name: str
    suite: Suite
    records: tuple[Record, ...]
    retention: Retention | None
    about: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    topic: TopicEvidence | None = None
    dialogues: tuple[Dialogue, ...] = ()
    drift: DriftEvidence | None = None
    kl: KLEvidence | None = None
    kl_prompts: KLEvidence | None = None
    harness: tuple[HarnessResult, ...] = ()
    endpoint: bool = False

    @cached_property
    def forecasts(self) -> Forecasts | None:
        """The answers to multiple choice with their confidences; None without log-probs, and where questions have
        several right choices (MC2), of which a single confidence says nothing."""
        if self.retention is None or not self.retention.choices:
            return None
        if any(choice.also_right for choice in self.suite.choices):
            return None
        return Forecasts.of(
            [record.logprobs for record in self.retention.choices], [choice.answer for choice in self.suite.choices]
        )

    @cached_property
    def calibration(self) -> Calibration | None:
        """What the probabilities of multiple choice are worth; None without log-probs."""
        return None if self.forecasts is None else calibration(self.forecasts, seed=self.suite.seed)

    def of(self, behaviour: str) -> list[Record]:
        """The records of one behaviour."""
        return [record for record in self.records if record.row.behaviour == behaviour]

    @property
    def rates(self) -> dict[str, Rate]:
        """For each behaviour that the suite holds, how often an answer passes."""
        found = {name: self.of(name) for name in BEHAVIOUR_NAMES}
        return {name: Rate.of([r.passed for r in records]) for name, records in found.items() if records}

    @property
    def right(self) -> dict[str, Rate]:
        """For each behaviour with accepted answers, how often an answer passes and names one (information only)."""
        found = {name: [r for r in self.of(name) if r.right is not None] for name in BEHAVIOUR_NAMES}
        return {n: Rate.of([r.passed and bool(r.right) for r in records]) for n, records in found.items() if records}

    @cached_property
    def declined(self) -> dict[str, tuple[bool, ...]]:
        """For each of `NEEDLESS_DECLINES` that the suite has prompts for: which of them the model declines."""
        return {
            way.key: tuple(bool(way.judge(record.text, record.row.prompt)) for record in records)
            for way in NEEDLESS_DECLINES
            if (records := self.of(way.behaviour))
        }

    @property
    def stopped(self) -> Rate:
        """How often the model ended its answer with its own stop token within the limit, over all rows."""
        return Rate.of([record.finished for record in self.records])

    @property
    def length(self) -> Mean | None:
        """Tokens an answer, over all rows; an answer cut off at the limit counts as that long. None where the model
        does not say."""
        lengths = [record.n_tokens for record in self.records if record.n_tokens is not None]
        return bootstrap_mean(lengths, seed=self.suite.seed) if len(lengths) == len(self.records) else None


def load_suite(
    evaluation: str | Path = "starter/evaluation",
    *,
    choices: str | Path | None = "starter/mcq",
    prose: str | Path | None = "starter/prose",
    sample: int | None = None,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Suite:
    """Read and check everything that a card needs, and take the sample.

    Args:
        evaluation: evaluation rows (a JSON Lines file or a directory of them), `starter/evaluation`, or a public set
            (`public_sets.py`).
        choices: the same for multiple choice; None leaves it out.
        prose: the same for held-out prose; None leaves it out.
        sample: how many evaluation rows to take (see `stratified_sample`); None takes all.
        seed: of the sample and of every bootstrap.
        max_new_tokens: the limit of an answer.

    Raises:
        DataError: when a file or a row is not usable.
        ConfigError: when the sample is too small or the limit is not positive.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"must be at least 1, got {max_new_tokens}", where="max_new_tokens", fix="e.g. 128")
    rows, source = load_prompts(evaluation)
    sources = [source]
    asked: list[Choice] = []
    texts: list[Prose] = []
    if choices is not None:
        asked, source = load_questions(choices)
        sources.append(source)
    if prose is not None:
        texts, source = load_prose(prose)
        sources.append(source)
    return Suite(
        rows=tuple(stratified_sample(rows, sample, seed=seed)),
        choices=tuple(asked),
        prose=tuple(texts),
        sources=tuple(sources),
        seed=seed,
        sample=sample,
        max_new_tokens=max_new_tokens,
        topic_rows=tuple(row for row in rows if row.behaviour == "topic"),
    )


def evaluate(
    responder: Answerer,
    suite: Suite,
    *,
    about: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Card:
    """Ask one model the whole suite and judge its answers; what needs log-probs is left out for one that gives none.

    Raises:
        NotFiniteError: when the model gives log-probabilities that are not finite.
    """
    started = time.perf_counter()
    total = len(suite.rows)

    def answered(done: int) -> None:
        if progress is not None:
            progress("answers", done, total)

    answers = responder.answer(
        [row.messages for row in suite.rows], max_new_tokens=suite.max_new_tokens, progress=answered
    )
    records = []
    for row, answer in zip(suite.rows, answers, strict=True):
        verdict = BEHAVIOURS[row.behaviour].judge(row, answer)
        right = names_gold(answer.text, row.gold) if row.gold else None
        judged = (verdict.passed, verdict.why, right)
        said = (answer.text, answer.finished, answer.n_tokens)
        records.append(Record(row, *said, *judged, usage=answer.usage, ids=answer.ids))
    retention = None
    if (suite.choices or suite.prose) and isinstance(responder, Responder):
        if progress is not None:
            progress("retention", 0, 1)
        retention = measure_retention(responder, suite.choices, suite.prose, seed=suite.seed)
        if progress is not None:
            progress("retention", 1, 1)
    return Card(responder.name, suite, tuple(records), retention, dict(about or {}), time.perf_counter() - started)
