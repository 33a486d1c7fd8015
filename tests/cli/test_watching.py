"""Monitor and guard from the command line, and what `burnish sweep` prints."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.tools import Burnish, demand_one_message, sft

RECIPE = """
name: toy
model: base
defaults: {dtype: float32, batch_size: 4, micro_batch_tokens: 96, learning_rate: 1e-2, max_steps: 1}
stages:
  dpo: {data: dpo.jsonl, lora: {rank: 2}}
  report: {models: {dpo: dpo}, sample: 7, max_new_tokens: 2, dtype: float32}
"""


def test_a_guard_is_given_as_flags_and_its_decision_is_the_last_word(here: Path, burnish: Burnish) -> None:
    watching = ["--monitor.parts", "[nats_per_token]", "--monitor.characters", "60", "--monitor.every", "1"]
    bounds = ["--guard.nats_per_token", "{max_rise: 0.0}", "--guard.action", "rollback", "--guard.sure", "false"]
    result = burnish(*sft(*watching, *bounds))
    assert result.code == 0
    config = json.loads((here / "run" / "run.json").read_text())["config"]
    assert (config["monitor"]["every"], config["monitor"]["parts"]) == (1, ["nats_per_token"])
    assert config["guard"]["nats_per_token"]["max_rise"] == 0.0
    out = " ".join(result.out.split())
    assert "of the time" in out
    assert "the kept model is inside the bounds; ended the stage: nats per token went from" in out


def test_wrong_bounds_are_one_message(here: Path, burnish: Burnish) -> None:
    result = burnish(*sft("--guard.anwers", "{min: 0.9}"))
    demand_one_message(result, "did you mean 'answers'", "--guard.anwers", code=2)
    result = burnish(*sft("--guard.answers", "0.9"))
    demand_one_message(result, "--guard.answers", code=2)


def test_help_says_how_settings_of_their_own_are_given(here: Path, burnish: Burnish) -> None:
    text = " ".join(burnish("sft", "--help").out.split())
    assert "--monitor" in text
    assert "--guard" in text
    assert "--monitor" not in burnish("reward", "--help").out


def test_sweep_prints_the_table_and_names_what_failed(here: Path, burnish: Burnish) -> None:
    (here / "recipe.yaml").write_text(RECIPE)
    result = burnish("sweep", "recipe.yaml", "dpo.max_length=8,256", "--out", "sweep")
    assert result.code == 1
    assert "Traceback" not in result.out + result.err
    out = " ".join(result.out.split())
    assert "alignment" in out
    assert "sweep.html" in out
    assert "failed dpo.max_length=8:" in out
    assert burnish("sweep", "recipe.yaml", "dpo.beta=0.1", "--out", "sweep").code == 2
