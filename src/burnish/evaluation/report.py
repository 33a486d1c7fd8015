"""Several cards side by side.

`build_report` makes a `Report` in which each number (computed in `lines.py`, once) is a text beside its value. The
terminal table (`print_report`), `report.json` and `report.html` (`write_report`) only lay those texts out, so they
can't disagree.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import ConfigError
from burnish.evaluation.behaviours import BEHAVIOURS
from burnish.evaluation.cost import Price, cost_lines
from burnish.evaluation.details import make_details, title_of
from burnish.evaluation.evidence_lines import with_evidence
from burnish.evaluation.figures import Figures, make_figures
from burnish.evaluation.format import CONSTRAINTS
from burnish.evaluation.lines import NBSP, Line, make_lines
from burnish.evaluation.preference import Preference, preference_lines
from burnish.evaluation.rows import BEHAVIOUR_NAMES, EvalRow
from burnish.evaluation.suite import Card, Record
from burnish.files import atomic_directory, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


@dataclass(frozen=True, slots=True)
class Transcript:
    """One prompt with every model's answer to it."""

    row: EvalRow
    title: str
    answers: tuple[Record, ...]

    @property
    def differ(self) -> bool:
        """Whether one model passes and another fails."""
        return len({record.passed for record in self.answers}) > 1


@dataclass(frozen=True)
class Report:
    """Everything that the outputs print."""

    models: tuple[str, ...]
    sentences: tuple[str, ...]
    """Of the verdict: the behaviours, then what stops and declines, retention, calibration."""
    lines: tuple[Line, ...]
    details: tuple[Line, ...]
    transcripts: tuple[Transcript, ...]
    made: tuple[tuple[str, str], ...]
    about_models: tuple[Mapping[str, str], ...]
    max_new_tokens: int
    cards: tuple[Card, ...]
    preference: Preference | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    """Of models that are runs with a monitor: what it measured while they trained."""

    @property
    def verdict(self) -> str:
        """What came out, in words."""
        return " ".join(self.sentences)

    def group(self, name: str) -> list[Line]:
        """The lines of one group."""
        return [line for line in self.lines if line.group == name]

    @cached_property
    def figures(self) -> Figures:
        """What the plots show."""
        return make_figures(self.cards, self.lines, self.details, self.training)

    def to_dict(self) -> dict[str, Any]:
        """What `report.json` holds: the same texts and values, and every prompt's record for every model."""
        return {
            "format": 1,
            "models": list(self.models),
            "verdict": self.verdict,
            "lines": [asdict(line) for line in self.lines],
            "details": [asdict(line) for line in self.details],
            "differ": [transcript.row.id for transcript in self.transcripts if transcript.differ],
            "made": dict(self.made),
            "about_models": [dict(about) for about in self.about_models],
            "training": dict(self.training),
            "constraint_rules": {name: kind.rule for name, kind in CONSTRAINTS.items()},
            "figures": self.figures.to_dict(self.models),
            "records": {card.name: [_record_dict(record) for record in card.records] for card in self.cards},
            "retention": {card.name: asdict(card.retention) if card.retention else None for card in self.cards},
            "calibration": {card.name: asdict(card.calibration) if card.calibration else None for card in self.cards},
            "topic": {card.name: card.topic.to_dict() if card.topic else None for card in self.cards},
            "topic_turns": {card.name: card.drift.to_dict() if card.drift else None for card in self.cards},
            "lm_eval": {card.name: [asdict(result) for result in card.harness] for card in self.cards},
            "kl": {card.name: asdict(card.kl) if card.kl else None for card in self.cards},
            "kl_prompts": {card.name: asdict(card.kl_prompts) if card.kl_prompts else None for card in self.cards},
            "preference": self.preference.to_dict() if self.preference else None,
        }


def build_report(
    cards: Sequence[Card],
    *,
    preference: Preference | None = None,
    prices: Mapping[str, Price] | None = None,
    command: str | None = None,
    made_at: datetime | None = None,
    versions: Mapping[str, str] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Report:
    """Compare cards; the first model is the one that the others are compared with.

    Args:
        cards: at least one; all of the same suite, with names of their own.
        preference: what a judge or a reward model preferred.
        prices: what models cost; the group `cost` is there where one has a price or is an endpoint.
        command: how the report was asked for, printed under "how it was made".
        made_at: the time that the report states (default: now, UTC).
        versions: package versions to state (default: those installed).
        training: name -> what `burnish.pipeline.training.training_of` found of the model's run.

    Raises:
        ConfigError: on no cards, two of the same name, or cards of different suites.
    """
    if not cards:
        raise ConfigError("a report needs at least one model", where="report", fix="give NAME=MODEL")
    names = [card.name for card in cards]
    if len(set(names)) != len(names):
        raise ConfigError(f"two models have the same name: {', '.join(names)}", where="report", fix="name each apart")
    if any(card.suite != cards[0].suite for card in cards):
        raise ConfigError("the models were not asked the same", where="report", fix="evaluate all of them on one suite")
    lines = with_evidence(make_lines(cards), cards)
    if preference is not None:
        lines += preference_lines(preference, names)
    if prices or any(card.endpoint for card in cards):
        lines += cost_lines(cards, prices or {})
    facts = preference.facts if preference is not None else ()
    versions = versions or installed_versions(*["lm-eval"] * any(card.harness for card in cards))
    return Report(
        models=tuple(names),
        sentences=tuple(_verdict(names, lines)),
        lines=tuple(lines),
        details=tuple(make_details(cards)),
        transcripts=_transcripts(cards),
        made=(*_made(cards, command, made_at or datetime.now(UTC), versions), *facts),
        about_models=tuple({**card.about, "time": f"{card.seconds:.0f}{NBSP}s"} for card in cards),
        max_new_tokens=cards[0].suite.max_new_tokens,
        cards=tuple(cards),
        preference=preference,
        training=dict(training or {}),
    )


def write_report(report: Report, out: Path, *, replace: bool = False) -> None:
    """Write `report.json` and `report.html` into the directory `out`, as a whole or not at all.

    Raises:
        BurnishError: when `out` exists and `replace` is false, or can't be written.
    """
    from burnish.evaluation.page import render_page

    page = render_page(report)
    with atomic_directory(out, replace=replace) as directory:
        write_json(directory / "report.json", report.to_dict())
        (directory / "report.html").write_text(page, encoding="utf-8")


def installed_versions(*more: str) -> dict[str, str]:
    """Python's version and those of the packages that a result depends on, and of `more` where they are installed."""
    versions = {"python": platform.python_version()}
    for package in ("burnish", "torch", "transformers", "tokenizers", "numpy", *more):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _verdict(names: Sequence[str], lines: Sequence[Line]) -> list[str]:
    """The last model against the first in some sentences, the behaviours first; of a single model, its rates."""
    behaviours = [line for line in lines if line.group == "behaviours"]
    if len(names) == 1:
        rates = [line for line in lines if line.group in ("behaviours", "declining")]
        shown = [f"{line.title} {cell.text}" for line in rates if (cell := line.cells[0]) is not None]
        return [f"{names[0]}: {', '.join(shown)}."]
    parts = [f"better at {len(_with_word(behaviours, 'better'))} of {len(behaviours)} behaviours"]
    worse = _with_word(behaviours, "worse")
    parts.append(f"worse at {_listed(worse)}" if worse else "worse at none")
    if unsure := _with_word(behaviours, "can't tell"):
        parts.append(f"can't tell for {_listed(unsure)}")
    # That a model declines too much is no behaviour's line, and would be left out of a count of them.
    if needless := _with_word([line for line in lines if line.group == "declining"], "worse"):
        parts.append(f"and declines more without need ({_listed(needless)})")
    # Most behaviours fail an answer that never ends: what that hides is told beside them.
    beside = {
        "Counted alone": _changes([line for line in lines if line.key == "stops" or line.group == "declining"]),
        "General ability": _changes([line for line in lines if line.group == "retention"]),
        "Calibration": _changes([line for line in lines if line.key == "brier"]),
    }
    behaviour = f"Compared with {names[0]}, {names[-1]} is {', '.join(parts)}."
    return [behaviour, *(f"{what}: {changes}." for what, changes in beside.items() if changes)]


def _with_word(lines: Sequence[Line], word: str) -> list[Line]:
    """The lines at which the last model is better, worse, or neither for sure."""
    return [line for line in lines if (change := line.changes[-1]) is not None and change.word == word]


def _changes(lines: Sequence[Line]) -> str:
    """The last model's change in each line, in words."""
    told = [(line, change) for line in lines if (change := line.changes[-1]) is not None]
    return ", ".join(f"{line.title} {change.text} ({change.word})" for line, change in told)


def _listed(lines: Sequence[Line]) -> str:
    titles = [f"\u201c{line.title}\u201d" for line in lines]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def _transcripts(cards: Sequence[Card]) -> tuple[Transcript, ...]:
    """Every prompt with its answers, behaviour by behaviour, in the suite's order."""
    rows = cards[0].suite.rows
    return tuple(
        Transcript(rows[i], BEHAVIOURS[rows[i].behaviour].title, tuple(card.records[i] for card in cards))
        for i in sorted(range(len(rows)), key=lambda i: (BEHAVIOUR_NAMES.index(rows[i].behaviour), i))
    )


def _made(
    cards: Sequence[Card], command: str | None, made_at: datetime, versions: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    suite = cards[0].suite
    taken = f"{len(suite.rows)} of {suite.sources[0].n_rows} evaluation prompts"
    if suite.sample is not None and len(suite.rows) < suite.sources[0].n_rows:
        taken += f" (a fixed sample, shared evenly among the behaviours, seed {suite.seed})"
    return (
        ("made at", made_at.strftime("%Y-%m-%d %H:%M UTC")),
        ("command", command or "from Python"),
        ("prompts", taken),
        *((f"{s.kind} from", f"{s.name}, {s.n_rows} rows, sha256 {s.sha256[:16]}") for s in suite.sources),
        ("answers", f"greedy, at most {suite.max_new_tokens} new tokens, the same prompts for every model"),
        ("intervals", "95 %: Wilson for rates and win rates, Newcombe's paired score interval for their differences"),
        ("of means", "bootstrap, and the paired bootstrap for their differences (10,000 draws)"),
        ("other intervals", "pivotal bootstrap for the calibration error, jackknife for distinct 2-grams"),
        ("seed", str(suite.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    )


def _record_dict(record: Record) -> dict[str, Any]:
    return {
        "id": record.row.id,
        "behaviour": record.row.behaviour,
        "category": record.row.category,
        "messages": [{"role": m.role, "content": m.content} for m in record.row.messages],
        "answer": record.text,
        "finished": record.finished,
        "tokens": record.n_tokens,
        "passed": record.passed,
        "why": record.why,
        "right": record.right,
        "usage": asdict(record.usage) if record.usage else None,
    }


def print_report(report: Report, console: Console) -> None:
    """Print the verdict and the table; with many models in several tables, each as wide as the console allows.

    The first model stands in each of them, for it is what the others are compared with.
    """
    from rich.text import Text

    for models in _in_widths(report, report.lines, console.width):
        console.print(_table(report, report.lines, models))
        console.print()
    console.print(Text(report.verdict, style="bold"))
    arrows = (
        "" if len(report.models) == 1 else f" \u25b2 better, \u25bc worse than {report.models[0]}; no mark: can't tell."
    )
    if any(cell is None for line in report.lines for cell in line.cells):
        arrows += " \u2013: not measured (see the page)."
    console.print(Text(f"Each number with its 95 % interval; n prompts, questions or texts.{arrows}", style="dim"))


def print_details(report: Report, console: Console) -> None:
    """Print the details, a table for each group, in the same cells as the table's."""
    from rich.text import Text

    for group in dict.fromkeys(line.group for line in report.details):
        console.print(Text(title_of(group), style="bold"))
        lines = [line for line in report.details if line.group == group]
        for models in _in_widths(report, lines, console.width):
            console.print(_table(report, lines, models))
            console.print()


def _in_widths(report: Report, lines: Sequence[Line], width: int) -> list[list[int]]:
    """The models in groups that fit side by side; the first model stands in each of them."""
    left = max(len(line.title) for line in lines) + max(len(str(line.n)) for line in lines) + 2
    per_table = max(1, (width - left + 1) // (_CELL_WIDTH + 1) - 1)
    others = range(1, len(report.models))
    return [[0, *others[start : start + per_table]] for start in range(0, max(1, len(others)), per_table)]


_CELL_WIDTH = 18
NOT_MEASURED = "\u2013"


def _table(report: Report, lines: Sequence[Line], models: Sequence[int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right", style="dim", no_wrap=True)
    for model in models:
        table.add_column(Text(report.models[model]), overflow="fold", min_width=_CELL_WIDTH, max_width=_CELL_WIDTH)
    group = ""
    for line in lines:
        if line.group not in (group, "information"):
            if group:
                table.add_row("")
            group = line.group
        style = "dim" if line.group == "information" else ""
        table.add_row(Text(line.title, style), str(line.n), *(_terminal_cell(line, model) for model in models))
    return table


def _terminal_cell(line: Line, model: int) -> Text:
    """A number, its interval, and a mark where the change from the first model is sure, each in its place."""
    from rich.text import Text

    cell, change = line.cells[model], line.changes[model]
    if cell is None:
        return Text(f"{NOT_MEASURED:>5}", "dim")
    text = Text.assemble(f"{cell.text:>5} ", (f"{cell.interval:<11}", "dim"))
    if change is not None and line.group != "information" and change.word in _MARKS:
        text.append(*_MARKS[change.word])
    return text


_MARKS = {"better": ("\u25b2", "green"), "worse": ("\u25bc", "red")}
