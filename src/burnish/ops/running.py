"""Mean and variance of everything seen so far, for scores whose scale nobody knows beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

LEAST_STD = 1e-8
"""A standard deviation at or below it is rounding, not a scale: scores are then left unscaled."""


class RunningMoments:
    """Count, mean and variance of a stream of scores, batch by batch, in float64.

    Each batch's own moments are merged into the running ones, which loses no digits however long the stream is: Chan,
    Golub & LeVeque 1983, "Algorithms for computing the sample variance"; Welford 1962 for batches of one.

    Attributes:
        count: scores seen.
        mean: their mean; 0 before the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0  # sum of squared deviations from the mean

    @property
    def variance(self) -> float:
        """Variance with the count n as its denominator; 0 before the first score."""
        return self._squares / self.count if self.count else 0.0

    @property
    def scale(self) -> float:
        """What scores are divided by: the standard deviation; 1 if all scores so far were equal."""
        std = math.sqrt(self.variance)
        return std if std > LEAST_STD else 1.0

    @torch.no_grad()
    def update(self, scores: Tensor) -> None:
        """Take in a batch.

        Args:
            scores: any shape; nothing happens for none.

        Raises:
            ValueError: when one is not finite; it would stay in the moments for good.
        """
        if scores.numel() == 0:
            return
        if not bool(torch.isfinite(scores).all()):
            raise ValueError("scores must be finite")
        batch = scores.detach().cpu().double()
        n, mean = batch.numel(), float(batch.mean())
        squares = float(((batch - mean) ** 2).sum())
        total, delta = self.count + n, mean - self.mean
        self._squares += squares + delta**2 * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def normalise(self, scores: Tensor, centre: bool = True, scale: bool = True) -> Tensor:
        """Scores less the running mean, over the running standard deviation; the moments stay as they are.

        Args:
            scores: any shape.
            centre: whether to take the mean off.
            scale: whether to divide by the standard deviation (unless all scores so far were equal).

        Returns:
            The shape and dtype of `scores`.

        Raises:
            ValueError: before the first update.
        """
        if not self.count:
            raise ValueError("no scores seen yet: update before normalise")
        exact = scores.cpu().double() - (self.mean if centre else 0.0)
        return (exact / self.scale if scale else exact).to(scores)

    def state(self) -> dict[str, float]:
        """All of it, as plain numbers that JSON keeps to the last bit."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from `state()`.

        Raises:
            KeyError: when a number is missing.
        """
        count, mean, squares = int(state["count"]), float(state["mean"]), float(state["squares"])
        self.count, self.mean, self._squares = count, mean, squares
