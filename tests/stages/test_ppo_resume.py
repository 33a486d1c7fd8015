"""A run of PPO that is cut off anywhere goes on to the same bits: between steps, while it samples or asks for a reward,
and when the process is killed."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.errors import Interrupted, TrainingError
from burnish.stages.config import RewardConfig
from burnish.stages.loop import TrainingLoop
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.reward import train_reward
from tests.stages.test_checkpoint import same_bits, start, wait_for_metrics
from tests.stages.toy import settings

TIMES = {"tokens_per_second", "sampling_tokens_per_second", "rollout_seconds", "episodes_per_second", "peak_memory_gb"}
WORDS = "def kind(prompts, responses):\n    return [len(set(r)) / 10 for r in responses]\n"
RUNS: dict[str, dict[str, Any]] = {
    # Everything that is carried: a moving reference, an adaptive coefficient, running moments, the alarm's history.
    "ppo": {"reference_ema": 0.9, "kl_target": 0.5, "normalise": "running", "critic_warmup": 1, "eval_every": 1},
    "rloo": {"advantage": "rloo", "responses": 3, "kl_limit": 1e-4, "normalise": "start"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a reward model of two members and a judge."""
    folder = tmp_path_factory.mktemp("ppo")
    values = settings(folder, "dpo", out=str(folder / "reward"), lora={"rank": 2}, epochs=1, members=3, holdout=True)
    train_reward(RewardConfig.parse(values))
    (folder / "rewards.py").write_text(WORDS)
    return folder


def values_of(place: Path, out: Path, kind: str) -> dict[str, Any]:
    """Two epochs over 16 prompts, in rollouts of 8 and passes of 2 steps: 16 steps."""
    return settings(
        place,
        "dpo",
        out=str(out),
        lora={"rank": 2},
        reward=str(place / "reward"),
        reward_function=f"{place / 'rewards.py'}:kind",
        rollout_size=8,
        update_epochs=2,
        max_new_tokens=6,
        validation=0.2,
        save_every=3,
        **RUNS[kind],
    )


@pytest.fixture(scope="module")
def whole(place: Path) -> Callable[[str], Path]:
    """The same run without interruption, once for each kind."""
    done: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in done:
            done[kind] = place / f"whole-{kind}"
            train_ppo(PPOConfig.parse(values_of(place, done[kind], kind)))
        return done[kind]

    return run


def lines(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def demand_the_same(out: Path, whole: Path) -> None:
    assert same_bits(out, whole)
    assert lines(out) == lines(whole)
    for file in sorted((whole / "samples").iterdir()):
        assert (out / "samples" / file.name).read_text() == file.read_text()


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("after", [1, 2, 4, 7, 9, 12])
def test_stopped_after_any_step(
    after: int, kind: str, place: Path, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a pass, between the passes, at the end of a rollout and of an epoch."""
    config = PPOConfig.parse(values_of(place, tmp_path / "run", kind))
    real = TrainingLoop._after

    def stopping(loop: TrainingLoop, done: int) -> None:
        loop.stop_signal = signal.SIGTERM if done == after else loop.stop_signal
        real(loop, done)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_after", stopping)
        with pytest.raises(Interrupted):
            train_ppo(config)
    assert train_ppo(config).resumed_from == after
    demand_the_same(tmp_path / "run", whole(kind))


@pytest.mark.parametrize("asked", [1, 5, 9, 14, 23, 40, 50])
def test_stopped_while_it_samples_or_reads(
    asked: int, place: Path, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollout that was cut off leaves no trace: reference, moments and coefficient are moved once."""
    config = PPOConfig.parse(values_of(place, tmp_path / "run", "ppo"))
    real, calls = TrainingLoop.stop_if_asked, [0]

    def stopping(loop: TrainingLoop) -> None:
        calls[0] += 1
        loop.stop_signal = signal.SIGINT if calls[0] == asked else loop.stop_signal
        real(loop)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "stop_if_asked", stopping)
        with pytest.raises(Interrupted):
            train_ppo(config)
    train_ppo(config)
    demand_the_same(tmp_path / "run", whole("ppo"))


def test_a_reward_function_that_fails_loses_nothing(place: Path, whole: Callable[[str], Path], tmp_path: Path) -> None:
    values = values_of(place, tmp_path / "run", "rloo")
    file = tmp_path / "rewards.py"
    values["reward_function"] = f"{file}:kind"
    file.write_text(
        "calls = []\n"
        "def kind(prompts, responses):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 4:\n"
        "        raise OSError('the server is gone')\n"
        "    return [len(set(r)) / 10 for r in responses]\n"
    )
    with pytest.raises(TrainingError, match="the server is gone"):
        train_ppo(PPOConfig.parse(values))
    file.write_text(WORDS)
    result = train_ppo(PPOConfig.parse(values))
    assert result.resumed_from > 0
    demand_the_same(tmp_path / "run", whole("rloo"))


@pytest.mark.process
def test_killed_at_random_moments_ends_in_the_same_bits(place: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    expected = values_of(place, tmp_path / "whole", "ppo")
    assert start("ppo", expected).wait() == 0
    values, draw, kills = {**expected, "out": str(tmp_path / "run")}, random.Random(5), 0
    for _ in range(12):
        process = start("ppo", values)
        wait_for_metrics(tmp_path / "run", process)
        time.sleep(draw.uniform(0.0, 0.6))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
        if kills == 3:
            assert start("ppo", values).wait() == 0
            break
    assert kills > 0
    demand_the_same(tmp_path / "run", tmp_path / "whole")
