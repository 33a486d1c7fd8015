"""Over-optimisation of a learned reward: gold against the KL, the alarm that ends it, an ensemble beside it.

    python examples/overoptimisation.py

Pairs of continuations of film reviews, all written by people, are labelled by a scorer of sentiment. A reward model
learns from few of the labels, some of them wrong, and a policy from that, with nothing to hold it to its start: once
with the alarm told to warn only, and again, the same to the bit, with `on_alarm: rollback`. Beside it stands a policy
on the worst of an ensemble that learned from the same labels. What the alarm listens to is a reward model that rewards
nobody. The gold scorer agrees with the right labels on what people write, but minds repetition and shouting, of which
the pairs show little. It sees the answers of the evaluations afterwards, and Gao, Schulman and Hilton's form (2022,
arXiv:2210.10760) is fitted to it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import burnish as bn
from burnish.evaluation.intervals import bootstrap_mean, paired_difference
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from figures import (
    COLOURS,
    evaluations,
    in_numbers,
    mean_and_error,
    new_figure,
    new_parser,
    print_table,
    read_record,
    save_figure,
    settings_of,
    with_interval,
    write_result,
    write_rows,
)
from gao import GaoFit, fit_gao
from reviews import continue_prompts, make_parts, read_reviews, start_model
from rewards import sentiment, sober_sentiment, varied_sentiment

ONE = "one reward model"
HELD_OUT = "held-out.jsonl"
ANSWERS = 4
"""To each prompt of the last comparison."""
Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]


def make_pairs(rows: list[dict[str, Any]], *, gap: float, seed: int) -> list[dict[str, Any]]:
    """Of each prompt its own continuation against two of other prompts, labelled by sentiment; pairs whose scores are
    less than `gap` apart are left out."""
    rng = random.Random(seed)
    pairs = []
    for row in rows:
        for other in rng.sample(rows, 2):
            first, second = row["completion"], other["completion"]
            pair = varied_sentiment([row["prompt"]] * 2, [first, second])
            if pair[0] != pair[1] and abs(pair[0] - pair[1]) >= gap:
                chosen, rejected = (first, second) if pair[0] > pair[1] else (second, first)
                pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
    return pairs


def with_wrong_labels(pairs: Sequence[dict[str, Any]], share: float, *, seed: int) -> list[dict[str, Any]]:
    """Each pair the other way round with a probability of `share`."""
    rng = random.Random(seed)
    return [
        {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} if rng.random() < share else pair
        for pair in pairs
    ]


def agreement(pairs: Sequence[dict[str, Any]]) -> float:
    """The share of the labels that are those of the gold scorer too; a tie of his agrees with none."""
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (sober_sentiment(prompts, [pair[key] for pair in pairs]) for key in ("chosen", "rejected"))
    return sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)


@dataclass(frozen=True)
class Ground:
    """What the policies stand on.

    Attributes:
        start: the run of the start model.
        pairs: those that are learned from.
        right: how many pairs there were to take from, and the share of their labels that gold gives too.
        scorer: the run of the reward model, whose second member is held back.
        files: `prompts` of the rollouts and `watched` ones.
        test: prompts that nothing has seen before the last comparison.
    """

    start: str
    pairs: Path
    right: dict[str, float]
    scorer: Path
    files: dict[str, str]
    test: list[str]


def prepare(arguments: argparse.Namespace) -> Ground:
    """Start model, labels, reward model; what is there already is taken over."""
    sizes = {"watched": arguments.watched, "test": arguments.test}
    n_prompts = arguments.pairs + arguments.prompts
    parts = make_parts(read_reviews(), sft=arguments.sft, prompts=n_prompts, **sizes, seed=0)
    files = parts.write(arguments.runs / "data", kept_back=arguments.pairs)
    start = start_model(arguments.model, files["sft"], arguments.runs / "sft")
    every = make_pairs(parts.prompts[: arguments.pairs], gap=arguments.gap, seed=0)
    if len(every) < arguments.labels + arguments.held_out:
        raise SystemExit(f"{len(every)} pairs are further apart than --gap: too few; give more --pairs")
    few = with_wrong_labels(every[: arguments.labels], arguments.wrong, seed=1)
    pairs = write_rows(arguments.runs / "few.jsonl", few)
    write_rows(arguments.runs / HELD_OUT, every[-arguments.held_out :])
    scorer = train_scorers(arguments, start, pairs, "reward", members=2, holdout=True)
    right = {"pairs": len(every), "as_gold": agreement(every)}
    return Ground(start, pairs, right, scorer, files, [row["prompt"] for row in parts.test])


def train_scorers(arguments: argparse.Namespace, start: str, pairs: Path, name: str, **settings: Any) -> Path:
    """Reward models on the start model's weights, evaluated on pairs that are held out, with their right labels."""
    config = bn.RewardConfig(
        model=start,
        data=str(pairs),
        validation=str(arguments.runs / HELD_OUT),
        epochs=arguments.epochs,
        out=arguments.runs / name,
        template="none",
        lora={"layers": arguments.layers},
        learning_rate=arguments.reward_learning_rate,
        dtype="float32",
        **settings,
    )
    return bn.train_reward(config).out


def train_policy(arguments: argparse.Namespace, start: str, files: dict[str, str], name: str, **settings: Any) -> Path:
    """A policy whose KL costs nothing."""
    config = PPOConfig(
        model=start,
        data=files["prompts"],
        validation=files["watched"],
        evaluation_prompts=arguments.watched,
        out=arguments.runs / name,
        template="none",
        advantage="rloo",
        rollout_size=16,
        batch_size=4,
        update_epochs=2,
        max_rollouts=arguments.rollouts,
        **sampling_of(arguments),
        kl_coefficient=0.0,
        learning_rate=arguments.learning_rate,
        lora={"layers": arguments.layers},
        schedule="constant",
        missing_eos_penalty=arguments.missing_eos_penalty,
        eval_every=arguments.eval_every,
        alarm={"kl_budget": arguments.kl_budget},
        seed=arguments.seed,
        dtype="float32",
        **settings,
    )
    return train_ppo(config).out


def curves(run: Path) -> tuple[list[dict[str, float]], GaoFit | None]:
    """Of each evaluation the step, proxy, held-out reward, gold and KL, with standard errors; the fit to gold."""
    found = []
    golds, nats = [], []
    for step, lines in evaluations(run):
        gold = sober_sentiment([x["prompt"] for x in lines], [x["response"] for x in lines])
        point: dict[str, float] = {"step": step}
        series = {"gold": gold} | {
            name: [float(x[key]) for x in lines]
            for name, key in (("proxy", "score"), ("held_out", "judge"), ("kl", "kl"), ("ends", "finished"))
        }
        for name, values in series.items():
            point[name], point[f"{name}_se"] = mean_and_error(values)
        found.append(point)
        golds.append(gold)
        nats.append(series["kl"])
    return found, fit_gao(nats, golds)


def verdict(points: list[dict[str, float]], alarm: int | None) -> dict[str, Any]:
    """How much of the gold reward's gain was lost when the alarm went off, and at the end."""
    start, best = points[0]["gold"], max(points, key=lambda point: point["gold"])
    gain = best["gold"] - start

    def lost(point: dict[str, float]) -> float | None:
        return (best["gold"] - point["gold"]) / gain if gain > 0 and point["step"] >= best["step"] else None

    at = next((point for point in points if point["step"] == alarm), None)
    found = {"gold_start": start, "gold_best": best["gold"], "gold_best_step": best["step"], "alarm_step": alarm}
    found |= {"gold_last": points[-1]["gold"], "lost_at_end": lost(points[-1])}
    return found | ({} if at is None else {"gold_at_alarm": at["gold"], "lost_at_alarm": lost(at)})


def first_alarm(run: Path) -> dict[str, Any] | None:
    """The first alarm of a run that is more than a warning, with its rules' sentences."""
    for entry in read_record(run).get("alarms", []):
        findings = [finding for finding in entry["findings"] if finding["severity"] == "alarm"]
        if findings:
            return {"step": entry["step"], "findings": findings}
    return None


def draw(found: dict[str, dict[str, Any]], alarm: int | None, kept: int, out: Path) -> None:
    """What the policy on one reward model earns, step by step; gold against the root of the KL, with the fits."""
    figure, (left, middle, right) = new_figure(3, width=4.4)
    points = found[ONE]["points"]
    steps = [point["step"] for point in points]
    named = {"proxy": "proxy (trained on)", "held_out": "held-out reward model", "gold": "gold"}
    for colour, (name, label) in zip(COLOURS, named.items(), strict=False):
        axis = middle if name == "gold" else left
        axis.plot(steps, [point[name] for point in points], color=colour, label=label)
        low, high = ([p[name] + sign * 1.96 * p[f"{name}_se"] for p in points] for sign in (-1, 1))
        axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    for axis in (left, middle):
        if alarm is not None:
            label = "alarm; its model is kept" if alarm == kept else "alarm"
            axis.axvline(alarm, color="#333333", linewidth=1, linestyle="--", label=label)
        if alarm != kept:
            axis.axvline(kept, color=COLOURS[3], linewidth=1, linestyle=":", label="rolled back to")
        axis.set(xlabel="optimiser step")
        axis.legend(frameon=False, fontsize=8)
    left.set(ylabel="mean score of the reward models")
    middle.set(ylabel="gold reward")
    for colour, (name, part) in zip((COLOURS[2], COLOURS[0], COLOURS[-1]), found.items(), strict=False):
        own = part["points"]
        distance = [math.sqrt(max(point["kl"], 0.0)) for point in own]
        gain = [point["gold"] - own[0]["gold"] for point in own]
        errors = [point["gold_se"] for point in own]
        right.errorbar(distance, gain, yerr=errors, fmt="o", markersize=3, linewidth=0.8, color=colour, label=name)
        if part["fit"] is not None:
            fit = GaoFit(**part["fit"])
            grid = [max(distance) * i / 100 for i in range(101)]
            right.plot(grid, [fit(d) for d in grid], color=colour)
    right.set(xlabel="square root of the KL (nats a response)", ylabel="gold reward gained")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(figure, out, "overoptimisation")


def compare(models: dict[str, str], prompts: list[str], **sampling: Any) -> dict[str, Any]:
    """The gold reward of each model on prompts that nothing has seen before, the mean of `ANSWERS` to each; how far it
    is from that of the model that was rolled back, on the same prompts; the plain sentiment; three answers."""
    found: dict[str, dict[str, Any]] = {}
    said = {
        name: [[one.text for one in own] for own in continue_prompts(model, prompts, n=ANSWERS, seed=1, **sampling)]
        for name, model in models.items()
    }
    gold = {name: mean_scores(sober_sentiment, prompts, texts) for name, texts in said.items()}
    for name, texts in said.items():
        found[name] = {
            "gold": in_numbers(bootstrap_mean(gold[name])),
            "against_rolled_back": in_numbers(paired_difference(gold["rolled back"], gold[name])),
            "sentiment": in_numbers(bootstrap_mean(mean_scores(sentiment, prompts, texts))),
            "examples": [own[0] for own in texts[:3]],
        }
    return found


def mean_scores(scorer: Scorer, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """Of each prompt the mean score of its answers."""
    return [fmean(scorer([prompt] * len(own), own)) for prompt, own in zip(prompts, texts, strict=True)]


def parser_of_ground(name: str, description: str | None) -> argparse.ArgumentParser:
    """What the start, the labels and the reward models depend on; they lie in one place, whoever made them."""
    parser = new_parser(name, description)
    parser.set_defaults(runs=Path("runs/overoptimisation"))
    parser.add_argument("--sft", type=int, default=640, help="reviews of the start model's SFT")
    parser.add_argument("--pairs", type=int, default=672, help="prompts of the pairs")
    parser.add_argument("--gap", type=float, default=0.4, help="how far apart a pair's scores are at least")
    parser.add_argument("--labels", type=int, default=240, help="pairs that are learned from")
    parser.add_argument("--wrong", type=float, default=0.1, help="the share of their labels that is wrong")
    parser.add_argument("--held-out", type=int, default=96, help="pairs on which reward models are evaluated")
    parser.add_argument("--epochs", type=int, default=4, help="of the reward models")
    parser.add_argument("--layers", default="last-10", help="that reward models and policies train: all, or last-N")
    parser.add_argument("--reward-learning-rate", type=float, default=5e-4)
    parser.add_argument("--prompts", type=int, default=640, help="kept for the policies' rollouts")
    parser.add_argument("--watched", type=int, default=64, help="held-out prompts of the evaluations")
    parser.add_argument("--test", type=int, default=128, help="prompts of the last comparison, seen by nothing before")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the policies, at which answers end")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="room enough to run on")
    parser.add_argument(
        "--missing-eos-penalty",
        type=float,
        default=3.0,
        help="more than the score can gain: otherwise answers stop ending, and that alarm goes off before any other",
    )
    return parser


def sampling_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """How all models answer."""
    return {"temperature": arguments.temperature, "max_new_tokens": arguments.max_new_tokens}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of_ground("overoptimisation", __doc__)
    parser.add_argument("--members", type=int, default=3, help="of the ensemble")
    parser.add_argument("--rollouts", type=int, default=32, help="of 16 prompts, four answers to each")
    parser.add_argument("--only-alarm", action="store_true", help="leave out the ensemble")
    parser.add_argument("--eval-every", type=int, default=1, help="in rollouts")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--kl-budget", type=float, default=10.0, help="nats a response; beyond it the alarm goes off")
    parser.add_argument("--seed", type=int, default=1, help="of the policies' sampling")
    return parser.parse_args()


def main() -> None:
    """The ground, the policies, and their models on test prompts."""
    arguments = parse()
    ground = prepare(arguments)
    start, files = ground.start, ground.files
    warn = {"on_alarm": "warn", "keep_best": False}
    warned = train_policy(arguments, start, files, "warned", reward=str(ground.scorer), **warn)
    rolled = train_policy(arguments, start, files, "rolled-back", reward=str(ground.scorer), on_alarm="rollback")
    runs, scorers = {ONE: warned}, {ONE: ground.scorer}
    if not arguments.only_alarm:
        name = f"worst of {arguments.members}"
        scorers[name] = train_scorers(arguments, start, ground.pairs, "ensemble", members=arguments.members, seed=1)
        judge = str(ground.scorer / "model" / "member-2")
        worst = {"reward": str(scorers[name]), "ensemble": "worst", "judge": judge}
        runs[name] = train_policy(arguments, start, files, "on-ensemble", **worst, **warn)

    found: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        points, fit = curves(run)
        alarm = first_alarm(run)
        told = verdict(points, None if alarm is None else int(alarm["step"]))
        found[name] = {"points": points, "fit": None if fit is None else asdict(fit), "alarm": alarm, "verdict": told}
        keys = ("step", "proxy", "held_out", "gold", "kl", "ends")
        print_table((name, *keys[1:]), [[p["step"], *(f"{p[key]:.2f}" for key in keys[1:])] for p in points])
        print(json.dumps({"verdict": told, "fit": found[name]["fit"]}, indent=2))
    kept = int(read_record(rolled)["metrics"]["model_of_step"])
    models = {"start": start, "rolled back": rolled, **{f"{name}, never stopped": run for name, run in runs.items()}}
    tested = compare({k: str(v) for k, v in models.items()}, ground.test, **sampling_of(arguments))
    print_table(("on test prompts", "gold"), [[name, with_interval(**part["gold"])] for name, part in tested.items()])
    print("never stopped against rolled back:", with_interval(**tested[f"{ONE}, never stopped"]["against_rolled_back"]))
    accuracy = {
        name: json.loads((run / "model" / "evaluation.json").read_text(encoding="utf-8"))["accuracy"]
        for name, run in scorers.items()
    }
    result = {"settings": settings_of(arguments), "labels": ground.right, "reward_model_accuracy": accuracy}
    write_result(arguments.out, "overoptimisation", {**result, "rolled_back_to": kept, "runs": found, "test": tested})
    alarm = found[ONE]["alarm"]
    draw(found, None if alarm is None else int(alarm["step"]), kept, arguments.out)


if __name__ == "__main__":
    main()
