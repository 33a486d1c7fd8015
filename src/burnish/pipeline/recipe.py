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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from burnish.config import Config, field_problems, read_yaml
from burnish.errors import ConfigError, suggest
from burnish.pipeline.graph import RAW, Stage, StageGraph, unknown_model
from burnish.pipeline.kinds import KINDS, StageKind
from burnish.pipeline.overrides import apply_overrides
from burnish.pipeline.paths import located, located_path
from burnish.stages.config import DPOConfig

_CHOSEN_FOR_IT = {
    "model": "a recipe's stage starts from what `from` names",
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
        model = located_path(top.model, self.base)
        if what := unknown_model(model):
            self.problems["model"] = what
        graph = StageGraph(self.stages, _model_makers(top), self.base, self.problems)
        graph.check(model, set_lora=[name for name, values in self.own.items() if "lora" in values])
        return None if self.problems else Recipe(top.name, file, model, tuple(graph.in_order()))

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
        return located(config, self.base)

    def _start(self, name: str, start: Any, top: RecipeFile) -> str:
        """Where a stage starts; only the first one that trains may leave it unsaid."""
        if isinstance(start, str):
            return start
        if start is None and name == next(iter(_trained(top)), None):
            return RAW
        known = ", ".join([RAW, *(other for other in _model_makers(top) if other != name)])
        self.problems[f"stages.{name}.from"] = f"say where the stage starts: {known}"
        return RAW


def _kinds(top: RecipeFile) -> dict[str, str]:
    return {name: str((values or {}).get("stage", name)) for name, values in top.stages.items()}


def _trained(top: RecipeFile) -> list[str]:
    return [name for name, kind in _kinds(top).items() if kind in KINDS and KINDS[kind].trains]


def _speaking(top: RecipeFile) -> list[str]:
    return [name for name in _trained(top) if _kinds(top)[name] != "reward"]


def _model_makers(top: RecipeFile) -> dict[str, str]:
    return {name: kind for name, kind in _kinds(top).items() if kind != "report"}


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


def _loss_problem(loss: Mapping[str, Any]) -> str | None:
    from burnish.losses.preference import make_loss

    try:
        make_loss(loss)
    except ValueError as error:
        return str(error)
    return None
