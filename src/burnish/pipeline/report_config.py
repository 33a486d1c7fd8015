"""The settings of a report, for the command, the recipe and Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, ValidationInfo, field_validator

from burnish.config import Config
from burnish.errors import ConfigError, suggest
from burnish.models.config import Compute, Precision
from burnish.rollout.endpoint import Endpoint, is_endpoint
from burnish.stages.functions import is_function

JUDGE = "judge"
"""What `api_keys` calls the judge."""


class ReportConfig(Config):
    """Measure models side by side on the evaluation prompts."""

    stage: ClassVar[str] = "report"

    models: dict[str, str] = Field(min_length=1)
    """`{name: model}`: `model` (the raw one), a stage of the recipe, any other model, or an endpoint
    (`openai:BASE_URL#MODEL`)."""
    out: Path
    """Where report.html and report.json go."""
    prompts: str = "starter/evaluation"
    """The evaluation prompts: `starter/evaluation`, a JSON Lines file, a directory of them, or a public set."""
    choices: str = "starter/mcq"
    """The multiple-choice questions, likewise."""
    prose: str = "starter/prose"
    """The held-out texts whose nats per token are measured: `starter/prose`, a JSON Lines file, or a directory of
    them."""
    sample: int | None = Field(None, ge=1)
    """A fixed sample of so many evaluation prompts, spread over the behaviours; all of them if not given."""
    max_new_tokens: int = Field(128, ge=1)
    """The longest answer, in tokens."""
    batch_size: int = Field(128, ge=1)
    """Answers sampled at a time; the more, the sooner, and the more memory their keys and values take."""
    seed: int = Field(0, ge=0)
    """Of the sample and of the intervals."""
    dtype: Precision = "auto"
    """Of the weights and the activations; `auto` is bfloat16, or float32 on a CPU that multiplies it faster."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""
    compute: Compute = "fast"
    """`plain` takes none of the fast paths: slow, to compare with."""
    judge: str | None = None
    """An endpoint, `openai:BASE_URL#MODEL`, that compares every model's answers with the baseline's."""
    reward: str | None = None
    """A reward model that scores all answers: a stage `reward` of the recipe, or a run's directory."""
    baseline: str | None = None
    """The model that judge and reward model compare the others with; the first if not given."""
    topic_judge: str | None = None
    """The base model that says which conversation makes an answer most likely: a name of `models`, a stage of the
    recipe, or any model but an endpoint. The report's first raw model if not given."""
    dialogues: bool = True
    """Whether models also hold the conversations of `topic` themselves, turn by turn, where something judges topics; an
    answer more for each turn."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of EleutherAI's lm-evaluation-harness: a list, or `TASK,TASK` (`pip install 'burnish[lm-eval]'`)."""
    lm_eval_path: str | None = None
    """A directory with task files of one's own for it."""
    prices: dict[str, tuple[NonNegativeFloat, NonNegativeFloat]] = Field(default_factory=dict)
    """`{name: [in, out]}`: what a million tokens of the prompt and of the answer cost."""
    concurrency: int = Field(8, ge=1)
    """Requests to an endpoint under way at a time."""
    timeout: float = Field(120.0, gt=0)
    """Seconds that an endpoint may send nothing before the request is repeated."""
    api_keys: dict[str, str] = Field(default_factory=dict, repr=False)
    """`{name: VARIABLE}`: the environment variable with the key of an endpoint of `models`, or of the `judge`; of the
    others it is OPENAI_API_KEY. Never the key itself."""
    two_bases: bool = True
    """Whether the first model and one on another base may be in memory together, for the KL between them."""
    cache: bool = True
    """Whether answers are taken from burnish's cache and kept in it."""

    @field_validator("lm_eval", mode="before")
    @classmethod
    def _one_text_is_a_list(cls, tasks: Any) -> Any:
        return [task.strip() for task in tasks.split(",") if task.strip()] if isinstance(tasks, str) else tasks

    @field_validator("reward")
    @classmethod
    def _is_no_function(cls, reward: str | None) -> str | None:
        if reward is not None and is_function(reward):
            raise ValueError("a report's reward is a reward model; functions reward PPO only")
        return reward

    @field_validator("judge")
    @classmethod
    def _is_endpoint(cls, judge: str | None) -> str | None:
        if judge is not None:
            try:
                Endpoint.parse(judge)
            except ConfigError as error:
                raise ValueError(f"{error.what}; {error.fix}") from None
        return judge

    @field_validator("api_keys")
    @classmethod
    def _name_variables_of_endpoints(cls, variables: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        models, judge = info.data.get("models", {}), info.data.get("judge")
        if judge is not None and JUDGE in models and JUDGE in variables:
            raise ValueError(f"{JUDGE!r} is a model of the report and the judge: give the model another name")
        endpoints = [name for name, model in models.items() if is_endpoint(model)] + [JUDGE] * (judge is not None)
        for name, variable in variables.items():
            if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):  # it may be the key, so nothing of it is quoted
                raise ValueError(
                    "give names of environment variables, in capitals as in MY_KEY, not the keys themselves"
                )
            if name not in endpoints:
                raise ValueError(f"no endpoint of the report is called {name!r}{suggest(name, endpoints)}")
        return variables

    @field_validator("baseline", "prices")
    @classmethod
    def _names_are_known(cls, value: Any, info: ValidationInfo) -> Any:
        models = info.data.get("models", {})  # without them where they are wrong themselves
        for name in [value] if isinstance(value, str) else value or ():
            if models and name not in models:
                raise ValueError(f"no model of the report is called {name!r}{suggest(name, models)}")
        return value


def check_comparison(names: Sequence[str], *, judge: str | None, reward: str | None, baseline: str | None) -> None:
    """Refuse a comparison that has nothing to compare.

    Args:
        names: of the report's models.
        judge: as `ReportConfig` has it, and so are the others.
        reward: see there.
        baseline: see there.

    Raises:
        ConfigError: a judge of a single model; a baseline that is not in the report or has nothing to do.
    """
    if baseline is not None and baseline not in names:
        raise ConfigError(f"no model of the report is called {baseline!r}{suggest(baseline, names)}", where="baseline")
    if baseline is not None and judge is None and reward is None:
        fix = "give --judge or --reward (in a recipe judge: or reward:) with it, or leave it out"
        raise ConfigError("a baseline is for a judge or a reward model", where="baseline", fix=fix)
    if judge is not None and len(names) < 2:
        fix = "name another model to compare with, or leave the judge out"
        raise ConfigError("a judge compares models: a report with a judge needs two of them", where="judge", fix=fix)
