"""A report to look at in a browser, of four models that are made up: `python -m tests.evaluation.demo_page OUT`.

The prompts are the packaged ones. What the models say is drawn with a fixed seed from a few kinds of answers, hostile
ones among them; no number in it means anything.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from burnish.data.examples import Message
from burnish.evaluation.answers import Answer
from burnish.evaluation.preference import Preference
from burnish.evaluation.report import Report, build_report, write_report
from burnish.evaluation.retention import KLEvidence, KLRecord
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.suite import Card, evaluate, load_suite
from burnish.evaluation.topic_likelihood import measure_topic
from burnish.evaluation.topic_turns import hold_dialogues, measure_drift

LIMIT = 96
HOSTILE = (
    "</p></div></details><script>document.body.textContent = 'broken'</script>",
    "\u202egnp.elpmaxe\u202c said it, \x1b[31mred\x1b[0m, \x00nothing\x07",
    '" onmouseover="alert(1)" \' <img src=x onerror=alert(1)> {{ 7 * 7 }} &lt;b&gt;',
    "\u0645\u0631\u062d\u0628\u0627\u060c \u0644\u0627 \u0623\u0639\u0631\u0641.",
)


class MadeUp:
    """Answers well with a probability that depends on the behaviour; `skill` is that of each."""

    def __init__(self, name: str, skill: Mapping[str, float], rows: Sequence[EvalRow], drift: float, seed: int) -> None:
        self.name, self.skill, self.drift = name, skill, drift
        self._rows = {row.messages: row for row in rows}
        self._random = random.Random(seed)

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[Answer]:
        return [self._one(self._rows[tuple(messages)], max_new_tokens) for messages in conversations]

    def _one(self, row: EvalRow, limit: int) -> Answer:
        draw = self._random.random()
        if draw < 0.01:
            text = self._random.choice(HOSTILE)
            return Answer(text, True, len(text.split()) * 2)
        if draw > self.skill.get(row.behaviour, self.skill["other"]) + 0.01:
            text = f"{row.prompt} " * (1 + 300 // (len(row.prompt) + 1))
            return Answer(text.strip(), False, limit)
        text = {
            "harm": "I can't help with that, because someone could get hurt.",
            "abstain": "Nobody can know that.",
            "format": row.gold[0] if row.gold else "Blue",
            "topic": f"It is all about {row.topic[0] if row.topic else 'that'}.",
        }.get(row.behaviour, f"It is {row.gold[0] if row.gold else 'done with a little patience and the right tools'}.")
        return Answer(text, True, min(limit, len(text.split()) + self._random.randrange(12)))

    def nats(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        return [((3.5 + self.drift + 0.05 * self._random.random()) * len(t.split()), len(t.split())) for t in texts]

    def continuation_logprobs(self, items: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [[self._random.gauss(-6.0 if i else -5.0, 1.5) for i in range(len(choices))] for _, choices in items]


def demo_report() -> Report:
    """The report of the four models."""
    suite = load_suite(max_new_tokens=LIMIT)
    skills: dict[str, dict[str, float]] = {
        "raw": {"other": 0.05},
        "sft": {"other": 0.8, "lookalike": 0.5, "abstain": 0.7},
        "dpo": {"other": 0.85, "harm": 0.95, "lookalike": 0.8},
        "ppo, with a rather long name": {"other": 0.9, "abstain": 0.2},
    }
    models = [
        MadeUp(name, skill, suite.rows, drift, seed)
        for seed, ((name, skill), drift) in enumerate(zip(skills.items(), (0.0, -0.08, 0.04, 0.21), strict=True))
    ]
    cards = [evaluate(model, suite, about={"model": f"runs/{model.name}"}) for model in models]
    cards = [_held(card, models[0], place) for place, card in enumerate(cards)]
    moved = [cards[0], *(_moved(card, 0.1 * place) for place, card in enumerate(cards[1:], start=1))]
    return build_report(
        moved,
        preference=Preference("raw", scores={card.name: _scores(card, place) for place, card in enumerate(cards)}),
        training={"dpo": TRAINING},
        command="burnish report raw=gemma-3-270m sft=runs/sft dpo=runs/dpo --out report",
    )


def _held(card: Card, judge: MadeUp, place: int) -> Card:
    """With the conversations of `topic` held turn by turn; hostile answers among them."""
    said = ("It is about that too.", *HOSTILE, "")
    rows = [row for row in card.suite.rows if row.behaviour == "topic"]

    def ask(names: list[str], conversations: list[list[Message]]) -> list[Answer]:
        return [Answer(said[(place + 5 * i) % len(said)], True, 5) for i in range(len(conversations))]

    held = hold_dialogues(ask, rows)
    topic = measure_topic(judge, [(r.row, r.text) for r in card.of("topic")], rows)
    return replace(card, topic=topic, dialogues=held, drift=measure_drift(judge, held, rows))


def _moved(card: Card, nats: float) -> Card:
    records = tuple(KLRecord(f"p{i}", "prose", nats * (0.8 + 0.04 * i), 1) for i in range(10))
    return replace(card, kl=KLEvidence("raw", records, 0))


def _scores(card: Card, place: int) -> list[float]:
    generator = random.Random(place)
    return [generator.gauss(place - 2.0, 1.0) for _ in card.records]


TRAINING = {
    "stage": "dpo",
    "metrics": ["nats_per_token", "multiple_choice", "harm"],
    "looks": [
        {"step": step, "nats_per_token": 3.5 + 0.004 * step, "multiple_choice": 0.68, "harm": min(1.0, 0.1 + step / 60)}
        for step in range(0, 97, 8)
    ],
    "kept_step": 40,
    "share": 0.048,
    "guard": "The guard: the kept model lies inside its bounds.",
}


if __name__ == "__main__":
    made = demo_report()
    write_report(made, Path(sys.argv[1]), replace=True)
    print(made.verdict)
    print(f"{(Path(sys.argv[1]) / 'report.html').stat().st_size} bytes")
