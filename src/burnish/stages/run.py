"""A run's directory: what is in it, who may write to it, and what a second start of the same command finds.

OUT/run.json         the resolved config, versions, and whether the run is finished
OUT/metrics.jsonl    one line a step, one a validation
OUT/checkpoints/     the last checkpoints (removed when the run is finished)
OUT/samples/         what PPO's policy answered at each evaluation
OUT/monitor/         what the monitor measured at each look
OUT/best/            the best trained weights so far: by the validation, and with a guard inside its bounds
OUT/model/           the finished adapter or model
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from burnish import __version__
from burnish.errors import OutputDirError
from burnish.files import atomic_write, is_temporary, write_json
from burnish.stages.config import TrainConfig

SAMPLES = "samples"
"""Where PPO's evaluations write what the policy answered."""
MONITOR = "monitor"
"""Where the monitor writes what it measured."""
COMPUTED_ONCE = ("reference", "features")
"""What a stage computes of the frozen model before its first step, and keeps for a resume."""
FREE_FIELDS = {"out", "trackers", "keep_checkpoints", "save_every", "device"}
"""What may change between the first start and a resume without making it another run."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a stage leaves behind.

    Attributes:
        out: the run's directory.
        model: the finished adapter or model.
        steps: optimiser steps done in all.
        metrics: what was measured of the weights that the model is of (`model_of_step`), or last before them.
        resumed_from: the step at which this call took up the run; 0 for a fresh one.
        already_done: whether the run was finished before this call.
    """

    out: Path
    model: Path
    steps: int
    metrics: dict[str, Any]
    resumed_from: int = 0
    already_done: bool = False


@dataclass
class Run:
    """An open run directory. Use `open_run`."""

    out: Path
    stage: str
    config: TrainConfig
    record: dict[str, Any]
    _lock: TextIO
    fresh: bool = False
    """Whether this call began it."""
    _metrics: TextIO | None = field(default=None)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.out / "checkpoints"

    @property
    def best(self) -> Path:
        """Where the best weights so far go."""
        return self.out / "best"

    @property
    def model(self) -> Path:
        """Where the finished model goes."""
        return self.out / "model"

    @property
    def finished(self) -> bool:
        """Whether an earlier call finished this run."""
        return bool(self.record.get("finished")) and self.model.is_dir()

    def result(self, *, already_done: bool = False, resumed_from: int = 0) -> RunResult:
        """The result of a finished run."""
        steps, metrics = self.record["steps"], self.record["metrics"]
        return RunResult(self.out, self.model, steps, metrics, resumed_from, already_done)

    def start_metrics(self, after_step: int, *, looks_again: bool = False) -> None:
        """Open metrics.jsonl for appending; lines of steps after `after_step` are of a life that was cut off, and so is
        the monitor's line of that step where it `looks_again`."""
        path = self.out / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) is not None and (_step_of(line) or 0) <= after_step]
            if looks_again:
                kept = [line for line in kept if _step_of(line) != after_step or '"monitor/seconds"' not in line]
            atomic_write(path, "".join(line + "\n" for line in kept))
        self._metrics = path.open("a", encoding="utf-8")

    def log(self, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; NaN and infinity, which JSON lacks, as null."""
        if self._metrics is None:
            raise RuntimeError("start_metrics comes first")
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        self._metrics.write(json.dumps(finite) + "\n")
        self._metrics.flush()

    def note(self, **values: Any) -> None:
        """Add values to run.json (data counts, preflight findings, results)."""
        self.record.update(values)
        write_json(self.out / "run.json", self.record)

    def discard_if_untouched(self) -> None:
        """Remove what this call made when it failed before the first checkpoint: a mistyped model leaves no trace."""
        if not self.fresh or _has_progress(self.record, self.out):
            return
        own = {"run.json", "metrics.jsonl", SAMPLES, MONITOR, *COMPUTED_ONCE}
        if all(path.name in own or _is_ours(path.name) for path in self.out.iterdir()):
            shutil.rmtree(self.out, ignore_errors=True)

    def close(self) -> None:
        """Let go of the directory."""
        if self._metrics is not None:
            self._metrics.close()
        self._lock.close()


def open_run(config: TrainConfig) -> Run:
    """Open `config.out` for a fresh run, for one to be resumed, or for one that is finished.

    Raises:
        OutputDirError: when the directory holds another run, something else, or is in use by another process.
    """
    out = config.out
    existing = _read_record(out)
    if existing is None and out.is_dir() and any(not _is_ours(p.name) for p in out.iterdir()):
        raise OutputDirError(
            "the output directory is not empty and holds no run of burnish",
            where=str(out),
            fix="choose another --out; nothing in it was touched",
        )
    wanted = json.loads(config.model_dump_json())
    if existing is not None and _has_progress(existing, out):
        _demand_same_run(existing, wanted, type(config), out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise OutputDirError(f"can't write to the output directory: {error.strerror}", where=str(out)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OutputDirError(
            "another process is training into this directory", where=str(out), fix="wait for it, or stop it"
        ) from None
    if existing is not None and (existing.get("stage"), existing.get("config")) != (type(config).stage, wanted):
        existing = _resumable(existing, wanted, out)
    record = existing or {"stage": type(config).stage, "config": wanted, "versions": versions(), "started": time.time()}
    run = Run(out, type(config).stage, config, record, lock, fresh=existing is None)
    if existing is None:
        run.note()
    return run


def _is_ours(name: str) -> bool:
    """What a run that was killed in its first moment may leave."""
    return name == ".lock" or is_temporary(name)


def model_of(name: str) -> str:
    """A run's directory as the finished model in it; any other model's name as it is.

    Raises:
        OutputDirError: when the run is not finished.
    """
    directory = Path(name).expanduser()
    if not (directory / "run.json").is_file() or (directory / "config.json").is_file():
        return name
    if not (directory / "model").is_dir():
        raise OutputDirError(
            "the run in this directory is not finished, so it has no model yet",
            where=name,
            fix="run the command that began it again: it goes on where it stopped",
        )
    return str(directory / "model")


def _read_record(out: Path) -> dict[str, Any] | None:
    path = out / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OutputDirError("the run's record can't be read", where=str(path), fix="choose another --out") from None
    return record if isinstance(record, dict) else None


def _has_progress(record: dict[str, Any], out: Path) -> bool:
    """Whether there is something to lose: a run that failed before its first step (a mistyped model) has nothing."""
    return bool(record.get("finished")) or any((out / "checkpoints").glob("step-*"))


def _resumable(existing: dict[str, Any], wanted: dict[str, Any], out: Path) -> dict[str, Any] | None:
    """The record to go on with under other settings: only free ones differ, or nothing was done yet."""
    if _has_progress(existing, out):
        return {**existing, "config": wanted}
    for name in COMPUTED_ONCE:
        shutil.rmtree(out / name, ignore_errors=True)
    return None


def _demand_same_run(existing: dict[str, Any], wanted: dict[str, Any], kind: type[TrainConfig], out: Path) -> None:
    if existing.get("stage") != kind.stage:
        raise OutputDirError(
            f"the output directory already holds a run of the stage {existing.get('stage')!r}",
            where=str(out),
            fix="choose another --out",
        )
    was = _with_defaults(existing.get("config", {}), kind)
    changed = sorted(
        key for key in was.keys() | wanted.keys() if key not in FREE_FIELDS and was.get(key) != wanted.get(key)
    )
    if changed:
        shown = "; ".join(f"{key}: {was.get(key)!r} there, {wanted.get(key)!r} now" for key in changed[:3])
        raise OutputDirError(
            f"the output directory already holds another run ({shown})",
            where=str(out),
            fix="choose another --out, or give the same settings to resume that run",
        )


def _with_defaults(was: dict[str, Any], kind: type[TrainConfig]) -> dict[str, Any]:
    """Recorded settings, with those that have appeared in burnish since at their defaults: runs that were begun before
    go on."""
    try:
        completed: dict[str, Any] = json.loads(kind.model_validate(was).model_dump_json())
    except ValidationError:  # what is not a setting any more, or not allowed: the difference is told below
        return was
    return completed


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import torch
    import transformers

    return {
        "burnish": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
