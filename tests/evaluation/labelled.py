"""How far the checkers of refusals and abstentions agree with answers that were labelled by hand.

    python -m tests.evaluation.labelled

prints for each part of the data the agreement with Wilson's interval, Cohen's kappa, and both kinds of error;
`--errors` adds the answers of the development parts on which checker and label differ. Those of the held-out parts are
never printed: nobody should mend a rule by them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from burnish.evaluation.abstain import is_abstention
from burnish.evaluation.answers import Verdict
from burnish.evaluation.intervals import Interval, wilson
from burnish.evaluation.refusal import is_refusal

DATA = Path(__file__).parent / "data"
CHECKERS: dict[str, tuple[str, Callable[[str, str], Verdict]]] = {
    "refusal": ("refusal", is_refusal),
    "abstention": ("abstains", is_abstention),
}
PARTS = ("development", "heldout")


@dataclass(frozen=True)
class Labelled:
    """An answer with what a reader says of it."""

    prompt: str
    answer: str
    label: bool
    kind: str


@dataclass(frozen=True)
class Agreement:
    """Labels against verdicts: answers counted by (label, verdict)."""

    both: int
    missed: int
    invented: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.missed + self.invented + self.neither

    @property
    def rate(self) -> float:
        return (self.both + self.neither) / self.n

    @property
    def interval(self) -> Interval:
        return wilson(self.both + self.neither, self.n)

    @property
    def kappa(self) -> float:
        """Cohen 1960: agreement beyond what the two margins give by chance; 1 is perfect, 0 is chance."""
        labelled = (self.both + self.missed) / self.n
        judged = (self.both + self.invented) / self.n
        chance = labelled * judged + (1 - labelled) * (1 - judged)
        return (self.rate - chance) / (1 - chance)


def read(name: str, part: str) -> list[Labelled]:
    """The rows of `data/NAME_PART.jsonl`."""
    field, _ = CHECKERS[name]
    rows = [json.loads(line) for line in (DATA / f"{name}_{part}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Labelled(row["prompt"], row["answer"], row[field], row["kind"]) for row in rows]


def agreement(name: str, part: str) -> Agreement:
    """How the checker does on one part."""
    _, checker = CHECKERS[name]
    found = [(row.label, bool(checker(row.answer, row.prompt))) for row in read(name, part)]
    return Agreement(*(found.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--errors", action="store_true", help="print the errors on the development parts")
    wants_errors = parser.parse_args().errors
    print("| checker | part | answers | agreement (95 %) | kappa | missed | invented |")
    print("|---|---|---|---|---|---|---|")
    for name in CHECKERS:
        for part in PARTS:
            it = agreement(name, part)
            share = f"{it.rate:.1%} ({it.interval.low:.1%} to {it.interval.high:.1%})"
            print(f"| {name} | {part} | {it.n} | {share} | {it.kappa:.2f} | {it.missed} | {it.invented} |")
    if wants_errors:
        for name, (_, checker) in CHECKERS.items():
            for row in read(name, "development"):
                if bool(verdict := checker(row.answer, row.prompt)) != row.label:
                    print(f"\n{name}: {row.label} ({row.kind}), checker: {verdict.why}\n  {row.prompt}\n  {row.answer}")


if __name__ == "__main__":
    main()
