"""One step of the textbook's PPO beside ours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from burnish.data.groups import PromptGroup, Response
from burnish.losses.policy import clipped_policy_loss, clipped_value_loss
from burnish.ops.advantages import gae
from burnish.ops.masked import masked_whiten
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.ppo_rollout import Sampled, shaped_rewards
from textbook.ppo import kl_penalised_rewards, normalised, ppo_loss

CONFIG = PPOConfig(model="m", data="d", out="o", reward="m:f")  # type: ignore[arg-type]


def sampled(mask: Tensor, logprobs: Tensor) -> Sampled:
    groups = [PromptGroup((1,), (Response.full((3,) * int(row.sum())),), "", i) for i, row in enumerate(mask)]
    return Sampled(groups, torch.ones(len(mask), dtype=torch.bool), mask, logprobs)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_for_responses_of_one_length() -> None:
    # lambda = 1, no bound on the values, no normalisation: then the textbook leaves nothing out. Its weight of the
    # critic's squared error, 1/2, is the half of our value loss.
    b, t = 4, 3
    old, reference = numbers(0, b, t) - 2, numbers(1, b, t) - 2
    scores, mask = numbers(2, b), torch.ones(b, t, dtype=torch.bool)
    theirs_new, ours_new = ((old + 0.3 * numbers(3, b, t)).requires_grad_() for _ in range(2))
    theirs_values, ours_values = (numbers(4, b, t).requires_grad_() for _ in range(2))
    loss = ppo_loss(theirs_new, old, reference, scores, theirs_values, normalise=False)
    loss.backward()

    rewards = shaped_rewards(sampled(mask, old), scores, reference, CONFIG, beta=0.1)
    advantages, returns = gae(rewards, ours_values.detach(), mask, gamma=1.0, lam=1.0)
    n = b * t
    policy = clipped_policy_loss(ours_new.flatten(), old.flatten(), advantages.flatten(), n)
    values = ours_values.flatten()
    value = clipped_value_loss(values, values.detach(), returns.flatten(), n, clip=math.inf)
    (policy.loss + value.loss).backward()
    assert float(policy.clip_fraction) > 0  # the clip is at work
    assert (policy.loss + value.loss).item() == pytest.approx(loss.item(), abs=1e-12)
    torch.testing.assert_close(ours_new.grad, theirs_new.grad, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(ours_values.grad, theirs_values.grad, rtol=1e-10, atol=1e-13)


def test_normalisation_divides_by_another_deviation() -> None:
    # 1 and 3: torch's std has n - 1 under it, sqrt(2), which gives -0.7071 and 0.7071. With n it is 1: -1 and 1.
    advantages = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    assert normalised(advantages).tolist()[0] == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])
    ours = masked_whiten(advantages, torch.ones(1, 2, dtype=torch.bool))
    assert ours.tolist()[0] == pytest.approx([-1.0, 1.0])


def test_padding_dilutes_the_statistics() -> None:
    # Tokens: 2 in a row of one, -2, 2, -2 in a row of three. Mean 0, variance 4: whitened they are 1, -1, 1, -1. Two
    # zeros of padding among them make it 16 / 5 = 3.2 (n - 1): 2 / sqrt(3.2) = 1.118.
    advantages = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 2.0, -2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    assert masked_whiten(advantages, mask)[mask].tolist() == pytest.approx([1.0, -1.0, 1.0, -1.0])
    assert normalised(advantages)[mask].tolist() == pytest.approx([1.118, -1.118, 1.118, -1.118], abs=1e-3)


def test_a_mean_over_padding_is_smaller_than_that_over_tokens() -> None:
    # Responses of 1 and 3 tokens, each worth 1 (score 1, no KL, values 0), ratio 1. Over the 4 tokens the objective is
    # 1. As a (2, 3) table with nothing at padding it is (1 + 3) / 6: a short response makes the whole step smaller.
    mask = torch.tensor([[True, False, False], [True, True, True]])
    advantages = mask.double()
    zero = torch.zeros(4, dtype=torch.float64)
    ours = clipped_policy_loss(zero, zero, advantages[mask], int(mask.sum()))
    assert ours.loss.item() == pytest.approx(-1.0)
    assert -advantages.mean().item() == pytest.approx(-2 / 3)


def test_the_score_lands_on_padding() -> None:
    # The last column is the last token of the longest response only. With lambda below 1 a shorter one gets what is
    # left after the empty steps: 0.95^2 of its score.
    mask = torch.tensor([[True, False, False], [True, True, True]])
    zero, scores = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    theirs = kl_penalised_rewards(scores, zero, zero, beta=0.1)
    assert theirs.tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    ours = shaped_rewards(sampled(mask, zero), scores, zero, CONFIG, beta=0.1)
    assert ours.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    everything = torch.ones_like(mask)
    assert gae(theirs, zero, everything, lam=0.95)[0][0, 0].item() == pytest.approx(0.9025)
    assert gae(ours, zero, mask, lam=0.95)[0][0, 0].item() == pytest.approx(1.0)


def test_the_kl_of_padding_is_paid() -> None:
    # Behind the end of the first response policy and reference differ by 2 nats at each of two padding tokens. The
    # textbook charges its only real token 0.1 * 4 for them: a return of 0.6 in place of 1.
    old = torch.tensor([[0.0, 2.0, 2.0]], dtype=torch.float64)
    zero, score = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    rewards = kl_penalised_rewards(score, old, zero, beta=0.1)
    assert rewards.sum().item() == pytest.approx(0.6)
    mask = torch.tensor([[True, False, False]])
    assert shaped_rewards(sampled(mask, old), score, zero, CONFIG, beta=0.1).sum().item() == pytest.approx(1.0)
