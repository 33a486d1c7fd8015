"""Did two sides compute the same? Their first step's loss and per-response numbers, held against each other.

Before the first update both sides hold the same model (LoRA's B is zero), so the first step must give the same loss and
the same log-probs (or rewards), to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest difference allowed, in nats below a size of 1 and relative to the value above it."""

LISTED = 3


def distance(a: float, b: float) -> float:
    """How far apart two numbers are: absolute below a size of 1, relative above; infinite where one is no number."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(1.0, abs(b))


def proof_problems(peer: dict[str, Any], own: dict[str, Any], dtype: str) -> list[str]:
    """What does not agree of two proofs; empty where all does.

    A proof is `{"loss": the first step's, "values": {example: [a number a response]}}`.
    """
    allowed, problems = TOLERANCE[dtype], []
    if distance(peer["loss"], own["loss"]) > allowed:
        problems.append(f"the first step's loss: {peer['loss']:.6f} and {own['loss']:.6f} (allowed: {allowed:g})")
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


def largest_distance(peer: dict[str, Any], own: dict[str, Any]) -> tuple[float, float]:
    """(of the loss, the largest of the per-response values), as `distance` counts; for the report."""
    pairs = [
        (a, b)
        for example, values in peer["values"].items()
        for a, b in zip(values, own["values"][example], strict=True)
    ]
    return distance(peer["loss"], own["loss"]), max(distance(a, b) for a, b in pairs)


def token_problems(
    peer: Sequence[Sequence[tuple[int, float]]], own: Sequence[Sequence[tuple[int, float]]], dtype: str
) -> list[str]:
    """What does not agree of two greedy continuations, given as (token, log-prob) a step for each prompt.

    Up to the first step at which the tokens differ all log-probs must agree. Differ may tokens only where they are as
    probable as each other: from there on the two sides answer different texts, and nothing is compared.
    """
    allowed, problems = TOLERANCE[dtype], []
    if len(peer) != len(own):
        return [f"{len(peer)} and {len(own)} prompts"]
    for prompt, (theirs, ours) in enumerate(zip(peer, own, strict=True)):
        for step, ((token, a), (other, b)) in enumerate(zip(theirs, ours, strict=False)):
            if distance(a, b) > allowed:
                problems.append(
                    f"prompt {prompt}, token {step + 1}: {token} with {a:.5f} nats and {other} with {b:.5f} nats"
                )
            if token != other or distance(a, b) > allowed:
                break
    return problems[:LISTED]
