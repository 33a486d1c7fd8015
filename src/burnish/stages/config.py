"""The configuration of the training stages: one flat model a stage, LoRA and loss nested.

Every field is a key in a recipe and a flag on the command line; its docstring is the help text of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from burnish.config import Config
from burnish.models.config import ALL_LAYERS, LoRAConfig, Precision
from burnish.stages.monitor_config import GuardConfig, MonitorConfig, watching

Tracker = Literal["tensorboard", "wandb", "trackio"]


class TrainConfig(Config):
    """What all training stages share."""

    stage: ClassVar[str]

    model: str
    """Where to start: a catalog name, a directory, a hub id, or an adapter (the directory of an earlier stage)."""
    data: str
    """What to train on: a file (JSONL, JSON, CSV, Parquet), a directory of them, a hub id, or `starter/NAME`."""
    out: Path
    """The run's directory: model, metrics, checkpoints. The same command again resumes it, or does nothing."""

    map: dict[str, str] = Field(default_factory=dict)
    """Column names of the data: `{old: new}`."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at rows that are not usable, or that the chat template refuses; or count and list them and go on."""
    split: str | None = None
    """Of a hub id (`train` if not given), or of a directory with a file or folder for each split."""
    limit: int | None = Field(None, ge=1)
    """Use the first n examples only."""
    validation: float | str = 0.05
    """The share of the examples that is held out, or a data set of its own."""
    template: str = "auto"
    """Chat template: `auto` (the tokenizer's own, else `plain`), a built-in name, or a Jinja file."""
    max_length: int | None = Field(None, ge=8)
    """The longest prompt + response, in tokens; the model's context if not given."""
    too_long: Literal["error", "skip"] = "error"
    """What to do with longer examples: stop, or leave them out and say how many."""

    tuning: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter, or all of the weights."""
    lora: LoRAConfig = LoRAConfig()
    """Rank, alpha, targets and so on, where a new adapter is made."""
    dtype: Precision = "auto"
    """Of the frozen weights and the activations; `auto` is bfloat16, or float32 on a CPU that multiplies it faster.
    What trains, and the optimiser's state, are always float32."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""
    trunk_cache_gb: float = Field(2.0, ge=0.0, allow_inf_nan=False)
    """With `lora.layers: last-N`: memory that the outputs of the other layers may take, where they are used again. What
    goes beyond is computed each time."""
    gradient_checkpointing: bool = False
    """Compute activations again in backward: less memory, about a third more time."""

    epochs: int = Field(1, ge=1)
    """Passes over the data."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many optimiser steps, even within an epoch."""
    batch_size: int = Field(16, ge=1)
    """Examples of an optimiser step."""
    micro_batch_tokens: int = Field(4096, ge=16)
    """Tokens (padding included) that are computed at once; a batch is cut into as many parts as that needs."""
    learning_rate: float = Field(2e-4, gt=0.0, le=1.0)
    """The peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.05, ge=0.0, lt=1.0)
    """The share of the steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0.0, lt=1.0)
    """AdamW's decay, on matrices only (not on norms, biases and token rows)."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW's first decay rate."""
    beta2: float = Field(0.99, ge=0.0, lt=1.0)
    """AdamW's second decay rate."""
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradients are scaled down to this norm."""
    seed: int = Field(0, ge=0)
    """Of the data order, the adapter's start, the validation split and dropout."""

    eval_every: int | None = Field(None, ge=1)
    """Steps between validations; eight in a run if not given."""
    save_every: int = Field(50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(1, ge=1)
    """How many of the last checkpoints stay on disk."""
    keep_best: bool = True
    """The finished model is the one with the lowest validation loss, not the last one."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics go besides metrics.jsonl."""

    @property
    def columns(self) -> dict[str, Any]:
        """Which columns of the data are what, as arguments of `load_examples`."""
        return {"columns": self.map or None}

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("validation")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0.0 <= value < 1.0:
            raise ValueError("a share lies in [0, 1)")
        return value

    @model_validator(mode="after")
    def _full_trains_everything(self) -> Self:
        if self.tuning == "full" and self.lora.trainable_tokens:
            raise ValueError("lora.trainable_tokens belongs to tuning: lora; full fine-tuning trains every row anyway")
        if self.tuning == "full" and self.lora.layers != ALL_LAYERS:
            raise ValueError("lora.layers belongs to tuning: lora; full fine-tuning trains every layer")
        return self


class PolicyConfig(TrainConfig):
    """What the stages share that train a model which speaks."""

    monitor: MonitorConfig | None = None
    """Measure a light part of the report card while training, as in `{every: 20, parts: [retention, answers]}`; `{}`
    takes what is usual. It changes no weight."""
    guard: GuardConfig | None = None
    """Bounds on what is measured, as in `{retention: {max_drop: 0.02}, action: rollback}`; `action` is `warn`, `stop`
    or `rollback`."""

    @property
    def watched(self) -> MonitorConfig | None:
        """The monitor that runs, with what the guard needs; none if neither is asked for."""
        return watching(self.monitor, self.guard)

    @model_validator(mode="after")
    def _acts_at_fixed_steps(self) -> Self:
        if self.guard is not None and self.guard.acts and self.monitor is not None and self.monitor.every == "auto":
            raise ValueError(
                f"guard.action: {self.guard.action} ends a run where it is looked at, and monitor.every: auto follows "
                "the clock, so that no run would repeat: give monitor.every a number of steps, or validation"
            )
        return self


class SFTConfig(PolicyConfig):
    """Supervised fine-tuning: cross-entropy on the response tokens."""

    stage: ClassVar[str] = "sft"


def _default_loss() -> dict[str, float | int | str]:
    return {"name": "sigmoid", "beta": 0.1}


class DPOConfig(PolicyConfig):
    """Direct preference optimisation: learn from pairs, without a reward model."""

    stage: ClassVar[str] = "dpo"

    loss: dict[str, float | int | str] = Field(default_factory=_default_loss)
    """The preference loss and its options, as in `{name: sigmoid, beta: 0.1, label_smoothing: 0.0}`."""
    learning_rate: float = Field(5e-5, gt=0.0, le=1.0)
    """The peak learning rate."""

    @model_validator(mode="before")
    @classmethod
    def _beta_is_the_loss_s(cls, values: Any) -> Any:
        """`beta: 0.05` is short for `loss: {beta: 0.05}`, with whatever else the loss says."""
        if not isinstance(values, dict) or "beta" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "beta"}
        loss = rest.get("loss", _default_loss())
        return {**rest, "loss": {**loss, "beta": values["beta"]}} if isinstance(loss, dict) else rest


class RewardConfig(TrainConfig):
    """A reward model: a scalar head, and an adapter beside it, learn to score the better response higher."""

    stage: ClassVar[str] = "reward"

    tuning: Literal["lora", "head", "full"] = "lora"  # type: ignore[assignment]
    """Train an adapter with its head, the head alone (on features computed once), or all of the weights."""
    learning_rate: float = Field(1e-4, gt=0.0, le=1.0)
    """The peak learning rate."""
    margin: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """How far apart the scores of a pair should be at least."""
    margin_column: str | None = None
    """A column of the data (after `map`) with each pair's own margin, 0 or above, in place of `margin`."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)
    """The share of the labels that is taken to be wrong."""
    centring: float = Field(0.01, ge=0.0, allow_inf_nan=False)
    """Weight of (r_chosen + r_rejected)^2, which keeps the scores around zero."""
    members: int = Field(1, ge=1, le=16)
    """So many adapters with heads, an ensemble; each sees a bootstrap sample of the pairs in an order of its own."""
    holdout: bool = False
    """Keep the last member away from PPO, as the judge of over-optimisation."""

    @model_validator(mode="before")
    @classmethod
    def _does_not_speak(cls, values: Any) -> Any:
        for name in ("monitor", "guard"):
            if isinstance(values, dict) and values.get(name) is not None:
                raise ValueError(
                    f"{name} asks the model under training, and a reward model does not speak: its held-out accuracy "
                    "is in the validation"
                )
        return values

    @property
    def columns(self) -> dict[str, Any]:
        """The same, and where the margins stand."""
        return {**super().columns, "margin": self.margin_column}

    @model_validator(mode="after")
    def _one_margin(self) -> Self:
        if self.margin_column is not None and self.margin:
            raise ValueError("margin_column gives each pair a margin of its own: leave margin away")
        return self

    @model_validator(mode="after")
    def _members_are_adapters(self) -> Self:
        if self.members > 1 and self.tuning != "lora":
            raise ValueError("members of an ensemble are adapters: more than one need tuning: lora")
        if self.holdout and self.members < 2:
            raise ValueError("holdout keeps one member back: it needs members: 2 or more")
        if self.tuning == "head" and (self.lora.trainable_tokens or self.lora.layers != ALL_LAYERS):
            raise ValueError(
                "lora.trainable_tokens and lora.layers belong to tuning: lora; tuning: head trains the head alone"
            )
        return self


Advantage = Literal["gae", "rloo", "grpo"]


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
        if self.advantage != "gae" and (self.critic_warmup or self.critic_learning_rate is not None):
            raise ValueError(f"{self.advantage} has no critic: critic_warmup and critic_learning_rate need gae")
        if self.on_alarm == "rollback" and not self.keep_best:
            raise ValueError("on_alarm: rollback goes back to the best weights: it needs keep_best: true")
        if self.tuning == "full" and self.reference_ema is not None:
            raise ValueError("reference_ema averages adapters: it needs tuning: lora")
        if self.max_length is not None and self.max_length <= self.max_new_tokens:
            raise ValueError("max_length holds prompt and response: it must be above max_new_tokens")
        return self
