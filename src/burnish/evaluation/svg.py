"""What every plot of the page needs: scales with round ticks, marks that differ in shape and in colour, axes, legends.

Lengths are in the user units of a chart, which is drawn at about one pixel a unit on a phone and larger elsewhere.
Colours are CSS classes: `m0` to `m7` are the models', and the style sheet has them for light and for dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from burnish.evaluation.markup import node

COLOURS = 8
TEXT = 11.0
"""The height of letters."""
LETTER = 0.54
"""How wide a letter is on average, in heights."""
MINUS = "\u2212"
# Paths around (0, 0), each of about the same weight to the eye.
_SHAPES = (
    "M0-4.5A4.5 4.5 0 1 1 0 4.5A4.5 4.5 0 1 1 0-4.5Z",
    "M-4-4H4V4H-4Z",
    "M0-5.6L5.6 0L0 5.6L-5.6 0Z",
    "M0-5.2L5 3.8H-5Z",
    "M0 5.2L5-3.8H-5Z",
    "M-1.7-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",
)
_DASHES = ("none", "7 3", "2 2", "9 3 2 3", "4 2", "12 3")


@dataclass(frozen=True, slots=True)
class Scale:
    """From the values between `low` and `high` to places between `start` and `end`; beyond them it is the ends'."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, margin: float = 0.08) -> Scale:
        """A scale that holds the values, with a margin on both sides."""
        low, high = min(values), max(values)
        space = margin * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - space, high + space, start, end)

    def __call__(self, value: float) -> float:
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers within the scale, about as many as asked for: 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / max(1, about)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def tick_text(value: float, *, percent: bool = False) -> str:
    """A tick's number with as few digits as it has."""
    text = f"{abs(100 * value if percent else value):.6g}"
    sign = MINUS if value < 0 and text != "0" else ""
    return f"{sign}{text}{chr(0xA0) + '%' if percent else ''}"


def colour(model: int) -> str:
    """The class of a model's colour."""
    return f"m{model % COLOURS}"


def mark(model: int, x: float, y: float, *, title: str | None = None) -> Markup:
    """The model's mark, which differs from the others' by shape and by colour."""
    shape = _SHAPES[model % len(_SHAPES)]
    inside = () if title is None else (node("title", title),)
    return node("path", *inside, class_=f"dot {colour(model)}", d=shape, transform=f"translate({x:.1f} {y:.1f})")


def dashes(model: int) -> str:
    """The model's kind of line."""
    return _DASHES[model % len(_DASHES)]


def line(x1: float, y1: float, x2: float, y2: float, class_: str, **more: object) -> Markup:
    """A straight line."""
    return node("line", class_=class_, x1=x1, y1=y1, x2=x2, y2=y2, **more)


def label(x: float, y: float, text: str, *, anchor: str | None = None, class_: str | None = None) -> Markup:
    """A text; `y` is that of its base line."""
    return node("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def width_of(text: str, size: float = TEXT) -> float:
    """About how wide a text is."""
    return LETTER * size * len(text)


def shortened(text: str, width: float, size: float = TEXT) -> str:
    """The text, cut to about a width."""
    room = max(2, int(width / (LETTER * size)))
    return text if len(text) <= room else f"{text[: room - 1]}\u2026"


@dataclass
class Chart:
    """One figure in the making: parts are added, `markup` is the whole.

    Attributes:
        key: unique on the page, of letters, digits and hyphens.
        title: what the figure is, for those who can't see it too.
        desc: what it shows, in a sentence or two.
        width: of the whole, in user units.
        height: of the whole.
        left, right, top, bottom: the margins around the plot.
    """

    key: str
    title: str
    desc: str
    width: float
    height: float
    left: float = 44.0
    right: float = 14.0
    top: float = 10.0
    bottom: float = 40.0
    parts: list[Markup] = field(default_factory=list)

    @property
    def inner(self) -> tuple[float, float, float, float]:
        """The plot's left, right, top and bottom edge."""
        return self.left, self.width - self.right, self.top, self.height - self.bottom

    def add(self, *parts: Markup) -> None:
        """Draw over what is there."""
        self.parts += parts

    def x_axis(self, scale: Scale, title: str, tell: Callable[[float], str] = tick_text, about: int = 5) -> None:
        """Lines upwards from each tick, their numbers, and what they count."""
        left, right, top, bottom = self.inner
        for value in scale.ticks(about):
            at = scale(value)
            self.add(line(at, top, at, bottom, "grid"), label(at, bottom + 14, tell(value), anchor="middle"))
        self.add(label((left + right) / 2, bottom + 31, title, anchor="middle", class_="axis"))

    def y_axis(self, scale: Scale, title: str, tell: Callable[[float], str] = tick_text, about: int = 5) -> None:
        """Lines across at each tick, their numbers, and what they count above them."""
        left, right, top, _ = self.inner
        for value in scale.ticks(about):
            at = scale(value)
            self.add(line(left, at, right, at, "grid"), label(left - 6, at + 4, tell(value), anchor="end"))
        if title:
            self.add(label(0.0, top - 8, title, class_="axis"))

    def legend(self, models: Sequence[tuple[int, str]], *, lines: bool = False) -> None:
        """Models' names with their marks (and kinds of line) in rows above the plot; makes room for them."""
        rows, x = 0, 0.0
        shown = []
        for model, name in models:
            text = shortened(name, self.width - 40)
            need = width_of(text) + (34 if lines else 22)
            if x and x + need > self.width:
                rows, x = rows + 1, 0.0
            shown.append((model, text, x, 10.0 + 16 * rows))
            x += need + 6
        for model, text, at, y in shown:
            if lines:
                self.add(
                    line(at, y - 4, at + 26, y - 4, f"curve {colour(model)}", stroke_dasharray=dashes(model)),
                    mark(model, at + 13, y - 4),
                )
            else:
                self.add(mark(model, at + 6, y - 4))
            self.add(label(at + (32 if lines else 15), y, text))
        grown = 16.0 * (rows + 1) + 8
        self.top += grown
        self.height += grown

    @property
    def markup(self) -> Markup:
        """The figure as SVG."""
        names = f"{self.key}-title {self.key}-desc"
        return node(
            "svg",
            node("title", self.title, id=f"{self.key}-title"),
            node("desc", self.desc, id=f"{self.key}-desc"),
            *self.parts,
            class_="chart",
            viewBox=f"0 0 {self.width:.0f} {self.height:.0f}",
            role="img",
            aria_labelledby=names,
        )
