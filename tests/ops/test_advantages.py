"""Advantages against numbers worked by hand and against the papers' sums in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.ops.advantages import gae, grpo, rloo

NAN = math.nan
# gamma 0.5, lambda 0.8, so gamma lambda = 0.4; a row of three tokens and one of a single token.
#   delta_2 = 2 + 0.5 * 0 - 3   = -1      A_2 = -1                        return 2
#   delta_1 = 0 + 0.5 * 3 - 1   =  0.5    A_1 = 0.5 + 0.4 * -1  = 0.1     return 1.1
#   delta_0 = 1 + 0.5 * 1 - 0.5 =  1      A_0 = 1 + 0.4 * 0.1   = 1.04    return 1.54
#   the other row: 4 + 0.5 * 0 - 1 = 3                                    return 4
REWARDS = torch.tensor([[1.0, 0.0, 2.0], [4.0, NAN, 8.0]], dtype=torch.float64)
VALUES = torch.tensor([[0.5, 1.0, 3.0], [1.0, 6.0, NAN]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, False, False]])


def close(found: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), atol=1e-6, rtol=0)


def test_gae_by_hand() -> None:
    advantages, returns = gae(REWARDS, VALUES, MASK, gamma=0.5, lam=0.8)
    close(advantages, [[1.04, 0.1, -1.0], [3.0, 0.0, 0.0]])
    close(returns, [[1.54, 1.1, 2.0], [4.0, 0.0, 0.0]])
    assert advantages[~MASK].tolist() == returns[~MASK].tolist() == [0.0, 0.0]


def test_gae_of_a_response_that_was_cut_off_by_hand() -> None:
    # The state after the last token is worth 4 in the first row, after the only one 2 in the second:
    # delta_2 = 2 + 0.5 * 4 - 3 = 1, A = 1; 0.5 + 0.4 = 0.9; 1 + 0.4 * 0.9 = 1.36. Second row: 4 + 0.5 * 2 - 1 = 4.
    bootstrap = torch.tensor([4.0, 2.0])
    advantages, returns = gae(REWARDS, VALUES, MASK, gamma=0.5, lam=0.8, bootstrap=bootstrap)
    close(advantages, [[1.36, 0.9, 1.0], [4.0, 0.0, 0.0]])
    close(returns, [[1.86, 1.9, 4.0], [5.0, 0.0, 0.0]])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (0.9, 0.0), (0.8, 1.0), (0.0, 0.5)])
@pytest.mark.parametrize("cut_off", [False, True])
def test_gae_is_the_sum_of_equation_16(gamma: float, lam: float, cut_off: bool) -> None:
    lengths, width = [5, 1, 7, 3, 0], 7
    rewards, values = torch.randn(5, width, dtype=torch.float64), torch.randn(5, width, dtype=torch.float64)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    after = [0.3, -2.0, 1.0, 0.0, 5.0] if cut_off else [0.0] * 5
    bootstrap = torch.tensor(after, dtype=torch.float64) if cut_off else None
    advantages, returns = gae(rewards, values, mask, gamma, lam, bootstrap)
    for row, length in enumerate(lengths):
        r, v = rewards[row].tolist(), [*values[row, :length].tolist(), after[row]]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(width):
            expected = sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length))
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-12)
            assert returns[row, t].item() == pytest.approx(expected + v[t] if t < length else 0.0, abs=1e-12)


def test_with_lambda_1_and_no_critic_gae_is_the_discounted_return() -> None:
    # 1 + 0.5 * 0 + 0.25 * 2 = 1.5;  0 + 0.5 * 2 = 1;  2
    advantages, returns = gae(REWARDS, torch.zeros_like(VALUES), MASK, gamma=0.5, lam=1.0)
    close(advantages, [[1.5, 1.0, 2.0], [4.0, 0.0, 0.0]])
    close(returns, [[1.5, 1.0, 2.0], [4.0, 0.0, 0.0]])


def test_gae_is_a_constant_to_autograd_and_no_narrower_than_fp32() -> None:
    values = VALUES.nan_to_num().bfloat16().requires_grad_()
    advantages, returns = gae(REWARDS.bfloat16(), values, MASK)
    assert not advantages.requires_grad
    assert not returns.requires_grad
    assert advantages.dtype == returns.dtype == torch.float32


def test_gae_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="right-padded"):
        gae(REWARDS, VALUES, torch.tensor([[True, True, True], [False, True, True]]))
    with pytest.raises(ValueError, match=r"\(B, T\)"):
        gae(REWARDS, VALUES[:, :1], MASK)
    with pytest.raises(ValueError, match="bool"):
        gae(REWARDS, VALUES, MASK.float())
    with pytest.raises(ValueError, match="bootstrap must be"):
        gae(REWARDS, VALUES, MASK, bootstrap=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="gamma must lie"):
        gae(REWARDS, VALUES, MASK, gamma=1.1)
    with pytest.raises(ValueError, match="lam must lie"):
        gae(REWARDS, VALUES, MASK, lam=NAN)


# Group 7 scored 1, 4, 4; group 2 scored 0, 10; in mixed order.
SCORES = torch.tensor([1.0, 0.0, 4.0, 10.0, 4.0])
GROUP_OF = torch.tensor([7, 2, 7, 2, 7])


def test_rloo_by_hand() -> None:
    # 1 - (4 + 4) / 2, 0 - 10, 4 - (1 + 4) / 2, 10 - 0, 4 - (1 + 4) / 2
    close(rloo(SCORES, GROUP_OF), [-3.0, -10.0, 1.5, 10.0, 1.5])


def test_grpo_by_hand() -> None:
    # Group 7: mean 3, variance (4 + 1 + 1) / 2 = 3, so -2, 1, 1 over 1.7320508. Group 2: mean 5, variance 50 / 1, so
    # -5, 5 over 7.0710678.
    close(grpo(SCORES, GROUP_OF, eps=0.0), [-1.1547005, -0.7071068, 0.5773503, 0.7071068, 0.5773503])
    close(grpo(SCORES, GROUP_OF, scale=False), [-2.0, -5.0, 1.0, 5.0, 1.0])
    # eps adds to the standard deviation: -2 / (1.7320508 + 1)
    assert grpo(SCORES, GROUP_OF, eps=1.0)[0].item() == pytest.approx(-0.7320508, abs=1e-6)


def test_group_relative_advantages_equal_plain_loops() -> None:
    sizes = [2, 5, 3, 8, 2]
    group_of = torch.repeat_interleave(torch.tensor([4, 0, 9, 100, -1]), torch.tensor(sizes))
    order = torch.randperm(sum(sizes))
    group_of, scores = group_of[order], torch.randn(sum(sizes), dtype=torch.float64) * 3 + 50
    by_loo, by_group = rloo(scores, group_of), grpo(scores, group_of, eps=1e-4)
    for i in range(len(scores)):
        same = [scores[j].item() for j in range(len(scores)) if group_of[j] == group_of[i]]
        others = [scores[j].item() for j in range(len(scores)) if group_of[j] == group_of[i] and j != i]
        mean = sum(same) / len(same)
        std = math.sqrt(sum((s - mean) ** 2 for s in same) / (len(same) - 1))
        assert by_loo[i].item() == pytest.approx(scores[i].item() - sum(others) / len(others), abs=1e-9)
        assert by_group[i].item() == pytest.approx((scores[i].item() - mean) / (std + 1e-4), abs=1e-9)


def test_equal_scores_have_no_advantage() -> None:
    scores, group_of = torch.full((3,), 0.1), torch.zeros(3, dtype=torch.long)
    close(rloo(scores, group_of), [0.0, 0.0, 0.0])
    close(grpo(scores, group_of), [0.0, 0.0, 0.0])
    # What another batch shape adds in fp32 stays small beside a real difference, which gives about 1.
    noisy = torch.tensor([0.1, 0.1, 0.1000001])
    assert grpo(noisy, group_of).abs().max().item() < 0.01


@pytest.mark.parametrize("advantage", [rloo, grpo])
def test_groups_that_cannot_be_compared(advantage) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 groups have one response \(the first: group 5\)"):
        advantage(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4, 5, 4]))
    with pytest.raises(ValueError, match=r"must be \(R,\)"):
        advantage(torch.ones(4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="integers"):
        advantage(torch.ones(2), torch.zeros(2))
