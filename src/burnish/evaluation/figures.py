"""What the plots of a report show, as plain data: taken from the lines of the table where a number stands there too,
and else computed here, once, for the page and for `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from burnish.evaluation.frontier import mean_rate
from burnish.evaluation.intervals import Mean
from burnish.evaluation.lines import Cell, Change, Line, percent, share_cell
from burnish.evaluation.suite import Card

BEHAVIOUR_MEAN_RULE = (
    "The mean of the rates of all behaviours in the table; each counts the same, however many prompts it has. Several "
    "of them fail an answer that does not end, so that stopping counts several times. The interval is made of Wilson's "
    "of the single rates."
)
DECLINING = ("harm", "lookalike", "abstain", "answerable")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LENGTH_BINS = 24
CURVE_POINTS = 120
"""Of an accuracy-coverage curve that are drawn; a curve has as many as there are different confidences."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model lies in a frontier: both with their intervals."""

    model: int
    x: Cell
    y: Cell


@dataclass(frozen=True, slots=True)
class Frontier:
    """Alignment against what it cost.

    Attributes:
        key: `retention` or `kl`.
        x_title, y_title: what the axes count.
        x_percent, y_percent: whether it is a share.
        lower_x: whether less is better to the left.
        places: the models of which both are known.
    """

    key: str
    x_title: str
    y_title: str
    x_percent: bool
    y_percent: bool
    lower_x: bool
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the answers of a model are.

    Attributes:
        model: its place in the report.
        mean: tokens an answer, as in the table.
        quantiles: tokens at `QUANTILES`.
        shares: of the answers, in each of the bins between `edges`.
        edges: in tokens; the same for every model.
        stopped: how many answers end by themselves, as in the table.
    """

    model: int
    mean: Cell
    quantiles: tuple[float, ...]
    shares: tuple[float, ...]
    edges: tuple[float, ...]
    stopped: Cell


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of all models on some prompts: a whole behaviour, or one category of it."""

    label: str
    n: int
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Categories:
    """Rates row by row: all behaviours, or one of them by category.

    Attributes:
        key: `behaviours`, or the behaviour.
        title: what the table calls it.
        whole: all of its prompts, as in the table; None for the behaviours.
        parts: the behaviours, or the categories.
    """

    key: str
    title: str
    whole: Rates | None
    parts: tuple[Rates, ...]

    @property
    def rows(self) -> tuple[Rates, ...]:
        """The whole, where there is one, and the parts."""
        return self.parts if self.whole is None else (self.whole, *self.parts)


@dataclass(frozen=True, slots=True)
class Look:
    """A metric of a run's monitor over the steps at which it looked."""

    metric: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """What the monitor of a model's run measured; `kept` is the step that the model is of, where one is named."""

    model: int
    kept: float | None
    looks: tuple[Look, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that the plots show; a kind of plot without data is empty."""

    frontiers: tuple[Frontier, ...]
    categories: tuple[Categories, ...]
    lengths: tuple[Lengths, ...]
    trainings: tuple[Training, ...]

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The numbers that stand nowhere else in `report.json`, with the models by their names."""

        def named(values: dict[str, Any]) -> dict[str, Any]:
            return {**values, "model": names[values["model"]]}

        return {
            "frontiers": [
                {**asdict(one), "places": [named(asdict(place)) for place in one.places]} for one in self.frontiers
            ],
            "behaviour_mean": BEHAVIOUR_MEAN_RULE,
            "lengths": [named(asdict(one)) for one in self.lengths],
        }


def make_figures(
    cards: Sequence[Card],
    lines: Sequence[Line],
    details: Sequence[Line] = (),
    training: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figures:
    """From the cards of a report, its lines and details, and the curves of the models that are runs with a monitor."""
    return Figures(
        frontiers=tuple(frontiers(cards, lines)),
        categories=tuple(categories(lines, details)),
        lengths=tuple(lengths(cards, lines)),
        trainings=tuple(trainings([card.name for card in cards], training or {})),
    )


def _line(lines: Sequence[Line], key: str) -> Line | None:
    return next((line for line in lines if line.key == key), None)


def mean_of_behaviours(card: Card) -> Mean:
    """The mean rate over behaviours (`BEHAVIOUR_MEAN_RULE`)."""
    return mean_rate({name: [r.passed for r in card.of(name)] for name in card.rates})


def frontiers(cards: Sequence[Card], lines: Sequence[Line]) -> list[Frontier]:
    """Behaviours against the change of nats per token from the first model; the reward, or where none was measured the
    behaviours, against the KL from it: in answers, or where that was not measured on raw text."""
    if len(cards) < 2:
        return []
    behaviours: Sequence[Cell | None] = [share_cell(mean_of_behaviours(card)) for card in cards]
    aligned = ("mean of the behaviours", True, behaviours)
    found = []
    nats = _line(lines, "nats_per_token") or _line(lines, "nats_per_byte")
    if nats is not None:
        moved = [_as_cell(change) for change in nats.changes]
        title = f"{nats.title}, change from {cards[0].name}"
        found.append(_frontier("retention", title, True, True, _from_start(moved, "0.0\u00a0%"), aligned))
    # The reward is on answers to prompts, and so are the behaviours: there the KL says most.
    in_answers, reward = _line(lines, "kl_prompts"), _line(lines, "reward_score")
    if (kl := in_answers or _line(lines, "kl")) is not None:
        title = f"KL from {cards[0].name} {'on raw text' if in_answers is None else 'in answers'}, nats per token"
        y = aligned if reward is None else (reward.title, False, reward.cells)
        found.append(_frontier("kl", title, False, False, _from_start(kl.cells, "0"), y))
    return [frontier for frontier in found if len(frontier.places) > 1]


def _as_cell(change: Change | None) -> Cell | None:
    return None if change is None else Cell(change.value, change.low, change.high, change.text, change.interval)


def _from_start(cells: Sequence[Cell | None], nothing: str) -> list[Cell | None]:
    """The first model has not moved from itself, and there is no doubt about that."""
    return [cells[0] or Cell(0.0, 0.0, 0.0, nothing, ""), *cells[1:]]


def _frontier(
    key: str,
    x_title: str,
    x_percent: bool,
    lower_x: bool,
    x: Sequence[Cell | None],
    y: tuple[str, bool, Sequence[Cell | None]],
) -> Frontier:
    y_title, y_percent, cells = y
    places = tuple(
        Place(model, across, up)
        for model, (across, up) in enumerate(zip(x, cells, strict=True))
        if across is not None and up is not None
    )
    return Frontier(key, x_title, y_title, x_percent, y_percent, lower_x, places)


def categories(lines: Sequence[Line], details: Sequence[Line]) -> list[Categories]:
    """The behaviours beside each other, then those that say how a model declines, by category where the prompts name
    some."""

    def rates(line: Line) -> Rates:
        return Rates(line.title, line.n, line.cells)

    asked = [line for line in lines if line.group == "behaviours"]
    found = [Categories("behaviours", "behaviours", None, tuple(map(rates, asked)))]
    for key in DECLINING:
        whole, parts = _line(lines, key), [line for line in details if line.group == key]
        if whole is not None and parts:
            found.append(Categories(key, whole.title, rates(whole), tuple(map(rates, parts))))
    return found


def lengths(cards: Sequence[Card], lines: Sequence[Line]) -> list[Lengths]:
    """How long answers are, for each model that tells."""
    mean, stops = _line(lines, "tokens"), _line(lines, "stops")
    if mean is None or stops is None:
        return []
    found = []
    edges = np.linspace(0, max(1, cards[0].suite.max_new_tokens), LENGTH_BINS + 1)
    for model, card in enumerate(cards):
        cell, stopped = mean.cells[model], stops.cells[model]
        if cell is None or stopped is None:
            continue
        tokens = np.asarray([n for record in card.records if (n := record.n_tokens) is not None], dtype=np.float64)
        # An endpoint may count a token or two more than its limit.
        counts, _ = np.histogram(tokens.clip(max=edges[-1]), bins=edges)
        found.append(
            Lengths(
                model=model,
                mean=cell,
                quantiles=tuple(float(value) for value in np.quantile(tokens, QUANTILES)),
                shares=tuple(float(count) / len(tokens) for count in counts),
                edges=tuple(float(edge) for edge in edges),
                stopped=stopped,
            )
        )
    return found


def trainings(names: Sequence[str], training: Mapping[str, Mapping[str, Any]]) -> list[Training]:
    """What `Report.training` holds of each model, metric by metric; steps at which one was not looked at are left
    out of its curve."""
    found = []
    for model, name in enumerate(names):
        run = training.get(name)
        if run is None:
            continue
        looks = []
        for metric in run["metrics"]:
            points = [(float(look["step"]), float(look[metric])) for look in run["looks"] if metric in look]
            points = [(step, value) for step, value in points if np.isfinite(value)]
            if points and points[-1][0] > points[0][0]:
                looks.append(Look(metric.replace("_", " "), *(tuple(values) for values in zip(*points, strict=True))))
        if looks:
            cost = run.get("share")
            notes = ["" if cost is None else f"It took {percent(cost)} of the time.", run.get("guard") or ""]
            found.append(Training(model, run.get("kept_step"), tuple(looks), " ".join(filter(None, notes))))
    return found


def thinned(points: Sequence[Any], most: int = CURVE_POINTS) -> list[Any]:
    """At most so many of the points, evenly taken, with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]
