"""`burnish sft`, `burnish reward`, `burnish dpo`, `burnish ppo` and `burnish merge`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from burnish.cli.console import field_line, messages, results
from burnish.cli.options import command_from_config
from burnish.stages.config import DPOConfig, RewardConfig, SFTConfig
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.run import model_of

if TYPE_CHECKING:
    from burnish.stages.run import RunResult


def _train_sft(config: SFTConfig) -> None:
    from burnish.stages.sft import train_sft

    _train(train_sft, config)


def _train_dpo(config: DPOConfig) -> None:
    from burnish.stages.dpo import train_dpo

    _train(train_dpo, config)


def _train_reward(config: RewardConfig) -> None:
    from burnish.stages.reward import train_reward

    _train(train_reward, config, use="burnish score DATA --model {model}")


def _train_ppo(config: PPOConfig) -> None:
    from burnish.stages.ppo import train_ppo

    _train(train_ppo, config)


def _train(function: Callable[..., RunResult], config: Any, *, use: str = "burnish chat {model}") -> None:
    """Run a stage and say what it left behind, and the command with which to use it."""
    located = config.model_copy(update={"model": model_of(config.model)})
    show_result(function(located, console=messages()), use=use)


def show_result(result: RunResult, *, use: str) -> None:
    """The summary of a training stage."""
    console = results()
    if result.already_done:
        console.print("this run was finished before: nothing to do")
    elif result.resumed_from:
        console.print(f"went on after step {result.resumed_from}")
    steps, kept = result.steps, result.metrics.get("model_of_step", result.steps)
    console.print(field_line("steps", steps if kept == steps else f"{steps}; the model is that of step {kept}"))
    names = ("best_validation_loss", "accuracy", "ensemble_accuracy", "margin", "score", "judge", "kl")
    shown = [f"{name.replace('_', ' ')} {result.metrics[name]:.3f}" for name in names if name in result.metrics]
    if shown:
        console.print(field_line("measured", ", ".join(shown)))
    for label, text in watched_lines(result.metrics):
        console.print(field_line(label, text))
    console.print(field_line("model", result.model))
    console.print(field_line("use it", use.format(model=result.model)))


def watched_lines(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the monitor measured of the kept model and what it cost, and what the guard did."""
    if "monitor_share" not in metrics:
        return []
    known = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("monitor/")}
    numbers = {name: "not a number" if value is None else f"{value:.3g}" for name, value in known.items()}
    shown = [f"{name.replace('_', ' ')} {number}" for name, number in numbers.items()]
    cost = f"{metrics['monitor_seconds']:.0f} s, {metrics['monitor_share']:.1%} of the time"
    lines = [("monitor", f"{', '.join(shown) or 'no look at the kept step'} ({cost})")]
    if "within_bounds" in metrics:
        words = {True: "inside the bounds", False: "OUTSIDE the bounds", None: "not looked at"}
        text = f"the kept model is {words[metrics['within_bounds']]}"
        if metrics.get("ended_by") == "guard":
            text += f"; ended the stage: {metrics['ended']}"
        lines.append(("guard", text))
    return lines


sft = command_from_config(SFTConfig, _train_sft, name="sft")
reward = command_from_config(RewardConfig, _train_reward, name="reward")
dpo = command_from_config(DPOConfig, _train_dpo, name="dpo")
ppo = command_from_config(PPOConfig, _train_ppo, name="ppo")


def merge(
    model: str,
    /,
    *,
    out: Path,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> None:
    """Merge an adapter into its base and verify it: a plain directory that every other tool loads.

    Parameters
    ----------
    model
        The directory of an adapter or of a run, or a hub id; of an ensemble of reward models that of one member.
    out
        Where the merged model goes.
    dtype
        Of the merged weights.
    """
    from burnish.stages.merge import merge_model

    result = merge_model(model, out, dtype=dtype, console=messages())
    console = results()
    console.print(field_line("model", result.out))
    if result.compared == "scores":
        console.print(field_line("use it", f"burnish score DATA --model {result.out}"))
    else:
        console.print(field_line("talk to it", f"burnish chat {result.out}"))
