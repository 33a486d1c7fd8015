"""What a sweep shows: the table in the terminal, sweep.html with the frontier as a figure, sweep.png."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish.evaluation.intervals import Mean
from burnish.files import atomic_write_bytes

if TYPE_CHECKING:
    from burnish.pipeline.sweep import Measured, Sweep

BEST = "\u25cf"
_WIDTH, _HEIGHT = 720.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 20.0, 16.0, 52.0


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
    nats = sweep.retention == "nats_per_token"
    return alignment, "nats per token of held-out prose" if nats else "accuracy of multiple choice"


def number_text(mean: Mean, *, percent: bool) -> str:
    """`71 % (64\u201378)` or `3.583 (3.482\u20133.661)`."""
    low, high = mean.interval.low, mean.interval.high
    if percent:
        return f"{100 * mean.value:.0f} % ({100 * low:.0f}\u2013{100 * high:.0f})"
    return f"{mean.value:.3f} ({low:.3f}\u2013{high:.3f})"


def rows_of(sweep: Sweep) -> list[tuple[str, ...]]:
    """The lines of the table: number, settings, alignment, retention, Pareto-best or not."""

    def line(number: str, name: str, found: Measured, mark: str) -> tuple[str, ...]:
        kept = number_text(found.retention, percent=sweep.retention == "multiple_choice")
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
    lower = "lower" if sweep.retention == "nats_per_token" else "higher"
    console.print(
        Text(
            f"Of {sweep.subject}, with 95 % intervals. Alignment: {alignment}. Retention: {retention}, {lower} is "
            f"better. {BEST} no other point is better at one and as good at the other.",
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
        sweep=sweep, rows=rows_of(sweep), figure=draw_svg(sweep), alignment=alignment, retention=retention
    )


def draw_svg(sweep: Sweep) -> Markup:
    """The frontier: alignment upwards, retention to the right (nats per token decrease to the right)."""
    marks = marks_of(sweep)
    if not marks:
        return Markup("")
    reverse = sweep.retention == "nats_per_token"
    xs, ys = _Axis.over([mark.x for mark in marks]), _Axis.over([mark.y for mark in marks])

    def at(x: float, y: float) -> tuple[float, float]:
        across = 1.0 - xs.share(x) if reverse else xs.share(x)
        inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + across * inner_width, _TOP + (1.0 - ys.share(y)) * inner_height

    parts = [Markup('<svg class="frontier" viewBox="0 0 {} {}" role="img">').format(int(_WIDTH), int(_HEIGHT))]
    for value in xs.ticks():
        x, _ = at(value, ys.low)
        parts.append(
            _line("grid", x, _TOP, x, _HEIGHT - _BOTTOM) + _text("tick", x, _HEIGHT - _BOTTOM + 18, f"{value:g}")
        )
    for value in ys.ticks():
        _, y = at(xs.low, value)
        parts.append(_line("grid", _LEFT, y, _WIDTH - _RIGHT, y) + _text("tick side", _LEFT - 8, y + 4, f"{value:g}"))
    best = sorted((at(mark.x.value, mark.y.value) for mark in marks if mark.kind == "best"), key=lambda place: place[0])
    if len(best) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in best)
        parts.append(Markup('<polyline class="front" points="{}"/>').format(path))
    for mark in marks:
        x, y = at(mark.x.value, mark.y.value)
        (left, _), (right, _) = at(mark.x.interval.low, 0.0), at(mark.x.interval.high, 0.0)
        (_, lower), (_, upper) = at(0.0, mark.y.interval.low), at(0.0, mark.y.interval.high)
        parts.append(_line("error", left, y, right, y) + _line("error", x, lower, x, upper))
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="6"><title>{}</title></circle>').format(
                mark.kind, x, y, mark.name
            )
        )
        parts.append(_text("label", x + 10, y - 8, mark.label))
    _, retention = titles_of(sweep)
    arrow = " \u2192 better"
    parts.append(_text("axis", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, f"retention: {retention}{arrow}"))
    return Markup("").join(parts) + Markup("</svg>")


@dataclass(frozen=True, slots=True)
class _Axis:
    """A scale over some intervals, with a margin."""

    low: float
    high: float

    @classmethod
    def over(cls, means: Sequence[Mean]) -> _Axis:
        low, high = min(mean.interval.low for mean in means), max(mean.interval.high for mean in means)
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
        return cls(low - margin, high + margin)

    def share(self, value: float) -> float:
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self) -> list[float]:
        """Three to eight round numbers within the scale."""
        span = self.high - self.low
        power = 10.0 ** len(str(int(1.0 / span))) if span < 1.0 else 1.0
        steps = (factor / power for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
        step = next((step for step in steps if span / step <= 8.0), span / 4.0)
        first = int(self.low / step) - 1
        places = (round((first + i) * step, 10) for i in range(16))
        return [place for place in places if self.low <= place <= self.high]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(kind: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, text)


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
    if sweep.retention == "nats_per_token":
        axis.invert_xaxis()
    alignment, retention = titles_of(sweep)
    axis.set(xlabel=f"retention: {retention} (better to the right)", ylabel=f"alignment: {alignment}")
    axis.grid(alpha=0.25, linewidth=0.6)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, metadata={"Software": None})
    atomic_write_bytes(path, picture.getvalue())
    return True
