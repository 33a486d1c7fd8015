"""A reward model from people's preferences: HH-RLHF pairs, SmolLM2-135M-Instruct, LoRA.

    python examples/hh_reward.py --data hh_rlhf/harmless-base.jsonl.gz

Learning rate and epochs are chosen on a validation split of the training part. The held-out pairs, none of whose first
turns the training part has, are looked at once, by the one model that was chosen.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import burnish as bn
from figures import (
    COLOURS,
    errors_of,
    new_figure,
    new_parser,
    print_table,
    read_record,
    save_figure,
    with_interval,
    write_result,
    write_rows,
)
from splits import split_by

HELD_OUT, VALIDATION = 300, 200
GRID = ("1e-4x1", "3e-4x1", "1e-4x2", "3e-4x2")


def first_turn(row: dict[str, Any]) -> str:
    """The first human turn of an HH-RLHF row, by which the rows are split."""
    opening = str(row["chosen"]).split("\n\nAssistant:", 1)[0].removeprefix("\n\nHuman:")
    return " ".join(opening.lower().split())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSONL, plain or gzipped."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def train(
    arguments: argparse.Namespace, name: str, data: Path, watched: Path, rate: float, epochs: int
) -> dict[str, Any]:
    """Train on `data` and evaluate the last weights on `watched`, which decides nothing in the run."""
    config = bn.RewardConfig(
        model=arguments.model,
        data=str(data),
        validation=str(watched),
        out=arguments.runs / name,
        on_bad_row="skip",
        too_long="skip",
        max_length=arguments.max_length,
        epochs=epochs,
        learning_rate=rate,
        keep_best=False,
        eval_every=100_000,
        seed=arguments.seed,
        dtype="float32",
    )
    result = bn.train_reward(config)
    found = json.loads((result.model / "evaluation.json").read_text(encoding="utf-8"))
    pairs = pairs_of(read_record(result.out)["data"], rows=len(read_rows(watched)))
    seconds = round(result.metrics["seconds"])
    return {"rate": rate, "epochs": epochs, "seconds": seconds, "pairs": pairs, "evaluation": found}


def pairs_of(data: dict[str, int], *, rows: int) -> dict[str, dict[str, int]]:
    """How many pairs trained and were evaluated, and how many were longer than the limit or not usable.

    Args:
        data: what the run's record says of its data. Its `read` and `bad_rows` are of the training file, its
            `too_long` is of both.
        rows: of the file that was evaluated on.
    """
    long = data["read"] - data["bad_rows"] - data["training"]
    held_out_long = data["too_long"] - long
    unusable = rows - data["validation"] - held_out_long
    return {
        "training": {"used": data["training"], "too_long": long, "unusable": data["bad_rows"]},
        "evaluation": {"used": data["validation"], "too_long": held_out_long, "unusable": unusable},
    }


def summary(run: dict[str, Any]) -> list[str]:
    """A row of the table of what was tried."""
    found = run["evaluation"]
    accuracy, nll = found["accuracy"], found["calibration"]["nll"]
    return [
        f"{run['rate']:g}, {run['epochs']} epochs",
        str(found["n"]),
        with_interval(accuracy["value"], accuracy["interval"]["low"], accuracy["interval"]["high"], ".1%"),
        with_interval(nll["value"], nll["interval"]["low"], nll["interval"]["high"], ".3f"),
        str(run["seconds"]),
    ]


def draw(found: dict[str, Any], out: Path) -> None:
    """Reliability of sigma(margin), and accuracy beside the length baseline's."""
    from burnish.evaluation.intervals import wilson

    figure, (left, right) = new_figure(2)
    left.plot([0.5, 1], [0.5, 1], color="#999999", linewidth=1, linestyle="--")
    for part in found["calibration"]["bins"]:
        if part["n"]:
            interval = wilson(round(part["accuracy"] * part["n"]), part["n"])
            error = errors_of(part["accuracy"], interval.low, interval.high)
            left.errorbar(part["confidence"], part["accuracy"], yerr=error, fmt="o", color=COLOURS[0], capsize=2)
            left.annotate(str(part["n"]), (part["confidence"], 0.02), ha="center", fontsize=7, color="#555555")
    left.set(xlim=(0.48, 1.02), ylim=(0, 1.04), xlabel="confidence, sigma(|margin|)", ylabel="accuracy")
    left.set_title(f"reliability (ECE {found['calibration']['ece']:.3f}; pairs below)", fontsize=9)
    baseline = found["length_baseline"]
    bars = (("reward model", found["accuracy"]), (f"the {baseline['direction']} one", baseline["accuracy"]))
    for place, (name, rate) in enumerate(bars):
        error = errors_of(rate["value"], rate["interval"]["low"], rate["interval"]["high"])
        right.bar(name, rate["value"], yerr=error, width=0.5, capsize=4, color=COLOURS[place])
    right.axhline(0.5, color="#999999", linewidth=1, linestyle="--")
    right.set(ylim=(0, 1), ylabel="accuracy, 95 % interval")
    right.set_title(f"{found['n']} held-out pairs", fontsize=9)
    save_figure(figure, out, "hh_reward")


def main() -> None:
    """Split, choose, train, evaluate once."""
    parser = new_parser("hh_reward", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="HH-RLHF's pairs, JSONL (.gz)")
    parser.add_argument("--grid", nargs="+", default=list(GRID), metavar="RATExEPOCHS", help="one needs no choice")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--limit", type=int, help="the first n rows only, for a try")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = read_rows(arguments.data)[: arguments.limit]
    share = len(rows) / 1800
    training, held_out = split_by(rows, first_turn, round(HELD_OUT * share), seed=arguments.seed)
    fit, validation = split_by(training, first_turn, round(VALIDATION * share), seed=arguments.seed + 1)
    parts = {"training": training, "held-out": held_out, "fit": fit, "validation": validation}
    files = {name: write_rows(arguments.runs / f"{name}.jsonl", part) for name, part in parts.items()}
    grid = [(float(rate), int(epochs)) for rate, _, epochs in (entry.partition("x") for entry in arguments.grid)]
    tried = [
        train(arguments, f"choice-{rate:g}x{epochs}", files["fit"], files["validation"], rate, epochs)
        for rate, epochs in (grid if len(grid) > 1 else [])
    ]
    header = ("rate, epochs", "pairs", "accuracy (95 %)", "nll (95 %)", "seconds")
    if tried:
        print("on the validation split of the training part:")
        print_table(header, [summary(run) for run in tried])
        chosen = min(tried, key=lambda run: run["evaluation"]["calibration"]["nll"]["value"])
        grid = [(chosen["rate"], chosen["epochs"])]
    final = train(arguments, f"final-{grid[0][0]:g}x{grid[0][1]}", files["training"], files["held-out"], *grid[0])
    print("chosen by the lowest nll; on the held-out pairs, once:")
    print_table(header, [summary(final)])
    settings = {"model": arguments.model, "max_length": arguments.max_length, "seed": arguments.seed}
    sizes = {name: len(part) for name, part in parts.items()}
    write_result(arguments.out, "hh_reward", {"settings": settings, "rows": sizes, "tried": tried, "final": final})
    draw(final["evaluation"], arguments.out)


if __name__ == "__main__":
    main()
