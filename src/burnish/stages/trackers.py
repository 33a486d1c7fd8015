"""Metrics to TensorBoard, Weights & Biases or trackio, where they are asked for and installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

from burnish.errors import ConfigError
from burnish.stages.run import Run


class Tracker(Protocol):
    """Somewhere that metrics go."""

    def log(self, values: dict[str, Any]) -> None:
        """Take one line of metrics; `step` is among them."""

    def close(self) -> None:
        """The run is over."""


class TensorBoardTracker:
    """Event files under OUT/tensorboard."""

    def __init__(self, run: Run) -> None:
        writer = _load("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self.writer = writer(log_dir=str(run.out / "tensorboard"))

    def log(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name != "step":
                self.writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        self.writer.close()


class WandbTracker:
    """A Weights & Biases run; a resumed run goes on under the same id. trackio speaks the same interface."""

    def __init__(self, run: Run, package: str) -> None:
        self.module = _load(package, package)
        options: dict[str, Any] = {"project": "burnish", "name": run.out.name, "config": run.record["config"]}
        if package == "wandb":
            run_id = run.record.get("wandb_id") or self.module.util.generate_id()
            run.note(wandb_id=run_id)
            options |= {"id": run_id, "resume": "allow", "dir": str(run.out)}
        else:
            options["resume"] = "allow"
        self.module.init(**options)

    def log(self, values: dict[str, Any]) -> None:
        rest = {name: value for name, value in values.items() if name != "step"}
        self.module.log(rest, step=values["step"])

    def close(self) -> None:
        self.module.finish()


def check_trackers(names: Sequence[str]) -> None:
    """See that the trackers are installed, before anything is loaded.

    Raises:
        ConfigError: one is not; the message has the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise _not_installed(name)


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _not_installed(package) from None


def _not_installed(package: str) -> ConfigError:
    return ConfigError(
        f"the tracker {package} is not installed", where="trackers", fix=f"pip install 'burnish[{package}]'"
    )


def open_trackers(names: Sequence[str], run: Run) -> list[Tracker]:
    """Open the trackers of a run.

    Raises:
        ConfigError: when one is not installed; the message has the command that installs it.
    """
    return [TensorBoardTracker(run) if name == "tensorboard" else WandbTracker(run, name) for name in names]
