"""Measuring models side by side: load, ask, judge, and write down what came out."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from burnish.data.examples import Message
from burnish.errors import BurnishError, ConfigError, OutputDirError
from burnish.evaluation.cost import make_prices
from burnish.evaluation.report import Report, build_report, print_details, print_report, write_report
from burnish.evaluation.suite import Card, Suite, evaluate, load_suite
from burnish.evaluation.topic_turns import DIALOGUE_TOKENS, Ask
from burnish.files import atomic_write
from burnish.models.placement import pick_device, pick_dtype
from burnish.pipeline.divergence import with_kl, with_kl_across
from burnish.pipeline.evidence import check_tasks, with_dialogues, with_harness, with_tokens, with_topic
from burnish.pipeline.preference import check_preference, compare
from burnish.pipeline.report_config import ReportConfig
from burnish.pipeline.responders import Asking, Group, check_keys, check_models, make_groups
from burnish.pipeline.training import trained_with, training_of
from burnish.rollout.answers import Answer
from burnish.rollout.cached import CachedResponder
from burnish.rollout.endpoint import EndpointSettings, is_endpoint
from burnish.rollout.remote import EndpointResponder
from burnish.rollout.response_cache import ResponseCache

if TYPE_CHECKING:
    from burnish.evaluation.harness_tasks import HarnessTask

TABLE = "report.txt"
"""The terminal's table, beside report.html and report.json."""

_TABLE_WIDTH = 100
_PLAIN_EVERY_SECONDS = 10.0


def report(config: ReportConfig, *, command: str | None = None, console: Console | None = None) -> Report:
    """Ask every model the same prompts, judge the answers, and write report.html, report.json and report.txt.

    A model without a chat template is prompted with raw text, as a user of a raw model would. Models on the same base
    share its weights in memory; of other bases one at a time is loaded, and two for the KL between the first model
    and another. Answers are kept in burnish's cache directory, so that a second report, one more model, or a report
    that was cut off costs only what is new.

    Args:
        config: the models and how they are measured; `out` must not exist, or be empty.
        command: what the report says it was made by.
        console: where progress and the table go; standard error if not given.

    Raises:
        ConfigError: a sample that is too small, or settings that do not fit together.
        DataError: prompts, questions or texts that can't be used.
        ModelError: a model that can't be found, loaded or asked; of an endpoint the finished answers are kept.
        OutputDirError: `out` holds something.
    """
    console = console or Console(stderr=True)
    out, models = config.out, config.models
    check_report_dir(out)
    check_models(models)
    check_keys(config.api_keys)
    judge, reward = check_preference(list(models), judge=config.judge, reward=config.reward, baseline=config.baseline)
    prices = make_prices(config.prices, list(models))
    suite = read_suite(config)
    topic_judge = _topic_judge(config.topic_judge, models)
    tasks = check_tasks(config.lm_eval, config.lm_eval_path)
    config = config.model_copy(update={"topic_judge": topic_judge})
    asking = _asking(config, console)
    cards = _measure(config, suite, tasks, asking, console)
    cards = with_kl_across(cards, models, asking, two_bases=config.two_bases)
    preference = None
    if judge is not None or reward is not None:
        with _Display("preference", console) as display:
            preference = compare(
                cards,
                asking,
                judge=judge,
                reward=reward,
                baseline=config.baseline,
                show=lambda name, what, done, total: display.show(f"{what} of {name}", done, total),
            )
    training = {name: found for name, model in models.items() if (found := training_of(model)) is not None}
    cards = [_with_origin(card, model) for card, model in zip(cards, models.values(), strict=True)]
    made = build_report(cards, preference=preference, prices=prices, command=command, training=training)
    write_report(made, out, replace=True)
    atomic_write(out / TABLE, _as_text(made))
    console.print()
    print_report(made, console)
    return made


def read_suite(config: ReportConfig) -> Suite:
    """What a report asks.

    Raises:
        DataError: prompts, questions or texts that can't be used.
        ConfigError: a sample that is too small.
    """
    return load_suite(
        config.prompts,
        choices=config.choices,
        prose=config.prose,
        sample=config.sample,
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
    )


def _measure(
    config: ReportConfig, suite: Suite, tasks: Sequence[HarnessTask], asking: Asking, console: Console
) -> list[Card]:
    """The cards in the order of the models. A group's weights go when the next group's come, but for the reader's."""
    cards: dict[str, Card] = {}
    readers: dict[str, CachedResponder] = {}
    models = config.models
    groups = make_groups(models, asking, [row.id for row in suite.rows])
    while groups:
        group = groups.pop(0)
        together = group.local
        later = any(rest.local for rest in groups)
        judged = config.topic_judge is not None or later or bool(_first_reader(None, models, readers | together))
        for name in group.responders:
            card = _card(name, group, suite, asking, console, dialogues=config.dialogues and judged)
            if name in together:
                card = with_tokens(card, "multiple choice and prose", together[name].tokens_scored)
            card = with_kl(card, next(iter(models)), (readers if config.two_bases else {}) | together)
            if name in together:
                card = with_harness(card, together[name], tasks, asking.echo)
            cards[name] = card
        readers = _first_reader(config.topic_judge, models, readers | together)
    reader = _reader(config.topic_judge, readers, asking)
    return [with_topic(cards[name], reader) for name in models]


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


def _topic_judge(wanted: str | None, models: Mapping[str, str]) -> str | None:
    """The topic judge by its name in the report if it is one of its models, else as it was written.

    Raises:
        ModelError: no such model.
        ConfigError: it is an endpoint.
    """
    if wanted is None:
        return None
    label = next((name for name, model in models.items() if wanted in (name, model)), wanted)
    model = models.get(label, wanted)
    if is_endpoint(model):
        raise ConfigError(
            f"an endpoint gives no log-probabilities: {model}", where="topic_judge", fix="name a local model"
        )
    try:
        check_models({label: model})
    except BurnishError as error:
        error.where = f"topic_judge, {error.where}" if error.where else "topic_judge"
        raise
    return label


def _first_reader(
    wanted: str | None, models: Mapping[str, str], found: Mapping[str, CachedResponder]
) -> dict[str, CachedResponder]:
    """Of the models measured so far the one that may judge topics, if there is one; the others need not be kept."""
    fit = (name for name in models if name in found and (name == wanted if wanted else found[name].is_raw))
    return {name: found[name] for name in islice(fit, 1)}


def _reader(wanted: str | None, measured: Mapping[str, CachedResponder], asking: Asking) -> CachedResponder | None:
    """The base model that judges topics: the one that was named, else the report's first raw one.

    Args:
        wanted: its name, if one was given.
        measured: that model, if it is one of the report's.
        asking: how another one would be loaded.
    """
    if measured or wanted is None:
        return next(iter(measured.values()), None)
    (group,) = make_groups({wanted: wanted}, asking)
    found = group.responders[wanted]
    assert isinstance(found, CachedResponder)  # an endpoint was refused at the start
    return found


def _asking(config: ReportConfig, console: Console) -> Asking:
    def echo(line: str) -> None:
        console.print(Text(line))

    place = pick_device(config.device)
    kept = ResponseCache.usual(echo=echo) if config.cache else ResponseCache(None)
    patience = EndpointSettings(config.concurrency, config.timeout)
    dtype, keys = pick_dtype(config.dtype, place), config.api_keys
    return Asking(dtype, place, config.batch_size, patience, kept, echo, keys, config.compute)


def _card(name: str, group: Group, suite: Suite, asking: Asking, console: Console, *, dialogues: bool) -> Card:
    responder = group.responders[name]
    with _Display(name, console) as display:
        try:
            card = evaluate(responder, suite, progress=display.show)
            if dialogues:
                card = with_dialogues(card, _asker(responder, suite, display))
        except BurnishError as error:
            error.where = f"model {name}, {error.where}"
            raise
        finally:
            if isinstance(responder, EndpointResponder):
                responder.close()
    about = {**card.about, "model": group.sources[name], "prompted": _prompted(responder, asking)}
    if responder.from_cache:
        about["from the cache"] = f"{responder.from_cache} of {responder.asked} answers"
        console.print(Text(f"{name}: {about['from the cache']} were kept from before"))
    if isinstance(responder, EndpointResponder):
        notes = responder.notes()
        about |= notes
        for what, many in notes.items():
            console.print(Text(f"{name}: {what}: {many}"))
    return replace(card, about=about, endpoint=isinstance(responder, EndpointResponder))


def _with_origin(card: Card, model: str) -> Card:
    """The card with what the model was trained with, where that is known."""
    how = trained_with(model)
    return card if how is None else replace(card, about={**card.about, "trained": how})


def _asker(responder: CachedResponder | EndpointResponder, suite: Suite, display: _Display) -> Ask:
    """How the conversations that a model holds are put to it."""

    def ask(names: list[str], conversations: list[list[Message]]) -> list[Answer]:
        if isinstance(responder, EndpointResponder):
            responder.names = names

        def answered(done: int) -> None:
            display.show("turns", done, len(conversations))

        limit = min(suite.max_new_tokens, DIALOGUE_TOKENS)
        return responder.answer(conversations, max_new_tokens=limit, progress=answered)

    return ask


def _prompted(responder: CachedResponder | EndpointResponder, asking: Asking) -> str:
    if isinstance(responder, EndpointResponder):
        left_out = ", ".join(sorted(responder.left_out))
        how = f"the server refuses {left_out}: not greedy" if left_out else "temperature 0"
        return f"as chat messages, {how}; the server's own template"
    how = "as raw text" if responder.is_raw else "with its chat template"
    return f"{how}, {str(asking.dtype).removeprefix('torch.')}"


def _as_text(made: Report) -> str:
    file = io.StringIO()
    console = Console(file=file, width=_TABLE_WIDTH, color_system=None)
    print_report(made, console)
    console.print()
    print_details(made, console)
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
                TextColumn("{task.description}", style="bold", markup=False),
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
