"""The fit of Gao et al.'s form: curves with known alpha and beta come back, and their peak is where the slope is 0."""

from __future__ import annotations

import math
import random

import pytest

from gao import GaoFit, fit_gao

DISTANCES = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)


def gold_at(d: float, alpha: float, beta: float) -> float:
    return d * (alpha - beta * math.log(d)) if d else 0.0


def test_a_curve_without_noise_comes_back() -> None:
    kl = [[d * d, d * d] for d in DISTANCES]
    gold = [[0.3 + gold_at(d, 0.5, 0.3), 0.1 + gold_at(d, 0.5, 0.3)] for d in DISTANCES]
    fit = fit_gao(kl, gold)
    assert fit is not None
    assert (fit.alpha, fit.beta, fit.r_squared) == (pytest.approx(0.5), pytest.approx(0.3), pytest.approx(1.0))
    assert fit(2.0) == pytest.approx(2 * (0.5 - 0.3 * math.log(2)))
    assert fit(0.0) == 0.0


def test_intervals_hold_the_truth_under_noise() -> None:
    rng = random.Random(0)
    kl = [[d * d + rng.gauss(0, 0.3) for _ in range(200)] for d in DISTANCES]
    gold = [[gold_at(d, 0.5, 0.3) + rng.gauss(0, 0.2) for _ in range(200)] for d in DISTANCES]
    fit = fit_gao(kl, gold)
    assert fit is not None
    for (low, high), truth in ((fit.alpha_interval, 0.5), (fit.beta_interval, 0.3)):
        assert low < truth < high
    assert fit.alpha_interval[1] - fit.alpha_interval[0] < 0.1


def test_the_peak_is_where_the_slope_is_zero() -> None:
    fit = GaoFit(0.5, 0.3, (0, 0), (0, 0), 1.0)  # R'(d) = alpha - beta (log d + 1)
    assert fit.peak is not None
    assert math.log(fit.peak) + 1 == pytest.approx(0.5 / 0.3)
    assert fit(fit.peak) > max(fit(fit.peak * 0.9), fit(fit.peak * 1.1))
    assert GaoFit(0.5, 0.0, (0, 0), (0, 0), 1.0).peak is None


def test_points_at_the_start_say_nothing() -> None:
    assert fit_gao([[-0.1], [0.0], [1.0], [4.0]], [[0.0], [5.0], [1.0], [1.0]]) is None
