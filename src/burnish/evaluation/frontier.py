"""Alignment against retention: where a model lies, and which models no other one beats at both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from burnish.evaluation.intervals import Interval, Mean, Rate


def mean_rate(outcomes: Mapping[str, Sequence[bool]]) -> Mean:
    """The mean over behaviours of the rates at which their prompts pass: each behaviour counts the same, however many
    prompts it has.

    The 95 % interval puts Wilson's of the single rates together (MOVER: Zou & Donner 2008, Statistics in Medicine 27,
    1693-1702; for two rates Newcombe 1998, ibid. 17, 873-890, method 10). With k behaviours the lower end lies
    sqrt(sum (p_i - l_i)^2) / k below the mean, the upper end likewise above it. So it has a width where every prompt
    passes or none does, which a bootstrap of the prompts has not, and of one behaviour it is Wilson's.

    Raises:
        ValueError: on no behaviour, or one without prompts.
    """
    if not outcomes or not all(outcomes.values()):
        raise ValueError("need at least one behaviour, and one prompt for each")
    rates = [Rate.of(passed) for passed in outcomes.values()]
    value = sum(rate.value for rate in rates) / len(rates)
    below = math.hypot(*(rate.value - rate.interval.low for rate in rates)) / len(rates)
    above = math.hypot(*(rate.interval.high - rate.value for rate in rates)) / len(rates)
    return Mean(value, Interval(value - below, value + above), sum(rate.n for rate in rates))


def pareto_best(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each point (higher is better in both places) whether no other is as good in both and better in one."""
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] >= point[0] and other[1] >= point[1] and other != point
