"""The functional form of over-optimisation (Gao, Schulman & Hilton 2022, arXiv:2210.10760, section 3.1).

Under reinforcement learning the gold reward, less the start's, is R(d) = d (alpha - beta log d), with d the square root
of the KL from the start in nats a response. It is linear in alpha and beta, so that least squares fit it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEAREST = 0.1
"""Points of a smaller d are left out: there R(d) is 0 to within any noise, and an estimate of the KL may be below 0."""


@dataclass(frozen=True)
class GaoFit:
    """alpha and beta of R(d) = d (alpha - beta log d), each with its 95 % interval, and the share of the variance that
    the curve explains (against the points' mean; below 0 where it is worse than that)."""

    alpha: float
    beta: float
    alpha_interval: tuple[float, float]
    beta_interval: tuple[float, float]
    r_squared: float

    def __call__(self, d: float) -> float:
        """R(d); 0 at 0."""
        return d * (self.alpha - self.beta * math.log(d)) if d > 0 else 0.0

    @property
    def peak(self) -> float | None:
        """The d of the highest gold reward, e^(alpha / beta - 1); none without a fall (beta not above 0)."""
        return math.exp(self.alpha / self.beta - 1) if self.beta > 0 else None


def fit_gao(kl: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], *, seed: int = 0) -> GaoFit | None:
    """Least squares over the evaluations of a run, the first of which is the start.

    Args:
        kl: of each evaluation the nats of each prompt's response.
        gold: likewise its gold reward; every evaluation has the same prompts in the same order.
        seed: of the bootstrap, which redraws prompts (2,000 times) and so keeps what an evaluation's prompts share.

    Returns:
        Nothing with fewer than three evaluations away from the start.
    """
    nats, rewards = np.asarray(kl, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    generator = np.random.default_rng(seed)
    size = nats.shape[1]
    solved = _solve(nats.mean(1), rewards.mean(1))
    if solved is None:
        return None
    redrawn = []
    for _ in range(2000):
        drawn = generator.integers(size, size=size)
        found = _solve(nats[:, drawn].mean(1), rewards[:, drawn].mean(1))
        if found is not None:
            redrawn.append(found[:2])
    low, high = np.percentile(np.asarray(redrawn), [2.5, 97.5], axis=0)
    alpha, beta, r_squared = solved
    intervals = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    return GaoFit(alpha, beta, intervals[0], intervals[1], r_squared)


def _solve(kl: np.ndarray, gold: np.ndarray) -> tuple[float, float, float] | None:
    """alpha, beta, R squared of mean KL and mean gold per evaluation, the first being the start."""
    d = np.sqrt(np.maximum(kl, 0.0))
    away = d >= NEAREST
    if away.sum() < 3:
        return None
    d, gain = d[away], (gold - gold[0])[away]
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * np.log(d)], axis=1), gain, rcond=None)
    missed = gain - d * (alpha - beta * np.log(d))
    spread = float(((gain - gain.mean()) ** 2).sum())
    return float(alpha), float(beta), 1 - float((missed**2).sum()) / spread if spread else 0.0
