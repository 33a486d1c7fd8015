"""PPO on tiny models: ratios of 1, what it learns, how it is rewarded, what it logs and what it refuses."""

from __future__ import annotations

import io
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from burnish.errors import ConfigError, OutputDirError
from burnish.losses.policy import PolicyLoss, clipped_policy_loss
from burnish.models import roles
from burnish.stages import ppo
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from tests.models.families import tiny_tokenizer
from tests.stages.ppo_toy import (
    lines,
    make_base,
    make_reward,
    make_start,
    ppo_config,
    reward_file,
    rollouts_of,
    steps_of,
)

CONSTANT = "def one(prompts, responses):\n    return [1] * len(responses)\n"


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str = "") -> bool:
    names = [name for name in a if name.startswith(prefix)]
    assert names
    return all(torch.equal(a[name], b[name]) for name in names)


# ---- ratios ----


@pytest.mark.parametrize(
    ("family", "layout", "more"),
    [
        ("llama", "shared", {"temperature": 0.7}),
        ("gemma3", "shared", {"responses": 3}),
        ("gpt2", "shared", {"temperature": 0.7, "responses": 3, "advantage": "grpo"}),
        ("gpt_neox", "rows", {"temperature": 0.7, "responses": 3}),
    ],
)
def test_without_learning_every_ratio_of_every_step_is_1(
    family: str, layout: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampler and update must agree on every token: positions, masks, temperature, adapter and order of the rows."""
    if layout == "rows":
        monkeypatch.setattr(roles, "supports_shared_layout", lambda model: False)
    base = make_base(tmp_path / "base", family)
    start = make_start(base, tmp_path / "start")
    worst: list[float] = []

    def watched(new: torch.Tensor, old: torch.Tensor, *arguments: Any, **options: Any) -> PolicyLoss:
        worst.append(float(((new.detach() - old).exp() - 1).abs().max()))
        return clipped_policy_loss(new, old, *arguments, **options)

    monkeypatch.setattr(ppo, "clipped_policy_loss", watched)
    values = {"learning_rate": 1e-12, "update_epochs": 3, "model": str(start), "lora": {}, **more}
    train_ppo(ppo_config(tmp_path, **values))
    steps = steps_of(tmp_path / "run")
    assert len(steps) == 12
    assert len(worst) >= 12
    assert max(worst) < 1e-4
    for step in steps:
        assert abs(step["ratio"] - 1) < 1e-4
        assert abs(step["approx_kl"]) < 1e-6
        assert step["clip_fraction"] == 0.0
    drifts = [step["drift_max"] for step in steps if "drift_max" in step]
    assert len(drifts) == 2, "at the first step of each rollout"
    assert max(drifts) < 1e-4
    assert all(step["drift"] <= step["drift_max"] for step in steps if "drift" in step)


def test_the_first_rollout_is_the_reference_s_own_and_the_kl_is_0(tmp_path: Path) -> None:
    start = make_start(make_base(tmp_path / "base"), tmp_path / "start")
    train_ppo(ppo_config(tmp_path, model=str(start), lora={}, learning_rate=1e-12, temperature=0.7))
    assert [abs(line["kl"]) < 1e-4 for line in rollouts_of(tmp_path / "run")] == [True, True]
    measured = [line for line in lines(tmp_path / "run") if "validation/kl" in line]
    assert [abs(line["validation/kl"]) < 1e-4 for line in measured] == [True, True]


# ---- learning ----


def quick(tmp_path: Path, **more: Any) -> PPOConfig:
    """Two prompts over and over, four tokens each: a tiny random model learns such a thing in a few rollouts."""
    data = tmp_path / "two.jsonl"
    data.write_text("".join(json.dumps({"prompt": ["one?", "two?"][i % 2]}) + "\n" for i in range(36)))
    values = {"rollout_size": 32, "batch_size": 16, "update_epochs": 4, "max_new_tokens": 4, "lora": {"rank": 4}}
    return ppo_config(tmp_path, **{**values, "data": str(data), "validation": 0.1, "missing_eos_penalty": 0.0, **more})


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_it_learns_what_is_rewarded(advantage: str, tmp_path: Path) -> None:
    """Vowels, by four; at first about two a response."""
    responses = 1 if advantage == "gae" else 2
    train_ppo(
        quick(tmp_path, advantage=advantage, responses=responses, epochs=12, kl_coefficient=0.0, learning_rate=2e-2)
    )
    scores = [line["score"] for line in rollouts_of(tmp_path / "run")]
    assert len(scores) == 12
    assert scores[0] < 0.6
    assert sum(scores[-2:]) / 2 > scores[0] + 0.4, scores


def test_the_kl_s_price_holds_the_policy_back(tmp_path: Path) -> None:
    reward = {"kl_coefficient": 2.0}
    settings = {
        "free": {"kl_coefficient": 0.0},
        "reward": reward,
        "loss": {**reward, "kl_in": "loss", "kl_estimator": "k2"},
    }
    kl = {}
    for name, more in settings.items():
        train_ppo(quick(tmp_path, epochs=5, learning_rate=1e-2, out=str(tmp_path / name), **more))
        kl[name] = rollouts_of(tmp_path / name)[-1]["kl"]
    assert kl["reward"] < 0.6 * kl["free"]
    assert kl["loss"] < 0.3 * kl["free"]
    assert all(step["kl_loss"] >= 0.0 for step in steps_of(tmp_path / "loss"))


# ---- the reward ----


def test_the_member_held_back_has_no_part_in_the_reward(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    found = []
    for judge in (1.0, 1e4):
        reward = make_reward(tmp_path / "base", tmp_path / f"rm-{judge}", members=3, holdout=True, judge=judge)
        out = tmp_path / f"run-{judge}"
        train_ppo(ppo_config(tmp_path, reward=str(reward), out=str(out), ensemble="mean-std", eval_every=1))
        found.append(out)
    a, b = (load_file(out / "model" / "adapter_model.safetensors") for out in found)
    assert same(a, b)
    judged = [[line["validation/judge"] for line in lines(out) if "validation/judge" in line] for out in found]
    assert judged[1] == pytest.approx([1e4 * value for value in judged[0]], rel=1e-3), "it watches all the same"


def test_scores_are_normalised_by_all_that_was_seen_or_by_the_start(tmp_path: Path, monkeypatch: Any) -> None:
    """Raw scores are given: 1 ... 8 in the first rollout, 11 ... 18 in the second."""
    text = """
CALLS = []
def rising(prompts, responses):
    if len(responses) != 8:
        return [0] * len(responses)
    CALLS.append(1)
    return [10 * (len(CALLS) - 1) + i + 1 for i in range(8)]
"""
    found, given, original = {}, [], ppo.make_rollout

    def noting(number: int, sampled: Any, scores: torch.Tensor, *arguments: Any) -> Any:
        given.append(scores.tolist())
        return original(number, sampled, scores, *arguments)

    monkeypatch.setattr(ppo, "make_rollout", noting)
    named = reward_file(tmp_path, text, "rising")
    for kind in ("none", "start", "running"):
        out = tmp_path / f"run-{kind}"
        train_ppo(ppo_config(tmp_path, reward=named, normalise=kind, missing_eos_penalty=0.0, out=str(out)))
        found[kind] = given[-2:]
        told = [(line["score"], line["score_std"]) for line in rollouts_of(out)]
        assert told == [(4.5, math.sqrt(5.25)), (14.5, math.sqrt(5.25))], "as it was given, whatever is made of it"
        shaped = [line["shaped_score"] for line in rollouts_of(out)]
        assert shaped == pytest.approx([sum(scores) / 8 for scores in found[kind]])
    first, second = [float(i) for i in range(1, 9)], [float(i) for i in range(11, 19)]
    assert found["none"] == [first, second]
    assert found["start"] == [[x - 4.5 for x in first], [x - 4.5 for x in second]]
    std = math.sqrt(5.25)  # of 1 ... 8
    assert found["running"][0] == pytest.approx([(x - 4.5) / std for x in first])
    std = math.sqrt(5.25 + 25)  # of both: mean 9.5, and 5 to either side of it
    assert found["running"][1] == pytest.approx([(x - 9.5) / std for x in second])


def test_a_function_s_reward_is_added_with_its_weight(tmp_path: Path) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    values = {"reward": str(reward), "learning_rate": 1e-12, "missing_eos_penalty": 0.0}
    train_ppo(ppo_config(tmp_path, out=str(tmp_path / "alone"), **values))
    named = reward_file(tmp_path, CONSTANT, "one")
    train_ppo(
        ppo_config(tmp_path, out=str(tmp_path / "both"), reward_function=named, reward_function_weight=-2.5, **values)
    )
    alone, both = ([line["score"] for line in rollouts_of(tmp_path / out)] for out in ("alone", "both"))
    assert both == pytest.approx([score - 2.5 for score in alone], abs=1e-5)


# ---- metrics ----


def test_metrics_have_the_field_s_names_and_say_what_they_should_of_a_uniform_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output rows of 0 give every token the probability 1 / V: the entropy is log V, whatever is sampled."""
    base, encode = make_base(tmp_path / "base", "llama"), ppo.encode_data

    def then_flat(config: Any, ground: Any, *arguments: Any, **options: Any) -> Any:
        found = encode(config, ground, *arguments, **options)  # the preflight would refuse such a model
        ground.backbone.model.lm_head.weight.zero_()
        return found

    monkeypatch.setattr(ppo, "encode_data", torch.no_grad()(then_flat))
    reward = make_reward(base, tmp_path / "rm", members=2, holdout=True)
    train_ppo(ppo_config(tmp_path, reward=str(reward), learning_rate=1e-4))
    rollout, step = rollouts_of(tmp_path / "run")[0], steps_of(tmp_path / "run")[0]
    vocabulary = len(tiny_tokenizer())
    assert rollout["entropy"] == pytest.approx(math.log(vocabulary), abs=1e-5)
    assert rollout["kl"] == pytest.approx(0.0, abs=1e-5)
    assert rollout["advantage_std"] > 0
    assert {
        *("reward", "score", "score_std", "kl", "kl_coefficient", "entropy", "advantage_mean", "advantage_std"),
        *("response_length", "eos_rate", "explained_variance", "value_mean", "return_mean"),
    } <= rollout.keys()
    assert {
        *("loss", "policy_loss", "value_loss", "ratio", "clip_fraction", "value_clip_fraction", "approx_kl"),
        *("grad_norm", "grad_norm/critic", "learning_rate", "tokens", "tokens_per_second", "drift", "drift_max"),
    } <= step.keys()
    assert step["loss"] == pytest.approx(step["policy_loss"] + step["value_loss"], abs=1e-6)
    assert {"rollout_seconds", "episodes_per_second", "peak_memory_gb"} <= steps_of(tmp_path / "run")[3].keys()
    evaluation = next(line for line in lines(tmp_path / "run") if "validation/score" in line)
    names = ("score", "score_se", "judge", "judge_se", "kl", "objective", "response_length", "repetition", "eos_rate")
    assert {f"validation/{name}" for name in names} <= evaluation.keys()


def test_a_terminal_shows_the_rollout_s_own_numbers_while_it_is_learned_from(tmp_path: Path) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    train_ppo(ppo_config(tmp_path), console=terminal)
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.file.getvalue())  # type: ignore[attr-defined]
    for rollout in rollouts_of(tmp_path / "run"):
        assert f"reward {rollout['reward']:.2f}" in seen
        assert f"kl {rollout['kl']:.3f}" in seen
        assert f"explained variance {rollout['explained_variance']:.2f}" in seen


def test_a_kl_limit_leaves_out_the_rest_of_the_rollout_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: list[dict[str, torch.Tensor]] = []
    learn = ppo.Stage.learn

    def noting(self: ppo.Stage, step: Any) -> None:
        at.append({name: p.detach().clone() for name, p in self.cast.parameters().items()})
        learn(self, step)

    monkeypatch.setattr(ppo.Stage, "learn", noting)
    train_ppo(ppo_config(tmp_path, kl_limit=1e-7, learning_rate=1e-2, update_epochs=3))
    steps = steps_of(tmp_path / "run")
    assert [step.get("skipped", False) for step in steps] == [False, *[True] * 5] * 2
    assert [step["step"] for step in steps] == list(range(1, 13))
    assert steps[1]["approx_kl"] > 1e-7, "the step that passes the limit is left out too, and says why"
    assert "approx_kl" not in steps[2], "nothing is computed any more"
    changes = [not same(a, b) for a, b in pairwise(at)]
    assert changes == [True, *[False] * 5, True, *[False] * 4]


def test_the_adaptive_coefficient_follows_the_measured_kl_by_hand(tmp_path: Path) -> None:
    train_ppo(ppo_config(tmp_path, kl_target=3.0, kl_coefficient=0.5, epochs=2))
    rows, expected = rollouts_of(tmp_path / "run"), 0.5
    assert len(rows) == 4
    for row in rows:
        assert row["kl_coefficient"] == pytest.approx(expected, rel=1e-9)
        expected *= 1 + 0.1 * min(max((row["kl"] - 3.0) / 3.0, -0.2), 0.2)  # Ziegler et al. 2019, section 2.2


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"advantage": "rloo", "responses": 1}, "needs responses: 2 or more"),
        ({"kl_in": "loss"}, "k1 has no gradient on average"),
        ({"kl_target": 1.0, "kl_coefficient": 0.0}, "kl_coefficient is 0"),
        ({"kl_target": 1.0, "kl_in": "loss", "kl_estimator": "k2"}, "belongs to kl_in: reward"),
        ({"advantage": "grpo", "critic_warmup": 1}, "has no critic"),
        ({"on_alarm": "rollback", "keep_best": False}, "needs keep_best"),
        ({"tuning": "full", "reference_ema": 0.9}, "needs tuning: lora"),
        ({"max_length": 64, "max_new_tokens": 64}, "must be above max_new_tokens"),
    ],
)
def test_settings_of_nonsense(more: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PPOConfig.parse({"model": "m", "data": "d", "out": "o", "reward": "m:f", **more})


def test_a_changed_reward_model_is_noticed_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    config = ppo_config(tmp_path, reward=str(reward))

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ppo.Stage, "learn", dies)
        with pytest.raises(KeyboardInterrupt):
            train_ppo(config)
    weights = reward / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(OutputDirError, match="the reward has changed"):
        train_ppo(config)


def test_a_function_is_told_of_the_row_that_was_answered_in_an_array_on_one_line_too(tmp_path: Path) -> None:
    """`json.dump` writes arrays so; every row of it stands on line 1."""
    words = ["one", "two", "three", "four", "five"]
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"prompt": f"{word}?", "answer": word} for word in words]))
    text = (
        "def told(prompts, responses, rows):\n"
        "    assert all(p == row['answer'] + '?' for p, row in zip(prompts, rows)), (prompts, rows)\n"
        "    assert len(set(prompts)) == 5\n"
        "    return [0.0] * len(responses)\n"
    )
    reward = reward_file(tmp_path, text, "told")
    train_ppo(ppo_config(tmp_path, data=str(data), validation=0.0, rollout_size=5, batch_size=5, reward=reward))
