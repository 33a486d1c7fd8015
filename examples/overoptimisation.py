"""Over-optimisation: a reward model of few noisy labels, no price on the KL, and the alarm that ends it.

    python examples/overoptimisation.py

Pairs of continuations of film reviews, all written by people, are labelled by a gold scorer (that may err at times); an
ensemble learns from them, its last member being kept back to judge. The policy is trained on the others with the alarm
told to warn only, then again, to the same bits, with `on_alarm: rollback`. The gold scorer sees the answers of
the evaluations afterwards, and has no part in the alarm unless `--judge gold` says so.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import burnish as bn
from burnish.evaluation.intervals import bootstrap_mean
from burnish.stages.config import PPOConfig
from burnish.stages.ppo import train_ppo
from figures import (
    COLOURS,
    evaluations,
    mean_and_error,
    new_figure,
    print_table,
    read_jsonl,
    save_figure,
    write_result,
    write_rows,
)
from reviews import MAX_NEW_TOKENS, continue_prompts, make_parts, read_reviews, start_model
from rewards import varied_sentiment

REWARDS = Path(__file__).with_name("rewards.py")
GOLD = "varied_sentiment"


def flip_labels(scores: list[tuple[float, float]], noise: float, *, seed: int) -> list[bool]:
    """Of each pair whether the first is called better: the higher score, with probability `noise` the other."""
    rng = random.Random(seed)
    return [(first > second) != (rng.random() < noise) for first, second in scores]


def make_pairs(rows: list[dict[str, Any]], path: Path, *, gap: float, noise: float, seed: int) -> Path:
    """Of each prompt its own continuation against two of other prompts, labelled by the gold scorer with noise; pairs
    whose gold scores are less than `gap` apart are left out."""
    rng = random.Random(seed)
    kept, scores = [], []
    for row in rows:
        for other in rng.sample(rows, 2):
            first, second = row["completion"], other["completion"]
            pair = varied_sentiment([row["prompt"]] * 2, [first, second])
            if first != second and pair[0] != pair[1] and abs(pair[0] - pair[1]) >= gap:
                kept.append((row["prompt"], first, second))
                scores.append((pair[0], pair[1]))
    pairs = []
    for (prompt, first, second), better in zip(kept, flip_labels(scores, noise, seed=seed), strict=True):
        chosen, rejected = (first, second) if better else (second, first)
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return write_rows(path, pairs)


def train(arguments: argparse.Namespace, start: str, reward: str, files: dict[str, str], on_alarm: str) -> Path:
    """The policy on the ensemble's members, evaluated after every rollout."""
    config = PPOConfig(
        model=start,
        data=files["prompts"],
        validation=files["watched"],
        evaluation_prompts=arguments.watched,
        reward=reward,
        judge=f"{REWARDS}:{GOLD}" if arguments.judge == "gold" else None,
        out=arguments.runs / f"{on_alarm}-{arguments.judge}",
        template="none",
        advantage="rloo",
        rollout_size=16,
        batch_size=4,
        update_epochs=2,
        max_rollouts=arguments.rollouts,
        max_new_tokens=MAX_NEW_TOKENS,
        kl_coefficient=0.0,
        learning_rate=arguments.learning_rate,
        lora={"layers": arguments.layers},
        schedule="constant",
        missing_eos_penalty=1.0,  # without it answers stop ending first, and that alarm goes off before any other
        eval_every=arguments.eval_every,
        on_alarm=on_alarm,
        keep_best=on_alarm == "rollback",
        alarm={"kl_budget": arguments.kl_budget},
        seed=0,
        dtype="float32",
    )
    return train_ppo(config).out


def curves(run: Path) -> list[dict[str, float]]:
    """Of each evaluation the step, proxy, what the judge said, gold, KL."""
    found = []
    for step, lines in evaluations(run):
        gold = varied_sentiment([x["prompt"] for x in lines], [x["response"] for x in lines])
        point: dict[str, float] = {"step": step}
        series = {"proxy": [x["score"] for x in lines], "gold": gold, "kl": [x["kl"] for x in lines]}
        if "judge" in lines[0]:
            series["judge"] = [x["judge"] for x in lines]
        for name, values in series.items():
            point[name], point[f"{name}_se"] = mean_and_error(values)
        found.append(point)
    return found


def held_out_member(run: Path, reward: str, points: list[dict[str, float]]) -> None:
    """Adds the held-back member's mean score to the points of a run that it did not judge."""
    lines = [line for _, part in evaluations(run) for line in part]
    rows = [{"prompt": x["prompt"], "completion": f" {x['response'] or '.'}"} for x in lines]
    scored = bn.score_data(reward, str(write_rows(run / "answers.jsonl", rows)))
    own = scored.members[-1, :, 0].tolist()
    size = len(own) // len(points)
    for i, point in enumerate(points):
        point["member"], point["member_se"] = mean_and_error(own[i * size : (i + 1) * size])


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
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for entry in record.get("alarms", []):
        findings = [finding for finding in entry["findings"] if finding["severity"] == "alarm"]
        if findings:
            return {"step": entry["step"], "findings": findings}
    return None


def draw(points: list[dict[str, float]], alarm: int | None, kept: int, out: Path) -> None:
    """Proxy, held-out member and gold against the step, with the alarm and the step that is rolled back to."""
    figure, (left, right) = new_figure(2, width=5.2)
    named = {"proxy": "proxy (trained on)", "member": "held-out member", "gold": "gold"}
    steps = [point["step"] for point in points]
    for place, (name, label) in enumerate(named.items()):
        values = [point[name] for point in points]
        low, high = ([p[name] + sign * 1.96 * p[f"{name}_se"] for p in points] for sign in (-1, 1))
        axis = right if name == "gold" else left
        axis.plot(steps, values, color=COLOURS[place], label=label)
        axis.fill_between(steps, low, high, color=COLOURS[place], alpha=0.15, linewidth=0)
    for axis in (left, right):
        if alarm is not None:
            axis.axvline(alarm, color="#333333", linewidth=1, linestyle="--", label="alarm")
        axis.axvline(kept, color=COLOURS[2], linewidth=1, linestyle=":", label="rolled back to")
        axis.set(xlabel="optimiser step")
        axis.legend(frameon=False, fontsize=8)
    left.set(ylabel="mean score of the reward models")
    right.set(ylabel="gold reward")
    save_figure(figure, out, "overoptimisation")


def main() -> None:
    """Start model, noisy labels, ensemble, the two runs, three models on test prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="takes overoptimisation.json and .png")
    parser.add_argument("--runs", type=Path, default=Path("runs/overoptimisation"))
    parser.add_argument("--judge", choices=("member", "gold"), default="member", help="what the alarm listens to")
    parser.add_argument("--pairs", type=int, default=400, help="prompts of the pairs; ties are left out")
    parser.add_argument("--gap", type=float, default=0.0, help="how far apart a pair's gold scores are at least")
    parser.add_argument("--noise", type=float, default=0.25, help="the share of wrong labels")
    parser.add_argument("--layers", default="all", help="that reward model and policy train: all, or last-N")
    parser.add_argument("--members", type=int, default=3, help="of the ensemble; the last one judges")
    parser.add_argument("--reward-epochs", type=int, default=2)
    parser.add_argument("--reward-learning-rate", type=float, default=2e-4)
    parser.add_argument("--rollouts", type=int, default=40)
    parser.add_argument("--eval-every", type=int, default=2, help="in rollouts")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--kl-budget", type=float, default=25.0)
    parser.add_argument("--sft", type=int, default=1600)
    parser.add_argument("--watched", type=int, default=64, help="held-out prompts of the evaluations")
    parser.add_argument("--test", type=int, default=128, help="prompts of the last comparison, seen by nothing before")
    arguments = parser.parse_args()
    sizes = {"watched": arguments.watched, "test": arguments.test}
    n_prompts = arguments.pairs + 16 * arguments.rollouts
    parts = make_parts(read_reviews(), sft=arguments.sft, prompts=n_prompts, **sizes, seed=0)
    files = parts.write(arguments.runs / "data")
    write_rows(Path(files["prompts"]), [{"prompt": row["prompt"]} for row in parts.prompts[arguments.pairs :]])
    start = start_model(arguments.model, files["sft"], arguments.runs / "sft")
    labelled = parts.prompts[: arguments.pairs]
    pairs = make_pairs(labelled, arguments.runs / "pairs.jsonl", gap=arguments.gap, noise=arguments.noise, seed=0)
    ensemble = bn.RewardConfig(
        model=start,
        data=str(pairs),
        out=arguments.runs / "reward",
        template="none",
        members=arguments.members,
        holdout=True,
        lora={"layers": arguments.layers},
        epochs=arguments.reward_epochs,
        validation=0.1,
        learning_rate=arguments.reward_learning_rate,
        dtype="float32",
    )
    reward = str(bn.train_reward(ensemble).out)
    watched = train(arguments, start, reward, files, "warn")
    rolled = train(arguments, start, reward, files, "rollback")
    points, alarm = curves(watched), first_alarm(watched)
    if arguments.judge == "gold":
        held_out_member(watched, reward, points)
    else:
        for point in points:
            point["member"], point["member_se"] = point["judge"], point["judge_se"]
    record = json.loads((rolled / "run.json").read_text(encoding="utf-8"))
    kept = int(record["metrics"]["model_of_step"])
    step = None if alarm is None else int(alarm["step"])
    found = verdict(points, step) | {"rolled_back_to": kept}
    prompts = [row["prompt"] for row in parts.test]
    finals: dict[str, Any] = {}
    for name, model in {"start": start, "rolled back": str(rolled), "no alarm": str(watched)}.items():
        said = [one.text for (one,) in continue_prompts(model, prompts, n=1, seed=1)]
        gold = bootstrap_mean(varied_sentiment(prompts, said))
        finals[name] = {"gold": gold.value, "low": gold.interval.low, "high": gold.interval.high, "examples": said[:3]}
    keys = ("step", "proxy", "member", "gold", "kl")
    print_table(keys, [[point["step"], *(f"{point[key]:.2f}" for key in keys[1:])] for point in points])
    print(json.dumps(found, indent=2))
    print_table(("on test prompts", "gold"), [[name, f"{part['gold']:.2f}"] for name, part in finals.items()])
    n_pairs = len(read_jsonl(pairs))
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "runs")} | {"pairs_kept": n_pairs}
    evaluation = json.loads((Path(reward) / "model" / "evaluation.json").read_text(encoding="utf-8"))
    accuracy = {"reward_model_accuracy": evaluation["accuracy"]}
    result = {"settings": settings, **accuracy, "verdict": found, "alarm": alarm, "points": points, "test": finals}
    write_result(arguments.out, "overoptimisation", result)
    draw(points, step, kept, arguments.out)


if __name__ == "__main__":
    main()
