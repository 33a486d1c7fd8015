"""Controlled sentiment: PPO, RLOO and GRPO teach a model that goes on with film reviews to be kind.

    python examples/sentiment.py

The reward is VADER's compound score of the continuation. Each algorithm runs with every seed from the same start; the
figures are those of the last weights, on held-out prompts that decide nothing.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import burnish as bn
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from figures import (
    COLOURS,
    errors_of,
    evaluations,
    new_figure,
    new_parser,
    print_table,
    save_figure,
    two_way_mean,
    with_interval,
    write_result,
)
from reviews import MAX_NEW_TOKENS, make_parts, read_reviews, start_model

REWARDS = Path(__file__).with_name("rewards.py")
ROLLOUT = 64
"""Responses of a rollout, whatever the algorithm."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "PPO": {"advantage": "gae", "rollout_size": ROLLOUT, "batch_size": 16, "update_epochs": 2, "critic_warmup": 1},
    "RLOO": {"advantage": "rloo", "rollout_size": ROLLOUT // 4, "batch_size": 4, "update_epochs": 2},
    "GRPO": {
        "advantage": "grpo",
        "rollout_size": ROLLOUT // 4,
        "batch_size": 4,
        "update_epochs": 2,
        "kl_in": "loss",
        "kl_estimator": "k3",
    },
}
SHARED: dict[str, Any] = {
    "template": "none",
    "max_new_tokens": MAX_NEW_TOKENS,
    "sampling_batch": ROLLOUT,
    "kl_coefficient": 0.02,
    "learning_rate": 2e-4,
    "eval_every": 100_000,
    "keep_best": False,
    "dtype": "float32",
}


def run_one(arguments: argparse.Namespace, name: str, start: str, files: dict[str, str], seed: int) -> dict[str, Any]:
    """One algorithm with one seed: what was answered before and after."""
    settings = {**SHARED, **ALGORITHMS[name], "max_rollouts": arguments.rollouts, "seed": seed}
    config = PPOConfig(
        model=start,
        data=files["prompts"],
        validation=files["test"],
        evaluation_prompts=arguments.test,
        reward=f"{REWARDS}:sentiment",
        out=arguments.runs / f"{name.lower()}-{seed}",
        **settings,
    )
    result = train_ppo(config)
    (_, before), *_, (step, after) = evaluations(result.out)
    seconds = round(result.metrics["seconds"])
    return {"seed": seed, "steps": step, "seconds": seconds, "before": before, "after": after}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Gold before and after, KL, length and share that end, over seeds and prompts."""
    found: dict[str, Any] = {
        moment: two_way_mean([[line["score"] for line in run[moment]] for run in runs])
        for moment in ("before", "after")
    }
    gains = [[b["score"] - a["score"] for a, b in zip(run["before"], run["after"], strict=True)] for run in runs]
    found["gain"] = two_way_mean(gains)
    found["kl"] = two_way_mean([[line["kl"] for line in run["after"]] for run in runs])
    found["seeds"] = [statistics.fmean(line["score"] for line in run["after"]) for run in runs]
    for name, key in (("length", "tokens"), ("ends", "finished")):
        found[name] = {m: statistics.fmean(float(x[key]) for run in runs for x in run[m]) for m in ("before", "after")}
    found["seconds"] = [run["seconds"] for run in runs]
    found["examples"] = [
        {"prompt": a["prompt"], "before": a["response"], "after": b["response"]}
        for a, b in list(zip(runs[0]["before"], runs[0]["after"], strict=True))[:3]
    ]
    return found


def draw(found: dict[str, Any], out: Path) -> None:
    """Gold reward before and after, and against the KL it cost."""
    figure, (left, right) = new_figure(2)
    for place, (name, part) in enumerate(found.items()):
        for shift, moment, colour in ((-0.17, "before", COLOURS[-1]), (0.17, "after", COLOURS[place])):
            value = part[moment]
            error = errors_of(value["value"], value["low"], value["high"])
            left.bar(place + shift, value["value"], 0.3, yerr=error, capsize=3, color=colour)
        left.plot([place + 0.17] * len(part["seeds"]), part["seeds"], "k.", markersize=4)
        after, kl = part["after"], part["kl"]
        right.errorbar(
            kl["value"],
            after["value"],
            xerr=errors_of(kl["value"], kl["low"], kl["high"]),
            yerr=errors_of(after["value"], after["low"], after["high"]),
            fmt="o",
            capsize=3,
            color=COLOURS[place],
            label=name,
        )
    left.set_xticks(range(len(found)), list(found))
    left.set(ylabel="VADER compound", title="before (grey) and after; dots: seeds")
    right.set(xlabel="KL from the start, nats a response", ylabel="VADER compound")
    right.legend(frameon=False)
    save_figure(figure, out, "sentiment")


def main() -> None:
    """Data, start model, three algorithms, several seeds."""
    parser = new_parser("sentiment", __doc__)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=list(ALGORITHMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=12)
    parser.add_argument("--sft", type=int, default=1600, help="reviews of the start model's SFT")
    parser.add_argument("--test", type=int, default=128, help="held-out prompts")
    arguments = parser.parse_args()
    needed = ROLLOUT * arguments.rollouts
    parts = make_parts(read_reviews(), sft=arguments.sft, prompts=needed, watched=2, test=arguments.test, seed=0)
    files = parts.write(arguments.runs / "data")
    start = start_model(arguments.model, files["sft"], arguments.runs / "sft")
    found = {
        name: summarise([run_one(arguments, name, start, files, seed) for seed in range(arguments.seeds)])
        for name in arguments.algorithms
    }
    header = ("", "before (95 %)", "after (95 %)", "gain (95 %)", "KL (95 %)", "ends", "seconds a run")
    rows = []
    for name, part in found.items():
        cells = [with_interval(**part[key]) for key in ("before", "after", "gain", "kl")]
        ends = f"{part['ends']['before']:.0%} to {part['ends']['after']:.0%}"
        rows.append([name, *cells, ends, f"{statistics.fmean(part['seconds']):.0f}"])
    print_table(header, rows)
    settings = {"model": arguments.model, "seeds": arguments.seeds, "rollouts": arguments.rollouts}
    settings |= {"sft": arguments.sft, "test": arguments.test, "shared": SHARED, "algorithms": ALGORITHMS}
    write_result(arguments.out, "sentiment", {"burnish": bn.__version__, "settings": settings, "results": found})
    draw(found, arguments.out)


if __name__ == "__main__":
    main()
