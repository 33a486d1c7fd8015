"""The one training loop. A stage iterates over its steps and says what the loss is; the loop does the rest.

    with TrainingLoop(run, parameters, order, evaluate, progress) as loop:
        for step in loop:
            ...
            step.backward(loss, tokens=..., origins=...)
            step.add(margin=...)

The rest is: learning rate, gradient clipping, the optimiser, metrics, validation, the monitor, the best weights,
checkpoints, signals, and going on from a checkpoint to the same bits.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from torch import Tensor, nn

from burnish.errors import Interrupted, NotFiniteError, TrainingError
from burnish.stages.checkpoint import load_last, save_checkpoint
from burnish.stages.config import TrainConfig
from burnish.stages.keeping import Best, Keeper
from burnish.stages.monitor import Look, Monitor, look_as_dict, look_of
from burnish.stages.optim import learning_rate, make_optimiser
from burnish.stages.progress import VALIDATING, Progress
from burnish.stages.run import Run
from burnish.stages.step import NotFinite, Step, not_finite, not_finite_validation
from burnish.stages.trackers import open_trackers

EVALUATION = "evaluation"
"""What is owed after a validation that failed."""
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
        monitor: looks at the policy now and then, and may end the run.
        looks_after: whether it may look after so many steps; after any if not given.
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
        monitor: Monitor | None = None,
        looks_after: Callable[[int], bool] | None = None,
        limit: int | None = None,
    ) -> None:
        self.run, self.parameters, self.evaluate, self.progress = run, parameters, evaluate, progress
        self.config: TrainConfig = run.config
        self.order, self.carried, self.monitor = order, carried, monitor
        self.keeper = Keeper(
            best or Best(),
            run.best,
            parameters,
            wanted=self.config.keep_best,
            only_inside=monitor is not None and monitor.keeps_inside,
        )
        self.n_steps = order.steps_per_epoch * self.config.epochs
        self.n_steps = min(self.n_steps, self.config.max_steps or self.n_steps, limit or self.n_steps)
        every = self.config.eval_every or max(1, math.ceil(self.n_steps / 8))
        self.eval_after = eval_after or (lambda done: done % every == 0)
        self.looks_after = looks_after or (lambda done: True)
        self.optimiser = make_optimiser(parameters, self.config, rates or {})
        self._clipped = _by_prefix(parameters, apart)
        self.state: dict[str, Any] = {"metrics": {}, "kept_metrics": {}, "seconds": 0.0, "look": None, "owed": None}
        """`metrics` of the last validation, `kept_metrics` of that of the weights that are kept, `seconds` of all
        steps, the last `look` of the monitor; `owed` is what a resume has to make up for: the look that a signal cut
        off, with what its step's validation found, or the whole evaluation where the validation failed."""
        self.resumed_from = 0
        self.under_way: int | None = None
        self.stop_signal: int | None = None

    def __enter__(self) -> Self:
        self.trackers = open_trackers(self.config.trackers, self.run)
        checkpoint = load_last(self.run.checkpoints, self.parameters, self.optimiser)
        self.fresh = checkpoint is None
        if checkpoint is not None:
            self.resumed_from, self.state = checkpoint.step, {**self.state, **checkpoint.state}
            self.keeper.load(self.state.pop("keeper"))
            if self.monitor is not None:
                self.monitor.load(self.state.pop("monitor"))
            if self.carried is not None:
                self.carried.load(self.state.pop("carried"), checkpoint.tensors)
        self.done = self.resumed_from
        looks_again = self.state["owed"] is not None
        if self.monitor is not None:  # or this step was looked at because the next one failed
            looks_again = looks_again or self.monitor.last < self.resumed_from
        self.run.start_metrics(-1 if self.fresh else self.resumed_from, looks_again=looks_again)
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
            self._evaluate(0)
            self._checkpoint(0)
        elif self.state["owed"] == EVALUATION:
            self.state["owed"] = None
            self._evaluate(self.resumed_from)
        elif self.state["owed"] is not None:
            self._judge(self.resumed_from, looks=True, **self.state["owed"])
        if self.state["owed"] is not None:
            raise self._stopped(f"while step {self.resumed_from} was looked at")
        for index in range(self.resumed_from, self.n_steps):
            if self.keeper.ended is not None:
                return
            started = time.perf_counter()
            rate = learning_rate(index, self.n_steps, self.config)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["relative_rate"]
            self.optimiser.zero_grad(set_to_none=True)
            self.under_way = index
            step = Step(index, self.order.batch(index), holds=self._may_end(index))
            yield step
            norms = {} if step.skipped or step.failed is not None else self._clip(step)
            if step.failed is not None:
                self._look_back(index, step.failed)
                return
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
                step.fail(not_finite(f"the gradient norm is {norm}", step.index, step.origins))
            norms[name] = norm
        return norms

    def _look_back(self, done: int, error: NotFinite) -> None:
        """The step after `done` met NaN or infinity. If the weights are to blame, the guard sees it and ends the run.

        Raises:
            NotFinite: the error, where the weights are not.
        """
        if self.monitor is not None and self.monitor.last < done:
            self.progress.console.print(f"{error.what.partition(';')[0]}: looking at the weights", highlight=False)
            try:
                self.state["look"] = look_as_dict(self._look(done, self.monitor, None))
            except _CutOff:
                raise self._stopped(f"before step {done + 1} of {self.n_steps}") from None
        if self.keeper.ended is None:
            raise error
        self.under_way = None
        self._checkpoint(done)

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
        self._evaluate(done)
        over = done == self.n_steps or self.keeper.ended is not None
        if done % self.config.save_every == 0 or over or self.stop_signal is not None:
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

    def end(self, by: str, why: str, *, rollback: bool) -> None:
        """Let this step be the last one, for good: a resume does not go on. See `Keeper.end`."""
        self.keeper.end(by, why, rollback=rollback)

    def _evaluate(self, done: int) -> None:
        """Validation and monitor, where they are due after `done` steps."""
        end = done in (0, self.n_steps)
        validates = end or self.eval_after(done)
        looks = end
        if self.monitor is not None and not end and self.looks_after(done):
            looks = self.monitor.due(done, self.n_steps, self.state["seconds"], validates=validates)
        value, broken = None, None
        try:
            value = self._validate(done) if validates else None
            if self.monitor is not None and looks and not validates and self.keeper.only_inside:
                started = time.perf_counter()
                value = self._validate(done)  # or the weights here could not be compared with others
                self.monitor.seconds += time.perf_counter() - started
        except NotFinite as error:
            if not self._may_end(done):
                raise
            looks, broken = True, error.found
        if validates or looks:
            self._judge(done, value, broken, looks=looks)

    def _may_end(self, done: int) -> bool:
        """Whether weights that give no numbers end the run by the guard: not those of the start, from which changes
        count, and only with something to go back to, for they are nobody's model."""
        guard = None if self.monitor is None else self.monitor.guard
        return guard is not None and guard.acts and done > 0 and self.keeper.goes_back

    def _judge(self, done: int, value: float | None, broken: str | None, *, looks: bool) -> None:
        """Let the monitor look, then keep the weights if they are the best."""
        self.state["owed"], look = None, None
        if looks and self.monitor is not None:
            try:
                look = self._look(done, self.monitor, broken)
            except _CutOff:
                self.state["owed"] = {"value": value, "broken": broken}
                return
            self.state["look"] = look_as_dict(look)
        self.keeper.consider(done, value, look)
        if self.keeper.step == done:
            self.state["kept_metrics"] = self.state["metrics"]

    def _look(self, done: int, monitor: Monitor, broken: str | None) -> Look:
        def between(what: str, n_done: int, total: int) -> None:
            self.progress.message(f"monitor: {what} {n_done}/{total}")
            if self.stop_signal is not None:
                raise _CutOff

        ends = self._may_end(done)
        look = monitor.look(done, self.state["seconds"], between, ends=ends, not_finite=broken)
        self.record({"step": done, **look.metrics})
        self.progress.look(done, look.metrics)
        broke = look.not_finite is not None
        if (look.passed or broke) and monitor.guard is not None and monitor.guard.acts:
            self.end("guard", look.why, rollback=broke or monitor.guard.action == "rollback")
        return look

    def _validate(self, done: int) -> float | None:
        """The validation; its value of what decides which weights are best, or none without validation data.

        Raises:
            NotFinite: that value, or what it is made of, is not finite.
        """
        self.progress.message(VALIDATING)
        try:
            metrics = dict(self.evaluate())
        except NotFiniteError as error:
            found = f"in the validation {error.what}"
            raise not_finite_validation(found, done, str(self.run.checkpoints)) from error
        except TrainingError:  # a reward function's, say: what the weights have learned is not to be learned again
            if done:
                self.state["owed"] = EVALUATION
                self._checkpoint(done)
            raise
        if not metrics:
            return None
        self.record({"step": done, **{f"validation/{name}": value for name, value in metrics.items()}})
        self.progress.validation(done, metrics)
        name = self.keeper.best.metric
        value = metrics[name]
        if not math.isfinite(value):
            raise not_finite_validation(f"the validation {name} is {value}", done, str(self.run.checkpoints))
        self.state["metrics"] = metrics
        return value

    def record(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics; `step` among them says how many steps were done."""
        self.run.log(values)
        numbers = {name: value for name, value in values.items() if value is not None}
        for tracker in self.trackers:
            tracker.log(numbers)

    def _checkpoint(self, done: int) -> Path:
        own: dict[str, Any] = {"keeper": self.keeper.state()}
        own |= {} if self.carried is None else {"carried": self.carried.state()}
        own |= {} if self.monitor is None else {"monitor": self.monitor.state()}
        return save_checkpoint(
            self.run.checkpoints,
            done,
            self.parameters,
            self.optimiser,
            {**self.state, **own},
            keep=self.config.keep_checkpoints,
            tensors=None if self.carried is None else self.carried.tensors(),
        )

    def conclude(self) -> dict[str, Any]:
        """Put the weights that are kept into the model; returns what the run's record says at the end."""
        last = look_of(self.state["look"])
        kept, look = self.keeper.conclude(self.done, last if last is not None and last.step == self.done else None)
        measured = self.state["metrics" if kept["model_of_step"] == self.done else "kept_metrics"]
        ended = self.keeper.ended
        if ended is not None:
            kept |= {"ended": ended.why, "ended_by": ended.by}
            back = f"; the model is that of step {kept['model_of_step']}" if ended.rollback else ""
            said = f"the {ended.by} ended the stage after step {self.done}{back}"
            self.progress.console.print(said, style="red", highlight=False)
        watched = {} if self.monitor is None else self.monitor.conclude(look, self.state["seconds"])
        return {**measured, **kept, **watched, "seconds": self.state["seconds"]}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_signal is not None:
            raise KeyboardInterrupt  # the second one means it
        self.stop_signal = number
        self.progress.message("stopping after this step")


class _CutOff(Exception):
    """A signal came while the monitor looked."""


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
