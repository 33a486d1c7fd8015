"""PPO's losses against numbers worked by hand, gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.losses.policy import clipped_policy_loss, clipped_value_loss


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Five tokens of ten in the mini-batch, clipped to [1 - 0.2, 1 + 0.3]; * marks what clipping stops:
#   ratio  A     ratio A   clipped A   min
#   1.5    +2     3         2.6         2.6 *
#   1.5    -2    -3        -2.6        -3
#   0.5    +2     1         1.6         1
#   0.5    -3    -1.5      -2.4        -2.4 *
#   1.1    +1     1.1       1.1         1.1
RATIOS, ADVANTAGES = double(1.5, 1.5, 0.5, 0.5, 1.1), double(2, -2, 2, -3, 1)
OLD = double(-1.0, -0.5, -2.0, -3.0, -0.1)
CLIP = {"clip_low": 0.2, "clip_high": 0.3}


def test_clipping_on_both_sides_for_both_signs_by_hand() -> None:
    logprobs = (OLD + RATIOS.log()).requires_grad_()
    result = clipped_policy_loss(logprobs, OLD, ADVANTAGES, 10, **CLIP)
    assert result.loss.item() == pytest.approx(-(2.6 - 3 + 1 - 2.4 + 1.1) / 10)
    assert result.ratio_mean.item() == pytest.approx(5.1 / 10)
    assert result.clip_fraction.item() == pytest.approx(2 / 10)
    # ratio - 1 - ln ratio: 0.5 - 0.4054651 twice, -0.5 + 0.6931472 twice, 0.1 - 0.0953102
    assert result.approx_kl.item() == pytest.approx((2 * 0.0945349 + 2 * 0.1931472 + 0.0046898) / 10, abs=1e-7)
    result.loss.backward()
    # -ratio A / 10 where the surrogate is not clipped
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.3, -0.1, 0.0, -0.11])
    assert not any(x.requires_grad for x in (result.ratio_mean, result.clip_fraction, result.approx_kl))


def test_the_default_clip_is_0_2_on_both_sides() -> None:
    # 1.25 and 0.75 are clipped to 1.2 and 0.8: min(1.25, 1.2) and min(-0.75, -0.8)
    result = clipped_policy_loss(double(1.25, 0.75).log(), double(0, 0), double(1, -1), 1)
    assert result.loss.item() == pytest.approx(-(1.2 - 0.8))
    assert result.clip_fraction.item() == 2.0


def test_before_the_first_update_the_gradient_is_the_policy_gradient() -> None:
    logprobs = OLD.clone().requires_grad_()
    result = clipped_policy_loss(logprobs, OLD, ADVANTAGES, 5)
    assert (result.ratio_mean.item(), result.clip_fraction.item(), result.approx_kl.item()) == (1.0, 0.0, 0.0)
    assert result.loss.item() == pytest.approx(0.0)  # the mean of the advantages
    result.loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.4, 0.4, -0.4, 0.6, -0.2])  # -A / 5


def test_approximate_kl_is_that_of_old_to_new() -> None:
    # Old (1/2, 1/4, 1/4) drew tokens 0, 0, 1, 2, as often as it should; new is (1/4, 1/4, 1/2).
    # KL(old || new) = ln 2 / 2 + 0 - ln 2 / 4 = 0.1732868; with the two exchanged k3 would say 0.2017133.
    old, new = double(0.5, 0.5, 0.25, 0.25).log(), double(0.25, 0.25, 0.25, 0.5).log()
    assert clipped_policy_loss(new, old, double(1, 1, 1, 1), 4).approx_kl.item() == pytest.approx(0.1732868, abs=1e-7)


def test_only_the_training_policy_gets_a_gradient() -> None:
    tensors = [(OLD + RATIOS.log()).requires_grad_(), OLD.clone().requires_grad_(), ADVANTAGES.clone().requires_grad_()]
    clipped_policy_loss(*tensors, 10).loss.backward()
    assert [t.grad is None for t in tensors] == [False, True, True]


# Four tokens of eight, clip 0.5; * marks what clipping stops:
#   V     V_old   R     (V - R)^2   clipped V   its error   max
#   2     1       3     1           1.5         2.25        2.25 *
#   2     1       0     4           1.5         2.25        4
#   1.2   1       2     0.64        1.2         0.64        0.64
#   0     1      -1     1           0.5         2.25        2.25 *
VALUES, OLD_VALUES, RETURNS = double(2, 2, 1.2, 0), double(1, 1, 1, 1), double(3, 0, 2, -1)


def test_value_loss_by_hand() -> None:
    values = VALUES.clone().requires_grad_()
    result = clipped_value_loss(values, OLD_VALUES, RETURNS, 8, clip=0.5)
    assert result.loss.item() == pytest.approx(9.14 / 16)
    assert result.clip_fraction.item() == pytest.approx(2 / 8)
    result.loss.backward()
    assert values.grad.tolist() == pytest.approx([0.0, 2 / 8, -0.8 / 8, 0.0])  # (V - R) / 8
    free = clipped_value_loss(VALUES, OLD_VALUES, RETURNS, 8, clip=math.inf)
    assert free.loss.item() == pytest.approx(6.64 / 16)
    assert free.clip_fraction.item() == 0.0


def test_rounding_is_not_taken_for_clipping() -> None:
    # Inside the range the clipped value is the value to the last bit; V_old + (V - V_old) would not be.
    values, old_values = 1e-3 * torch.randn(1000), 0.15 * torch.rand(1000)
    returns = values + 1e-3 * torch.randn(1000)
    result = clipped_value_loss(values, old_values, returns, 1000, clip=0.2)
    assert result.clip_fraction.item() == 0.0


def test_only_the_training_critic_gets_a_gradient() -> None:
    tensors = [t.clone().requires_grad_() for t in (VALUES, OLD_VALUES, RETURNS)]
    clipped_value_loss(*tensors, 8).loss.backward()
    assert [t.grad is None for t in tensors] == [False, True, True]


def test_micro_batches_add_up_in_loss_and_statistics() -> None:
    # Unequal parts of 1 and 4 tokens; means per micro-batch would not do.
    logprobs, parts = OLD + RATIOS.log(), (slice(0, 1), slice(1, 5))
    whole = clipped_policy_loss(logprobs, OLD, ADVANTAGES, 5)
    shares = [clipped_policy_loss(logprobs[p], OLD[p], ADVANTAGES[p], 5) for p in parts]
    for name in ("loss", "ratio_mean", "clip_fraction", "approx_kl"):
        assert sum(getattr(s, name).item() for s in shares) == pytest.approx(getattr(whole, name).item()), name
    assert whole.ratio_mean.item() == pytest.approx(RATIOS.mean().item())
    critic = clipped_value_loss(VALUES, OLD_VALUES, RETURNS, 4, clip=0.5)
    shares = [clipped_value_loss(VALUES[p], OLD_VALUES[p], RETURNS[p], 4, clip=0.5) for p in parts]
    for name in ("loss", "clip_fraction"):
        assert sum(getattr(s, name).item() for s in shares) == pytest.approx(getattr(critic, name).item()), name


def test_gradients_equal_finite_differences() -> None:
    n = 40
    old, advantages = torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    logprobs = (old + 0.5 * torch.randn(n, dtype=torch.float64)).requires_grad_()
    policy = clipped_policy_loss(logprobs, old, advantages, n, **CLIP)
    assert 0.1 < policy.clip_fraction.item() < 0.9
    assert torch.autograd.gradcheck(lambda x: clipped_policy_loss(x, old, advantages, n, **CLIP).loss, (logprobs,))
    returns = torch.randn(n, dtype=torch.float64)
    critic = clipped_value_loss(logprobs, old, returns, n, clip=0.3)
    assert 0.1 < critic.clip_fraction.item() < 0.9
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(x, old, returns, n, clip=0.3).loss, (logprobs,))


def test_what_is_asked_of_the_losses_is_checked() -> None:
    x = torch.zeros(3)
    for n_tokens in (0, -1):
        with pytest.raises(ValueError, match="n_tokens must be positive"):
            clipped_policy_loss(x, x, x, n_tokens)
        with pytest.raises(ValueError, match="n_tokens must be positive"):
            clipped_value_loss(x, x, x, n_tokens)
    with pytest.raises(ValueError, match=r"all must be \(N,\)"):
        clipped_policy_loss(x, x, x.unsqueeze(1), 3)  # would broadcast to (3, 3)
    with pytest.raises(ValueError, match=r"all must be \(N,\)"):
        clipped_value_loss(x, x[:1], x, 3)
    for clip in ({"clip_low": 0.0}, {"clip_low": 1.5}, {"clip_high": 0.0}, {"clip_high": math.nan}):
        with pytest.raises(ValueError, match="clip_low must lie"):
            clipped_policy_loss(x, x, x, 3, **clip)
    with pytest.raises(ValueError, match="clip must be above 0"):
        clipped_value_loss(x, x, x, 3, clip=0.0)
