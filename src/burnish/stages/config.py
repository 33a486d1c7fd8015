"""The configuration of the training stages: one flat model a stage, LoRA and loss nested.

Every field is a key in a recipe and a flag on the command line; its docstring is the help text of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from burnish.config import Config
from burnish.models.config import ALL_LAYERS, Compute, LoRAConfig, Precision
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
    compute: Compute = "fast"
    """`plain` takes none of the fast paths: a row a response, transformers' own attention and norms, whole logits. It
    is slow and gives the same but for rounding; to compare with."""
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
    micro_batch_tokens: int = Field(2048, ge=16)
    """Tokens (padding included) that are computed at once; a batch is cut into as many parts as that needs. On a CPU
    1,024 are as fast and take less memory; a GPU may want more."""
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
    def _share_has_an_effect(self) -> Self:
        # Held against the default and not against what was given, so that a run's record can be read as settings again.
        usual = MonitorConfig.model_fields["share"].default
        if self.monitor is None or self.watched is None or self.watched.every == "auto" or self.monitor.share == usual:
            return self
        if self.monitor.every is None:
            why = "a guard that acts looks at each validation: leave it out, or give monitor.every a number of steps"
        else:
            why = f"monitor.every is {self.monitor.every}: leave it out"
        raise ValueError(f"monitor.share: {self.monitor.share:g} has no effect, for {why}")

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
        return self

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Self:
        if self.tuning != "lora" and self.lora != LoRAConfig():
            raise ValueError(f"lora belongs to tuning: lora; with tuning: {self.tuning} there is no adapter")
        if self.tuning == "head" and self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing is for a backbone that trains; tuning: head trains the head alone")
        if self.validation == 0.0 and self.eval_every is not None:
            raise ValueError("eval_every: validation is 0, so there is nothing to evaluate")
        return self
