"""Superficial signals in a reward model's scores: what a policy could raise its reward by without a better answer.

Spearman's rank correlation of the score with each signal, over all responses and within pairs, with intervals from a
bootstrap over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from burnish.evaluation.intervals import MIN_PAIRS, Interval
from burnish.evaluation.style_words import confidence_rate, hedging_rate, markup_share

RESAMPLES = 2_000
"""Fewer than for means: each resample ranks anew, and the 2.5 % quantile still stands on 50 of them."""
MAX_UNDEFINED = 0.05
"""No interval when the correlation has no value in a larger share of the resamples."""

SIGNALS: Mapping[str, Callable[[str, int], float]] = {
    "length": lambda text, tokens: float(tokens),
    "hedging": lambda text, tokens: hedging_rate(text),
    "confidence": lambda text, tokens: confidence_rate(text),
    "markup": lambda text, tokens: markup_share(text),
}
"""Functions of a response's text and its number of tokens: tokens, hedges a word, words of confidence a word, and the
share of lines with list markup."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        value: between -1 and 1.
        interval: 95 % bootstrap interval over prompts; None with fewer than `MIN_PAIRS` prompts, or when the signal
            varies in so few of them that over 5 % of the resamples show no variation at all.
        n: the number of responses or pairs.
    """

    value: float
    interval: Interval | None
    n: int


@dataclass(frozen=True, slots=True)
class SignalCorrelation:
    """How a reward model's score goes with one superficial signal. None where the signal or the score is constant.

    Attributes:
        name: the signal, one of `SIGNALS`.
        responses: over all responses, chosen and rejected.
        within_pairs: of the differences chosen less rejected. That takes out what the prompt does to both, and, since
            ranks have no origin, what the labels prefer on average.
    """

    name: str
    responses: Correlation | None
    within_pairs: Correlation | None


def correlate_signals(
    texts: tuple[Sequence[str], Sequence[str]],
    tokens: tuple[Sequence[int], Sequence[int]],
    scores: tuple[Sequence[float], Sequence[float]],
    prompts: Sequence[int],
    *,
    seed: int = 0,
) -> tuple[SignalCorrelation, ...]:
    """Correlate the scores of N pairs with each of `SIGNALS`.

    Args:
        texts: the chosen responses, the rejected ones, N of each.
        tokens: their numbers of tokens.
        scores: their scores.
        prompts: for each pair the number of its prompt, 0 and up without gaps; a prompt's pairs are redrawn together.
        seed: of the resampling.
    """
    chosen, rejected = (np.asarray(side, dtype=np.float64) for side in scores)
    unit = np.asarray(prompts)
    values = {
        name: tuple(
            np.array([signal(text, n) for text, n in zip(side, lengths, strict=True)], dtype=np.float64)
            for side, lengths in zip(texts, tokens, strict=True)
        )
        for name, signal in SIGNALS.items()
    }
    over_all = correlations(
        np.concatenate([chosen, rejected]),
        {name: np.concatenate(sides) for name, sides in values.items()},
        np.concatenate([unit, unit]),
        seed=seed,
    )
    within = correlations(
        chosen - rejected,
        # Rounded: 0.3 - 0.2 and 0.2 - 0.1 differ in the last bit, and ranks would tell them apart.
        {name: np.round(sides[0] - sides[1], 12) for name, sides in values.items()},
        unit,
        seed=seed,
    )
    return tuple(SignalCorrelation(name, over_all[name], within[name]) for name in SIGNALS)


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's rank correlation of x and y, [n] each: Pearson's of their ranks, tied values having the average rank
    (Spearman 1904, Am. J. Psychol. 15, 72-101). None when either does not vary.

    Raises:
        ValueError: on no values, unequal lengths, or values that are not finite.
    """
    first, second = _Ranked(_column(x)), _Ranked(_column(y))
    if len(first.level) != len(second.level):
        raise ValueError(f"need as many of x as of y, got {len(first.level)} and {len(second.level)}")
    value = _pearson(first, second, np.ones((1, len(first.level))))[0]
    return None if np.isnan(value) else float(value)


def correlations(
    score: np.ndarray, signals: Mapping[str, np.ndarray], unit: np.ndarray, *, seed: int = 0
) -> dict[str, Correlation | None]:
    """Spearman's correlation of `score` [n] with each of `signals` [n], bootstrapped over units.

    Args:
        score: one value a row.
        signals: by name, one value a row.
        unit: the unit (prompt) of each row, numbered from 0 without gaps; a unit's rows are redrawn together.
        seed: of the resampling.
    """
    n, units = len(score), int(unit.max()) + 1
    ranked = _Ranked(_column(score))
    columns = {name: _Ranked(_column(signal)) for name, signal in signals.items()}
    values = {name: spearman(score, signal) for name, signal in signals.items()}
    samples: dict[str, list[np.ndarray]] = {name: [] for name, value in values.items() if value is not None}
    if units >= MIN_PAIRS and samples:
        generator = np.random.default_rng(seed)
        chunk = max(1, 2_000_000 // n)
        for start in range(0, RESAMPLES, chunk):
            counts = _draw(generator, min(chunk, RESAMPLES - start), units)[:, unit]
            for name, parts in samples.items():
                parts.append(_pearson(ranked, columns[name], counts))
    return {
        name: None if value is None else Correlation(value, _interval(samples[name]), n)
        for name, value in values.items()
    }


class _Ranked:
    """A column with its distinct values in order, so that a weighted sample of its rows is ranked without sorting."""

    def __init__(self, values: np.ndarray) -> None:
        _, self.level = np.unique(values, return_inverse=True)
        self.order = np.argsort(self.level, kind="stable")
        self.starts = np.searchsorted(self.level[self.order], np.arange(int(self.level.max()) + 1))

    def ranks(self, counts: np.ndarray) -> np.ndarray:
        """The average ranks [S, n], less 1/2, in S samples that hold row i counts[s, i] times."""
        per_level = np.add.reduceat(counts[:, self.order], self.starts, axis=1)
        middle = np.cumsum(per_level, axis=1) - per_level / 2
        return np.asarray(middle[:, self.level])


def _pearson(x: _Ranked, y: _Ranked, counts: np.ndarray) -> np.ndarray:
    """The correlation of the ranks in each sample [S]; NaN where x or y does not vary."""
    a, b = x.ranks(counts), y.ranks(counts)
    total = counts.sum(1, keepdims=True)
    a = a - (counts * a).sum(1, keepdims=True) / total
    b = b - (counts * b).sum(1, keepdims=True) / total
    scale = np.sqrt((counts * a * a).sum(1) * (counts * b * b).sum(1))
    result = np.full(len(counts), np.nan)
    # Ranks are halves of whole numbers, so the mean of a constant and its scale of 0 are exact.
    np.divide((counts * a * b).sum(1), scale, out=result, where=scale > 0)
    return np.asarray(np.clip(result, -1.0, 1.0))


def _draw(generator: np.random.Generator, samples: int, units: int) -> np.ndarray:
    """How often each unit is drawn [samples, units] when `units` of them are drawn with replacement."""
    rows = generator.integers(0, units, size=(samples, units)) + units * np.arange(samples)[:, None]
    return np.bincount(rows.ravel(), minlength=samples * units).reshape(samples, units).astype(np.float64)


def _interval(parts: list[np.ndarray]) -> Interval | None:
    if not parts:
        return None
    samples = np.concatenate(parts)
    defined = samples[~np.isnan(samples)]
    if len(defined) < (1 - MAX_UNDEFINED) * len(samples):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(low), float(high))


def _column(values: Sequence[float] | np.ndarray) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not len(column) or not np.isfinite(column).all():
        raise ValueError(f"need one finite value a row and at least one row, got shape {column.shape}")
    return column
