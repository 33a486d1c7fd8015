"""A rollout: sampled responses, what every role says of them, and what follows from it.

Legend: P prompts, k responses of each, R = P k responses (those of a prompt in turn), T tokens of the longest response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from burnish.data.groups import PromptGroup, Response
from burnish.models.heads import Scorer, score
from burnish.models.roles import Backbone, Role, hidden_of
from burnish.models.trunk import Trunk, TrunkCache
from burnish.ops.advantages import gae, grpo, rloo
from burnish.ops.kl import k1, kl_estimator
from burnish.ops.logprobs import token_logprobs
from burnish.ops.masked import explained_variance, masked_mean, masked_var, masked_whiten
from burnish.rollout.sampler import SamplingParams, sample
from burnish.stages.batches import batches
from burnish.stages.ppo_config import PPOConfig


@dataclass(frozen=True, slots=True)
class Sampled:
    """Responses as they were sampled.

    Attributes:
        groups: (P) prompt groups with their k responses, `index` being the place in this list.
        finished: (R,) bool, whether a response ended with a stop token.
        mask: (R, T) bool, true for the tokens of a response.
        logprobs: (R, T) nats of each token as the sampler recorded them; 0 at padding.
    """

    groups: list[PromptGroup]
    finished: Tensor
    mask: Tensor
    logprobs: Tensor

    @property
    def k(self) -> int:
        """Responses of each prompt."""
        return len(self.groups[0].responses)

    def ids(self) -> list[list[int]]:
        """(R) token ids of the responses, stop tokens included."""
        return [list(response.ids) for group in self.groups for response in group.responses]


def sample_responses(
    role: Role,
    prompts: Sequence[PromptGroup],
    config: PPOConfig,
    stop_ids: Sequence[int],
    *,
    seed: int,
    k: int,
    progress: Callable[[int], None] | None = None,
) -> Sampled:
    """Sample k responses to each prompt, with their log-probs.

    Args:
        role: who speaks, at the temperature of its own: the draw is from the distribution that the update is of.
        prompts: without responses.
        config: the limits of sampling.
        stop_ids: tokens that end a response.
        seed: the same seed and weights give the same responses.
        k: responses to each prompt.
        progress: is told how many responses are finished.
    """
    params = SamplingParams(
        max_new_tokens=config.max_new_tokens,
        top_p=config.top_p,
        seed=seed,
        stop_ids=tuple(stop_ids),
        decoding=config.decoding,
    )
    drawn = sample(
        role, [group.prompt for group in prompts], params, batch_size=config.sampling_batch, n=k, progress=progress
    )
    flat = [one for samples in drawn for one in samples]
    mask, logprobs = _padded([one.logprobs for one in flat])
    groups = [
        PromptGroup(group.prompt, tuple(Response.full(one.ids) for one in samples), group.origin, place)
        for place, (group, samples) in enumerate(zip(prompts, drawn, strict=True))
    ]
    return Sampled(groups, torch.tensor([one.finished for one in flat]), mask, logprobs)


def _padded(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """(R, T) mask and float32 values of rows of unequal length, padded on the right with 0."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    values = torch.zeros(mask.shape)
    values[mask] = torch.tensor([value for row in rows for value in row])
    return mask, values


def rows_of(groups: Sequence[PromptGroup]) -> Tensor:
    """(r,) rows of an (R, T) table that belong to some of its groups, in the order of a batch of them."""
    return torch.tensor(
        [group.index * len(group.responses) + i for group in groups for i in range(len(group.responses))]
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """What roles say of the same responses.

    Attributes:
        logprobs: (speakers, R, T) nats of the tokens, 0 at padding.
        values: (critics, R, T) the value of the state in which each token is chosen, 0 at padding.
        scores: (scorers, R) scores at the last real token.
    """

    logprobs: Tensor
    values: Tensor
    scores: Tensor


def laid_out_for(roles: Sequence[Role]) -> Backbone:
    """The backbone whose layout all the roles can read: one that wants a row a response, if there is one."""
    return next((role.backbone for role in roles if role.backbone.layout == "rows"), roles[0].backbone)


@torch.no_grad()
def read_responses(
    sampled: Sampled,
    tokens: int,
    *,
    speakers: Sequence[Role] = (),
    critics: Sequence[Scorer] = (),
    scorers: Sequence[Scorer] = (),
    between: Callable[[], None] | None = None,
    trunk: Trunk | TrunkCache | None = None,
) -> Reading:
    """Let several roles read the same rows; those on one backbone do so in one pass.

    Args:
        sampled: the responses.
        tokens: computed at once, for all roles together.
        speakers: whose log-probs are wanted.
        critics: whose values are wanted.
        scorers: whose scores are wanted.
        between: called after each micro-batch.
        trunk: lower layers that roles share.
    """
    roles = [*speakers, *(critic.role for critic in critics), *(scorer.role for scorer in scorers)]
    logprobs = torch.zeros(len(speakers), *sampled.mask.shape)
    values = torch.zeros(len(critics), *sampled.mask.shape)
    scores = torch.zeros(len(scorers), sampled.mask.shape[0])
    if not roles:
        return Reading(logprobs, values, scores)
    for micro, batch in batches(laid_out_for(roles), sampled.groups, tokens // len(roles), trunk=trunk):
        hidden = [states.reshape(-1, states.shape[-1]) for states in hidden_of(roles, batch)]
        rows = rows_of(micro)
        for number, role in enumerate(speakers):
            predicting = hidden[number].index_select(0, batch.predictors)
            put(logprobs[number], sampled.mask, rows, token_logprobs(predicting, role.head(), batch.targets))
        for number, critic in enumerate(critics, start=len(speakers)):
            predicting = hidden[number].index_select(0, batch.predictors)
            put(values[number - len(speakers)], sampled.mask, rows, score(predicting, critic.head))
        for number, scorer in enumerate(scorers, start=len(speakers) + len(critics)):
            last = hidden[number].index_select(0, batch.last_positions)
            scores[number - len(speakers) - len(critics), rows] = score(last, scorer.head).float().cpu()
        if between is not None:
            between()
    return Reading(logprobs, values, scores)


def put(table: Tensor, mask: Tensor, rows: Tensor, flat: Tensor) -> None:
    """Write a batch's flat (N,) values of the tokens of `rows` into an (R, T) table."""
    part = table[rows]
    part[mask[rows]] = flat.to(table)
    table[rows] = part


def take(table: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """(N,) values of an (R, T) table at the tokens of `rows`, in the order of a batch of them."""
    return table[rows][mask[rows]]


@dataclass(frozen=True, slots=True)
class Rollout:
    """All that the updates of a rollout need.

    Attributes:
        number: of the rollout, from 0.
        sampled: the responses.
        reference: (R, T) nats of the tokens under the reference.
        values: (R, T) the critic's values, when the rollout was made; 0 without a critic.
        advantages: (R, T), whitened if they are to be; 0 at padding.
        returns: (R, T) the critic's targets; 0 without one.
        metrics: what the rollout is like, under the field's names.
    """

    number: int
    sampled: Sampled
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    metrics: dict[str, float]

    def state(self) -> dict[str, Any]:
        """Its plain values; the prompts are given by the rollout's number."""
        return {"number": self.number, "k": self.sampled.k, "metrics": self.metrics}

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, for a checkpoint."""
        s = self.sampled
        ids = torch.zeros(s.mask.shape, dtype=torch.long)
        ids[s.mask] = torch.tensor([token for row in s.ids() for token in row])
        found = {"ids": ids, "finished": s.finished, "mask": s.mask, "logprobs": s.logprobs}
        return found | {name: getattr(self, name) for name in _TABLES}

    @classmethod
    def restored(
        cls, state: Mapping[str, Any], tensors: Mapping[str, Tensor], prompts: Sequence[PromptGroup]
    ) -> Rollout:
        """The rollout that gave `state` and `tensors`.

        Args:
            prompts: of the rollout, without responses.
        """
        ids, mask, k = tensors["ids"], tensors["mask"], int(state["k"])
        rows = [tuple(row[keep].tolist()) for row, keep in zip(ids, mask, strict=True)]
        groups = [
            PromptGroup(group.prompt, tuple(Response.full(row) for row in rows[i * k : (i + 1) * k]), group.origin, i)
            for i, group in enumerate(prompts)
        ]
        sampled = Sampled(groups, tensors["finished"], mask, tensors["logprobs"])
        tables = {name: tensors[name] for name in _TABLES}
        return cls(int(state["number"]), sampled, **tables, metrics=dict(state["metrics"]))


_TABLES = tuple(field.name for field in fields(Rollout) if field.type == "Tensor")


def missing_eos(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """(R,) scores less the penalty where a response did not end by itself (Huang et al. 2024, arXiv:2403.17031)."""
    return scores - penalty * (~finished).to(scores)


def shaped_rewards(sampled: Sampled, scores: Tensor, reference: Tensor, config: PPOConfig, beta: float) -> Tensor:
    """(R, T) rewards: the score on the last real token, less beta times the KL of each token.

    Ziegler et al. 2019, arXiv:1909.08593, eq. 2. 0 at padding.

    Args:
        sampled: the responses, with their log-probs.
        scores: (R,).
        reference: (R, T) nats of the tokens under the reference.
        config: which estimator of the KL, and whether it is in the reward at all.
        beta: the price of a nat.
    """
    rewards = torch.zeros_like(sampled.logprobs)
    if config.kl_in == "reward":
        kl = kl_estimator(config.kl_estimator)(sampled.logprobs - reference)
        rewards = torch.where(sampled.mask, -beta * kl, rewards)
    last = sampled.mask.sum(1) - 1
    rewards[torch.arange(len(last)), last] += scores.to(rewards)
    return rewards


def make_rollout(
    number: int, sampled: Sampled, scores: Tensor, reading: Reading, config: PPOConfig, beta: float
) -> Rollout:
    """Rewards, advantages and returns of sampled responses.

    Args:
        number: of the rollout.
        sampled: the responses.
        scores: (R,) what they are worth, normalised, the missing-EOS penalty taken off.
        reading: the reference's log-probs and, with a critic, its values.
        config: which advantages.
        beta: the coefficient of the KL.
    """
    mask, reference = sampled.mask, reading.logprobs[0]
    rewards = shaped_rewards(sampled, scores, reference, config, beta)
    values = reading.values[0] if len(reading.values) else torch.zeros_like(rewards)
    if config.advantage == "gae":
        raw, returns = gae(rewards, values, mask, config.gamma, config.lam)
        # A last rollout may be one prompt, answered by one token: nothing to be scaled by.
        advantages = masked_whiten(raw, mask) if config.whiten and int(mask.sum()) > 1 else raw
    else:
        group_of = torch.arange(len(scores)) // sampled.k
        compare = rloo if config.advantage == "rloo" else grpo
        raw = torch.where(mask, compare(rewards.sum(1), group_of).unsqueeze(1), torch.zeros_like(rewards))
        advantages, returns = raw, torch.zeros_like(raw)
    kl = k1(torch.where(mask, sampled.logprobs - reference, torch.zeros_like(rewards)))
    metrics = {
        "reward": float(rewards.sum(1).mean()),
        "shaped_score": float(scores.mean()),
        "kl": float(kl.sum(1).mean()),
        "kl_coefficient": beta,
        "entropy": -float(masked_mean(sampled.logprobs, mask)),
        "advantage_mean": float(masked_mean(raw, mask)),
        "advantage_std": float(masked_var(raw, mask)) ** 0.5,
        "response_length": float(mask.sum(1).float().mean()),
        "eos_rate": float(sampled.finished.float().mean()),
    }
    if len(reading.values):
        explained = float(explained_variance(values, returns, mask))
        # Equal returns leave nothing to explain: NaN, which JSON has no word for.
        metrics |= {"explained_variance": explained} if explained == explained else {}
        metrics |= {"value_mean": float(masked_mean(values, mask)), "return_mean": float(masked_mean(returns, mask))}
    return Rollout(number, sampled, reference, values, advantages, returns, metrics)
