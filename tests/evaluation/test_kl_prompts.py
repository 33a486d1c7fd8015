"""Which answers the KL on prompts is measured in, and how it is summed up: numbers worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from burnish.data.examples import Message
from burnish.errors import ModelError
from burnish.evaluation.evidence_lines import TITLE_WIDTH, kl_lines
from burnish.evaluation.kl_prompts import KL_PROMPTS, measure_kl_prompts, neutral_places
from burnish.evaluation.retention import KLEvidence, KLRecord
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.suite import Card, Record, Suite


def row(behaviour: str, number: int) -> EvalRow:
    return EvalRow(f"{behaviour}{number}", behaviour, (Message("user", f"{behaviour} {number}?"),))


def card_of(answers: Sequence[tuple[EvalRow, str, tuple[int, ...] | None]]) -> Card:
    rows = tuple(one for one, _, _ in answers)
    records = tuple(Record(one, text, True, 1, True, "", None, ids=ids) for one, text, ids in answers)
    return Card("moved", Suite(rows, (), (), (), 0, None, 8), records, None)


@dataclass
class Table:
    """Gives each answer its KL by its first token, and remembers what it was asked."""

    name: str
    nats: dict[int, float]
    asked: list[Any] = field(default_factory=list)

    def kl_from(self, start: Any, texts: Sequence[str], *, max_tokens: int) -> list[tuple[float, int]]:
        raise NotImplementedError

    def kl_after(self, start: Any, items: Sequence[tuple[Any, Sequence[int]]]) -> list[tuple[float, int]]:
        self.asked += [(talk[-1].content, ids) for talk, ids in items]
        return [(self.nats[ids[0]], len(ids)) for _, ids in items]


def test_prompts_are_taken_in_turn_from_the_neutral_behaviours_in_the_suites_order() -> None:
    rows = [
        *(row("harm", n) for n in range(2)),
        *(row("open", n) for n in range(3)),
        row("answerable", 0),
        *(row("answers", n) for n in range(200)),
        row("topic", 0),
    ]
    names = [rows[place].id for place in neutral_places(rows)]
    assert names[:7] == ["answers0", "answerable0", "open0", "answers1", "open1", "answers2", "open2"]
    assert names[7:] == [f"answers{n}" for n in range(3, 60)]
    assert len(names) == KL_PROMPTS == 64
    assert neutral_places(rows[:2]) == []


def test_the_mean_is_over_positions_and_empty_answers_are_counted() -> None:
    """(0.9 + 0.1) nats over 3 + 1 positions; two answers say nothing, and one to a harmful prompt is not taken."""
    card = card_of(
        [
            (row("answers", 0), "Paris.", (7, 8, 2)),
            (row("answers", 1), "", (2,)),
            (row("harm", 0), "No.", (9, 2)),
            (row("open", 0), "Yes", (8,)),  # cut off at the limit: no token ends it
            (row("answerable", 0), "", (5, 2)),
        ]
    )
    model = Table("moved", {7: 0.9, 8: 0.1})
    found = measure_kl_prompts(model, Table("raw", {}), card)
    assert found is not None
    assert model.asked == [("answers 0?", (7, 8, 2)), ("open 0?", (8,))]
    assert found.records == (KLRecord("answers0", "answers", 0.9, 3), KLRecord("open0", "open", 0.1, 1))
    assert (found.start, found.left_out) == ("raw", 2)
    assert found.per_token.value == pytest.approx(0.25)


def test_what_can_not_be_measured() -> None:
    start = Table("raw", {})
    assert measure_kl_prompts(Table("moved", {}), start, card_of([(row("harm", 0), "No.", (9, 2))])) is None
    with pytest.raises(ModelError, match="every answer to a neutral prompt is empty"):
        measure_kl_prompts(Table("moved", {}), start, card_of([(row("answers", 0), "", (2,))]))
    with pytest.raises(ModelError, match="not finite") as caught:
        measure_kl_prompts(Table("moved", {9: float("nan")}), start, card_of([(row("answers", 0), "No.", (9, 2))]))
    assert caught.value.where == "answers0"


def test_the_line_tells_how_many_answers_each_model_gave() -> None:
    card = card_of([(row("answers", 0), "Paris.", (7, 8, 2))])
    evidence = KLEvidence("raw", (KLRecord("answers0", "answers", 0.75, 3),), 0, left_out=4)
    first, api = replace(card, name="raw"), replace(card, name="api", endpoint=True)
    (line,) = kl_lines([first, replace(card, kl_prompts=evidence), api])
    assert (line.key, line.group, line.n) == ("kl_prompts", "retention", 5)
    assert len(line.title) <= TITLE_WIDTH
    assert [cell and cell.text for cell in line.cells] == [None, "0.250", None]
    assert line.changes == (None, None, None)
    assert line.rule.endswith("Answers: moved 1 (4 empty).")
    assert kl_lines([first, api]) == []
