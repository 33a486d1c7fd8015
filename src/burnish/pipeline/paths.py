"""The paths of a recipe as they are found: beside the recipe first, then from the current directory."""

from __future__ import annotations

from pathlib import Path

from burnish.config import Config
from burnish.evaluation.public_sets import split_format
from burnish.pipeline.kinds import NAMES_FUNCTIONS
from burnish.pipeline.report_config import ReportConfig
from burnish.stages.config import TrainConfig
from burnish.stages.functions import is_function


def located(config: Config, base: Path) -> Config:
    """The settings with their paths as they are found from the recipe's directory."""
    if isinstance(config, ReportConfig):
        sets = {"prompts": config.prompts, "choices": config.choices}
        found = {name: _located_set(place, base) for name, place in sets.items()}
        found["prose"] = located_path(config.prose, base)
        if config.reward is not None:
            found["reward"] = located_path(config.reward, base)
        if config.lm_eval_path is not None:
            found["lm_eval_path"] = located_path(config.lm_eval_path, base)
        return config.model_copy(update=found)
    if not isinstance(config, TrainConfig):
        return config
    fields = {"data": config.data, "validation": config.validation, "template": config.template}
    found = {name: located_path(value, base) for name, value in fields.items() if isinstance(value, str)}
    for name in NAMES_FUNCTIONS:
        if isinstance(value := getattr(config, name, None), str):
            path, colon, function = value.rpartition(":") if is_function(value) else (value, "", "")
            is_module = bool(colon) and not path.endswith(".py")  # a folder of its name is not meant
            found[name] = value if is_module else located_path(path, base) + colon + function
    monitor = getattr(config, "monitor", None)
    if monitor is not None:
        places = {"prompts": _located_set(monitor.prompts, base), "prose": located_path(monitor.prose, base)}
        return config.model_copy(update={**found, "monitor": monitor.model_copy(update=places)})
    return config.model_copy(update=found)


def located_path(text: str, base: Path) -> str:
    """A path that may lie in `base`; the text as it is where nothing of that name does."""
    path = Path(text).expanduser()
    return str(base / path) if not path.is_absolute() and (base / path).exists() else text


def _located_set(text: str, base: Path) -> str:
    """The same for an evaluation set, whose format may stand before its path."""
    said, path = split_format(text)
    return f"{said}:{located_path(path, base)}" if said else located_path(path, base)
