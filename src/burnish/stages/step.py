"""One optimiser step, as a stage fills it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from burnish.errors import TrainingError


class NotFinite(TrainingError):
    """NaN or infinity came up: an error, unless a guard ends the run because the weights give no numbers.

    Args:
        what: see `BurnishError`, and so `where` and `fix`.
        found: what is not finite, without when.
    """

    def __init__(self, what: str, *, where: str, fix: str, found: str) -> None:
        super().__init__(what, where=where, fix=fix)
        self.found = found


class Step:
    """One optimiser step while it is under way.

    Args:
        index: steps done before it.
        examples: places in the training set of its examples.
        holds: whether NaN or infinity is held back as `failed`, for the guard to look at the weights first.
    """

    def __init__(self, index: int, examples: list[int], *, holds: bool = False) -> None:
        self.index = index
        self.holds = holds
        self.failed: NotFinite | None = None
        self.examples = examples
        """Places in the training set of this step's examples."""
        self.loss = 0.0
        self.tokens = 0
        self.values: dict[str, float] = {}
        self.origins: list[str] = []
        self.shown: dict[str, float] = {}
        """Values for the display that are not the step's own, such as its rollout's."""
        self.skipped = False
        self.seconds_aside = 0.0

    def backward(self, loss: Tensor, *, tokens: int, origins: Sequence[str], share: float = 1.0) -> None:
        """Add a micro-batch's share of the loss and its gradients.

        Args:
            loss: scalar; the shares of a step's micro-batches add up to the loss of the batch.
            tokens: tokens computed for it, without padding.
            origins: of the examples in it, for the message when the loss is not finite.
            share: what counts of it in the logged loss, where several models train side by side. The gradient is that
                of the whole.

        Raises:
            NotFinite: when the loss is NaN or infinite; the weights are still those of the step before.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            self.fail(not_finite(f"the loss is {value}", self.index, origins))
        if self.failed is not None:
            return
        torch.autograd.backward(loss)
        self.origins += origins
        self.loss += share * value
        self.tokens += tokens

    def fail(self, error: NotFinite) -> None:
        """Give the step up: the weights stay as they are.

        Raises:
            NotFinite: the error, unless the step `holds` it.
        """
        if not self.holds:
            raise error
        self.failed = self.failed or error

    def add(self, **values: float) -> None:
        """Sum values over the micro-batches of the step; each is logged at its end."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + float(value)

    def skip(self) -> None:
        """Leave the weights as they are: this step's gradients are thrown away."""
        self.skipped = True

    def aside(self, seconds: float) -> None:
        """Time that was spent on something else than the step's tokens, such as sampling."""
        self.seconds_aside += seconds


def not_finite(what: str, step: int, origins: Sequence[str]) -> NotFinite:
    """The error of a step that gave NaN or infinity, naming the first of its examples."""
    shown = ", ".join(origins[:4]) + (f" and {len(origins) - 4} more" if len(origins) > 4 else "")
    return NotFinite(
        f"{what} in step {step + 1}; training stopped, the last good weights are kept",
        where=f"examples {shown}",
        fix="look at these examples (burnish check), lower the learning rate, or use --dtype float32",
        found=what,
    )


def not_finite_validation(found: str, done: int, checkpoints: str) -> NotFinite:
    """The error of a validation that gave NaN or infinity after `done` steps."""
    return NotFinite(
        f"{found} after step {done}; training stopped, the last checkpoint is kept",
        where=checkpoints,
        fix="look at the held-out examples (burnish check), lower the learning rate, or use --dtype float32",
        found=found,
    )
