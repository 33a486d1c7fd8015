"""What a person sees while a stage runs: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

PLAIN_EVERY_SECONDS = 10.0
VALIDATING = "validating"
_SHOWN = {
    "loss": "loss {:.3f}",
    "margin": "margin {:.2f}",
    "accuracy": "acc {:.2f}",
    "score": "score {:.2f}",
    "judge": "judge {:.2f}",
    "kl": "kl {:.3f}",
    "response_length": "len {:.0f}",
    "eos_rate": "eos {:.2f}",
    "tokens_per_second": "{:.0f} tok/s",
}


_BELOW = (
    {
        "reward": "reward {:.2f}",
        "entropy": "entropy {:.2f}",
        "ratio": "ratio {:.3f}",
        "clip_fraction": "clip fraction {:.2f}",
        "peak_memory_gb": "{:.1f} GB",
    },
    {
        "value_loss": "value loss {:.3f}",
        "explained_variance": "explained variance {:.2f}",
        "advantage_mean": "advantage {:.2f}",
        "advantage_std": "± {:.2f}",
    },
)
"""What else practitioners of PPO look at: two lines under the bar of a terminal."""


class _Bar(RichProgress):
    """A bar with lines below it."""

    below: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for line in self.below:
            yield Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis")


class Progress:
    """The display of one stage's training.

    Args:
        title: the stage's name.
        console: where to print; standard error if not given.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(stderr=True)
        self._bar: _Bar | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._info = self._message = ""
        self._kl: dict[str, float] = {}
        self._seen: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, n_steps: int, done: int) -> None:
        """Begin; `done` steps are behind already."""
        self.n_steps, self._begun, self._done_before = n_steps, time.monotonic(), done
        if done:
            self.console.print(f"[bold]{self.title}[/] goes on after step {done} of {n_steps}")
        if self.console.is_terminal:
            self._bar = _Bar(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=8),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[info]}"),
                console=self.console,
            )
            self._task = self._bar.add_task(self.title, total=n_steps, completed=done, info="")
            self._bar.start()

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        """Show a step's values."""
        info = self._info = summary({**self._kl, **values})
        if self._bar is not None and self._task is not None:
            self._seen.update(values)  # memory is told once a rollout
            self._bar.below = [line for names in _BELOW if (line := _told(names, self._seen))]
            self._bar.update(self._task, completed=done, info=info)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_EVERY_SECONDS or done == self.n_steps:
            self._last_line = now
            per_step = (now - self._begun) / max(1, done - self._done_before)
            left = per_step * (self.n_steps - done)
            self.console.print(f"{self.title} {done}/{self.n_steps}  {info}  {left:.0f} s left", highlight=False)

    def validation(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a validation."""
        text = summary(metrics)
        # Before the first step it is 0 by what it is; shown beside later ones that would look measured.
        self._kl = {"kl": metrics["kl"]} if "kl" in metrics and done else {}
        if self._message == VALIDATING:
            self.message(self._info)
        self.console.print(f"[dim]{self.title} step {done}: validation  {text}[/]", highlight=False)

    def look(self, done: int, metrics: Mapping[str, float | None]) -> None:
        """Show what the monitor found, and which share of the time it takes."""
        rates = (
            f"{name.replace('_', ' ')} {'not a number' if value is None else f'{value:.{_DIGITS.get(name, 2)}f}'}"
            for name, value in _monitored(metrics)
        )
        cost = f"{metrics['monitor/share']:.1%} of the time"
        self.message(self._info)
        self.console.print(f"[dim]{self.title} step {done}: monitor  {'  '.join(rates)}  ({cost})[/]", highlight=False)

    def message(self, text: str) -> None:
        """Show what is going on besides steps."""
        self._message = text
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, info=text)

    def stop(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


_DIGITS = {"nats_per_token": 3, "tokens": 0}


def _monitored(metrics: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    """The monitor's metrics by their names, without what it cost."""
    names = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("monitor/")}
    return [(name, value) for name, value in names.items() if name not in ("seconds", "share")]


def summary(values: Mapping[str, Any]) -> str:
    """The values worth a glance, in a line of at most 60 characters; of KL, which costs, the last validation's."""
    ppo = "score" in values  # whose loss says nothing about progress
    return _told({name: form for name, form in _SHOWN.items() if not (ppo and name == "loss")}, values)


def _told(forms: Mapping[str, str], values: Mapping[str, Any]) -> str:
    return "  ".join(form.format(values[name]) for name, form in forms.items() if name in values)
