"""PPO's two losses over response tokens: the clipped surrogate of the policy, the clipped error of the critic.

Both are divided by the tokens of the whole mini-batch, and so are their statistics: results of micro-batches add up to
the mini-batch's, however unequal they are.

Legend: N response tokens of a micro-batch, flat, in the order of `response_logprobs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.ops.kl import k3


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """A micro-batch's share of the policy's loss and statistics. Summed over micro-batches they are means per token.

    Attributes:
        loss: scalar with gradient.
        ratio_mean: scalar, share of the mean of pi_new / pi_old.
        clip_fraction: scalar, share of tokens that clipping keeps from moving any further; their gradient is 0.
        approx_kl: scalar, share of KL(pi_old || pi_new) in nats per token, by k3.
    """

    loss: Tensor
    ratio_mean: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """A micro-batch's share of the critic's loss and statistics. Summed over micro-batches they are means per token.

    Attributes:
        loss: scalar with gradient.
        clip_fraction: scalar, share of tokens whose clipped error is the larger; their gradient is 0.
    """

    loss: Tensor
    clip_fraction: Tensor


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    n_tokens: int,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> PolicyLoss:
    """PPO's clipped surrogate: L = -(1 / n) sum_t min(w_t A_t, clip(w_t, 1 - low, 1 + high) A_t), w = pi_new / pi_old.

    Schulman et al. 2017, arXiv:1707.06347, eq. 7, where low = high = epsilon; a higher `clip_high` leaves unlikely
    tokens more room to grow (DAPO's Clip-Higher, Yu et al. 2025, arXiv:2503.14476).

    Args:
        logprobs: (N,) under the policy that trains, in nats; the only one that a gradient reaches.
        old_logprobs: (N,) under the policy that sampled, with the same temperature.
        advantages: (N,).
        n_tokens: response tokens of the *whole* mini-batch.
        clip_low: in (0, 1].
        clip_high: above 0.

    Raises:
        ValueError: when shapes differ, n_tokens is not positive, or a clip is out of its range.
    """
    _check(n_tokens, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if not (0.0 < clip_low <= 1.0 and clip_high > 0.0):
        raise ValueError(f"clip_low must lie in (0, 1] and clip_high above 0, got {clip_low} and {clip_high}")
    old_logprobs, advantages = old_logprobs.detach(), advantages.detach()
    ratio = torch.exp(logprobs - old_logprobs)
    free = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    # The sampler is the old policy, so its log-ratio to the new one comes first: KL(old || new).
    kl = k3(old_logprobs - logprobs.detach())
    return PolicyLoss(
        loss=-torch.minimum(free, clipped).sum() / n_tokens,
        ratio_mean=ratio.detach().sum() / n_tokens,
        clip_fraction=(clipped < free).sum() / n_tokens,
        approx_kl=kl.sum() / n_tokens,
    )


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, n_tokens: int, *, clip: float = 0.2
) -> ValueLoss:
    """The critic's loss: L = (1 / 2n) sum_t max[(V_t - R_t)^2, (clip(V_t, V_old - c, V_old + c) - R_t)^2].

    From the implementation that came with Schulman et al. 2017, arXiv:1707.06347; see Huang et al. 2024,
    arXiv:2403.17031. The larger error counts: a value that has left the range has no gradient as long as going on would
    bring it closer to the return, and is pulled back when it has gone the wrong way.

    Args:
        values: (N,) of the critic that trains; the only one that a gradient reaches.
        old_values: (N,) of the critic when the rollout was made.
        returns: (N,) the targets, from `gae`.
        n_tokens: response tokens of the *whole* mini-batch.
        clip: c above, in the unit of the returns; `math.inf` for a plain squared error.

    Raises:
        ValueError: when shapes differ, n_tokens is not positive, or clip is not above 0.
    """
    _check(n_tokens, values=values, old_values=old_values, returns=returns)
    if not 0.0 < clip <= math.inf:
        raise ValueError(f"clip must be above 0, got {clip}")
    old_values, returns = old_values.detach(), returns.detach()
    free = (values - returns) ** 2
    clipped = (values.clamp(old_values - clip, old_values + clip) - returns) ** 2
    return ValueLoss(
        loss=0.5 * torch.maximum(free, clipped).sum() / n_tokens,
        clip_fraction=(clipped > free).sum() / n_tokens,
    )


def _check(n_tokens: int, **tensors: Tensor) -> None:
    if n_tokens <= 0:
        raise ValueError(f"n_tokens must be positive, got {n_tokens}")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        # (N,) against (N, 1) would broadcast to (N, N) and train on nonsense.
        raise ValueError(f"all must be (N,) of the same length, got {shapes}")
