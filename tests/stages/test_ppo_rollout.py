"""What a rollout comes to, by hand and against a naive float64 PPO on stock models; and what an update makes of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from burnish.data.groups import PromptGroup, Response
from burnish.models.lora import lora_layers
from burnish.stages import ppo
from burnish.stages.config import PPOConfig
from burnish.stages.ppo_rollout import Reading, Rollout, Sampled, make_rollout, put, rows_of, shaped_rewards, take
from burnish.stages.ppo_watch import missing_eos
from tests.models.families import EOS_ID
from tests.stages import naive_ppo as naive
from tests.stages.ppo_toy import make_base, make_reward, make_start, ppo_config, reward_file

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


# ---- by hand ----


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
    assert (metrics["score"], metrics["score_std"]) == pytest.approx((0.5, 1.5))
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


# ---- against a naive PPO ----

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
        ("gemma3", {"advantage": "grpo", "kl_estimator": "k2"}),
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
        values.pop("critic_learning_rate")
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
    texts = stage.episodes(rollout.sampled)
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
    assert rollout.metrics["score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
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
            entropy_coefficient=0.0,
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
