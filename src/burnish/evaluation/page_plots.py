"""Which plots the page has: each is there where its data are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from burnish.evaluation import figures, plots
from burnish.evaluation.calibration import Calibration
from burnish.evaluation.details import title_of
from burnish.evaluation.figures import Categories, Frontier, Lengths, Training
from burnish.evaluation.intervals import Rate
from burnish.evaluation.lines import Cell, percent, rate_cell
from burnish.evaluation.plots import said
from burnish.evaluation.report import Report

COVERAGES = (0.25, 0.5, 0.75, 1.0)
"""The shares of the questions at which the table beside the accuracy-coverage curve has a number."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure of the page: drawings with a caption, and the same numbers as a table (a head and rows)."""

    title: str
    about: str
    panels: tuple[Markup, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def drawn_figures(report: Report) -> list[Drawn]:
    """All figures in the order of the page."""
    names, data = report.models, report.figures
    drawn = [_frontier(one, names) for one in data.frontiers]
    drawn += [_categories(one, names) for one in data.categories if one.whole is None]
    measured = {model: card.calibration for model, card in enumerate(report.cards) if card.calibration is not None}
    if measured:
        errors = next(line.cells for line in report.lines if line.key == "ece")
        drawn += [_reliability(measured, errors, names), _coverage(measured, names)]
    drawn += [_lengths(data.lengths, names)] if data.lengths else []
    drawn += [_categories(one, names) for one in data.categories if one.whole is not None]
    drawn += [_training(one, names) for one in data.trainings]
    return drawn


def _frontier(data: Frontier, names: Sequence[str]) -> Drawn:
    if data.lower_x:
        title, about = "Alignment against retention", "Up: behaves better. To the left: has kept more."
    else:
        title = "Reward against KL" if not data.y_percent else "Alignment against KL"
        about = "Up: what was wanted. To the right: how far the model has moved for it."
    return Drawn(
        title=title,
        about=about,
        panels=(plots.frontier(data, names),),
        head=("model", data.x_title, data.y_title),
        rows=tuple((names[place.model], said(place.x), said(place.y)) for place in data.places),
    )


def _categories(data: Categories, names: Sequence[str]) -> Drawn:
    return Drawn(
        title="The behaviours beside each other" if data.whole is None else title_of(data.key),
        about="How often an answer passes; to the right is better.",
        panels=(plots.categories(data, names),),
        head=("behaviour" if data.whole is None else "category", "n", *names),
        rows=tuple((rates.label, str(rates.n), *(_cell(cell) for cell in rates.cells)) for rates in data.rows),
    )


def _cell(cell: Cell | None) -> str:
    return "\u2013" if cell is None else said(cell)


def _reliability(measured: Mapping[int, Calibration], errors: Sequence[Cell | None], names: Sequence[str]) -> Drawn:
    rows = [
        (
            names[model],
            f"{percent(b.low)} to {percent(b.high)}",
            str(b.n),
            percent(b.confidence),
            said(rate_cell(Rate(round(b.accuracy * b.n), b.n))),
        )
        for model, calibration in measured.items()
        for b in calibration.bins
        if b.confidence is not None and b.accuracy is not None
    ]
    return Drawn(
        title="Reliability: is it as often right as it is sure?",
        about="Multiple choice, sorted by confidence. On the broken line a model is as often right as it claims; below "
        "it is overconfident. The bars count the questions.",
        panels=tuple(
            plots.reliability(model, names[model], calibration.bins, f"calibration error {_cell(errors[model])}")
            for model, calibration in measured.items()
        ),
        head=("model", "confidence", "n", "mean confidence", "right"),
        rows=tuple(rows),
    )


def _coverage(measured: Mapping[int, Calibration], names: Sequence[str]) -> Drawn:
    def right_of(calibration: Calibration, share: float) -> str:
        point = next(point for point in calibration.curve if point.coverage >= share - 1e-9)
        return f"{said(rate_cell(Rate(round(point.accuracy * point.n), point.n)))} of {point.n}"

    return Drawn(
        title="Accuracy over coverage",
        about="Multiple choice: what is right where only the surest questions are answered, from few to all. A curve "
        "that falls says that the model knows what it does not know.",
        panels=(plots.coverage({model: calibration.curve for model, calibration in measured.items()}, names),),
        head=("model", *(f"surest {percent(share)}" for share in COVERAGES)),
        rows=tuple(
            (names[model], *(right_of(calibration, share) for share in COVERAGES))
            for model, calibration in measured.items()
        ),
    )


def _lengths(data: Sequence[Lengths], names: Sequence[str]) -> Drawn:
    return Drawn(
        title="How long answers are",
        about="How many answers are so long, each model by its own scale; the upright line is the median. An answer "
        "that was cut off stands at the limit.",
        panels=(plots.lengths(data, names),),
        head=("model", "mean", *(f"{100 * share:.0f}\u00a0%" for share in figures.QUANTILES), "stop by themselves"),
        rows=tuple(
            (names[d.model], said(d.mean), *(f"{value:.0f}" for value in d.quantiles), said(d.stopped)) for d in data
        ),
    )


def _training(data: Training, names: Sequence[str]) -> Drawn:
    name = names[data.model]
    steps = sorted({step for look in data.looks for step in look.steps})
    values = [dict(zip(look.steps, look.values, strict=True)) for look in data.looks]
    return Drawn(
        title=f"While {name} trained",
        about=f"What the monitor measured, on a small sample of its own. {data.note}".strip(),
        panels=tuple(
            plots.training_curve(data.model, f"training-{data.model}-{place}", name, look, data.kept)
            for place, look in enumerate(data.looks)
        ),
        head=("step", *(look.metric for look in data.looks)),
        rows=tuple(
            (
                f"{step:.0f}{' (kept)' if step == data.kept else ''}",
                *(f"{own[step]:.4g}" if step in own else "\u2013" for own in values),
            )
            for step in steps
        ),
    )
