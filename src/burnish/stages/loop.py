"""The one training loop. A stage iterates over its steps and says what the loss is; the loop does the rest.

    with TrainingLoop(run, parameters, n_examples, evaluate) as loop:
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
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from burnish.data.batching import DataOrder
from burnish.errors import Interrupted, TrainingError
from burnish.files import atomic_directory
from burnish.stages.checkpoint import load_last, load_weights, save_checkpoint
from burnish.stages.config import TrainConfig
from burnish.stages.optim import learning_rate, make_optimiser
from burnish.stages.progress import VALIDATING, Progress
from burnish.stages.run import Run
from burnish.stages.trackers import open_trackers

Evaluate = Callable[[], Mapping[str, float]]
"""Returns the validation metrics; `loss` among them decides which weights are best. Empty without validation data."""


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
        n_examples: size of the training set.
        evaluate: the stage's validation.
        progress: the display.
    """

    def __init__(
        self,
        run: Run,
        parameters: Mapping[str, nn.Parameter],
        n_examples: int,
        evaluate: Evaluate,
        progress: Progress,
    ) -> None:
        self.run, self.parameters, self.evaluate, self.progress = run, parameters, evaluate, progress
        self.config: TrainConfig = run.config
        self.order = DataOrder(n_examples, self.config.batch_size, self.config.seed)
        self.n_steps = self.order.steps_per_epoch * self.config.epochs
        if self.config.max_steps is not None:
            self.n_steps = min(self.n_steps, self.config.max_steps)
        self.eval_every = self.config.eval_every or max(1, math.ceil(self.n_steps / 8))
        self.optimiser = make_optimiser(parameters, self.config)
        self.state: dict[str, Any] = {"best_loss": None, "best_step": None, "metrics": {}, "seconds": 0.0}
        self.resumed_from = 0
        self.under_way: int | None = None
        self.stop_signal: int | None = None

    def __enter__(self) -> Self:
        self.trackers = open_trackers(self.config.trackers, self.run)
        checkpoint = load_last(self.run.checkpoints, self.parameters, self.optimiser)
        self.fresh = checkpoint is None
        if checkpoint is not None:
            self.resumed_from, self.state = checkpoint.step, checkpoint.state
        self.run.start_metrics(-1 if self.fresh else self.resumed_from)
        self._old_handlers = {s: signal.signal(s, self._on_signal) for s in _signals()}
        self.progress.start(self.n_steps, self.resumed_from)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if isinstance(error, TrainingError) and self.under_way is not None:
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
            started = time.perf_counter()
            rate = learning_rate(index, self.n_steps, self.config)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.optimiser.zero_grad(set_to_none=True)
            self.under_way = index
            step = Step(index, self.order.batch(index))
            yield step
            norm = self._clip(step)
            self.under_way = None
            self.optimiser.step()
            self._log_step(step, rate, norm, time.perf_counter() - started)
            self._after(index + 1)

    def _clip(self, step: Step) -> float:
        norm = float(nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise _not_finite(f"the gradient norm is {norm}", step.index, step.origins)
        return norm

    def _log_step(self, step: Step, rate: float, norm: float, seconds: float) -> None:
        done = step.index + 1
        self.state["seconds"] += seconds
        values: dict[str, Any] = {
            "step": done,
            "epoch": done / self.order.steps_per_epoch,
            "loss": step.loss,
            **step.values,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": step.tokens,
            "tokens_per_second": step.tokens / seconds,
        }
        self._record(values)
        self.progress.step(done, values)

    def _after(self, done: int) -> None:
        last = done == self.n_steps
        if done % self.eval_every == 0 or last:
            self._validate(done)
        if done % self.config.save_every == 0 or last or self.stop_signal is not None:
            self._checkpoint(done)
        if self.stop_signal is not None:  # after the last step too, or a recipe would go on with its next stage
            name = signal.Signals(self.stop_signal).name
            stopped = Interrupted(
                f"stopped by {name} after step {done} of {self.n_steps}; the state is saved",
                where=str(self.run.out),
                fix="run the same command again to go on from there",
            )
            stopped.exit_code = 128 + self.stop_signal
            raise stopped

    def _validate(self, done: int) -> None:
        self.progress.message(VALIDATING)
        metrics = dict(self.evaluate())
        if not metrics:
            return
        self._record({"step": done, **{f"validation/{name}": value for name, value in metrics.items()}})
        self.progress.validation(done, metrics)
        loss = metrics["loss"]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss is {loss} after step {done}; training stopped, the last checkpoint is kept",
                where=str(self.run.checkpoints),
                fix="look at the held-out examples (burnish check), lower the learning rate, or use --dtype float32",
            )
        self.state["metrics"] = metrics
        best = self.state["best_loss"]
        if done > 0 and (best is None or loss < best):
            self.state["best_loss"], self.state["best_step"] = loss, done
            if self.config.keep_best:
                with atomic_directory(self.run.best, replace=True) as temporary:
                    tensors = {name: p.detach().contiguous() for name, p in self.parameters.items()}
                    save_file(tensors, temporary / "weights.safetensors", metadata={"step": str(done)})

    def _record(self, values: dict[str, Any]) -> None:
        self.run.log(values)
        for tracker in self.trackers:
            tracker.log(values)

    def _checkpoint(self, done: int) -> Path:
        return save_checkpoint(
            self.run.checkpoints,
            done,
            self.parameters,
            self.optimiser,
            self.state,
            keep=self.config.keep_checkpoints,
        )

    def restore_best(self) -> dict[str, Any]:
        """Put the best weights into the model, if they are kept and known; says which step the model is of."""
        step = self.state["best_step"]
        if not self.config.keep_best or step is None:
            return {"model_of_step": self.n_steps}
        if step != self.n_steps:
            path = self.run.best / "weights.safetensors"
            load_weights(load_file(path), self.parameters, path)
        return {"model_of_step": step, "best_validation_loss": self.state["best_loss"]}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_signal is not None:
            raise KeyboardInterrupt  # the second one means it
        self.stop_signal = number
        self.progress.message("stopping after this step")


def _signals() -> tuple[signal.Signals, ...]:
    """Signals can be caught in the main thread only; elsewhere (a notebook's worker) the run just goes on."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        return ()
    return signal.SIGINT, signal.SIGTERM
