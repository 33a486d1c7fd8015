"""What a sweep shows: the table in the terminal, sweep.html with the frontier as a figure, sweep.png."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish.evaluation import lines
from burnish.evaluation.intervals import Mean
from burnish.evaluation.markup import node
from burnish.evaluation.svg import Chart, Scale, label, line, tick_text
from burnish.files import atomic_write_bytes

if TYPE_CHECKING:
    from burnish.pipeline.sweep import Measured, Sweep

BEST = "\u25cf"


@dataclass(frozen=True, slots=True)
class Mark:
    """One model in the figure.

    Attributes:
        label: a point's number, or what the report calls another model.
        name: the point's settings.
        x: retention.
        y: alignment.
        kind: `best`, `other` or `baseline`.
    """

    label: str
    name: str
    x: Mean
    y: Mean
    kind: str


def marks_of(sweep: Sweep) -> list[Mark]:
    """The models of the figure: the points that are done, by their number in the grid, and the baselines."""
    marks = [Mark(one.label, one.label, one.retention, one.alignment, "baseline") for one in sweep.baselines]
    for number, point in enumerate(sweep.points, start=1):
        if point.state == "done":
            found, kind = point.measured[sweep.subject], "best" if point.best else "other"
            marks.append(Mark(str(number), point.name, found.retention, found.alignment, kind))
    return marks


def titles_of(sweep: Sweep) -> tuple[str, str]:
    """What alignment and retention are, in words."""
    alignment = (
        "mean of the behaviours' rates" if sweep.alignment == "mean" else f"rate of \u201c{sweep.alignment}\u201d"
    )
    retention = {
        "nats_per_token": "nats per token of held-out prose",
        "nats_per_byte": "nats per byte of held-out prose",
        "multiple_choice": "accuracy of multiple choice",
    }
    return alignment, retention[sweep.retention]


def retention_note(sweep: Sweep) -> str:
    """Why retention is not what was asked for, where it is not."""
    differ = sweep.retention == "nats_per_byte"
    return " (the models' tokenizers differ, so nats per token would not compare)" if differ else ""


def number_text(mean: Mean, *, percent: bool) -> str:
    """`71 % (64\u201378)` or `3.583 (3.482\u20133.661)`."""
    if percent:
        return f"{lines.percent(mean.value)} ({lines.percent_interval(mean.interval, mean.value)})"
    return f"{mean.value:.3f} ({mean.interval.low:.3f}\u2013{mean.interval.high:.3f})"


def rows_of(sweep: Sweep) -> list[tuple[str, ...]]:
    """The lines of the table: number, settings, alignment, retention, Pareto-best or not."""

    def line(number: str, name: str, found: Measured, mark: str) -> tuple[str, ...]:
        kept = number_text(found.retention, percent=not sweep.in_nats)
        return number, name, number_text(found.alignment, percent=True), kept, mark

    rows = [line("", found.label, found, "") for found in sweep.baselines]
    for number, point in enumerate(sweep.points, start=1):
        if point.state == "done":
            rows.append(line(str(number), point.name, point.measured[sweep.subject], BEST if point.best else ""))
        else:
            rows.append((str(number), point.name, point.state, "", ""))
    return rows


def print_sweep(sweep: Sweep, console: Console) -> None:
    """The table, and what its columns are."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("", "point", "alignment", "retention", "best"):
        table.add_column(title, overflow="fold")
    for row in rows_of(sweep):
        style = "red" if row[2] == "failed" else "dim" if not row[0] else ""
        table.add_row(*(Text(cell, style=style) for cell in row))
    console.print(table)
    alignment, retention = titles_of(sweep)
    retention += retention_note(sweep)
    lower = "lower" if sweep.in_nats else "higher"
    console.print(
        Text(
            f"Of {sweep.subject}, with 95 % intervals. Alignment: {alignment}. Retention: {retention}, "
            f"{lower} is better. {BEST} no other point is better at one and as good at the other.",
            style="dim",
        )
    )


# ---- the page ----


def render_page(sweep: Sweep) -> str:
    """sweep.html: asks for nothing from anywhere; the figure is in it, there is no script."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("burnish.pipeline").joinpath("sweep.html").read_text(encoding="utf-8")
    alignment, retention = titles_of(sweep)
    return environment.from_string(source).render(
        sweep=sweep,
        rows=rows_of(sweep),
        figure=draw_svg(sweep),
        alignment=alignment,
        retention=retention + retention_note(sweep),
    )


def draw_svg(sweep: Sweep) -> Markup:
    """The frontier: alignment upwards, retention to the right (nats per token decrease to the right)."""
    marks = marks_of(sweep)
    if not marks:
        return Markup("")
    told = "; ".join(f"{mark.name}: {_place_text(mark, nats=sweep.in_nats)}" for mark in marks)
    chart = Chart("frontier", "Alignment against retention", told, 420.0, 260.0)
    left, right, top, bottom = chart.inner
    ends = (right, left) if sweep.in_nats else (left, right)
    x = Scale.over([end for mark in marks for end in (mark.x.interval.low, mark.x.interval.high)], *ends)
    y = Scale.over([end for mark in marks for end in (mark.y.interval.low, mark.y.interval.high)], bottom, top)
    _, retention = titles_of(sweep)
    chart.x_axis(x, f"retention: {retention} \u2192 better", tick_text if sweep.in_nats else _percent)
    chart.y_axis(y, "", _percent)
    best = sorted((x(mark.x.value), y(mark.y.value)) for mark in marks if mark.kind == "best")
    if len(best) > 1:
        chart.add(node("polyline", class_="front", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in best)))
    for mark in marks:
        across, up = x(mark.x.value), y(mark.y.value)
        chart.add(
            line(x(mark.x.interval.low), up, x(mark.x.interval.high), up, "error"),
            line(across, y(mark.y.interval.low), across, y(mark.y.interval.high), "error"),
            node("circle", node("title", mark.name), class_=mark.kind, cx=across, cy=up, r=4),
            label(across + 6, up - 5, mark.label, class_="label"),
        )
    return chart.markup


def _percent(value: float) -> str:
    return tick_text(value, percent=True)


def _place_text(mark: Mark, *, nats: bool) -> str:
    return f"alignment {number_text(mark.y, percent=True)}, retention {number_text(mark.x, percent=not nats)}"


def write_png(sweep: Sweep, path: Path) -> bool:
    """The same figure as a PNG, where matplotlib is installed; says whether it was written."""
    marks = marks_of(sweep)
    if not marks or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    figure = Figure(figsize=(6.4, 4.2))
    axis = figure.subplots()
    colours = {"best": "#1f4fa3", "other": "#9aa4b0", "baseline": "#ffffff"}
    for mark in marks:
        x, y = mark.x, mark.y
        errors = [[[mean.value - mean.interval.low], [mean.interval.high - mean.value]] for mean in (x, y)]
        axis.errorbar(
            x.value, y.value, xerr=errors[0], yerr=errors[1], fmt="o", color="#59636f", elinewidth=0.8,
            markerfacecolor=colours[mark.kind], markersize=7,
        )  # fmt: skip
        axis.annotate(mark.label, (x.value, y.value), xytext=(6, 5), textcoords="offset points", fontsize=8)
    best = sorted((mark.x.value, mark.y.value) for mark in marks if mark.kind == "best")
    axis.plot([x for x, _ in best], [y for _, y in best], color=colours["best"], linewidth=1)
    if sweep.in_nats:
        axis.invert_xaxis()
    alignment, retention = titles_of(sweep)
    axis.set(xlabel=f"retention: {retention} (better to the right)", ylabel=f"alignment: {alignment}")
    axis.grid(alpha=0.25, linewidth=0.6)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, metadata={"Software": None})
    atomic_write_bytes(path, picture.getvalue())
    return True
