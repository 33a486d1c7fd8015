"""How a model came to be, read back for a report: with what it was trained, and what the monitor measured meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.stages.merge import EVIDENCE

_COST = ("seconds", "share")


def trained_with(model: str) -> str | None:
    """Stage, data, seed and main settings of a model's run, and of the runs that it started from, the last first.

    Follows a merged model to the adapter in it. None for a model that is no run; a damaged record ends the account, for
    it only explains.
    """
    told: list[str] = []
    read: set[Path] = set()
    while (record := _record(model, read)) is not None:
        try:
            told.append(_merge_text(record) if "adapter" in record else _run_text(record))
            model = record["adapter"] if "adapter" in record else record["config"]["model"]
        except (KeyError, TypeError, ValueError):
            break
    return "; before it ".join(told) or None


def _record(model: str, read: set[Path]) -> Any:
    """run.json of a model's run, or what a merge left beside the merged model; each file once."""
    directory = Path(model).expanduser()
    run = _run_of(model)
    for file in ([] if run is None else [run / "run.json"]) + [directory / EVIDENCE]:
        if file.is_file() and file.resolve() not in read:
            read.add(file.resolve())
            try:
                return json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None
    return None


def _merge_text(record: Mapping[str, Any]) -> str:
    return f"merged in {record['dtype']}"


def _run_text(record: Mapping[str, Any]) -> str:
    config, data = record["config"], record.get("data", {})
    counted = f" ({data['training']:,} examples, sha256 {data['sha256'][:16]})" if data.get("sha256") else ""
    lora = config.get("lora") or {}
    what = f"LoRA of rank {lora['rank']}" if config["tuning"] == "lora" else f"tuning {config['tuning']}"
    loss = [f"{'loss' if key == 'name' else key} {value}" for key, value in (config.get("loss") or {}).items()]
    if config.get("reward"):
        loss = [f"reward {config['reward']}", f"KL at {config['kl_coefficient']:g} a nat"]
    parts = [
        f"{record['stage']} of {config['model']} on {config['data']}{counted}",
        *loss,
        f"{record['steps']:,} steps of {config['batch_size']}, learning rate {config['learning_rate']:g}",
        what,
        f"seed {config['seed']}",
    ]
    return ", ".join(parts)


def _run_of(model: str) -> Path | None:
    """The run that a model is the directory of, or the `model` in."""
    directory = Path(model).expanduser()
    if (directory / "run.json").is_file():
        return directory
    return directory.parent if directory.name == "model" and (directory.parent / "run.json").is_file() else None


def training_of(model: str) -> dict[str, Any] | None:
    """The curves of a model's run, where the model is the directory of a run (or the `model` in it) that was monitored.

    Returns:
        `stage`, `metrics` (names), `looks` (the step, and each metric that was a number), `kept_step` (which the
        model is of), `share` (of the time that looking took) and `guard` (what it decided, in a sentence, or none).
        None for a model that is no run, or was not monitored; a damaged record is none too, for it only explains.
    """
    run = _run_of(model)
    if run is None:
        return None
    try:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n") if line]
        looks = [{"step": line["step"], **_monitored(line)} for line in lines if "monitor/seconds" in line]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not looks:
        return None
    found = record.get("metrics", {})
    return {
        "stage": record.get("stage"),
        "metrics": [name for name in looks[0] if name != "step"],
        "looks": looks,
        "kept_step": found.get("model_of_step"),
        "share": found.get("monitor_share"),
        "guard": _guard_text(found),
    }


def _monitored(line: dict[str, Any]) -> dict[str, float]:
    names = {name.partition("/")[2]: value for name, value in line.items() if name.startswith("monitor/")}
    return {name: value for name, value in names.items() if name not in _COST and value is not None}


def _guard_text(metrics: dict[str, Any]) -> str | None:
    """What the guard did, and whether what was kept lies inside its bounds."""
    if "within_bounds" not in metrics:
        return None
    words = {True: "lies inside its bounds", False: "lies outside its bounds", None: "was not looked at"}
    text = f"The guard: the kept model {words[metrics['within_bounds']]}."
    return f"{text} It ended the stage: {metrics['ended']}." if metrics.get("ended_by") == "guard" else text
