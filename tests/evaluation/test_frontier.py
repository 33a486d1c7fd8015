"""The mean of rates and the Pareto-best points, by hand."""

from __future__ import annotations

import math

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


def test_the_interval_does_not_collapse_where_every_prompt_went_alike() -> None:
    """0 of 12 and 12 of 12. Wilson: up to z^2 / (12 + z^2) = 3.841459 / 15.841459 = 0.242494, and from 1 less that. The
    mean: 1/2 less and more 1/2 sqrt(0 + 0.242494^2) = 0.121247, as each has one side without doubt."""
    found = mean_rate({"a": [False] * 12, "b": [True] * 12})
    assert (found.value, found.n) == (0.5, 24)
    assert found.interval.low == pytest.approx(0.378753, abs=1e-6)
    assert found.interval.high == pytest.approx(0.621247, abs=1e-6)
    nothing = mean_rate({"a": [False] * 12, "b": [False] * 12, "c": [False] * 12})
    assert nothing.interval.low == 0.0
    assert nothing.interval.high == pytest.approx(0.242494 / math.sqrt(3), abs=1e-6)


def test_limits_on_either_side_are_put_together_apart() -> None:
    """1 of 4 and 9 of 10, weights 1/2. Wilson's limits: 0.045587 to 0.699358 and 0.595850 to 0.982124. Down:
    sqrt(0.204413^2 + 0.304150^2) / 2 = 0.183229; up: sqrt(0.449358^2 + 0.082124^2) / 2 = 0.228400."""
    found = mean_rate({"a": [True, False, False, False], "b": [True] * 9 + [False]})
    assert found.value == pytest.approx(0.575)
    assert found.interval.low == pytest.approx(0.575 - 0.183229, abs=1e-6)
    assert found.interval.high == pytest.approx(0.575 + 0.228400, abs=1e-6)


def test_of_one_behaviour_it_is_wilson_s() -> None:
    """1 of 10, as in Wilson's table: 0.017876 to 0.404150."""
    found = mean_rate({"a": [True] + [False] * 9})
    assert (found.interval.low, found.interval.high) == pytest.approx((0.017876, 0.404150), abs=1e-6)


def test_pareto_best_points_are_those_that_none_beats() -> None:
    points = [(0.9, -3.9), (0.8, -3.6), (0.7, -3.7), (0.8, -3.6), (0.9, -4.0)]
    assert pareto_best(points) == [True, True, False, True, False]
    assert pareto_best([]) == []
