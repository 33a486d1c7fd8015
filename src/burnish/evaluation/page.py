"""`report.html`: one file with everything in it, laid out from a `Report` by the template `report.html`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from burnish.evaluation.details import title_of
from burnish.evaluation.format import CONSTRAINTS
from burnish.evaluation.lines import Cell, Line
from burnish.evaluation.report import Report, Transcript

_TEMPLATE = "report.html"
_GROUPS = (
    ("behaviours", "Behaviours", "How often an answer passes, in percent of the prompts, with its 95 % interval."),
    ("topic", "Topic", "Whether a base model finds the answer likeliest after its own conversation, and by how much."),
    ("retention", "General ability", "What the model keeps of what it could do before: the alignment tax."),
    ("calibration", "Calibration", "Whether the model is as often right as its probabilities claim. Lower is better."),
    ("lm_eval", "lm-evaluation-harness", "Tasks of EleutherAI's harness, on raw text."),
    ("length", "Length", "Whether answers end, and how long they are."),
    ("repetition", "Turns and repetition", "Whether an answer keeps to its turn, and how much repeats itself."),
    ("preference", "Preference", "How often a model's answers are preferred to the baseline's."),
    ("cost", "Cost", "What an answer costs: time, tokens and, where prices were given, money."),
)


def render_page(report: Report) -> str:
    """The whole page as HTML. It asks for nothing from anywhere: styles and plots are in it, there is no script."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.update(bar=interval_bar, rows_of=_rows_of, turns_of=_turns_of)
    source = resources.files("burnish.evaluation").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    used = {c.kind.name for card in report.cards[:1] for row in card.suite.rows for c in row.constraints}
    return environment.from_string(source).render(
        report=report,
        groups=[(key, title, about) for key, title, about in _GROUPS if report.group(key)],
        constraints=[kind for name, kind in CONSTRAINTS.items() if name in used],
        details=[
            (title_of(group), [line for line in report.details if line.group == group])
            for group in dict.fromkeys(line.group for line in report.details)
        ],
        rules=[line for line in report.lines if line.group != "information"],
        information=next(iter(report.group("information")), None),
    )


def _rows_of(report: Report, group: str) -> list[tuple[Line, Line | None]]:
    """The lines of a group, each with the line of information that belongs to it."""
    extra = {line.key.partition(".")[0]: line for line in report.group("information")}
    return [(line, extra.get(line.key)) for line in report.group(group)]


def _turns_of(transcript: Transcript) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in transcript.row.messages]


def interval_bar(line: Line, cell: Cell) -> Markup:
    """A small plot of one number: its interval as a band, its value as a mark, on the scale of the whole line."""
    low, high = _scale(line.unit, line.cells)
    span = high - low

    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / span))

    left, right, middle = at(cell.low), at(cell.high), at(cell.value)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<rect class="track" x="0" y="3.2" width="100" height="1.6" rx="0.8"/>'
        '<rect class="band" x="{left:.2f}" y="1.6" width="{width:.2f}" height="4.8" rx="1"/>'
        '<rect class="mark" x="{mark:.2f}" y="0" width="1.4" height="8"/></svg>'
    ).format(left=left, width=max(0.6, right - left), mark=min(98.6, max(0.0, middle - 0.7)))


def _scale(unit: str, shown: Sequence[Cell | None]) -> tuple[float, float]:
    """Rates go from 0 to 1; other numbers over what the line holds, with a margin."""
    if unit == "rate":
        return 0.0, 1.0
    cells = [cell for cell in shown if cell is not None]
    low, high = min(cell.low for cell in cells), max(cell.high for cell in cells)
    margin = 0.15 * (high - low) or 0.5 * abs(high) or 1.0
    return max(0.0, low - margin), high + margin
