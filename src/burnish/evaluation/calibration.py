"""Calibration on multiple choice: is a model as often right as its probabilities claim?

A question's probabilities are its choices' summed log-probs normalised to one. The model's confidence is the highest
of them. Everything here follows from log-probs that multiple choice has computed anyway: it costs no forward pass.

Legend: N questions, K choices, M bins, R bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burnish.evaluation.intervals import Difference, Drawn, Interval, Mean, Rate, draw_statistics

BINS = 10
"""Of confidence between 0 and 1, equally wide."""

ECE_RULE = (
    f"The confidences are sorted into {BINS} equally wide bins, open below and closed above; the mean over bins of "
    "|share of right answers - mean confidence|, weighted by the bins' numbers of questions (Guo et al. 2017, eq. 3). "
    "A question's confidence is the highest of its choices' probabilities, which are their summed log-probs normalised "
    "to one. On few questions it lies above 0 for a calibrated model too. Two models are not called better or worse by "
    "it: of such an error the intervals of differences are too narrow. The Brier score compares them."
)
BRIER_RULE = (
    "The squared distance between a question's probabilities and the truth (1 for the right choice, 0 for the others), "
    "summed over choices, mean over questions (Brier 1950): 0 is perfect, 2 is certain and wrong."
)
AURC_RULE = (
    "Questions are answered in order of falling confidence; the share of wrong answers among those answered so far, "
    "averaged over all coverages (Geifman & El-Yaniv 2017): the area under the risk-coverage curve. Low when a model "
    "is right, and surest where it is right. Equal confidences are taken in random order, in expectation."
)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One row of a reliability table: the answers whose confidence lies in (low, high], in the first bin also at low.

    `confidence` is their mean confidence, `accuracy` the share that is right, with Wilson's interval; all three None in
    an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """One point of the accuracy-coverage curve: what is right when only confidences of at least `threshold` answer.

    `coverage` is the share of questions answered, n of them; `interval` is Wilson's for the accuracy among these.
    """

    threshold: float
    coverage: float
    n: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the probabilities of one model are worth; intervals are bootstraps over questions.

    Attributes:
        n: questions.
        accuracy: the share of right answers; a tie for the highest probability is not right.
        confidence: the mean confidence; above `accuracy` the model is overconfident.
        ece: expected calibration error, between 0 and 1. Noise in the bins' accuracies only adds to it, so its interval
            is the pivotal one. Of a calibrated model on 160 questions the percentile interval never holds the truth and
            the pivotal one does in two of three runs (simulated in tests/evaluation/test_calibration.py): near 0 it is
            still too narrow, and `ece_if_calibrated` is what to look at.
        ece_if_calibrated: the error that a perfectly calibrated model with the same confidences shows on so many
            questions, in the mean, with the range of 95 % of its runs.
        brier: between 0 and 2.
        aurc: area under the risk-coverage curve, between 0 and 1.
        bins: the reliability table.
        curve: the accuracy-coverage curve, from the surest answers to all.
    """

    n: int
    accuracy: float
    confidence: float
    ece: Mean
    ece_if_calibrated: Mean
    brier: Mean
    aurc: Mean
    bins: tuple[ReliabilityBin, ...]
    curve: tuple[CoveragePoint, ...]


@dataclass(frozen=True, slots=True)
class CalibrationChange:
    """A second model's scores less the first one's, on the same questions; lower is better for both.

    The calibration error is not among them. Noise adds to it, by another amount in each model: of 120 pairs of
    calibrated models on 160 questions, one surer than the other, pivotal 95 % intervals of its difference leave out
    zero in 15 where 6 are expected (simulated in tests/evaluation/test_calibration.py). The Brier score is a mean.
    """

    brier: Difference
    aurc: Difference


class Forecasts:
    """N answers with their confidences, and the statistics of any multiset of them.

    Attributes:
        confidence: (N,) the highest probability of each question.
        right: (N,) 1 where the single highest is the right choice, else 0.
        squares: (N,) the Brier score of each question.
        edges: (M + 1,) of the bins.
        membership: (N, M) 1 at the bin of each confidence, else 0.
    """

    def __init__(self, confidence: np.ndarray, right: np.ndarray, squares: np.ndarray, *, bins: int = BINS) -> None:
        self.confidence, self.right, self.squares = confidence, right, squares
        # Rounded once: linspace's third edge of ten is 0.30000000000000004.
        self.edges = np.arange(bins + 1) / bins
        self.membership = np.eye(bins)[place_in_bins(confidence, self.edges)]
        self._gaps = self.membership * (right - confidence)[:, None]
        self._order = np.argsort(-confidence, kind="stable")
        falling = confidence[self._order]
        self._starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])
        self._drawn: dict[int, tuple[Drawn, Drawn, Drawn]] = {}
        self._harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, len(confidence) + 1))]

    @classmethod
    def of(cls, logprobs: Sequence[Sequence[float]], answers: Sequence[int], *, bins: int = BINS) -> Forecasts:
        """From each question's summed log-probs of its choices, in nats, and the index of the right one.

        Raises:
            ValueError: no questions, no bins, unequal numbers of both, fewer than two choices, a log-prob that is not
                finite, or an answer that is no choice's index.
        """
        if not len(logprobs) or len(logprobs) != len(answers) or bins < 1:
            raise ValueError(f"need questions and bins, got {len(logprobs)}, {len(answers)} answers and {bins} bins")
        confidence, right, squares = np.zeros(len(answers)), np.zeros(len(answers)), np.zeros(len(answers))
        for index, (values, answer) in enumerate(zip(logprobs, answers, strict=True)):
            if not 0 <= answer < len(values) or len(values) < 2:
                raise ValueError(f"question {index}: {answer} is not the index of one of {len(values)} choices")
            p = probabilities(values)
            truth = np.zeros(len(p))
            truth[answer] = 1.0
            highest = np.flatnonzero(np.asarray(values) == max(values))
            confidence[index], squares[index] = p.max(), ((p - truth) ** 2).sum()
            right[index] = len(highest) == 1 and highest[0] == answer
        return cls(confidence, right, squares, bins=bins)

    def ece(self, counts: np.ndarray) -> np.ndarray:
        """(R,) expected calibration errors of (R, N) counts: sum over bins of |sum of (right - confidence)| / N."""
        return np.asarray(np.abs(counts @ self._gaps).sum(1) / counts.sum(1))

    def brier(self, counts: np.ndarray) -> np.ndarray:
        """(R,) mean Brier scores of (R, N) counts."""
        return np.asarray(counts @ self.squares / counts.sum(1))

    def aurc(self, counts: np.ndarray) -> np.ndarray:
        """(R,) areas under the risk-coverage curve of (R, N) counts: the mean over j of the risk of the j surest.

        Of m equal confidences with r right ones, after n0 answers with r0 right, the j-th makes the expected accuracy
        (r0 + r j / m) / (n0 + j); its sum over j has a closed form in harmonic numbers.
        """
        total = counts.sum(1).astype(np.int64)
        if (total > len(self.confidence)).any():
            raise ValueError("counts must not add up to more than the number of questions")
        falling = counts[:, self._order]
        m = np.add.reduceat(falling, self._starts, axis=1)
        r = np.add.reduceat(falling * self.right[self._order], self._starts, axis=1)
        n1, r0 = np.cumsum(m, axis=1), np.cumsum(r, axis=1) - r
        n0 = n1 - m
        inverse = self._harmonic[n1.astype(np.int64)] - self._harmonic[n0.astype(np.int64)]
        share = np.divide(r, m, out=np.zeros_like(r), where=m > 0)
        accuracies = (r0 * inverse + share * (m - n0 * inverse)).sum(1)
        return np.asarray(1.0 - accuracies / total)

    def drawn(self, seed: int) -> tuple[Drawn, Drawn, Drawn]:
        """`ece`, `brier` and `aurc` on the draws of a seed; computed once."""
        if seed not in self._drawn:
            ece, brier, aurc = draw_statistics(len(self.right), (self.ece, self.brier, self.aurc), seed=seed)
            self._drawn[seed] = ece, brier, aurc
        return self._drawn[seed]

    def table(self) -> tuple[ReliabilityBin, ...]:
        """The reliability table."""
        place = place_in_bins(self.confidence, self.edges)
        found = []
        for index, (low, high) in enumerate(zip(self.edges[:-1], self.edges[1:], strict=True)):
            inside = place == index
            n = int(inside.sum())
            rate = Rate(int(self.right[inside].sum()), n) if n else None
            found.append(
                ReliabilityBin(
                    low=float(low),
                    high=float(high),
                    n=n,
                    confidence=float(self.confidence[inside].mean()) if n else None,
                    accuracy=rate.value if rate else None,
                    interval=rate.interval if rate else None,
                )
            )
        return tuple(found)

    def curve(self) -> tuple[CoveragePoint, ...]:
        """The accuracy-coverage curve: a point for every confidence that occurs, from the highest to the lowest."""
        total = len(self.confidence)
        right = np.cumsum(self.right[self._order])
        ends = np.r_[self._starts[1:], total]
        found = []
        for end in ends.tolist():
            rate = Rate(int(right[end - 1]), end)
            threshold = float(self.confidence[self._order[end - 1]])
            found.append(CoveragePoint(threshold, end / total, end, rate.value, rate.interval))
        return tuple(found)


def probabilities(logprobs: Sequence[float]) -> np.ndarray:
    """(K,) probabilities, proportional to exp of the choices' log-probs in nats.

    Raises:
        ValueError: on a log-prob that is not finite.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"log-probs must be finite, got {values.tolist()}")
    p = np.exp(values - values.max())
    return np.asarray(p / p.sum())


def place_in_bins(confidence: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each confidence among those between M + 1 edges.

    Bins are (low, high], as Guo et al. 2017 (arXiv:1706.04599, section 2) define them: a confidence of 1 is in the
    last, one on an edge in the bin below it. The first holds its lower end too.
    """
    return np.asarray(np.searchsorted(edges[1:-1], confidence, side="left"))


def calibration(forecasts: Forecasts, *, seed: int = 0) -> Calibration:
    """The calibration of one model.

    Args:
        forecasts: its answers.
        seed: of the resampling.
    """
    n = len(forecasts.confidence)
    drawn = forecasts.drawn(seed)
    return Calibration(
        n=n,
        accuracy=float(forecasts.right.mean()),
        confidence=float(forecasts.confidence.mean()),
        ece=drawn[0].mean(pivotal=True).as_share(),
        ece_if_calibrated=_ece_if_calibrated(forecasts, seed),
        brier=drawn[1].mean(),
        aurc=drawn[2].mean(),
        bins=forecasts.table(),
        curve=forecasts.curve(),
    )


def _ece_if_calibrated(forecasts: Forecasts, seed: int, draws: int = 1000) -> Mean:
    """Were each answer right with just the probability that is its confidence: the error's mean and its quantiles."""
    generator = np.random.default_rng(seed)
    confidence = forecasts.confidence
    right = generator.random((draws, len(confidence))) < confidence
    errors = np.abs((right - confidence) @ forecasts.membership).sum(1) / len(confidence)
    low, high = np.percentile(errors, [2.5, 97.5])
    return Mean(float(errors.mean()), Interval(float(low), float(high)), len(confidence))


def calibration_change(before: Forecasts, after: Forecasts, *, seed: int = 0) -> CalibrationChange:
    """Paired bootstrap of the differences between two models' answers to the same questions.

    Raises:
        ValueError: when they answered different numbers of questions.
    """
    first, second = before.drawn(seed), after.drawn(seed)
    return CalibrationChange(
        brier=first[1].change_to(second[1], higher_is_better=False),
        aurc=first[2].change_to(second[2], higher_is_better=False),
    )
