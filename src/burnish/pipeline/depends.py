"""What the result of a recipe's stage depends on, as hashes by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from burnish.evaluation.public_sets import set_fingerprint
from burnish.models.fingerprint import data_fingerprint, digest, model_fingerprint, tree_fingerprint
from burnish.pipeline.fingerprint import MONITOR, code_fingerprint
from burnish.pipeline.graph import RAW, Stage
from burnish.pipeline.kinds import NAMES_FUNCTIONS
from burnish.pipeline.report_config import ReportConfig
from burnish.rollout.endpoint import is_endpoint
from burnish.stages.config import PolicyConfig, TrainConfig
from burnish.stages.functions import function_fingerprint
from burnish.stages.run import FREE_FIELDS, model_of

PLACES = (
    *("model", "data", "validation", "template", "prompts", "choices", "prose"),
    *("topic_judge", "lm_eval", "lm_eval_path"),
    *NAMES_FUNCTIONS,
)
"""Settings that are not hashed as they stand: mostly where inputs lie, whose content is hashed instead."""
# How a report's models are asked, not what.
_MANNERS = ("cache", "concurrency", "timeout", "api_keys")


def input_hash(name: str, model: str) -> str:
    """Hash of the content of a model that a stage names; `model` is the recipe's own.

    Raises:
        ModelError: there is no such model.
    """
    if is_endpoint(name):
        return digest(["endpoint", name])  # its content can't be known: only a new name asks it again
    return model_fingerprint(model_of(model if name == RAW else name))


def depends_on(stage: Stage, inputs: Mapping[str, str]) -> dict[str, str]:
    """Hashes of everything that a stage's result depends on.

    These are the settings, one by one, without places and without what does not change the result (directories,
    trackers, how often it is saved, the device); the content of data and template; what it starts from; and the code.

    Args:
        stage: the stage.
        inputs: name -> hash, of `stage.inputs`.
    """
    values = json.loads(stage.config.model_dump_json())
    watched = stage.config.watched if isinstance(stage.config, PolicyConfig) else None
    code = code_fingerprint(stage.spec.entry, without=MONITOR if stage.spec.trains and watched is None else frozenset())
    depends = {"kind": digest(stage.kind), "code": code}
    for field, value in values.items():
        if field not in FREE_FIELDS and field not in (*PLACES, *_MANNERS, "models"):
            depends[field] = digest(value)
    if isinstance(stage.config, ReportConfig):
        depends["models"] = digest(list(stage.config.models))  # the first is what the others are compared with
        depends |= {f"models.{label}": inputs[target] for label, target in stage.config.models.items()}
        sources = {"prompts": stage.config.prompts, "questions": stage.config.choices, "prose": stage.config.prose}
        depends |= {name: set_fingerprint(source) for name, source in sources.items()}
        depends |= {name: inputs[target] for name, target in stage.rewards.items()}
        depends["judge"] = digest(stage.config.judge)
        depends |= _evidence(stage.config, inputs)
    elif stage.start is not None:
        depends["from"] = inputs[stage.start]
    if isinstance(stage.config, TrainConfig):
        depends["data"] = data_fingerprint(stage.config.data)
        held_out, template = stage.config.validation, stage.config.template
        depends["validation"] = data_fingerprint(held_out) if isinstance(held_out, str) else digest(held_out)
        file = Path(template).expanduser()
        depends["template"] = digest(file.read_text(encoding="utf-8") if file.is_file() else template)
        if watched is not None:
            from burnish.stages.monitor import watched_inputs  # with torch

            depends |= watched_inputs(watched)
        for name in NAMES_FUNCTIONS:
            if (named := getattr(stage.config, name, None)) is not None:
                depends[name] = inputs[named] if name in stage.rewards else function_fingerprint(named)
    return depends


def _evidence(config: ReportConfig, inputs: Mapping[str, str]) -> dict[str, str]:
    """Hashes of who judges topics, and of the harness's tasks: their names, its version, the files of one's own."""
    from burnish.pipeline.evidence import harness_version

    found: dict[str, str] = {}
    if config.topic_judge is not None:
        found["topic_judge"] = inputs[config.topic_judge]
    if config.lm_eval:
        found["lm_eval"] = digest([list(config.lm_eval), harness_version()])
    if config.lm_eval_path is not None:
        found["lm_eval_path"] = tree_fingerprint(Path(config.lm_eval_path).expanduser())
    return found
