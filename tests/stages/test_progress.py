"""What a person sees while a stage runs."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from burnish.stages.progress import Progress

PPO = {
    "loss": 0.3,
    "score": 1.2,
    "reward": 1.1,
    "kl": 0.33,
    "entropy": 4.01,
    "ratio": 1.02,
    "clip_fraction": 0.03,
    "value_loss": 0.125,
    "explained_variance": 0.02,
    "advantage_mean": 0.33,
    "advantage_std": 1.25,
    "response_length": 14.0,
    "eos_rate": 0.9,
    "tokens_per_second": 120.0,
    "peak_memory_gb": 1.44,
}


def shown(values: dict[str, float], *, terminal: bool) -> list[str]:
    out = io.StringIO()
    progress = Progress("ppo", Console(file=out, force_terminal=terminal, width=80))
    progress.start(8, 0)
    progress.step(7, values)
    progress.step(8, {name: value for name, value in values.items() if name != "peak_memory_gb"})
    progress.stop()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    return [line.rstrip() for line in plain.splitlines() if line.strip()]


def test_a_terminal_shows_all_that_practitioners_of_ppo_look_at_in_80_columns() -> None:
    lines = shown(PPO, terminal=True)
    assert lines[-2] == "  reward 1.10  entropy 4.01  ratio 1.020  clip fraction 0.03  1.4 GB", "memory as last told"
    assert lines[-1] == "  value loss 0.125  explained variance 0.02  advantage 0.33  ± 1.25"
    bar = lines[-3].split("\r")[-1]
    assert bar.endswith("score 1.20  kl 0.330  len 14  eos 0.90  120 tok/s")
    assert len(bar) <= 80


@pytest.mark.parametrize("terminal", [True, False])
def test_other_stages_have_the_line_alone(terminal: bool) -> None:
    lines = shown({"loss": 0.3, "tokens_per_second": 120.0}, terminal=terminal)
    assert "loss 0.300  120 tok/s" in lines[-1]
    assert not any("reward" in line for line in lines)


def test_the_last_measured_kl_stays_in_the_line_but_not_the_zero_before_the_first_step() -> None:
    out = io.StringIO()
    progress = Progress("dpo", Console(file=out, width=80))
    progress.start(8, 0)
    progress.validation(0, {"loss": 0.69, "kl": 0.0})
    progress.step(1, {"loss": 0.6})
    progress.validation(4, {"loss": 0.5, "kl": 0.109})
    progress.step(8, {"loss": 0.4})
    first, last = [line for line in out.getvalue().splitlines() if "s left" in line]
    assert "kl" not in first
    assert "kl 0.109" in last
