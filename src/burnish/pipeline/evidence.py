"""What a card can't measure alone: the topic needs a judge of all answers, tasks of others their harness. The KL
divergence, which needs a second model in memory, is in `divergence.py`.

Of this only the harness's tasks, which were asked for by name, fail a report: what else can't be measured is left out
of the card, and its reason stands among the facts about the model.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import BurnishError, ConfigError
from burnish.evaluation.harness_results import HarnessResult
from burnish.evaluation.suite import Card
from burnish.evaluation.topic_likelihood import measure_topic
from burnish.evaluation.topic_turns import Ask, hold_dialogues, measure_drift
from burnish.pipeline.fingerprint import code_fingerprint
from burnish.rollout.cached import CachedResponder
from burnish.rollout.responder import ModelResponder
from burnish.rollout.response_cache import Keep

if TYPE_CHECKING:
    from burnish.evaluation.harness_tasks import HarnessTask

_HARNESS_CODE = "burnish.evaluation.lm_harness:run_task"
Scoring = ModelResponder | CachedResponder
"""A local model, with or without the cache before it."""
NO_JUDGE = "no raw model is in the report to judge the answers; name one with --topic-judge"


def with_note(card: Card, what: str, why: str) -> Card:
    """The card with a fact added."""
    return replace(card, about={**card.about, what: why})


def with_tokens(card: Card, part: str, tokens: int) -> Card:
    """The card with the tokens that scoring took for one of its parts."""
    before = card.about.get("tokens scored")
    told = f"{tokens:,} for {part}"
    return with_note(card, "tokens scored", f"{before}, {told}" if before else told)


def harness_version() -> str | None:
    """The version of lm-evaluation-harness, or none where it is not installed."""
    try:
        return importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError:
        return None


def check_harness(tasks: Sequence[str], path: str | None) -> None:
    """Refuse what can be told to be wrong without the harness's index of tasks, which takes seconds.

    Raises:
        ConfigError: lm-eval is not installed, or the directory with task files is not there.
    """
    if path is not None and not (tasks and Path(path).is_dir()):
        what = "no such directory" if tasks else "task files without tasks"
        raise ConfigError(f"{what}: {path}", where="lm_eval_path", fix="name tasks as lm_eval, and their directory")
    if tasks and harness_version() is None:
        raise ConfigError("lm-eval is not installed", where="lm_eval", fix="pip install 'burnish[lm-eval]'")


def check_tasks(tasks: Sequence[str], path: str | None) -> tuple[HarnessTask, ...]:
    """Load tasks with their data, and refuse those that can't be asked before any model is loaded.

    Raises:
        ConfigError: as `check_harness` and `load_tasks`.
    """
    check_harness(tasks, path)
    if not tasks:
        return ()
    from burnish.evaluation.harness_tasks import load_tasks

    return load_tasks(tasks, path)


def with_harness(card: Card, model: CachedResponder, tasks: Sequence[HarnessTask], echo: Callable[[str], None]) -> Card:
    """The card with what tasks of lm-evaluation-harness give. Each task's results are kept when it is finished, and the
    model is not loaded where all are there.

    Args:
        card: the model's.
        model: it, behind the cache.
        tasks: what it is asked.
        echo: is told how many tasks were kept from before.

    Raises:
        ConfigError: a task that fails.
        ModelError: a continuation that does not fit the model's context.
    """
    if not tasks:
        return card
    before, kept = model.tokens_scored, 0

    def on_disk(count: int) -> None:
        nonlocal kept
        kept = count

    def compute(missing: list[int], keep: Keep) -> None:
        from burnish.evaluation.lm_harness import run_task

        for place in missing:
            try:
                results = run_task(model.model, tasks[place])
            except BurnishError as error:
                error.where = f"model {model.name}, {error.where}"
                raise
            keep(place, [asdict(result) for result in results])

    code = code_fingerprint(_HARNESS_CODE)
    keys = [[model.identity, "lm-eval", task.fingerprint, code] for task in tasks]
    values = model.cache.filled(keys, compute, found=on_disk)
    card = replace(card, harness=tuple(HarnessResult.of(value) for task in values for value in task))
    if kept:
        told = f"{kept} of {len(tasks)} tasks"
        card = with_note(card, "lm-eval from the cache", told)
        echo(f"{model.name}: {told} of lm-eval were kept from before")
    return with_tokens(card, "lm-eval", model.tokens_scored - before)


def with_topic(card: Card, judge: Scoring | None) -> Card:
    """The card with what a base model says of its answers' topics, and of those in the conversations that it held.

    Args:
        card: the model's, with its answers.
        judge: the base model, if there is one.
    """
    answers = [(record.row, record.text) for record in card.of("topic")]
    if not answers:
        return card
    if judge is None:
        return with_note(card, "topic likelihood", f"not measured: {NO_JUDGE}")
    before = judge.tokens_scored
    try:
        found = measure_topic(judge, answers, card.suite.topic_rows, seed=card.suite.seed)
    except BurnishError as error:
        return with_note(card, "topic likelihood", f"not measured: {error}")
    card = replace(card, topic=found)
    if card.dialogues:
        rows = [row for row in card.suite.topic_rows if row.n_turns > 1]
        try:
            card = replace(card, drift=measure_drift(judge, card.dialogues, rows, seed=card.suite.seed))
        except BurnishError as error:
            card = with_note(card, "drift over turns", f"not measured: {error}")
    return with_tokens(card, f"topic (through {judge.name})", judge.tokens_scored - before)


def with_dialogues(card: Card, ask: Ask) -> Card:
    """The card with the conversations of `topic` that the model holds itself.

    Args:
        card: the model's.
        ask: gives its answers.
    """
    try:
        held = hold_dialogues(ask, [record.row for record in card.of("topic")])
    except BurnishError as error:
        return with_note(card, "drift over turns", f"not measured: {error}")
    if not held:
        return card
    more = sum(len(dialogue.answers) for dialogue in held)
    return with_note(replace(card, dialogues=held), "held turn by turn", f"{len(held)} conversations, {more} answers")
