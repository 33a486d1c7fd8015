"""Watching PPO: evaluations, samples, which weights are kept, and what the alarm does to a run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from burnish.errors import TrainingError
from burnish.stages import ppo
from burnish.stages.loop import TrainingLoop
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from tests.stages.ppo_toy import (
    before_update,
    lines,
    make_base,
    make_reward,
    make_start,
    ppo_config,
    reward_file,
    steps_of,
    timeless,
)

GOES_OFF = {"length_factor": 0.01}
"""Responses are always longer than that: a warning at the first evaluation, an alarm at the second."""
JUDGE = """
VALUES, CALLS = [{values}], []
def judge(prompts, responses):
    CALLS.append(1)
    return [VALUES[len(CALLS) - 1]] * len(responses)
"""


def alarming(tmp_path: Path, on_alarm: str, **more: Any) -> PPOConfig:
    """Six rollouts of two steps, an evaluation after each, from an adapter."""
    if not (tmp_path / "start").exists():
        make_start(make_base(tmp_path / "base"), tmp_path / "start")
    values = {"epochs": 3, "batch_size": 8, "eval_every": 1, "keep_best": True, "alarm": GOES_OFF, "lora": {}}
    return ppo_config(tmp_path, **{**values, "model": str(tmp_path / "start"), "on_alarm": on_alarm, **more})


def judged(tmp_path: Path, *values: float) -> str:
    """A judge that gives these values at the evaluations in turn."""
    return reward_file(tmp_path, JUDGE.replace("{values}", ", ".join(map(str, values))), "judge")


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


def policy(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def evaluated(out: Path) -> list[int]:
    return [line["step"] for line in lines(out) if "validation/score" in line]


def test_a_warning_is_said_and_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    said = io.StringIO()
    result = train_ppo(alarming(tmp_path, "warn"), console=Console(file=said, width=200))
    assert result.steps == 12
    assert evaluated(result.out) == [0, 2, 4, 6, 8, 10, 12], "at the ends of rollouts"
    noted = record(result.out)["alarms"]
    assert [entry["step"] for entry in noted] == [0, 2, 4, 6, 8, 10, 12], "each once"
    severities = [
        finding["severity"] for entry in noted for finding in entry["findings"] if finding["name"] == "length"
    ]
    assert severities == ["warning", *["alarm"] * 6]
    assert said.getvalue().count("alarm: Responses are") == 6
    assert "ended" not in result.metrics


def test_an_alarm_ends_the_stage_and_the_model_is_the_last_one(tmp_path: Path) -> None:
    result = train_ppo(alarming(tmp_path, "stop"))
    assert (result.steps, result.metrics["model_of_step"]) == (2, 2)
    assert "Responses are" in result.metrics["ended"]
    assert [step["step"] for step in steps_of(result.out)] == [1, 2]
    assert not same(policy(result.model), policy(tmp_path / "start"))
    assert train_ppo(alarming(tmp_path, "stop")).already_done


@pytest.mark.parametrize("judge", [True, False])
def test_a_rollback_goes_back_to_the_best_weights_be_they_the_start_s(judge: bool, tmp_path: Path) -> None:
    """By the judge or, without one, by the score less the price of the KL: that of a constant reward falls."""
    constant = reward_file(tmp_path, "def one(prompts, responses):\n    return [1] * len(responses)\n", "one")
    more = {"judge": judged(tmp_path, 5, 1)} if judge else {"reward": constant, "kl_coefficient": 5.0}
    result = train_ppo(alarming(tmp_path, "rollback", learning_rate=3e-2, missing_eos_penalty=0.0, **more))
    assert (result.steps, result.metrics["model_of_step"]) == (2, 0)
    assert "ended" in result.metrics
    assert same(policy(result.model), policy(tmp_path / "start"))


def test_the_best_weights_of_a_run_that_ends_well_are_the_judge_s_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: dict[int, dict[str, torch.Tensor]] = {}

    def note(stage: ppo.Stage, step: Any) -> None:
        at[step.index] = {name: p.detach().clone() for name, p in stage.cast.policy.parameters().items()}

    before_update(monkeypatch, note)
    config = alarming(tmp_path, "rollback", alarm={"kl_budget": 1e6, "repetition": 1.0, "length_factor": 1e6})
    result = train_ppo(config.model_copy(update={"judge": judged(tmp_path, 1, 2, 9, 3, 4, 5, 6), "on_alarm": "warn"}))
    assert result.steps == 12
    assert result.metrics["model_of_step"] == 4
    assert result.metrics["best_validation_judge"] == 9.0
    written = policy(result.model)
    for name, tensor in at[4].items():
        assert torch.equal(written[f"base_model.model.{name}.weight"], tensor), name


@pytest.mark.parametrize("on_alarm", ["stop", "rollback"])
def test_an_ended_run_that_is_cut_off_before_its_end_does_not_go_on(
    on_alarm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_ppo(alarming(tmp_path, on_alarm, out=str(tmp_path / "whole")))
    config = alarming(tmp_path, on_alarm)

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "conclude", dies)
        with pytest.raises(KeyboardInterrupt):
            train_ppo(config)
    monkeypatch.setattr(ppo.Stage, "_update", dies)
    result = train_ppo(config)
    assert result.steps == 2
    assert same(policy(result.model), policy(whole.model))
    assert timeless(result.out) == timeless(whole.out)
    assert record(result.out)["alarms"] == record(whole.out)["alarms"]


def test_alarms_of_a_resumed_run_are_those_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off right after an evaluation, before its checkpoint: that evaluation is made and noted again, once."""
    whole = train_ppo(alarming(tmp_path, "warn", out=str(tmp_path / "whole"), epochs=2))
    config, evaluate = alarming(tmp_path, "warn", epochs=2), ppo.Stage.evaluate

    def then_dies(self: ppo.Stage) -> dict[str, float]:
        found = evaluate(self)
        if self.loop.done == 4:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ppo.Stage, "evaluate", then_dies)
        with pytest.raises(KeyboardInterrupt):
            train_ppo(config)
    result = train_ppo(config)
    assert record(result.out)["alarms"] == record(whole.out)["alarms"]
    assert timeless(result.out) == timeless(whole.out)


def test_a_judge_that_fails_at_an_evaluation_is_mended_and_the_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    text = "def judge(prompts, responses):\n    return [len(text) for text in responses]\n"
    named = reward_file(tmp_path, text, "judge")
    whole = train_ppo(alarming(tmp_path, "warn", judge=named, out=str(tmp_path / "whole"), epochs=2))
    fails = text.replace("    return", "    CALLS.append(1 / (1 - len(CALLS)))\n    return")
    reward_file(tmp_path, "CALLS = []\n" + fails, "judge")  # at its second evaluation
    with pytest.raises(TrainingError, match="ZeroDivisionError"):
        train_ppo(alarming(tmp_path, "warn", judge=named, epochs=2))
    reward_file(tmp_path, text, "judge")
    result = train_ppo(alarming(tmp_path, "warn", judge=named, epochs=2))
    assert result.resumed_from == 2, "what was trained before the evaluation that failed is not trained again"
    assert timeless(result.out) == timeless(whole.out)
    assert same(policy(result.model), policy(whole.model))


def test_each_evaluation_leaves_its_samples(tmp_path: Path) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm", members=2, holdout=True)
    train_ppo(ppo_config(tmp_path, reward=str(reward), eval_every=1))
    out = tmp_path / "run"
    assert sorted(file.name for file in (out / "samples").iterdir()) == [
        f"step-00000{step}.jsonl" for step in (0, 4, 8)
    ]
    metrics = {line["step"]: line for line in lines(out) if "validation/score" in line}
    for step in (0, 4, 8):
        rows = [json.loads(line) for line in (out / "samples" / f"step-00000{step}.jsonl").read_text().splitlines()]
        assert len(rows) == 4
        for name, column in (("score", "score"), ("judge", "judge"), ("kl", "kl"), ("response_length", "tokens")):
            mean = sum(row[column] for row in rows) / 4
            assert metrics[step][f"validation/{name}"] == pytest.approx(mean, abs=1e-6)
        assert metrics[step]["validation/eos_rate"] == sum(row["finished"] for row in rows) / 4
        now = {name: metrics[step][f"validation/{name}"] for name in ("score", "kl", "eos_rate", "objective")}
        # The settings' prices: 1 for a missing end, 0.05 for a nat.
        assert now["objective"] == pytest.approx(now["score"] - (1 - now["eos_rate"]) - 0.05 * now["kl"], abs=1e-6)
        assert all("<eos>" not in row["response"] and row["prompt"].endswith("?") for row in rows)
    asked = {row["prompt"] for row in rows}
    assert len(asked) == 4


def test_the_objective_prices_by_the_scale_of_the_rewards_and_by_the_coefficient_of_the_moment(tmp_path: Path) -> None:
    """Scores divided by a deviation of 0.1 leave a price of 1 at 0.1 of the raw score."""
    text = (
        "CALLS = []\ndef small(prompts, responses):\n    CALLS.append(1)\n"
        "    return [0.1 if i % 2 else -0.1 for i in range(len(responses))]\n"
    )
    more = {"reward": reward_file(tmp_path, text, "small"), "normalise": "running", "kl_target": 0.001}
    train_ppo(ppo_config(tmp_path, eval_every=1, max_new_tokens=3, learning_rate=1e-2, kl_coefficient=0.5, **more))
    evaluations = [line for line in lines(tmp_path / "run") if "validation/score" in line]
    coefficients = [line["kl_coefficient"] for line in lines(tmp_path / "run") if "kl_coefficient" in line]
    assert coefficients[1] != coefficients[0] == 0.5, "the controller steers"
    first, second, _ = [{key.partition("/")[2]: value for key, value in line.items()} for line in evaluations]
    assert first["eos_rate"] < 1.0, "or a missing end would cost nothing"
    assert first["objective"] == pytest.approx(0.0 - 0.1 * (1 - first["eos_rate"]), abs=1e-7)
    price = 1 - second["eos_rate"] + coefficients[1] * second["kl"]
    assert second["objective"] == pytest.approx(0.0 - 0.1 * price, abs=1e-7)  # scores are float32


@pytest.mark.parametrize(
    ("more", "told"),
    [({}, "no judge"), ({"judge": True}, "too few for a trend"), ({"judge": True, "validation": 0.5}, None)],
)
def test_what_the_alarm_can_t_hear_is_said(tmp_path: Path, more: dict[str, Any], told: str | None) -> None:
    if "judge" in more:
        more = {**more, "judge": judged(tmp_path, *range(9))}
    said = io.StringIO()
    train_ppo(ppo_config(tmp_path, max_steps=1, **more), console=Console(file=said, width=300))
    assert ("the alarm can't see" in said.getvalue()) == (told is not None)
    assert told is None or told in said.getvalue()


def test_without_held_out_prompts_nothing_is_evaluated_and_that_is_said(tmp_path: Path) -> None:
    said = io.StringIO()
    config = alarming(tmp_path, "stop", validation=0.0, max_rollouts=2)
    result = train_ppo(config, console=Console(file=said, width=200))
    assert "no alarm can go off" in said.getvalue()
    assert evaluated(result.out) == []
    assert result.metrics["model_of_step"] == result.steps > 0
    assert "alarms" not in record(result.out)


def test_scores_that_are_not_finite_are_told_as_such(tmp_path: Path) -> None:
    reward = make_reward(make_base(tmp_path / "base"), tmp_path / "rm", judge=float("inf"))
    with pytest.raises(TrainingError, match="not finite") as caught:
        train_ppo(ppo_config(tmp_path, reward=str(reward)))
    assert caught.value.where == str(reward)


def test_a_sampler_that_differs_from_the_forward_is_told_once_a_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppo, "DRIFT", 1e-12)
    said = io.StringIO()
    result = train_ppo(ppo_config(tmp_path, micro_batch_tokens=16), console=Console(file=said, width=200))
    drifts = [line["drift"] for line in lines(result.out) if "drift" in line]
    assert len(drifts) == 2
    # On some processors the two agree to the bit in one of the rollouts, and nothing is to be told.
    assert said.getvalue().count("sampler and training forward differ") == sum(drift > 1e-12 for drift in drifts) > 0
