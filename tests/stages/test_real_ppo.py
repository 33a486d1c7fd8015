"""PPO's four roles on real models: the sampler's log-probs are the training forward's, and everything loads alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from burnish.models.adapters import load_adapter, load_adapter_with_head
from burnish.models.loading import load_model
from burnish.stages.config import RewardConfig
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.reward import train_reward


@pytest.mark.real
@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_the_ratio_is_1_before_the_first_update(model: str, tmp_path: Path) -> None:
    shared = {"model": model, "data": "starter/preferences", "dtype": "float32", "micro_batch_tokens": 1024}
    values = {**shared, "out": tmp_path / "reward", "limit": 24, "max_steps": 1, "validation": 0.0, "batch_size": 16}
    reward = train_reward(RewardConfig.parse(values))
    values = {**shared, "out": tmp_path / "ppo", "reward": str(reward.model), "limit": 20, "validation": 0.2}
    values |= {
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup": 0.0,
        "rollout_size": 16,
        "max_rollouts": 1,
        "update_epochs": 2,
        "max_new_tokens": 24,
        "critic_head": "zero",
        "keep_best": False,  # the best may be step 0, whose critic has a head of zeros
    }
    result = train_ppo(PPOConfig.parse(values))
    lines = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    first, second = [line for line in lines if "policy_loss" in line]
    assert first["drift_max"] < 1e-4
    assert abs(first["ratio"] - 1.0) < 1e-4
    assert first["clip_fraction"] == 0.0
    assert second["approx_kl"] > 0.0
    (rollout,) = [line for line in lines if "rollout" in line]
    assert abs(rollout["kl"]) < 1e-2  # the policy is still the reference
    base = load_model(model, dtype=torch.float32).model
    load_adapter(base, result.model, "policy")
    head = load_adapter_with_head(base, result.out / "critic", "critic")
    assert head.abs().sum() > 0
