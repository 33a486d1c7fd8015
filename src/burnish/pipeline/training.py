"""What a run's monitor measured while the model trained, read back for a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_COST = ("seconds", "share")


def training_of(model: str) -> dict[str, Any] | None:
    """The curves of a model's run, where the model is the directory of a run (or the `model` in it) that was monitored.

    Returns:
        `stage`, `metrics` (names), `looks` (the step, and each metric that was a number), `kept_step` (which the
        model is of), `share` (of the time that looking took) and `guard` (what it decided, in a sentence, or none).
        None for a model that is no run, or was not monitored; a damaged record is none too, for it only explains.
    """
    directory = Path(model).expanduser()
    run = next((place for place in (directory, directory.parent) if (place / "run.json").is_file()), None)
    if run is None or (run is directory.parent and directory.name != "model"):
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
