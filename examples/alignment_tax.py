"""The alignment tax of DPO with too small a beta, and the guard that bounds it.

    python examples/alignment_tax.py

DPO on a few pairs, with a beta that hardly holds the policy to its reference. The same run is made twice: once only
watched, to its end, and once with a guard that rolls back. Both are the same to the bit until the guard ends one of
them. At the end all three models (start, watched, guarded) read what of the held-out texts the guard never saw.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import burnish as bn
from burnish.evaluation.intervals import bootstrap_mean, paired_difference
from burnish.evaluation.retention import measure_retention
from burnish.evaluation.rows import load_prose
from burnish.rollout.responder import ModelResponder
from burnish.stages.run import model_of
from figures import COLOURS, new_figure, print_table, read_jsonl, save_figure, with_interval, write_result

SEEN, UNSEEN = 400, 1000
"""Characters of each held-out text: the guard reads up to the first mark, the comparison at the end from there to the
second."""


def train(arguments: argparse.Namespace, name: str, guard: dict[str, Any] | None) -> Path:
    """One run of DPO; the guard is all that differs."""
    config = bn.DPOConfig(
        model=arguments.model,
        data="starter/preferences",
        limit=arguments.pairs,
        out=arguments.runs / name,
        validation=0.2,
        epochs=10,
        max_steps=arguments.steps,
        batch_size=4,
        micro_batch_tokens=1024,
        learning_rate=arguments.learning_rate,
        schedule="constant",
        loss={"name": "sigmoid", "beta": arguments.beta},
        eval_every=arguments.every,
        keep_best=guard is not None,
        monitor={"every": "validation", "parts": ["nats_per_token"], "characters": SEEN},
        guard=guard,
        dtype="float32",
        seed=0,
    )
    return bn.train_dpo(config).out


def curves(run: Path) -> list[dict[str, float]]:
    """Of each look the step, nats per token, and the held-out pairs' accuracy and margin at the same step."""
    points: dict[int, dict[str, float]] = {}
    for line in read_jsonl(run / "metrics.jsonl"):
        point = points.setdefault(line["step"], {"step": line["step"]})
        names = {"monitor/nats_per_token": "nats", "validation/accuracy": "accuracy", "validation/margin": "margin"}
        point |= {short: line[name] for name, short in names.items() if name in line}
    return [point for point in points.values() if "nats" in point]


def unseen(models: dict[str, str]) -> dict[str, Any]:
    """Nats per token of what the guard did not see, for each model, and the change from the first (paired texts)."""
    import torch

    texts = [replace(text, text=text.text[SEEN:UNSEEN].strip()) for text in load_prose("starter/prose")[0]]
    found: dict[str, Any] = {}
    first: Any = None
    for name, model in models.items():
        (speaker,) = bn.load_speakers([f"{name}={model_of(model)}"], dtype=torch.float32)
        prose = measure_retention(ModelResponder(speaker), [], texts).prose
        nats, tokens = [record.nats for record in prose], [float(record.tokens) for record in prose]
        mean = bootstrap_mean(nats, weights=tokens)
        found[name] = {"value": mean.value, "low": mean.interval.low, "high": mean.interval.high}
        if first is None:
            first = (nats, tokens)
            continue
        change = paired_difference(first[0], nats, weights=(first[1], tokens), relative=True, higher_is_better=False)
        found[name]["change"] = {"value": change.value, "low": change.interval.low, "high": change.interval.high}
    return found


def draw(points: list[dict[str, float]], bound: float, ended: int | None, kept: int, beta: float, out: Path) -> None:
    """Nats per token and held-out accuracy of the watched run, with the bound, where the guard acted, what it kept."""
    figure, (left, right) = new_figure(2)
    steps = [point["step"] for point in points]
    left.plot(steps, [point["nats"] for point in points], marker="o", markersize=3, color=COLOURS[0])
    left.axhline(bound, color=COLOURS[1], linewidth=1, linestyle="--", label="the guard's bound")
    left.set(xlabel="optimiser step", ylabel="nats per token of held-out prose")
    right.plot(steps, [point["accuracy"] for point in points], marker="o", markersize=3, color=COLOURS[0])
    right.set(xlabel="optimiser step", ylabel="accuracy on held-out pairs", ylim=(0, 1.04))
    for axis in (left, right):
        if ended is not None:
            axis.axvline(ended, color="#333333", linewidth=1, linestyle="--", label="the guard acts")
        axis.axvline(kept, color=COLOURS[2], linewidth=1, linestyle=":", label="what it keeps")
    left.legend(frameon=False, fontsize=8)
    left.set_title(f"DPO, beta {beta:g}", fontsize=9)
    save_figure(figure, out, "alignment_tax")


def main() -> None:
    """The two runs, then the three models on what the guard never saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="takes alignment_tax.json and .png")
    parser.add_argument("--runs", type=Path, default=Path("runs/alignment_tax"))
    parser.add_argument("--beta", type=float, default=0.01)
    parser.add_argument("--max-rise", type=float, default=0.05, help="of nats per token, as a share of the start's")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=2, help="steps between two looks")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    guard = {"nats_per_token": {"max_rise": arguments.max_rise}, "action": "rollback"}
    watched, guarded = train(arguments, "watched", None), train(arguments, "guarded", guard)
    points, record = curves(watched), json.loads((guarded / "run.json").read_text(encoding="utf-8"))
    early = curves(guarded)
    if early != points[: len(early)]:
        raise SystemExit("the two runs differ before the guard acted: that must not be")
    kept = record["metrics"]["model_of_step"]
    ended = early[-1]["step"] if record["metrics"].get("ended_by") == "guard" else None
    tested = unseen({"start": arguments.model, "watched": str(watched), "guarded": str(guarded)})
    print_table(
        ("step", "nats per token", "accuracy", "margin"),
        [[p["step"], f"{p['nats']:.3f}", f"{p['accuracy']:.2f}", f"{p['margin']:.3f}"] for p in points],
    )
    for name, part in tested.items():
        change = part.get("change")
        more = "" if change is None else with_interval(change["value"], change["low"], change["high"], "+.1%")
        print(f"{name}: {with_interval(part['value'], part['low'], part['high'], '.3f')} {more}")
    cost = {name: json.loads((run / "run.json").read_text())["metrics"] for name, run in
            {"watched": watched, "guarded": guarded}.items()}  # fmt: skip
    result = {
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("out", "runs")},
        "points": points,
        "guard_acts_at": ended,
        "kept_step": kept,
        "guard": record["guard"],
        "unseen_text": tested,
        "seconds": {name: round(part["seconds"] + part["monitor_seconds"]) for name, part in cost.items()},
        "monitor_share": {name: part["monitor_share"] for name, part in cost.items()},
    }
    write_result(arguments.out, "alignment_tax", result)
    draw(points, points[0]["nats"] * (1 + arguments.max_rise), ended, kept, arguments.beta, arguments.out)


if __name__ == "__main__":
    main()
