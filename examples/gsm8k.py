"""A verifiable reward: is the number after `####` the right one? RLOO on GSM8K, end to end.

    python examples/gsm8k.py --data gsm8k

It shows that such a run works, not that a model of 135 M parameters learns arithmetic: a short SFT teaches the form
of the answers, a few rollouts follow.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import statistics
from pathlib import Path
from typing import Any

import burnish as bn
from burnish.evaluation.intervals import Rate, bootstrap_mean
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from figures import (
    COLOURS,
    errors_of,
    evaluations,
    in_numbers,
    new_figure,
    new_parser,
    print_table,
    read_jsonl,
    save_figure,
    with_interval,
    write_result,
    write_rows,
)
from rewards import final_number

REWARDS = Path(__file__).with_name("rewards.py")
INSTRUCTION = "Solve it in a few short lines. End with #### and the number."
MOST_WORDS = 45
"""Of a solution: longer problems are left out, so that answers fit into the limit of tokens."""


def read_problems(path: Path) -> list[dict[str, str]]:
    """GSM8K's rows whose solution is short, with `<<...>>` taken out of it."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    problems = [problem(row) for row in rows]
    return [row for row in problems if len(row["answer"].split()) <= MOST_WORDS]


def problem(row: dict[str, str]) -> dict[str, str]:
    """A prompt with its worked answer."""
    answer = re.sub(r"<<[^>]*>>", "", row["answer"]).strip()
    return {"prompt": f"{row['question'].strip()}\n{INSTRUCTION}", "answer": answer}


def find(directory: Path, name: str) -> Path:
    """`NAME.jsonl` or `NAME.jsonl.gz` in the directory."""
    for path in (directory / f"{name}.jsonl", directory / f"{name}.jsonl.gz"):
        if path.is_file():
            return path
    raise SystemExit(f"{directory} has no {name}.jsonl and no {name}.jsonl.gz")


def summarise(lines: list[dict[str, Any]], answers: dict[str, str]) -> dict[str, Any]:
    """Reward, share in the form, share that is right, with intervals."""
    said = [final_number(line["response"]) for line in lines]
    right = [number == final_number(answers[line["prompt"]]) for number, line in zip(said, lines, strict=True)]
    found: dict[str, Any] = {"reward": in_numbers(bootstrap_mean([line["score"] for line in lines]))}
    for name, hits in (("format", [number is not None for number in said]), ("right", right)):
        found[name] = in_numbers(Rate.of(hits))
    found["tokens"] = statistics.fmean(line["tokens"] for line in lines)
    return found


def draw(found: dict[str, dict[str, Any]], curve: list[float], out: Path) -> None:
    """Before and after on held-out problems; the reward of each rollout."""
    figure, (left, right) = new_figure(2)
    for shift, (moment, colour) in zip((-0.17, 0.17), (("before", COLOURS[-1]), ("after", COLOURS[0])), strict=True):
        for place, name in enumerate(("reward", "format", "right")):
            value = found[moment][name]
            error = errors_of(**value)
            label = moment if place == 0 else None
            left.bar(place + shift, value["value"], 0.3, yerr=error, capsize=3, color=colour, label=label)
    left.set_xticks(range(3), ["reward", "format", "right"])
    left.set_title("held-out problems", fontsize=9)
    left.legend(frameon=False)
    right.plot(range(1, len(curve) + 1), curve, "o-", color=COLOURS[0], markersize=3)
    right.set(xlabel="rollout", ylabel="mean score of the rollout")
    save_figure(figure, out, "gsm8k")


def main() -> None:
    """Form by SFT, then RLOO on the verifiable reward."""
    parser = new_parser("gsm8k", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="a directory with train.jsonl and test.jsonl (.gz)")
    parser.add_argument("--sft", type=int, default=400, help="worked answers of the SFT; 0 for none")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    arguments = parser.parse_args()
    training, test = (read_problems(find(arguments.data, name)) for name in ("train", "test"))
    for rows in (training, test):
        random.Random(0).shuffle(rows)
    test = test[: arguments.test]
    if arguments.sft:
        worked = [{"prompt": row["prompt"], "completion": row["answer"]} for row in training[: arguments.sft]]
        sft = bn.SFTConfig(
            model=arguments.model,
            data=str(write_rows(arguments.runs / "sft.jsonl", worked)),
            out=arguments.runs / "sft",
            learning_rate=3e-4,
            dtype="float32",
        )
        arguments.model = str(bn.train_sft(sft).out)
    prompts = training[arguments.sft : arguments.sft + 16 * arguments.rollouts]
    config = PPOConfig(
        model=arguments.model,
        data=str(write_rows(arguments.runs / "prompts.jsonl", prompts)),
        validation=str(write_rows(arguments.runs / "test.jsonl", test)),
        evaluation_prompts=arguments.test,
        out=arguments.runs / "rloo",
        reward=f"{REWARDS}:gsm8k",
        advantage="rloo",
        responses=4,
        rollout_size=16,
        batch_size=4,
        update_epochs=1,
        max_rollouts=arguments.rollouts,
        max_new_tokens=arguments.max_new_tokens,
        missing_eos_penalty=0.1,
        kl_coefficient=0.01,
        learning_rate=1e-4,
        eval_every=100_000,
        keep_best=False,
        dtype="float32",
    )
    result = train_ppo(config)
    answers = {row["prompt"]: row["answer"] for row in test}
    (_, before), *_, (_, after) = evaluations(result.out)
    found = {"before": summarise(before, answers), "after": summarise(after, answers)}
    metrics = read_jsonl(result.out / "metrics.jsonl")
    curve = [line["score"] for line in metrics if "rollout" in line]
    keys = ("reward", "format", "right")
    print_table(("", *keys), [[name, *(with_interval(**part[key]) for key in keys)] for name, part in found.items()])
    settings = {"sft": arguments.sft, "rollouts": arguments.rollouts, "test": len(test)}
    seconds = round(result.metrics["seconds"])
    write_result(arguments.out, "gsm8k", {"settings": settings, **found, "rollouts": curve, "seconds": seconds})
    draw(found, curve, arguments.out)


if __name__ == "__main__":
    main()
