from __future__ import annotations

import numpy as np
import pytest

from burnish.evaluation.intervals import Rate, bootstrap_mean, paired_difference, wilson

Z2 = 3.8414588206941  # the square of the normal's 97.5 % quantile


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    [
        (0, 10, 0.0, Z2 / (10 + Z2)),
        (10, 10, 10 / (10 + Z2), 1.0),
        (5, 10, 0.2365931, 0.7634069),
        (8, 10, 0.4901625, 0.9433178),
        (1, 1, 1 / (1 + Z2), 1.0),
        (95, 100, 0.8882495, 0.9784560),
    ],
)
def test_wilson_interval(passed: int, n: int, low: float, high: float) -> None:
    interval = wilson(passed, n)
    assert interval.low == pytest.approx(low, abs=1e-6)
    assert interval.high == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize(("passed", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_a_rate_of_nonsense_is_refused(passed: int, n: int) -> None:
    with pytest.raises(ValueError, match="n >= 1"):
        wilson(passed, n)
    with pytest.raises(ValueError, match="n >= 1"):
        Rate(passed, n)


def test_rate_of_outcomes() -> None:
    rate = Rate.of([True, False, True, True])
    assert (rate.passed, rate.n, rate.value) == (3, 4, 0.75)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = [0.0, 1.0] * 200  # sd 0.5, so the standard error is 0.5 / sqrt(400) = 0.025
    mean = bootstrap_mean(values)
    assert mean.value == 0.5
    assert mean.interval.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert mean.interval.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)


def test_a_constant_has_an_interval_of_no_width() -> None:
    mean = bootstrap_mean([2.0] * 7)
    assert (mean.value, mean.interval.low, mean.interval.high) == (2.0, 2.0, 2.0)


def test_weights_give_the_ratio_of_sums() -> None:
    mean = bootstrap_mean([2.0, 30.0], weights=[1.0, 10.0])
    assert mean.value == pytest.approx(32 / 11)
    assert mean.interval.low == pytest.approx(2.0)
    assert mean.interval.high == pytest.approx(3.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = list(np.random.default_rng(3).normal(size=50))
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_pairs_are_drawn_together() -> None:
    # Between the units there is much noise, within each pair none: only a paired bootstrap sees 0.1 exactly.
    before = np.random.default_rng(0).normal(size=40)
    difference = paired_difference(list(before), list(before + 0.1))
    assert difference.value == pytest.approx(0.1)
    assert difference.interval.low == pytest.approx(0.1)
    assert difference.interval.high == pytest.approx(0.1)
    assert difference.word == "better"
    assert difference.n == 40


def test_the_word_follows_the_interval_and_the_direction() -> None:
    up = paired_difference([0.0] * 30, [1.0] * 30)
    down = paired_difference([1.0] * 30, [0.0] * 30)
    assert (up.word, down.word) == ("better", "worse")
    assert paired_difference([0.0] * 30, [1.0] * 30, higher_is_better=False).word == "worse"
    assert paired_difference([0.0] * 30, [0.0] * 30).word == "can't tell"
    # 16 up, 14 down of 30: the standard error is about 0.18, so 2 / 30 is well within it.
    assert paired_difference([0] * 16 + [1] * 14, [1] * 16 + [0] * 14).word == "can't tell"


def test_a_few_pairs_never_tell() -> None:
    assert paired_difference([0.0] * 9, [1.0] * 9).word == "can't tell"
    assert paired_difference([0.0] * 10, [1.0] * 10).word == "better"


def test_a_relative_change_of_ratios() -> None:
    # 2.0 nats a token before; 2.1 after: 5 % more on every text, whatever its length.
    tokens = [float(n) for n in range(10, 30)]
    before, after = [2.0 * n for n in tokens], [2.1 * n for n in tokens]
    change = paired_difference(before, after, weights=(tokens, tokens), relative=True, higher_is_better=False)
    assert change.value == pytest.approx(0.05)
    assert change.interval.low == pytest.approx(0.05)
    assert change.word == "worse"


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([float("nan")])
    with pytest.raises(ValueError, match="positive"):
        bootstrap_mean([1.0], weights=[0.0])
