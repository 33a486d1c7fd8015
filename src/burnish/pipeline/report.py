"""Measuring models side by side: load, ask, judge, and write down what came out."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from burnish.errors import BurnishError, ConfigError, OutputDirError
from burnish.evaluation.report import Report, build_report, print_report, write_report
from burnish.evaluation.suite import MAX_NEW_TOKENS, Card, Suite, evaluate, load_suite
from burnish.files import atomic_write
from burnish.models.config import Precision
from burnish.models.loading import ModelSource, resolve_model
from burnish.models.placement import pick_device, pick_dtype
from burnish.pipeline.evidence import check_harness, with_harness, with_kl, with_tokens, with_topic
from burnish.rollout.responder import ModelResponder
from burnish.rollout.speakers import base_key, load_speakers
from burnish.stages.run import model_of

TABLE = "report.txt"
"""The terminal's table, beside report.html and report.json."""

_TABLE_WIDTH = 100
_PLAIN_EVERY_SECONDS = 10.0


def report(
    models: Mapping[str, str],
    out: Path,
    *,
    prompts: str = "starter/evaluation",
    sample: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 32,
    seed: int = 0,
    dtype: Precision = "auto",
    device: str = "auto",
    topic_judge: str | None = None,
    lm_eval: Sequence[str] = (),
    lm_eval_path: str | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> Report:
    """Ask every model the same prompts, judge the answers, and write report.html, report.json and report.txt.

    A model without a chat template is prompted with raw text, as a user of a raw model would. Models on the same base
    share its weights in memory; of other bases one at a time is loaded.

    Args:
        models: name -> model; the first is the one that the others are compared with.
        out: the report's directory; must not exist, or be empty.
        prompts: the evaluation prompts: a JSON Lines file, or `starter/evaluation`.
        sample: a fixed sample of so many prompts, shared among the behaviours; all if none.
        max_new_tokens: the longest answer.
        batch_size: answers at a time.
        seed: of the sample and the intervals.
        dtype: of weights and activations (see `pick_dtype`).
        device: `auto`, `cpu`, `cuda`, ...
        topic_judge: a base model, by its name in the report or as any model, that says which conversation makes an
            answer most likely; the report's first raw model if not given.
        lm_eval: tasks of EleutherAI's lm-evaluation-harness to ask as well.
        lm_eval_path: a directory with task files of one's own.
        command: what the report says it was made by.
        console: where progress and the table go; standard error if not given.

    Raises:
        ConfigError: no models, or a sample that is too small.
        DataError: prompts that can't be used.
        ModelError: a model that can't be found, loaded or asked.
        OutputDirError: `out` holds something.
    """
    console = console or Console(stderr=True)
    check_report_dir(out)
    if not models:
        raise ConfigError("a report needs at least one model", fix="as in raw=gemma-3-270m")
    located = {name: model_of(model) for name, model in models.items()}
    sources = {name: resolve_model(model) for name, model in located.items()}
    suite = load_suite(prompts, sample=sample, seed=seed, max_new_tokens=max_new_tokens)
    chosen = pick_device(device)
    computed = pick_dtype(dtype, chosen)
    check_harness(lm_eval, lm_eval_path)
    judge = _judge(topic_judge, models)
    if judge is not None and judge not in models:
        resolve_model(model_of(judge))  # a wrong name is told before minutes of work

    def load(names: Sequence[str]) -> dict[str, ModelResponder]:
        speakers = load_speakers(
            [f"{name}={located.get(name) or model_of(name)}" for name in names],
            dtype=computed,
            device=str(chosen),
            echo=lambda line: console.print(Text(line)),
        )
        return {speaker.name: ModelResponder(speaker, batch_size=batch_size) for speaker in speakers}

    cards: dict[str, Card] = {}
    raw: set[str] = set()
    together: dict[str, ModelResponder] = {}
    for names in _by_base(sources):
        together.clear()  # the last base's weights are free before the next one is loaded
        together |= load(names)
        for name, responder in together.items():
            with _Display(name, console) as display:
                card = _card(responder, sources[name], suite, computed, display)
                display.show("KL", 0, 1)
                card = with_kl(card, next(iter(models)), together)
                cards[name] = with_harness(card, responder, lm_eval, lm_eval_path)
        raw |= {name for name, responder in together.items() if responder.speaker.is_raw}
    judge = judge or next((name for name in models if name in raw), None)
    if judge is not None and judge not in together and suite.topic_rows:
        together.clear()
        together |= load([judge])
    cards = {name: with_topic(card, None if judge is None else together.get(judge)) for name, card in cards.items()}
    made = build_report([cards[name] for name in models], command=command)
    write_report(made, out, replace=True)
    atomic_write(out / TABLE, _as_text(made))
    console.print()
    print_report(made, console)
    return made


def check_report_dir(out: Path) -> None:
    """Refuse a directory that holds something.

    Raises:
        OutputDirError: it does.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputDirError(
            "the output directory is not empty" if out.is_dir() else "the output is a file, not a directory",
            where=str(out),
            fix="choose another --out; nothing in it was touched",
        )


def _judge(wanted: str | None, models: Mapping[str, str]) -> str | None:
    """The topic judge by its name in the report if it is one of its models, else as it was written."""
    return next((name for name, model in models.items() if wanted in (name, model)), wanted)


def _by_base(sources: Mapping[str, ModelSource]) -> list[list[str]]:
    """Names of models in groups that stand on the same weights, in the order given."""
    groups: dict[str, list[str]] = {}
    for name, source in sources.items():
        groups.setdefault(base_key(source), []).append(name)
    return list(groups.values())


def _card(responder: ModelResponder, source: ModelSource, suite: Suite, dtype: torch.dtype, display: _Display) -> Card:
    how = "as raw text" if responder.speaker.is_raw else "with its chat template"
    about = {"model": str(source), "prompted": f"{how}, {str(dtype).removeprefix('torch.')}"}
    asked: Any = responder
    try:
        card = evaluate(asked, suite, about=about, progress=display.show)
    except BurnishError as error:
        raise type(error)(error.what, where=f"model {responder.name}, {error.where}", fix=error.fix) from error
    return with_tokens(card, "multiple choice and prose", responder.tokens_scored)


def _as_text(made: Report) -> str:
    file = io.StringIO()
    print_report(made, Console(file=file, width=_TABLE_WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


class _Display:
    """How far the measuring of one model is: a bar in a terminal, plain lines elsewhere."""

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console = name, console
        self._bar: Progress | None = None
        self._last_line = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[what]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(self.name, total=None, what="")
            self._bar.start()
        return self

    def show(self, what: str, done: int, total: int) -> None:
        """Take `done` of `total` of what is being done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, what=what)
            return
        now = time.monotonic()
        if done < total and now - self._last_line >= _PLAIN_EVERY_SECONDS:
            self._last_line = now
            self.console.print(Text(f"{self.name}: {what} {done}/{total}"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if error is None:
            self.console.print(Text(f"{self.name}: measured in {time.monotonic() - self._started:.0f} s"))
