"""What a rollout comes to, by hand: rewards, advantages, returns, metrics, and back from a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from burnish.data.groups import PromptGroup, Response
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.ppo_rollout import (
    Reading,
    Rollout,
    Sampled,
    make_rollout,
    missing_eos,
    put,
    rows_of,
    shaped_rewards,
    take,
)
from tests.models.families import EOS_ID
from tests.stages import naive_ppo as naive

NONE = {"model": "m", "data": "d", "out": "o", "reward": "m:f"}
RESPONSES = ((5, 6, EOS_ID), (7,))
"""One that ends with EOS, and one of a single token that the limit cut off."""


def sampled(k: int = 1, responses: tuple[tuple[int, ...], ...] = RESPONSES, logprobs: Any = None) -> Sampled:
    width = max(len(response) for response in responses)
    mask = torch.tensor([[t < len(response) for t in range(width)] for response in responses])
    groups = [
        PromptGroup((1, 3), tuple(Response.full(r) for r in responses[i : i + k]), f"f:{i}", i // k)
        for i in range(0, len(responses), k)
    ]
    found = torch.zeros(mask.shape) if logprobs is None else torch.tensor(logprobs)
    return Sampled(groups, torch.tensor([response[-1] == EOS_ID for response in responses]), mask, found)


@pytest.mark.parametrize(
    ("estimator", "kl"),
    [
        ("k1", [0.5, -1.0, 0.0, 2.0]),
        ("k2", [0.125, 0.5, 0.0, 2.0]),
        # exp(-x) - 1 + x: 0.6065307 - 0.5, 2.7182818 - 2, 0, 0.1353353 + 1
        ("k3", [0.1065307, 0.7182818, 0.0, 1.1353353]),
    ],
)
def test_rewards_are_the_score_at_the_last_real_token_less_the_kl_of_each(estimator: str, kl: list[float]) -> None:
    config = PPOConfig.parse({**NONE, "kl_estimator": estimator})
    both = sampled(logprobs=[[-1.0, -2.0, -3.0], [-1.5, 9.0, 9.0]])
    reference = torch.tensor([[-1.5, -1.0, -3.0], [-3.5, -7.0, float("nan")]])
    found = shaped_rewards(both, torch.tensor([2.0, -1.0]), reference, config, 0.1)
    expected = [[-0.1 * kl[0], -0.1 * kl[1], 2.0 - 0.1 * kl[2]], [-1.0 - 0.1 * kl[3], 0.0, 0.0]]
    assert found.flatten().tolist() == pytest.approx([x for row in expected for x in row], abs=1e-6)


def test_a_kl_in_the_loss_is_not_in_the_reward() -> None:
    config = PPOConfig.parse({**NONE, "kl_in": "loss", "kl_estimator": "k3"})
    both = sampled(logprobs=[[-1.0, -2.0, -3.0], [-1.5, 0.0, 0.0]])
    found = shaped_rewards(both, torch.tensor([2.0, -1.0]), torch.full((2, 3), -9.0), config, 0.1)
    assert found.tolist() == [[0.0, 0.0, 2.0], [-1.0, 0.0, 0.0]]


def test_the_missing_eos_penalty_is_for_cut_off_responses_only() -> None:
    scores = torch.tensor([0.5, 0.5, -2.0], dtype=torch.float64)
    assert missing_eos(scores, torch.tensor([True, False, False]), 1.5).tolist() == [0.5, -1.0, -3.5]
    assert missing_eos(scores, torch.tensor([True, False, False]), 0.0).tolist() == [0.5, 0.5, -2.0]


def reading(both: Sampled, reference: Any, values: Any = None) -> Reading:
    none = torch.zeros(0, *both.mask.shape)
    critic = none if values is None else torch.tensor([values])
    return Reading(torch.tensor([reference]), critic, torch.zeros(0, len(both.mask)))


def test_gae_of_a_rollout_by_hand() -> None:
    """gamma 1/2, lambda 1/2. Rewards (0, 0, 2) and (-1); values (1, 2, 4) and (3).

    deltas: 0 + 1 - 1 = 0, 0 + 2 - 2 = 0, 2 - 4 = -2; -1 - 3 = -4. Advantages: -2 / 16, -2 / 4, -2; -4.
    """
    config = PPOConfig.parse({**NONE, "gamma": 0.5, "lam": 0.5, "whiten": False})
    both = sampled(logprobs=[[-1.0, -2.0, -3.0], [-1.5, 0.0, 0.0]])
    read = reading(both, [[-1.0, -2.0, -3.0], [-1.5, 0.0, 0.0]], [[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]])
    found = make_rollout(0, both, torch.tensor([2.0, -1.0]), read, config, 0.1)
    assert found.advantages.tolist() == [[-0.125, -0.5, -2.0], [-4.0, 0.0, 0.0]]
    assert found.returns.tolist() == [[0.875, 1.5, 2.0], [-1.0, 0.0, 0.0]]
    metrics = found.metrics
    assert metrics["reward"] == pytest.approx(0.5)
    assert metrics["shaped_score"] == pytest.approx(0.5)
    assert metrics["kl"] == 0.0
    assert metrics["entropy"] == pytest.approx((1 + 2 + 3 + 1.5) / 4)
    assert metrics["advantage_mean"] == pytest.approx(-6.625 / 4)
    assert (metrics["response_length"], metrics["eos_rate"]) == (2.0, 0.5)
    assert (metrics["value_mean"], metrics["return_mean"]) == pytest.approx((10 / 4, 3.375 / 4))
    # var(returns - values) / var(returns) with errors -0.125, -0.5, -2, -4 and returns 0.875, 1.5, 2, -1
    errors, returns = [-0.125, -0.5, -2.0, -4.0], [0.875, 1.5, 2.0, -1.0]
    spread = [sum((x - sum(xs) / 4) ** 2 for x in xs) for xs in (errors, returns)]
    assert metrics["explained_variance"] == pytest.approx(1 - spread[0] / spread[1], abs=1e-6)


def test_advantages_are_whitened_over_the_whole_rollout_and_padding_has_no_part() -> None:
    config = PPOConfig.parse(NONE)
    both = sampled()
    read = reading(both, [[0.0] * 3] * 2, [[1.0, 2.0, 4.0], [3.0, 77.0, -77.0]])
    found = make_rollout(0, both, torch.tensor([2.0, -1.0]), read, config, 0.1)
    raw = [naive.advantages([0, 0, 2], [1, 2, 4], 1.0, 0.95), naive.advantages([-1], [3], 1.0, 0.95)]
    white = naive.whitened(raw)
    assert found.advantages.tolist()[0] == pytest.approx(white[0], abs=1e-6)
    assert found.advantages.tolist()[1] == pytest.approx([white[1][0], 0.0, 0.0], abs=1e-6)


def test_a_rollout_of_a_single_token_is_not_whitened_to_an_error() -> None:
    """The last rollout of an epoch may be one prompt, and its response one token."""
    one = sampled(responses=((EOS_ID,),))
    found = make_rollout(0, one, torch.tensor([2.0]), reading(one, [[0.0]], [[0.5]]), PPOConfig.parse(NONE), 0.1)
    assert bool(torch.isfinite(found.advantages).all())
    assert found.returns.tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("advantage", "expected"),
    # Summed rewards 3 - 0.1 x 2 = 2.8 and 1; of the second prompt -1 and -1.
    [("rloo", [1.8, -1.8, 0.0, 0.0]), ("grpo", [0.5**0.5, -(0.5**0.5), 0.0, 0.0])],
)
def test_group_advantages_are_of_a_prompt_s_own_responses(advantage: str, expected: list[float]) -> None:
    config = PPOConfig.parse({**NONE, "advantage": advantage, "responses": 2})
    four = sampled(2, ((5, EOS_ID), (6,), (7,), (8, 9)), [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, -1.0]])
    reference = [[-2.0, -2.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, -1.0]]
    scores = torch.tensor([3.0, 1.0, -1.0, -1.0])
    found = make_rollout(0, four, scores, reading(four, reference), config, 0.1)
    want = [[expected[0]] * 2, [expected[1], 0.0], [expected[2], 0.0], [expected[3]] * 2]
    assert found.advantages.flatten().tolist() == pytest.approx([x for row in want for x in row], abs=2e-4)
    assert float(found.returns.abs().sum()) == 0.0


def test_tables_and_flat_values_go_back_and_forth_in_any_order_of_groups() -> None:
    four = sampled(2, ((5, EOS_ID), (6,), (7,), (8, 9, 10)))
    table = torch.zeros(4, 3)
    rows = rows_of([four.groups[1], four.groups[0]])
    assert rows.tolist() == [2, 3, 0, 1]
    flat = torch.arange(1.0, 8.0)
    put(table, four.mask, rows, flat)
    assert table.tolist() == [[5, 6, 0], [7, 0, 0], [1, 0, 0], [2, 3, 4]]
    assert torch.equal(take(table, four.mask, rows), flat)


def test_a_rollout_comes_back_from_its_tensors() -> None:
    config = PPOConfig.parse({**NONE, "responses": 2})
    four = sampled(2, ((5, EOS_ID), (6,), (7,), (8, 9, 10)))
    read = reading(four, [[-1.0] * 3] * 4, [[1.0] * 3] * 4)
    made = make_rollout(3, four, torch.tensor([3.0, 1.0, -1.0, 0.0]), read, config, 0.1)
    prompts = [PromptGroup(group.prompt, (), group.origin, 40 + i) for i, group in enumerate(four.groups)]
    back = Rollout.restored(made.state(), made.tensors(), prompts)
    assert back.sampled.groups == made.sampled.groups
    assert (back.number, back.metrics) == (3, made.metrics)
    for name, tensor in made.tensors().items():
        assert torch.equal(tensor, back.tensors()[name]), name
