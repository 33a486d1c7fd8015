"""The settings of the monitor and of the alignment-tax guard; no torch, so that `--help` is there at once."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from burnish.config import Config

# fmt: off
Part = Literal[
    "retention", "multiple_choice", "nats_per_token",
    "behaviours", "answers", "format", "harm", "lookalike", "abstain", "answerable", "topic", "open",
]
# fmt: on
Rule = Literal["max_drop", "max_rise", "min", "max"]


class MonitorConfig(Config):
    """Which part of the report card is measured while the model trains, and how often."""

    every: int | Literal["auto", "validation"] | None = None
    """Steps between two looks; `validation` for each validation of the stage; `auto` for as many looks as `share`
    allows. `auto` if not given, or `validation` where a guard may end the run: `auto` follows the clock. PPO is looked
    at between rollouts only."""
    share: float = Field(0.05, gt=0.0, lt=1.0)
    """Of the time, for `every: auto` alone: looks / (looks + steps). Those at start and end are always made."""
    parts: tuple[Part, ...] = ("retention", "answers")
    """What is measured: `retention` (`multiple_choice` and `nats_per_token`), `behaviours` (those of which the prompts
    have rows), or some of them by name."""
    prompts: str = "starter/evaluation"
    """The evaluation prompts: a JSON Lines file, or `starter/evaluation`."""
    prose: str = "starter/prose"
    """The held-out texts whose nats per token are measured: `starter/prose`, a JSON Lines file, or a directory of them,
    as in a report."""
    sample: int = Field(12, ge=1)
    """Prompts, shared evenly among the behaviours: a fixed sample."""
    questions: int = Field(40, ge=1)
    """Multiple-choice questions: a fixed sample."""
    characters: int = Field(400, ge=40)
    """Of each held-out text that are read, from its beginning."""
    max_new_tokens: int = Field(48, ge=1)
    """The longest answer, in tokens."""
    seed: int = Field(0, ge=0)
    """Of the samples and the intervals."""

    @field_validator("parts", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("parts")
    @classmethod
    def _some(cls, value: tuple[Part, ...]) -> tuple[Part, ...]:
        if not value:
            raise ValueError("name at least one part, as in [retention, answers]")
        return value

    @field_validator("every")
    @classmethod
    def _positive(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError("a number of steps is at least 1")
        return value


class Bound(Config):
    """Limits of one metric."""

    max_drop: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    """How far it may fall below the start's value."""
    max_rise: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    """How far it may rise above the start's value."""
    min: float | None = Field(None, allow_inf_nan=False)
    """The lowest value."""
    max: float | None = Field(None, allow_inf_nan=False)
    """The highest value."""

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("a bound needs max_drop, max_rise, min or max")
        return self


class GuardConfig(Config):
    """Bounds on the monitor's metrics, and what is done where one is passed.

    Changes are from the start's value, on the same prompts: in points of a rate (0.02 is 2 points), and as a share of
    `nats_per_token` and `tokens` (0.05 is 5 %).
    """

    retention: Bound | None = None
    """General ability: `{max_drop: 0.02}` is `multiple_choice: {max_drop: 0.02}, nats_per_token: {max_rise: 0.02}`."""
    multiple_choice: Bound | None = None
    """Accuracy on multiple-choice questions."""
    nats_per_token: Bound | None = None
    """Of held-out prose; lower is better."""
    answers: Bound | None = None
    """The rate of this behaviour, as of the next seven."""
    format: Bound | None = None
    harm: Bound | None = None
    lookalike: Bound | None = None
    abstain: Bound | None = None
    answerable: Bound | None = None
    topic: Bound | None = None
    open: Bound | None = None
    stops: Bound | None = None
    """How often an answer ends by itself."""
    tokens: Bound | None = None
    """The mean length of an answer."""
    action: Literal["warn", "stop", "rollback"] = "warn"
    """Say so; end the stage; or end it with the best weights that were inside the bounds."""
    sure: bool = True
    """Act only where the whole 95 % interval lies beyond the bound, not the number alone."""

    @property
    def bounds(self) -> dict[str, dict[Rule, float]]:
        """Metric -> rule -> limit; `retention` as its two halves, where they have no bound of their own."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name not in ("action", "sure")}
        found = {name: bound.model_dump(exclude_none=True) for name, bound in named.items() if bound is not None}
        if (tax := found.pop("retention", None)) is not None:
            found.setdefault("multiple_choice", {"max_drop": tax["max_drop"]})
            found.setdefault("nats_per_token", {"max_rise": tax["max_drop"]})
        return found

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        if self.retention is not None and set(self.retention.model_dump(exclude_none=True)) != {"max_drop"}:
            raise ValueError("retention takes max_drop only: its two halves have no other limit in common")
        if not self.bounds:
            raise ValueError("a guard needs a bound, as in retention: {max_drop: 0.02}")
        for name, rules in self.bounds.items():
            better = "lower" if name == "nats_per_token" else "higher"
            wrong = {"nats_per_token": "max_drop", "tokens": None}.get(name, "max_rise")
            if wrong in rules:
                right = "max_rise" if wrong == "max_drop" else "max_drop"
                raise ValueError(f"{better} is better for {name}, so {wrong} bounds no loss: it takes {right}")
            for rule in ("min", "max"):
                if name not in ("nats_per_token", "tokens") and not 0.0 <= rules.get(rule, 0.0) <= 1.0:
                    raise ValueError(f"{name} is a rate: {rule} lies in [0, 1]")
            if rules.get("max_drop", 0.0) >= 1.0:  # a rise may be more: nats and lengths can double
                halved = name == "multiple_choice" and self.multiple_choice is None
                whose = "retention bounds multiple_choice too, and " if halved else ""
                unit = "0.05 is 5 %" if name == "tokens" else "0.02 is 2 points"
                raise ValueError(f"{whose}{name} can't fall by 1 or more, so max_drop lies below 1: {unit}")
        return self

    @property
    def acts(self) -> bool:
        """Whether it may end the run."""
        return self.action != "warn"


def watching(monitor: MonitorConfig | None, guard: GuardConfig | None) -> MonitorConfig | None:
    """The monitor that runs: with a guard it measures what the bounds are about too; none if neither is asked for."""
    if guard is None:
        return None if monitor is None else monitor.model_copy(update={"every": monitor.every or "auto"})
    general = ("retention", "multiple_choice", "nats_per_token")
    parts: list[str] = list(() if monitor is None else monitor.parts)
    parts += [name for name in guard.bounds if name not in ("stops", "tokens", *parts)]
    if not set(parts) - set(general) and {"stops", "tokens"} & guard.bounds.keys():
        parts.append("answers")  # the end and the length of answers show in any answers
    every = (None if monitor is None else monitor.every) or ("validation" if guard.acts else "auto")
    return (monitor or MonitorConfig()).model_copy(update={"parts": tuple(parts), "every": every})
