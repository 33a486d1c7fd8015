"""A light part of the report card, for looking at a model while it trains: some parts, a fixed sample, the beginnings
of texts. The suite is asked and judged by the same functions as the whole card."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from burnish.errors import ConfigError
from burnish.evaluation.rows import BEHAVIOUR_NAMES, Choice, Prose, stratified_sample
from burnish.evaluation.suite import Suite, load_suite

MULTIPLE_CHOICE, NATS_PER_TOKEN = "multiple_choice", "nats_per_token"
GROUPS = {"retention": (MULTIPLE_CHOICE, NATS_PER_TOKEN), "behaviours": BEHAVIOUR_NAMES}
"""What a part that names several stands for."""

Item = TypeVar("Item", Choice, Prose)


def expand_parts(parts: Sequence[str]) -> list[str]:
    """Parts one by one: `retention` is multiple choice and prose, `behaviours` are all of them."""
    single = [name for part in parts for name in GROUPS.get(part, (part,))]
    return list(dict.fromkeys(single))


def light_suite(
    parts: Sequence[str],
    *,
    prompts: str | Path = "starter/evaluation",
    prose: str | Path = "starter/prose",
    sample: int | None = None,
    questions: int | None = None,
    characters: int | None = None,
    max_new_tokens: int = 48,
    seed: int = 0,
) -> Suite:
    """The suite of the named parts.

    Args:
        parts: behaviours, `multiple_choice`, `nats_per_token`, or a group of them (`GROUPS`); of a group's behaviours
            those of which the prompts hold rows.
        prompts: evaluation rows: a JSON Lines file, or `starter/evaluation`.
        prose: held-out texts, for `nats_per_token`: a JSON Lines file, a directory of them, or `starter/prose`.
        sample: evaluation rows, shared evenly among the behaviours that are asked for; all of theirs if none.
        questions: multiple-choice questions; all if none.
        characters: of each held-out text, its beginning up to the last white space within them; all if none.
        max_new_tokens: the limit of an answer.
        seed: of the samples and of every bootstrap.

    Raises:
        DataError: when a file or a row is not usable.
        ConfigError: when the prompts hold no row of a behaviour that is asked for by name, or the sample is too small.
    """
    names = expand_parts(parts)
    behaviours = [name for name in names if name in BEHAVIOUR_NAMES]
    whole = load_suite(
        prompts,
        choices="starter/mcq" if MULTIPLE_CHOICE in names else None,
        prose=prose if NATS_PER_TOKEN in names else None,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    rows = [row for row in whole.rows if row.behaviour in behaviours]
    if missing := set(parts) & set(behaviours) - {row.behaviour for row in rows}:
        raise ConfigError(
            f"no row of the behaviour {sorted(missing)[0]!r}", where=str(prompts), fix="leave it out of the parts"
        )
    changes: dict[str, Any] = {
        "rows": tuple(stratified_sample(rows, sample, seed=seed)),
        "choices": tuple(fixed_sample(whole.choices, questions, seed=seed)),
        "prose": tuple(beginning(text, characters) for text in whole.prose),
        "sample": sample,
    }
    return replace(whole, **changes)


def fixed_sample(items: Sequence[Item], n: int | None, *, seed: int = 0) -> list[Item]:
    """The n items that come first in the order of sha256(seed, id), in the order of `items`: the same on any machine,
    and a larger sample holds the smaller."""
    if n is None or n >= len(items):
        return list(items)
    drawn = sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())[:n]
    chosen = {item.id for item in drawn}
    return [item for item in items if item.id in chosen]


def beginning(text: Prose, characters: int | None) -> Prose:
    """The text up to the last white space in the second half of its first `characters`, up to there where there is none
    (Chinese has none between words), or all of it."""
    if characters is None or len(text.text) <= characters:
        return text
    cut = text.text[:characters]
    space = max(cut.rfind(" "), cut.rfind("\n"))
    return replace(text, text=cut[:space] if 2 * space >= characters else cut)
