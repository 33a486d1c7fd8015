"""`report.html`: one file with everything in it, laid out from a `Report` by the template `report.html`.

The page asks for nothing from anywhere: styles, plots and its one script are in it. Its content security policy admits
that script by its hash, so that a script in what a model said would not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from burnish.evaluation.behaviours import BEHAVIOURS
from burnish.evaluation.details import title_of
from burnish.evaluation.figures import BEHAVIOUR_MEAN_RULE
from burnish.evaluation.format import CONSTRAINTS
from burnish.evaluation.lines import Cell, Line
from burnish.evaluation.markup import node, visible
from burnish.evaluation.page_plots import drawn_figures
from burnish.evaluation.report import Report, Transcript
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.suite import Record
from burnish.evaluation.svg import mark

_GROUPS = (
    ("behaviours", "Behaviours", "How often an answer passes, in percent of the prompts, with its 95 % interval."),
    (
        "declining",
        "Declining without need",
        "How often a model refuses what is harmless, and abstains where it could answer, whether or not the answer "
        "ends. Lower is better.",
    ),
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
    """The whole page as HTML."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FunctionLoader(_packaged),
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
    environment.globals.update(bar=interval_bar, rows_of=_rows_of, swatch=_swatch, held=_held_by(report))
    script = _packaged("page.js")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode("ascii")
    used = {c.kind.name for card in report.cards[:1] for row in card.suite.rows for c in row.constraints}
    place = {transcript.row.id: number for number, transcript in enumerate(report.transcripts)}
    named = _named_categories(report.transcripts)
    return environment.get_template("report.html").render(
        report=report,
        style=Markup(_packaged("page.css")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        groups=[(key, title, about) for key, title, about in _GROUPS if report.group(key)],
        figures=drawn_figures(report),
        constraints=[kind for name, kind in CONSTRAINTS.items() if name in used],
        details=[
            (title_of(group), [(line, None) for line in report.details if line.group == group])
            for group in dict.fromkeys(line.group for line in report.details)
        ],
        rules=[line for line in report.lines if line.group != "information"],
        information=next(iter(report.group("information")), None),
        mean_rule=BEHAVIOUR_MEAN_RULE,
        transcripts=_groups_of(report.transcripts, named),
        categories=_options(named),
        differing=[transcript for transcript in report.transcripts if transcript.differ],
        pairs=_pairs(report),
        place_of=lambda transcript: place[transcript.row.id],
    )


def _packaged(name: str) -> str:
    return resources.files("burnish.evaluation").joinpath(name).read_text(encoding="utf-8")


# ---- the table ----


def _rows_of(report: Report, group: str) -> list[tuple[Line, Line | None]]:
    """The lines of a group, each with the line of information that belongs to it."""
    extra = {line.key.partition(".")[0]: line for line in report.group("information")}
    return [(line, extra.get(line.key)) for line in report.group(group)]


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
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _swatch(model: int) -> Markup:
    """The mark that a model has in the plots."""
    return node("svg", mark(model, 6.0, 6.0), class_="swatch", viewBox="0 0 12 12", aria_hidden="true")


# ---- prompts and answers ----


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt as the page shows it: a transcript, its place, and what the filters go by.

    Attributes:
        transcript: the prompt with its answers.
        place: its number among all of them, which its address on the page is made of.
        names: its categories.
        categories: their numbers.
    """

    transcript: Transcript
    place: int
    names: tuple[str, ...]
    categories: str

    @property
    def row(self) -> EvalRow:
        """The prompt."""
        return self.transcript.row

    @property
    def answers(self) -> tuple[Record, ...]:
        """One for each model."""
        return self.transcript.answers

    @property
    def differ(self) -> bool:
        """Whether models differ on it."""
        return self.transcript.differ

    @property
    def verdicts(self) -> str:
        """A character a model: 1 where it passes, else 0."""
        return "".join("01"[record.passed] for record in self.answers)


@dataclass(frozen=True, slots=True)
class Group:
    """The prompts of one behaviour."""

    key: str
    title: str
    about: str
    prompts: tuple[Asked, ...]

    @property
    def differing(self) -> int:
        """On how many of them models differ."""
        return sum(asked.differ for asked in self.prompts)


@dataclass(frozen=True, slots=True)
class Pair:
    """How often one model passes where another fails; `pattern` is what the filters are set to."""

    count: int
    pattern: str


Names = dict[tuple[str, str], int]
"""(behaviour, category) -> the category's number."""


Turns = list[tuple[str, str, bool]]
"""What was asked, what was answered, and whether that belongs to the conversation."""


def _held_by(report: Report) -> Callable[[int, EvalRow], Turns]:
    """Gives what a model said in the conversation of a row that it held itself; nothing where it held none."""
    found: dict[tuple[int, str], Turns] = {}
    for model, card in enumerate(report.cards):
        if (drift := card.drift) is None:
            continue
        for dialogue in drift.dialogues:
            said = [answer.text.strip() for answer in dialogue.answers]
            found[model, dialogue.row.id] = list(zip(dialogue.asked, said, drift.wins(dialogue), strict=True))
    return lambda model, row: found.get((model, row.id), [])


def _categories_of(row: EvalRow) -> tuple[str, ...]:
    """What a prompt can be found by: its category, and its constraints by the names that details count them under."""
    return tuple(dict.fromkeys(filter(None, (row.category, *(constraint.label for constraint in row.constraints)))))


def _named_categories(transcripts: Sequence[Transcript]) -> Names:
    named: Names = {}
    for transcript in transcripts:
        for name in _categories_of(transcript.row):
            named.setdefault((transcript.row.behaviour, name), len(named))
    return named


def _options(named: Names) -> list[tuple[str, list[tuple[int, str]]]]:
    """For each behaviour with categories their numbers and names, by name."""
    found: dict[str, list[tuple[int, str]]] = {}
    for (behaviour, name), number in sorted(named.items(), key=lambda item: item[0][1].casefold()):
        found.setdefault(behaviour, []).append((number, name))
    return [(BEHAVIOURS[key].title, found[key]) for key in BEHAVIOURS if key in found]


def _groups_of(transcripts: Sequence[Transcript], named: Names) -> list[Group]:
    """The transcripts by behaviour, in their order."""
    found: dict[str, list[Asked]] = {}
    for place, transcript in enumerate(transcripts):
        row = transcript.row
        names = _categories_of(row)
        numbers = " ".join(str(named[row.behaviour, name]) for name in names)
        found.setdefault(row.behaviour, []).append(Asked(transcript, place, names, numbers))
    return [Group(key, BEHAVIOURS[key].title, BEHAVIOURS[key].asks, tuple(prompts)) for key, prompts in found.items()]


def _pairs(report: Report) -> list[list[Pair | None]]:
    """A row for each model that passes, in it a number for each that fails; empty for a single model."""
    models = range(len(report.models))
    if len(models) < 2:
        return []
    return [[None if passes == fails else _pair(report, passes, fails) for fails in models] for passes in models]


def _pair(report: Report, passes: int, fails: int) -> Pair:
    count = sum(t.answers[passes].passed and not t.answers[fails].passed for t in report.transcripts)
    pattern = "".join("1" if m == passes else "0" if m == fails else "." for m in range(len(report.models)))
    return Pair(count, pattern)
