"""How far a model has moved where it is used: KL from the starting model in the model's own answers to neutral prompts.

`retention.py` measures the same on raw text that neither model wrote, without a chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from burnish.errors import ModelError
from burnish.evaluation.retention import Comparable, KLEvidence, KLRecord, demand_finite
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.suite import Card

NEUTRAL = ("answers", "answerable", "open")
"""Behaviours whose prompts ask for nothing that alignment is meant to change the answer to."""
KL_PROMPTS = 64
"""Prompts at most: each costs two whole vocabularies for every token of its answer."""
KL_PROMPTS_RULE = (
    "KL(model || starting model) over the whole vocabulary, exact, at every position that predicts a token of the "
    "model's own greedy answer, the token that ends it included; the prompt's positions do not count. The prompt is as "
    "this model is prompted, through its chat template where it has one, and both models read the same token ids: the "
    "starting model meets that template too, even where it is itself asked with raw text. Taken are up to "
    f"{KL_PROMPTS} prompts of \u201canswers and stops\u201d, \u201canswers when it can\u201d and \u201canswers at "
    "all\u201d, in turn, each in the suite's order. Answers that the limit cut off are taken as they are, empty ones "
    "left out. The sum in nats over the number of positions: a mean along the likeliest answer, not over sampled ones. "
    "0 for a model that has not moved. Neither near nor far is good in itself."
)


def neutral_places(rows: Sequence[EvalRow]) -> list[int]:
    """Places of the prompts that are taken: one of each neutral behaviour in turn, in the order of the rows."""
    queues = [[place for place, row in enumerate(rows) if row.behaviour == name] for name in NEUTRAL]
    return [place for turn in zip_longest(*queues) for place in turn if place is not None][:KL_PROMPTS]


def measure_kl_prompts(model: Comparable, start: Comparable, card: Card) -> KLEvidence | None:
    """KL(model || start) along the card's answers to neutral prompts; none where the suite has no such prompt.

    Args:
        model: whose card it is.
        start: the model that it is compared with.
        card: with the tokens of its answers.

    Raises:
        ModelError: the two can't be compared, or every answer is empty.
    """
    records = [card.records[place] for place in neutral_places([record.row for record in card.records])]
    if not records:
        return None
    said = [(record, record.ids) for record in records if record.ids and record.text]
    if not said:
        raise ModelError("every answer to a neutral prompt is empty", where=model.name)
    values = model.kl_after(start, [(record.row.messages, ids) for record, ids in said])
    found = []
    for (record, _), (nats, tokens) in zip(said, values, strict=True):
        demand_finite([nats], model.name, record.row.id)
        found.append(KLRecord(record.row.id, record.row.behaviour, nats, tokens))
    return KLEvidence(start.name, tuple(found), card.suite.seed, left_out=len(records) - len(said))
