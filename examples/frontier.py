"""The reward-KL frontier of DPO and PPO on controlled sentiment (Rafailov et al. 2023, arXiv:2305.18290, figure 2).

    python examples/frontier.py

The gold reward is VADER's score of a film review's continuation. DPO learns from pairs of the start model's own
samples, labelled by the gold reward, one run for each beta. PPO learns from the gold reward itself (the paper's
PPO-GT), one run for each price of the KL, and each of its evaluations is a point. All start from the same model, and
answer the same held-out prompts with the same random numbers, so that they are compared prompt by prompt.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import burnish as bn
from burnish.data.chat import decode_response
from burnish.data.examples import Message
from burnish.data.groups import PromptGroup
from burnish.evaluation.intervals import bootstrap_mean
from burnish.rollout.answers import Answer
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.ppo_watch import answer_held_out
from burnish.stages.run import model_of
from figures import (
    COLOURS,
    errors_of,
    evaluations,
    in_numbers,
    new_figure,
    new_parser,
    once,
    print_table,
    read_jsonl,
    read_record,
    save_figure,
    settings_of,
    with_interval,
    write_result,
    write_rows,
)
from reviews import continue_prompts, make_parts, read_reviews, start_model
from rewards import sentiment
from sentiment import ALGORITHMS, ROLLOUT, SHARED

REWARDS = Path(__file__).with_name("rewards.py")
Line = dict[str, Any]
"""What was answered to one held-out prompt: prompt, response, score, kl (nats), tokens, finished."""


def ppo_like_sentiment(arguments: argparse.Namespace, **own: Any) -> PPOConfig:
    """PPO with the settings of sentiment.py at a constant rate, in the layers that are asked for; `own` goes first."""
    here = {"learning_rate": arguments.ppo_learning_rate, "schedule": "constant", "lora": {"layers": arguments.layers}}
    return PPOConfig(**{**SHARED, **ALGORITHMS["PPO"], **here, "seed": 0, **own})


def ppo_config(arguments: argparse.Namespace, start: str, files: Mapping[str, str], coefficient: float) -> PPOConfig:
    """PPO on the gold reward with one price of the KL."""
    return ppo_like_sentiment(
        arguments,
        model=start,
        data=files["prompts"],
        validation=files["test"],
        evaluation_prompts=arguments.test,
        reward=f"{REWARDS}:sentiment",
        out=arguments.runs / f"ppo-{coefficient:g}",
        max_rollouts=arguments.rollouts,
        missing_eos_penalty=0.0,  # the gold reward alone, as the pairs have it: else DPO and PPO would want two things
        kl_coefficient=coefficient,
        eval_every=arguments.eval_every,
    )


def ended_texts(answers: Sequence[Sequence[Answer]]) -> list[list[str]]:
    """Of each prompt the texts of the answers that ended: a pair's responses are learned with their end, and so those
    that the limit of tokens cut off can be in none."""
    return [[one.text for one in several if one.finished and one.text] for several in answers]


def best_against_worst(
    prompts: Sequence[str], texts: Sequence[Sequence[str]], scores: Sequence[Sequence[float]], gap: float
) -> list[dict[str, str]]:
    """Of each prompt's answers the one of the highest score against the one of the lowest.

    A prompt whose best and worst are less than `gap` apart (or the same text) gives no pair.
    """
    pairs = []
    for prompt, own_texts, own_scores in zip(prompts, texts, scores, strict=True):
        scored = sorted(zip(own_scores, own_texts, strict=True))
        if scored and scored[-1][0] - scored[0][0] >= gap and scored[-1][1] != scored[0][1]:
            pairs.append({"prompt": prompt, "chosen": f" {scored[-1][1]}", "rejected": f" {scored[0][1]}"})
    return pairs


def chosen_alone(pairs: Path) -> list[dict[str, str]]:
    """The preferred responses of pairs, as rows for SFT."""
    return [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in read_jsonl(pairs)]


def make_pairs(arguments: argparse.Namespace, start: str, prompts: Sequence[str]) -> dict[str, Any]:
    """Pairs of the start model's own samples, and what they cost; made once for the same settings."""
    settings = {"prompts": len(prompts), "samples": arguments.samples, "gap": arguments.gap, "sft": arguments.sft}
    path = arguments.runs / "data" / "pairs.jsonl"

    def make() -> dict[str, Any]:
        started = time.perf_counter()
        answers = continue_prompts(start, prompts, n=arguments.samples, seed=1)
        seconds = time.perf_counter() - started
        texts = ended_texts(answers)
        scores = [sentiment([prompt] * len(own), own) for prompt, own in zip(prompts, texts, strict=True)]
        pairs = write_rows(path, best_against_worst(prompts, texts, scores, arguments.gap))
        chosen = chosen_alone(pairs)
        return {
            "pairs": len(chosen),
            "responses": len(prompts) * arguments.samples,
            "cut_off": sum(not one.finished for several in answers for one in several),
            "seconds": round(seconds),
            "file": str(pairs),
            "chosen": str(write_rows(path.with_name("chosen.jsonl"), chosen)),
        }

    return once(arguments.runs / "pairs.json", settings, make)


def train_dpo(
    start: str, pairs: str, out: Path, *, beta: float, learning_rate: float, layers: str, epochs: int = 1
) -> Path:
    """DPO from a run of this example; a tenth of the pairs is held out to be looked at, and decides nothing."""
    config = bn.DPOConfig(
        model=start,
        data=pairs,
        out=out,
        template="none",
        validation=0.1,
        epochs=epochs,
        batch_size=8,
        learning_rate=learning_rate,
        loss={"name": "sigmoid", "beta": beta},
        lora={"layers": layers},
        eval_every=100_000,
        keep_best=False,
        dtype="float32",
        seed=0,
    )
    return bn.train_dpo(config).out


def measure(
    models: Mapping[str, Path],
    prompts: Sequence[str],
    config: PPOConfig,
    gold: Callable[[Sequence[str], Sequence[str]], list[float]] = sentiment,
) -> dict[str, list[Line]]:
    """What each model answers the held-out prompts, as PPO's evaluations ask and write it.

    Args:
        models: run directories; the KL of all is from the first.
        prompts: held out.
        config: how PPO's evaluations sample.
        gold: prompts and responses to rewards.
    """
    import torch

    files = {name: run / "held-out.jsonl" for name, run in models.items()}
    start = next(iter(models))
    if missing := [name for name, path in files.items() if not path.is_file()]:
        named = [f"{name}={model_of(str(run))}" for name, run in models.items() if name in (start, *missing)]
        speakers = bn.load_speakers(named, dtype=torch.float32, template="none")
        for speaker in [one for one in speakers if one.name in missing]:
            asked = [speaker.prompt([Message("user", prompt)]) for prompt in prompts]
            groups = [PromptGroup(tuple(ids), (), index=i) for i, ids in enumerate(asked)]
            found = answer_held_out(speaker.role, speakers[0].role, groups, config, speaker.stop_ids)
            texts = [decode_response(speaker.tokenizer, ids, speaker.stop_ids) for ids in found.sampled.ids()]
            columns = {
                "prompt": list(prompts),
                "response": texts,
                "score": gold(prompts, texts),
                "kl": found.kl.tolist(),
                "tokens": found.sampled.mask.sum(1).tolist(),
                "finished": found.sampled.finished.tolist(),
            }
            write_rows(
                files[speaker.name],
                [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
            )
    return {name: read_jsonl(path) for name, path in files.items()}


def point_of(lines: Sequence[Line], **about: Any) -> dict[str, Any]:
    """A point of the figure: mean reward and KL with their 95 % intervals over prompts."""
    point = dict(about)
    for name, key in (("reward", "score"), ("kl", "kl")):
        point[name] = in_numbers(bootstrap_mean([line[key] for line in lines]))
    point["tokens"] = statistics.fmean(line["tokens"] for line in lines)
    point["ends"] = statistics.fmean(float(line["finished"]) for line in lines)
    return point


def height_above(
    curve: Sequence[Sequence[Line]], point: Sequence[Line], *, seed: int = 0, resamples: int = 10_000
) -> dict[str, float] | None:
    """How far the reward of a point lies above a curve at the point's own KL.

    The curve is linear between its points, taken in the order of their KL. The 95 % interval redraws the prompts, the
    same ones for all, so that both the curve and the place at which it is read vary (percentile bootstrap; where a
    redrawn KL falls off the curve, its end is taken).

    Args:
        curve: of each point what was answered; at least two.
        point: what was answered, to the same prompts in the same order.

    Returns:
        Nothing where the point's KL lies beyond the curve's.
    """
    import numpy as np

    names = [line["prompt"] for line in point]
    if any([line["prompt"] for line in lines] != names for lines in curve):
        raise ValueError("a curve and a point can be compared on the same prompts only")
    values = np.array([[[line[key] for line in lines] for lines in (*curve, point)] for key in ("kl", "score")])
    means = values.mean(2)
    if not means[0, :-1].min() <= means[0, -1] <= means[0, :-1].max():
        return None
    counts = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), size=resamples)
    redrawn = np.einsum("mpn,sn->smp", values, counts / len(names))
    low, high = np.percentile([_height(*sample) for sample in redrawn], [2.5, 97.5])
    return {"value": _height(*means), "low": float(low), "high": float(high)}


def _height(kl: Any, reward: Any) -> float:
    """Of the last point above the curve of the others."""
    import numpy as np

    order = np.argsort(kl[:-1], kind="stable")
    return float(reward[-1] - np.interp(kl[-1], kl[:-1][order], reward[:-1][order]))


def compare(dpo: Mapping[str, list[Line]], ppo: Mapping[str, list[list[Line]]], start: list[Line]) -> list[Line]:
    """DPO's points against each of PPO's curves, and PPO's last points against the curve through DPO's."""
    found = [
        {"point": point, "curve": curve, "height": height_above(curve_lines, lines)}
        for point, lines in dpo.items()
        for curve, curve_lines in ppo.items()
    ]
    through = [start, *dpo.values()]
    return found + [
        {"point": point, "curve": "DPO", "height": height_above(through, lines[-1])} for point, lines in ppo.items()
    ]


def draw(points: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Reward against KL with both intervals; a run of PPO is joined, from the start (the first point) on."""
    figure, (axis,) = new_figure(1, width=6.4, height=4.2)
    methods = list(dict.fromkeys(point["method"] for point in points))
    for colour, method in zip(COLOURS[::-1], methods, strict=False):
        of_method = [point for point in points if point["method"] == method]
        kl, reward = ([point[key]["value"] for point in of_method] for key in ("kl", "reward"))
        bars = {"xerr": _errors(of_method, "kl"), "yerr": _errors(of_method, "reward"), "elinewidth": 0.6}
        axis.errorbar(kl, reward, fmt="o", markersize=4, color=colour, label=method, **bars)
        if method.startswith("PPO"):
            start = points[0]
            axis.plot([start["kl"]["value"], *kl], [start["reward"]["value"], *reward], linewidth=1.2, color=colour)
        if method == "DPO":
            for point in of_method:
                place = (point["kl"]["value"], point["reward"]["value"])
                axis.annotate(point["setting"], place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    axis.set(xlabel="KL from the start, nats a response", ylabel="gold reward (VADER compound)")
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, out, "frontier")


def _errors(points: Sequence[Mapping[str, Any]], key: str) -> list[list[float]]:
    each = [errors_of(point[key]["value"], point[key]["low"], point[key]["high"]) for point in points]
    return [[low[0] for low, _ in each], [high[0] for _, high in each]]


def seconds_of(run: Path) -> float:
    """The time of a finished run's steps, in seconds."""
    return float(read_record(run)["metrics"]["seconds"])


def tell(points: Sequence[Mapping[str, Any]], heights: Sequence[Mapping[str, Any]]) -> None:
    """Two tables: the points, and who lies above whom."""
    rows = []
    for point in points:
        cells = [with_interval(**point[key]) for key in ("reward", "kl")]
        cost = [point["responses"], point["seconds"]]
        rows.append([f"{point['method']} {point['setting']}", *cells, f"{point['ends']:.0%}", *cost])
    print_table(("", "reward (95 %)", "KL (95 %)", "ends", "responses", "seconds"), rows)
    for entry in heights:
        height = entry["height"]
        said = "beyond the curve's KL" if height is None else with_interval(**height, form="+.2f")
        print(f"{entry['point']} above {entry['curve']}: {said}")


def main() -> None:
    """Start model, pairs, DPO for each beta, PPO for each price, all of them on the held-out prompts."""
    parser = new_parser("frontier", __doc__)
    parser.add_argument("--sft", type=int, default=512, help="reviews of the start model's SFT")
    parser.add_argument("--pairs", type=int, default=240, help="prompts of DPO's pairs")
    parser.add_argument("--samples", type=int, default=4, help="of the start model, for each of these prompts")
    parser.add_argument("--gap", type=float, default=0.2, help="how far apart a pair's gold rewards are at least")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.03, 0.1, 1.0])
    parser.add_argument("--epochs", type=int, default=3, help="of DPO")
    parser.add_argument("--dpo-learning-rate", type=float, default=3e-4)
    parser.add_argument("--coefficients", type=float, nargs="+", default=[0.02, 0.1], help="PPO's prices of a nat")
    parser.add_argument("--rollouts", type=int, default=8, help=f"of {ROLLOUT} responses")
    parser.add_argument("--eval-every", type=int, default=2, help="in rollouts")
    parser.add_argument("--ppo-learning-rate", type=float, default=3e-4)
    parser.add_argument("--layers", default="last-10", help="that DPO and PPO train: all, or last-N")
    parser.add_argument("--test", type=int, default=96, help="held-out prompts")
    arguments = parser.parse_args()
    n_prompts = arguments.pairs + ROLLOUT * arguments.rollouts
    parts = make_parts(read_reviews(), sft=arguments.sft, prompts=n_prompts, watched=2, test=arguments.test, seed=0)
    files = parts.write(arguments.runs / "data", kept_back=arguments.pairs)
    test = [row["prompt"] for row in parts.test]
    start = start_model(arguments.model, files["sft"], arguments.runs / "sft")
    pairs = make_pairs(arguments, start, [row["prompt"] for row in parts.prompts[: arguments.pairs]])

    layers = {"layers": arguments.layers}
    preferred = arguments.runs / "preferred"
    start_model(start, pairs["chosen"], preferred, lora=layers, keep_best=False)
    models = {"start": Path(start), "preferred-FT": preferred}
    dpo_settings = {"learning_rate": arguments.dpo_learning_rate, "epochs": arguments.epochs, **layers}
    for beta in arguments.betas:
        out = arguments.runs / f"dpo-{beta:g}"
        models[f"DPO {beta:g}"] = train_dpo(start, pairs["file"], out, beta=beta, **dpo_settings)
    configs = {f"PPO {price:g}": ppo_config(arguments, start, files, price) for price in arguments.coefficients}
    answered = measure(models, test, next(iter(configs.values())))
    curves = {name: evaluations(train_ppo(config).out) for name, config in configs.items()}
    first = [line["response"] for line in answered["start"]]
    for name, curve in curves.items():
        if [line["response"] for line in curve[0][1]] != first:
            raise SystemExit(f"{name} did not begin with the start model's answers: that must not be")

    points = [point_of(answered["start"], method="start", setting="", responses=0, seconds=0)]
    for name in list(models)[1:]:
        method, _, setting = name.partition(" ")
        seconds = round(pairs["seconds"] + seconds_of(models[name]))
        about = {"method": method, "setting": setting and f"β = {setting}", "responses": pairs["responses"]}
        points.append(point_of(answered[name], **about, seconds=seconds))
    for name, curve in curves.items():
        total, last = seconds_of(configs[name].out), curve[-1][0]
        for step, lines in curve[1:]:
            share = step / last
            responses, seconds = round(share * ROLLOUT * arguments.rollouts), round(share * total)
            about = {"method": f"PPO, {name.split()[1]} a nat", "setting": f"step {step}"}
            points.append(point_of(lines, **about, responses=responses, seconds=seconds))
    dpo = {name: answered[name] for name in models if name.startswith("DPO")}
    heights = compare(dpo, {name: [lines for _, lines in curve] for name, curve in curves.items()}, answered["start"])
    tell(points, heights)
    held_out_pairs = {name: read_record(models[name])["metrics"] for name in dpo}
    result = {
        "burnish": bn.__version__,
        "settings": settings_of(arguments),
        "pairs": {key: pairs[key] for key in ("pairs", "responses", "cut_off", "seconds")},
        "points": points,
        "heights": heights,
        "dpo_metrics": held_out_pairs,
        "examples": {
            name: [{key: line[key] for key in ("prompt", "response", "score")} for line in lines[:3]]
            for name, lines in {**answered, **{name: curve[-1][1] for name, curve in curves.items()}}.items()
        },
    }
    write_result(arguments.out, "frontier", result)
    draw(points, arguments.out)


if __name__ == "__main__":
    main()
