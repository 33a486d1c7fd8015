"""A recipe's stages and what they need of each other: checked as a whole, and put in an order in which they can run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from burnish.config import Config
from burnish.errors import BurnishError, ConfigError, suggest
from burnish.models.catalog import CATALOG
from burnish.models.loading import resolve_model
from burnish.pipeline.kinds import KINDS, NAMES_FUNCTIONS, NAMES_MODELS, StageKind
from burnish.pipeline.paths import located_path
from burnish.pipeline.report_config import ReportConfig, check_comparison
from burnish.rollout.endpoint import Endpoint, is_endpoint
from burnish.stages.config import TrainConfig
from burnish.stages.functions import is_function
from burnish.stages.run import model_of

RAW = "model"
"""What `from` and a report call the recipe's own model."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe, checked.

    Attributes:
        name: as the recipe has it.
        kind: a key of `KINDS`.
        start: `model` or the stage that it starts from; none for a report.
        config: its settings; `model` and `out` are filled in when it runs.
    """

    name: str
    kind: str
    start: str | None
    config: Config

    @property
    def spec(self) -> StageKind:
        """What is known of its kind."""
        return KINDS[self.kind]

    @property
    def inputs(self) -> tuple[str, ...]:
        """`model`, stages and other models that it needs."""
        if isinstance(self.config, ReportConfig):
            judge = [self.config.topic_judge] if self.config.topic_judge is not None else []
            return tuple(dict.fromkeys([*self.config.models.values(), *judge, *self.rewards.values()]))
        return (*((self.start,) if self.start is not None else ()), *self.rewards.values())

    @property
    def rewards(self) -> dict[str, str]:
        """Setting -> the stage or the directory of the reward model that it names; of PPO and reports."""
        names = ("reward",) if isinstance(self.config, ReportConfig) else NAMES_MODELS
        named = {name: getattr(self.config, name, None) for name in names}
        return {name: value for name, value in named.items() if value is not None and not is_function(value)}


class StageGraph:
    """Stages that are right by themselves, and what is wrong between them.

    Args:
        stages: name -> stage.
        makers: name -> kind of all stages that give a model, those included that are wrong by themselves.
        base: the recipe's directory, from which its paths count.
        problems: takes what is wrong, by its place in the recipe; holds what is known so far.
    """

    def __init__(
        self, stages: Mapping[str, Stage], makers: Mapping[str, str], base: Path, problems: dict[str, str]
    ) -> None:
        self.stages, self.makers = dict(stages), makers
        self.base, self.problems = base, problems

    def check(self, model: str, *, set_lora: Collection[str]) -> None:
        """Find what is wrong, and put in where a report's models lie.

        Args:
            model: the recipe's own.
            set_lora: the stages with settings of LoRA of their own.
        """
        for stage in list(self.stages.values()):
            self._check_inputs(stage)
            self._check_rewards(self.stages[stage.name])
        if not self.problems:
            self._check_cycles()
        if not self.problems:
            for stage in self.stages.values():
                self._check_adapter(stage, model, sets_lora=stage.name in set_lora)

    def in_order(self) -> Iterator[Stage]:
        """The stages, each after those that it needs, else in the order of the recipe."""
        waiting = dict(self.stages)
        while waiting:
            ready = next(s for s in waiting.values() if not (set(s.inputs) & waiting.keys()))
            yield waiting.pop(ready.name)

    # -- what a stage names --

    def _check_inputs(self, stage: Stage) -> None:
        if isinstance(stage.config, ReportConfig):
            self._check_report(stage, stage.config)
        elif stage.start != RAW and stage.start not in self.makers:
            known = [RAW, *self.makers]
            hint = suggest(str(stage.start), known) or f"; it can start from {', '.join(known)}"
            self.problems[f"stages.{stage.name}.from"] = f"no stage {stage.start!r}{hint}"

    def _check_report(self, stage: Stage, config: ReportConfig) -> None:
        models = dict(config.models)
        for label, target in models.items():
            place = f"stages.{stage.name}.models.{label}"
            if self.makers.get(target) == "reward":
                self.problems[place] = f"{target!r} is a reward model, which does not speak"
            elif target not in (RAW, *self.makers):
                models[label] = located_path(target, self.base)
                if what := unknown_model(models[label], self.makers):
                    self.problems[place] = what
        update = {"models": models, "topic_judge": self._topic_judge(stage.name, config.topic_judge, models)}
        self.stages[stage.name] = replace(stage, config=config.model_copy(update=update))
        try:
            check_comparison(list(models), judge=config.judge, reward=config.reward, baseline=config.baseline)
        except ConfigError as error:
            self.problems[f"stages.{stage.name}.{error.where}"] = f"{error.what}; {error.fix}"
        self._check_harness(stage.name, config)

    def _topic_judge(self, stage: str, wanted: str | None, models: Mapping[str, str]) -> str | None:
        """What judges topics, as what `models` has: `model`, a stage, or another model."""
        if wanted is None:
            return None
        target, what = models.get(wanted, wanted), None
        if is_endpoint(target):
            what = "an endpoint gives no log-probabilities: name a local model"
        elif self.makers.get(target) == "reward":
            what = f"{target!r} is a reward model, which does not speak"
        elif target not in (RAW, *self.makers):
            target = located_path(target, self.base)
            what = unknown_model(target, [*models, *self.makers])
        if what is not None:
            self.problems[f"stages.{stage}.topic_judge"] = what
        return target

    def _check_harness(self, name: str, config: ReportConfig) -> None:
        if not config.lm_eval and config.lm_eval_path is None:
            return
        from burnish.pipeline.evidence import check_harness

        try:
            check_harness(config.lm_eval, config.lm_eval_path)
        except ConfigError as error:
            self.problems[f"stages.{name}.{error.where}"] = f"{error.what}; {error.fix}"

    def _check_rewards(self, stage: Stage) -> None:
        """A reward model is a stage `reward` or a directory; and nothing but a merge goes on from one."""
        rewards = [name for name, kind in self.makers.items() if kind == "reward"]
        for field, target in stage.rewards.items():
            place = f"stages.{stage.name}.{field}"
            if target in self.makers and target not in rewards:
                self.problems[place] = f"{target!r} is no reward model: its stage is {self.makers[target]!r}"
            elif target not in self.makers and not Path(target).expanduser().is_dir():
                hint = suggest(target, rewards) or f"; reward models of the recipe: {', '.join(rewards) or 'none'}"
                self.problems[place] = f"no stage, directory or function is called {target!r}{hint}"
        for field in NAMES_FUNCTIONS:
            file = (getattr(stage.config, field, None) or "").rpartition(":")[0]
            if file.endswith(".py") and not Path(file).expanduser().is_file():
                self.problems[f"stages.{stage.name}.{field}"] = f"no such file: {file}"
        if stage.start in rewards and stage.kind != "merge":
            self.problems[f"stages.{stage.name}.from"] = f"{stage.start!r} is a reward model, which does not speak"

    # -- what follows from it --

    def _check_cycles(self) -> None:
        """Stages that wait for each other, through what they start from or what rewards them."""
        for name, stage in self.stages.items():
            if (path := self._way_back(name)) is not None:
                settings = {stage.start or RAW: "from"} | {target: field for field, target in stage.rewards.items()}
                field = "models" if isinstance(stage.config, ReportConfig) else settings[path[1]]
                what = "the stages start from each other" if field == "from" else "the stages need each other"
                self.problems[f"stages.{name}.{field}"] = f"{what}: {' <- '.join(path)}"
                return

    def _way_back(self, name: str) -> list[str] | None:
        """The shortest way from a stage over what stages need back to itself, or none."""
        ways, seen = [[name]], {name}
        for way in ways:
            for needed in self.stages[way[-1]].inputs:
                if needed == name:
                    return [*way, name]
                if needed in self.stages and needed not in seen:
                    seen.add(needed)
                    ways.append([*way, needed])
        return None

    def _check_adapter(self, stage: Stage, model: str, *, sets_lora: bool) -> None:
        """A merge needs an adapter; a stage that goes on with one can't ask for another shape of it."""
        if stage.start is None:
            return
        on_adapter = self._gives_adapter(stage.start, model)
        if stage.kind == "merge" and not on_adapter:
            self.problems[f"stages.{stage.name}.from"] = f"nothing to merge: {stage.start!r} is a whole model"
        if isinstance(stage.config, TrainConfig) and on_adapter and sets_lora:
            self.problems[f"stages.{stage.name}.lora"] = (
                f"has no effect: the stage goes on with the adapter of {stage.start!r}; set it there"
            )

    def _gives_adapter(self, start: str, model: str) -> bool:
        if start == RAW:
            return resolve_model(model_of(model)).kind == "adapter"
        config = self.stages[start].config
        return isinstance(config, TrainConfig) and config.tuning == "lora"


def unknown_model(model: str, others: Collection[str] = ()) -> str | None:
    """Why a model can't be found, if so.

    Args:
        model: its name, or an endpoint's.
        others: what else could stand in its place, for a mistyped name.
    """
    try:
        if is_endpoint(model):
            Endpoint.parse(model)
        else:
            resolve_model(model_of(model))
    except BurnishError as error:
        hint = suggest(model, [*others, *CATALOG]) if others else ""
        return f"neither a stage nor a model is called {model!r}{hint}" if hint else error.what
    return None
