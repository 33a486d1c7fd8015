"""Alignment against retention: where a model lies, and which models no other one beats at both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from burnish.evaluation.intervals import RESAMPLES, Interval, Mean


def mean_rate(outcomes: Mapping[str, Sequence[bool]], *, seed: int = 0) -> Mean:
    """The mean over behaviours of the rates at which their prompts pass: each behaviour counts the same, however many
    prompts it has. The 95 % interval is a bootstrap that redraws prompts within each behaviour.

    Raises:
        ValueError: on no behaviour, or one without prompts.
    """
    if not outcomes or not all(outcomes.values()):
        raise ValueError("need at least one behaviour, and one prompt for each")
    generator = np.random.default_rng(seed)
    samples, value = np.zeros(RESAMPLES), 0.0
    for passed in outcomes.values():
        n, k = len(passed), sum(map(bool, passed))
        # Redrawing n of n prompts with replacement, of which k pass, draws a binomial number that pass.
        samples += generator.binomial(n, k / n, size=RESAMPLES) / n
        value += k / n
    low, high = np.percentile(samples / len(outcomes), [2.5, 97.5])
    return Mean(value / len(outcomes), Interval(float(low), float(high)), sum(map(len, outcomes.values())))


def pareto_best(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each point (higher is better in both places) whether no other is as good in both and better in one."""
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] >= point[0] and other[1] >= point[1] and other != point
