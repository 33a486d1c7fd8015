"""The monitor changes no bit and follows its budget; the guard acts on bounds, and what it keeps lies inside them."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from burnish.errors import ConfigError, DataError, Interrupted, OutputDirError
from burnish.evaluation.bounds import Outcomes
from burnish.stages import monitor as monitor_module
from burnish.stages.config import DPOConfig, RewardConfig, SFTConfig
from burnish.stages.dpo import train_dpo
from burnish.stages.monitor import Monitor, read_suite
from burnish.stages.monitor_config import GuardConfig, MonitorConfig
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.sft import train_sft
from tests.stages.ppo_toy import ppo_config
from tests.stages.toy import settings

SMALL = {"every": 4, "sample": 2, "questions": 10, "characters": 60, "max_new_tokens": 4}
CLOCK = {"tokens_per_second", "monitor/seconds", "monitor/share"}


def lines(out: Path) -> list[dict[str, Any]]:
    """The metrics without what a clock says."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in found]


def looks(out: Path) -> list[int]:
    return [line["step"] for line in lines(out) if any(name.startswith("monitor/") for name in line)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "adapter_model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


@pytest.fixture
def nats(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What each look in turn finds in nats per token, over 12 texts that all say the same; 4.0 once it is used up."""
    planned: list[float] = []

    def outcomes(card: Any) -> dict[str, Outcomes]:
        value = planned.pop(0) if planned else 4.0
        return {"nats_per_token": Outcomes((value,) * 12, (1.0,) * 12)}

    monkeypatch.setattr(monitor_module, "outcomes_of", outcomes)
    return planned


def guarded(tmp_path: Path, action: str, **more: Any) -> SFTConfig:
    """Twelve steps with dropout and a look after every second; nats per token may rise by 10 %."""
    guard = {"nats_per_token": {"max_rise": 0.1}, "action": action, **more.pop("guard", {})}
    monitor = {**SMALL, "every": 2, "parts": ["nats_per_token"], **more.pop("monitor", {})}
    return SFTConfig.parse(settings(tmp_path, **{"eval_every": 2, "monitor": monitor, "guard": guard, **more}))


# ---- it changes nothing ----


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_watched_run_ends_in_the_same_bits(stage: str, tmp_path: Path) -> None:
    """With dropout in training, so that a number drawn by a look would show in the weights."""
    train, config = (train_sft, SFTConfig) if stage == "sft" else (train_dpo, DPOConfig)
    train(config.parse(settings(tmp_path, stage, out=str(tmp_path / "plain"))))
    result = train(config.parse(settings(tmp_path, stage, monitor=SMALL)))
    assert same(tmp_path / "run", tmp_path / "plain")
    end = result.steps
    assert looks(tmp_path / "run") == sorted({*range(0, end, 4), end})
    without = [line for line in lines(tmp_path / "run") if not any(name.startswith("monitor/") for name in line)]
    assert without == lines(tmp_path / "plain")
    first = next(line for line in lines(tmp_path / "run") if "monitor/answers" in line)
    assert {"monitor/multiple_choice", "monitor/nats_per_token", "monitor/stops", "monitor/tokens"} <= first.keys()
    assert result.metrics["monitor_seconds"] > 0
    assert 0 < result.metrics["monitor_share"] < 1
    said = json.loads((tmp_path / "run" / "monitor" / f"step-{end:06d}.json").read_text())
    assert len(said["answers"]) == 2
    assert said["metrics"]["nats_per_token"] == result.metrics["monitor/nats_per_token"]


def test_numbers_that_a_look_draws_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = monitor_module.evaluate

    def drawing(*arguments: Any, **options: Any) -> Any:
        torch.rand(7)
        return original(*arguments, **options)

    monkeypatch.setattr(monitor_module, "evaluate", drawing)
    train_sft(SFTConfig.parse(settings(tmp_path, epochs=1, out=str(tmp_path / "plain"))))
    train_sft(SFTConfig.parse(settings(tmp_path, epochs=1, monitor={**SMALL, "parts": ["nats_per_token"]})))
    assert same(tmp_path / "run", tmp_path / "plain")


@pytest.mark.parametrize(("at", "step"), [(1, 0), (2, 4)])
def test_a_signal_while_it_looks_is_obeyed_and_the_look_made_up_for(
    at: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run then has the lines and the bits of one that nobody stopped, and the bounds their start."""
    guard = {"nats_per_token": {"max_rise": 5.0}, "action": "rollback"}
    values = settings(tmp_path, monitor=SMALL, guard=guard, save_every=100)
    train_sft(SFTConfig.parse({**values, "out": str(tmp_path / "whole")}))
    original, calls = monitor_module.evaluate, {"n": 0}

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(monitor_module, "evaluate", stopping)
    with pytest.raises(Interrupted, match="SIGTERM after step 4 of 12" if step else "SIGTERM while step 0"):
        train_sft(SFTConfig.parse(values))
    assert looks(tmp_path / "run") == ([0] if step else []), "it was cut off, not waited for"
    result = train_sft(SFTConfig.parse(values))
    assert result.resumed_from == step
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert same(tmp_path / "run", tmp_path / "whole")
    assert record(tmp_path / "run")["guard"] == record(tmp_path / "whole")["guard"]


def test_a_policy_that_samples_warmer_is_read_as_it_is(tmp_path: Path) -> None:
    """Nats per token are the model's, not those of its distribution at the temperature of PPO's sampling; and it is
    looked at between rollouts (of 4 steps here) only."""
    found = []
    for temperature in (0.5, 1.0):
        out = str(tmp_path / f"at-{temperature}")
        monitor = {**SMALL, "every": 3, "parts": ["nats_per_token"]}
        train_ppo(PPOConfig.parse({**ppo_config(tmp_path).model_dump(), "temperature": temperature, "monitor": monitor,
                                   "out": out}))  # fmt: skip
        assert looks(Path(out)) == [0, 4, 8]
        found.append(next(line for line in lines(Path(out)) if "monitor/nats_per_token" in line))
    assert found[0]["monitor/nats_per_token"] == found[1]["monitor/nats_per_token"]


def test_a_guard_in_ppo_goes_back_to_the_best_objective_inside(tmp_path: Path, nats: list[float]) -> None:
    """Of start and first rollout, the start counting as PPO's does; the second rollout is outside."""
    nats += [4.0, 4.1, 5.0]
    more = {"monitor": {**SMALL, "parts": ["nats_per_token"]}, "learning_rate": 3e-2}
    more["guard"] = {"nats_per_token": {"max_rise": 0.1}, "action": "rollback"}
    config = PPOConfig.parse({**ppo_config(tmp_path).model_dump(), **more})
    result = train_ppo(config)
    objective = {line["step"]: line["validation/objective"] for line in lines(result.out) if "validation/score" in line}
    assert looks(result.out) == sorted(objective) == [0, 4, 8]
    assert result.metrics["ended_by"] == "guard"
    assert result.metrics["model_of_step"] == max((0, 4), key=objective.__getitem__)
    assert result.metrics["within_bounds"] is True


# ---- how often ----


def simulated(n_steps: int, step: float, cost: float, share: float) -> tuple[list[int], float]:
    """The steps at which `every: auto` looks, and its share of the time in the end."""
    nothing: Any = None
    watch = Monitor(MonitorConfig(every="auto", share=share), None, nothing, nothing, nothing, nothing)
    at = []
    for done in range(n_steps + 1):
        if done in (0, n_steps) or watch.due(done, n_steps, step * done, validates=False):
            watch.seconds, watch.looks, watch.last = watch.seconds + cost, watch.looks + 1, done
            at.append(done)
    return at, watch.share(step * n_steps)


def test_auto_spreads_what_the_budget_allows() -> None:
    """400 steps of a second at 5 %: 400 x 5 / 95 = 21.05 s, so ten looks of 2 s, nine gaps of 44 or 45 steps."""
    at, share = simulated(400, 1.0, 2.0, 0.05)
    assert len(at) == 10
    assert share <= 0.05
    gaps = [b - a for a, b in itertools.pairwise(at)]
    assert max(gaps) - min(gaps) <= 2
    assert simulated(400, 1.0, 50.0, 0.05)[0] == [0, 400], "too dear: the ends alone"
    assert len(simulated(400, 1.0, 2.0, 0.2)[0]) == 50, "400 x 20 / 80 = 100 s"


def test_auto_mends_a_wrong_first_guess() -> None:
    """The first look took five times as long as the rest, as with a cold cache: more follow, and the share holds."""
    nothing: Any = None
    watch, at = Monitor(MonitorConfig(every="auto"), None, nothing, nothing, nothing, nothing), []
    for done in range(401):
        if done in (0, 400) or watch.due(done, 400, float(done), validates=False):
            watch.seconds, watch.looks, watch.last = watch.seconds + (5.0 if done == 0 else 1.0), watch.looks + 1, done
            at.append(done)
    assert 15 <= len(at) <= 17, "21.05 s hold one look of 5 s and sixteen of 1 s"
    assert watch.share(400.0) <= 0.05


# ---- the guard ----


def test_a_warning_is_said_once_and_the_run_goes_on(tmp_path: Path, nats: list[float]) -> None:
    nats += [4.0, 4.2, 4.5, 4.6]
    said = io.StringIO()
    result = train_sft(guarded(tmp_path, "warn"), console=Console(file=said, width=300))
    assert result.steps == 12
    assert said.getvalue().count("guard, step 4: nats per token went from 4 to 4.5: +12.5 %") == 1
    assert "guard, step 6" not in said.getvalue()
    entries = record(result.out)["guard"]["looks"]
    assert [(entry["step"], entry["passed"]) for entry in entries] == [
        (4, ["nats_per_token.max_rise"]),
        (6, ["nats_per_token.max_rise"]),
    ]
    reading = entries[0]["readings"][0]
    assert (reading["start"], reading["value"], reading["limit"]) == (4.0, 4.5, 0.1)
    assert result.metrics["within_bounds"], "the last look found 4.0"


def test_stop_ends_the_run_with_the_weights_as_they_are(tmp_path: Path, nats: list[float]) -> None:
    nats += [4.0, 4.2, 4.5]
    result = train_sft(guarded(tmp_path, "stop"))
    assert (result.steps, result.metrics["model_of_step"]) == (4, 4)
    assert result.metrics["ended_by"] == "guard"
    assert "+12.5 %" in result.metrics["ended"]
    assert result.metrics["within_bounds"] is False
    assert train_sft(guarded(tmp_path, "stop")).already_done


def test_rollback_keeps_the_best_that_was_inside(tmp_path: Path, nats: list[float]) -> None:
    """Losses fall all the way: without bounds the last step were the best. The fourth look is just outside."""
    nats += [4.0, 4.1, 4.2, 4.401]
    result = train_sft(guarded(tmp_path, "rollback", keep_best=False))
    losses = {line["step"]: line["validation/loss"] for line in lines(result.out) if "validation/loss" in line}
    assert sorted(losses) == [0, 2, 4, 6]
    assert losses[6] < losses[4] < losses[2], "the test needs a run that gets better"
    assert (result.steps, result.metrics["model_of_step"]) == (6, 4)
    assert result.metrics["within_bounds"] is True
    assert record(result.out)["guard"]["kept"]["readings"][0]["value"] == pytest.approx(4.2)
    plain = settings(tmp_path, out=str(tmp_path / "plain"), eval_every=2, keep_best=False)
    # The same run to its fourth step, at the learning rates of twelve.
    with pytest.raises(KeyboardInterrupt):
        _cut(SFTConfig.parse(plain), after=4)
    (checkpoint,) = (tmp_path / "plain" / "checkpoints").glob("step-00000004")
    kept, there = weights(result.out), load_file(checkpoint / "weights.safetensors")
    assert sorted(tensor.sum().item() for tensor in kept.values()) == sorted(t.sum().item() for t in there.values())


def _cut(config: SFTConfig, after: int) -> None:
    """Run and cut off after a step, with a checkpoint of it."""
    from burnish.stages import loop

    original = loop.TrainingLoop._after

    def cut(self: Any, done: int) -> None:
        original(self, done)
        if done == after:
            self._checkpoint(done)
            raise KeyboardInterrupt

    loop.TrainingLoop._after = cut  # type: ignore[method-assign]
    try:
        train_sft(config)
    finally:
        loop.TrainingLoop._after = original  # type: ignore[method-assign]


def test_rollback_to_the_start_where_nothing_else_was_inside(tmp_path: Path, nats: list[float]) -> None:
    nats += [4.0, 5.0]
    result = train_sft(guarded(tmp_path, "rollback"))
    assert (result.steps, result.metrics["model_of_step"]) == (2, 0)
    assert all(bool((t == 0).all()) for name, t in weights(result.out).items() if "lora_B" in name), "untrained"


def test_without_validation_data_the_latest_inside_is_kept(tmp_path: Path, nats: list[float]) -> None:
    nats += [4.0, 4.1, 4.3, 4.2, 5.0]
    result = train_sft(guarded(tmp_path, "rollback", validation=0.0))
    assert (result.steps, result.metrics["model_of_step"]) == (8, 6)


def test_looks_between_validations_are_validated_too(tmp_path: Path, nats: list[float]) -> None:
    """Or what they find inside could not be compared."""
    result = train_sft(guarded(tmp_path, "rollback", eval_every=100, monitor={"every": 5}))
    assert [line["step"] for line in lines(result.out) if "validation/loss" in line] == [0, 5, 10, 12]


@pytest.mark.parametrize("sure", [True, False])
def test_noise_ends_a_run_only_where_the_guard_need_not_be_sure(
    sure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text of twelve is much worse: +17 % on average, an interval from 0. What is kept is inside all the same."""
    calls = {"n": 0}

    def outcomes(card: Any) -> dict[str, Outcomes]:
        calls["n"] += 1
        return {"nats_per_token": Outcomes((12.0 if calls["n"] > 2 else 4.0, *(4.0,) * 11), (1.0,) * 12)}

    monkeypatch.setattr(monitor_module, "outcomes_of", outcomes)
    result = train_sft(guarded(tmp_path, "rollback", guard={"sure": sure}, keep_best=False))
    assert result.steps == (12 if sure else 4)
    assert ("ended" in result.metrics) is not sure
    assert result.metrics["model_of_step"] == 2
    assert result.metrics["within_bounds"] is True


def test_a_minimum_counts_once_it_was_met(tmp_path: Path, nats: list[float]) -> None:
    """As `answers: {min: 0.9}` for a raw model; here a maximum of nats that the start is above."""
    nats += [4.0, 3.8, 3.4, 3.3, 3.9]
    said = io.StringIO()
    config = guarded(tmp_path, "stop", guard={"nats_per_token": {"max": 3.5}})
    result = train_sft(config, console=Console(file=said, width=300))
    assert "it counts once it was met" in said.getvalue()
    assert result.steps == 8


def test_a_guarded_run_that_was_cut_off_decides_the_same(tmp_path: Path, nats: list[float]) -> None:
    series = [4.0, 4.1, 4.2, 4.3, 4.3, 5.0]
    nats += series
    whole = train_sft(guarded(tmp_path, "rollback", out=str(tmp_path / "whole")))
    nats[:] = series
    with pytest.raises(KeyboardInterrupt):
        _cut(guarded(tmp_path, "rollback"), after=6)
    assert nats == series[4:], "the start's look was not made again"
    resumed = train_sft(guarded(tmp_path, "rollback"))
    assert (resumed.steps, resumed.metrics["model_of_step"]) == (whole.steps, whole.metrics["model_of_step"])
    assert same(resumed.out, whole.out)
    assert record(resumed.out)["guard"] == record(whole.out)["guard"]


def test_a_guard_alone_measures_what_its_bounds_are_about_for_real(tmp_path: Path) -> None:
    """SFT on made words costs the tiny model its prose: the rise is real, small, and the same sign on every text."""
    guard = {"nats_per_token": {"max_rise": 0.002}, "action": "rollback"}
    result = train_sft(SFTConfig.parse(settings(tmp_path, guard=guard, eval_every=1, epochs=4)))
    assert result.metrics["ended_by"] == "guard"
    assert result.metrics["within_bounds"] is True
    kept = result.metrics["monitor/nats_per_token"]
    start = next(line for line in lines(result.out) if "monitor/nats_per_token" in line)
    assert "monitor/answers" not in start
    assert kept <= 1.002 * start["monitor/nats_per_token"]
    last = [line["monitor/nats_per_token"] for line in lines(result.out) if "monitor/nats_per_token" in line][-1]
    assert last > 1.002 * start["monitor/nats_per_token"]


# ---- settings ----


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"monitor": {"every": 0}}, "at least 1"),
        ({"monitor": {"parts": ["answer"]}}, "monitor.parts"),
        ({"monitor": {"parts": []}}, "name at least one part"),
        ({"guard": {"action": "stop"}}, "a guard needs a bound"),
        ({"guard": {"retention": {}}}, "a bound needs max_drop"),
        ({"guard": {"retention": {"min": 0.5}}}, "retention takes max_drop only"),
        ({"guard": {"nats_per_token": {"max_drop": 0.1}}}, "lower is better for nats_per_token"),
        ({"guard": {"answers": {"max_rise": 0.1}}}, "higher is better for answers"),
        ({"guard": {"answers": {"min": 90}}}, "answers is a rate"),
        ({"guard": {"multiple_choice": {"max_drop": 2}}}, r"multiple_choice can't fall by 1 .*0\.02 is 2 points"),
        ({"guard": {"answers": {"max_drop": 1}}}, r"answers can't fall by 1 .*0\.02 is 2 points"),
        (
            {"guard": {"retention": {"max_drop": 2}}},
            r"retention bounds multiple_choice too, and multiple_choice can't fall by 1",
        ),
        ({"guard": {"tokens": {"max_drop": 5}}}, r"tokens can't fall by 1 .*0\.05 is 5 %"),
        ({"guard": {"anwers": {"min": 0.9}}}, "did you mean 'answers'"),
        ({"guard": {"retention": {"max_drop": 0.1}, "action": "stop"}, "monitor": {"every": "auto"}}, "the clock"),
        ({"monitor": {"every": 20, "share": 0.1}}, "monitor.share: 0.1 has no effect, for monitor.every is 20"),
        ({"monitor": {"every": "validation", "share": 0.1}}, "has no effect, for monitor.every is validation"),
        (
            {"guard": {"retention": {"max_drop": 0.1}, "action": "stop"}, "monitor": {"share": 0.1}},
            "has no effect, for a guard that acts looks at each validation",
        ),
    ],
)
def test_settings_of_nonsense_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        SFTConfig.parse(settings(tmp_path, **values))


def test_a_rise_may_be_more_than_the_whole() -> None:
    """3 nats become 9, or an answer thrice as long: both happen, so both may be bounds. A share below 1 is a fall."""
    for bounds in (
        {"nats_per_token": {"max_rise": 2}},
        {"tokens": {"max_rise": 2}},
        {"retention": {"max_drop": 2}, "multiple_choice": {"max_drop": 0.02}},
        {"retention": {"max_drop": 0.99}, "tokens": {"max_drop": 0.99}},
    ):
        assert GuardConfig.parse(bounds).bounds


def test_retention_is_its_two_halves_and_the_guard_adds_its_parts() -> None:
    guard = GuardConfig.parse({"retention": {"max_drop": 0.02}, "nats_per_token": {"max_rise": 0.05}})
    assert guard.bounds == {"multiple_choice": {"max_drop": 0.02}, "nats_per_token": {"max_rise": 0.05}}
    base = {"model": "m", "data": "d", "out": "o"}
    watched = SFTConfig.parse({**base, "guard": guard.model_dump(), "monitor": {"parts": ["harm"]}}).watched
    assert watched is not None
    assert set(watched.parts) == {"harm", "multiple_choice", "nats_per_token"}
    assert watched.every == "auto"
    acting = SFTConfig.parse({**base, "guard": {"stops": {"min": 0.9}, "action": "stop"}}).watched
    assert acting is not None
    assert (acting.parts, acting.every) == (("answers",), "validation")
    assert SFTConfig.parse(base).watched is None
    warning = {"guard": {"stops": {"min": 0.9}}, "monitor": {"share": 0.1}}
    assert SFTConfig.parse({**base, **warning}).monitor.share == 0.1  # type: ignore[union-attr]
    again = SFTConfig.parse({**base, "monitor": {"every": 20}}).model_dump()
    assert SFTConfig.parse(again).model_dump() == again, "a record of settings is settings"


def test_a_guard_that_could_never_be_sure_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    values = settings(tmp_path, guard={"answers": {"max_drop": 0.1}}, monitor={"sample": 6})
    with pytest.raises(ConfigError, match="to be sure of 'answers', and 6 of it") as caught:
        train_sft(SFTConfig.parse({**values, "model": "nowhere/at-all"}))
    assert "let monitor.sample, and monitor.prompts, give 10 of it" in (caught.value.fix or "")
    assert not (tmp_path / "run").exists()


def test_held_out_texts_may_be_one_s_own(tmp_path: Path) -> None:
    """They are read as a report reads them, and refused before anything is loaded."""
    file = tmp_path / "domain.jsonl"
    rows = [{"id": f"d{i}", "title": "none", "text": f"{i} hello world, " * 20} for i in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = settings(tmp_path, monitor={"parts": ["nats_per_token"], "prose": str(file), "characters": 50})
    suite = read_suite(SFTConfig.parse(values))
    assert suite is not None
    assert [text.id for text in suite.prose] == [row["id"] for row in rows]
    assert all(row["text"].startswith(text.text) for row, text in zip(rows, suite.prose, strict=True))
    assert max(len(text.text) for text in suite.prose) <= 50
    with pytest.raises(ConfigError, match="to be sure of 'nats_per_token', and 9 of it") as few:
        train_sft(
            SFTConfig.parse({**values, "guard": {"nats_per_token": {"max_rise": 0.1}}, "model": "nowhere/at-all"})
        )
    assert "let monitor.prose give 10 of it" in (few.value.fix or "")
    file.write_text('{"id": "d0", "text": ""}\n')
    with pytest.raises(DataError) as caught:
        train_sft(SFTConfig.parse(values))
    assert caught.value.where == f"{file}:1"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "changed", "named"),
    [
        ("nats_per_token", "prose", "monitor.prose"),
        ("format", "prompts", "monitor.prompts"),
        ("nats_per_token", "prompts", None),
        ("format", "prose", None),
    ],
)
def test_a_resume_looks_at_the_same_texts(part: str, changed: str, named: str | None, tmp_path: Path) -> None:
    """Looks are held against that of the start, unit by unit. A file that no look reads may change."""
    prose, prompts = tmp_path / "prose.jsonl", tmp_path / "ifeval.jsonl"
    prose.write_text('{"id": "d0", "title": "none", "text": "hello world hello"}\n')
    row = {"key": 1, "prompt": "no commas", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    prompts.write_text(json.dumps(row) + "\n")
    monitor = {**SMALL, "parts": [part], "prose": str(prose), "prompts": f"ifeval:{prompts}"}
    config = SFTConfig.parse(settings(tmp_path, epochs=1, monitor=monitor))
    with pytest.raises(KeyboardInterrupt):
        _cut(config, after=4)
    file = {"prose": prose, "prompts": prompts}[changed]
    before = file.read_text()
    file.write_text(before.replace("hello world", "hello, world").replace("no commas", "nothing"))
    assert file.read_text() != before
    if named is not None:
        with pytest.raises(OutputDirError, match=f"the {named} has changed since the run"):
            train_sft(config)
        file.write_text(before)
    assert train_sft(config).resumed_from > 0
    file.write_text("")
    assert train_sft(config).already_done, "a finished run looks no more"


def test_a_reward_model_has_nobody_to_ask(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a reward model does not speak"):
        RewardConfig.parse(settings(tmp_path, "dpo", monitor={}))


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """A test that raises within the loop must not leave its signal handlers behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before
