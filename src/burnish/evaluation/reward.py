"""How good a reward model is, from its scores of preference pairs alone: accuracy, margin, calibration, what
superficial signals its score goes with, and whether it knows more than the length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from burnish.evaluation.calibration import place_in_bins
from burnish.evaluation.intervals import Difference, Mean, Rate, bootstrap_mean, paired_difference
from burnish.evaluation.reward_signals import SignalCorrelation, correlate_signals

BINS = 10
"""Of confidence between 1/2 and 1: 0.05 wide."""

Direction = Literal["longer", "shorter"]


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A preference pair with a reward model's scores (no unit) and lengths in tokens."""

    prompt: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    chosen_tokens: int
    rejected_tokens: int

    @property
    def margin(self) -> float:
        """The chosen response's score less the rejected one's."""
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One row of the reliability table: the pairs whose confidence lies in (low, high], the first with its lower end.

    `confidence` is their mean confidence and `accuracy` how often the preferred response was the chosen one; both
    None in an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Is p = sigma(margin), the Bradley-Terry probability of the label, as high as the labels bear out?

    Attributes:
        ece: expected calibration error, between 0 and 1. On few pairs it is above 0 for a calibrated model too.
        brier: mean of (1 - p)^2, between 0 and 1; 1/4 for a model that always says 1/2.
        nll: mean of -log p in nats, which is the Bradley-Terry loss; log 2 for a model that always says 1/2.
        bins: the reliability table.
    """

    ece: float
    brier: Mean
    nll: Mean
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class LengthBaseline:
    """A reward model that knows nothing but the length, beside the one evaluated.

    Attributes:
        direction: which response it prefers, the longer or the shorter one; as the training pairs have it.
        accuracy: how often that response is the chosen one; pairs of equal length count as wrong, like ties.
        ties: the number of pairs of equal length.
        difference: the evaluated model's accuracy less this one's, with the word for the model. Here a tie of either
            counts as half: called wrong, pairs of equal length would be points for the model that it did not earn.
    """

    direction: Direction
    accuracy: Rate
    ties: int
    difference: Difference


@dataclass(frozen=True, slots=True)
class RewardEvaluation:
    """What `evaluate_reward` found. The resampled units of every bootstrap interval are prompts.

    Attributes:
        n: the number of pairs.
        n_prompts: the number of distinct prompts. Wilson's interval takes pairs as independent: with far fewer
            prompts than pairs it is too narrow.
        accuracy: how often the chosen response has the higher score. A tie counts as wrong: it ranks nothing, and
            a model whose scores have collapsed to one value should not look like a coin.
        ties: the number of pairs with equal scores; many in bf16, whose steps near 10 are 1/16.
        margin: mean of the chosen response's score less the rejected one's.
        score_mean: mean score of all 2 n responses.
        score_std: their standard deviation (with 2 n - 1 below).
        calibration: of sigma(margin).
        signals: correlations with superficial signals.
        length_baseline: the length-only baseline; None when no training pairs were given.
    """

    n: int
    n_prompts: int
    accuracy: Rate
    ties: int
    margin: Mean
    score_mean: float
    score_std: float
    calibration: Calibration
    signals: tuple[SignalCorrelation, ...]
    length_baseline: LengthBaseline | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as dictionaries, lists and numbers for JSON (no NaN); rates have their value and interval."""
        result = asdict(self)
        result["accuracy"] = self.accuracy.as_dict()
        result["calibration"]["bins"] = list(result["calibration"]["bins"])
        result["signals"] = list(result["signals"])
        if self.length_baseline is not None:
            result["length_baseline"]["accuracy"] = self.length_baseline.accuracy.as_dict()
        return result


def evaluate_reward(
    pairs: Sequence[ScoredPair],
    *,
    training_lengths: Sequence[tuple[int, int]] | None = None,
    bins: int = BINS,
    seed: int = 0,
) -> RewardEvaluation:
    """Evaluate a reward model's scores of held-out preference pairs.

    Args:
        pairs: the scored pairs; those with the same prompt text are redrawn together in every bootstrap.
        training_lengths: the lengths in tokens of the **training** pairs, (chosen, rejected). They choose the
            baseline's direction: chosen on the evaluated pairs it would be right more than half the time by luck.
        bins: of the reliability table.
        seed: of the resampling.

    Raises:
        ValueError: on no pairs, a score that is not finite, a negative number of tokens, no bins, or training lengths
            that are given but empty.
    """
    _check(pairs)
    units = _units(pairs)
    chosen = [pair.chosen_score for pair in pairs]
    rejected = [pair.rejected_score for pair in pairs]
    margins = [pair.margin for pair in pairs]
    scores = np.array(chosen + rejected, dtype=np.float64)
    return RewardEvaluation(
        n=len(pairs),
        n_prompts=int(units.max()) + 1,
        accuracy=Rate.of([margin > 0 for margin in margins]),
        ties=sum(margin == 0 for margin in margins),
        margin=_mean(margins, units, seed),
        score_mean=float(scores.mean()),
        score_std=float(scores.std(ddof=1)),
        calibration=calibration(margins, units=units.tolist(), bins=bins, seed=seed),
        signals=correlate_signals(
            ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]),
            ([pair.chosen_tokens for pair in pairs], [pair.rejected_tokens for pair in pairs]),
            (chosen, rejected),
            units.tolist(),
            seed=seed,
        ),
        length_baseline=None if training_lengths is None else _baseline(pairs, units, training_lengths, seed),
    )


def calibration(
    margins: Sequence[float], *, units: Sequence[int] | None = None, bins: int = BINS, seed: int = 0
) -> Calibration:
    """Calibration of sigma(margin) on N pairs whose first response is the one that people chose.

    The model prefers the response with the higher score, with confidence max(p, 1 - p) in [1/2, 1]; the expected
    calibration error is the mean over bins of |accuracy - mean confidence|, weighted by their numbers of pairs (Guo
    et al. 2017, arXiv:1706.04599, eq. 3). A tie claims 1/2 and counts as half right: it is a coin's throw, and says so.

    Args:
        margins: chosen score less rejected score, N of them.
        units: the number of each pair's prompt, for the intervals; by default each pair is its own.
        bins: equally wide, of confidence.
        seed: of the resampling.

    Raises:
        ValueError: on no margins, one that is not finite, or no bins.
    """
    margin = np.asarray(margins, dtype=np.float64)
    if bins < 1 or not len(margin) or not np.isfinite(margin).all():
        raise ValueError(f"calibration needs finite margins and at least one bin, got {len(margin)} and {bins}")
    unit = np.arange(len(margin)) if units is None else np.asarray(units)
    # Not -log(sigma(m)): at a margin of -800 that is the log of 0.
    nll = np.logaddexp(0.0, -margin)
    wrong = np.exp(-np.logaddexp(0.0, margin))  # 1 - p, with all its digits where p is near 1
    confidence = np.exp(-np.logaddexp(0.0, -np.abs(margin)))
    right = np.where(margin == 0, 0.5, margin > 0)
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = place_in_bins(confidence, edges)
    table, ece = [], 0.0
    for index in range(bins):
        inside = place == index
        n = int(inside.sum())
        mean_confidence = float(confidence[inside].mean()) if n else None
        accuracy = float(right[inside].mean()) if n else None
        if mean_confidence is not None and accuracy is not None:
            ece += n / len(margin) * abs(accuracy - mean_confidence)
        table.append(ReliabilityBin(float(edges[index]), float(edges[index + 1]), n, mean_confidence, accuracy))
    return Calibration(ece, _mean(wrong**2, unit, seed), _mean(nll, unit, seed), tuple(table))


def length_direction(lengths: Sequence[tuple[int, int]]) -> Direction:
    """Which response the labels prefer more often, by (chosen, rejected) lengths in tokens: "longer" when even.

    Raises:
        ValueError: on no lengths.
    """
    if not lengths:
        raise ValueError("no training lengths: the length baseline's direction needs at least one pair")
    balance = sum((chosen > rejected) - (chosen < rejected) for chosen, rejected in lengths)
    return "longer" if balance >= 0 else "shorter"


def _baseline(
    pairs: Sequence[ScoredPair], units: np.ndarray, training_lengths: Sequence[tuple[int, int]], seed: int
) -> LengthBaseline:
    direction = length_direction(training_lengths)
    sign = 1 if direction == "longer" else -1
    gaps = [sign * (pair.chosen_tokens - pair.rejected_tokens) for pair in pairs]
    counts = np.bincount(units).tolist()
    baseline, model = (
        np.bincount(units, weights=[0.5 if gap == 0 else float(gap > 0) for gap in side]).tolist()
        for side in (gaps, [pair.margin for pair in pairs])
    )
    return LengthBaseline(
        direction,
        Rate.of([gap > 0 for gap in gaps]),
        sum(gap == 0 for gap in gaps),
        paired_difference(baseline, model, weights=(counts, counts), seed=seed),
    )


def _mean(values: Sequence[float] | np.ndarray, units: np.ndarray, seed: int) -> Mean:
    """The mean over pairs, the prompts being redrawn: a ratio of sums per prompt to pairs per prompt."""
    sums = np.bincount(units, weights=np.asarray(values, dtype=np.float64))
    return bootstrap_mean(sums.tolist(), weights=np.bincount(units).tolist(), seed=seed)


def _units(pairs: Sequence[ScoredPair]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(pair.prompt, len(numbers)) for pair in pairs])


def _check(pairs: Sequence[ScoredPair]) -> None:
    if not pairs:
        raise ValueError("no pairs to evaluate a reward model on")
    for index, pair in enumerate(pairs):
        if not np.isfinite([pair.chosen_score, pair.rejected_score]).all():
            raise ValueError(f"pair {index}: scores {pair.chosen_score} and {pair.rejected_score} must be finite")
        if min(pair.chosen_tokens, pair.rejected_tokens) < 0:
            raise ValueError(f"pair {index}: {pair.chosen_tokens} and {pair.rejected_tokens} tokens: less than none")
