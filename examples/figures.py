"""What the examples share: the command line, files, tables, figures."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from burnish.evaluation.intervals import Difference, Mean

# The last one, grey, is what things are compared with: a start model, "before".
COLOURS = ("#1b6ca8", "#d1495b", "#3b8b5a", "#8a6fae", "#c9822b", "#777777")


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The flags of every example: the model, and where results and runs go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help=f"takes {name}.json and .png")
    parser.add_argument("--runs", type=Path, default=Path(f"runs/{name}"))
    return parser


def settings_of(arguments: argparse.Namespace, *places: str) -> dict[str, Any]:
    """What a result says it was made with: all flags but those that say where things lie."""
    return {key: value for key, value in vars(arguments).items() if key not in ("out", "runs", *places)}


def read_record(run: Path) -> dict[str, Any]:
    """A run's `run.json`."""
    record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return record


def once(path: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, kept in a file: it is made again only for other settings."""
    if path.is_file() and (found := json.loads(path.read_text(encoding="utf-8")))["settings"] == settings:
        return dict(found)
    made = {"settings": dict(settings), **make()}
    path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return made


def in_numbers(measured: Mean | Difference) -> dict[str, float]:
    """A mean or a change with its interval, as results hold them and `with_interval` and `errors_of` take them."""
    return {"value": measured.value, "low": measured.interval.low, "high": measured.interval.high}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as JSONL; an unchanged file is left alone, so that a run that reads it can resume."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def write_result(directory: Path, name: str, result: Mapping[str, Any]) -> Path:
    """`DIRECTORY/NAME.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; an error of 0 for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def with_interval(value: float, low: float, high: float, form: str = ".2f") -> str:
    """`0.12 (0.08 to 0.16)`, without a minus before a zero."""
    form = f"+z{form[1:]}" if form.startswith("+") else f"z{form}"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns of equal width, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))


def new_figure(columns: int = 1, *, width: float = 4.6, height: float = 3.4) -> tuple[Any, Any]:
    """A figure and its axes in a row (a list also when there is one)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes[0])


def save_figure(figure: Any, directory: Path, name: str) -> Path:
    """`DIRECTORY/NAME.png`, without the date and the version in it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.png"
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    print(f"wrote {path}")
    return path


def errors_of(value: float, low: float, high: float) -> list[list[float]]:
    """An interval as matplotlib's `yerr` of one point."""
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def two_way_mean(table: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = 10_000) -> dict[str, float]:
    """The mean of a (runs, prompts) table with its 95 % bootstrap interval; runs and prompts are both redrawn."""
    import numpy as np

    values = np.asarray(table, dtype=np.float64)
    generator = np.random.default_rng(seed)
    runs, prompts = values.shape
    # Redrawing is weighting by counts: a mean is then two small products.
    row_counts = generator.multinomial(runs, [1 / runs] * runs, size=resamples) / runs
    column_counts = generator.multinomial(prompts, [1 / prompts] * prompts, size=resamples) / prompts
    means = ((row_counts @ values) * column_counts).sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, parsed; a line ends at a line feed, not at the other separators that a text may hold."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def evaluations(run: Path) -> list[tuple[int, list[dict[str, Any]]]]:
    """(step, what was answered after it) of a PPO run, in order."""
    return [(int(path.stem.split("-")[1]), read_jsonl(path)) for path in sorted((run / "samples").glob("step-*.jsonl"))]
