"""PPO against DPO on the same preferences, as in Xu et al. 2024 (arXiv:2404.10719): who earns more of the gold reward?

    python examples/ppo_against_dpo.py

Start model, pairs and reward model are those of overoptimisation.py (and shared with it): what people wrote, labelled
by a scorer of sentiment, a tenth of the labels wrong. DPO learns from the pairs, PPO from the reward model that learned
from them. The paper finds that DPO suffers where the pairs are not the model's own answers. Its two remedies stand
beside it: SFT on the chosen responses before (section 4.2), and one round of DPO on the model's own answers, ranked by
the reward model (iterative DPO).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import burnish as bn
from burnish.evaluation.intervals import paired_difference
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from figures import (
    COLOURS,
    errors_of,
    in_numbers,
    new_figure,
    once,
    print_table,
    read_jsonl,
    save_figure,
    settings_of,
    with_interval,
    write_result,
    write_rows,
)
from frontier import (
    Line,
    best_against_worst,
    chosen_alone,
    ended_texts,
    measure,
    point_of,
    ppo_like_sentiment,
    seconds_of,
    train_dpo,
)
from overoptimisation import Ground, parser_of_ground, prepare, sampling_of
from reviews import continue_prompts, start_model
from rewards import sober_sentiment
from sentiment import ROLLOUT


def ppo_config(arguments: argparse.Namespace, ground: Ground) -> PPOConfig:
    """PPO on the reward model, at a price of the KL."""
    return ppo_like_sentiment(
        arguments,
        model=ground.start,
        data=ground.files["prompts"],
        validation=ground.files["watched"],
        evaluation_prompts=arguments.watched,
        reward=str(ground.scorer),
        out=arguments.own / "ppo",
        critic_head="zero",
        max_rollouts=arguments.ppo_rollouts,
        missing_eos_penalty=arguments.missing_eos_penalty,
        kl_coefficient=arguments.kl_coefficient,
        **sampling_of(arguments),
    )


def own_pairs(arguments: argparse.Namespace, ground: Ground) -> dict[str, Any]:
    """Pairs of the start model's own answers, ranked by the reward model, and what they cost; made once."""
    sampling = sampling_of(arguments)
    prompts = list(dict.fromkeys(row["prompt"] for row in read_jsonl(ground.pairs)))[: arguments.own_prompts]

    def make() -> dict[str, Any]:
        began = time.perf_counter()
        texts = ended_texts(continue_prompts(ground.start, prompts, n=arguments.samples, seed=1, **sampling))
        asked = zip(prompts, texts, strict=True)
        rows = [{"prompt": prompt, "completion": f" {text}"} for prompt, own in asked for text in own]
        scored = bn.score_data(str(ground.scorer), str(write_rows(arguments.own / "own.jsonl", rows)))
        scores = iter(scored.scores[:, 0].tolist())
        ranked = [[next(scores) for _ in own] for own in texts]
        pairs = best_against_worst(prompts, texts, ranked, gap=0.0)
        file = write_rows(arguments.own / "own-pairs.jsonl", pairs)
        seconds = round(time.perf_counter() - began)
        return {"file": str(file), "pairs": len(pairs), "answers": len(rows), "seconds": seconds}

    settings = {"prompts": prompts, "samples": arguments.samples, **sampling}
    return once(arguments.own / "own-pairs.json", settings, make)


def against(name: str, lines: Sequence[Line], other: Sequence[Line]) -> dict[str, Any]:
    """How much more gold reward than another model on the same prompts."""
    change = paired_difference([x["score"] for x in other], [x["score"] for x in lines])
    return {"than": name, **in_numbers(change)}


def draw(points: Sequence[dict[str, Any]], out: Path) -> None:
    """The gold reward of each, and what it cost in KL."""
    figure, (left, right) = new_figure(2, width=5.0)
    for place, point in enumerate(points):
        colour = COLOURS[place - 1]  # the start model, which comes first, is grey
        reward, kl = point["reward"], point["kl"]
        left.barh(place, reward["value"], xerr=errors_of(**reward), capsize=3, color=colour)
        right.errorbar(
            kl["value"],
            reward["value"],
            xerr=errors_of(**kl),
            yerr=errors_of(**reward),
            fmt="o",
            capsize=3,
            color=colour,
            label=point["name"],
        )
    left.set_yticks(range(len(points)), [point["name"] for point in points])
    left.invert_yaxis()
    left.set(xlabel="gold reward")
    right.set(xlabel="KL from the start, nats a response", ylabel="gold reward")
    right.legend(frameon=False, fontsize=8)
    save_figure(figure, out, "ppo_against_dpo")


def main() -> None:
    """The ground, DPO in three ways, PPO, and all of them on the test prompts."""
    parser = parser_of_ground("ppo_against_dpo", __doc__)
    parser.add_argument("--own", type=Path, default=Path("runs/ppo_against_dpo"), help="takes the runs of this example")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--dpo-learning-rate", type=float, default=3e-4)
    parser.add_argument("--ppo-learning-rate", type=float, default=5e-4)
    parser.add_argument("--kl-coefficient", type=float, default=0.05)
    parser.add_argument("--ppo-rollouts", type=int, default=12, help=f"of {ROLLOUT} responses")
    parser.add_argument("--own-prompts", type=int, default=200, help="that the start model answers, for iterative DPO")
    parser.add_argument("--samples", type=int, default=4, help="answers to each of these")
    arguments = parser.parse_args()
    ground = prepare(arguments)
    chosen = chosen_alone(ground.pairs)
    chosen_file = str(write_rows(arguments.own / "chosen.jsonl", chosen))
    layers = {"layers": arguments.layers}
    preferred = start_model(ground.start, chosen_file, arguments.own / "chosen-sft", lora=layers, keep_best=False)
    own = own_pairs(arguments, ground)

    def dpo(start: str, pairs: str, name: str) -> Path:
        rate = arguments.dpo_learning_rate
        return train_dpo(start, pairs, arguments.own / name, beta=arguments.beta, learning_rate=rate, **layers)

    config = ppo_config(arguments, ground)
    models = {
        "start": Path(ground.start),
        "SFT on chosen": Path(preferred),
        "DPO": dpo(ground.start, str(ground.pairs), "dpo"),
        "DPO after SFT on chosen": dpo(preferred, str(ground.pairs), "dpo-after-sft"),
        "DPO on own answers": dpo(ground.start, own["file"], "dpo-own"),
        "PPO": train_ppo(config).out,
    }
    answered = measure(models, ground.test, config, sober_sentiment)
    points = [point_of(lines, name=name) for name, lines in answered.items()]
    seconds = {name: round(seconds_of(run)) for name, run in models.items()}
    seconds["DPO after SFT on chosen"] += seconds["SFT on chosen"]
    seconds["DPO on own answers"] += own["seconds"]
    for point in points:
        point["seconds"] = seconds[point["name"]]
    cells = [
        [p["name"], with_interval(**p["reward"]), with_interval(**p["kl"]), f"{p['ends']:.0%}", p["seconds"]]
        for p in points
    ]
    print_table(("", "gold (95 %)", "KL (95 %)", "ends", "seconds"), cells)
    differences = [against(name, answered["PPO"], lines) for name, lines in answered.items() if name != "PPO"]
    for entry in differences:
        height = with_interval(entry["value"], entry["low"], entry["high"], "+.2f")
        print(f"PPO above {entry['than']}: {height}")
    result = {
        "burnish": bn.__version__,
        "settings": settings_of(arguments, "own"),
        "pairs": {"given": len(chosen), "own": own["pairs"], "own_answers": own["answers"]},
        "points": points,
        "ppo_against": differences,
        "examples": {name: [line["response"] for line in lines[:3]] for name, lines in answered.items()},
    }
    write_result(arguments.out, "ppo_against_dpo", result)
    draw(points, arguments.out)


if __name__ == "__main__":
    main()
