"""An update against a naive float64 PPO on stock models, and however it is cut into passes."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from burnish.models.lora import lora_layers
from burnish.stages import ppo
from burnish.stages.loop import TrainingLoop
from burnish.stages.ppo_config import CRITIC_SETTINGS, PPOConfig
from burnish.stages.ppo_rollout import Rollout
from tests.models.families import EOS_ID
from tests.stages import naive_ppo as naive
from tests.stages.ppo_toy import make_base, make_reward, make_start, ppo_config, reward_file

TEXT = """
def rewarded(prompts, responses, rows):
    return [len(text) / 4 - len(row["tag"]) for text, row in zip(responses, rows)]
"""
SHAPE = {
    "temperature": 0.7,
    "responses": 2,
    "ensemble": "worst",
    "reward_function_weight": 0.3,
    "missing_eos_penalty": 0.5,
    "gamma": 0.9,
    "lam": 0.8,
    "clip_low": 0.05,
    "clip_high": 0.1,
    "value_clip": 0.1,
    "learning_rate": 3e-3,
    "critic_learning_rate": 3e-2,
    "kl_coefficient": 0.3,
}


class Stop(Exception):
    pass


def at_update(
    monkeypatch: pytest.MonkeyPatch, config: PPOConfig, index: int
) -> tuple[ppo.Stage, Any, dict[str, Any], dict[str, torch.Tensor]]:
    """Run to the update of step `index`: stage, step, weights (`old` at its rollout, `new` before it), gradients."""
    weights: dict[str, Any] = {}
    found: list[Any] = []

    def note(when: str, stage: ppo.Stage) -> None:
        model, cast = stage.cast.ground.backbone.model, stage.cast
        roles = {"policy": cast.policy, "start": cast.start} | (
            {} if cast.critic is None else {"critic": cast.critic.role}
        )
        roles |= {f"scorer-{i}": scorer.role for i, scorer in enumerate(cast.scorers)}
        for name, role in roles.items():
            weights[f"{when} {name}"] = naive.weights_of(lora_layers(model, role.adapter), role.adapter)
        if cast.critic is not None:
            weights[f"{when} head"] = cast.critic.head.detach().double().clone()[0]

    rollout, update = ppo.Stage._new_rollout, ppo.Stage._update

    def new_rollout(self: ppo.Stage, *arguments: Any) -> Rollout:
        note("old", self)
        return rollout(self, *arguments)

    def stopping(self: ppo.Stage, step: Any, of: Rollout) -> None:
        if step.index == index:
            note("new", self)
        update(self, step, of)
        if step.index == index:
            gradients = {
                name: p.grad.double().clone() for name, p in self.cast.parameters().items() if p.grad is not None
            }
            found.extend([self, copy.copy(step), gradients])
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(ppo.Stage, "_new_rollout", new_rollout)
        patch.setattr(ppo.Stage, "_update", stopping)
        with pytest.raises(Stop):
            ppo.train_ppo(config)
    return found[0], found[1], weights, found[2]


def heads_of(directory: Path, n: int) -> list[torch.Tensor]:
    key = "base_model.model.score.weight"
    places = [directory / f"member-{i + 1}" for i in range(n)] if n > 1 else [directory]
    return [load_file(place / "adapter_model.safetensors")[key].double()[0] for place in places]


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {"kl_estimator": "k3"}),
        ("gpt2", {"kl_in": "loss", "kl_estimator": "k2", "whiten": False}),
        ("gemma3", {"advantage": "grpo", "kl_estimator": "k2", "entropy_coefficient": 0.5}),
    ],
)
def test_an_update_is_that_of_a_naive_ppo(
    family: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step of the second pass over the second rollout: nothing is 1 or 0 there any more."""
    base = make_base(tmp_path / "base", family)
    start = make_start(base, tmp_path / "start")
    reward = make_reward(base, tmp_path / "rm", members=3, holdout=True)
    named = reward_file(tmp_path, TEXT, "rewarded")
    tagged = ppo_config(tmp_path)  # writes the data, to which a column is added
    rows = [
        line[:-1] + f', "tag": "{"x" * (i % 3)}"}}'
        for i, line in enumerate(Path(tagged.data).read_text().split("\n")[:-1])
    ]
    Path(tagged.data).write_text("".join(row + "\n" for row in rows))
    values = {**SHAPE, **more, "model": str(start), "reward": str(reward), "reward_function": named, "lora": {}}
    if more.get("advantage") == "grpo":
        values = {name: value for name, value in values.items() if name not in CRITIC_SETTINGS}
    config = ppo_config(tmp_path, **values)
    stage, step, weights, gradients = at_update(monkeypatch, config, 7)
    rollout, t = stage.rollout, config.temperature
    assert rollout is not None
    assert rollout.number == 1
    groups, k = rollout.sampled.groups, 2
    flat = [(list(group.prompt), list(response.ids)) for group in groups for response in group.responses]
    finished = [ids[-1] == EOS_ID for _, ids in flat]
    assert 0 < sum(finished) < len(flat), "both kinds are in it"
    assert rollout.sampled.finished.tolist() == finished
    assert all(EOS_ID not in ids[:-1] for _, ids in flat)

    # Who says what of the responses.
    old, reference = (naive.stock(base, weights[name]) for name in ("old policy", "old start"))
    with torch.no_grad():
        said = [naive.logprobs(old, *pair, t).tolist() for pair in flat]
        ref = [naive.logprobs(reference, *pair, t).tolist() for pair in flat]
        heads = heads_of(reward, 3)
        members = [naive.stock(base, weights[f"old scorer-{i}"]) for i in range(2)]
        scores = [min(naive.score(members[i], heads[i], *pair) for i in range(2)) for pair in flat]
        critic = None if config.advantage == "grpo" else naive.stock(base, weights["old critic"])
        v = [naive.values(critic, weights["old head"], *pair).tolist() for pair in flat] if critic is not None else None

    # Rewards and advantages.
    texts = stage.rewarder.episodes(rollout.sampled)
    for i, (_, ids) in enumerate(flat):
        text = stage.cast.ground.tokenizer.decode([token for token in ids if token != EOS_ID], skip_special_tokens=True)
        scores[i] += 0.3 * (len(text.strip()) / 4 - len(texts.rows[i]["tag"])) - (0.0 if finished[i] else 0.5)
    kls = [
        [naive.kl_of(config.kl_estimator, a - b) for a, b in zip(*both, strict=True)]
        for both in zip(said, ref, strict=True)
    ]
    price = 0.3 if config.kl_in == "reward" else 0.0
    rewards = [[-price * x for x in row] for row in kls]
    for i, row in enumerate(rewards):
        row[-1] += scores[i]
    if v is None:
        total = [sum(row) for row in rewards]
        adv = []
        for i, row in enumerate(rewards):
            own = torch.tensor(total[i // k * k : i // k * k + k], dtype=torch.float64)
            adv.append([float((total[i] - own.mean()) / (own.std() + 1e-4))] * len(row))
    else:
        raw = [naive.advantages(r, x, 0.9, 0.8) for r, x in zip(rewards, v, strict=True)]
        returns = [[a + b for a, b in zip(*both, strict=True)] for both in zip(raw, v, strict=True)]
        adv = naive.whitened(raw) if config.whiten else raw

    def same(table: torch.Tensor, expected: list[list[float]], tolerance: float = 2e-4) -> None:
        assert table[rollout.sampled.mask].tolist() == pytest.approx(
            [x for row in expected for x in row], abs=tolerance
        )
        assert float(table.masked_fill(rollout.sampled.mask, 0.0).abs().sum()) == 0.0, "0 at padding"

    same(rollout.sampled.logprobs, said)
    same(rollout.reference, ref)
    same(rollout.advantages, adv, 2e-3)
    if v is not None:
        same(rollout.values, v)
        same(rollout.returns, returns, 1e-3)
    assert max(abs(a - b) for x, y in zip(said, ref, strict=True) for a, b in zip(x, y, strict=True)) > 0.1
    assert rollout.metrics["shaped_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    unended = sum(not ended for ended in finished)
    assert rollout.metrics["score"] == pytest.approx((sum(scores) + 0.5 * unended) / len(scores), abs=1e-4)
    assert rollout.metrics["reward"] == pytest.approx(sum(map(sum, rewards)) / len(flat), abs=1e-3)
    mean_kl = sum(a - b for x, y in zip(said, ref, strict=True) for a, b in zip(x, y, strict=True)) / len(flat)
    assert rollout.metrics["kl"] == pytest.approx(mean_kl, abs=1e-3)

    # The update's gradients.
    picked = [place * k + i for place in stage.order.members(7) for i in range(k)]
    n = sum(len(flat[i][1]) for i in picked)
    new = naive.stock(base, weights["new policy"])
    for i in picked:
        now = naive.logprobs(new, *flat[i], t)
        was = torch.tensor(said[i], dtype=torch.float64)
        loss = naive.policy_loss(now, was, torch.tensor(adv[i], dtype=torch.float64), 0.05, 0.1)
        if config.kl_in == "loss":
            loss = loss + 0.3 * ((now - torch.tensor(ref[i], dtype=torch.float64)) ** 2 / 2).sum()
        if config.entropy_coefficient:
            loss = loss - 0.5 * naive.entropy(new, *flat[i], t)
        (loss / n).backward()
    assert 0.05 < step.values["clip_fraction"] < 0.95, "some tokens are clipped, and some are not"
    close(gradients, naive.adapter_gradients(new, weights["new policy"]), "policy.")
    if v is None:
        return
    critic, head = naive.stock(base, weights["new critic"]), weights["new head"].requires_grad_()
    for i in picked:
        now, was = naive.values(critic, head, *flat[i]), torch.tensor(v[i], dtype=torch.float64)
        (naive.value_loss(now, was, torch.tensor(returns[i], dtype=torch.float64), 0.1) / n).backward()
    close(gradients, naive.adapter_gradients(critic, weights["new critic"]), "critic.")
    assert torch.allclose(gradients["critic.score"][0], head.grad, rtol=1e-3, atol=1e-5)


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], prefix: str) -> None:
    """Gradients agree to a thousandth of the largest."""
    assert {f"{prefix}{name}" for name in expected} == {name for name in found if name.startswith(prefix)} - {
        "critic.score"
    }
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-4
    for name, gradient in expected.items():
        worst = float((found[f"{prefix}{name}"] - gradient).abs().max())
        assert worst < 2e-3 * largest, f"{prefix}{name}: off by {worst:.3g} of {largest:.3g}"


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_it_does_not_matter_how_a_rollout_is_cut_into_passes(
    advantage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of a pass from one response to everything: the same tables and the same gradients."""
    start = make_start(make_base(tmp_path / "base"), tmp_path / "start")
    reward = make_reward(tmp_path / "base", tmp_path / "rm")
    found = []
    for tokens in (16, 200, 4096):
        config = ppo_config(
            tmp_path,
            model=str(start),
            reward=str(reward),
            out=str(tmp_path / f"run-{tokens}"),
            micro_batch_tokens=tokens,
            advantage=advantage,
            responses=2,
            lora={},
        )
        stage, step, _, gradients = at_update(monkeypatch, config, 1)
        assert stage.rollout is not None
        found.append((stage.rollout.tensors(), gradients, step.values))
    for tables, gradients, values in found[1:]:
        for name, table in found[0][0].items():
            assert torch.allclose(table.double(), tables[name].double(), atol=1e-4), name
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for name, gradient in found[0][1].items():
            assert float((gradient - gradients[name]).abs().max()) < 2e-3 * largest, name
        assert values == pytest.approx(found[0][2], abs=1e-3)


def test_a_reward_model_that_can_t_share_prompts_reads_several_responses_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers want a row a response, the policy's do not: the rows must suit both."""
    from burnish.models import roles

    make_base(tmp_path / "base")
    other = make_base(tmp_path / "other", "gpt_neox")
    reward = make_reward(other, tmp_path / "rm")
    original = roles.supports_shared_layout
    monkeypatch.setattr(
        roles, "supports_shared_layout", lambda model: original(model) and model.config.model_type != "gpt_neox"
    )
    config = ppo_config(tmp_path, reward=str(reward), responses=2, advantage="rloo", missing_eos_penalty=0.0)
    stage, *_ = at_update(monkeypatch, config, 0)
    assert stage.cast.scorers[0].role.backbone.layout == "rows"
    assert stage.rollout is not None
    scorer = stage.cast.scorers[0].role
    there = naive.stock(other, naive.weights_of(lora_layers(scorer.backbone.model, scorer.adapter), scorer.adapter))
    head = heads_of(reward, 1)[0]
    groups = stage.rollout.sampled.groups
    scores = [naive.score(there, head, g.prompt, response.ids) for g in groups for response in g.responses]
    assert stage.rollout.metrics["score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_what_is_applied_is_clipped_policy_and_critic_each_by_its_own_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    applied: list[tuple[float, float]] = []
    original = TrainingLoop._log_step

    def noting(self: TrainingLoop, step: Any, rate: float, norms: dict[str, float], seconds: float) -> None:
        parts: dict[bool, float] = {False: 0.0, True: 0.0}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parts[name.startswith("critic.")] += float(parameter.grad.double().pow(2).sum())
        assert min(norms["grad_norm"], norms["grad_norm/critic"]) > 1e-3, "both have something to be clipped"
        applied.append((parts[False] ** 0.5, parts[True] ** 0.5))
        original(self, step, rate, norms, seconds)

    monkeypatch.setattr(TrainingLoop, "_log_step", noting)
    ppo.train_ppo(ppo_config(tmp_path, reward=str(reward), max_grad_norm=1e-3))
    assert len(applied) == 8
    assert [norm for both in applied for norm in both] == pytest.approx([1e-3] * 16, rel=1e-3)


def test_nothing_of_tokens_times_vocabulary_is_kept_for_backward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    original = ppo.Stage._policy_loss

    def watched(
        self: ppo.Stage, step: Any, rollout: Rollout, rows: torch.Tensor, hidden: torch.Tensor, *more: Any
    ) -> Any:
        vocabulary, tokens = self.cast.policy.backbone.vocabulary, len(hidden)
        assert vocabulary != hidden.shape[1]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t):
            loss = original(self, step, rollout, rows, hidden, *more)
        assert not [shape for shape in shapes if vocabulary in shape and tokens in shape], shapes
        return loss

    monkeypatch.setattr(ppo.Stage, "_policy_loss", watched)
    ppo.train_ppo(ppo_config(tmp_path, entropy_coefficient=0.1, max_rollouts=1))
    assert shapes


def test_no_distribution_over_the_vocabulary_outlives_the_reading_of_a_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a rollout (R x T x V) that would be the largest thing in memory; a number a token is enough."""
    alive: list[tuple[int, ...]] = []
    original = ppo.Stage._update

    def watched(self: ppo.Stage, step: Any, rollout: Rollout) -> None:
        backbone = self.cast.policy.backbone
        width = int(backbone.config.get_text_config().hidden_size)
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
        assert any(tensor is rollout.returns for tensor in tensors), "what is alive is seen"
        weights = (width, backbone.vocabulary)  # copies of the output matrix, which the sampler makes
        alive.extend(
            tuple(tensor.shape)
            for tensor in tensors
            if backbone.vocabulary in tensor.shape and tuple(sorted(tensor.shape)) != weights
        )
        original(self, step, rollout)

    monkeypatch.setattr(ppo.Stage, "_update", watched)
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    ppo.train_ppo(ppo_config(tmp_path, reward=str(reward), max_rollouts=1))
    assert not alive
