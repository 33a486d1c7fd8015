"""Which prompts a rollout takes and which groups a step: against a plain walk through epochs, rollouts and passes."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from burnish.data.batching import RolloutOrder

SIZES = [
    (n, rollout, batch, passes)
    for n, rollout, batch, passes in product((1, 2, 5, 8, 9, 16, 17), (1, 3, 8, 20), (1, 2, 3, 8), (1, 3))
]


@pytest.mark.parametrize(("n", "rollout_size", "batch_size", "passes"), SIZES)
def test_every_prompt_once_an_epoch_and_every_group_once_a_pass(
    n: int, rollout_size: int, batch_size: int, passes: int
) -> None:
    order = RolloutOrder(n, rollout_size, batch_size, passes, seed=3)
    epochs, step, rollout = 2, 0, 0
    for _ in range(epochs):
        seen: Counter[int] = Counter()
        left = n
        while left:
            size = min(rollout_size, left)
            left -= size
            prompts = order.prompts(rollout)
            assert len(prompts) == size
            seen.update(prompts)
            assert order.first_step(rollout) == step
            for _ in range(passes):
                groups: list[int] = []
                remaining = size
                while remaining:
                    wanted = min(batch_size, remaining)
                    remaining -= wanted
                    assert order.rollout_of(step) == rollout
                    members = order.members(step)
                    assert len(members) == wanted
                    assert order.batch(step) == [prompts[place] for place in members]
                    groups += members
                    step += 1
                assert sorted(groups) == list(range(size))
            rollout += 1
        assert seen == Counter(range(n))
    assert order.steps_per_epoch * epochs == step
    assert order.rollouts_per_epoch * epochs == rollout


def test_passes_and_epochs_are_in_orders_of_their_own() -> None:
    order = RolloutOrder(64, 32, 32, 2, seed=0)
    assert order.members(0) != order.members(1)  # the two passes over the first rollout
    assert order.prompts(0) != order.prompts(2)  # the first rollouts of two epochs
    assert order.prompts(0) == RolloutOrder(64, 32, 8, 1, seed=0).prompts(0)
    assert order.prompts(0) != RolloutOrder(64, 32, 32, 2, seed=1).prompts(0)
