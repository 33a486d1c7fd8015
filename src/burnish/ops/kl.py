"""Estimators of KL(policy || reference) from sampled tokens, and controllers of its coefficient.

The direction throughout: tokens y are sampled from the policy pi, logratio = log pi(y) - log ref(y), and its mean over
samples is KL(pi || ref) in nats. (Schulman writes r = ref / pi, so that log r = -logratio.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from burnish.errors import suggest

KLEstimator = Callable[[Tensor], Tensor]


def k1(logratio: Tensor) -> Tensor:
    """logratio: unbiased, of either sign, with the highest variance. Schulman 2020, "Approximating KL divergence".

    As a term of a loss it does nothing: its gradient is 0 in expectation. It belongs in the reward.

    Args:
        logratio: (...) log pi - log ref of tokens sampled from pi, in nats.

    Returns:
        (...) in nats.
    """
    return logratio


def k2(logratio: Tensor) -> Tensor:
    """logratio^2 / 2: never negative, biased, with low variance. Schulman 2020, "Approximating KL divergence".

    As a term of a loss its gradient is in expectation that of KL(pi || ref), if pi is still what sampled.

    Args:
        logratio: (...) log pi - log ref of tokens sampled from pi, in nats.

    Returns:
        (...) in nats.
    """
    return logratio**2 / 2


def k3(logratio: Tensor) -> Tensor:
    """exp(-logratio) - 1 + logratio: never negative, unbiased, mostly with low variance. Schulman 2020, as k1.

    Where the reference finds a sampled token far more likely than the policy does, the exponential is large. As a term
    of a loss its gradient is in expectation that of KL(ref || pi), the other direction.

    Args:
        logratio: (...) log pi - log ref of tokens sampled from pi, in nats.

    Returns:
        (...) in nats.
    """
    # expm1: near 0 the result is logratio^2 / 2, of which exp(.) - 1 would leave no digit in fp32.
    return torch.expm1(-logratio) + logratio


KL_ESTIMATORS: dict[str, KLEstimator] = {"k1": k1, "k2": k2, "k3": k3}


def kl_estimator(name: str) -> KLEstimator:
    """The estimator of that name.

    Raises:
        ValueError: for an unknown name; with the closest known one.
    """
    if name not in KL_ESTIMATORS:
        hint = suggest(name, KL_ESTIMATORS)
        raise ValueError(f"unknown KL estimator {name!r}{hint}; known: {', '.join(KL_ESTIMATORS)}")
    return KL_ESTIMATORS[name]


class KLController(ABC):
    """The coefficient beta of the KL penalty, and how it follows the measured KL.

    Attributes:
        coefficient: beta, for the next rollout.
    """

    def __init__(self, coefficient: float) -> None:
        if not 0.0 <= coefficient < math.inf:
            raise ValueError(f"the KL coefficient must be 0 or above, got {coefficient}")
        self.coefficient = float(coefficient)

    @abstractmethod
    def update(self, kl: float) -> None:
        """Take in the KL of one batch of episodes, a mean over responses of their summed KL, in nats."""

    def state(self) -> dict[str, float]:
        """All that changes, as plain numbers that JSON keeps to the last bit."""
        return {"coefficient": self.coefficient}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from `state()`.

        Raises:
            KeyError: when the coefficient is missing.
        """
        self.coefficient = float(state["coefficient"])


class FixedKLController(KLController):
    """The same coefficient for good."""

    def __init__(self, coefficient: float = 0.1) -> None:
        super().__init__(coefficient)

    def update(self, kl: float) -> None:
        """Nothing: the coefficient is fixed."""


class AdaptiveKLController(KLController):
    """Steers the KL of a response towards a target: a proportional controller of log beta.

    e = clip((KL - target) / target, -0.2, 0.2),  beta <- beta (1 + K e), once for each batch of episodes.
    Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """

    def __init__(self, coefficient: float = 0.1, *, target: float = 6.0, gain: float = 0.1) -> None:
        """Start at a coefficient.

        Args:
            coefficient: beta of the first batch; above 0, since 0 would stay 0.
            target: KL to hold, in nats per response.
            gain: K above; below 5, so that beta stays positive.

        Raises:
            ValueError: for a value out of its range.
        """
        super().__init__(coefficient)
        if not coefficient > 0.0:
            raise ValueError(f"an adaptive KL coefficient must start above 0, got {coefficient}")
        if not 0.0 < target < math.inf:
            raise ValueError(f"the KL target must be above 0, got {target}")
        if not 0.0 < gain < 5.0:
            raise ValueError(f"the gain must lie between 0 and 5, got {gain}")
        self.target, self.gain = float(target), float(gain)

    def update(self, kl: float) -> None:
        """Move beta by at most 0.2 K of itself.

        Args:
            kl: KL(policy || reference) of the batch in nats per response, not per token.

        Raises:
            ValueError: when it is not finite; a comparison would take NaN for far below the target.
        """
        if not math.isfinite(kl):
            raise ValueError(f"the measured KL must be finite, got {kl}")
        error = min(max((kl - self.target) / self.target, -0.2), 0.2)
        self.coefficient *= 1.0 + self.gain * error
