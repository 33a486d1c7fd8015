"""What a task of EleutherAI's lm-evaluation-harness gave. Needs no harness itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HarnessResult:
    """One metric of one task.

    Attributes:
        task: its name, or that of a group of tasks.
        metric: as the harness calls it, with its `filter`.
        filter: what the harness did with the answers before.
        value: the harness's own number.
        stderr: its standard error by the harness, where it gives one.
        n: documents.
        higher_is_better: as the task says, None if it does not.
        samples: the documents' values where the metric is their mean, in the harness's order.
        truncated: requests of the task, or of its whole group, whose context was cut from the left.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool | None
    samples: tuple[float, ...] | None
    truncated: int

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> HarnessResult:
        """The result whose `asdict` went through JSON."""
        samples = kept["samples"]
        return cls(**{**kept, "samples": None if samples is None else tuple(samples)})

    @property
    def key(self) -> str:
        """Its name in the report."""
        plain = f"lm_eval.{self.task}.{self.metric}"
        return plain if self.filter == "none" else f"{plain}.{self.filter}"

    @property
    def is_rate(self) -> bool:
        """Whether every document counts as 0 or 1."""
        return self.samples is not None and all(value in (0.0, 1.0) for value in self.samples)
