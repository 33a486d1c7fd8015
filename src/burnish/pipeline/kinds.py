"""The kinds of stages that a recipe can name: their settings, and where their code stands."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from burnish.config import Config
from burnish.data.examples import Kind
from burnish.pipeline.report_config import ReportConfig
from burnish.stages.config import DPOConfig, RewardConfig, SFTConfig, TrainConfig
from burnish.stages.ppo_config import PPOConfig


class MergeConfig(Config):
    """Put an adapter into the weights of its base."""

    stage: ClassVar[str] = "merge"

    model: str
    """The adapter to merge."""
    out: Path
    """Where the merged model goes."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the merged weights."""


@dataclass(frozen=True, slots=True)
class StageKind:
    """One kind of stage.

    Attributes:
        config: its settings.
        entry: its function, as `package.module:function`.
        data: what its data must yield, for a stage that trains.
    """

    config: type[Config]
    entry: str
    data: Kind | None = None

    def function(self) -> Callable[..., Any]:
        """Import the stage's function."""
        module, _, name = self.entry.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found

    @property
    def trains(self) -> bool:
        """Whether the stage trains, with the settings that all such stages share."""
        return issubclass(self.config, TrainConfig)


NAMES_MODELS = ("reward", "judge")
"""Settings of PPO that may name a stage of the recipe: a reward model. (A report's judge is an endpoint.)"""
NAMES_FUNCTIONS = (*NAMES_MODELS, "reward_function")
"""Settings of PPO that may name a function."""

KINDS: Mapping[str, StageKind] = {
    "sft": StageKind(SFTConfig, "burnish.stages.sft:train_sft", "sft"),
    "reward": StageKind(RewardConfig, "burnish.stages.reward:train_reward", "preference"),
    "dpo": StageKind(DPOConfig, "burnish.stages.dpo:train_dpo", "preference"),
    "ppo": StageKind(PPOConfig, "burnish.stages.ppo:train_ppo", "prompt"),
    "merge": StageKind(MergeConfig, "burnish.stages.merge:merge_model"),
    "report": StageKind(ReportConfig, "burnish.pipeline.report:report"),
}
