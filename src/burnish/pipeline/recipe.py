"""Recipes: a graph of stages in YAML, checked as a whole before anything is loaded.

    name: assistant
    model: gemma-3-270m
    stages:
      sft: {data: starter/sft, epochs: 2}
      dpo: {from: sft, data: starter/preferences}
      merge: {from: dpo}
      report: {models: {raw: model, sft: sft, dpo: dpo}}

A stage is named after its kind, or says it (`stage: dpo`). `from` says where it starts: `model`, or another stage. All
other keys are the stage's settings, the same names as the flags of its command.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from burnish.config import Config, field_problems, read_yaml
from burnish.errors import BurnishError, ConfigError, suggest
from burnish.evaluation.public_sets import split_format
from burnish.models.catalog import CATALOG
from burnish.models.loading import resolve_model
from burnish.pipeline.kinds import KINDS, NAMES_FUNCTIONS, NAMES_MODELS, ReportConfig, StageKind
from burnish.pipeline.overrides import apply_overrides
from burnish.rollout.endpoint import Endpoint, is_endpoint
from burnish.stages.config import DPOConfig, TrainConfig
from burnish.stages.functions import is_function
from burnish.stages.run import model_of

RAW = "model"
"""What `from` and a report call the recipe's own model."""
_CHOSEN_FOR_IT = {
    RAW: "a recipe's stage starts from what `from` names",
    "out": "burnish chooses the directory (--runs-dir, the recipe's name, the stage's name)",
}


_NESTED = ("lora", "monitor", "guard")
"""Settings with settings of their own: a stage's are laid over the recipe's defaults key by key."""


class RecipeFile(Config):
    """A recipe as it is written."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the directory of the results."""
    description: str = ""
    """For the reader."""
    model: str
    """The model that all begins with: a catalog name, a directory or a hub id."""
    seed: int | None = Field(None, ge=0)
    """Of every stage that does not set its own."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Settings of all stages that train and do not set them."""
    stages: dict[str, dict[str, Any] | None] = Field(min_length=1)
    """Name -> settings, in any order."""


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


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that holds together; `stages` stand in an order in which they can run."""

    name: str
    path: Path
    model: str
    stages: tuple[Stage, ...]
    overrides: tuple[str, ...] = ()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. No model and no data is loaded.

    Paths in it are looked for beside the recipe first, then from the current directory.

    Args:
        path: a YAML file, or `starter/NAME` for a recipe that comes with burnish.
        overrides: `key=value`, as in `dpo.loss.beta=0.05`; the value is read as YAML.

    Raises:
        ConfigError: naming the place of everything that is wrong, with the closest known names.
    """
    file, base = _find(str(path))
    raw = read_yaml(file)
    if not isinstance(raw, dict):
        raise ConfigError("a recipe is a mapping with name, model and stages", where=str(path))
    changed = apply_overrides(raw, overrides, list(RecipeFile.model_fields))
    reader = _Reader(raw, base)
    recipe = reader.recipe(Path(path))
    if reader.problems:
        raise _error(reader.problems, str(path), changed)
    assert recipe is not None
    return replace(recipe, overrides=tuple(overrides))


def _find(path: str) -> tuple[Path, Path]:
    """The recipe's file, and the directory from which its paths count."""
    file = Path(path).expanduser()
    if file.is_file() or not path.startswith("starter/"):
        return file, file.parent
    name = path.removeprefix("starter/").removesuffix(".yaml")
    folder = resources.files("burnish.starter")
    names = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    if name not in names:
        known = ", ".join(f"starter/{known}" for known in names)
        raise ConfigError(f"no starter recipe {name!r}{suggest(name, names)}", where=path, fix=f"there is: {known}")
    return Path(str(folder / f"{name}.yaml")), Path()


def _error(problems: Mapping[str, str], file: str, changed: Mapping[str, str]) -> ConfigError:
    def place(field: str) -> str:
        given = next((text for key, text in changed.items() if key == field or key.startswith(f"{field}.")), None)
        return f"{file}: {field}" if given is None else f"command line: {given}"

    if len(problems) == 1:
        ((field, what),) = problems.items()
        what = field.rpartition(".")[2] + " " + what if what == "is required" else what
        return ConfigError(what, where=place(field), fix="mend it and run the same command again")
    listed = "\n".join(f"  {place(field)}: {what}" for field, what in problems.items())
    return ConfigError(f"{len(problems)} mistakes in the recipe\n{listed}", fix="mend them and run the command again")


# ---- checking ----


class _Reader:
    """Turns plain values into a recipe and collects everything that is wrong with them, by place."""

    def __init__(self, raw: dict[str, Any], base: Path) -> None:
        self.raw, self.base = raw, base
        self.problems: dict[str, str] = {}
        self.stages: dict[str, Stage] = {}
        self.own: dict[str, dict[str, Any]] = {}
        """What each stage sets itself, without defaults."""

    def recipe(self, file: Path) -> Recipe | None:
        """The recipe, or none with what is wrong in `problems`."""
        try:
            top = RecipeFile.model_validate(self.raw)
        except ValidationError as error:
            self.problems |= dict(field_problems(error, RecipeFile))
            return None
        self._check_defaults(top)
        for name, values in top.stages.items():
            self._read_stage(name, dict(values or {}), top)
        model = _located_path(top.model, self.base)
        if what := self._unknown_model(model, ()):
            self.problems["model"] = what
        for stage in self.stages.values():
            self._check_inputs(stage, _model_makers(top))
        if not self.problems:
            self._check_cycles()
        if not self.problems:
            for stage in self.stages.values():
                self._check_adapter(stage, model)
        return None if self.problems else Recipe(top.name, file, model, tuple(_in_order(self.stages)))

    def _check_defaults(self, top: RecipeFile) -> None:
        known = sorted({field for spec in KINDS.values() if spec.trains for field in _settable(spec)})
        for key in top.defaults:
            if key not in known:
                self.problems[f"defaults.{key}"] = f"unknown key{suggest(key, known)}"

    # -- one stage --

    def _read_stage(self, name: str, values: dict[str, Any], top: RecipeFile) -> None:
        place = f"stages.{name}"
        if name in RecipeFile.model_fields or not name.replace("-", "").replace("_", "").isalnum():
            self.problems[place] = "this name is taken, or has other characters than letters, digits, - and _"
            return
        kind = values.pop("stage", name)
        if not isinstance(kind, str) or kind not in KINDS:
            hint = suggest(str(kind), list(KINDS)) or f"; `stage:` is one of {', '.join(KINDS)}"
            self.problems[place if kind == name else f"{place}.stage"] = f"unknown stage {kind!r}{hint}"
            return
        start = values.pop("from", None) if kind != "report" else None
        self.own[name] = values
        if "from" in values:
            self.problems[f"{place}.from"] = "a report has no `from` but `models: {name: stage}`"
        for field in values.keys() & _CHOSEN_FOR_IT.keys():
            self.problems[f"{place}.{field}"] = f"can't be set: {_CHOSEN_FOR_IT[field]}"
        config = self._config(name, kind, top)
        if kind != "report":
            start = self._start(name, start, top)
        if config is not None:
            self.stages[name] = Stage(name, kind, start, config)

    def _config(self, name: str, kind: str, top: RecipeFile) -> Config | None:
        """The stage's settings, with placeholders for what is only known when it runs."""
        spec, own = KINDS[kind], self.own[name]
        values = {key: value for key, value in own.items() if key not in _CHOSEN_FOR_IT and key != "from"}
        if spec.trains:
            values = _with_defaults(values, top, spec)
        if kind == "report":
            values |= {"seed": top.seed} if top.seed is not None and "seed" not in own else {}
            values.setdefault("models", {"raw": RAW, **{stage: stage for stage in _speaking(top)}})
        filled = {field: "-" for field in _CHOSEN_FOR_IT if field in spec.config.model_fields}
        try:
            config = spec.config.model_validate({**values, **filled})
        except ValidationError as error:
            for field, what in field_problems(error, spec.config):
                first = field.partition(".")[0]
                inherited = first in top.defaults and first not in own
                self.problems[f"defaults.{field}" if inherited else f"stages.{name}.{field}"] = what
            return None
        if isinstance(config, DPOConfig) and (wrong := _loss_problem(config.loss)):
            self.problems[f"stages.{name}.loss"] = wrong
        return _located(config, self.base)

    def _start(self, name: str, start: Any, top: RecipeFile) -> str:
        """Where a stage starts; only the first one that trains may leave it unsaid."""
        if isinstance(start, str):
            return start
        if start is None and name == next(iter(_trained(top)), None):
            return RAW
        known = ", ".join([RAW, *(other for other in _model_makers(top) if other != name)])
        self.problems[f"stages.{name}.from"] = f"say where the stage starts: {known}"
        return RAW

    # -- between stages --

    def _check_inputs(self, stage: Stage, names: Sequence[str]) -> None:
        if isinstance(stage.config, ReportConfig):
            models = dict(stage.config.models)
            for label, target in models.items():
                if target in (RAW, *names):
                    continue
                models[label] = _located_path(target, self.base)
                if what := self._unknown_model(models[label], names):
                    self.problems[f"stages.{stage.name}.models.{label}"] = what
            update: dict[str, Any] = {"models": models, "topic_judge": self._topic_judge(stage, models, names)}
            self.stages[stage.name] = replace(stage, config=stage.config.model_copy(update=update))
            self._check_harness(stage.name, stage.config)
        elif stage.start != RAW and stage.start not in names:
            hint = suggest(str(stage.start), [RAW, *names]) or f"; it can start from {', '.join([RAW, *names])}"
            self.problems[f"stages.{stage.name}.from"] = f"no stage {stage.start!r}{hint}"
        self._check_rewards(stage, names)

    def _topic_judge(self, stage: Stage, models: Mapping[str, str], names: Sequence[str]) -> str | None:
        """What judges topics, as what `models` has: `model`, a stage, or another model."""
        assert isinstance(stage.config, ReportConfig)
        wanted = stage.config.topic_judge
        if wanted is None:
            return None
        target, what = models.get(wanted, wanted), None
        if is_endpoint(target):
            what = "an endpoint gives no log-probabilities: name a local model"
        elif target in self.stages and self.stages[target].kind == "reward":
            what = f"{target!r} is a reward model, which does not speak"
        elif target not in (RAW, *names):
            target = _located_path(target, self.base)
            what = self._unknown_model(target, [*models, *names])
        if what is not None:
            self.problems[f"stages.{stage.name}.topic_judge"] = what
        return target

    def _check_harness(self, name: str, config: ReportConfig) -> None:
        if not config.lm_eval and config.lm_eval_path is None:
            return
        from burnish.pipeline.evidence import check_harness

        try:
            check_harness(config.lm_eval, config.lm_eval_path)
        except ConfigError as error:
            self.problems[f"stages.{name}.{error.where}"] = f"{error.what}; {error.fix}"

    def _check_rewards(self, stage: Stage, names: Sequence[str]) -> None:
        """A reward model is a stage `reward` or a directory; and nothing else goes on from one, or speaks."""
        rewards = [name for name in names if name in self.stages and self.stages[name].kind == "reward"]
        for field, target in stage.rewards.items():
            place = f"stages.{stage.name}.{field}"
            if target in names and target not in rewards:
                self.problems[place] = f"{target!r} is no reward model: its stage is {self.stages[target].kind!r}"
            elif target not in names and not Path(target).expanduser().is_dir():
                hint = suggest(target, rewards) or f"; reward models of the recipe: {', '.join(rewards) or 'none'}"
                self.problems[place] = f"no stage, directory or function is called {target!r}{hint}"
        for field in NAMES_FUNCTIONS:
            file = (getattr(stage.config, field, None) or "").rpartition(":")[0]
            if file.endswith(".py") and not Path(file).expanduser().is_file():
                self.problems[f"stages.{stage.name}.{field}"] = f"no such file: {file}"
        if stage.start in rewards and stage.kind != "merge":
            self.problems[f"stages.{stage.name}.from"] = f"{stage.start!r} is a reward model, which does not speak"
        if isinstance(stage.config, ReportConfig):
            for label, target in stage.config.models.items():
                if target in rewards:
                    self.problems[f"stages.{stage.name}.models.{label}"] = (
                        f"{target!r} is a reward model, which does not speak"
                    )

    def _unknown_model(self, model: str, stages: Sequence[str]) -> str | None:
        try:
            if is_endpoint(model):
                Endpoint.parse(model)
            else:
                resolve_model(model_of(model))
        except BurnishError as error:
            hint = suggest(model, [*stages, *CATALOG]) if stages else ""
            return f"neither a stage nor a model is called {model!r}{hint}" if hint else error.what
        return None

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

    def _check_adapter(self, stage: Stage, model: str) -> None:
        """A merge needs an adapter; a stage that goes on with one can't ask for another shape of it."""
        if stage.start is None:
            return
        on_adapter = self._gives_adapter(stage.start, model)
        if stage.kind == "merge" and not on_adapter:
            self.problems[f"stages.{stage.name}.from"] = f"nothing to merge: {stage.start!r} is a whole model"
        if isinstance(stage.config, TrainConfig) and on_adapter and "lora" in self.own[stage.name]:
            self.problems[f"stages.{stage.name}.lora"] = (
                f"has no effect: the stage goes on with the adapter of {stage.start!r}; set it there"
            )

    def _gives_adapter(self, start: str, model: str) -> bool:
        if start == RAW:
            return resolve_model(model_of(model)).kind == "adapter"
        config = self.stages[start].config
        return isinstance(config, TrainConfig) and config.tuning == "lora"


def _kinds(top: RecipeFile) -> dict[str, Any]:
    return {name: (values or {}).get("stage", name) for name, values in top.stages.items()}


def _trained(top: RecipeFile) -> list[str]:
    return [name for name, kind in _kinds(top).items() if kind in KINDS and KINDS[kind].trains]


def _speaking(top: RecipeFile) -> list[str]:
    return [name for name in _trained(top) if _kinds(top)[name] != "reward"]


def _model_makers(top: RecipeFile) -> list[str]:
    return [name for name, kind in _kinds(top).items() if kind != "report"]


def _settable(spec: StageKind) -> list[str]:
    return [field for field in spec.config.model_fields if field not in _CHOSEN_FOR_IT]


def _with_defaults(values: Mapping[str, Any], top: RecipeFile, spec: StageKind) -> dict[str, Any]:
    """A stage's own values over the recipe's defaults and seed; nested settings key by key."""
    shared = {key: value for key, value in top.defaults.items() if key in spec.config.model_fields}
    if top.seed is not None:
        shared.setdefault("seed", top.seed)
    merged = copy.deepcopy(shared)
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key in _NESTED
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _located(config: Config, base: Path) -> Config:
    """The settings with their paths as they are found from the recipe's directory."""
    if isinstance(config, ReportConfig):
        sets = {"prompts": config.prompts, "choices": config.choices}
        found = {name: _located_set(place, base) for name, place in sets.items()}
        if config.reward is not None:
            found["reward"] = _located_path(config.reward, base)
        if config.lm_eval_path is not None:
            found["lm_eval_path"] = _located_path(config.lm_eval_path, base)
        return config.model_copy(update=found)
    if not isinstance(config, TrainConfig):
        return config
    fields = {"data": config.data, "validation": config.validation, "template": config.template}
    found = {name: _located_path(value, base) for name, value in fields.items() if isinstance(value, str)}
    for name in NAMES_FUNCTIONS:
        if isinstance(value := getattr(config, name, None), str):
            path, colon, function = value.rpartition(":") if is_function(value) else (value, "", "")
            is_module = bool(colon) and not path.endswith(".py")  # a folder of its name is not meant
            found[name] = value if is_module else _located_path(path, base) + colon + function
    monitor = getattr(config, "monitor", None)
    if monitor is not None:
        prompts = _located_path(monitor.prompts, base)
        return config.model_copy(update={**found, "monitor": monitor.model_copy(update={"prompts": prompts})})
    return config.model_copy(update=found)


def _located_path(text: str, base: Path) -> str:
    path = Path(text).expanduser()
    return str(base / path) if not path.is_absolute() and (base / path).exists() else text


def _located_set(text: str, base: Path) -> str:
    """The same for an evaluation set, whose format may stand before its path."""
    said, path = split_format(text)
    return f"{said}:{_located_path(path, base)}" if said else _located_path(path, base)


def _loss_problem(loss: Mapping[str, Any]) -> str | None:
    from burnish.losses.preference import make_loss

    try:
        make_loss(loss)
    except ValueError as error:
        return str(error)
    return None


def _in_order(stages: Mapping[str, Stage]) -> Iterator[Stage]:
    """The stages, each after those that it needs, else in the order of the recipe."""
    waiting = dict(stages)
    while waiting:
        ready = next(s for s in waiting.values() if not (set(s.inputs) & waiting.keys()))
        yield waiting.pop(ready.name)
