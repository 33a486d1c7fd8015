"""Advantages of sampled responses: GAE with a critic, leave-one-out and group-relative without one.

Legend: B rows of the rollout, T response tokens, R responses, k responses to the same prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation.

    A_t = sum_l (gamma lam)^l delta_{t+l},  delta_t = r_t + gamma V_{t+1} - V_t  (Schulman et al. 2015,
    arXiv:1506.02438, eq. 16). With lam = 1 and values of 0 both results are the discounted returns.

    Args:
        rewards: (B, T) reward for emitting each response token.
        values: (B, T) the critic's value of the state in which that token is chosen.
        mask: (B, T) bool, right-padded: true for the tokens of the response. What padding holds is not read.
        gamma: discount, in [0, 1].
        lam: lambda of GAE, in [0, 1]; 0 takes one step and the critic's word for the rest, 1 the whole return.
        bootstrap: (B,) value of the state after the last token of a response that was cut off; 0 where the episode
            ended. None: all of them ended.

    Returns:
        (advantages, returns), both (B, T) in float32 (float64 for float64 input), without gradient and 0 at padding;
        returns = advantages + values, the target of the critic.

    Raises:
        ValueError: when shapes differ, the mask is not bool or not right-padded, or gamma or lam is outside [0, 1].
    """
    _check_rollout(rewards, values, mask, bootstrap)
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0.0 <= number <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1], got {number}")
    dtype = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    zero = torch.zeros((), dtype=dtype, device=values.device)
    rewards = torch.where(mask, rewards.to(dtype), zero)
    values = torch.where(mask, values.to(dtype), zero)
    # Shifted by one, padding's 0 stands after the last token: the episode has ended there.
    next_values = torch.zeros_like(values)
    next_values[:, :-1] = values[:, 1:]
    if bootstrap is not None:
        last = mask.clone()
        last[:, :-1] &= ~mask[:, 1:]
        next_values = torch.where(last, bootstrap.to(dtype).unsqueeze(1), next_values)
    delta = rewards + gamma * next_values - values
    advantages = torch.zeros_like(delta)
    running = delta.new_zeros(delta.shape[0])
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages, advantages + values


@torch.no_grad()
def rloo(scores: Tensor, group_of: Tensor) -> Tensor:
    """REINFORCE leave-one-out: a response's score less the mean score of the other k - 1 responses to its prompt.

    A_i = r_i - (1 / (k - 1)) sum_{j != i} r_j  (Ahmadian et al. 2024, arXiv:2402.14740, the RLOO estimator).

    Args:
        scores: (R,) score of each response.
        group_of: (R,) the prompt that each answers, as integers in any order; groups may differ in size.

    Returns:
        (R,) advantages without gradient, in the dtype and on the device of `scores`.

    Raises:
        ValueError: for a group of one response, which leaves nothing to compare with, or tensors of other shapes.
    """
    exact, member, sizes = _groups(scores, group_of)
    total = torch.zeros(len(sizes), dtype=exact.dtype).index_add_(0, member, exact)
    others = (total[member] - exact) / (sizes[member] - 1)
    return (exact - others).to(scores)


@torch.no_grad()
def grpo(scores: Tensor, group_of: Tensor, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """Group-relative advantages: (r_i - mean) / (std + eps) over the k responses to the same prompt.

    Shao et al. 2024, arXiv:2402.03300, section 4.1.2. The paper does not say which standard deviation: it has k - 1 as
    its denominator here. Without `scale` it is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783): r_i - mean, so that a
    prompt whose responses score nearly alike counts for no more than its differences.

    Args:
        scores: (R,) score of each response.
        group_of: (R,) the prompt that each answers, as integers in any order; groups may differ in size.
        scale: whether to divide by the standard deviation.
        eps: added to it, in the unit of the scores: equal scores give 0, and rounding noise stays small.

    Returns:
        (R,) advantages without gradient, in the dtype and on the device of `scores`.

    Raises:
        ValueError: for a group of one response, which leaves nothing to compare with, or tensors of other shapes.
    """
    exact, member, sizes = _groups(scores, group_of)
    zero = torch.zeros(len(sizes), dtype=exact.dtype)
    mean = zero.index_add(0, member, exact) / sizes
    centred = exact - mean[member]
    if scale:
        variance = zero.index_add(0, member, centred**2) / (sizes - 1)
        centred = centred / (variance.sqrt() + eps)[member]
    return centred.to(scores)


def _groups(scores: Tensor, group_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, the index of each one's group, and (G,) sizes of the groups.

    In float64 on the CPU: there are few scores, and a GPU would add them up in another order on every call.
    """
    if scores.ndim != 1 or scores.shape != group_of.shape or group_of.is_floating_point():
        raise ValueError(
            "scores and group_of must be (R,), the groups integers; "
            f"got {tuple(scores.shape)}, {tuple(group_of.shape)} {group_of.dtype}"
        )
    ids, member, sizes = torch.unique(group_of.cpu(), return_inverse=True, return_counts=True)
    if (sizes < 2).any():
        alone = ids[sizes < 2].tolist()
        raise ValueError(
            f"{len(alone)} of {len(ids)} groups have one response (the first: group {alone[0]}); "
            "a group-relative advantage needs at least two responses to a prompt"
        )
    return scores.cpu().double(), member, sizes


def _check_rollout(rewards: Tensor, values: Tensor, mask: Tensor, bootstrap: Tensor | None) -> None:
    shapes = [tuple(t.shape) for t in (rewards, values, mask)]
    if rewards.ndim != 2 or len(set(shapes)) > 1 or mask.dtype != torch.bool:
        raise ValueError(
            f"rewards, values and mask must all be (B, T) and the mask bool; got {shapes[0]}, {shapes[1]} and "
            f"{shapes[2]} {mask.dtype}"
        )
    if bootstrap is not None and bootstrap.shape != rewards.shape[:1]:
        raise ValueError(f"bootstrap must be (B,) = {tuple(rewards.shape[:1])}, got {tuple(bootstrap.shape)}")
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("the mask must be right-padded: a row has a real token after padding")
