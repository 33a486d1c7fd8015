"""Preference quality: how often a model's answers are preferred to a baseline's, by a judge or by a reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from burnish.evaluation.intervals import Rate, bootstrap_mean, difference_from, paired_difference, win_rate
from burnish.evaluation.judge import JudgedPair
from burnish.evaluation.lines import Change, Line, change_of, mean_cell, rate_cell, share_cell

JUDGE_RULE = (
    "A language model is shown the conversation and both answers, the baseline's and the model's, once in each order. "
    "A win counts 1: preferred in both orders. A tie counts 1/2: the two verdicts disagree, both say tie, or the "
    "answers are the same text. Prompts of which a verdict can't be read do not count. The interval is Wilson's on the "
    "points, of as many wins in so many prompts: rather wide where there are many ties. Better and worse mean that it "
    "excludes an even 50 %."
)
PLACE_RULE = (
    "How often the judge preferred the same place, first or second, in both orders, and so not an answer: of the "
    "prompts with two readable verdicts on different answers. High shares mean a judge that is not up to its task."
)
UNREADABLE_RULE = "How many of the judge's replies hold no verdict, or two that contradict each other."
REWARD_RULE = (
    "The reward model scores every answer after its prompt. The higher score wins and counts 1; equal scores are a tie "
    "and count 1/2. An answer that was cut off is scored as it stands, as if it ended there. The interval is Wilson's "
    "on the points, of as many wins in so many prompts: rather wide where there are many ties. Better and worse mean "
    "that it excludes an even 50 %. Prompts of which an answer can't be scored do not count, for any model."
)
SCORE_RULE = (
    "The mean of the reward model's scores of the model's answers, which have no unit. A reward model is a proxy: what "
    "was trained against it scores high by it, whatever that is worth."
)
UNSCORED_RULE = (
    "How many of a model's answers the reward model can't read: longer than its context, or with what ends a turn in "
    "its template as text."
)


@dataclass(frozen=True)
class Preference:
    """What preferred what.

    Attributes:
        baseline: the model that the others are compared with.
        seed: of the scores' intervals.
        judged: model -> the judge's verdicts, one for each prompt; the baseline is not in it.
        scores: model -> the reward model's scores, one for each prompt, None where it can't read the answer; the
            baseline is in it too.
        facts: what the report says of how it was made.
    """

    baseline: str
    seed: int = 0
    judged: Mapping[str, Sequence[JudgedPair]] = field(default_factory=dict)
    scores: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with each pair's points."""
        judged = {
            name: [{**asdict(pair), "points": pair.points} for pair in pairs] for name, pairs in self.judged.items()
        }
        return {"baseline": self.baseline, "judged": judged, "scores": {n: list(s) for n, s in self.scores.items()}}


def preference_lines(preference: Preference, names: Sequence[str]) -> list[Line]:
    """The lines of the group `preference`, for the models of a report in their order."""
    lines = _judge_lines(preference, names) if preference.judged else []
    return lines + (_reward_lines(preference, names) if preference.scores else [])


def _judge_lines(preference: Preference, names: Sequence[str]) -> list[Line]:
    judged = preference.judged
    points = {n: [p.points for p in pairs if p.points is not None] for n, pairs in judged.items()}
    lines = _win_lines(preference, names, points, key="judge", title="preferred by judge", rule=JUDGE_RULE)
    n = max(len(pairs) for pairs in judged.values())
    followed = {name: [p.follows_place for p in pairs if p.follows_place is not None] for name, pairs in judged.items()}
    unreadable = {
        name: [bad for p in pairs if not p.identical for bad in (p.baseline_first is None, p.model_first is None)]
        for name, pairs in judged.items()
    }
    for key, title, about, rule, outcomes in (
        ("judge_place", "judge follows place", "the same prompts", PLACE_RULE, followed),
        ("judge_unreadable", "verdicts unreadable", "two verdicts for each prompt", UNREADABLE_RULE, unreadable),
    ):
        lines.append(_counted_line(outcomes, names, n, key=key, title=title, about=about, rule=rule))
    return lines


def _counted_line(
    outcomes: Mapping[str, Sequence[bool]], names: Sequence[str], n: int, *, key: str, title: str, about: str, rule: str
) -> Line:
    """How much of what was asked can't be used, or is not to be trusted, of each model."""
    shown = [f"{name} {sum(values)} of {len(values)}" for name, values in outcomes.items()]
    return Line(
        key=key,
        group="preference",
        title=title,
        about=f"{about}: {', '.join(shown)}",
        rule=rule,
        n=n,
        unit="rate",
        higher_is_better=False,
        cells=tuple(rate_cell(Rate.of(outcomes[name])) if outcomes.get(name) else None for name in names),
        changes=(None,) * len(names),
    )


def _reward_lines(preference: Preference, names: Sequence[str]) -> list[Line]:
    scores, seed = _scores_of_all(preference.scores), preference.seed
    base = scores[preference.baseline]
    unscored = [_unscored_line(preference.scores, names)] if len(base) < len(preference.scores[names[0]]) else []
    if not base:
        return unscored
    points = {name: _compared(base, own) for name, own in scores.items() if name != preference.baseline}
    lines = _win_lines(preference, names, points, key="reward", title="preferred by reward", rule=REWARD_RULE)
    means = [bootstrap_mean(scores[name], seed=seed) for name in names]
    changes = [paired_difference(scores[names[0]], scores[name], seed=seed) for name in names[1:]]
    line = Line(
        key="reward_score",
        group="preference",
        title="reward score",
        about="prompts of which every model's answer has a score" if unscored else "all prompts",
        rule=SCORE_RULE,
        n=len(base),
        unit="score",
        higher_is_better=True,
        cells=tuple(mean_cell(mean, 2) for mean in means),
        changes=(None, *(change_of(change, 1, "score", digits=2) for change in changes)),
    )
    return [*lines, line, *unscored]


def _scores_of_all(scores: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    """The scores of the prompts of which every model's answer has one: only there are the models comparable."""
    found: dict[str, list[float]] = {name: [] for name in scores}
    for together in zip(*scores.values(), strict=True):
        if None not in together:
            for name, value in zip(scores, together, strict=True):
                found[name].append(float(value))
    return found


def _unscored_line(scores: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> Line:
    missing = {name: [value is None for value in scores[name]] for name in names}
    n, title = len(scores[names[0]]), "answers unscored"
    return _counted_line(missing, names, n, key="reward_unscored", title=title, about="all prompts", rule=UNSCORED_RULE)


def _compared(base: Sequence[float], own: Sequence[float]) -> list[float]:
    return [1.0 if b > a else 0.0 if b < a else 0.5 for a, b in zip(base, own, strict=True)]


def _win_lines(
    preference: Preference,
    names: Sequence[str],
    points: Mapping[str, Sequence[float]],
    *,
    key: str,
    title: str,
    rule: str,
) -> list[Line]:
    """How often each model's answer is preferred to the baseline's, with its distance from an even split."""
    baseline = preference.baseline
    n = max((len(values) for values in points.values()), default=0)
    if not n:
        return []
    won = [points.get(name) for name in names]
    about = f"against {baseline}, an even split being 50 %: " + "; ".join(
        f"{name} {_split(values)}" for name, values in points.items()
    )
    return [
        Line(
            key=f"{key}_wins",
            group="preference",
            title=title,
            about=about,
            rule=rule,
            n=n,
            unit="rate",
            higher_is_better=True,
            cells=tuple(share_cell(win_rate(values)) if values else None for values in won),
            changes=tuple(_from_even(values) if values else None for values in won),
        )
    ]


def _from_even(won: Sequence[float]) -> Change:
    change = change_of(difference_from(0.5, win_rate(won)), 100, "points")
    return replace(change, text=f"{change.text} from even")


def _split(points: Sequence[float]) -> str:
    counts = {word: sum(point == value for point in points) for word, value in (("won", 1), ("tied", 0.5), ("lost", 0))}
    return ", ".join(f"{count} {word}" for word, count in counts.items())
