"""The one training loop. A stage iterates over its steps and says what the loss is; the loop does the rest.

    with TrainingLoop(run, parameters, order, evaluate, progress) as loop:
        for step in loop:
            ...
            step.backward(loss, tokens=..., origins=...)
            step.add(margin=...)

The rest is: learning rate, gradient clipping, the optimiser, metrics, validation, the best weights, checkpoints,
signals, and going on from a checkpoint to the same bits.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from burnish.errors import Interrupted, TrainingError
from burnish.files import atomic_directory
from burnish.stages.checkpoint import load_last, load_weights, save_checkpoint
from burnish.stages.config import TrainConfig
from burnish.stages.optim import learning_rate, make_optimiser
from burnish.stages.progress import VALIDATING, Progress
from burnish.stages.run import Run
from burnish.stages.trackers import open_trackers

Evaluate = Callable[[], Mapping[str, float]]
"""Returns the validation metrics, that which decides which weights are best among them. Empty without validation
data."""


class Order(Protocol):
    """Which examples make up the batch of a step; a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of a pass over the data."""

    def batch(self, step: int) -> list[int]:
        """Places in the training set of the examples of step `step`, counted from 0 across epochs."""


class Carried(Protocol):
    """What a stage carries from step to step besides weights, and must find again after a resume."""

    def state(self) -> dict[str, Any]:
        """The plain values, as JSON keeps them."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by name."""

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` and `tensors` gave."""


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


class Step:
    """One optimiser step while it is under way."""

    def __init__(self, index: int, examples: list[int]) -> None:
        self.index = index
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

    def backward(self, loss: Tensor, *, tokens: int, origins: Sequence[str]) -> None:
        """Add a micro-batch's share of the loss and its gradients.

        Args:
            loss: scalar; the shares of a step's micro-batches add up to the loss of the batch.
            tokens: tokens computed for it, without padding.
            origins: of the examples in it, for the message when the loss is not finite.

        Raises:
            TrainingError: when the loss is NaN or infinite; the weights are still those of the step before.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _not_finite(f"the loss is {value}", self.index, origins)
        torch.autograd.backward(loss)
        self.origins += origins
        self.loss += value
        self.tokens += tokens

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


def _not_finite(what: str, step: int, origins: Sequence[str]) -> TrainingError:
    shown = ", ".join(origins[:4]) + (f" and {len(origins) - 4} more" if len(origins) > 4 else "")
    return TrainingError(
        f"{what} in step {step + 1}; training stopped, the last good weights are kept",
        where=f"examples {shown}",
        fix="look at these examples (burnish check), lower the learning rate, or use --dtype float32",
    )


class TrainingLoop:
    """Iterates over the steps of a run that are still to be done.

    Args:
        run: the open run directory.
        parameters: what trains, by stable name, fp32.
        order: the examples of each step.
        evaluate: the stage's validation.
        progress: the display.
        apart: prefixes of the names of parameters that train beside the others, as a critic's: their gradients are
            clipped by a norm of their own.
        rates: peak learning rate of the parameters of a prefix, where it is another than the settings'.
        carried: the stage's own state.
        best: what decides which weights are best.
        eval_after: whether there is a validation after so many steps; every `eval_every` steps if not given.
        limit: steps at most, beside `max_steps`.
    """

    def __init__(
        self,
        run: Run,
        parameters: Mapping[str, nn.Parameter],
        order: Order,
        evaluate: Evaluate,
        progress: Progress,
        *,
        apart: Sequence[str] = (),
        rates: Mapping[str, float] | None = None,
        carried: Carried | None = None,
        best: Best | None = None,
        eval_after: Callable[[int], bool] | None = None,
        limit: int | None = None,
    ) -> None:
        self.run, self.parameters, self.evaluate, self.progress = run, parameters, evaluate, progress
        self.config: TrainConfig = run.config
        self.order, self.carried, self.best = order, carried, best or Best()
        self.n_steps = order.steps_per_epoch * self.config.epochs
        self.n_steps = min(self.n_steps, self.config.max_steps or self.n_steps, limit or self.n_steps)
        every = self.config.eval_every or max(1, math.ceil(self.n_steps / 8))
        self.eval_after = eval_after or (lambda done: done % every == 0)
        self.optimiser = make_optimiser(parameters, self.config, rates or {})
        self._clipped = _by_prefix(parameters, apart)
        self.state: dict[str, Any] = {
            "best_value": None,
            "best_step": None,
            "metrics": {},
            "seconds": 0.0,
            "ended": None,
        }
        self.resumed_from = 0
        self.under_way: int | None = None
        self.stop_signal: int | None = None

    def __enter__(self) -> Self:
        self.trackers = open_trackers(self.config.trackers, self.run)
        checkpoint = load_last(self.run.checkpoints, self.parameters, self.optimiser)
        self.fresh = checkpoint is None
        if checkpoint is not None:
            self.resumed_from, self.state = checkpoint.step, checkpoint.state
            if self.carried is not None:
                self.carried.load(self.state.pop("carried"), checkpoint.tensors)
        self.done = self.resumed_from
        self.run.start_metrics(-1 if self.fresh else self.resumed_from)
        self._old_handlers = {s: signal.signal(s, self._on_signal) for s in _signals()}
        self.progress.start(self.n_steps, self.resumed_from)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if isinstance(error, TrainingError | Interrupted) and self.under_way is not None:
            self._checkpoint(self.under_way)  # its step has changed no weight: these are the last good ones
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        for tracker in self.trackers:
            tracker.close()

    def __iter__(self) -> Iterator[Step]:
        if self.fresh:
            self._validate(0)
            self._checkpoint(0)
        for index in range(self.resumed_from, self.n_steps):
            if self.state["ended"] is not None:
                return
            started = time.perf_counter()
            rate = learning_rate(index, self.n_steps, self.config)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["relative_rate"]
            self.optimiser.zero_grad(set_to_none=True)
            self.under_way = index
            step = Step(index, self.order.batch(index))
            yield step
            norms = {} if step.skipped else self._clip(step)
            self.under_way = None
            if not step.skipped:
                self.optimiser.step()
            self._log_step(step, rate, norms, time.perf_counter() - started)
            self._after(index + 1)

    def _clip(self, step: Step) -> dict[str, float]:
        norms = {}
        for name, parameters in self._clipped.items():
            norm = float(nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
            if not math.isfinite(norm):
                raise _not_finite(f"the gradient norm is {norm}", step.index, step.origins)
            norms[name] = norm
        return norms

    def _log_step(self, step: Step, rate: float, norms: Mapping[str, float], seconds: float) -> None:
        done = step.index + 1
        self.state["seconds"] += seconds
        values: dict[str, Any] = {
            "step": done,
            "epoch": done / self.order.steps_per_epoch,
            "loss": step.loss,
            **step.values,
            "learning_rate": rate,
            **norms,
            "tokens": step.tokens,
            "tokens_per_second": step.tokens / max(1e-9, seconds - step.seconds_aside),
        }
        if step.skipped:
            values = {"step": done, "epoch": values["epoch"], "skipped": True, **step.values}
        self.record(values)
        self.progress.step(done, {**values, **step.shown})

    def _after(self, done: int) -> None:
        self.done = done
        last = done == self.n_steps
        if self.eval_after(done) or last:
            self._validate(done)
        ended = self.state["ended"] is not None
        if done % self.config.save_every == 0 or last or ended or self.stop_signal is not None:
            self._checkpoint(done)
        if self.stop_signal is not None:  # after the last step too, or a recipe would go on with its next stage
            raise self._stopped(f"after step {done} of {self.n_steps}")

    def _stopped(self, when: str) -> Interrupted:
        assert self.stop_signal is not None
        stopped = Interrupted(
            f"stopped by {signal.Signals(self.stop_signal).name} {when}; the state is saved",
            where=str(self.run.out),
            fix="run the same command again to go on from there",
        )
        stopped.exit_code = 128 + self.stop_signal
        return stopped

    def stop_if_asked(self) -> None:
        """For work within a step that takes long: give in to a signal now. The step is begun anew by a resume.

        Raises:
            Interrupted: a signal has come.
        """
        if self.stop_signal is not None:
            raise self._stopped(f"before step {self.done + 1} of {self.n_steps}")

    def end(self, why: str) -> None:
        """Let this step be the last one, for good: a resume does not go on."""
        self.state["ended"] = why

    def _validate(self, done: int) -> None:
        self.progress.message(VALIDATING)
        metrics = dict(self.evaluate())
        if not metrics:
            return
        self.record({"step": done, **{f"validation/{name}": value for name, value in metrics.items()}})
        self.progress.validation(done, metrics)
        name = self.best.metric
        value = metrics[name]
        if not math.isfinite(value):
            raise TrainingError(
                f"the validation {name} is {value} after step {done}; training stopped, the last checkpoint is kept",
                where=str(self.run.checkpoints),
                fix="look at the held-out examples (burnish check), lower the learning rate, or use --dtype float32",
            )
        self.state["metrics"] = metrics
        best = self.state["best_value"]
        counts = done > 0 or self.best.start_counts
        if counts and (best is None or self.best.sign * value < self.best.sign * best):
            self.state["best_value"], self.state["best_step"] = value, done
            if self.config.keep_best:
                with atomic_directory(self.run.best, replace=True) as temporary:
                    tensors = {name: p.detach().contiguous() for name, p in self.parameters.items()}
                    save_file(tensors, temporary / "weights.safetensors", metadata={"step": str(done)})

    def record(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics; `step` among them says how many steps were done."""
        self.run.log(values)
        for tracker in self.trackers:
            tracker.log(values)

    def _checkpoint(self, done: int) -> Path:
        own = {} if self.carried is None else {"carried": self.carried.state()}
        return save_checkpoint(
            self.run.checkpoints,
            done,
            self.parameters,
            self.optimiser,
            {**self.state, **own},
            keep=self.config.keep_checkpoints,
            tensors=None if self.carried is None else self.carried.tensors(),
        )

    def restore_best(self) -> dict[str, Any]:
        """Put the best weights into the model, if they are kept and known; says which step the model is of."""
        step = self.state["best_step"]
        if not self.config.keep_best or step is None:
            return {"model_of_step": self.done}
        if step != self.done:
            path = self.run.best / "weights.safetensors"
            load_weights(load_file(path), self.parameters, path)
        return {"model_of_step": step, f"best_validation_{self.best.metric}": self.state["best_value"]}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_signal is not None:
            raise KeyboardInterrupt  # the second one means it
        self.stop_signal = number
        self.progress.message("stopping after this step")


def _by_prefix(parameters: Mapping[str, nn.Parameter], apart: Sequence[str]) -> dict[str, list[nn.Parameter]]:
    """The name of its gradient norm's metric -> parameters that are clipped together."""
    groups: dict[str, list[nn.Parameter]] = {"grad_norm": []}
    for name, parameter in parameters.items():
        prefix = next((prefix for prefix in apart if name.startswith(prefix)), None)
        groups.setdefault("grad_norm" if prefix is None else f"grad_norm/{prefix.rstrip('.')}", []).append(parameter)
    return groups


def _signals() -> tuple[signal.Signals, ...]:
    """Signals can be caught in the main thread only; elsewhere (a notebook's worker) the run just goes on."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        return ()
    return signal.SIGINT, signal.SIGTERM
