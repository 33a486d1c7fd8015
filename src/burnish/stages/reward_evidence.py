"""What a finished reward model is worth on its held-out pairs: as a file beside it, and as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from burnish.data.chat import decode_response
from burnish.data.groups import PromptGroup, Response
from burnish.evaluation.intervals import Interval, Rate
from burnish.evaluation.reward import RewardEvaluation, ScoredPair, evaluate_reward
from burnish.evaluation.reward_signals import Correlation
from burnish.models.heads import ensemble_score
from burnish.stages.config import RewardConfig
from burnish.stages.setup import Ground, TrainingData

EVALUATION = "evaluation.json"
"""In the reward model's directory: `HeldOut.as_dict()`."""


@dataclass(frozen=True, slots=True)
class MemberAccuracy:
    """How often one member of an ensemble scores the chosen response higher; a tie counts as wrong."""

    name: str
    held_back: bool
    accuracy: Rate

    @property
    def may_be_a_coin(self) -> bool:
        """Whether the interval leaves room for half of the pairs or fewer."""
        return self.accuracy.interval.low <= 0.5

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "held_back": self.held_back, "accuracy": self.accuracy.as_dict()}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a reward model is worth on its held-out pairs.

    Attributes:
        evaluation: of the score that the members give together, without the one that is held back.
        members: each of an ensemble; empty for a single reward model, which is the whole.
    """

    evaluation: RewardEvaluation
    members: tuple[MemberAccuracy, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the evaluation, and the members' accuracies under `members`."""
        each = {"members": [member.as_dict() for member in self.members]} if self.members else {}
        return self.evaluation.as_dict() | each


def held_out_evaluation(ground: Ground, groups: TrainingData, scores: Tensor, config: RewardConfig) -> HeldOut:
    """Evaluate scores of the held-out pairs.

    Args:
        ground: for the tokenizer.
        groups: the stage's data; the training pairs choose the length baseline's direction.
        scores: (members, held-out pairs, 2) scores of chosen and rejected.
        config: whether the last member is held back, and the seed of the resampling.
    """
    together = together_scores(scores, config).tolist()
    pairs = [_pair(ground, group, values) for group, values in zip(groups.validation, together, strict=True)]
    found = evaluate_reward(pairs, training_lengths=[_lengths(group) for group in groups.train], seed=config.seed)
    right = (scores[:, :, 0] > scores[:, :, 1]).tolist()
    members = [
        MemberAccuracy(f"member-{number}", config.holdout and number == len(right), Rate.of(outcomes))
        for number, outcomes in enumerate(right, start=1)
    ]
    return HeldOut(found, tuple(members if len(members) > 1 else ()))


def together_scores(scores: Tensor, config: RewardConfig) -> Tensor:
    """(pairs, 2) mean of (members, pairs, 2) scores over the members that are not held back."""
    return ensemble_score(scores[:-1] if config.holdout else scores)


def _pair(ground: Ground, group: PromptGroup, scores: Sequence[float]) -> ScoredPair:
    def text(response: Response) -> str:
        return decode_response(ground.tokenizer, response.ids, ground.stop_ids)

    chosen, rejected = group.responses
    prompt = str(ground.tokenizer.decode(list(group.prompt)))
    return ScoredPair(prompt, text(chosen), text(rejected), scores[0], scores[1], *_lengths(group))


def _lengths(group: PromptGroup) -> tuple[int, int]:
    chosen, rejected = group.responses
    return len(chosen.ids), len(rejected.ids)


def show_evaluation(held_out: HeldOut | None, console: Console) -> None:
    """The evaluation in a dozen lines, and one for each member of an ensemble."""
    if held_out is None:
        console.print("no pairs are held out (validation): what this reward model is worth is not known")
        return
    found = held_out.evaluation
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=f"on {found.n} held-out pairs")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row("accuracy", f"{found.accuracy.value:.1%}", _percents(found.accuracy.interval))
    for member in held_out.members:
        name = f"  of {member.name}{', held back' if member.held_back else ''}"
        table.add_row(name, f"{member.accuracy.value:.1%}", _percents(member.accuracy.interval))
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


def say_who_may_be_a_coin(held_out: HeldOut | None, console: Console) -> None:
    """Members of which the held-out pairs can't say that they know anything; of the held-back one, always a line."""
    for member in held_out.members if held_out is not None else ():
        accuracy = member.accuracy
        who = f"{member.name}, held back as the judge," if member.held_back else member.name
        is_what = "can't be told from a coin: right" if member.may_be_a_coin else "is right"
        if member.held_back or member.may_be_a_coin:
            console.print(
                f"{who} {is_what} on {accuracy.passed} of {accuracy.n} held-out pairs "
                f"({_percents(accuracy.interval)} %)",
                style="yellow" if member.may_be_a_coin else None,
                highlight=False,
            )


def _add_correlation(table: Table, name: str, found: Correlation | None) -> None:
    if found is None:
        table.add_row(name, "constant", "")
    else:
        table.add_row(name, f"{found.value:+.2f}", "" if found.interval is None else _numbers(found.interval))


def _percents(interval: Interval) -> str:
    return f"{100 * interval.low:.0f} to {100 * interval.high:.0f}"


def _numbers(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"
