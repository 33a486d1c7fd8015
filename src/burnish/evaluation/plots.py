"""The plots of the page as SVG: functions that draw plain data (`figures.py`, `calibration.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from burnish.evaluation.calibration import CoveragePoint, ReliabilityBin
from burnish.evaluation.figures import Categories, Frontier, Lengths, Look, Place, Rates, thinned
from burnish.evaluation.lines import Cell, percent
from burnish.evaluation.markup import node
from burnish.evaluation.svg import (
    TEXT,
    Chart,
    Scale,
    colour,
    dashes,
    label,
    line,
    mark,
    shortened,
    tick_text,
    width_of,
)

WIDE, NARROW = 360.0, 260.0
"""Of a figure of its own and of one of several side by side, in user units."""


def _percent(value: float) -> str:
    return tick_text(value, percent=True)


def said(cell: Cell) -> str:
    """A number with its interval, as in the table."""
    return f"{cell.text} ({cell.interval})" if cell.interval else cell.text


def _whisker(model: int, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """An interval with its two end strokes."""
    across = abs(y1 - y2) < 1e-9
    ends = [(x1, y1 - 3, x1, y1 + 3), (x2, y2 - 3, x2, y2 + 3)]
    if not across:
        ends = [(x1 - 3, y1, x1 + 3, y1), (x2 - 3, y2, x2 + 3, y2)]
    path = "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for a, b, c, d in [(x1, y1, x2, y2), *ends])
    return node("path", class_=f"whisker {colour(model)}", d=path)


# ---- frontier ----


def frontier(data: Frontier, names: Sequence[str]) -> Markup:
    """A point a model with the intervals of both of its numbers."""
    told = "; ".join(f"{names[p.model]}: {said(p.x)} across, {said(p.y)} up" for p in data.places)
    chart = Chart(
        f"frontier-{data.key}", f"{data.y_title} against {data.x_title}", told, WIDE, 300.0, left=40.0, top=26.0
    )
    left, right, top, bottom = chart.inner
    x = Scale.over([value for p in data.places for value in (p.x.low, p.x.high)], left, right, margin=0.12)
    y = Scale.over([value for p in data.places for value in (p.y.low, p.y.high)], bottom, top, margin=0.12)
    if data.y_percent:
        y = Scale(max(0.0, y.low), min(1.0, y.high), bottom, top)
    arrow = "\u2190 better: " if data.lower_x else ""
    chart.x_axis(x, f"{arrow}{data.x_title}", _percent if data.x_percent else tick_text, about=6)
    chart.y_axis(y, f"\u2191 better: {data.y_title}", _percent if data.y_percent else tick_text)
    for place in data.places:
        across, up = x(place.x.value), y(place.y.value)
        if place.x.high > place.x.low:
            chart.add(_whisker(place.model, x(place.x.low), up, x(place.x.high), up))
        if place.y.high > place.y.low:
            chart.add(_whisker(place.model, across, y(place.y.low), across, y(place.y.high)))
    for place in data.places:
        title = f"{names[place.model]}: {said(place.y)}; {data.x_title} {said(place.x)}"
        chart.add(mark(place.model, x(place.x.value), y(place.y.value), title=title))
    chart.add(*_labels(chart, data.places, names, x, y))
    return chart.markup


Box = tuple[float, float, float, float]


def _labels(chart: Chart, places: Sequence[Place], names: Sequence[str], x: Scale, y: Scale) -> list[Markup]:
    """Each name beside its point, where it covers the least of the other points, intervals and names."""
    left, right, top, bottom = chart.inner
    taken: list[Box] = []
    for place in places:
        across, up = x(place.x.value), y(place.y.value)
        taken.append((across - 6, up - 6, across + 6, up + 6))
        taken.append((x(place.x.low) - 3, up - 4, x(place.x.high) + 3, up + 4))
        taken.append((across - 4, y(place.y.high) - 3, across + 4, y(place.y.low) + 3))
    found = []
    for place in places:
        text = shortened(names[place.model], 150)
        wide, high = width_of(text), TEXT
        across, up = x(place.x.value), y(place.y.value)
        corners = [
            (across + dx if dx > 0 else across + dx - wide, up + dy)
            for dy in (-8.0, high + 6, -22.0, high + 20)
            for dx in (8.0, -8.0)
        ]
        corners = [(min(max(a, left + 2), right - wide), min(max(b, top + high), bottom - 3)) for a, b in corners]
        boxes = [(a - 1, b - high, a + wide + 1, b + 3) for a, b in corners]
        best = min(range(len(boxes)), key=lambda i: (sum(_overlap(boxes[i], other) for other in taken), i))
        taken.append(boxes[best])
        found.append(label(*corners[best], text, class_="name"))
    return found


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


# ---- calibration ----


def reliability(model: int, name: str, bins: Sequence[ReliabilityBin], note: str) -> Markup:
    """Accuracy against confidence, bin by bin, with the number of questions in each bin below."""
    full = [
        (b, b.confidence, b.accuracy, b.interval)
        for b in bins
        if b.confidence is not None and b.accuracy is not None and b.interval is not None
    ]
    told = "; ".join(
        f"confidence {percent(confidence)}, right {percent(accuracy)} of {b.n}" for b, confidence, accuracy, _ in full
    )
    chart = Chart(f"reliability-{model}", f"Reliability of {name}", f"{note}. {told}.", NARROW, 304.0, top=54.0)
    chart.bottom = 80.0
    left, right, top, bottom = chart.inner
    x, y = Scale(0.0, 1.0, left, right), Scale(0.0, 1.0, bottom, top)
    chart.add(mark(model, 6.0, 8.0), label(16.0, 12.0, shortened(name, NARROW - 20), class_="name"))
    chart.add(label(0.0, 28.0, note))
    chart.y_axis(y, "right", _percent)
    for value in x.ticks():
        chart.add(line(x(value), top, x(value), bottom, "grid"))
    chart.add(line(left, bottom, right, top, "ideal"))
    most = max(b.n for b, *_ in full)
    floor = chart.height - 34
    for b, confidence, _, interval in full:
        rows = floor - 28 * b.n / most
        chart.add(
            node(
                "rect",
                class_=f"bars {colour(model)}",
                x=x(b.low) + 1,
                y=rows,
                width=x(b.high) - x(b.low) - 2,
                height=floor - rows,
            ),
            label((x(b.low) + x(b.high)) / 2, rows - 2, str(b.n), anchor="middle", class_="count"),
            _whisker(model, x(confidence), y(interval.low), x(confidence), y(interval.high)),
        )
    for b, confidence, accuracy, _ in full:
        title = f"{b.n} questions: confidence {confidence:.2f}, right {accuracy:.2f}"
        chart.add(mark(model, x(confidence), y(accuracy), title=title))
    chart.add(line(left, floor, right, floor, "base"), label(left - 6, floor, "n", anchor="end"))
    for value in x.ticks():
        chart.add(label(x(value), floor + 14, _percent(value), anchor="middle"))
    chart.add(label((left + right) / 2, floor + 30, "confidence", anchor="middle", class_="axis"))
    return chart.markup


def coverage(curves: Mapping[int, Sequence[CoveragePoint]], names: Sequence[str]) -> Markup:
    """What is right among the surest answers, from few of them to all."""
    told = "; ".join(
        f"{names[model]}: {percent(points[-1].accuracy)} right of all" for model, points in curves.items() if points
    )
    chart = Chart("coverage", "Accuracy over coverage", told, WIDE, 250.0, top=26.0)
    chart.legend([(model, names[model]) for model in curves], lines=True)
    left, right, top, bottom = chart.inner
    x, y = Scale(0.0, 1.0, left, right), Scale(0.0, 1.0, bottom, top)
    chart.x_axis(x, "share of the questions answered, the surest first", _percent)
    chart.y_axis(y, "\u2191 better: right among these", _percent)
    shown = {model: thinned(points) for model, points in curves.items()}
    for model, points in shown.items():
        upper = [f"{x(p.coverage):.1f},{y(p.interval.high):.1f}" for p in points]
        lower = [f"{x(p.coverage):.1f},{y(p.interval.low):.1f}" for p in reversed(points)]
        chart.add(node("polygon", class_=f"area {colour(model)}", points=" ".join(upper + lower)))
    for model, points in shown.items():
        chart.add(_curve(model, [(x(p.coverage), y(p.accuracy)) for p in points]))
        chart.add(mark(model, x(points[-1].coverage), y(points[-1].accuracy)))
    return chart.markup


def _curve(model: int, points: Sequence[tuple[float, float]], *, dashed: bool = True) -> Markup:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    kind = dashes(model) if dashed else None
    return node("polyline", class_=f"curve {colour(model)}", points=path, stroke_dasharray=kind)


# ---- lengths ----


def lengths(data: Sequence[Lengths], names: Sequence[str]) -> Markup:
    """A histogram a model, each as high as its fullest bin, with the median as a line."""
    told = "; ".join(
        f"{names[d.model]}: mean {said(d.mean)}, median {d.quantiles[2]:.0f}, nine of ten answers between "
        f"{d.quantiles[0]:.0f} and {d.quantiles[4]:.0f}, {d.stopped.text} end by themselves"
        for d in data
    )
    row = 54.0
    chart = Chart("lengths", "Tokens an answer", told, WIDE, 8 + row * len(data) + 40, left=8.0, top=8.0)
    left, right, _, _ = chart.inner
    x = Scale(data[0].edges[0], data[0].edges[-1], left, right)
    chart.x_axis(x, f"tokens an answer (the limit is {data[0].edges[-1]:.0f})")
    for place, d in enumerate(data):
        floor = chart.top + row * (place + 1) - 4
        for share, low, high in zip(d.shares, d.edges, d.edges[1:], strict=False):
            if share:
                tall = max(0.8, 30 * share / max(d.shares))
                title = node("title", f"{100 * share:.0f} % have {low:.0f} to {high:.0f} tokens")
                chart.add(
                    node(
                        "rect",
                        title,
                        class_=f"bars {colour(d.model)}",
                        x=x(low) + 0.5,
                        y=floor - tall,
                        width=x(high) - x(low) - 1,
                        height=tall,
                    )
                )
        chart.add(line(left, floor, right, floor, "base"))
        median = x(d.quantiles[2])
        chart.add(line(median, floor - 30, median, floor + 3, "median"))
        facts = f"mean {d.mean.text}, median {d.quantiles[2]:.0f}; {d.stopped.text} stop"
        name = shortened(names[d.model], right - left - width_of(facts) - 24)
        chart.add(mark(d.model, left + 6, floor - 40), label(left + 16, floor - 36, name, class_="name"))
        chart.add(label(right, floor - 36, facts, anchor="end", class_="halo"))
    return chart.markup


# ---- rates by category ----


def categories(data: Categories, names: Sequence[str]) -> Markup:
    """A row a category, a mark a model with its interval; the whole behaviour first."""
    rows = data.rows
    step = 9.0
    high = max(22.0, step * len(names) + 8)
    told = "; ".join(
        f"{rates.label}: " + ", ".join(f"{name} {said(c)}" for name, c in zip(names, rates.cells, strict=True) if c)
        for rates in rows
    )
    chart = Chart(f"by-{data.key}", f"{data.title}, rates", told, WIDE, high * len(rows) + 46, left=138.0, top=6.0)
    chart.legend(list(enumerate(names)))
    left, right, top, _ = chart.inner
    x = Scale(0.0, 1.0, left, right)
    chart.x_axis(x, "passes: better \u2192", _percent)
    for place, rates in enumerate(rows):
        upper = top + high * place
        if place:
            chart.add(line(0.0, upper, right, upper, "base"))
        chart.add(*_category_label(rates, upper + high / 2, strong=rates is data.whole))
        first = upper + high / 2 - step * (len(names) - 1) / 2
        for model, cell in enumerate(rates.cells):
            if cell is not None:
                y = first + step * model
                title = f"{names[model]}: {said(cell)}"
                chart.add(_whisker(model, x(cell.low), y, x(cell.high), y), mark(model, x(cell.value), y, title=title))
    return chart.markup


def _category_label(rates: Rates, middle: float, *, strong: bool) -> list[Markup]:
    count = f"n = {rates.n}"
    name = label(0.0, middle - 1, shortened(rates.label, 121), class_="name" if strong else None)
    return [name, label(0.0, middle + 11, count, class_="count")]


# ---- training ----


def training_curve(model: int, key: str, name: str, look: Look, kept: float | None) -> Markup:
    """One metric over the steps of a run; a line where the kept model is of."""
    told = f"{look.values[0]:.3g} at step {look.steps[0]:.0f}, {look.values[-1]:.3g} at step {look.steps[-1]:.0f}"
    chart = Chart(key, f"{look.metric} while {name} trained", told, NARROW, 170.0, top=26.0, left=50.0)
    left, right, top, bottom = chart.inner
    x = Scale(look.steps[0], look.steps[-1], left, right)
    y = Scale.over(look.values, bottom, top)
    chart.x_axis(x, "step")
    chart.y_axis(y, look.metric, about=4)
    places = [(x(step), y(value)) for step, value in zip(look.steps, look.values, strict=True)]
    chart.add(_curve(model, places, dashed=False))
    for (across, up), step, value in zip(places, look.steps, look.values, strict=True):
        chart.add(mark(model, across, up, title=f"step {step:.0f}: {value:.4g}"))
    if kept is not None and x.low <= kept <= x.high:
        at = x(kept)
        side = "end" if at > (left + right) / 2 else "start"
        beside = at + (-4 if side == "end" else 4)
        chart.add(line(at, top, at, bottom, "median"))
        chart.add(label(beside, bottom - 6, "kept", anchor=side, class_="halo"))
    return chart.markup
