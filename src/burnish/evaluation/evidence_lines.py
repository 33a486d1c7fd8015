"""The lines of a report's table that need log-probs (topic, KL, calibration), and those of repetition.

A model that gives no log-probs has no cell in a line: it is left out, not counted as zero. A line without any cell is
left out as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from burnish.evaluation import calibration as calibration_rules
from burnish.evaluation import repetition as repetition_rules
from burnish.evaluation import topic_likelihood as topic_rules
from burnish.evaluation import topic_turns
from burnish.evaluation.answers import speaks_no_further_turn
from burnish.evaluation.calibration import calibration_change
from burnish.evaluation.harness_results import HarnessResult
from burnish.evaluation.intervals import (
    Z_95,
    Interval,
    Mean,
    Rate,
    bootstrap_mean,
    jackknife,
    paired_difference,
    paired_jackknife,
    paired_rate_difference,
)
from burnish.evaluation.kl_prompts import KL_PROMPTS_RULE
from burnish.evaluation.lines import Cell, Change, Line, change_of, difference_cell, mean_cell, rate_cell, share_cell
from burnish.evaluation.retention import KL_RULE, KLEvidence
from burnish.evaluation.suite import Card
from burnish.evaluation.topic_likelihood import TopicEvidence

TITLE_WIDTH = 20
"""So that three models fit on 80 columns."""

NEXT = "\u2026"
"""A title that goes on from the one above."""

T = TypeVar("T")
U = TypeVar("U")


def _each(values: Sequence[T | None], make: Callable[[T], U]) -> tuple[U | None, ...]:
    return tuple(None if value is None else make(value) for value in values)


def _from_first(values: Sequence[T | None], make: Callable[[T, T], U]) -> tuple[U | None, ...]:
    """Of each model and the first; None for the first itself, and where one of the two has no value."""
    first = values[0]
    if first is None:
        return (None,) * len(values)
    return (None, *_each(values[1:], lambda value: make(first, value)))


def with_evidence(lines: Sequence[Line], cards: Sequence[Card]) -> list[Line]:
    """The table's lines with those of this module among them: topic after what was asked, KL and calibration after
    what is retained, repetition at the end."""
    asked = [line for line in lines if line.group in ("behaviours", "information", "declining")]
    retained = [line for line in lines if line.group == "retention"]
    others = [line for line in lines if line not in asked and line not in retained]
    return [
        *asked,
        *topic_lines(cards),
        *drift_lines(cards),
        *retained,
        *kl_lines(cards),
        *calibration_lines(cards),
        *harness_lines(cards),
        *others,
        *repetition_lines(cards),
    ]


def calibration_lines(cards: Sequence[Card]) -> list[Line]:
    """Expected calibration error, Brier score, area under the risk-coverage curve."""
    found = [card.calibration for card in cards]
    if not any(found):
        return []
    seed = cards[0].suite.seed
    changes = _from_first([card.forecasts for card in cards], lambda a, b: calibration_change(a, b, seed=seed))
    named = [(card.name, own) for card, own in zip(cards, found, strict=True) if own is not None]
    counts = [f"{name} {' '.join(str(row.n) for row in own.bins)}" for name, own in named]
    noise = [f"{name} {_with_range(own.ece_if_calibrated)}" for name, own in named]
    ece_rule = (
        f"{calibration_rules.ECE_RULE} A calibrated model with the same confidences would show (with the range of 95 % "
        f"of its runs): {'; '.join(noise)}. Questions a bin: {'; '.join(counts)}."
    )
    lines = []
    for key, title, rule in (
        ("ece", "calibration error", ece_rule),
        ("brier", "Brier score", calibration_rules.BRIER_RULE),
        ("aurc", "risk over coverage", calibration_rules.AURC_RULE),
    ):
        lines.append(
            Line(
                key=key,
                group="calibration",
                title=title,
                about="the probabilities of multiple choice; lower is better",
                rule=rule,
                n=len(cards[0].suite.choices),
                unit=title,
                higher_is_better=False,
                cells=_each([own and getattr(own, key) for own in found], lambda mean: mean_cell(mean, 3)),
                changes=_each(
                    [change and getattr(change, key, None) for change in changes],  # none of the calibration error
                    lambda difference: change_of(difference, 1, "", digits=3),
                ),
            )
        )
    return lines


def _with_range(mean: Mean) -> str:
    return f"{mean.value:.3f} ({mean.interval.low:.3f} to {mean.interval.high:.3f})"


def topic_lines(cards: Sequence[Card]) -> list[Line]:
    """How often the true conversation makes the answer most likely, by the number of turns too, and by how much."""
    found = [card.topic for card in cards]
    told = next((topic for topic in found if topic is not None), None)
    if told is None:
        return []
    about = f"conversations of several turns, read by {told.judge}"
    lines = [_likeliest_line(found, "topic_likeliest", "own topic likeliest", about, None)]
    if len(told.by_turns) > 1:
        lines += [
            _likeliest_line(found, f"topic_likeliest.{n}", f"{NEXT} with {n} turns", about, n) for n in told.by_turns
        ]
    means = [None if topic is None else topic.pmi_per_word for topic in found]
    said = [
        f"{card.name} {sum(record.pmi is not None for record in topic.records)}"
        for card, topic in zip(cards, found, strict=True)
        if topic is not None
    ]
    if any(means):
        lines.append(
            Line(
                key="topic_pmi",
                group="topic",
                title="nats for the topic",
                about=f"{about}; a word of the answers",
                rule=f"{topic_rules.PMI_RULE} Answers with words: {', '.join(said)}.",
                n=len(told.records),
                unit="nats per word",
                higher_is_better=True,
                cells=_each(means, lambda mean: mean_cell(mean, 2)),
                changes=_from_first(found, _pmi_change),
            )
        )
    return lines


def _likeliest_line(found: Sequence[TopicEvidence | None], key: str, title: str, about: str, turns: int | None) -> Line:
    """The line of all conversations, or of those with so many turns."""
    outcomes = [
        None if topic is None else [record.wins for record in topic.records if turns in (None, record.turns)]
        for topic in found
    ]
    return _outcome_line(outcomes, key=key, title=title, about=about, rule=topic_rules.LIKELIEST_RULE)


def _outcome_line(outcomes: Sequence[list[bool] | None], *, key: str, title: str, about: str, rule: str) -> Line:
    """A rate of the group `topic`, of those models that could be judged."""
    return Line(
        key=key,
        group="topic",
        title=title,
        about=about,
        rule=rule,
        n=max(len(outcome) for outcome in outcomes if outcome is not None),
        unit="rate",
        higher_is_better=True,
        cells=_each(outcomes, lambda outcome: rate_cell(Rate.of(outcome))),
        changes=_from_first(
            outcomes, lambda first, other: change_of(paired_rate_difference(first, other), 100, "points")
        ),
    )


def drift_lines(cards: Sequence[Card]) -> list[Line]:
    """How often an answer belongs to its conversation at each turn of those that the models held, and the drift."""
    found = [card.drift for card in cards]
    told = next((drift for drift in found if drift is not None), None)
    if told is None:
        return []
    about = f"conversations that each model holds itself, read by {told.turns[0].judge}"
    lines = []
    for place in range(len(told.turns)):
        outcomes = [None if drift is None else [r.wins for r in drift.turns[place].records] for drift in found]
        lines.append(
            _outcome_line(
                outcomes,
                key=f"topic_turn.{place + 1}",
                title=f"{NEXT} turn {place + 1}" if place else "held talk, turn 1",
                about=about,
                rule=topic_turns.TURN_RULE,
            )
        )
    drifts = [None if drift is None else [last - first for first, last in drift.ends] for drift in found]
    seed = cards[0].suite.seed
    changes = _from_first(drifts, lambda first, other: paired_difference(first, other, seed=seed))
    line = Line(
        key="topic_drift",
        group="topic",
        title="drift over turns",
        about=f"{about}; the rate at the last turn less that at the first, in points",
        rule=topic_turns.DRIFT_RULE,
        n=len(told.dialogues),
        unit="difference of rates",
        higher_is_better=True,
        cells=_each(found, lambda drift: difference_cell(drift.drift)),
        changes=_each(changes, lambda change: change_of(change, 100, "points")),
    )
    return [*lines, line]


def _pmi_change(first: TopicEvidence, other: TopicEvidence) -> Change | None:
    """Over the conversations to which both answered something."""
    pairs = [
        (a, b) for a, b in zip(first.records, other.records, strict=True) if a.pmi is not None and b.pmi is not None
    ]
    if not pairs:
        return None
    difference = paired_difference(
        [a.pmi or 0.0 for a, _ in pairs],
        [b.pmi or 0.0 for _, b in pairs],
        weights=([a.words for a, _ in pairs], [b.words for _, b in pairs]),
        seed=first.seed,
    )
    return change_of(difference, 1, "nats", digits=2)


def kl_lines(cards: Sequence[Card]) -> list[Line]:
    """The KL divergence from the report's first model: on raw text, and in a model's own answers to neutral prompts."""
    in_answers = [card.kl_prompts for card in cards]
    counts = [
        f"{card.name} {len(kl.records)} ({kl.left_out} empty)"
        for card, kl in zip(cards, in_answers, strict=True)
        if kl is not None
    ]
    rule = f"{KL_PROMPTS_RULE} Answers: {'; '.join(counts)}."
    where = "in the model's own answers to neutral prompts"
    return [
        *_kl_line([card.kl for card in cards], "kl", "KL from start", "on prose and questions as raw text", KL_RULE),
        *_kl_line(in_answers, "kl_prompts", "KL on prompts", where, rule),
    ]


def _kl_line(found: Sequence[KLEvidence | None], key: str, title: str, where: str, rule: str) -> list[Line]:
    """The line of one of them, if any model was measured."""
    told = next((kl for kl in found if kl is not None), None)
    if told is None:
        return []
    return [
        Line(
            key=key,
            group="retention",
            title=title,
            about=f"from {told.start}, {where}; nats per token",
            rule=rule,
            n=len(told.records) + told.left_out,
            unit="nats of KL per token",
            higher_is_better=None,
            cells=_each(found, lambda kl: mean_cell(kl.per_token, 3)),
            changes=(None,) * len(found),
        )
    ]


def harness_lines(cards: Sequence[Card]) -> list[Line]:
    """A line for every metric of every task of lm-evaluation-harness."""
    keys = list(dict.fromkeys(result.key for card in cards for result in card.harness))
    seed = cards[0].suite.seed
    lines = []
    for key in keys:
        found = [next((result for result in card.harness if result.key == key), None) for card in cards]
        told = next(result for result in found if result is not None)
        cut = max(result.truncated for result in found if result is not None)
        rates = all(result is None or result.is_rate for result in found)  # F1 of one model may be 0 throughout
        lines.append(
            Line(
                key=key,
                group="lm_eval",
                title=_clipped(f"{told.task} {told.metric}"),
                about=f"{told.task}, metric {told.metric}, filter {told.filter}"
                + (f"; {cut} contexts were cut to the model's length" if cut else ""),
                rule="Counted by EleutherAI's lm-evaluation-harness, on raw text. Intervals: Wilson where every "
                "document counts as 0 or 1, bootstrap where the metric is another mean of the documents', else the "
                "harness's standard error times 1.96.",
                n=told.n,
                unit="rate" if rates else told.metric,
                higher_is_better=told.higher_is_better,
                cells=_each(found, partial(_harness_cell, rates=rates, seed=seed)),
                changes=_from_first(found, partial(_harness_change, rates=rates, seed=seed)),
            )
        )
    return lines


def _clipped(title: str) -> str:
    return title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 1] + "\u2026"


def _harness_cell(result: HarnessResult, *, rates: bool, seed: int) -> Cell:
    if rates:
        return rate_cell(Rate.of([value == 1.0 for value in result.samples or ()]))
    if result.samples is not None:
        return mean_cell(bootstrap_mean(result.samples, seed=seed), 3)
    if result.stderr is None:
        return Cell(result.value, result.value, result.value, f"{result.value:.3f}", "")
    spread = Z_95 * result.stderr
    return mean_cell(Mean(result.value, Interval(result.value - spread, result.value + spread), result.n), 3)


def _harness_change(first: HarnessResult, other: HarnessResult, *, rates: bool, seed: int) -> Change | None:
    """Paired over documents, where both have their values. None where the task does not say which way is better."""
    if first.higher_is_better is None:
        return None
    if first.samples is None or other.samples is None or len(first.samples) != len(other.samples):
        return None
    better = first.higher_is_better
    if rates:
        return change_of(paired_rate_difference(first.samples, other.samples, higher_is_better=better), 100, "points")
    difference = paired_difference(first.samples, other.samples, higher_is_better=better, seed=seed)
    return change_of(difference, 1, "", digits=3)


def repetition_lines(cards: Sequence[Card]) -> list[Line]:
    """Whether answers stay in their turn, repeat themselves, and resemble each other."""
    seed = cards[0].suite.seed
    texts = [[record.text for record in card.records] for card in cards]
    turns = [[bool(speaks_no_further_turn(text)) for text in own] for own in texts]
    lines = [
        Line(
            key="own_turn",
            group="repetition",
            title="keeps to its turn",
            about="all prompts",
            rule="It does not speak for the user. " + " ".join((speaks_no_further_turn.__doc__ or "").split()),
            n=len(turns[0]),
            unit="rate",
            higher_is_better=True,
            cells=tuple(rate_cell(Rate.of(own)) for own in turns),
            changes=(None, *(change_of(paired_rate_difference(turns[0], own), 100, "points") for own in turns[1:])),
        )
    ]
    for key, title, rule, measure in (
        ("repetition", "repeated 4-grams", repetition_rules.REPETITION_RULE, repetition_rules.repeated_share),
        ("longest_repeat", "longest repeat", repetition_rules.LONGEST_RULE, repetition_rules.longest_repeat),
    ):
        shares = [[measure(text) for text in own] for own in texts]
        changes = [paired_difference(shares[0], own, higher_is_better=False, seed=seed) for own in shares[1:]]
        lines.append(
            Line(
                key=key,
                group="repetition",
                title=title,
                about="all prompts; lower is better",
                rule=rule,
                n=len(shares[0]),
                unit="rate",
                higher_is_better=False,
                cells=tuple(share_cell(bootstrap_mean(own, seed=seed)) for own in shares),
                changes=(None, *(change_of(change, 100, "points") for change in changes)),
            )
        )
    if len(texts[0]) > 1:
        distinct = repetition_rules.matched_distinct(texts)
        differences = [paired_jackknife(distinct[0], own) for own in distinct[1:]]
        lines.append(
            Line(
                key="distinct_2",
                group="repetition",
                title="distinct 2-grams",
                about="all prompts, at equal lengths",
                rule=repetition_rules.DISTINCT_RULE,
                n=len(texts[0]),
                unit="rate",
                higher_is_better=True,
                cells=tuple(share_cell(jackknife(*own).as_share()) for own in distinct),
                changes=(None, *(change_of(change, 100, "points") for change in differences)),
            )
        )
    return lines
