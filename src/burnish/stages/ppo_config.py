"""The configuration of PPO, RLOO and GRPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from burnish.config import Config
from burnish.stages.config import PolicyConfig
from burnish.stages.functions import is_function

Advantage = Literal["gae", "rloo", "grpo"]
CRITIC_SETTINGS = ("critic_warmup", "critic_learning_rate", "critic_head", "value_clip", "gamma", "lam", "whiten")
"""What only gae has a use for."""


class AlarmLimits(Config):
    """When the over-optimisation alarm goes off; see `burnish.evaluation.overoptimisation`."""

    window: int = Field(4, ge=3)
    """Evaluations, at least, over which the held-out reward's trend is judged."""
    noise: float = Field(3.0, gt=0.0)
    """Standard errors that a trend must exceed."""
    length_factor: float = Field(2.0, gt=0.0)
    """Mean length of the responses against that of the first evaluation."""
    kl_budget: float = Field(25.0, gt=0.0)
    """KL from where the stage starts, in nats per response."""
    repetition: float = Field(0.2, gt=0.0)
    """Share of repeated 4-grams."""
    eos_factor: float = Field(0.5, gt=0.0)
    """The part of the first evaluation's EOS rate below which it has collapsed."""


class PPOConfig(PolicyConfig):
    """Reinforcement learning from a reward model, or from any function: PPO, RLOO or GRPO."""

    stage: ClassVar[str] = "ppo"

    reward: str
    """What is rewarded: a reward model (the directory of a stage `reward`), or `module:function` or `FILE.py:function`,
    which takes prompts and responses (lists of texts) and returns a list of numbers."""
    reward_function: str | None = None
    """Beside a reward model: `module:function`, whose reward is added to the model's score."""
    reward_function_weight: float = Field(1.0, allow_inf_nan=False)
    """The weight of `reward_function`; the model's score has weight 1."""
    ensemble: Literal["mean", "worst", "mean-std"] = "mean"
    """How an ensemble's scores become one."""
    spread_penalty: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    """With `ensemble: mean-std`: how many standard deviations are taken off."""
    normalise: Literal["none", "running", "start"] = "none"
    """Of scores: as they are; with running mean and standard deviation; or less the mean score of the starting model's
    own responses."""
    missing_eos_penalty: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    """Taken off the score of a response that the length limit cut off."""

    rollout_size: int = Field(64, ge=1)
    """Prompts of a rollout; each prompt is used once an epoch."""
    max_rollouts: int | None = Field(None, ge=1)
    """Stop after so many rollouts, even within an epoch."""
    responses: int | None = Field(None, ge=1)
    """Responses to each prompt; 1 for gae, 4 for rloo and grpo if not given."""
    max_new_tokens: int = Field(64, ge=1)
    """The longest response, in tokens."""
    temperature: float = Field(1.0, gt=0.0)
    """Of sampling. The policy is the distribution at this temperature, in the update and in the KL too."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample from the most probable tokens that hold this probability. Below 1 the update is of the whole distribution
    all the same, so that tokens outside of it are never corrected."""
    sampling_batch: int = Field(64, ge=1)
    """Responses sampled at a time; a finished one makes room for the next."""
    decoding: Literal["auto", "merged", "adapter", "plain"] = "auto"
    """Sample through the adapter, or through a copy of the weights with the adapter in it (`merged`: faster, but in
    bfloat16 not quite the policy that is trained); `auto` merges in float32, where the copy is small; `plain` is for
    comparison."""

    advantage: Advantage = "gae"
    """`gae` with a critic (PPO); `rloo` and `grpo` compare responses to the same prompt and need no critic."""
    gamma: float = Field(1.0, ge=0.0, le=1.0)
    """Discount of later rewards, for gae."""
    lam: float = Field(0.95, ge=0.0, le=1.0)
    """Lambda of gae."""
    whiten: bool = True
    """Scale gae's advantages to mean 0 and variance 1 over the whole rollout."""

    kl_coefficient: float = Field(0.1, ge=0.0, allow_inf_nan=False)
    """The price of a nat of KL from the reference."""
    kl_target: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Nats per response that the coefficient is steered to; it stays fixed if not given."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """How the KL of a sampled token is estimated."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL is paid: token by token in the reward, or as a term of the loss (as GRPO's paper has it)."""
    reference_ema: float | None = Field(None, gt=0.0, lt=1.0)
    """After each rollout the reference keeps this share of itself and takes the rest from the policy; it stays as it
    is if not given."""

    update_epochs: int = Field(4, ge=1)
    """Passes over a rollout."""
    batch_size: int = Field(16, ge=1)
    """Prompts of an optimiser step, with all of their responses."""
    clip_low: float = Field(0.2, gt=0.0, le=1.0)
    """The probability ratio is clipped at 1 - clip_low ..."""
    clip_high: float = Field(0.2, gt=0.0, allow_inf_nan=False)
    """... and at 1 + clip_high."""
    value_clip: float = Field(0.2, gt=0.0)
    """How far a value may move from that of the rollout."""
    entropy_coefficient: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """Weight of the entropy bonus, which costs one more product over the vocabulary."""
    kl_limit: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Nats per token between the policy and itself at the rollout's start at which the remaining updates of the rollout
    are left out."""
    critic_head: Literal["reward", "zero"] = "reward"
    """Where the critic's head starts: as the reward model's, or with values of 0. A reward model's head was never asked
    within a response, so its first values there may be far off; zeros suit a run of few rollouts."""
    critic_warmup: int = Field(0, ge=0)
    """Rollouts at the beginning from which the critic alone learns, without clipping its values."""
    learning_rate: float = Field(2e-5, gt=0.0, le=1.0)
    """The peak learning rate."""
    critic_learning_rate: float | None = Field(None, gt=0.0, le=1.0)
    """The critic's; that of the policy if not given."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    eval_every: int | None = Field(None, ge=1)
    """Rollouts between evaluations; eight in a run if not given."""
    save_every: int = Field(16, ge=1)
    """Steps between checkpoints."""
    keep_best: bool = True
    """The finished model is the one with the best evaluation (the judge's score; without a judge, score less the price
    of the KL), not the last one."""

    judge: str | None = None
    """What watches and rewards nothing: a reward model or `module:function`; the reward model's held-back member if not
    given."""
    evaluation_prompts: int = Field(64, ge=2)
    """Held-out prompts that are answered at each evaluation; all of them where there are fewer."""
    on_alarm: Literal["warn", "stop", "rollback"] = "warn"
    """What the over-optimisation alarm does: say so; end the stage; or end it with the best weights so far."""
    alarm: AlarmLimits = AlarmLimits()
    """When the alarm goes off."""

    @property
    def n_responses(self) -> int:
        """Responses to each prompt."""
        return self.responses or (1 if self.advantage == "gae" else 4)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.advantage != "gae" and self.n_responses < 2:
            raise ValueError(f"{self.advantage} compares responses to the same prompt: it needs responses: 2 or more")
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "k1 has no gradient on average, so it does nothing in the loss: use kl_estimator: k2 or k3"
            )
        if self.kl_target is not None and not self.kl_coefficient > 0.0:
            raise ValueError("kl_target steers a coefficient above 0: kl_coefficient is 0")
        if self.kl_target is not None and self.kl_in == "loss":
            raise ValueError("kl_target belongs to kl_in: reward")
        if self.on_alarm == "rollback" and not self.keep_best:
            raise ValueError("on_alarm: rollback goes back to the best weights: it needs keep_best: true")
        if self.compute == "plain" and self.decoding not in ("auto", "plain"):
            raise ValueError(f"compute: plain samples plainly too: leave decoding: {self.decoding} away")
        if self.tuning == "full" and self.reference_ema is not None:
            raise ValueError("reference_ema averages adapters: it needs tuning: lora")
        if self.max_length is not None and self.max_length <= self.max_new_tokens:
            raise ValueError("max_length holds prompt and response: it must be above max_new_tokens")
        return self

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Self:
        """What is set to something else than its default must change something."""
        if self.advantage != "gae":
            self._refuse(CRITIC_SETTINGS, f"{self.advantage} has no critic and no GAE", "advantage: gae")
        if self.ensemble != "mean-std":
            self._refuse(["spread_penalty"], "it is a price of the members' deviation", "ensemble: mean-std")
        if self.reward_function is None:
            self._refuse(["reward_function_weight"], "there is no function beside the reward", "reward_function")
        if is_function(self.reward):
            self._refuse(["ensemble"], f"{self.reward} is a function, not an ensemble", "a reward model")
        if self.judge is not None and self.judge == self.reward:
            raise ValueError("judge is the reward itself: what watches must be something else than what rewards")
        if self.batch_size > self.rollout_size:
            raise ValueError(f"batch_size {self.batch_size} is more than a rollout has prompts ({self.rollout_size})")
        return self

    def _refuse(self, names: Sequence[str], why: str, needs: str) -> None:
        fields = type(self).model_fields
        idle = [name for name in names if getattr(self, name) != fields[name].default]
        if idle:
            raise ValueError(f"{', '.join(idle)} would do nothing: {why}; it needs {needs}")
