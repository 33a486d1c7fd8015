"""Running a recipe: what is done already stays, what was cut off goes on, the rest is computed.

RUNS/NAME/recipe.json           which results belong to the recipe as it was last run, and what each depends on
RUNS/NAME/STAGE-HASH/           a result; the hash is of all that it depends on
RUNS/NAME/STAGE                 a link to the stage's last result
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from burnish.data.sources import load_examples
from burnish.errors import ConfigError, OutputDirError
from burnish.files import write_json
from burnish.models.fingerprint import digest
from burnish.pipeline.depends import PLACES, depends_on, input_hash
from burnish.pipeline.graph import RAW, Stage
from burnish.pipeline.recipe import Recipe, load_recipe
from burnish.pipeline.report_config import ReportConfig
from burnish.stages.config import PolicyConfig, TrainConfig
from burnish.stages.run import model_of, versions

HASH_LENGTH = 12
State = Literal["done", "resume", "new"]


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage of a recipe with its place on disk.

    Attributes:
        stage: from the recipe.
        out: the directory of its result.
        depends: hashes of everything that the result depends on, by name.
        state: done, to be resumed, or to be computed.
    """

    stage: Stage
    out: Path
    depends: Mapping[str, str]
    state: State

    @property
    def product(self) -> Path:
        """The model or the report's page."""
        return self.out / ("report.html" if self.stage.kind == "report" else "model")


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """What a recipe leaves behind.

    Attributes:
        directory: RUNS/NAME.
        products: stage -> its model's directory or its report's page, under the readable name.
        results: stage -> its directory, which no later run of the recipe with other settings takes over.
        computed: the stages that this call computed or took up again; the others were done before.
    """

    directory: Path
    products: Mapping[str, Path]
    results: Mapping[str, Path]
    computed: tuple[str, ...]


def run_recipe(
    recipe: str | Path | Recipe,
    overrides: Sequence[str] = (),
    *,
    runs_dir: Path = Path("runs"),
    console: Console | None = None,
) -> RecipeResult:
    """Run a recipe's stages in order, each unless its result is there.

    Args:
        recipe: a YAML file, `starter/NAME`, or what `load_recipe` gave.
        overrides: `key=value`; see `load_recipe`.
        runs_dir: results go to a directory of the recipe's name in it.
        console: where progress is printed; standard error if not given.

    Raises:
        BurnishError: from the recipe or from a stage; finished stages stay, an interrupted one can be resumed.
    """
    console = console or Console(stderr=True)
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    directory = runs_dir / loaded.name
    with _locked(directory):
        plan = plan_recipe(loaded, directory)
        before = _read_index(directory)
        _show_plan(plan, before, loaded, directory, console)
        _check_data(plan, console)
        computed = []
        for number, planned in enumerate(plan, start=1):
            if planned.state != "done":
                head = f"\n[{number}/{len(plan)}] {planned.stage.name}"
                console.print(Text(head, style="bold"), highlight=False)
                started = time.monotonic()
                _run_stage(planned, plan, loaded, console)
                took = _duration(time.monotonic() - started)
                console.print(Text(f"{planned.stage.name}: done in {took}, {_shown(planned.out)}"))
                computed.append(planned.stage.name)
            _link(directory / planned.stage.name, planned.out)
            before[planned.stage.name] = {"directory": planned.out.name, "depends": dict(planned.depends)}
            write_json(directory / "recipe.json", {"name": loaded.name, "model": loaded.model, "stages": before})
    linked = {p.stage.name: directory / p.stage.name / p.product.name for p in plan}
    products = {p.stage.name: linked[p.stage.name] if linked[p.stage.name].exists() else p.product for p in plan}
    return RecipeResult(directory, products, {p.stage.name: p.out for p in plan}, tuple(computed))


# ---- planning ----


def plan_recipe(recipe: Recipe, directory: Path) -> list[Planned]:
    """Say for each stage where its result lies and whether it is there.

    Raises:
        ModelError: when the recipe's model does not exist.
    """
    plan: list[Planned] = []
    hashes: dict[str, str] = {}
    for stage in recipe.stages:
        inputs = {name: hashes.get(name) or input_hash(name, recipe.model) for name in stage.inputs}
        depends = depends_on(stage, inputs)
        hashes[stage.name] = digest(depends)
        out = directory / f"{stage.name}-{hashes[stage.name][:HASH_LENGTH]}"
        plan.append(Planned(stage, out, depends, _state(stage, out)))
    return plan


def _state(stage: Stage, out: Path) -> State:
    try:
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "new"
    product = out / ("report.html" if stage.kind == "report" else "model")
    if record.get("finished") and product.exists():
        return "done"
    return "resume" if any((out / "checkpoints").glob("step-*")) else "new"


def _read_index(directory: Path) -> dict[str, Any]:
    """Stage -> its last result; empty where the index is missing or damaged, for it only explains."""
    try:
        stages = json.loads((directory / "recipe.json").read_text(encoding="utf-8"))["stages"]
        return stages if isinstance(stages, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _show_plan(
    plan: Sequence[Planned], before: Mapping[str, Any], recipe: Recipe, directory: Path, console: Console
) -> None:
    console.print(Text(f"recipe {recipe.name} ({_shown(recipe.path)}), results in {_shown(directory)}", style="bold"))
    starts = [f"from {p.stage.start}" if p.stage.start else "of " + ", ".join(p.stage.inputs) for p in plan]
    width, start_width = max(len(p.stage.name) for p in plan), max(map(len, starts))
    for planned, start in zip(plan, starts, strict=True):
        words = {"done": "done already", "resume": "goes on where it stopped", "new": "to do"}[planned.state]
        if planned.state == "new" and (changed := _changed(planned, before.get(planned.stage.name))):
            words += f" again, changed: {changed}"
        console.print(Text(f"  {planned.stage.name:{width}}  {start:{start_width}}  {words}"))


def _changed(planned: Planned, last: Any) -> str:
    """What differs from what the stage's last result depends on, in words."""
    was = last.get("depends") if isinstance(last, dict) else None
    if not isinstance(was, dict):
        return ""
    names = [name for name in {**was, **planned.depends} if was.get(name) != planned.depends.get(name)]
    words = {"from": f"{planned.stage.start}", "code": "burnish's code"}
    shown = [words.get(name, name) for name in names]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _check_data(plan: Sequence[Planned], console: Console) -> None:
    """Read the data of every stage that will run, so that a bad row is found now and not after an hour.

    Raises:
        DataError: with file, line and field.
        ConfigError: a sample of evaluation prompts that is too small, a task that lm-evaluation-harness does not
            know, or an endpoint's key that is not there.
    """
    for planned in plan:
        config, kind = planned.stage.config, planned.stage.spec.data
        if planned.state == "done":
            continue
        if isinstance(config, ReportConfig):
            from burnish.pipeline.report import read_suite

            read_suite(config)
            _check_evidence(planned.stage.name, config)
        if not isinstance(config, TrainConfig) or kind is None:
            continue
        if isinstance(config, PolicyConfig) and config.watched is not None:
            from burnish.stages.monitor import read_suite as read_watched

            read_watched(config)
        sources = [(config.data, config.limit, config.split)]
        if isinstance(config.validation, str):
            sources.append((config.validation, None, None))
        for data, limit, split in sources:
            read = load_examples(
                data, kind=kind, on_bad_row=config.on_bad_row, limit=limit, split=split, **config.columns
            )
            console.print(Text(f"  {planned.stage.name}: {len(read.examples):,} examples in {data}", style="dim"))


def _check_evidence(stage: str, config: ReportConfig) -> None:
    from burnish.pipeline.evidence import check_tasks
    from burnish.pipeline.responders import check_keys

    try:
        check_keys(config.api_keys)
        check_tasks(config.lm_eval, config.lm_eval_path)
    except ConfigError as error:
        error.where = f"stages.{stage}.{error.where}"
        raise


# ---- one stage ----


def _run_stage(planned: Planned, plan: Sequence[Planned], recipe: Recipe, console: Console) -> None:
    stage, out = planned.stage, planned.out
    products = {p.stage.name: str(p.product.absolute()) for p in plan} | {RAW: model_of(recipe.model)}
    function = stage.spec.function()
    if isinstance(stage.config, TrainConfig):
        assert stage.start is not None
        rewards = {name: products.get(target, target) for name, target in stage.rewards.items()}
        places = {"model": products[stage.start], "out": out.absolute(), **rewards}
        config = stage.config.model_copy(update=places)
        _relocate(out, config)
        function(config, console=console)
        return
    # Merging and measuring take seconds to minutes: what was cut off is begun anew.
    shutil.rmtree(out, ignore_errors=True)
    if isinstance(stage.config, ReportConfig):
        named = dict(stage.rewards) | ({"topic_judge": judge} if (judge := stage.config.topic_judge) else {})
        places = {name: products.get(target, target) for name, target in named.items()}
        models = {label: products.get(target, target) for label, target in stage.config.models.items()}
        command = shlex.join(["burnish", "run", str(recipe.path), *recipe.overrides])
        placed = stage.config.model_copy(update={**places, "models": models, "out": out})
        function(placed, command=command, console=console)
    else:
        assert stage.start is not None
        options = stage.config.model_dump(exclude={"model", "out"})
        function(products[stage.start], planned.product, **options, console=console)
    settings = json.loads(stage.config.model_dump_json())
    write_json(out / "run.json", {"stage": stage.kind, "config": settings, "versions": versions(), "finished": True})


def _relocate(out: Path, config: TrainConfig) -> None:
    """Let a run that was cut off be resumed although its inputs lie elsewhere now: their content is the same."""
    path = out / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    now = json.loads(config.model_dump_json())
    moved = {name: now[name] for name in PLACES if name in now and record["config"].get(name) != now[name]}
    if moved:
        record["config"] |= moved
        write_json(path, record)


def _link(link: Path, target: Path) -> None:
    """Point the readable name at a result; where the file system has no links, the index must do."""
    if link.is_symlink() or not link.exists():
        temporary = link.with_name(f".{link.name}.link")
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target.name, target_is_directory=True)
            os.replace(temporary, link)
        except OSError:
            return


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = (directory / ".lock").open("w")
    except OSError as error:
        raise OutputDirError(
            f"can't write to the directory of the results: {error.strerror}",
            where=str(directory),
            fix="choose another one with --runs-dir",
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputDirError(
                "another process is running this recipe", where=str(directory), fix="wait for it, or stop it"
            ) from None
        yield


def _shown(path: Path) -> str:
    """A path as short as it can be written from here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
