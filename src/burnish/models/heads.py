"""Scalar heads: what a reward model or a critic reads off the hidden states.

A head is one row of weights without a bias, as in transformers' `...ForSequenceClassification` with one label. It is
always float32, and so are the scores.

Legend: B rows, T tokens, R responses, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.data.groups import GroupBatch
from burnish.errors import ConfigError
from burnish.models.adapters import HEAD
from burnish.models.roles import Backbone, Role, hidden_of


def new_head(backbone: Backbone, *, seed: int) -> nn.Parameter:
    """(1, D) weights drawn from N(0, 1 / (D + 1)), so that scores of a fresh head have unit size (Stiennon et al.
    2020, arXiv:2009.01325; Huang et al. 2024, arXiv:2403.17031, section 3.2)."""
    width = int(backbone.config.get_text_config().hidden_size)
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if backbone.compute_dtype == torch.float64 else torch.float32
    weight = torch.randn(1, width, generator=generator, dtype=dtype) / math.sqrt(width + 1)
    return nn.Parameter(weight.to(backbone.device))


def score(hidden: Tensor, head: Tensor) -> Tensor:
    """(R,) scores of (R, D) hidden states, in the head's precision."""
    return hidden.to(head.dtype) @ head[0]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A role with a scalar head: a reward model, or a member of an ensemble.

    Attributes:
        role: whose hidden states the head reads.
        head: (1, D) weights.
    """

    role: Role
    head: nn.Parameter

    def parameters(self, *, head_only: bool = False) -> dict[str, nn.Parameter]:
        """What trains: the head and, unless it alone is to, those of the role's own parameters that train."""
        own = {} if head_only else self.role.trained()
        return {**own, HEAD: self.head}

    def features(self, batch: GroupBatch, *, dropout: bool = False) -> Tensor:
        """(R, D) hidden states at each response's last token, the one that ends the turn."""
        return _at_last_tokens(self.role.backbone.hidden_states(batch, self.role.route(dropout=dropout)), batch)

    def scores(self, batch: GroupBatch, *, dropout: bool = False) -> Tensor:
        """(R,) the responses' scores."""
        return score(self.features(batch, dropout=dropout), self.head)


def scores_of(scorers: Sequence[Scorer], batch: GroupBatch) -> Tensor:
    """(scorers, R) the responses' scores by each; scorers on one backbone share a pass over it."""
    hidden = hidden_of([scorer.role for scorer in scorers], batch)
    return torch.stack(
        [score(_at_last_tokens(own, batch), scorer.head) for own, scorer in zip(hidden, scorers, strict=True)]
    )


def _at_last_tokens(hidden: Tensor, batch: GroupBatch) -> Tensor:
    """(R, D) of (B, T, D) at each response's last token."""
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.last_positions)


def ensemble_score(scores: Tensor, rule: str = "mean", *, spread_penalty: float = 1.0) -> Tensor:
    """One score a response out of those of several members.

    Args:
        scores: (members, R).
        rule: `mean`; `worst`, the lowest member's; `mean-std`, the mean less `spread_penalty` standard deviations
            (Coste et al. 2023, arXiv:2310.02743, section 4: mean, worst-case and uncertainty-weighted optimisation,
            which weighs the variance; the standard deviation keeps the penalty in the score's own unit).
        spread_penalty: lambda, 0 or above.

    Returns:
        (R,) scores.

    Raises:
        ValueError: an unknown rule.
    """
    if rule == "mean":
        return scores.mean(0)
    if rule == "worst":
        return scores.amin(0)
    if rule == "mean-std":
        return scores.mean(0) - spread_penalty * scores.std(0, unbiased=False)
    raise ValueError(f"unknown ensemble rule {rule!r}; known: {', '.join(ENSEMBLE_RULES)}")


ENSEMBLE_RULES: Sequence[str] = ("mean", "worst", "mean-std")


def demand_members(rule: str, scorers: Sequence[Scorer], *, model: str, where: str) -> None:
    """Refuse a rule for an ensemble where a single scorer gives the score.

    Args:
        rule: of `ENSEMBLE_RULES`.
        scorers: those that it is for; none where a function rewards.
        model: the reward model's name.
        where: the setting.

    Raises:
        ConfigError: the rule would change nothing.
    """
    if rule != "mean" and len(scorers) == 1:
        raise ConfigError(
            f"{model} has one that rewards, so the rule {rule} would change nothing",
            where=where,
            fix="leave it away, or use an ensemble with two members or more beside the one that is held back",
        )
