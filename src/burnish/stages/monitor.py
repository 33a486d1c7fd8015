"""The monitor: a light part of the report card, measured on the model while it trains; and the guard over its bounds.

Looking changes no weight: answers are greedy, nothing of it is drawn from the generators that training uses, and these
are put back all the same.

OUT/monitor/step-N.json    what was measured after N steps, unit by unit
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from burnish.errors import ConfigError, ModelError, NotFiniteError, TrainingError
from burnish.evaluation.answers import Responder
from burnish.evaluation.bounds import TOKENS, Outcomes, Reading, not_a_number, outcomes_of, read_bound
from burnish.evaluation.intervals import MIN_PAIRS
from burnish.evaluation.light import MULTIPLE_CHOICE, NATS_PER_TOKEN, expand_parts, light_suite
from burnish.evaluation.public_sets import set_fingerprint
from burnish.evaluation.retention import choice_prompt, demand_finite
from burnish.evaluation.rows import BEHAVIOUR_NAMES
from burnish.evaluation.suite import Card, Suite, evaluate
from burnish.files import write_json
from burnish.models.fingerprint import data_fingerprint
from burnish.models.roles import Role
from burnish.rollout.responder import ModelResponder
from burnish.rollout.speakers import Speaker
from burnish.stages.checkpoint import random_state_kept
from burnish.stages.config import PolicyConfig, TrainConfig
from burnish.stages.monitor_config import GuardConfig, MonitorConfig
from burnish.stages.run import MONITOR, Run

if TYPE_CHECKING:
    from burnish.stages.setup import Ground

GUARD = "guard"
"""What run.json calls the evidence."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        step: after so many steps.
        metrics: under `monitor/` and `guard/`, as metrics.jsonl has them; none where one is not a number.
        readings: the bounds held against it; empty without a guard.
        passed: the bounds for which the guard acts.
        not_finite: what was not finite, where the weights give no numbers, in this look or in the validation before it.
    """

    step: int
    metrics: dict[str, float | None]
    readings: tuple[Reading, ...] = ()
    passed: tuple[Reading, ...] = ()
    not_finite: str | None = None

    @property
    def inside(self) -> bool:
        """Whether every number lies inside its bounds, whatever its interval: only such weights are kept."""
        return self.not_finite is None and not any(reading.outside for reading in self.readings)

    @property
    def why(self) -> str:
        """Why the guard acts, with the numbers."""
        return "; ".join(filter(None, [self.not_finite, *(reading.text for reading in self.passed)]))


def read_suite(config: TrainConfig) -> Suite | None:
    """What the monitor asks, or none where nothing is monitored. No model is needed for it.

    Raises:
        DataError: the prompts can't be used.
        ConfigError: the sample is too small for the parts, or for a guard that is to be sure.
    """
    settings = config.watched if isinstance(config, PolicyConfig) else None
    if settings is None:
        return None
    suite = light_suite(
        settings.parts,
        prompts=settings.prompts,
        prose=settings.prose,
        sample=settings.sample,
        questions=settings.questions,
        characters=settings.characters,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
    )
    guard = config.guard if isinstance(config, PolicyConfig) else None
    if guard is not None and guard.sure:
        for metric in guard.bounds:
            if (n := _units(suite, metric)) < MIN_PAIRS:
                raise ConfigError(
                    f"the guard is to be sure of {metric!r}, and {n} of it are measured: no interval of so few is sure",
                    where=f"guard.{metric}",
                    fix=f"let {_source(metric)} give {MIN_PAIRS} of it, or say guard.sure: false",
                )
    return suite


def _units(suite: Suite, metric: str) -> int:
    if metric == MULTIPLE_CHOICE:
        return len(suite.choices)
    if metric == NATS_PER_TOKEN:
        return len(suite.prose)
    return sum(metric in (row.behaviour, "stops", TOKENS) for row in suite.rows)


def _source(metric: str) -> str:
    """The settings that say how much of a metric is measured."""
    named = {MULTIPLE_CHOICE: "monitor.questions", NATS_PER_TOKEN: "monitor.prose"}
    return named.get(metric, "monitor.sample, and monitor.prompts,")


def watched_inputs(settings: MonitorConfig) -> dict[str, str]:
    """Setting -> hash of the content of each file that the looks read."""
    parts, found = expand_parts(settings.parts), {}
    if set(parts) & set(BEHAVIOUR_NAMES):
        found["monitor.prompts"] = set_fingerprint(settings.prompts)
    if NATS_PER_TOKEN in parts:
        found["monitor.prose"] = data_fingerprint(settings.prose)
    return found


def make_monitor(config: PolicyConfig, ground: Ground, policy: Role, run: Run, console: Console) -> Monitor | None:
    """The monitor of a stage, looking at its policy at temperature 1; none where none is asked for."""
    suite, settings = read_suite(config), config.watched
    if suite is None or settings is None:
        return None
    speaker = Speaker("policy", policy.at(1.0), ground.tokenizer, ground.template, ground.stop_ids)
    return Monitor(settings, config.guard, suite, speaker, run, console)


@dataclass
class Monitor:
    """Looks at a policy now and then, and holds what it finds against the guard's bounds.

    Attributes:
        settings: parts, sample, how often.
        guard: the bounds, or none.
        suite: what is asked.
        speaker: who is asked: the policy.
        run: where the evidence goes.
        console: where a passed bound is said, once.
        seconds: spent on looking, in all.
        looks: how many there were.
        last: the step of the latest.
    """

    settings: MonitorConfig
    guard: GuardConfig | None
    suite: Suite
    speaker: Speaker
    run: Run
    console: Console
    seconds: float = 0.0
    looks: int = 0
    last: int = 0
    _start: dict[str, Outcomes] = field(default_factory=dict)
    _reached: set[str] = field(default_factory=set)
    """`min` and `max` bounds that were met once: a model that has yet to come there passes no such bound."""
    _said: set[str] = field(default_factory=set)

    @property
    def keeps_inside(self) -> bool:
        """Whether only weights inside the bounds may be kept as the best."""
        return self.guard is not None and self.guard.action == "rollback"

    def due(self, done: int, n_steps: int, trained: float, *, validates: bool) -> bool:
        """Whether there is a look after `done` steps (the start and the end apart, at which there always is one).

        Args:
            done: steps done.
            n_steps: of the run.
            trained: seconds that the steps have taken.
            validates: whether there is a validation.
        """
        every = self.settings.every
        if every == "validation":
            return validates
        if isinstance(every, int):
            return done - self.last >= every
        return self._affordable(done, n_steps, trained)

    def _affordable(self, done: int, n_steps: int, trained: float) -> bool:
        """For `auto`: what the budget leaves, less the look at the end, is spread evenly over the steps to come."""
        budget = self.settings.share / (1.0 - self.settings.share) * trained * n_steps / done
        cost = self.seconds / max(1, self.looks)
        left = math.floor((budget - self.seconds) / cost) - 1 if cost > 0.0 else n_steps
        return left >= 1 and done - self.last >= (n_steps - self.last) / (left + 1)

    def share(self, trained: float) -> float:
        """Looks / (looks + steps), of the time so far."""
        return self.seconds / max(1e-9, self.seconds + trained)

    def look(
        self,
        done: int,
        trained: float,
        between: Callable[[str, int, int], None],
        *,
        ends: bool = False,
        not_finite: str | None = None,
    ) -> Look:
        """Measure the policy after `done` steps and hold the bounds against it.

        Args:
            done: steps done; 0 is the start, from which changes count.
            trained: seconds that the steps have taken.
            between: told of the progress; what it raises ends the look without a trace.
            ends: whether weights that give no numbers are beyond every bound, which ends the run; else they are an
                error.
            not_finite: what the validation of these weights has found not to be finite.

        Raises:
            TrainingError: the model gives log-probabilities that are not finite, and that is not what `ends` the run.
        """
        started, card = time.perf_counter(), None
        try:
            card = self._ask(between)
        except ModelError as error:
            if not (ends and isinstance(error, NotFiniteError)):
                raise TrainingError(
                    f"the monitor after step {done}: {error.what}; training stopped, the last checkpoint is kept",
                    where=str(self.run.checkpoints),
                    fix="lower the learning rate, or use --dtype float32",
                ) from error
            not_finite = "; ".join(filter(None, [not_finite, f"{error.what} ({error.where})"]))
        found = None if card is None else outcomes_of(card)
        if done == 0 and found is not None:
            self._start = found
        readings = self._read(found)
        passed = tuple(reading for reading in readings if self._acts_on(reading, done))
        self.seconds += time.perf_counter() - started
        self.looks, self.last = self.looks + 1, done
        values = {name: None if found is None else found[name].value for name in found or self._start}
        metrics = {f"monitor/{name}": value for name, value in values.items()}
        metrics |= {"monitor/seconds": self.seconds, "monitor/share": self.share(trained)}
        if readings:
            metrics["guard/outside"] = float(sum(reading.outside for reading in readings))
            metrics["guard/passed"] = float(len(passed))
        look = Look(done, metrics, readings, passed, not_finite)
        self._write(look, values, card)
        self._note(look)
        return look

    def _ask(self, between: Callable[[str, int, int], None]) -> Card:
        with random_state_kept():
            responder: Any = ModelResponder(self.speaker)
            if not (self.suite.choices or self.suite.prose):
                _demand_numbers(responder, self.suite)
            return evaluate(responder, self.suite, progress=between)

    def _read(self, found: Mapping[str, Outcomes] | None) -> tuple[Reading, ...]:
        bounds = {} if self.guard is None else self.guard.bounds
        return tuple(
            not_a_number(metric, rule, limit, self._start[metric])
            if found is None
            else read_bound(metric, rule, limit, self._start[metric], found[metric], seed=self.settings.seed)
            for metric, rules in bounds.items()
            for rule, limit in rules.items()
        )

    def _acts_on(self, reading: Reading, done: int) -> bool:
        if reading.value is None:
            return True
        name = f"{reading.metric}.{reading.rule}"
        if not reading.outside:
            self._reached.add(name)
        if reading.change is None and name not in self._reached:
            if done == 0:
                self.console.print(f"guard: {reading.text}; it counts once it was met", style="yellow", highlight=False)
            return False
        return reading.sure if self.guard is not None and self.guard.sure else reading.outside

    def _write(self, look: Look, values: Mapping[str, float | None], card: Card | None) -> None:
        """OUT/monitor/step-N.json."""
        answers = [
            {"id": r.row.id, "behaviour": r.row.behaviour, "answer": r.text, "passed": r.passed, "why": r.why}
            | {"tokens": r.n_tokens, "finished": r.finished}
            for r in ([] if card is None else card.records)
        ]
        retention = {} if card is None or card.retention is None else asdict(card.retention)
        broken = {} if look.not_finite is None else {"not_finite": look.not_finite}
        write_json(
            self.run.out / MONITOR / f"step-{look.step:06d}.json",
            {"step": look.step, "metrics": values, **broken, "answers": answers, "retention": retention},
        )

    def _note(self, look: Look) -> None:
        """Put what lies outside into run.json, and say each passed bound once."""
        if self.guard is None:
            return
        if look.not_finite is not None:
            said = f"guard, step {look.step}: {look.not_finite}"  # holds a text's id, which the user chose
            self.console.print(said, style="red", highlight=False, markup=False)
        for reading in look.passed:
            name = f"{reading.metric}.{reading.rule}"
            if name not in self._said:
                self._said.add(name)
                self.console.print(f"guard, step {look.step}: {reading.text}", style="red", highlight=False)
        before = self.run.record.get(GUARD, {}).get("looks", [])
        looks = [entry for entry in before if entry["step"] < look.step]
        if not look.inside:
            acts = [f"{reading.metric}.{reading.rule}" for reading in look.passed]
            broken = {} if look.not_finite is None else {"not_finite": look.not_finite}
            readings = [asdict(reading) for reading in look.readings]
            looks.append({"step": look.step, "passed": acts, **broken, "readings": readings})
        self.run.note(**{GUARD: {"settings": self.guard.model_dump(exclude_none=True), "looks": looks}})

    def conclude(self, kept: Look | None, trained: float) -> dict[str, Any]:
        """What the run's record says at the end: the cost, and whether the kept model lies inside the bounds.

        Args:
            kept: the look at the weights that the model is of; none where there was none at that step.
            trained: seconds that the steps have taken.
        """
        found: dict[str, Any] = {"monitor_seconds": self.seconds, "monitor_share": self.share(trained)}
        if kept is not None:
            found |= {name: value for name, value in kept.metrics.items() if name.startswith("monitor/")}
            for name in ("monitor/seconds", "monitor/share"):
                found.pop(name)
        if self.guard is not None:
            inside = None if kept is None else kept.inside
            found["within_bounds"] = inside
            readings = [] if kept is None else [asdict(reading) for reading in kept.readings]
            decision = {"within_bounds": inside, "readings": readings}
            self.run.note(**{GUARD: {**self.run.record.get(GUARD, {}), "kept": decision}})
        return found

    # ---- what is carried ----

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON keeps it."""
        return {
            "seconds": self.seconds,
            "looks": self.looks,
            "last": self.last,
            "start": {name: outcomes.as_dict() for name, outcomes in self._start.items()},
            "reached": sorted(self._reached),
            "said": sorted(self._said),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.seconds, self.looks, self.last = float(state["seconds"]), int(state["looks"]), int(state["last"])
        self._start = {name: Outcomes.of(plain) for name, plain in state["start"].items()}
        self._reached, self._said = set(state["reached"]), set(state["said"])
        for path in (self.run.out / MONITOR).glob("step-*.json"):
            if int(path.stem.removeprefix("step-")) > self.last:
                path.unlink()  # of a life that was cut off


def _demand_numbers(responder: Responder, suite: Suite) -> None:
    """Greedy answers come of NaN too, the same at every step and without an error: the prompts are read first, as raw
    text. Choices and prose are read anyway.

    Raises:
        NotFiniteError: the model gives a log-probability that is not finite.
    """
    texts = [choice_prompt(row.messages[-1].content) for row in suite.rows]  # two tokens or more, whatever the prompt
    for row, (nats, _) in zip(suite.rows, responder.nats(texts), strict=True):
        demand_finite([nats], responder.name, row.id)


def look_as_dict(look: Look | None) -> dict[str, Any] | None:
    """A look as JSON keeps it."""
    return None if look is None else asdict(look)


def look_of(plain: Mapping[str, Any] | None) -> Look | None:
    """From `look_as_dict`."""
    if plain is None:
        return None
    readings, passed = ([Reading(**reading) for reading in plain[name]] for name in ("readings", "passed"))
    return Look(plain["step"], dict(plain["metrics"]), tuple(readings), tuple(passed), plain.get("not_finite"))
