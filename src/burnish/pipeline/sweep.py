"""A recipe at every point of a grid of settings, and what each point gives in alignment and keeps in general ability.

OUT/NAME/                the results of all points; a stage on which nothing differs is computed once for all of them
OUT/points/POINT/STAGE   links to the results of one point
OUT/sweep.json           every point: its settings, where it lies, what was measured
OUT/sweep.html           the same as a table and a figure; OUT/sweep.png is the figure, where matplotlib is installed
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from burnish.errors import BurnishError, ConfigError, Interrupted
from burnish.evaluation.frontier import mean_rate, pareto_best
from burnish.evaluation.intervals import Mean, Rate, bootstrap_mean
from burnish.evaluation.retention import ProseRecord, prose_unit
from burnish.evaluation.rows import BEHAVIOUR_NAMES
from burnish.files import atomic_write, write_json
from burnish.pipeline.graph import Stage
from burnish.pipeline.grid import demand_apart, file_name, read_settings
from burnish.pipeline.recipe import Recipe, load_recipe
from burnish.pipeline.report_config import ReportConfig
from burnish.pipeline.run import run_recipe
from burnish.rollout.endpoint import is_endpoint

RetentionName = Literal["nats_per_token", "nats_per_byte", "multiple_choice"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's place: alignment (a rate, higher is better) and retention, with everything else that was measured.

    Attributes:
        label: what the recipe's report calls it.
        directory: of the card that it was read from.
        alignment: the mean of the behaviours' rates, or the rate of one.
        retention: nats per token or per byte of held-out prose, or accuracy of multiple choice.
        rates: behaviour -> rate.
        nats_per_token: of held-out prose.
        multiple_choice: accuracy.
        prose: what the nats are of, text by text.
        seed: of the card's intervals.
    """

    label: str
    directory: str
    alignment: Mean
    retention: Mean
    rates: Mapping[str, float]
    nats_per_token: float
    multiple_choice: float
    prose: tuple[ProseRecord, ...] = ()
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """What sweep.json holds; the texts and the seed are in the card."""
        return {name: value for name, value in asdict(self).items() if name not in ("prose", "seed")}


@dataclass
class Point:
    """One point of the grid.

    Attributes:
        name: its settings in short, `dpo.beta=0.1`.
        settings: key -> value.
        recipe: checked, with its report taken apart into one card for each model.
        state: `waiting`, `done` or `failed`.
        error: what went wrong: what, where, fix.
        stages: stage -> directory of its result.
        measured: of each model of the recipe's report; the last one is what the sweep is about.
        best: whether no other point beats it at alignment and retention both.
    """

    name: str
    settings: dict[str, Any]
    recipe: Recipe
    state: Literal["waiting", "done", "failed"] = "waiting"
    error: dict[str, str | None] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    best: bool = False


@dataclass(frozen=True)
class Sweep:
    """What a sweep gave.

    Attributes:
        recipe: the recipe's path.
        out: its directory.
        axes: key -> the values that it takes.
        alignment: `mean`, or a behaviour.
        retention: `nats_per_token` (lower is better) or `multiple_choice`; `nats_per_byte` for the former where the
            models' tokenizers differ.
        subject: the model of the recipe's report that the points are about.
        points: in the order of the grid.
        baselines: the other models of the report, each once.
    """

    recipe: str
    out: Path
    axes: Mapping[str, Sequence[Any]]
    alignment: str
    retention: RetentionName
    subject: str
    points: tuple[Point, ...]
    baselines: tuple[Measured, ...]

    @property
    def in_nats(self) -> bool:
        """Whether retention is nats of prose, of which fewer are better."""
        return self.retention != "multiple_choice"

    @property
    def failed(self) -> list[Point]:
        """The points that failed."""
        return [point for point in self.points if point.state == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """What sweep.json holds."""
        points = []
        for point in self.points:
            plain = {name: getattr(point, name) for name in ("name", "settings", "state", "error", "stages")}
            measured = {label: found.as_dict() for label, found in point.measured.items()}
            points.append({**plain, "pareto_best": point.best, "measured": measured})
        about = {name: getattr(self, name) for name in ("recipe", "axes", "alignment", "retention", "subject")}
        return {"format": 1, **about, "points": points, "baselines": [found.as_dict() for found in self.baselines]}


def run_sweep(
    recipe: str | Path,
    settings: Sequence[str],
    *,
    out: Path,
    alignment: str = "mean",
    retention: Literal["nats_per_token", "multiple_choice"] = "nats_per_token",
    model: str | None = None,
    console: Console | None = None,
) -> Sweep:
    """Run a recipe at every point of a grid. The same call again does what is left.

    All points are checked before the first one runs. A point that fails is noted, and the others go on.

    Args:
        recipe: a YAML file, or `starter/NAME`; its report says which models are measured, and how.
        settings: `key=value` for every point, or `key=value,value,...` for an axis of the grid.
        out: the sweep's directory.
        alignment: `mean` of the behaviours' rates, or one behaviour.
        retention: what is kept of general ability: `nats_per_token` (per byte where tokenizers differ) or
            `multiple_choice`.
        model: which model of the recipe's report the points are about; the last one if not given.
        console: where progress goes; standard error if not given.

    Raises:
        ConfigError: no axis, no report in the recipe, an unknown name, a behaviour without prompts, or a point that the
            recipe does not allow.
        DataError: prompts, questions or texts that can't be used.
        Interrupted: a signal; finished stages stay.
    """
    console = console or Console(stderr=True)
    axes, fixed = read_settings(settings)
    if alignment not in ("mean", *BEHAVIOUR_NAMES):
        known = ", ".join(("mean", *BEHAVIOUR_NAMES))
        raise ConfigError(f"no behaviour is called {alignment!r}", where="alignment", fix=f"one of {known}")
    points = [_point(recipe, axes, values, fixed) for values in itertools.product(*axes.values())]
    demand_apart([point.name for point in points], "sweep", "points")
    report = _report_of(points[0].recipe)
    subject = _subject(report, model)
    _demand_prompts(points, alignment)
    sweep = Sweep(str(recipe), out, axes, alignment, retention, subject, tuple(points), ())
    for number, point in enumerate(points, start=1):
        console.print(Text(f"\npoint {number} of {len(points)}: {point.name}", style="bold"), highlight=False)
        try:
            _run_point(point, report, sweep, console)
        except Interrupted:
            raise
        except Exception as error:
            if not isinstance(error, BurnishError):
                error = BurnishError(f"unexpected {type(error).__name__}: {error}")
            point.state = "failed"
            point.error = {"what": error.what, "where": error.where, "fix": error.fix}
            console.print(Text(f"point {point.name} failed: {error}", style="red"))
        sweep = _write(sweep)  # after each point, so that a sweep that is cut off shows what it has
    return sweep


def _point(recipe: str | Path, axes: Mapping[str, Any], values: Sequence[Any], fixed: Sequence[str]) -> Point:
    settings = dict(zip(axes, values, strict=True))
    overrides = [*fixed, *(f"{key}={json.dumps(value)}" for key, value in settings.items())]
    name = ",".join(f"{key}={value}" for key, value in settings.items())
    return Point(name, settings, _one_card_a_model(load_recipe(recipe, overrides)))


def _one_card_a_model(recipe: Recipe) -> Recipe:
    """The recipe with a report for each model of its report, so that a model that several points share is measured
    once."""
    reports = [stage.name for stage in recipe.stages if isinstance(stage.config, ReportConfig)]
    if len(reports) > 1:
        raise ConfigError(
            f"the recipe has {len(reports)} reports ({', '.join(reports)}), and a sweep compares its points by one",
            where=str(recipe.path),
            fix="leave one of them in",
        )
    return replace(recipe, stages=tuple(part for stage in recipe.stages for part in _cards(stage)))


def _cards(stage: Stage) -> Iterator[Stage]:
    config = stage.config
    if not isinstance(config, ReportConfig):
        yield stage
        return
    _demand_single(stage.name, config)
    demand_apart(list(config.models), f"stages.{stage.name}.models", "models")
    for label, target in config.models.items():
        prices = {name: price for name, price in config.prices.items() if name == label}
        card = config.model_copy(update={"models": {label: target}, "prices": prices})
        yield replace(stage, name=_card_name(stage.name, label), config=card)


def _demand_single(stage: str, config: ReportConfig) -> None:
    """Refuse what a report of a single local model can't have, before hours of training."""
    alone = "a sweep measures every model in a report of its own: there is nothing to compare with"
    wrong = {name: alone for name in ("judge", "baseline") if getattr(config, name) is not None}
    for label, model in config.models.items():
        if is_endpoint(model):
            wrong[f"models.{label}"] = "a sweep needs retention, which an endpoint does not give"
    for place, why in wrong.items():
        fix = "leave it out, and compare the best points with burnish report"
        raise ConfigError(why, where=f"stages.{stage}.{place}", fix=fix)


def _card_name(report: str, label: str) -> str:
    return f"{report}-{file_name(label)}"


def _report_of(recipe: Recipe) -> list[Stage]:
    """The cards of the recipe's report, in its order."""
    cards = [stage for stage in recipe.stages if isinstance(stage.config, ReportConfig)]
    if not cards:
        raise ConfigError(
            "a sweep compares its points by the recipe's report, and there is none",
            where=str(recipe.path),
            fix="add a stage report, as in report: {models: {raw: model, dpo: dpo}, sample: 70}",
        )
    return cards


def _demand_prompts(points: Sequence[Point], alignment: str) -> None:
    """Refuse an alignment that is a behaviour of which a point's report has no prompts, before hours of training."""
    from burnish.pipeline.report import read_suite

    held: dict[tuple[Any, ...], list[str]] = {}
    for point in points:
        for card in _report_of(point.recipe):
            config = card.config
            assert isinstance(config, ReportConfig)
            asked = (config.prompts, config.choices, config.prose, config.sample, config.seed)
            if asked not in held:
                behaviours = {row.behaviour for row in read_suite(config).rows}
                held[asked] = [name for name in BEHAVIOUR_NAMES if name in behaviours]
            if alignment not in ("mean", *held[asked]):
                raise ConfigError(
                    f"the report has no prompts of {alignment!r}, which alignment is to be",
                    where=f"alignment, point {point.name}",
                    fix=f"one of mean, {', '.join(held[asked])}; or name other prompts in the recipe's report",
                )


def _label(card: Stage) -> str:
    assert isinstance(card.config, ReportConfig)
    return next(iter(card.config.models))


def _seed(card: Stage) -> int:
    assert isinstance(card.config, ReportConfig)
    return card.config.seed


def _subject(cards: Sequence[Stage], model: str | None) -> str:
    labels = [_label(card) for card in cards]
    if model is not None and model not in labels:
        raise ConfigError(f"the report has no model {model!r}", where="model", fix=f"one of {', '.join(labels)}")
    return model or labels[-1]


def _run_point(point: Point, cards: Sequence[Stage], sweep: Sweep, console: Console) -> None:
    result = run_recipe(point.recipe, runs_dir=sweep.out, console=console)
    point.stages = {name: os.path.relpath(path, sweep.out) for name, path in result.results.items()}
    for card in cards:
        label = _label(card)
        point.measured[label] = read_card(
            result.results[card.name], label, sweep.alignment, sweep.retention, sweep.out, seed=_seed(card)
        )
    point.state = "done"
    folder = sweep.out / "points" / file_name(point.name)
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in result.results.items():
        link = folder / name
        if link.is_symlink():
            link.unlink()
        if not link.exists():
            link.symlink_to(os.path.relpath(path, folder), target_is_directory=True)


def read_card(
    directory: Path, label: str, alignment: str, retention: RetentionName, out: Path, *, seed: int = 0
) -> Measured:
    """A model's place from the report.json of a card, which holds prompts of the behaviour that alignment is to be;
    `seed` is the report's."""
    found = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    passed: dict[str, list[bool]] = {}
    for record in found["records"][label]:
        passed.setdefault(record["behaviour"], []).append(record["passed"])
    kept = found["retention"][label]
    prose = tuple(ProseRecord(**text) for text in kept["prose"])
    nats = _nats(prose, "token", seed)
    right = Rate.of([choice["right"] for choice in kept["choices"]])
    accuracy = Mean(right.value, right.interval, right.n)
    return Measured(
        label=label,
        directory=os.path.relpath(directory, out),
        alignment=mean_rate(passed if alignment == "mean" else {alignment: passed[alignment]}),
        retention=accuracy if retention == "multiple_choice" else nats,
        rates={name: sum(values) / len(values) for name, values in passed.items()},
        nats_per_token=nats.value,
        multiple_choice=accuracy.value,
        prose=prose,
        seed=seed,
    )


def _nats(prose: Sequence[ProseRecord], unit: Literal["token", "byte"], seed: int) -> Mean:
    units = [text.tokens if unit == "token" else text.bytes for text in prose]
    return bootstrap_mean([text.nats for text in prose], weights=units, seed=seed)


def _comparable(sweep: Sweep) -> Sweep:
    """The sweep with its nats per byte where its models' tokenizers differ: per token they would not compare."""
    done = [point for point in sweep.points if point.state == "done"]
    unit = prose_unit(found.prose for point in done for found in point.measured.values())
    if not sweep.in_nats or unit == "token":
        return sweep
    for point in done:
        point.measured = {
            label: replace(found, retention=_nats(found.prose, "byte", found.seed))
            for label, found in point.measured.items()
        }
    return replace(sweep, retention="nats_per_byte")


def _write(sweep: Sweep) -> Sweep:
    """Mark the points that no other beats, and write everything."""
    from burnish.pipeline.sweep_page import render_page, write_png

    done = [point for point in sweep.points if point.state == "done"]
    sweep = _comparable(sweep)
    sign = -1.0 if sweep.in_nats else 1.0
    places = [point.measured[sweep.subject] for point in done]
    best = pareto_best([(place.alignment.value, sign * place.retention.value) for place in places])
    for point, is_best in zip(done, best, strict=True):
        point.best = is_best
    others = {found.directory: found for p in done for label, found in p.measured.items() if label != sweep.subject}
    sweep = replace(sweep, baselines=tuple(others.values()))
    write_json(sweep.out / "sweep.json", sweep.to_dict())
    atomic_write(sweep.out / "sweep.html", render_page(sweep))
    write_png(sweep, sweep.out / "sweep.png")
    return sweep
