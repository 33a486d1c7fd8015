"""The mean of rates and the Pareto-best points, by hand."""

from __future__ import annotations

import pytest

from burnish.evaluation.frontier import mean_rate, pareto_best


def test_each_behaviour_counts_the_same() -> None:
    """1 of 2 and 3 of 4 and 4 of 4: (0.5 + 0.75 + 1) / 3, not 8 of 10."""
    found = mean_rate({"a": [True, False], "b": [True, True, True, False], "c": [True] * 4})
    assert found.value == pytest.approx(0.75)
    assert found.n == 10
    assert found.interval.low < 0.75 < found.interval.high


def test_the_interval_is_that_of_independent_binomials() -> None:
    """Variance of the mean of two rates: (p q / n + p q / n) / 4; at 0.5 and 400 prompts each a sd of 0.01768."""
    half = [True, False] * 200
    found = mean_rate({"a": half, "b": half})
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * 0.017678, rel=0.05)
    with pytest.raises(ValueError, match="at least one behaviour"):
        mean_rate({"a": []})


def test_pareto_best_points_are_those_that_none_beats() -> None:
    points = [(0.9, -3.9), (0.8, -3.6), (0.7, -3.7), (0.8, -3.6), (0.9, -4.0)]
    assert pareto_best(points) == [True, True, False, True, False]
    assert pareto_best([]) == []
