"""The lines of a report's table: each number computed, given its interval and put into words, here and only here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.evaluation import retention as retention_rules
from burnish.evaluation.behaviours import BEHAVIOURS, NEEDLESS_DECLINES
from burnish.evaluation.intervals import (
    Difference,
    Interval,
    Mean,
    Rate,
    bootstrap_mean,
    paired_difference,
    paired_rate_difference,
)
from burnish.evaluation.retention import Retention
from burnish.evaluation.suite import Card

NO_LOGPROBS = "\u2013: an endpoint gives no log-probabilities"
NBSP = "\u00a0"
MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured number: its value and 95 % interval, and the texts that every output prints."""

    value: float
    low: float
    high: float
    text: str
    interval: str


@dataclass(frozen=True, slots=True)
class Change:
    """The difference of one model from the first, on the same prompts.

    `word` is better, worse or can't tell; for the length longer, shorter or can't tell.
    """

    value: float
    low: float
    high: float
    text: str
    interval: str
    word: str


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table: a number for every model, and its change from the first model.

    Attributes:
        key: the row's name in `report.json`.
        group: `behaviours`, `information`, `declining`, `retention`, `length`; `topic`, `calibration`, `lm_eval`,
            `repetition`.
        title: what the tables call it.
        about: on what it is measured.
        rule: how it is counted, in words.
        n: prompts, questions or texts behind each number.
        unit: "rate" for shares, else what is counted.
        higher_is_better: None where neither direction is good in itself.
        cells: one for each model; None where it could not be measured: an endpoint gives no log-probabilities.
        changes: one for each model; None for the first, and where there is nothing to compare.
    """

    key: str
    group: str
    title: str
    about: str
    rule: str
    n: int
    unit: str
    higher_is_better: bool | None
    cells: tuple[Cell | None, ...]
    changes: tuple[Change | None, ...]


# Numbers into words: the only place that formats one.


def percent(share: float) -> str:
    """A share as a whole percentage; only a true 0 or 1 is printed as 0 or 100."""
    return f"{_whole(share)}{NBSP}%"


def _whole(share: float) -> int:
    whole = round(100 * share)
    if whole == 0 and share > 0:
        whole = 1
    if whole == 100 and share < 1:
        whole = 99
    return whole


def percent_interval(interval: Interval, share: float) -> str:
    """The interval of a share in whole percent; what is printed of the share lies within it."""
    # The ends may be rounded to 0 and 100: they are estimates, not counts.
    low, high = (round(100 * end) for end in (interval.low, interval.high))
    shown = _whole(share)
    if interval.low <= share <= interval.high:
        low, high = min(low, shown), max(high, shown)
    return f"{low}\u2013{high}"


def percent_cell(share: float, interval: Interval) -> Cell:
    """A share with its interval, in percent."""
    return Cell(share, interval.low, interval.high, percent(share), percent_interval(interval, share))


def rate_cell(rate: Rate) -> Cell:
    return percent_cell(rate.value, rate.interval)


def share_cell(mean: Mean) -> Cell:
    """A mean of shares, in percent."""
    return percent_cell(mean.value, mean.interval)


def mean_cell(mean: Mean, digits: int) -> Cell:
    """A mean, with so many digits after the point."""
    low, high = mean.interval.low, mean.interval.high
    value, left, right = (f"{number:.{digits}f}".replace("-", MINUS) for number in (mean.value, low, high))
    return Cell(mean.value, low, high, value, f"{left}\u2013{right}")


def difference_cell(difference: Difference) -> Cell:
    """A difference of rates as a number of its own, in points."""
    low, high = difference.interval.low, difference.interval.high
    told = [_signed(100 * number, 0) for number in (difference.value, low, high)]
    return Cell(difference.value, low, high, told[0], f"{told[1]} to {told[2]}")


def _signed(value: float, digits: int = 1) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def change_of(
    difference: Difference, scale: float, unit: str, *, digits: int = 1, words: tuple[str, str] = ("better", "worse")
) -> Change:
    low, high = scale * difference.interval.low, scale * difference.interval.high
    return Change(
        value=difference.value,
        low=difference.interval.low,
        high=difference.interval.high,
        text=_signed(scale * difference.value, digits) + (f"{NBSP}{unit}" if unit else ""),
        interval=f"{_signed(low, digits)} to {_signed(high, digits)}",
        word={"better": words[0], "worse": words[1]}.get(difference.word, difference.word),
    )


def spread(line: Line, measured: Sequence[bool], why: str) -> Line:
    """A line over those models that could be measured, widened to all of them.

    Args:
        line: its cells and changes are those of the measured models, in their order.
        measured: for each model whether it is one of them.
        why: said beside the line where a model is not.
    """
    if all(measured):
        return line
    cells, changes = iter(line.cells), iter(line.changes)
    moved = [next(changes) if there else None for there in measured]
    if not measured[0]:  # the changes would be from another model than the first
        moved = [None] * len(moved)
    wide = tuple(next(cells) if there else None for there in measured)
    return replace(line, cells=wide, changes=tuple(moved), about=f"{line.about}; {why}")


# The lines of the table.


def make_lines(cards: Sequence[Card]) -> list[Line]:
    """Every line of the table, in order: the behaviours with their information, needless declines, retention, length.

    The cards must be of the same suite; the first is what the others are compared with.
    """
    first = cards[0]
    lines = []
    for name in first.rates:
        behaviour = BEHAVIOURS[name]
        lines.append(
            rate_line(
                [[record.passed for record in card.of(name)] for card in cards],
                key=name,
                group="behaviours",
                title=behaviour.title,
                about=behaviour.asks,
                rule=behaviour.rule,
            )
        )
        if name in first.right:
            lines.append(_right_line(cards, name))
    lines += _declining_lines(cards)
    lines += _retention_lines(cards)
    lines.append(
        rate_line(
            [[record.finished for record in card.records] for card in cards],
            key="stops",
            group="length",
            title="stops by itself",
            about="all prompts",
            rule="The model ends its answer with its own stop token within the limit of new tokens.",
        )
    )
    if (length := _length_line(cards)) is not None:
        lines.append(length)
    return lines


def rate_line(
    outcomes: Sequence[Sequence[bool]],
    *,
    key: str,
    group: str,
    title: str,
    about: str,
    rule: str,
    higher_is_better: bool = True,
) -> Line:
    """A line of rates; `outcomes` holds for each model whether each prompt passed."""
    changes = [paired_rate_difference(outcomes[0], other, higher_is_better=higher_is_better) for other in outcomes[1:]]
    return Line(
        key=key,
        group=group,
        title=title,
        about=about,
        rule=rule,
        n=len(outcomes[0]),
        unit="rate",
        higher_is_better=higher_is_better,
        cells=tuple(rate_cell(Rate.of(values)) for values in outcomes),
        changes=(None, *(change_of(change, 100, "points") for change in changes)),
    )


def _right_line(cards: Sequence[Card], behaviour: str) -> Line:
    return rate_line(
        [[r.passed and bool(r.right) for r in card.of(behaviour) if r.right is not None] for card in cards],
        key=f"{behaviour}.right",
        group="information",
        title="\u2026 and is right",
        about=f"those of \u201c{BEHAVIOURS[behaviour].title}\u201d with accepted answers",
        rule="The answer passes and one of the row's accepted answers stands in it as whole words. Information: it "
        "tells what a model knows, which alignment does not teach.",
    )


def _declining_lines(cards: Sequence[Card]) -> list[Line]:
    return [
        rate_line(
            [card.declined[way.key] for card in cards],
            key=way.key,
            group="declining",
            title=way.title,
            about=f"{BEHAVIOURS[way.behaviour].asks}; lower is better",
            rule=way.rule,
            higher_is_better=False,
        )
        for way in NEEDLESS_DECLINES
        if way.key in cards[0].declined
    ]


def _retention_lines(cards: Sequence[Card]) -> list[Line]:
    kept = [card.retention for card in cards if card.retention is not None]
    lines = []
    if kept and kept[0].choices:
        lines.append(
            rate_line(
                [[record.right for record in retention.choices] for retention in kept],
                key="multiple_choice",
                group="retention",
                title="multiple choice",
                about="questions of general knowledge, as raw text",
                rule=retention_rules.CHOICE_RULE,
            )
        )
    if kept and kept[0].prose:
        lines.append(_prose_line(kept))
    return [spread(line, [card.retention is not None for card in cards], NO_LOGPROBS) for line in lines]


def _prose_line(kept: Sequence[Retention]) -> Line:
    """Nats per token; per byte when the models' tokenizers cut the texts differently, for then only that compares."""
    unit = retention_rules.prose_unit(retention.prose for retention in kept)
    same_tokens = unit == "token"
    nats = [[record.nats for record in retention.prose] for retention in kept]
    units = [[float(r.tokens if same_tokens else r.bytes) for r in retention.prose] for retention in kept]
    seed = kept[0].seed
    means = [bootstrap_mean(top, weights=bottom, seed=seed) for top, bottom in zip(nats, units, strict=True)]
    changes = [
        paired_difference(nats[0], top, weights=(units[0], bottom), relative=True, higher_is_better=False, seed=seed)
        for top, bottom in zip(nats[1:], units[1:], strict=True)
    ]
    note = "" if same_tokens else " (the models' tokenizers differ, so nats per token would not compare)"
    return Line(
        key=f"nats_per_{unit}",
        group="retention",
        title=f"nats per {unit}",
        about=f"held-out prose, as raw text; lower is better{note}",
        rule=retention_rules.PROSE_RULE,
        n=len(nats[0]),
        unit=f"nats per {unit}",
        higher_is_better=False,
        cells=tuple(mean_cell(mean, 2 if same_tokens else 3) for mean in means),
        changes=(None, *(change_of(change, 100, "%") for change in changes)),
    )


def _length_line(cards: Sequence[Card]) -> Line | None:
    told = [(card, mean) for card in cards if (mean := card.length) is not None]
    if not told:
        return None
    lengths = [[float(record.n_tokens or 0) for record in card.records] for card, _ in told]
    changes = [paired_difference(lengths[0], other, seed=cards[0].suite.seed) for other in lengths[1:]]
    line = Line(
        key="tokens",
        group="length",
        title="tokens an answer",
        about=f"all prompts; an answer cut off at the limit counts as {cards[0].suite.max_new_tokens}",
        rule="The mean number of tokens generated, the stop token not counted (of an endpoint: as it counts them). "
        "Neither long nor short is good in itself.",
        n=len(lengths[0]),
        unit="tokens",
        higher_is_better=None,
        cells=tuple(mean_cell(mean, 1) for _, mean in told),
        changes=(None, *(change_of(change, 1, "tokens", words=("longer", "shorter")) for change in changes)),
    )
    return spread(line, [card.length is not None for card in cards], "\u2013: the endpoint does not count tokens")
