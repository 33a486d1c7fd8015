"""The alignment tax of DPO with too small a beta, the guard that bounds it, and what larger betas pay.

    python examples/alignment_tax.py

DPO on a few pairs, with a beta that hardly holds the policy to its reference. The same run is made twice: once only
watched, to its end, and once with a guard that rolls back. Both are the same to the bit until the guard ends one of
them. Then the same pairs in as many steps with larger betas, without a guard. At the end all models read what of the
held-out texts the guard never saw.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import burnish as bn
from burnish.evaluation.intervals import Rate, bootstrap_mean, paired_difference
from burnish.evaluation.retention import measure_retention
from burnish.evaluation.rows import load_prose
from burnish.rollout.responder import ModelResponder
from burnish.stages.run import model_of
from figures import (
    COLOURS,
    errors_of,
    in_numbers,
    new_figure,
    new_parser,
    print_table,
    read_jsonl,
    read_record,
    save_figure,
    settings_of,
    with_interval,
    write_result,
)

SEEN, UNSEEN = 400, 1000
"""Characters of each held-out text: the guard reads up to the first mark, the comparison at the end from there to the
second."""


def train(
    arguments: argparse.Namespace, name: str, beta: float, *, guard: dict[str, Any] | None = None, looks: bool = True
) -> Path:
    """One run of DPO; beta and the guard are all that differs. Without looks only its end is measured, to save time."""
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
        loss={"name": "sigmoid", "beta": beta},
        eval_every=arguments.every if looks else arguments.steps,
        keep_best=guard is not None,
        monitor={"every": "validation", "parts": ["nats_per_token"], "characters": SEEN} if looks else None,
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
        found[name] = in_numbers(bootstrap_mean(nats, weights=tokens))
        if first is None:
            first = (nats, tokens)
            continue
        change = paired_difference(first[0], nats, weights=(first[1], tokens), relative=True, higher_is_better=False)
        found[name]["change"] = in_numbers(change)
    return found


def against_beta(runs: dict[float, Path], tested: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each beta's last weights the tax (the change of nats per token on unseen text), and how well the held-out
    pairs are told apart: accuracy with Wilson's interval, DPO's margin, and the margin without beta, in nats.

    Args:
        runs: finished runs without a guard, by beta.
        tested: what `unseen` found, by the names that `name_of` gives.
    """
    found = []
    for beta, run in runs.items():
        record = read_record(run)
        metrics, n = record["metrics"], record["data"]["validation"]
        accuracy = Rate(round(metrics["accuracy"] * n), n)
        point = {"beta": beta, "tax": tested[name_of(beta)]["change"], "pairs": n}
        point["accuracy"] = in_numbers(accuracy)
        point |= {"margin": metrics["margin"], "log_ratio": metrics["margin"] / beta, "kl": metrics["kl"]}
        found.append(point)
    return found


def name_of(beta: float) -> str:
    """What a run of a larger beta is called."""
    return f"beta {beta:g}"


def draw(found: dict[str, Any], bound: float, beta: float, out: Path) -> None:
    """Nats per token and held-out accuracy of the watched run, with the bound, where the guard acted, what it kept;
    then the tax against beta."""
    figure, (left, right, last) = new_figure(3)
    points, ended, kept = found["points"], found["guard_acts_at"], found["kept_step"]
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
    _draw_betas(last, found["against_beta"])
    save_figure(figure, out, "alignment_tax")


def _draw_betas(axis: Any, points: list[dict[str, Any]]) -> None:
    """The tax to the left, accuracy on held-out pairs to the right, so that a point of one hides none of the other."""
    accuracy = axis.twinx()
    for place, key, shift, colour in ((axis, "tax", 0.94, COLOURS[0]), (accuracy, "accuracy", 1.06, COLOURS[1])):
        for point in points:
            part = {name: 100 * value for name, value in point[key].items()}
            place.errorbar(
                point["beta"] * shift, part["value"], yerr=errors_of(**part), fmt="o", capsize=3, color=colour
            )
    axis.set_xscale("log")
    betas = [point["beta"] for point in points]
    axis.set_xticks(betas, [f"{beta:g}" for beta in betas])
    axis.minorticks_off()
    axis.set_xlabel("beta")
    axis.set_ylabel("rise of nats per token, % (unseen prose)", color=COLOURS[0])
    accuracy.set_ylabel("accuracy on held-out pairs, %", color=COLOURS[1])
    accuracy.set_ylim(0, 104)
    accuracy.spines[["top", "left"]].set_visible(False)


def main() -> None:
    """The two runs, those of larger betas, then all models on what the guard never saw."""
    parser = new_parser("alignment_tax", __doc__)
    parser.add_argument("--beta", type=float, default=0.01, help="of the watched and of the guarded run")
    parser.add_argument("--larger-betas", type=float, nargs="*", default=[0.1, 0.5], help="without looks or guard")
    parser.add_argument("--max-rise", type=float, default=0.05, help="of nats per token, as a share of the start's")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=2, help="steps between two looks")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    guard = {"nats_per_token": {"max_rise": arguments.max_rise}, "action": "rollback"}
    watched = train(arguments, "watched", arguments.beta)
    guarded = train(arguments, "guarded", arguments.beta, guard=guard)
    points, record = curves(watched), read_record(guarded)
    early = curves(guarded)
    if early != points[: len(early)]:
        raise SystemExit("the two runs differ before the guard acted: that must not be")
    kept = record["metrics"]["model_of_step"]
    ended = early[-1]["step"] if record["metrics"].get("ended_by") == "guard" else None
    larger = {beta: train(arguments, f"beta-{beta:g}", beta, looks=False) for beta in arguments.larger_betas}
    models = {"start": arguments.model, "watched": str(watched), "guarded": str(guarded)}
    tested = unseen(models | {name_of(beta): str(run) for beta, run in larger.items()})
    taxes = against_beta({arguments.beta: watched, **larger}, {name_of(arguments.beta): tested["watched"], **tested})
    print_table(
        ("step", "nats per token", "accuracy", "margin"),
        [[p["step"], f"{p['nats']:.3f}", f"{p['accuracy']:.2f}", f"{p['margin']:.3f}"] for p in points],
    )
    for name, part in tested.items():
        change = part.get("change")
        more = "" if change is None else with_interval(change["value"], change["low"], change["high"], "+.1%")
        print(f"{name}: {with_interval(part['value'], part['low'], part['high'], '.3f')} {more}")
    print_table(
        ("", "rise of nats per token (95 %)", "accuracy (95 %)", "margin", "margin / beta, nats", "KL a token"),
        [
            [
                name_of(point["beta"]),
                with_interval(**point["tax"], form="+.1%"),
                with_interval(**point["accuracy"], form=".0%"),
                f"{point['margin']:.2f}",
                f"{point['log_ratio']:.0f}",
                f"{point['kl']:.2f}",
            ]
            for point in taxes
        ],
    )
    runs = {"watched": watched, "guarded": guarded} | {name_of(beta): run for beta, run in larger.items()}
    cost = {name: read_record(run)["metrics"] for name, run in runs.items()}
    result = {
        "settings": settings_of(arguments),
        "points": points,
        "guard_acts_at": ended,
        "kept_step": kept,
        "guard": record["guard"],
        "unseen_text": tested,
        "against_beta": taxes,
        "seconds": {name: round(part["seconds"] + part.get("monitor_seconds", 0.0)) for name, part in cost.items()},
        "monitor_share": {name: cost[name]["monitor_share"] for name in ("watched", "guarded")},
    }
    write_result(arguments.out, "alignment_tax", result)
    draw(result, points[0]["nats"] * (1 + arguments.max_rise), arguments.beta, arguments.out)


if __name__ == "__main__":
    main()
