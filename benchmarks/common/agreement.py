"""Did two sides compute the same? Their losses, per-response numbers and first gradient, held against each other.

Before the first update both sides hold the same model, LoRA's A included (B is zero), so the first step must give the
same log-probs (or rewards), the same loss and a gradient of the same norm, to rounding. What the optimiser makes of the
gradient is in the losses of the steps that follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest difference allowed, in nats below a size of 1 and relative to the value above it."""

LATER_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""The same for the losses after the first update. In bfloat16 that moves policy and reference apart by less than either
is rounded by: DPO's loss is of beta times the difference of four log-probs of 100 nats and more."""

GRADIENT_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of two gradients' norms, relative. In float32 burnish takes columns of the output matrix together,
which moves a gradient by up to 4e-4 of its norm (burnish.ops.tiles.NEGLIGIBLE), and rounding adds 1e-5; in bfloat16
these are 4e-3 and, through some tens of layers that each round to 4e-3, a few hundredths."""

LISTED = 3


def distance(a: float, b: float) -> float:
    """How far apart two numbers are: absolute below a size of 1, relative above; infinite where one is no number."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(1.0, abs(b))


def proof_problems(peer: dict[str, Any], own: dict[str, Any], dtype: str) -> list[str]:
    """What does not agree of two proofs; empty where all does.

    A proof is `{"losses": [each step's, the one that warms up first], "grad_norm": the first step's, before clipping,
    "values": {example: [a number a response]}}`; `values` are the first step's.
    """
    allowed, problems = TOLERANCE[dtype], []
    if not peer["losses"] or len(peer["losses"]) != len(own["losses"]):
        problems.append(f"losses of {len(peer['losses'])} and {len(own['losses'])} steps")
    for step, (a, b) in enumerate(zip(peer["losses"], own["losses"], strict=False), start=1):
        most = allowed if step == 1 else LATER_TOLERANCE[dtype]
        if distance(a, b) > most:
            problems.append(f"the loss of step {step}: {a:.6f} and {b:.6f} (allowed: {most:g})")
            break  # from here on the weights differ
    a, b = peer["grad_norm"], own["grad_norm"]
    if not relative(a, b) <= GRADIENT_TOLERANCE[dtype]:
        share = GRADIENT_TOLERANCE[dtype]
        problems.append(f"the norm of the first step's gradient: {a:.6g} and {b:.6g} (allowed: a share of {share:g})")
    if peer["values"].keys() != own["values"].keys():
        only = sorted(peer["values"].keys() ^ own["values"].keys(), key=int)
        return [*problems, f"the first step's examples: only one side has {', '.join(only[:LISTED])} ..."]
    wrong = []
    for example, theirs in peer["values"].items():
        ours = own["values"][example]
        if len(theirs) != len(ours):
            problems.append(f"example {example} has {len(theirs)} and {len(ours)} responses")
        wrong += [(example, a, b) for a, b in zip(theirs, ours, strict=False) if distance(a, b) > allowed]
    if wrong:
        shown = "; ".join(f"example {example}: {a:.5f} and {b:.5f}" for example, a, b in wrong[:LISTED])
        problems.append(f"{len(wrong)} per-response values differ by more than {allowed:g}: {shown}")
    return problems


def relative(a: float, b: float) -> float:
    """How far apart two positive numbers are, relative to the second; infinite where one is not finite or not positive.

    A gradient of norm 0 agrees with nothing, not even with another: no side has learned anything then.
    """
    if not (math.isfinite(a) and math.isfinite(b) and a > 0 and b > 0):
        return math.inf
    return abs(a - b) / b


def largest_distance(peer: dict[str, Any], own: dict[str, Any]) -> dict[str, float]:
    """The largest differences of the first loss, of the later ones and of the per-response values, as `distance`
    counts, and the `relative` one of the gradient's norm; for the report."""
    pairs = [
        (a, b)
        for example, values in peer["values"].items()
        for a, b in zip(values, own["values"][example], strict=True)
    ]
    losses = [distance(a, b) for a, b in zip(peer["losses"], own["losses"], strict=True)]
    return {
        "loss": losses[0],
        "later_losses": max(losses[1:], default=0.0),
        "grad_norm": relative(peer["grad_norm"], own["grad_norm"]),
        "values": max(distance(a, b) for a, b in pairs),
    }


def token_problems(
    peer: Sequence[Sequence[tuple[int, float]]],
    own: Sequence[Sequence[tuple[int, float]]],
    dtype: str,
    *,
    steps: int,
) -> list[str]:
    """What does not agree of two greedy continuations, given as (token, log-prob) a step for each prompt.

    All answers must have `steps` tokens. Up to the first step at which the tokens differ all log-probs must agree.
    Differ may tokens only where they are as probable as each other: from there on the two sides answer different texts,
    and nothing is compared.
    """
    allowed, problems = TOLERANCE[dtype], []
    if len(peer) != len(own) or not peer:
        return [f"{len(peer)} and {len(own)} prompts"]
    cut = [i for i, both in enumerate(zip(peer, own, strict=True)) if {len(answer) for answer in both} != {steps}]
    if cut:
        first = cut[0]
        return [
            f"{len(cut)} answers are not of {steps} tokens: prompt {first} has {len(peer[first])} and {len(own[first])}"
        ]
    for prompt, (theirs, ours) in enumerate(zip(peer, own, strict=True)):
        for step, ((token, a), (other, b)) in enumerate(zip(theirs, ours, strict=True)):
            if distance(a, b) > allowed:
                problems.append(
                    f"prompt {prompt}, token {step + 1}: {token} with {a:.5f} nats and {other} with {b:.5f} nats"
                )
            if token != other or distance(a, b) > allowed:
                break
    return problems[:LISTED]


def largest_token_distance(
    peer: Sequence[Sequence[tuple[int, float]]], own: Sequence[Sequence[tuple[int, float]]]
) -> float:
    """The largest difference of the log-probs that `token_problems` holds against each other; for the report."""
    largest = 0.0
    for theirs, ours in zip(peer, own, strict=True):
        for (token, a), (other, b) in zip(theirs, ours, strict=True):
            largest = max(largest, distance(a, b))
            if token != other:
                break
    return largest
