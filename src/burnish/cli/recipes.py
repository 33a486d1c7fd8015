"""`burnish run`, `burnish quickstart` and `burnish sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from burnish.cli.console import field_line, messages, results
from burnish.cli.options import Whole
from burnish.errors import ConfigError

if TYPE_CHECKING:
    from burnish.pipeline.recipe import Recipe
    from burnish.pipeline.run import RecipeResult

QUICKSTART = "starter/assistant"
QUICKSTART_FULL = "starter/assistant-full"


def run(recipe: str, /, *overrides: str, runs_dir: Path = Path("runs")) -> None:
    """Run a recipe: what is finished stays, what was cut off goes on, the rest is computed.

    Parameters
    ----------
    recipe
        A YAML file, or `starter/NAME` for one that comes with burnish (`starter/assistant`, `starter/own-data`).
    overrides
        `key=value`, as in `dpo.loss.beta=0.05 sft.epochs=2`.
    runs_dir
        Results go to a directory of the recipe's name in it.
    """
    from burnish.pipeline.recipe import load_recipe
    from burnish.pipeline.run import run_recipe

    loaded = load_recipe(recipe, overrides)
    show_summary(loaded, run_recipe(loaded, runs_dir=runs_dir, console=messages()))


def quickstart(
    *overrides: str,
    sample: Whole | None = None,
    full: Annotated[bool, Parameter(negative=())] = False,
    full_eval: Annotated[bool, Parameter(negative=())] = False,
    runs_dir: Path = Path("runs"),
) -> None:
    """From a raw base model to an assistant in minutes: SFT, DPO, a merged model, and a report of what changed.

    Parameters
    ----------
    overrides
        `key=value` for its recipe, `starter/assistant`, as in `sft.epochs=3`.
    sample
        Measure on a fixed sample of so many evaluation prompts.
    full
        A reward model and PPO as well, from the same SFT model as DPO (the recipe `starter/assistant-full`).
    full_eval
        Measure on all of them.
    runs_dir
        Results go to its directory `assistant`.
    """
    if sample is not None and full_eval:
        raise ConfigError("--sample and --full-eval exclude each other", fix="give one of them")
    more = [f"report.sample={sample}"] if sample is not None else ["report.sample=null"] if full_eval else []
    run(QUICKSTART_FULL if full else QUICKSTART, *overrides, *more, runs_dir=runs_dir)


def sweep(
    recipe: str,
    /,
    *settings: str,
    out: Path | None = None,
    alignment: str = "mean",
    retention: Literal["nats_per_token", "multiple_choice"] = "nats_per_token",
    model: str | None = None,
) -> int:
    """Run a recipe over a grid of settings, and show what each point gives in alignment and keeps in general ability.

    Stages that points have in common run once. The same command again does what is left.

    Parameters
    ----------
    recipe
        A YAML file, or `starter/NAME`; it needs a report.
    settings
        `key=value,value,...` for each axis of the grid, `key=value` for what is the same everywhere.
    out
        Takes the results, sweep.json, sweep.html and, where matplotlib is installed, sweep.png; `runs/RECIPE-sweep` if
        not given.
    alignment
        `mean` of the rates of all behaviours, or one of them: `answers`, `format`, `harm`, `lookalike`, `abstain`,
        `answerable`, `topic`, `open`.
    retention
        What is kept of general ability.
    model
        Which model of the report it is about; the last one if not given.
    """
    from burnish.pipeline.sweep import run_sweep
    from burnish.pipeline.sweep_page import print_sweep

    out = out or Path("runs") / f"{Path(recipe).stem}-sweep"
    options: dict[str, Any] = {"out": out, "alignment": alignment, "retention": retention, "model": model}
    found = run_sweep(recipe, settings, **options, console=messages())
    console = results()
    console.print()
    print_sweep(found, console)
    console.print()
    for name in ("sweep.html", "sweep.json", "sweep.png"):
        if (out / name).is_file():
            console.print(field_line(name, out / name))
    for point in found.failed:
        console.print(field_line("failed", f"{point.name}: {point.error['what']}"))
    return 1 if found.failed else 0


def show_summary(recipe: Recipe, result: RecipeResult) -> None:
    """Where everything is, and what to do with it."""
    console = results()
    console.print()
    if not result.computed:
        console.print("all stages were done before: nothing to do")
    kinds = {stage.name: stage.kind for stage in recipe.stages}
    for name, path in result.products.items():
        table = path.with_name("report.txt")
        if kinds[name] == "report" and name not in result.computed and table.is_file():
            console.print(table.read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    merged = [path for name, path in result.products.items() if kinds[name] == "merge"]
    models = [path for name, path in result.products.items() if kinds[name] != "report"]
    for name, path in result.products.items():
        label = {"merge": "merged model", "report": "report"}.get(kinds[name], name)
        console.print(field_line(label, path))
    if models:
        best = (merged or models)[-1]
        console.print(field_line("talk to it", f"burnish chat {best}"))
        console.print(field_line("side by side", f"burnish chat {recipe.model} {best}"))
