"""Intervals for what is measured: Wilson's for a rate and Newcombe's for the difference of two on the same prompts, the
bootstrap for means and for any other statistic of the units, and the paired bootstrap for their differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
RESAMPLES = 10_000
MAX_DRAWN = 20_000_000
MIN_PAIRS = 10
"""On fewer pairs no difference is called better or worse: the bootstrap's intervals are too narrow there."""

Word = Literal["better", "worse", "can't tell"]

Statistic = Callable[[np.ndarray], np.ndarray]
"""From (R, n) how often each of n units is in each of R samples to the (R,) values of the statistic on them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something holds: `passed` of `n`, with Wilson's interval."""

    passed: int
    n: int

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 <= self.passed <= self.n:
            raise ValueError(f"a rate needs 0 <= passed <= n and n >= 1, got {self.passed} of {self.n}")

    @property
    def value(self) -> float:
        """The rate, between 0 and 1."""
        return self.passed / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % score interval."""
        return wilson(self.passed, self.n)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: counts, value and interval."""
        return {**asdict(self), "value": self.value, "interval": asdict(self.interval)}

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        """The rate of True among the outcomes."""
        return cls(sum(map(bool, outcomes)), len(outcomes))


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, a ratio of sums or a quantile, with its interval; `n` is the number of units."""

    value: float
    interval: Interval
    n: int

    def as_share(self) -> Mean:
        """With its interval cut at 0 and 1: pivotal and normal intervals may reach beyond what a share can be."""
        return replace(self, interval=Interval(max(0.0, self.interval.low), min(1.0, self.interval.high)))


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed from one model to another on the same units.

    Attributes:
        value: the second less the first; for a relative change, that over the first.
        interval: 95 % interval of it: Newcombe's of rates, else the paired bootstrap's.
        word: better, worse, or can't tell when the interval holds zero or there are fewer than `MIN_PAIRS` units.
        n: the number of pairs.
    """

    value: float
    interval: Interval
    word: Word
    n: int


def wilson(passed: float, n: int, z: float = Z_95) -> Interval:
    """Wilson's score interval for a binomial rate (Wilson 1927, JASA 22, 209-212).

    Unlike the normal interval it stays within 0 and 1 and is honest at rates of 0 and 1. `passed` may be a fraction:
    the sum of shares over n units.

    Raises:
        ValueError: when n < 1 or passed is not between 0 and n.
    """
    if n < 1 or not 0 <= passed <= n:
        raise ValueError(f"a rate needs 0 <= passed <= n and n >= 1, got {passed} of {n}")
    rate = passed / n
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    centre, scale = rate + z * z / (2 * n), 1 + z * z / n
    low = 0.0 if passed == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if passed == n else min(1.0, (centre + spread) / scale)
    return Interval(low, high)


def win_rate(points: Sequence[float]) -> Mean:
    """The mean of points, a win being 1, a tie 1/2 and a loss 0, with Wilson's interval of as many wins in n.

    Ties make the points vary less than wins and losses alone would, so with many of them the interval is too wide. It
    is not a point where all are won.

    Raises:
        ValueError: on no points, or one outside 0 to 1.
    """
    total = _shares(points)
    return Mean(total.mean().item(), wilson(total.sum().item(), len(total)), len(total))


def difference_from(level: float, mean: Mean, *, higher_is_better: bool = True) -> Difference:
    """How far a mean lies from a fixed level: its interval, moved by that."""
    interval = Interval(mean.interval.low - level, mean.interval.high - level)
    return Difference(mean.value - level, interval, _word(interval, mean.n, higher_is_better), mean.n)


def paired_rate_difference(
    before: Sequence[float],
    after: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    higher_is_better: bool = True,
) -> Difference:
    """The rate of `after` less that of `before` with the hybrid score interval for paired proportions (Newcombe 1998,
    Statistics in Medicine 17, 2635-2650, method 10).

    From the distances between both rates and the ends of their Wilson intervals, put together with the correlation of
    the pairs: where all pairs differ in the same way, or none does, it has a width all the same, which a bootstrap of
    the pairs has not.

    Args:
        before: the first model's outcome on each of n units: 0 or 1; or a share, as of the constraints of one prompt,
            for which it is rather too wide.
        after: the second model's outcomes on the same units in the same order.
        weights: what each unit counts in both rates; the same for all if none.
        higher_is_better: which sign is called better.

    Raises:
        ValueError: on no pairs, unequal lengths, an outcome outside 0 to 1, or a weight that is not positive.
    """
    first, second = _shares(before), _shares(after)
    n = len(first)
    if n != len(second):
        raise ValueError(f"pairs need equal lengths, got {n} and {len(second)}")
    _, sizes = _arrays(first.tolist(), weights)
    p1, p2 = (float(np.average(outcomes, weights=sizes)) for outcomes in (first, second))
    one, two = wilson(p1 * n, n), wilson(p2 * n, n)
    phi = _correlation(first, second)
    (down1, up1), (down2, up2) = (p1 - one.low, one.high - p1), (p2 - two.low, two.high - p2)
    below = math.sqrt(max(0.0, down2**2 - 2 * phi * down2 * up1 + up1**2))
    above = math.sqrt(max(0.0, up2**2 - 2 * phi * up2 * down1 + down1**2))
    interval = Interval(p2 - p1 - below, p2 - p1 + above)
    return Difference(p2 - p1, interval, _word(interval, n, higher_is_better), n)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Of paired outcomes, with Newcombe's correction for continuity: n/2 less where the fourfold table's a d - b c is
    positive, but not below 0. Outcomes that are all alike have none."""
    n = len(first)
    # For outcomes of 0 and 1: a d - b c, and of each model the product of how many pass and how many fail.
    product = n * float(first @ second) - float(first.sum()) * float(second.sum())
    squares = [max(0.0, n * float(own @ own) - float(own.sum()) ** 2) for own in (first, second)]
    if not all(squares):
        return 0.0
    return (max(0.0, product - n / 2) if product > 0 else product) / math.sqrt(squares[0] * squares[1])


def bootstrap_mean(values: Sequence[float], *, weights: Sequence[float] | None = None, seed: int = 0) -> Mean:
    """The mean of values, or with weights the ratio sum(values) / sum(weights), with a percentile interval.

    The units (prompts, or texts with their token counts as weights) are drawn with replacement.

    Raises:
        ValueError: on no values, unequal lengths, or weights that are not positive.
    """
    top, bottom = _arrays(values, weights)
    samples = _resampled(len(top), lambda rows: top[rows].sum(1) / bottom[rows].sum(1), seed)
    return Mean(float(top.sum() / bottom.sum()), _percentiles(samples), len(top))


def bootstrap_quantile(values: Sequence[float], q: float, *, seed: int = 0) -> Mean:
    """The q-quantile of values (linear between two of them), with a percentile interval.

    The interval of a quantile in the tail is narrow where there are few values beyond it: it can't reach past the
    largest one.

    Raises:
        ValueError: on no values, or a q outside 0 to 1.
    """
    top, _ = _arrays(values, None)
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile needs q from 0 to 1, got {q}")
    samples = _resampled(len(top), lambda rows: np.quantile(top[rows], q, axis=1), seed)
    return Mean(float(np.quantile(top, q)), _percentiles(samples), len(top))


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    *,
    weights: tuple[Sequence[float], Sequence[float]] | None = None,
    relative: bool = False,
    higher_is_better: bool = True,
    seed: int = 0,
) -> Difference:
    """The paired bootstrap of `after` less `before` (Efron & Tibshirani 1993, ch. 16): whole pairs are redrawn.

    Args:
        before: the first model's outcome on each unit.
        after: the second model's outcome on the same units in the same order.
        weights: for ratios of sums, the two models' denominators (tokens), else means are compared.
        relative: give the change as a share of the first model's value.
        higher_is_better: which sign is called better.
        seed: of the resampling.

    Raises:
        ValueError: on no pairs or unequal lengths.
    """
    first, first_n = _arrays(before, weights[0] if weights else None)
    second, second_n = _arrays(after, weights[1] if weights else None)
    if len(first) != len(second):
        raise ValueError(f"pairs need equal lengths, got {len(first)} and {len(second)}")

    def change(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((b - a) / a if relative else b - a)

    samples = _resampled(
        len(first),
        lambda rows: change(
            first[rows].sum(1) / first_n[rows].sum(1),
            second[rows].sum(1) / second_n[rows].sum(1),
        ),
        seed,
    )
    value = float(change(np.asarray(first.sum() / first_n.sum()), np.asarray(second.sum() / second_n.sum())))
    interval = _percentiles(samples)
    return Difference(value, interval, _word(interval, len(first), higher_is_better), len(first))


@dataclass(frozen=True)
class Drawn:
    """A statistic of n units: its value, and its values on the bootstrap's draws, which a seed and n fix."""

    value: float
    samples: np.ndarray
    n: int

    def mean(self, *, pivotal: bool = False) -> Mean:
        """The value with its interval.

        Args:
            pivotal: mirror the percentiles at the value (Davison & Hinkley 1997, ch. 5). For a statistic that noise
                moves to one side: the draws are moved as far again, and their percentiles twice as far from the truth.
        """
        found = _percentiles(self.samples)
        if pivotal:
            found = Interval(2 * self.value - found.high, 2 * self.value - found.low)
        return Mean(self.value, found, self.n)

    def change_to(self, after: Drawn, *, higher_is_better: bool = True) -> Difference:
        """The paired bootstrap of `after` less this one.

        Raises:
            ValueError: when they are of different numbers of units.
        """
        if self.n != after.n:
            raise ValueError(f"pairs need equal lengths, got {self.n} and {after.n}")
        value = after.value - self.value
        interval = _percentiles(after.samples - self.samples)
        return Difference(value, interval, _word(interval, self.n, higher_is_better), self.n)


def draw_statistics(n: int, statistics: Sequence[Statistic], *, seed: int = 0) -> list[Drawn]:
    """Statistics of n units on the same draws with replacement, those of `bootstrap_mean` with that seed.

    Of more than 2,000 units there are fewer than `RESAMPLES` draws, 1,000 at least: a percentile of 1,000 is known well
    enough, and the intervals are narrow there.

    Raises:
        ValueError: on no units, or a value that is not finite.
    """
    if n < 1:
        raise ValueError("a statistic needs at least one unit")

    def of_rows(rows: np.ndarray) -> np.ndarray:
        counts = _counts(rows)
        return np.stack([statistic(counts) for statistic in statistics], axis=1)

    values = [float(statistic(np.ones((1, n)))[0]) for statistic in statistics]
    samples = _resampled(n, of_rows, seed, draws=min(RESAMPLES, max(1_000, MAX_DRAWN // n)))
    if not (np.isfinite(values).all() and np.isfinite(samples).all()):
        raise ValueError("the statistic must be finite on every draw")
    return [Drawn(value, samples[:, place], n) for place, value in enumerate(values)]


def jackknife(value: float, left_out: Sequence[float]) -> Mean:
    """A statistic with a normal interval of the jackknife's standard error (Efron & Tibshirani 1993, ch. 11).

    For statistics of which a bootstrap draw says too little: one that counts what is different falls on every draw,
    because a draw holds some units twice.

    Args:
        value: on all n units.
        left_out: the n values without each unit in turn.

    Raises:
        ValueError: on fewer than two units.
    """
    return Mean(value, _normal(value, np.asarray(left_out, dtype=np.float64)), len(left_out))


def paired_jackknife(
    before: tuple[float, Sequence[float]], after: tuple[float, Sequence[float]], *, higher_is_better: bool = True
) -> Difference:
    """The same for `after` less `before`, each the value and the values without each of the same n units in turn.

    Raises:
        ValueError: on fewer than two units, or unequal numbers.
    """
    first, second = np.asarray(before[1], dtype=np.float64), np.asarray(after[1], dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal lengths, got {len(first)} and {len(second)}")
    value = after[0] - before[0]
    interval = _normal(value, second - first)
    return Difference(value, interval, _word(interval, len(first), higher_is_better), len(first))


def _normal(value: float, left_out: np.ndarray) -> Interval:
    n = len(left_out)
    if n < 2:
        raise ValueError(f"a jackknife needs at least two units, got {n}")
    error = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
    return Interval(value - Z_95 * error, value + Z_95 * error)


def _counts(rows: np.ndarray) -> np.ndarray:
    """(R, n) how often each unit is in each of R draws of n units, from their (R, n) indices."""
    draws, n = rows.shape
    flat = (rows + n * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * n).reshape(draws, n).astype(np.float64)


def _word(interval: Interval, n: int, higher_is_better: bool) -> Word:
    told = interval.low > 0.0 or interval.high < 0.0  # false of NaN, as a share of nothing is
    if n < MIN_PAIRS or not told:
        return "can't tell"
    return "better" if (interval.low > 0) == higher_is_better else "worse"


def _shares(values: Sequence[float]) -> np.ndarray:
    outcomes, _ = _arrays(values, None)
    if not ((outcomes >= 0) & (outcomes <= 1)).all():
        raise ValueError("outcomes must lie between 0 and 1")
    return outcomes


def _arrays(values: Sequence[float], weights: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    top = np.asarray(values, dtype=np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)
    if top.ndim != 1 or not len(top) or top.shape != bottom.shape:
        raise ValueError(f"need one weight a value and at least one value, got {top.shape} and {bottom.shape}")
    if not np.isfinite(top).all() or not (bottom > 0).all():
        raise ValueError("values must be finite and weights positive")
    return top, bottom


def _resampled(
    n: int, statistic: Callable[[np.ndarray], np.ndarray], seed: int, *, draws: int | None = None
) -> np.ndarray:
    """The statistic of `RESAMPLES` draws of n units with replacement, in chunks that fit in some megabytes."""
    draws = RESAMPLES if draws is None else draws
    generator = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // n)
    parts = []
    for start in range(0, draws, chunk):
        rows = generator.integers(0, n, size=(min(chunk, draws - start), n))
        parts.append(statistic(rows))
    return np.concatenate(parts)


def _percentiles(samples: np.ndarray) -> Interval:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(float(low), float(high))
