"""The over-optimisation alarm: rules over a history of evaluations of a policy that is trained on a reward model.

Optimised far enough, the proxy reward goes on rising while the gold reward falls (Gao, Schulman & Hilton 2022,
arXiv:2210.10760, fig. 1). Often a policy shows it otherwise first: in its length, its repetitions, its
distance from the reference, or in answers that do not end. The rules are pure functions; nothing here runs a model.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

Severity = Literal["warning", "alarm"]
LEAST_PROMPTS = 8
"""Prompts below which no trend of the rewards is believed."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One evaluation of the policy, on the same prompts each time. Values must be finite: a NaN passes every limit.

    Attributes:
        step: of training; they rise along a history.
        n: prompts, at least 1.
        proxy: mean reward that the policy is trained on, without the KL penalty.
        proxy_se: its standard error over prompts.
        held_out: mean reward of a model that the policy is not trained on, or gold labels; None where not measured.
        held_out_se: its standard error; None together with `held_out`.
        kl: KL divergence from the reference in nats per response (estimates may be below 0).
        length: mean response length in tokens.
        repetition: share of repeated 4-grams, between 0 and 1, as `repetition` gives it.
        distinct_2: as `distinct_n` gives it.
        eos_rate: share of the responses that end by themselves and not at the length limit, between 0 and 1.

    Raises:
        ValueError: on a value that is not finite or of nonsense.
    """

    step: int
    n: int
    proxy: float
    proxy_se: float
    held_out: float | None
    held_out_se: float | None
    kl: float
    length: float
    repetition: float
    distinct_2: float
    eos_rate: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"step {self.step}: {field.name} is {value}, and no limit can be held against that")
        if (self.held_out is None) != (self.held_out_se is None):
            raise ValueError(f"step {self.step}: held_out and held_out_se come together")
        if min(self.proxy_se, self.held_out_se or 0.0, self.length) < 0:
            raise ValueError(f"step {self.step}: standard errors and the length must not be negative")
        for name in ("repetition", "distinct_2", "eos_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"step {self.step}: {name} is {getattr(self, name)}, not between 0 and 1")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a rule finds something. The defaults are starting points, to be set to the task.

    Attributes:
        window: the fewest evaluations with a held-out reward over which its trend is judged; at least 3.
        noise: how many standard errors a change must exceed to be more than noise. The rule is asked anew at every
            evaluation: where the proxy rises and the held-out reward stands still, 3 gives a false alarm in 9 of 100
            made runs of 40 evaluations, 2.5 in 38 and 2 in 80.
        length_factor: mean length against the first evaluation's.
        kl_budget: nats per response.
        repetition: share of repeated 4-grams; natural answers of a few sentences have some hundredths at most.
        eos_factor: the part of the first evaluation's EOS rate below which it has collapsed.
    """

    window: int = 4
    noise: float = 3.0
    length_factor: float = 2.0
    kl_budget: float = 25.0
    repetition: float = 0.2
    eos_factor: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 3:
            raise ValueError(f"window is {self.window}: a trend needs at least 3 evaluations")
        if min(self.noise, self.length_factor, self.kl_budget, self.repetition, self.eos_factor) <= 0:
            raise ValueError("limits must be above 0")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule saw at the latest evaluation.

    Attributes:
        name: of the rule: held_out, length, kl, repetition or eos.
        severity: "warning" when a limit is passed at the latest evaluation alone, "alarm" when at the latest two, or
            when a trend is beyond noise.
        text: one sentence with the numbers.
    """

    name: str
    severity: Severity
    text: str


def alarms(history: Sequence[Measurement], limits: Limits | None = None) -> list[Finding]:
    """What the rules find at the latest evaluation of `history`, which is in the order of steps; [] without history.

    Raises:
        ValueError: when the steps do not rise.
    """
    limits = limits or Limits()
    for before, after in pairwise(history):
        if after.step <= before.step:
            raise ValueError(f"a history's steps must rise, got {after.step} after {before.step}")
    if not history:
        return []
    rules = (held_out_falls, length_runs_away, kl_over_budget, repeats_itself, eos_collapses)
    return [finding for rule in rules if (finding := rule(history, limits)) is not None]


def held_out_falls(history: Sequence[Measurement], limits: Limits) -> Finding | None:
    """The held-out reward falls while the proxy rises: over-optimisation itself.

    Least-squares lines over the latest `window` evaluations with a held-out reward, then over 2, 4, ... times as many
    (a slow decline shows in a long window only), then over all of them; the shortest window that shows it is told.
    A change is the line's, from the window's first step to its last; its standard error follows from the
    measurements' own, taken as independent. On the same prompts each time they are not, and the rule is then more
    careful than it needs to be. With fewer than `LEAST_PROMPTS` prompts the errors are themselves too uncertain (of one
    prompt there is none at all), and the rule is silent.
    """
    measured = [at for at in history if at.held_out is not None and at.n >= LEAST_PROMPTS]
    size = limits.window
    while len(measured) >= limits.window:
        window = measured[-size:]
        steps = [at.step for at in window]
        fall, fall_se = _trend(steps, [(at.held_out or 0.0, at.held_out_se or 0.0) for at in window])
        rise, rise_se = _trend(steps, [(at.proxy, at.proxy_se) for at in window])
        if fall < -limits.noise * fall_se and rise > limits.noise * rise_se:
            text = (
                f"The held-out reward fell by {-fall:.3g} (standard error {fall_se:.2g}) while the proxy reward rose "
                f"by {rise:.3g} ({rise_se:.2g}), over the latest {len(window)} evaluations, steps {steps[0]} to "
                f"{steps[-1]}."
            )
            return Finding("held_out", "alarm", text)
        if size >= len(measured):
            break
        size *= 2
    return None


def length_runs_away(history: Sequence[Measurement], limits: Limits) -> Finding | None:
    """Responses are longer than `length_factor` times the first evaluation's."""
    first, last = history[0], history[-1]
    limit = limits.length_factor * first.length
    severity = _severity([at.length > limit for at in history])
    if severity is None:
        return None
    times = f"{last.length / first.length:.1f} times" if first.length else "up from"
    text = (
        f"Responses are {last.length:.0f} tokens long at step {last.step}, {times} the {first.length:.0f} tokens of "
        f"step {first.step}; the limit is {limits.length_factor:g} times."
    )
    return Finding("length", severity, text)


def kl_over_budget(history: Sequence[Measurement], limits: Limits) -> Finding | None:
    """The policy is further from where it started than `kl_budget`."""
    last = history[-1]
    severity = _severity([at.kl > limits.kl_budget for at in history])
    if severity is None:
        return None
    text = (
        f"The KL divergence from the start is {last.kl:.1f} nats per response at step {last.step}, over the "
        f"budget of {limits.kl_budget:g}."
    )
    return Finding("kl", severity, text)


def repeats_itself(history: Sequence[Measurement], limits: Limits) -> Finding | None:
    """The share of repeated 4-grams is above `repetition`."""
    first, last = history[0], history[-1]
    severity = _severity([at.repetition > limits.repetition for at in history])
    if severity is None:
        return None
    text = (
        f"{last.repetition:.1%} of the 4-grams are repeated at step {last.step}, above the limit of "
        f"{limits.repetition:.1%} ({first.repetition:.1%} at step {first.step}); distinct-2 is {last.distinct_2:.3f}, "
        f"from {first.distinct_2:.3f}."
    )
    return Finding("repetition", severity, text)


def eos_collapses(history: Sequence[Measurement], limits: Limits) -> Finding | None:
    """Fewer responses end by themselves than `eos_factor` times the first evaluation's share."""
    first, last = history[0], history[-1]
    limit = limits.eos_factor * first.eos_rate
    severity = _severity([at.eos_rate < limit for at in history])
    if severity is None:
        return None
    text = (
        f"{last.eos_rate:.1%} of the responses end with EOS at step {last.step}, below {limits.eos_factor:g} times the "
        f"{first.eos_rate:.1%} of step {first.step}."
    )
    return Finding("eos", severity, text)


def repetition(responses: Sequence[str | Sequence[Hashable]], n: int = 4) -> float:
    """The share of repeated n-grams, between 0 and 1: 1 - distinct / all within each response, the mean over them
    (seq-rep-n of Welleck et al. 2019, arXiv:1908.04319).

    A response with fewer than n tokens repeats nothing and counts as 0.

    Args:
        responses: token ids or, of texts, words at white space.
        n: the length of the n-grams.

    Raises:
        ValueError: on no responses, or n below 1.
    """
    _check(responses, n)
    shares = []
    for response in responses:
        grams = _ngrams(response, n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares)


def distinct_n(responses: Sequence[str | Sequence[Hashable]], n: int = 2) -> float:
    """distinct-n: the number of different n-grams in all responses over their number of tokens, between 0 and 1 (Li
    et al. 2016, arXiv:1510.03055). No n-gram reaches over two responses; 0 when there are no tokens.

    It falls as there are more tokens, whatever the model: compare it on the same prompts and at similar lengths.

    Args:
        responses: token ids or, of texts, words at white space.
        n: the length of the n-grams.

    Raises:
        ValueError: on no responses, or n below 1.
    """
    _check(responses, n)
    distinct = {gram for response in responses for gram in _ngrams(response, n)}
    tokens = sum(len(_ngrams(response, 1)) for response in responses)
    return len(distinct) / tokens if tokens else 0.0


def _severity(passed: Sequence[bool]) -> Severity | None:
    """From whether the limit was passed at each evaluation: one sample alone may be a chance."""
    if not passed[-1]:
        return None
    return "alarm" if len(passed) > 1 and passed[-2] else "warning"


def _trend(steps: Sequence[int], values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least-squares line's change from the first step to the last, and its standard error from the values'."""
    centre = sum(steps) / len(steps)
    spread = sum((step - centre) ** 2 for step in steps)
    # The change is a weighted sum of the values, so that their variances add with the weights squared.
    weights = [(step - centre) / spread * (steps[-1] - steps[0]) for step in steps]
    change = sum(weight * value for weight, (value, _) in zip(weights, values, strict=True))
    variance = sum((weight * se) ** 2 for weight, (_, se) in zip(weights, values, strict=True))
    return change, math.sqrt(variance)


def _ngrams(response: str | Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    tokens: Sequence[Hashable] = response.split() if isinstance(response, str) else response
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def _check(responses: Sequence[str | Sequence[Hashable]], n: int) -> None:
    if isinstance(responses, str):
        raise ValueError("need a list of responses, got one text")
    if not responses or n < 1:
        raise ValueError(f"need at least one response and n >= 1, got {len(responses)} and n = {n}")
