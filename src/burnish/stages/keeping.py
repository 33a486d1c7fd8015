"""Which weights a run keeps, and whether it is over: through this validation, PPO's alarm and the guard act.

OUT/best/weights.safetensors    the best weights so far
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from burnish.files import atomic_directory
from burnish.stages.checkpoint import load_weights
from burnish.stages.monitor import Look, look_as_dict, look_of


@dataclass(frozen=True, slots=True)
class Best:
    """What decides which weights are best.

    Attributes:
        metric: of the validation.
        sign: 1 where the lowest is best, -1 where the highest is.
        start_counts: whether the weights before the first step may be the best ones.
    """

    metric: str = "loss"
    sign: int = 1
    start_counts: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """Why a run ended before its last step.

    Attributes:
        by: who ended it, as the user knows it: `alarm` or `guard`.
        why: in a sentence.
        rollback: whether the model is to be the best one so far; else it is the last one.
    """

    by: str
    why: str
    rollback: bool


class Keeper:
    """Keeps the best weights, and knows whether the run was ended.

    Args:
        best: what decides.
        directory: where the best weights lie.
        parameters: what trains, by stable name.
        wanted: whether a run that ends well ends with its best weights.
        only_inside: whether only weights inside the guard's bounds count. The start is then kept too, until a step
            inside follows, for something to go back to.
    """

    def __init__(
        self,
        best: Best,
        directory: Path,
        parameters: Mapping[str, nn.Parameter],
        *,
        wanted: bool,
        only_inside: bool,
    ) -> None:
        self.best, self.directory, self.parameters = best, directory, parameters
        self.wanted, self.only_inside = wanted, only_inside
        self.step: int | None = None
        self.value: float | None = None
        self.look: Look | None = None
        self.ended: End | None = None

    @property
    def goes_back(self) -> bool:
        """Whether there are weights on disk to go back to."""
        return self.step is not None and (self.wanted or self.only_inside)

    def consider(self, done: int, value: float | None, look: Look | None) -> None:
        """Keep the weights after `done` steps if they are the best so far.

        Without validation (`value` is none) the latest weights inside the bounds are the best. A value that is not
        finite is never best, whatever it is compared with; nor are weights at which a look found NaN or infinity.
        """
        if (value is not None and not math.isfinite(value)) or (look is not None and look.not_finite is not None):
            return
        counts = value is not None
        if self.only_inside:
            counts = look is not None and look.inside
        elif done == 0:
            counts = counts and self.best.start_counts
        if done == 0 and not self.best.start_counts:
            value = None  # any step inside is better than not to have trained
        sign = self.best.sign
        if not counts or (self.value is not None and (value is None or sign * value >= sign * self.value)):
            return
        self.step, self.value, self.look = done, value, look
        if self.wanted or self.only_inside:
            with atomic_directory(self.directory, replace=True) as temporary:
                tensors = {name: parameter.detach().contiguous() for name, parameter in self.parameters.items()}
                save_file(tensors, temporary / "weights.safetensors", metadata={"step": str(done)})

    def end(self, by: str, why: str, *, rollback: bool) -> None:
        """End the run for good. The first reason stands; going back is done if any of them asks for it."""
        before = self.ended
        if before is None:
            self.ended = End(by, why, rollback)
        else:
            self.ended = End(before.by, before.why, before.rollback or rollback)

    def conclude(self, done: int, last: Look | None) -> tuple[dict[str, Any], Look | None]:
        """Put the weights that are kept into the model.

        Args:
            done: the steps that the run has done.
            last: the look at the weights as they are; none where there was none at this step.

        Returns:
            Which step the model is of, and the look at it.
        """
        back = self.wanted if self.ended is None else self.ended.rollback
        back = back or (self.only_inside and last is not None and not last.inside)
        if not back or not self.goes_back:
            return {"model_of_step": done}, last
        if self.step != done:
            path = self.directory / "weights.safetensors"
            load_weights(load_file(path), self.parameters, path)
        known = {} if self.value is None else {f"best_validation_{self.best.metric}": self.value}
        return {"model_of_step": self.step, **known}, self.look

    def state(self) -> dict[str, Any]:
        """Everything but the weights, as JSON keeps it."""
        ended = self.ended
        return {
            "step": self.step,
            "value": self.value,
            "look": look_as_dict(self.look),
            "ended": None if ended is None else {"by": ended.by, "why": ended.why, "rollback": ended.rollback},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.step, self.value, self.look = state["step"], state["value"], look_of(state["look"])
        self.ended = None if state["ended"] is None else End(**state["ended"])
