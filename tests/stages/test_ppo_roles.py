"""Who plays in PPO: who starts as whom, who trains and who must not, and what is left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import ConfigError, TrainingError
from burnish.models.adapters import load_adapter_with_head
from burnish.models.lora import adapter_parameters
from burnish.models.reward import base_of, load_reward_model
from burnish.stages import ppo
from burnish.stages.config import RewardConfig
from burnish.stages.ppo import train_ppo
from burnish.stages.reward import train_reward
from tests.models.families import tiny, tiny_tokenizer
from tests.stages.ppo_toy import (
    before_update,
    everything,
    make_base,
    make_reward,
    make_start,
    ppo_config,
    rollouts_of,
    spy_cast,
    steps_of,
)
from tests.stages.toy import settings


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str = "") -> bool:
    names = [name for name in a if name.startswith(prefix)]
    assert names
    return all(torch.equal(a[name], b[name]) for name in names)


def critic_on_disk(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "critic" / "adapter_model.safetensors")


def test_the_critic_starts_as_the_reward_model_and_nobody_else_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = make_start(make_base(tmp_path / "base"), tmp_path / "start")
    reward = make_reward(tmp_path / "base", tmp_path / "rm", members=3, holdout=True)
    seen = spy_cast(monkeypatch)
    train_ppo(ppo_config(tmp_path, model=str(start), lora={}, reward=str(reward)))
    cast, before, after = seen["cast"], seen["before"], everything(seen["cast"])
    member = load_file(reward / "member-1" / "adapter_model.safetensors")
    model = cast.ground.backbone.model
    first = {name: before[f"head-{name}"] for name in ("critic", "scorer-0")}
    assert torch.equal(first["critic"], member["base_model.model.score.weight"])
    of_start = {name: p for name, p in before.items() if ".policy" in name or ".critic" in name}
    assert len(of_start) == 2 * len(adapter_parameters(model, "policy"))
    for name, tensor in of_start.items():
        origin = name.replace(".policy", ".start").replace(".critic", ".reward-1")
        assert torch.equal(tensor, before[origin]), "policy and critic are copies"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {*of_start, "head-critic"}, "both train, all of them, and nothing else"
    assert len(cast.scorers) == 2
    assert len(cast.judges) == 1
    assert len({id(s.role.backbone) for s in (*cast.scorers, *cast.judges, cast.critic)}) == 1, "one backbone"


@pytest.mark.parametrize("start", [False, True])
def test_a_head_alone_on_the_plain_base_stands_on_the_policy_s_backbone(
    start: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores are those of the whole classifier that it was written as; the critic is the base, with a new adapter
    and that head."""
    base = make_base(tmp_path / "base")
    more = {"model": str(make_start(base, tmp_path / "start")), "lora": {}} if start else {}
    values = settings(tmp_path, "dpo", tuning="head", lora={}, out=str(tmp_path / "rm"))
    written = train_reward(RewardConfig.parse(values)).model
    head = load_file(written / "model.safetensors")["score.weight"]
    seen = spy_cast(monkeypatch)
    train_ppo(ppo_config(tmp_path, reward=str(tmp_path / "rm"), max_rollouts=1, **more))
    cast, before = seen["cast"], seen["before"]
    assert {id(s.role.backbone) for s in (*cast.scorers, cast.critic)} == {id(cast.ground.backbone)}
    assert torch.equal(before["head-critic"], head)
    assert not any(tensor.any() for name, tensor in before.items() if "lora_B.critic" in name)
    batch = collate([PromptGroup((5, 6), (Response.full((9, 2)), Response.full((11, 12, 2))))])
    alone = load_reward_model(written, dtype=torch.float32)
    assert torch.allclose(cast.scorers[0].scores(batch), alone.scorers[0].scores(batch), atol=1e-6)
    assert base_of(written) is not None
    record = written / "reward.json"
    record.write_text(record.read_text().replace(str(base), str(tmp_path / "gone")))
    assert base_of(written) is None, "its own copy of the weights is used then"


def test_a_policy_whose_log_probs_are_no_numbers_is_told_and_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = ppo.sample_responses

    def broken(*args: Any, seed: int, **more: Any) -> Any:
        sampled = sample(*args, seed=seed, **more)
        if seed > 1:  # the second rollout
            sampled.logprobs[0, 0] = torch.nan
        return sampled

    monkeypatch.setattr(ppo, "sample_responses", broken)
    with pytest.raises(TrainingError, match=r"the KL of rollout 2 is nan: .* the last checkpoint is kept"):
        train_ppo(ppo_config(tmp_path, kl_target=1.0))
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_what_is_written_loads_alone(tmp_path: Path) -> None:
    """Policy and critic on the plain base, with PEFT; the values and log-probs are those of the run's own end."""
    base = make_base(tmp_path / "base")
    start, reward = make_start(base, tmp_path / "start"), make_reward(base, tmp_path / "rm")
    result = train_ppo(ppo_config(tmp_path, model=str(start), lora={}, reward=str(reward)))
    ids = torch.tensor([[1, 9, 11, 12, 2]])

    def logits(adapter: Path) -> torch.Tensor:
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        with torch.no_grad():
            return PeftModel.from_pretrained(plain, adapter).eval()(input_ids=ids).logits

    def value(adapter: Path) -> float:
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        with torch.no_grad():
            return float(PeftModel.from_pretrained(plain, adapter).eval()(input_ids=ids).logits[0, 0])

    assert float((logits(result.model) - logits(start)).abs().max()) > 1e-3
    assert abs(value(tmp_path / "run" / "critic") - value(reward)) > 1e-4
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    head = load_adapter_with_head(model, tmp_path / "run" / "critic", "critic")
    assert torch.equal(head, critic_on_disk(tmp_path / "run")["base_model.model.score.weight"])
    for directory in (result.model, tmp_path / "run" / "critic"):
        assert AutoTokenizer.from_pretrained(directory).chat_template
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_finished_policy_starts_the_next_stage(tmp_path: Path) -> None:
    first = train_ppo(ppo_config(tmp_path, max_rollouts=1))
    second = train_ppo(ppo_config(tmp_path, model=str(first.out), out=str(tmp_path / "next"), lora={}, max_rollouts=1))
    assert abs(rollouts_of(second.out)[0]["kl"]) < 1e-4, "measured from where this stage starts"
    assert train_ppo(ppo_config(tmp_path, max_rollouts=1)).already_done


@pytest.mark.parametrize("start", [False, True])
def test_a_function_s_critic_starts_as_the_policy_s_start_with_a_head_of_zeros(
    start: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path / "base")
    more = {"model": str(make_start(tmp_path / "base", tmp_path / "start")), "lora": {}} if start else {}
    seen = spy_cast(monkeypatch)
    train_ppo(ppo_config(tmp_path, max_rollouts=1, **more))
    before, cast = seen["before"], seen["cast"]
    assert not before["head-critic"].any()
    assert cast.scorers == cast.judges == ()
    own = [name for name in before if ".lora_b.critic" in name]
    assert own
    for name in own:
        assert torch.equal(before[name], before[name.replace("critic", "start")]) if start else not before[name].any()
    (first, *_) = rollouts_of(tmp_path / "run")
    assert first["value_mean"] == 0.0
    assert critic_on_disk(tmp_path / "run")["base_model.model.score.weight"].any(), "it learns"


def test_a_critic_may_start_as_the_reward_model_s_adapter_with_a_head_of_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    seen = spy_cast(monkeypatch)
    train_ppo(ppo_config(tmp_path, reward=str(reward), critic_head="zero", max_rollouts=1))
    before = seen["before"]
    assert not before["head-critic"].any()
    own = [name for name in before if ".lora_b.critic" in name]
    assert own
    for name in own:
        assert torch.equal(before[name], before[name.replace("critic", "reward-1")])
        assert before[name].any()
    (first, *_) = rollouts_of(tmp_path / "run")
    assert first["value_mean"] == 0.0


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_without_gae_there_is_no_critic(advantage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    seen = spy_cast(monkeypatch)
    train_ppo(ppo_config(tmp_path, advantage=advantage, responses=2, reward=str(reward), max_rollouts=1))
    assert seen["cast"].critic is None
    assert not (tmp_path / "run" / "critic").exists()
    assert "value_loss" not in steps_of(tmp_path / "run")[0]


def test_warming_up_the_critic_leaves_the_policy_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    seen, at = spy_cast(monkeypatch), []
    before_update(monkeypatch, lambda stage, step: at.append(everything(stage.cast)))
    train_ppo(ppo_config(tmp_path, reward=str(reward), critic_warmup=1, weight_decay=0.1))
    policy = [{name: p for name, p in found.items() if ".policy" in name} for found in at]
    assert len(at) == 8
    assert all(same(seen["before"], found, name) for found in policy[:5] for name in found), "bit for bit"
    assert not all(torch.equal(policy[4][name], policy[5][name]) for name in policy[4])
    assert not torch.equal(at[0]["head-critic"], at[1]["head-critic"])
    steps = steps_of(tmp_path / "run")
    assert [("policy_loss" in step, "value_loss" in step) for step in steps] == [(False, True)] * 4 + [(True, True)] * 4
    assert [step["value_clip_fraction"] for step in steps[:4]] == [0.0] * 4, "nothing is clipped while it warms up"


def test_the_reference_moves_towards_the_policy_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """r0 = start; before rollout 2: r1 = 0.8 r0 + 0.2 p1, before rollout 3: r2 = 0.8 r1 + 0.2 p2."""
    start, at = make_start(make_base(tmp_path / "base"), tmp_path / "start"), []

    def note(stage: ppo.Stage, step: Any) -> None:
        model = stage.cast.ground.backbone.model
        at.append({name: {k: p.detach().clone() for k, p in adapter_parameters(model, name).items()} for name in NAMES})

    NAMES = ("policy", "reference", "start")
    before_update(monkeypatch, note)
    train_ppo(
        ppo_config(tmp_path, model=str(start), lora={}, reference_ema=0.8, epochs=2, max_rollouts=3, batch_size=8)
    )
    assert len(at) == 6
    for name, first in at[0]["start"].items():
        expected = first
        for rollout in range(3):
            if rollout:
                expected = 0.8 * expected + 0.2 * at[2 * rollout]["policy"][name]
            for step in (2 * rollout, 2 * rollout + 1):
                assert torch.allclose(at[step]["reference"][name], expected, atol=1e-6), (name, step)
                assert torch.equal(at[step]["start"][name], first)
    assert any(not torch.equal(at[5]["reference"][name], at[0]["reference"][name]) for name in at[0]["reference"])


def test_a_reward_model_on_another_base_gets_a_backbone_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path / "base")
    reward = make_reward(make_base(tmp_path / "other", "llama"), tmp_path / "rm", members=2, holdout=True)
    seen = spy_cast(monkeypatch)
    train_ppo(ppo_config(tmp_path, reward=str(reward)))
    cast, before, after = seen["cast"], seen["before"], everything(seen["cast"])
    assert cast.scorers[0].role.backbone is not cast.ground.backbone
    assert cast.critic.role.backbone is cast.ground.backbone
    assert same(before, after, "other-1.")
    assert not before["head-critic"].any(), "another base's head says nothing of this one's states"


def test_a_reward_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    other = make_base(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new>"])
    model = tiny("gemma3", vocab_size=len(tokenizer))
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    reward = make_reward(other, tmp_path / "rm")
    with pytest.raises(ConfigError, match="reads other tokens than the policy writes"):
        train_ppo(ppo_config(tmp_path, reward=str(reward)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("start", [False, True])
def test_full_fine_tuning_trains_copies_and_leaves_the_frozen_ones(
    start: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base")
    reward = make_reward(base, tmp_path / "rm", members=2, holdout=True)
    more = {"model": str(make_start(base, tmp_path / "start"))} if start else {}
    seen = spy_cast(monkeypatch)
    result = train_ppo(ppo_config(tmp_path, tuning="full", lora={}, reward=str(reward), learning_rate=1e-3, **more))
    cast, before, after = seen["cast"], seen["before"], everything(seen["cast"])
    assert len({id(b) for b in (cast.policy.backbone, cast.start.backbone, cast.critic.role.backbone)}) == 3
    trained = {id(p) for p in cast.parameters().values()}
    frozen = [scorer.role.backbone for scorer in (*cast.scorers, *cast.judges)] + [cast.start.backbone]
    assert not any(id(p) in trained for backbone in frozen for p in backbone.model.parameters())
    numbers = sorted({name.split(".")[0] for name in before if name.startswith("other")})
    changed = [number for number in numbers if not same(before, after, f"{number}.")]
    assert len(changed) == 1, "of the others, the critic's alone"
    assert torch.equal(before["head-scorer-0"], after["head-scorer-0"])
    assert torch.equal(before["head-critic"], before["head-scorer-0"])
    assert not torch.equal(before["head-critic"], after["head-critic"])
    assert abs(rollouts_of(tmp_path / "run")[0]["kl"]) < 1e-3
    critic = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "run" / "critic", num_labels=1, dtype=torch.float32
    )
    assert torch.isfinite(critic(input_ids=torch.tensor([[1, 9, 11]])).logits).all()
    AutoModelForCausalLM.from_pretrained(result.model)


def test_an_ensemble_s_rule_for_a_single_member_is_refused(tmp_path: Path) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm", members=2, holdout=True)
    with pytest.raises(ConfigError, match="has one that rewards"):
        train_ppo(ppo_config(tmp_path, reward=str(reward), ensemble="worst"))
