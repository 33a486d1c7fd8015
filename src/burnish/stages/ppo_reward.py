"""What a response earns: a reward model's score or a function's, or both, normalised, less what a missing end costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish.data.chat import decode_response
from burnish.data.sources import Example, LoadedData
from burnish.errors import ConfigError, DataError, TrainingError
from burnish.models.heads import demand_members, ensemble_score
from burnish.ops.running import RunningMoments
from burnish.stages.functions import Episodes, RewardFunction, is_function, load_function
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.ppo_roles import Cast
from burnish.stages.ppo_rollout import Sampled, missing_eos


def functions_of(config: PPOConfig) -> dict[str, RewardFunction]:
    """Setting -> the function that it names; imported, and directories of reward models looked for, before anything is
    loaded.

    Raises:
        ConfigError: for a function that can't be imported, or a reward model that is not there.
    """
    named = {"reward": config.reward, "reward_function": config.reward_function, "judge": config.judge}
    found = {}
    for where, name in named.items():
        if name is None:
            continue
        if where == "reward_function" or is_function(name):
            found[where] = load_function(name, where=where)
        elif name.endswith(".py"):
            raise ConfigError(f"{name} is a file, not a function in it", where=where, fix=f"give {name}:FUNCTION")
        elif not Path(name).expanduser().is_dir():
            raise ConfigError(
                f"there is no directory {name}",
                where=where,
                fix="give what burnish reward wrote, or a function as module:function or FILE.py:function",
            )
    return found


def examples_by_origin(data: tuple[LoadedData, LoadedData | None]) -> dict[str, Example]:
    """The examples by the place that a group names.

    Raises:
        DataError: two different examples stand in one place: a reward function would be told of the wrong one.
    """
    found: dict[str, Example] = {}
    for part in data:
        for example in [] if part is None else part.examples:
            if found.setdefault(str(example.origin), example) != example:
                raise DataError(
                    "two different rows are said to stand here", where=str(example.origin), fix="give one file for each"
                )
    return found


class Rewarder:
    """Scores responses as the settings say.

    Args:
        config: the stage's settings.
        cast: the roles; read for the tokenizer and the stop tokens.
        examples: the data's examples by origin, for functions that read a prompt's row.
        functions: `functions_of(config)`.
    """

    def __init__(
        self,
        config: PPOConfig,
        cast: Cast,
        examples: Mapping[str, Example],
        functions: Mapping[str, RewardFunction],
    ) -> None:
        demand_members(config.ensemble, cast.scorers, model=config.reward, where="ensemble")
        self.config, self.ground = config, cast.ground
        self.examples, self.functions = examples, functions
        self.moments = RunningMoments()

    def episodes(self, sampled: Sampled) -> Episodes:
        """Responses as texts, with the prompts' rows."""
        found = Episodes()
        for group in sampled.groups:
            example = self.examples[group.origin]
            asked = next(message.content for message in reversed(example.prompt) if message.role == "user")
            for response in group.responses:
                text = decode_response(self.ground.tokenizer, list(response.ids), self.ground.stop_ids)
                found.prompts.append(asked)
                found.responses.append(text)
                found.rows.append(example.meta)
                found.messages.append([{"role": said.role, "content": said.content} for said in example.prompt])
                found.origins.append(group.origin)
        return found

    def raw(self, members: Tensor, episodes: Episodes) -> Tensor:
        """(R,) what the policy is trained on, before normalisation and penalties, float64.

        Args:
            members: (scorers, R) scores of the reward model's members; empty where a function rewards.
            episodes: the responses as texts.

        Raises:
            TrainingError: a function failed, or a score is not finite.
        """
        config = self.config
        if "reward" in self.functions:
            total = self.functions["reward"](episodes)
        else:
            total = ensemble_score(members, config.ensemble, spread_penalty=config.spread_penalty).double()
        if "reward_function" in self.functions:
            more = self.functions["reward_function"](episodes)
            total = total + config.reward_function_weight * more
        if not bool(torch.isfinite(total).all()):
            bad = int((~torch.isfinite(total)).sum())
            raise TrainingError(
                f"the scores of {bad} of {len(total)} responses are not finite; training stopped",
                where=config.reward,
                fix="look at the reward model (burnish score), or use --dtype float32",
            )
        return total

    def unit(self, raw: Tensor) -> float:
        """How much of the raw score is one unit of the reward that the policy is trained on: the standard deviation
        that scores are divided by, or 1.

        Args:
            raw: (R,) scores of the starting model's own answers, which stand in before the first rollout.
        """
        if self.config.normalise != "running":
            return 1.0
        moments = self.moments
        if not moments.count:
            moments = RunningMoments()
            moments.update(raw)
        return moments.scale

    def rewards(self, raw: Tensor, finished: Tensor) -> Tensor:
        """(R,) raw scores of a rollout, normalised, less the penalty of the responses without an end.

        The moments take the scores in: to be called once a rollout, when nothing can stop it any more.
        """
        return missing_eos(self._normalised(raw), finished, self.config.missing_eos_penalty)

    def _normalised(self, raw: Tensor) -> Tensor:
        if self.config.normalise == "none":
            return raw
        # The first rollout is the starting model's own: the moments of `start` are taken there and stay.
        if self.config.normalise == "running" or not self.moments.count:
            self.moments.update(raw)
        return self.moments.normalise(raw, scale=self.config.normalise == "running")

    def state(self) -> dict[str, Any]:
        """The moments."""
        return self.moments.state()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.moments.load_state(state)
