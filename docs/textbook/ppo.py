"""One step of PPO's objective: a score for the whole response, the price of the KL, the clipped ratio, the critic."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_penalised_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, beta: float) -> Tensor:
    """(B, T) rewards: -beta (log pi - log ref) for every token, and the (B,) score on the last one."""
    rewards = -beta * (logprobs - reference)
    rewards[:, -1] += scores
    return rewards


def normalised(advantages: Tensor) -> Tensor:
    """Advantages with mean 0 and standard deviation 1."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference: Tensor,
    scores: Tensor,
    values: Tensor,
    *,
    beta: float = 0.1,
    epsilon: float = 0.2,
    value_weight: float = 0.5,
    normalise: bool = True,
) -> Tensor:
    """The loss of policy and critic on (B, T) tokens of B responses, all of them T long.

    What a token is worth is all that comes after it (gamma = lambda = 1).
    """
    with torch.no_grad():
        rewards = kl_penalised_rewards(scores, old_logprobs, reference, beta)
        returns = rewards.flip(1).cumsum(1).flip(1)
        advantages = returns - values
        if normalise:
            advantages = normalised(advantages)
    ratio = torch.exp(logprobs - old_logprobs)
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    return -surrogate.mean() + value_weight * ((values - returns) ** 2).mean()
