"""What a finished reward model is worth on its held-out pairs: as a file beside it, and as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from burnish.data.chat import decode_response
from burnish.data.groups import PromptGroup, Response
from burnish.evaluation.intervals import Interval
from burnish.evaluation.reward import RewardEvaluation, ScoredPair, evaluate_reward
from burnish.evaluation.reward_signals import Correlation
from burnish.stages.setup import Ground, TrainingData

EVALUATION = "evaluation.json"
"""In the reward model's directory: `RewardEvaluation.as_dict()` on the held-out pairs."""


def held_out_evaluation(ground: Ground, groups: TrainingData, scores: Tensor, *, seed: int) -> RewardEvaluation:
    """Evaluate scores of the held-out pairs.

    Args:
        ground: for the tokenizer.
        groups: the stage's data; the training pairs choose the length baseline's direction.
        scores: (held-out pairs, 2) scores of chosen and rejected.
        seed: of the resampling.
    """
    pairs = [_pair(ground, group, values) for group, values in zip(groups.validation, scores.tolist(), strict=True)]
    return evaluate_reward(pairs, training_lengths=[_lengths(group) for group in groups.train], seed=seed)


def _pair(ground: Ground, group: PromptGroup, scores: Sequence[float]) -> ScoredPair:
    def text(response: Response) -> str:
        return decode_response(ground.tokenizer, response.ids, ground.stop_ids)

    chosen, rejected = group.responses
    prompt = str(ground.tokenizer.decode(list(group.prompt)))
    return ScoredPair(prompt, text(chosen), text(rejected), scores[0], scores[1], *_lengths(group))


def _lengths(group: PromptGroup) -> tuple[int, int]:
    chosen, rejected = group.responses
    return len(chosen.ids), len(rejected.ids)


def show_evaluation(found: RewardEvaluation, console: Console) -> None:
    """The evaluation in a dozen lines."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=f"on {found.n} held-out pairs")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row("accuracy", f"{found.accuracy.value:.1%}", _percents(found.accuracy.interval))
    if (baseline := found.length_baseline) is not None:
        name = f"  of “the {baseline.direction} one”"
        table.add_row(name, f"{baseline.accuracy.value:.1%}", _percents(baseline.accuracy.interval))
        gain = baseline.difference
        table.add_row(f"  gain over it, ties as half ({gain.word})", f"{gain.value:+.1%}", _percents(gain.interval))
    table.add_row("margin", f"{found.margin.value:.2f}", _numbers(found.margin.interval))
    table.add_row("deviation of scores", f"{found.score_std:.2f}", "")
    table.add_row("calibration error", f"{found.calibration.ece:.3f}", "")
    table.add_row("Brier score", f"{found.calibration.brier.value:.3f}", _numbers(found.calibration.brier.interval))
    table.add_section()
    for signal in found.signals:
        _add_correlation(table, f"score and {signal.name}", signal.responses)
        _add_correlation(table, "  within pairs", signal.within_pairs)
    console.print(table)
    if found.ties:
        console.print(f"{found.ties} pairs have equal scores and count as wrong", highlight=False)


def _add_correlation(table: Table, name: str, found: Correlation | None) -> None:
    if found is None:
        table.add_row(name, "constant", "")
    else:
        table.add_row(name, f"{found.value:+.2f}", "" if found.interval is None else _numbers(found.interval))


def _percents(interval: Interval) -> str:
    return f"{100 * interval.low:.0f} to {100 * interval.high:.0f}"


def _numbers(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"
