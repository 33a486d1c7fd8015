"""Resume is bit-exact: shown on a real process that is killed at random moments, and on each part of the state."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from burnish.errors import CheckpointError, Interrupted
from burnish.stages.checkpoint import load_last, save_checkpoint
from burnish.stages.config import DPOConfig, SFTConfig
from burnish.stages.dpo import train_dpo
from burnish.stages.sft import train_sft
from tests.stages.toy import settings

ROOT = Path(__file__).resolve().parents[2]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "adapter_model.safetensors")


def same_bits(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def start(stage: str, values: dict) -> subprocess.Popen:
    """The stage as a process of its own, slowed a little so that kills fall everywhere."""
    code = (
        "import json, sys, time, torch\n"
        "torch.set_num_threads(1)\n"
        "import burnish as bn\n"
        "from burnish.stages import loop\n"
        f"from burnish.stages.{stage} import train_{stage} as train\n"
        "after = loop.TrainingLoop._after\n"
        "def slowly(self, done):\n"
        "    time.sleep(0.05)\n"
        "    after(self, done)\n"
        "loop.TrainingLoop._after = slowly\n"
        f"train(bn.{stage.upper()}Config.parse(json.loads(sys.argv[1])))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(values)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for_metrics(out: Path, process: subprocess.Popen) -> None:
    """Until training has begun, so that the kill hits a running loop."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").exists() and '"loss"' in (out / "metrics.jsonl").read_text():
            return
        time.sleep(0.02)


@pytest.mark.process
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_killed_at_random_moments_and_resumed_ends_in_the_same_bits(stage: str, tmp_path: Path) -> None:
    values = settings(tmp_path, stage, epochs=3 if stage == "sft" else 2)
    torch.set_num_threads(1)
    whole = {**values, "out": str(tmp_path / "whole")}
    assert start(stage, whole).wait() == 0
    draw, kills = random.Random(stage), 0
    for _ in range(12):
        process = start(stage, values)
        wait_for_metrics(tmp_path / "run", process)
        time.sleep(draw.uniform(0.0, 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
        if kills == 3:
            assert start(stage, values).wait() == 0
            break
    assert kills > 0
    assert same_bits(tmp_path / "run", tmp_path / "whole")
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    whole_lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == len(whole_lines), "every step is logged once"


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_exit_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    values = settings(tmp_path, "sft", epochs=200, save_every=1000)
    process = start("sft", values)
    wait_for_metrics(tmp_path / "run", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"stopped by {number.name}" in errors
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_interrupted_runs_go_on_where_they_stopped(tmp_path: Path) -> None:
    values = settings(tmp_path, "sft")
    train_sft(SFTConfig.parse({**values, "out": str(tmp_path / "whole")}))

    class StopAt:
        """Asks for a stop in the middle of a step, as a signal would."""

        def __init__(self, step: int) -> None:
            self.step = step

        def __call__(self, loop, index: int) -> None:
            if index == self.step:
                loop.stop_signal = int(signal.SIGTERM)

    from burnish.stages import loop as loop_module

    original = loop_module.TrainingLoop._clip
    for at in (1, 5):
        stop = StopAt(at)

        def clip(self, step, stop=stop):
            stop(self, step.index)
            return original(self, step)

        loop_module.TrainingLoop._clip = clip
        try:
            with pytest.raises(Interrupted) as caught:
                train_sft(SFTConfig.parse(values))
        finally:
            loop_module.TrainingLoop._clip = original
        assert caught.value.exit_code == 128 + signal.SIGTERM
    result = train_sft(SFTConfig.parse(values))
    assert result.resumed_from == 6
    assert same_bits(tmp_path / "run", tmp_path / "whole")


def test_dpo_from_an_adapter_resumes_to_the_same_bits(tmp_path: Path) -> None:
    sft = train_sft(SFTConfig.parse(settings(tmp_path, "sft", out=str(tmp_path / "sft"), epochs=1)))
    values = settings(tmp_path, "dpo", model=str(sft.model))
    train_dpo(DPOConfig.parse({**values, "out": str(tmp_path / "whole")}))
    with pytest.raises(KeyboardInterrupt):
        _interrupt_dpo(values, after=4)
    result = train_dpo(DPOConfig.parse(values))
    assert result.resumed_from == 3, "the last checkpoint before the cut"
    assert same_bits(tmp_path / "run", tmp_path / "whole")


def _interrupt_dpo(values: dict, after: int) -> None:
    """Cut a run off without any saving."""
    from burnish.stages import loop as loop_module

    original = loop_module.TrainingLoop._after

    def cut(self, done: int) -> None:
        original(self, done)
        if done == after:
            raise KeyboardInterrupt

    loop_module.TrainingLoop._after = cut
    try:
        train_dpo(DPOConfig.parse(values))
    finally:
        loop_module.TrainingLoop._after = original


def test_checkpoint_restores_every_random_generator(tmp_path: Path) -> None:
    parameters = {"w": torch.nn.Parameter(torch.randn(3, 2))}
    optimiser = torch.optim.AdamW(parameters.values(), lr=0.1)
    parameters["w"].sum().backward()
    optimiser.step()
    random.seed(5)
    np.random.seed(6)
    np.random.standard_normal()  # leaves half of a pair behind, which is state too
    save_checkpoint(tmp_path, 7, parameters, optimiser, {"best": 1.5}, keep=1)
    expected = (torch.rand(3), random.random(), np.random.standard_normal(3))
    with torch.no_grad():
        parameters["w"].zero_()
    other = torch.optim.AdamW(parameters.values(), lr=0.1)
    checkpoint = load_last(tmp_path, parameters, other)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state) == (7, {"best": 1.5})
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    assert np.array_equal(np.random.standard_normal(3), expected[2])
    state, kept = other.state[parameters["w"]], optimiser.state[parameters["w"]]
    assert all(torch.equal(state[k], kept[k]) for k in ("exp_avg", "exp_avg_sq", "step"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    parameters = {"w": torch.nn.Parameter(torch.zeros(2))}
    optimiser = torch.optim.AdamW(parameters.values())
    save_checkpoint(tmp_path, 1, parameters, optimiser, {}, keep=1)
    for other, message in (({"v": torch.zeros(2)}, "another model"), ({"w": torch.zeros(3)}, r"is \(3,\) here")):
        wrong = {name: torch.nn.Parameter(value) for name, value in other.items()}
        with pytest.raises(CheckpointError, match=message):
            load_last(tmp_path, wrong, torch.optim.AdamW(wrong.values()))


def test_only_the_last_checkpoints_stay(tmp_path: Path) -> None:
    parameters = {"w": torch.nn.Parameter(torch.zeros(2))}
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, parameters, torch.optim.AdamW(parameters.values()), {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
