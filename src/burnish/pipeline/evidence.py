"""What a card can't measure alone: the topic needs a judge of all answers, tasks of others their harness. The KL
divergence, which needs a second model in memory, is in `divergence.py`.

Nothing here fails a report: what can't be measured is left out of the card, and its reason stands among the facts about
the model.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from burnish.errors import BurnishError, ConfigError
from burnish.evaluation.suite import Card
from burnish.evaluation.topic_likelihood import measure_topic
from burnish.evaluation.topic_turns import Ask, hold_dialogues, measure_drift
from burnish.rollout.cached import CachedResponder
from burnish.rollout.responder import ModelResponder

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


def check_tasks(tasks: Sequence[str], path: str | None) -> None:
    """Refuse tasks that can't be asked before any model is loaded.

    Raises:
        ConfigError: as `check_harness`; and a task that the harness does not know.
    """
    check_harness(tasks, path)
    if tasks:
        from burnish.evaluation.lm_harness import find_tasks

        find_tasks(tasks, path)


def with_harness(card: Card, model: ModelResponder, tasks: Sequence[str], path: str | None) -> Card:
    """The card with what tasks of lm-evaluation-harness give.

    Raises:
        ConfigError: an unknown task, or one whose data can't be loaded.
    """
    if not tasks:
        return card
    from burnish.evaluation.lm_harness import run_tasks

    before = model.tokens_scored
    found = run_tasks(model, tasks, path)
    return with_tokens(replace(card, harness=found), "lm-eval", model.tokens_scored - before)


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
