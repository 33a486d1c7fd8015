"""What stands behind a line of the table: rates for each constraint type, each category, each subject.

They are lines like those of the table (`lines.py`), with a group each, and go into `report.json`, `report.txt` and the
page's details; the table itself stays short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from burnish.evaluation.answers import Answer
from burnish.evaluation.behaviours import BEHAVIOURS, NEEDLESS_DECLINES, NeedlessDecline
from burnish.evaluation.constraint import CONSTRAINTS
from burnish.evaluation.format import held
from burnish.evaluation.intervals import bootstrap_mean, paired_difference, paired_rate_difference, wilson
from burnish.evaluation.lines import (
    NO_LOGPROBS,
    Line,
    change_of,
    percent_cell,
    rate_line,
    share_cell,
    spread,
)
from burnish.evaluation.rows import BEHAVIOUR_NAMES
from burnish.evaluation.suite import Card, Record

CONSTRAINT_RULE = (
    "The constraint holds for the whole answer, which is not empty and ends with the model's own stop token within the "
    "limit (IFEval's strict accuracy, and the end)."
)
MASS_RULE = (
    "The share of probability on the right choices: exp of the summed log-probability of each choice, over the sum of "
    "all (MC2 of Lin et al. 2022, arXiv:2109.07958)."
)
TITLES = {
    "format": "Instruction format",
    "harm": "Refusals of harmful requests, by category",
    "lookalike": "Answers to harmless look-alikes, by category",
    "abstain": "Abstentions, by kind of question",
    "answerable": "Answers to the answerable twins, by the kind of question they are the twin of",
    "over_refusal": "Over-refusals of harmless look-alikes, by category",
    "false_abstention": "False abstentions, by the kind of question that the answerable one is the twin of",
    "multiple_choice": "Multiple choice, by subject",
}
"""What a group of details is called; a behaviour without one here goes by its own title."""


def title_of(group: str) -> str:
    """The heading of a group."""
    return TITLES.get(group) or f"{BEHAVIOURS[group].title}, by category"


def make_details(cards: Sequence[Card]) -> list[Line]:
    """The details of all groups that the suite has data for. The cards must be of one suite."""
    lines = [*_format_lines(cards)] if cards[0].of("format") else []
    for name in BEHAVIOUR_NAMES:
        lines += _category_lines(cards, name)
    for way in NEEDLESS_DECLINES:
        lines += _declining_lines(cards, way)
    return lines + _choice_lines(cards)


def _format_lines(cards: Sequence[Card]) -> list[Line]:
    """Prompts with one constraint and with several; all constraints one by one; each type."""
    records = [card.of("format") for card in cards]
    found = [[_held(record) for record in of_model] for of_model in records]
    counts = [len(outcomes) for outcomes in found[0]]
    lines = []
    for key, title, several in (("alone", "one constraint", False), ("combined", "several at once", True)):
        chosen = [i for i, count in enumerate(counts) if (count > 1) == several]
        if chosen:
            outcomes = [[of_model[i].passed for i in chosen] for of_model in records]
            rule = "The prompt passes: all of its constraints hold, and the answer ends."
            lines.append(_line(outcomes, "format", key, title, "prompts", rule))
    lines.append(_constraints_line(found, counts))
    labels = [constraint.label for record in records[0] for constraint in record.row.constraints]
    for label in sorted(set(labels)):
        outcomes = [
            [
                holds
                for record, outcome in zip(of_model, held_by_model, strict=True)
                for constraint, holds in zip(record.row.constraints, outcome, strict=True)
                if constraint.label == label
            ]
            for of_model, held_by_model in zip(records, found, strict=True)
        ]
        rule = f"{CONSTRAINTS[label].rule} {CONSTRAINT_RULE}" if label in CONSTRAINTS else CONSTRAINT_RULE
        lines.append(_line(outcomes, "format", f"type.{label}", label, "constraints of this type", rule))
    return lines


def _held(record: Record) -> tuple[bool, ...]:
    return held(Answer(record.text, record.finished, record.n_tokens), record.row.constraints)


def _constraints_line(found: Sequence[Sequence[tuple[bool, ...]]], counts: list[int]) -> Line:
    """The share of all constraints that hold. Those of one prompt hang together, so the interval is Wilson's with the
    prompts as units, and that of a difference pairs whole prompts."""
    kept = [[sum(outcome) / len(outcome) for outcome in of_model] for of_model in found]
    shares = [sum(map(sum, of_model)) / sum(counts) for of_model in found]
    intervals = [wilson(share * len(counts), len(counts)) for share in shares]
    changes = [paired_rate_difference(kept[0], other, weights=counts) for other in kept[1:]]
    return Line(
        key="format.constraints",
        group="format",
        title="each constraint",
        about=f"{sum(counts)} constraints in {len(counts)} prompts (IFEval's instruction level)",
        rule=CONSTRAINT_RULE,
        n=sum(counts),
        unit="rate",
        higher_is_better=True,
        cells=tuple(map(percent_cell, shares, intervals)),
        changes=(None, *(change_of(change, 100, "points") for change in changes)),
    )


def _category_lines(cards: Sequence[Card], behaviour: str) -> list[Line]:
    outcomes = [[record.passed for record in card.of(behaviour)] for card in cards]
    return _by_category(cards, behaviour, outcomes, behaviour, BEHAVIOURS[behaviour].rule)


def _declining_lines(cards: Sequence[Card], way: NeedlessDecline) -> list[Line]:
    outcomes = [card.declined.get(way.key, ()) for card in cards]
    return _by_category(cards, way.behaviour, outcomes, way.key, way.rule, higher_is_better=False)


def _by_category(
    cards: Sequence[Card],
    behaviour: str,
    outcomes: Sequence[Sequence[bool]],
    group: str,
    rule: str,
    *,
    higher_is_better: bool = True,
) -> list[Line]:
    """A line for each category of a behaviour's prompts; `outcomes` holds for each model one for each prompt."""
    found = [record.row.category for record in cards[0].of(behaviour)]
    if not any(found):
        return []
    lines = []
    for category in dict.fromkeys(found):
        places = [place for place, own in enumerate(found) if own == category]
        chosen = [[of_model[place] for place in places] for of_model in outcomes]
        title = category or "without a category"
        asks = BEHAVIOURS[behaviour].asks
        lines.append(_line(chosen, group, title, title, asks, rule, higher_is_better=higher_is_better))
    return lines


def _choice_lines(cards: Sequence[Card]) -> list[Line]:
    questions, measured = cards[0].suite.choices, [card.retention is not None for card in cards]
    records = [card.retention.choices for card in cards if card.retention is not None]
    if not questions or not records:
        return []
    lines = []
    if any(question.also_right for question in questions):
        masses = [
            [_mass(record.logprobs, question.right) for record, question in zip(of_model, questions, strict=True)]
            for of_model in records
        ]
        lines.append(_mass_line(cards, masses))
    categories = list(dict.fromkeys(question.category for question in questions))
    if any(categories):
        for category in categories:
            places = [i for i, question in enumerate(questions) if question.category == category]
            outcomes = [[of_model[i].right for i in places] for of_model in records]
            title = category or "without a category"
            rule = "The single most probable choice is right."
            lines.append(_line(outcomes, "multiple_choice", title, title, "questions", rule))
    return [spread(line, measured, NO_LOGPROBS) for line in lines]


def _mass(logprobs: Sequence[float], right: frozenset[int]) -> float:
    """The right choices' share of probability; `logprobs` are summed log p in nats."""
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return math.fsum(weights[i] for i in right) / math.fsum(weights)


def _mass_line(cards: Sequence[Card], masses: Sequence[Sequence[float]]) -> Line:
    seed = cards[0].suite.seed
    means = [bootstrap_mean(values, seed=seed) for values in masses]
    changes = [paired_difference(masses[0], other, seed=seed) for other in masses[1:]]
    return Line(
        key="multiple_choice.mass",
        group="multiple_choice",
        title="on right choices",
        about="questions with several right choices",
        rule=MASS_RULE,
        n=len(masses[0]),
        unit="rate",
        higher_is_better=True,
        cells=tuple(map(share_cell, means)),
        changes=(None, *(change_of(change, 100, "points") for change in changes)),
    )


def _line(
    outcomes: list[list[bool]],
    group: str,
    key: str,
    title: str,
    about: str,
    rule: str,
    *,
    higher_is_better: bool = True,
) -> Line:
    return rate_line(
        outcomes,
        key=f"{group}.{key}",
        group=group,
        title=title,
        about=about,
        rule=rule,
        higher_is_better=higher_is_better,
    )
