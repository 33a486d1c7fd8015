"""PPO against DPO: which way round a difference is."""

from __future__ import annotations

import pytest

from ppo_against_dpo import against


def test_a_difference_is_the_first_s_reward_less_the_other_s() -> None:
    better = [{"score": 0.5}, {"score": 0.7}]
    worse = [{"score": 0.2}, {"score": 0.4}]
    found = against("DPO", better, worse)
    assert (found["than"], found["value"]) == ("DPO", pytest.approx(0.3))
