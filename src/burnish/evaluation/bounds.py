"""Bounds on what training may cost: a metric of the card now, against the start's on the same prompts, and a limit.

What a model loses in general ability while it is aligned is called the alignment tax (Ouyang et al. 2022,
arXiv:2203.02155, section 4.2). The rules are pure functions of two cards; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from burnish.evaluation.intervals import (
    MIN_PAIRS,
    Interval,
    Rate,
    bootstrap_mean,
    paired_difference,
    paired_rate_difference,
)
from burnish.evaluation.light import MULTIPLE_CHOICE, NATS_PER_TOKEN
from burnish.evaluation.rows import BEHAVIOUR_NAMES
from burnish.evaluation.suite import Card

Rule = Literal["max_drop", "max_rise", "min", "max"]
STOPS, TOKENS = "stops", "tokens"
RATES = (*BEHAVIOUR_NAMES, STOPS, MULTIPLE_CHOICE)
"""Metrics between 0 and 1, of which more is better; their changes are differences (0.02 is 2 points)."""
RATIOS = (NATS_PER_TOKEN, TOKENS)
"""Metrics on a scale of their own; their changes are shares of the start's value (0.05 is 5 %)."""
METRICS = (*RATES, *RATIOS)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One metric of one card, unit by unit (prompts, questions or texts).

    Attributes:
        values: what came of each unit; 1 or 0 for a rate.
        weights: what a mean's values are over (a text's tokens); none where each unit counts as one.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None

    @property
    def value(self) -> float:
        """The rate, or the sum of values over the sum of weights."""
        return sum(self.values) / (len(self.values) if self.weights is None else sum(self.weights))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Outcomes:
        """From `as_dict`."""
        weights = plain["weights"]
        return cls(tuple(plain["values"]), None if weights is None else tuple(weights))


_ROUNDING = 1e-9
"""A drop of 2 in 40 is 0.05000000000000004 or 0.04999999999999999, as the rates happen to be."""


def outcomes_of(card: Card) -> dict[str, Outcomes]:
    """Every metric that the card holds, under its name in `METRICS`."""
    found = {name: Outcomes(tuple(float(r.passed) for r in card.of(name))) for name in card.rates}
    if card.records:
        found[STOPS] = Outcomes(tuple(float(record.finished) for record in card.records))
        # A local model's answers are all counted; an endpoint, which may not count, is not trained.
        found[TOKENS] = Outcomes(tuple(float(record.n_tokens or 0) for record in card.records))
    kept = card.retention
    if kept is not None and kept.choices:
        found[MULTIPLE_CHOICE] = Outcomes(tuple(float(record.right) for record in kept.choices))
    if kept is not None and kept.prose:
        tokens = tuple(float(record.tokens) for record in kept.prose)
        found[NATS_PER_TOKEN] = Outcomes(tuple(record.nats for record in kept.prose), tokens)
    return found


@dataclass(frozen=True, slots=True)
class Reading:
    """One bound held against one evaluation: the evidence of a decision.

    Attributes:
        metric: in `METRICS`.
        rule: `max_drop` and `max_rise` limit the change from the start, `min` and `max` the value itself.
        limit: of the change (in points of a rate, else as a share of the start's value), or of the value.
        start: the metric at the start.
        value: the metric now; none where it is not a number (`not_a_number`), as are change and interval then.
        change: from start to now, as the limit has it; none for `min` and `max` too.
        low: the lower end of the 95 % interval of change or value.
        high: its upper end.
        n: prompts, questions or texts.
        outside: whether the number itself lies beyond the limit.
        sure: whether the whole interval does, over at least `MIN_PAIRS` units.
        text: one sentence with the numbers.
    """

    metric: str
    rule: Rule
    limit: float
    start: float
    value: float | None
    change: float | None
    low: float | None
    high: float | None
    n: int
    outside: bool
    sure: bool
    text: str


def read_bound(metric: str, rule: Rule, limit: float, start: Outcomes, now: Outcomes, *, seed: int = 0) -> Reading:
    """Hold one bound against the start's and the present outcomes of its metric. What lies at the limit lies inside.

    Raises:
        ValueError: when the two are not of the same units.
    """
    change = None
    if rule in ("max_drop", "max_rise"):
        if metric not in RATES and start.value == 0.0:
            return _from_nothing(metric, rule, limit, now)
        if metric in RATES:
            found = paired_rate_difference(start.values, now.values)
        else:
            weights = None if start.weights is None or now.weights is None else (start.weights, now.weights)
            found = paired_difference(start.values, now.values, weights=weights, relative=True, seed=seed)
        change, interval = found.value, found.interval
    elif metric in RATES:
        interval = Rate.of([bool(value) for value in now.values]).interval
    else:
        interval = bootstrap_mean(now.values, weights=now.weights, seed=seed).interval
    judged = now.value if change is None else change
    if rule in ("max_drop", "min"):
        bound = -limit if rule == "max_drop" else limit
        outside, beyond = judged < bound - _ROUNDING, interval.high < bound - _ROUNDING
    else:
        outside, beyond = judged > limit + _ROUNDING, interval.low > limit + _ROUNDING
    n = len(now.values)
    text = _sentence(metric, rule, limit, start.value, now.value, change, interval)
    sure = outside and beyond and n >= MIN_PAIRS
    return Reading(
        metric, rule, limit, start.value, now.value, change, interval.low, interval.high, n, outside, sure, text
    )


def _from_nothing(metric: str, rule: Rule, limit: float, now: Outcomes) -> Reading:
    """The reading of a change that no share of the start's value can say, because that is 0."""
    n, outside = len(now.values), rule == "max_rise" and now.value > 0.0
    text = f"{metric.replace('_', ' ')} went from 0 to {now.value:.3g}; the bound is {_bound(metric, rule, limit)}"
    return Reading(metric, rule, limit, 0.0, now.value, None, None, None, n, outside, outside and n >= MIN_PAIRS, text)


def not_a_number(metric: str, rule: Rule, limit: float, start: Outcomes) -> Reading:
    """The reading of weights that give NaN or infinity: beyond every bound, and surely, without an interval."""
    text = f"{metric.replace('_', ' ')} is not a number; the bound is {_bound(metric, rule, limit)}"
    n = len(start.values)
    return Reading(metric, rule, limit, start.value, None, None, None, None, n, outside=True, sure=True, text=text)


def units(outcomes: Mapping[str, Outcomes], metrics: Sequence[str]) -> dict[str, int]:
    """How many units stand behind each of the metrics."""
    return {name: len(outcomes[name].values) for name in metrics}


def _sentence(
    metric: str, rule: Rule, limit: float, start: float, value: float, change: float | None, interval: Interval
) -> str:
    name, rate = metric.replace("_", " "), metric in RATES
    shown = _number(value, rate)
    low, high = interval.low, interval.high
    bound = _bound(metric, rule, limit)
    if change is None:
        return f"{name} is {shown} ({_number(low, rate)} to {_number(high, rate)}); the bound is {bound}"
    unit = "points" if rate else "%"
    return (
        f"{name} went from {_number(start, rate)} to {shown}: {100 * change:+.1f} {unit} ({100 * low:+.1f} to "
        f"{100 * high:+.1f}); the bound is {bound}"
    )


def _bound(metric: str, rule: Rule, limit: float) -> str:
    rate = metric in RATES
    if rule in ("min", "max"):
        return f"{'at least' if rule == 'min' else 'at most'} {_number(limit, rate)}"
    return f"{'-' if rule == 'max_drop' else '+'}{100 * limit:g} {'points' if rate else '%'}"


def _number(value: float, rate: bool) -> str:
    return f"{100 * value:.1f} %" if rate else f"{value:.3g}"
