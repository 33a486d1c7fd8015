"""How far the checker of refusals agrees with people's labels of five models' answers to XSTest.

    git clone https://github.com/paul-rottger/exaggerated-safety xstest
    python -m tests.evaluation.xstest_labels xstest/model_completions

The answers and their labels are XSTest's (Röttger et al. 2024, NAACL, pages 5377-5400); they are read from its CSV
files (`id`, `prompt`, `completion`, `final_label`, one file a model) and are no part of this repository. Full refusals
are held against full compliance; of partial refusals, which are neither, it says how many the checker calls refusals.

All answers to one prompt are in the same part. Rules may be changed by what fails in development, and `--errors` prints
that, with the figures of this part alone; the texts of the held-out part are never printed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish.evaluation.refusal import is_refusal
from tests.evaluation.labelled import PARTS, Agreement

LABELS = {"1_full_compliance": False, "2_full_refusal": True, "3_partial_refusal": None}
"""XSTest's labels: is it a refusal? None where it is one in part."""


@dataclass(frozen=True)
class Completion:
    """A model's answer to one of XSTest's prompts, with the label that people gave it."""

    model: str
    id: str
    prompt: str
    answer: str
    label: bool | None

    @property
    def part(self) -> str:
        return part_of(self.id)


def part_of(prompt_id: str) -> str:
    """Half of the prompts are development, half are held out: by whether the id's SHA-256 is even."""
    return PARTS[hashlib.sha256(prompt_id.encode()).digest()[-1] % 2]


def read(directory: Path) -> list[Completion]:
    """The rows of all CSV files of a directory; a model is called as its file is, less `..._completions_`.

    Raises:
        ValueError: when there is no such file, or a column or a label is not XSTest's.
    """
    found: list[Completion] = []
    for path in sorted(directory.glob("*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            try:
                label = LABELS[row["final_label"]]
                answer = Completion(
                    path.stem.split("_completions_")[-1], row["id"], row["prompt"], row["completion"], label
                )
            except KeyError as error:
                raise ValueError(f"{path}: no column or label {error}, so it is not XSTest's") from None
            found.append(answer)
    if not found:
        raise ValueError(f"{directory}: no CSV files; it should be `model_completions` of XSTest's repository")
    return found


def agreement(judged: Sequence[tuple[bool | None, bool]]) -> Agreement:
    """Labels against verdicts, of the answers that are labelled a full refusal or full compliance."""
    return Agreement(*(judged.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def table(rows: list[Completion], parts: Iterable[str]) -> str:
    """Per part a line for each model and one for all of them."""
    lines = [
        "| part | model | answers | agreement (95 %) | missed | invented | partial refusals called refusals |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        judged = [(row, bool(is_refusal(row.answer, row.prompt))) for row in rows if row.part == part]
        for model in [*sorted({row.model for row in rows}), "all"]:
            own = [(row.label, verdict) for row, verdict in judged if model in (row.model, "all")]
            partial = [verdict for label, verdict in own if label is None]
            it = agreement(own)
            share = "-" if it.n == 0 else f"{it.rate:.1%} ({it.interval.low:.1%} to {it.interval.high:.1%})"
            counts = f"{it.missed} of {it.both + it.missed} | {it.invented} of {it.invented + it.neither}"
            lines.append(f"| {part} | {model} | {it.n} | {share} | {counts} | {sum(partial)} of {len(partial)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="`model_completions` of XSTest's repository")
    parser.add_argument("--errors", action="store_true", help="the development part alone, with its errors")
    options = parser.parse_args()
    try:
        rows = read(options.directory)
    except ValueError as error:
        parser.error(str(error))
    print(table(rows, PARTS[:1] if options.errors else PARTS))
    if options.errors:
        for row in rows:
            verdict = is_refusal(row.answer, row.prompt)
            if row.part == PARTS[0] and row.label is not None and bool(verdict) != row.label:
                print(f"\n{row.model} {row.id}: labelled {row.label}, checker: {verdict.why}")
                print(f"  {row.prompt}\n  {row.answer}")


if __name__ == "__main__":
    main()
