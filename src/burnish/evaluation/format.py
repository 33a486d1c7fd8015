"""Does an answer follow the form that was asked for?

Every constraint type is registered once this module is imported; `constraint.py` says what a type is.
"""

from __future__ import annotations

from collections.abc import Sequence

# Imported to be registered.
from burnish.evaluation import constraints_shape as constraints_shape
from burnish.evaluation import constraints_words as constraints_words
from burnish.evaluation.answers import Answer, Verdict, accept, reject, says_something, stops
from burnish.evaluation.constraint import CONSTRAINTS, Constraint, parse_constraint, parse_constraints

__all__ = ["CONSTRAINTS", "Constraint", "follows_format", "held", "parse_constraint", "parse_constraints"]


def follows_format(answer: Answer, constraints: Sequence[Constraint]) -> Verdict:
    """The answer is not empty, the model ends it with its own stop token within the limit, and every constraint
    of the prompt holds for the whole answer (each constraint's rule is listed below)."""
    for verdict in (says_something(answer), stops(answer)):
        if not verdict:
            return verdict
    for item in constraints:
        failure = item.failure(answer.text)
        if failure is not None:
            return reject(f"{item}: {failure}")
    return accept("meets " + ", ".join(str(item) for item in constraints))


def held(answer: Answer, constraints: Sequence[Constraint]) -> tuple[bool, ...]:
    """Which of the constraints hold. None does for an answer that is empty or does not end, so that a prompt never
    passes more often than its constraints do (IFEval's instruction-level accuracy, strict)."""
    counts = bool(says_something(answer)) and bool(stops(answer))
    return tuple(counts and item.failure(answer.text) is None for item in constraints)
