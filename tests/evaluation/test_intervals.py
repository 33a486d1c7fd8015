from __future__ import annotations

import numpy as np
import pytest

from burnish.evaluation.intervals import (
    Drawn,
    Rate,
    bootstrap_mean,
    difference_from,
    draw_statistics,
    jackknife,
    paired_difference,
    paired_jackknife,
    paired_rate_difference,
    wilson,
    win_rate,
)

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


def fourfold(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Paired outcomes by how many pass in both models, in one, and in none."""
    before = [True] * (both + first) + [False] * (second + neither)
    after = [True] * both + [False] * first + [True] * second + [False] * neither
    return before, after


@pytest.mark.parametrize(
    ("table", "value", "low", "high"),
    [
        # 10 of 20 (Wilson 0.299298 to 0.700702) and 14 of 20 (0.481027 to 0.854523). a d - b c = 20, less n / 2 = 10,
        # over sqrt(10 * 10 * 14 * 6) = 91.6515: phi = 0.109109. Below: sqrt(0.218973^2 + 0.200702^2
        # - 2 phi 0.218973 * 0.200702) = 0.280428; above: sqrt(0.154523^2 + 0.200702^2 - 2 phi ...) = 0.239563.
        ((8, 2, 6, 4), 0.2, -0.080428, 0.439563),
        # a d - b c = 9 - 16 = -7 is not corrected: phi = -7 / sqrt(7 * 7 * 7 * 7) = -1 / 7, both rates 7 of 14 with
        # half widths h = 0.232008 (Wilson): h sqrt(2 + 2 / 7).
        ((3, 4, 4, 3), 0.0, -0.232008 * (16 / 7) ** 0.5, 0.232008 * (16 / 7) ** 0.5),
        # a d - b c = 20 - 12 = 8 is not above n / 2 = 8: phi = 0. 8 of 16 (0.279996 to 0.720004) and 7 of 16 (0.230987
        # to 0.668215): hypot(0.206513, 0.220004) = 0.301744 below, hypot(0.230715, 0.220004) = 0.318796 above.
        ((4, 4, 3, 5), -0.0625, -0.0625 - 0.301744, -0.0625 + 0.318796),
        # All twelve change: Wilson's ends are z^2 / (12 + z^2) = 0.242494 from 0 and 1, and nothing correlates.
        ((0, 0, 12, 0), 1.0, 1 - 2**0.5 * Z2 / (12 + Z2), 1.0),
        ((0, 12, 0, 0), -1.0, -1.0, -1 + 2**0.5 * Z2 / (12 + Z2)),
        # None of twelve changes: 0 of 12 twice.
        ((0, 0, 0, 12), 0.0, -Z2 / (12 + Z2), Z2 / (12 + Z2)),
    ],
)
def test_newcombe_s_interval_of_paired_rates(
    table: tuple[int, int, int, int], value: float, low: float, high: float
) -> None:
    """Newcombe 1998, method 10, worked by hand from Wilson's ends."""
    found = paired_rate_difference(*fourfold(*table))
    assert found.value == pytest.approx(value)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=2e-6)
    assert found.word == ("can't tell" if low <= 0 <= high else "better" if low > 0 else "worse")
    assert paired_rate_difference(*fourfold(*table), higher_is_better=False).word != found.word or low <= 0 <= high


def test_newcombe_s_interval_holds_the_truth_where_pairs_are_few_and_rates_are_high() -> None:
    """Twelve pairs at rates of 0.95 and 0.75, 2,000 times: 95 % should hold 0.2, and the bootstrap's hold fewer."""
    generator = np.random.default_rng(0)
    held = {"newcombe": 0, "bootstrap": 0}
    for seed in range(2_000):
        before, after = generator.random(12) < 0.95, generator.random(12) < 0.75
        found = paired_rate_difference(before.tolist(), after.tolist()).interval
        held["newcombe"] += found.low <= -0.2 <= found.high
        if seed < 200:
            drawn = (after.astype(float) - before)[generator.integers(0, 12, size=(500, 12))].mean(1)
            low, high = np.percentile(drawn, [2.5, 97.5])
            held["bootstrap"] += low <= -0.2 <= high
    assert 0.94 <= held["newcombe"] / 2_000 <= 0.99
    assert held["bootstrap"] / 200 < 0.94


def test_shares_of_prompts_count_by_their_weights() -> None:
    """One of two constraints, then all four of another: 5 of 6, over two prompts."""
    found = paired_rate_difference([0.0, 0.0], [0.5, 1.0], weights=[2, 4])
    assert found.value == pytest.approx(5 / 6)
    zero, most = wilson(0, 2), wilson(2 * 5 / 6, 2)
    assert found.interval.low == pytest.approx(5 / 6 - np.hypot(5 / 6 - most.low, zero.high))
    assert found.word == "can't tell"


def test_points_have_wilson_s_interval() -> None:
    won = win_rate([1.0] * 12)
    assert (won.value, won.interval.low, won.interval.high) == pytest.approx((1.0, 12 / (12 + Z2), 1.0))
    assert difference_from(0.5, won).interval.low == pytest.approx(12 / (12 + Z2) - 0.5)
    assert difference_from(0.5, won).word == "better"
    tied = win_rate([1.0, 0.5, 0.5, 0.0] * 5)
    assert (tied.value, tied.interval) == (0.5, wilson(10, 20))
    assert difference_from(0.5, tied).word == "can't tell"


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
    with pytest.raises(ValueError, match="equal lengths"):
        paired_rate_difference([1.0], [1.0, 0.0])
    for outcome in (1.5, -0.5, float("nan")):
        with pytest.raises(ValueError, match=r"between 0 and 1|finite"):
            paired_rate_difference([1.0], [outcome])
        with pytest.raises(ValueError, match=r"between 0 and 1|finite"):
            win_rate([outcome])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([float("nan")])
    with pytest.raises(ValueError, match="positive"):
        bootstrap_mean([1.0], weights=[0.0])


def test_statistics_on_draws_have_the_intervals_of_the_mean() -> None:
    values = [1.0, 4.0, 2.5, 8.0, 3.0, 0.5]

    def mean(counts: np.ndarray) -> np.ndarray:
        return np.asarray(counts @ np.array(values) / counts.sum(1))

    (drawn,) = draw_statistics(6, [mean], seed=5)
    expected = bootstrap_mean(values, seed=5)
    found = drawn.mean()
    assert found.value == pytest.approx(expected.value)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.interval.low, expected.interval.high))
    after = [value + 1.0 for value in values]
    (other,) = draw_statistics(6, [lambda counts: mean(counts) + 1.0], seed=5)
    change = drawn.change_to(other)
    paired = paired_difference(values, after, seed=5)
    assert (change.value, change.interval.low) == pytest.approx((paired.value, paired.interval.low))
    assert change.word == "can't tell"  # six pairs are too few


def test_the_pivotal_interval_is_the_percentiles_mirrored_at_the_value() -> None:
    drawn = Drawn(3.0, np.linspace(4.0, 8.0, 10_001), 20)  # percentiles 4.1 and 7.9
    found = drawn.mean(pivotal=True).interval
    assert (found.low, found.high) == pytest.approx((2 * 3 - 7.9, 2 * 3 - 4.1))
    same = drawn.mean().interval
    assert (same.low, same.high) == pytest.approx((4.1, 7.9))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """Efron & Tibshirani 1993, ch. 11: of a mean the jackknife's error is s / sqrt(n)."""
    values = np.array([2.0, 3.0, 7.0, 1.0, 9.0])
    left_out = [(values.sum() - value) / 4 for value in values]
    found = jackknife(float(values.mean()), left_out)
    error = values.std(ddof=1) / np.sqrt(5)
    assert found.interval.high - found.value == pytest.approx(1.959963984540054 * error)
    assert found.value - found.interval.low == pytest.approx(1.959963984540054 * error)
    difference = paired_jackknife((1.0, [1.0] * 5), (float(values.mean()), left_out))
    assert difference.value == pytest.approx(values.mean() - 1)
    assert difference.interval.high - difference.value == pytest.approx(1.959963984540054 * error)


def test_statistics_that_can_not_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one unit"):
        draw_statistics(0, [lambda counts: counts.sum(1)])
    with pytest.raises(ValueError, match="finite"):
        draw_statistics(3, [lambda counts: np.full(len(counts), np.nan)])
    with pytest.raises(ValueError, match="at least two"):
        jackknife(1.0, [1.0])
    with pytest.raises(ValueError, match="equal lengths"):
        paired_jackknife((1.0, [1.0, 2.0]), (1.0, [1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="equal lengths"):
        Drawn(1.0, np.zeros(3), 4).change_to(Drawn(1.0, np.zeros(3), 5))


def test_a_share_of_nothing_is_neither_better_nor_worse() -> None:
    with np.errstate(invalid="ignore"):
        assert paired_difference([0.0] * 12, [0.0] * 12, relative=True).word == "can't tell"
