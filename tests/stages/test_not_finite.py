"""Weights that give NaN under an alignment-tax guard: it goes back or stops as with any other breach, to the same bits
after a cut; without a guard that acts they are an error."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from burnish.cli.train import watched_lines
from burnish.errors import Interrupted, TrainingError
from burnish.evaluation.bounds import Outcomes, not_a_number
from burnish.pipeline.training import training_of
from burnish.stages import loop as loop_module
from burnish.stages import monitor as monitor_module
from burnish.stages import sft as sft_module
from burnish.stages.config import SFTConfig
from burnish.stages.keeping import Best, Keeper
from burnish.stages.monitor import Look
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.sft import train_sft
from tests.stages.ppo_toy import ppo_config
from tests.stages.toy import settings

CLOCK = ("tokens_per_second", "monitor/seconds", "monitor/share")
BOUND = {"nats_per_token": {"max_rise": 0.5}}


def config(tmp_path: Path, action: str | None, **more: Any) -> SFTConfig:
    """Twelve steps with dropout, validated and looked at after every second."""
    monitor = {"sample": 2, "characters": 60, "max_new_tokens": 4, "parts": ["answers", "nats_per_token"]}
    guard = {} if action is None else {"guard": {**BOUND, "action": action}}
    values = {"eval_every": 2, "monitor": {**monitor, "every": "validation"}, **guard, **more}
    return SFTConfig.parse(settings(tmp_path, **values))


def lines(out: Path) -> list[dict[str, Any]]:
    """The metrics without what a clock says; NaN and infinity, which JSON lacks, are errors."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in metrics.jsonl")

    found = [json.loads(line, parse_constant=refuse) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in found]


def guard_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())["guard"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "adapter_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the optimiser's step of that number put NaN, or another value, into the first weights that train."""
    original = loop_module.make_optimiser

    def at(number: int, value: float = math.nan) -> None:
        def make(parameters: dict[str, nn.Parameter], *rest: Any) -> Any:
            optimiser = original(parameters, *rest)
            first = next(parameter for name, parameter in parameters.items() if not name.startswith("critic"))

            def poisoning(*_: Any) -> None:
                if int(optimiser.state[first]["step"]) == number:  # survives a resume, as the moments do
                    with torch.no_grad():
                        first.fill_(value)

            optimiser.register_step_post_hook(poisoning)
            return optimiser

        monkeypatch.setattr(loop_module, "make_optimiser", make)

    return at


def held_at(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, torch.Tensor]]:
    """What training held at each step that was considered, for comparison with what is kept."""
    original, seen = Keeper.consider, {}

    def consider(self: Keeper, done: int, value: float | None, look: Look | None) -> None:
        seen[done] = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        original(self, done, value, look)

    monkeypatch.setattr(Keeper, "consider", consider)
    return seen


@pytest.mark.parametrize("validation", [0.2, 0.0])
def test_a_look_that_meets_nan_rolls_back(
    validation: float, tmp_path: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With validation data the validation meets it first, without them the look does."""
    poison(6)
    seen = held_at(monkeypatch)
    said = io.StringIO()
    result = train_sft(config(tmp_path, "rollback", validation=validation), console=Console(file=said, width=300))
    assert (result.steps, result.metrics["model_of_step"], result.metrics["ended_by"]) == (6, 4, "guard")
    assert result.metrics["within_bounds"] is True
    assert math.isfinite(result.metrics["monitor/nats_per_token"])
    kept = weights(result.out)
    assert sorted(t.sum().item() for t in kept.values()) == sorted(t.sum().item() for t in seen[4].values())
    (entry,) = guard_of(result.out)["looks"]
    (reading,) = entry["readings"]
    assert (entry["step"], entry["passed"]) == (6, ["nats_per_token.max_rise"])
    assert "log-probability that is not finite" in entry["not_finite"]
    assert ("the validation loss is nan" in entry["not_finite"]) is (validation > 0)
    assert [reading[name] for name in ("value", "change", "low", "high")] == [None] * 4
    assert (reading["outside"], reading["sure"]) == (True, True)
    assert math.isfinite(reading["start"])
    assert "nats per token is not a number; the bound is +50 %" in result.metrics["ended"]
    shown = said.getvalue()
    assert "guard, step 6: nats per token is not a number; the bound is +50 %" in shown
    assert "sft step 6: monitor  answers not a number" in shown
    assert "the guard ended the stage after step 6; the model is that of step 4" in shown
    last = lines(result.out)[-1]
    assert (last["step"], last["monitor/nats_per_token"], last["guard/passed"]) == (6, None, 1.0)
    evidence = json.loads((result.out / "monitor" / "step-000006.json").read_text())
    assert evidence["metrics"]["nats_per_token"] is None
    assert evidence["not_finite"] == entry["not_finite"]
    training = training_of(str(result.out))
    assert training is not None
    assert training["looks"][-1] == {"step": 6}
    assert training["looks"][-2].keys() == {"step", *training["metrics"]}


def test_stop_goes_back_from_nan_too_and_says_why(
    tmp_path: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights without numbers are nobody's model: the best ones before them are, which a finished run would lose."""
    poison(6)
    seen = held_at(monkeypatch)
    result = train_sft(config(tmp_path, "stop"))
    assert (result.steps, result.metrics["model_of_step"], result.metrics["ended_by"]) == (6, 4, "guard")
    assert "the validation loss is nan; policy gives a log-probability that is not finite" in result.metrics["ended"]
    kept = weights(result.out)
    assert sorted(t.sum().item() for t in kept.values()) == sorted(t.sum().item() for t in seen[4].values())
    assert math.isfinite(result.metrics["monitor/nats_per_token"])
    assert "nats per token not a number" not in dict(watched_lines(result.metrics))["monitor"]
    assert train_sft(config(tmp_path, "stop")).already_done


@pytest.mark.parametrize("action", ["rollback", "stop"])
def test_the_record_holds_the_numbers_of_the_weights_that_are_kept(
    action: str, tmp_path: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best step is not the one before NaN: the numbers of neither that nor any other may stand beside it."""
    poison(6)
    losses = iter([4.0, 1.0, 2.0])  # after steps 0, 2 and 4
    original = sft_module.evaluate_sft
    monkeypatch.setattr(sft_module, "evaluate_sft", lambda *a: {"loss": next(losses, original(*a)["loss"])})
    result = train_sft(config(tmp_path, action))
    assert (result.steps, result.metrics["model_of_step"]) == (6, 2)
    assert (result.metrics["loss"], result.metrics["best_validation_loss"]) == (1.0, 1.0)


@pytest.mark.parametrize(("number", "what"), [(6, "after step 6"), (5, "the loss is nan in step 6")])
@pytest.mark.parametrize("lacking", [{"keep_best": False}, {"validation": 0.0}])
def test_stop_with_nothing_kept_to_go_back_to_is_an_error(
    lacking: dict[str, Any], number: int, what: str, tmp_path: Path, poison: Callable[..., None]
) -> None:
    """The checkpoints stay, and no model is written."""
    poison(number)
    with pytest.raises(TrainingError, match=what):
        train_sft(config(tmp_path, "stop", **lacking))
    assert not (tmp_path / "run" / "model").exists()
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("action", [None, "warn"])
@pytest.mark.parametrize(("validation", "what"), [(0.2, "validation loss is nan after step 6"), (0.0, "the monitor")])
def test_without_a_guard_that_acts_it_is_an_error(
    action: str | None, validation: float, what: str, tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(6)
    with pytest.raises(TrainingError, match=what):
        train_sft(config(tmp_path, action, validation=validation))


@pytest.mark.parametrize("validation", [0.2, 0.0])
def test_nan_at_the_start_is_an_error_whatever_the_guard(
    validation: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes count from the start, and there is nothing before it to go back to."""
    original = loop_module.TrainingLoop.__iter__

    def broken(self: Any) -> Any:
        with torch.no_grad():
            next(iter(self.parameters.values())).fill_(math.nan)
        return original(self)

    monkeypatch.setattr(loop_module.TrainingLoop, "__iter__", broken)
    with pytest.raises(TrainingError, match="after step 0"):
        train_sft(config(tmp_path, "stop", validation=validation))


def test_rollback_with_nothing_inside_to_go_back_to_is_an_error(tmp_path: Path, poison: Callable[..., None]) -> None:
    """The start is above the maximum and nothing comes below it, so nothing was kept: NaN must not be the model."""
    poison(6)
    guard = {"nats_per_token": {"max": 0.1}, "action": "rollback"}
    with pytest.raises(TrainingError, match="validation loss is nan after step 6"):
        train_sft(config(tmp_path, None, guard=guard))
    assert not (tmp_path / "run" / "model").exists()


def test_a_bound_that_was_never_met_is_passed_by_nan_too(tmp_path: Path, poison: Callable[..., None]) -> None:
    """`max` counts once it was met, but weights without numbers will not learn their way there. What is kept is the
    best by the validation, wherever it lies."""
    poison(6)
    guard = {"nats_per_token": {"max": 0.1}, "action": "stop"}
    result = train_sft(config(tmp_path, None, guard=guard))
    assert result.metrics["within_bounds"] is False
    assert (result.steps, result.metrics["ended_by"]) == (6, "guard")
    assert guard_of(result.out)["looks"][-1]["passed"] == ["nats_per_token.max"]


def test_a_validation_that_is_not_finite_ends_the_run_where_the_look_sees_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look's own numbers are kept as they are, and inside; the weights are not kept all the same. Nor is the look
    due: `every` is 5, and the validation after step 4 calls it."""
    original, calls = sft_module.evaluate_sft, {"n": 0}

    def broken(*arguments: Any) -> dict[str, float]:
        calls["n"] += 1
        found = original(*arguments)
        return {"loss": math.inf} if calls["n"] == 3 else found

    monkeypatch.setattr(sft_module, "evaluate_sft", broken)
    monitor = {"characters": 60, "parts": ["nats_per_token"], "every": 5}
    result = train_sft(config(tmp_path, "rollback", monitor=monitor))
    assert (result.steps, result.metrics["model_of_step"]) == (4, 0)
    assert result.metrics["ended"] == "the validation loss is inf"
    (entry,) = guard_of(result.out)["looks"]
    assert (entry["passed"], entry["not_finite"]) == ([], "the validation loss is inf")
    assert math.isfinite(entry["readings"][0]["value"])
    assert result.metrics["within_bounds"] is True


@pytest.mark.parametrize("value", [math.nan, 1e38])
@pytest.mark.parametrize(
    ("number", "validation", "bound"),
    [(5, 0.2, {"tokens": {"max_drop": 0.3}}), (6, 0.0, {"answers": {"max_drop": 0.05}})],
)
def test_a_guard_on_answers_alone_sees_nan(
    number: int, validation: float, bound: dict[str, Any], value: float, tmp_path: Path, poison: Callable[..., None]
) -> None:
    """NaN is answered greedily with some token, up to the limit of each answer, as the start does: the answers are
    inside. Weights of 1e38 are finite, and overflow in the forward."""
    poison(number, value)
    guard = {**bound, "action": "rollback", "sure": False}
    monitor = {"parts": ["answers"], "sample": 2, "max_new_tokens": 4}
    result = train_sft(config(tmp_path, None, guard=guard, monitor=monitor, validation=validation))
    assert (result.steps, result.metrics["model_of_step"], result.metrics["ended_by"]) == (number, 4, "guard")
    assert "log-probability that is not finite" in result.metrics["ended"]
    assert "monitor/nats_per_token" not in result.metrics, "the prompts are read, and nothing is measured on them"


def test_answers_of_nan_without_a_guard_are_an_error(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison(6)
    monitor = {"parts": ["answers"], "sample": 2, "max_new_tokens": 4, "every": 2}
    with pytest.raises(TrainingError, match="the monitor after step 6: policy gives a log-probability that is not"):
        train_sft(config(tmp_path, None, monitor=monitor, validation=0.0))


def test_a_text_s_id_is_no_markup(tmp_path: Path, poison: Callable[..., None]) -> None:
    """The message names the text; rich would take `[/x]` for the end of a style that never began."""
    poison(6)
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"id": "[/x]", "title": "none", "text": "hello world " * 9}) + "\n")
    monitor = {"parts": ["nats_per_token"], "prose": str(file), "every": "validation"}
    said = io.StringIO()
    guard = {**BOUND, "action": "rollback", "sure": False}
    train_sft(config(tmp_path, None, guard=guard, monitor=monitor), console=Console(file=said, width=300))
    assert "is not finite ([/x])" in said.getvalue()


# ---- a step that meets it first ----


@pytest.mark.parametrize("action", ["rollback", "stop"])
def test_a_step_that_meets_nan_has_the_weights_looked_at(
    action: str, tmp_path: Path, poison: Callable[..., None]
) -> None:
    """Step 5 breaks the weights, step 6 finds a loss of NaN, and no look is due in between."""
    poison(5)
    said = io.StringIO()
    result = train_sft(config(tmp_path, action), console=Console(file=said, width=300))
    assert "the loss is nan in step 6: looking at the weights" in said.getvalue()
    assert (result.steps, result.metrics["ended_by"]) == (5, "guard")
    assert result.metrics["model_of_step"] == 4
    assert result.metrics["within_bounds"] is True
    (entry,) = guard_of(result.out)["looks"]
    assert entry["step"] == 5
    assert [line["step"] for line in lines(result.out) if "loss" in line] == [1, 2, 3, 4, 5]


def test_a_step_that_meets_nan_with_sound_weights_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are to blame: going back would not help. The error is that of a run without a guard, and the same
    again after a resume, which does not look at these weights a second time."""
    original = sft_module.sft_loss
    calls, looked = {"n": 0}, []

    def poisoned(logprobs: torch.Tensor, n_tokens: int) -> torch.Tensor:
        calls["n"] += 1
        return original(logprobs, n_tokens) * (math.nan if calls["n"] >= 4 else 1.0)

    measure = monitor_module.Monitor.look

    def look(self: Any, done: int, *rest: Any, **more: Any) -> Any:
        looked.append(done)
        return measure(self, done, *rest, **more)

    monkeypatch.setattr(sft_module, "sft_loss", poisoned)
    monkeypatch.setattr(monitor_module.Monitor, "look", look)
    guarded = config(tmp_path, "rollback", micro_batch_tokens=1000, save_every=100)
    for _ in range(2):
        with pytest.raises(TrainingError, match="the loss is nan in step 4") as caught:
            train_sft(guarded)
        assert "sft.jsonl:" in (caught.value.where or "")
    assert looked == [0, 2, 3]
    assert sum("monitor/nats_per_token" in line for line in lines(tmp_path / "run")) == 3


# ---- the same to the bit ----


@pytest.mark.parametrize(("number", "after"), [(5, 3), (5, "end"), (6, 4), (6, "end")])
def test_a_run_that_was_cut_off_decides_the_same(
    number: int, after: int | str, tmp_path: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off with a checkpoint before NaN is met, or after the decision and before the end of the run is written."""
    poison(number)
    whole = train_sft(config(tmp_path, "rollback", out=str(tmp_path / "whole"), save_every=1))
    guarded = config(tmp_path, "rollback", save_every=1)
    with monkeypatch.context() as cut:
        if after == "end":
            cut.setattr(sft_module, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            original = loop_module.TrainingLoop._after

            def stop(self: Any, done: int) -> None:
                original(self, done)
                if done == after:
                    raise KeyboardInterrupt

            cut.setattr(loop_module.TrainingLoop, "_after", stop)
        with pytest.raises(KeyboardInterrupt):
            train_sft(guarded)
    resumed = train_sft(guarded)
    assert resumed.resumed_from == (number if after == "end" else after)
    assert (resumed.steps, resumed.metrics["model_of_step"]) == (whole.steps, whole.metrics["model_of_step"])
    assert same(weights(resumed.out), weights(whole.out))
    assert lines(resumed.out) == lines(whole.out)
    assert guard_of(resumed.out) == guard_of(whole.out)


@pytest.mark.parametrize("number", [5, 6])
def test_a_signal_in_the_look_that_meets_nan_is_obeyed(
    number: int, tmp_path: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resume makes up for the look, and knows what the validation had found."""
    poison(number)
    whole = train_sft(config(tmp_path, "rollback", out=str(tmp_path / "whole")))
    original, calls = monitor_module.evaluate, {"n": 0}

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 4:  # of steps 0, 2, 4 and this one
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(monitor_module, "evaluate", stopping)
    with pytest.raises(Interrupted, match="SIGTERM after step 6" if number == 6 else "SIGTERM before step 6"):
        train_sft(config(tmp_path, "rollback"))
    resumed = train_sft(config(tmp_path, "rollback"))
    assert resumed.metrics["ended"] == whole.metrics["ended"]
    assert same(weights(resumed.out), weights(whole.out))
    assert lines(resumed.out) == lines(whole.out)
    assert guard_of(resumed.out) == guard_of(whole.out)


# ---- PPO ----


@pytest.mark.parametrize("number", [3, 4])
def test_ppo_rolls_back_too(number: int, tmp_path: Path, poison: Callable[..., None]) -> None:
    """Four steps a rollout: the evaluation after the fourth meets it, or the step after the third does."""
    poison(number)
    values = ppo_config(tmp_path, eval_every=1).model_dump()
    monitor = {"characters": 60, "parts": ["nats_per_token"]}
    result = train_ppo(PPOConfig.parse({**values, "monitor": monitor, "guard": {**BOUND, "action": "rollback"}}))
    assert (result.steps, result.metrics["model_of_step"], result.metrics["ended_by"]) == (number, 0, "guard")
    assert result.metrics["within_bounds"] is True
    assert all(bool(tensor.isfinite().all()) for tensor in weights(result.out).values())


def test_ppo_rolls_back_where_the_next_rollout_meets_it(tmp_path: Path, poison: Callable[..., None]) -> None:
    """Nothing is evaluated between the two rollouts."""
    poison(4)
    values = ppo_config(tmp_path, eval_every=100).model_dump()
    monitor = {"characters": 60, "parts": ["nats_per_token"]}
    result = train_ppo(PPOConfig.parse({**values, "monitor": monitor, "guard": {**BOUND, "action": "rollback"}}))
    assert (result.steps, result.metrics["model_of_step"], result.metrics["ended_by"]) == (4, 0, "guard")


def test_ppo_without_a_guard_says_what_is_not_finite(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison(4)
    with pytest.raises(TrainingError, match="the policy gives a log-probability that is not finite after step 4"):
        train_ppo(ppo_config(tmp_path, eval_every=1))


# ---- the parts ----


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_not_finite_is_never_best(sign: int, value: float, tmp_path: Path) -> None:
    """NaN is neither below nor above anything, so that a plain comparison would let it in."""
    keeper = Keeper(Best(sign=sign, start_counts=True), tmp_path / "best", {}, wanted=False, only_inside=False)
    keeper.consider(1, value, None)
    assert keeper.step is None
    keeper.consider(2, 1.0, None)
    keeper.consider(3, value, None)
    assert (keeper.step, keeper.value) == (2, 1.0)


def test_weights_at_which_a_look_found_nan_are_never_best(tmp_path: Path) -> None:
    """Whatever the validation says, and whether the guard goes back or stops."""
    for only_inside in (False, True):
        keeper = Keeper(Best(), tmp_path / "best", {}, wanted=False, only_inside=only_inside)
        keeper.consider(1, 2.0, Look(1, {}))
        keeper.consider(2, 1.0, Look(2, {}, not_finite="a log-probability"))
        assert (keeper.step, keeper.value) == (1, 2.0)


@pytest.mark.parametrize(
    ("metric", "rule", "limit", "bound"),
    [
        ("answers", "max_drop", 0.02, "-2 points"),
        ("tokens", "max_rise", 1.5, "+150 %"),
        ("answers", "min", 0.9, "at least 90.0 %"),
        ("nats_per_token", "max", 3.5, "at most 3.5"),
    ],
)
def test_the_reading_of_no_number(metric: str, rule: Any, limit: float, bound: str) -> None:
    reading = not_a_number(metric, rule, limit, Outcomes((1.0, 0.0)))
    assert reading.text == f"{metric.replace('_', ' ')} is not a number; the bound is {bound}"
    assert (reading.start, reading.value, reading.n) == (0.5, None, 2)
