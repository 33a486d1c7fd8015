"""KL from the report's first model, for which it and another one must be in memory together.

Models on one base are, while they are asked; so is the first model where it is kept to judge topics. The others are
compared when all answers are there: the first model's base and one other at a time.

Nothing here fails a report: what can't be measured is left out of the card, and its reason stands among the facts about
the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from burnish.errors import BurnishError
from burnish.evaluation.kl_prompts import measure_kl_prompts
from burnish.evaluation.retention import KLEvidence, measure_kl
from burnish.evaluation.suite import Card
from burnish.pipeline.evidence import Scoring, with_note, with_tokens
from burnish.pipeline.responders import Asking, make_groups

TEXTS, PROMPTS = "KL from start", "KL on prompts"
"""What facts about a model call the two."""
NO_LOGPROBS = "an endpoint gives no log-probabilities"


def with_kl(card: Card, start: str, together: Mapping[str, Scoring]) -> Card:
    """The card with KL(model || start), on raw text and in the model's answers to neutral prompts.

    Args:
        card: the model's.
        start: the name of the model that the others are compared with.
        together: who may be in memory together, by name; without both of them the card is given back as it is.
    """
    if card.name == start or card.name not in together or start not in together:
        return card
    model, other, suite = together[card.name], together[start], card.suite
    if suite.choices or suite.prose:
        found, card = _measured(
            card, TEXTS, model, start, lambda: measure_kl(model, other, suite.choices, suite.prose, seed=suite.seed)
        )
        card = replace(card, kl=found)
    found, card = _measured(card, PROMPTS, model, start, lambda: measure_kl_prompts(model, other, card))
    return replace(card, kl_prompts=found)


def _measured(
    card: Card, what: str, model: Scoring, start: str, measure: Callable[[], KLEvidence | None]
) -> tuple[KLEvidence | None, Card]:
    """What `measure` finds, and the card with what that took, or with why it is not measured."""
    before = model.tokens_scored
    try:
        found = measure()
    except BurnishError as error:
        return None, with_note(card, what, f"not measured: {error}")
    except torch.OutOfMemoryError:
        return None, with_note(card, what, f"not measured: {start} and {card.name} don't fit into memory together")
    if found is None:
        return None, card
    part = "KL" if what == TEXTS else "KL on prompts"
    return found, with_tokens(card, f"{part} (through {start} as well)", model.tokens_scored - before)


def with_kl_across(cards: Sequence[Card], models: Mapping[str, str], asking: Asking, *, two_bases: bool) -> list[Card]:
    """The cards with the KL of those models that were not in memory together with the first, or with why not.

    Two bases are held: the first model's, and that of the models which are compared with it just then. What is in the
    cache is not computed again, and nothing is loaded for it.

    Args:
        cards: of all models; the first model's is the first.
        models: name -> model.
        asking: how models are loaded.
        two_bases: whether two bases may be held at once.
    """
    start = cards[0]
    if start.endpoint:
        return [start, *(_unmeasured(card, f"{start.name}: {NO_LOGPROBS}") for card in cards[1:])]
    found = {card.name: _unmeasured(card, NO_LOGPROBS) if card.endpoint else card for card in cards}
    waiting = [card for card in cards[1:] if not card.endpoint and not _is_told(card)]
    if not two_bases:
        why = f"it does not share {start.name}'s base, and two bases are not to be held in memory (two_bases)"
        return list((found | {card.name: _unmeasured(card, why) for card in waiting}).values())
    if waiting:
        asking.echo(f"KL from {start.name}, with two bases in memory: {', '.join(card.name for card in waiting)}")
        named = {name: models[name] for name in (start.name, *(card.name for card in waiting))}
        # Notices of models were told when they were first loaded.
        first, *groups = make_groups(named, replace(asking, echo=lambda line: None))
        while groups:
            together = first.local | groups.pop(0).local  # the base before goes here, before the next one comes
            found |= {name: with_kl(found[name], start.name, together) for name in together}
    return list(found.values())


def _is_told(card: Card) -> bool:
    """Whether the KL was measured, or why not is said."""
    return card.kl is not None or card.kl_prompts is not None or TEXTS in card.about or PROMPTS in card.about


def _unmeasured(card: Card, why: str) -> Card:
    for what in (TEXTS, PROMPTS):
        card = with_note(card, what, f"not measured: {why}")
    return card
