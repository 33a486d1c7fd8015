"""A report shows what the monitor of a model's run measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from burnish.evaluation.page import render_page
from burnish.evaluation.report import build_report
from burnish.evaluation.suite import evaluate, load_suite
from burnish.pipeline.training import trained_with, training_of
from tests.evaluation.made import ROWS, ScriptedModel, write_lines


def make_run(directory: Path, **metrics: Any) -> Path:
    """A run as a stage leaves it, with two looks between other lines."""
    (directory / "model").mkdir(parents=True)
    record = {"stage": "dpo", "finished": True, "metrics": {"model_of_step": 4, "monitor_share": 0.05, **metrics}}
    (directory / "run.json").write_text(json.dumps(record))
    lines = [
        {"step": 0, "validation/loss": 0.7},
        {"step": 0, "monitor/answers": 0.5, "monitor/nats_per_token": 3.5, "monitor/seconds": 1, "monitor/share": 1},
        {"step": 1, "loss": 0.7},
        {"step": 4, "monitor/answers": 0.75, "monitor/nats_per_token": 3.9, "monitor/seconds": 2, "monitor/share": 0.1},
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def test_curves_are_read_from_a_run_or_the_model_in_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "dpo", within_bounds=True, ended="nats rose", ended_by="guard")
    found = training_of(str(run))
    assert found == training_of(str(run / "model"))
    assert found is not None
    assert found["metrics"] == ["answers", "nats_per_token"]
    assert found["looks"] == [
        {"step": 0, "answers": 0.5, "nats_per_token": 3.5},
        {"step": 4, "answers": 0.75, "nats_per_token": 3.9},
    ]
    assert "inside its bounds. It ended the stage: nats rose" in found["guard"]


def test_what_is_no_monitored_run_has_no_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "dpo")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n')
    assert training_of(str(run)) is None
    (run / "metrics.jsonl").write_text("{")
    assert training_of(str(run)) is None
    assert training_of("gemma-3-270m") is None


def test_the_report_holds_them_in_json_and_page(tmp_path: Path) -> None:
    training = {"dpo": training_of(str(make_run(tmp_path / "dpo", within_bounds=False)))}
    suite = load_suite(write_lines(tmp_path / "rows.jsonl", ROWS), choices=None, prose=None)
    cards = [evaluate(ScriptedModel("dpo", {}), suite)]
    made = build_report(cards, training=training)
    assert made.to_dict()["training"] == training
    page = render_page(made)
    assert "While dpo trained" in page
    assert "4 (kept)" in page
    assert "lies outside its bounds" in page
    assert "While dpo trained" not in render_page(build_report(cards))


def test_a_run_without_a_guard_says_nothing_of_one(tmp_path: Path) -> None:
    found = training_of(str(make_run(tmp_path / "dpo")))
    assert found is not None
    assert found["guard"] is None


def with_settings(run: Path, record: dict[str, Any]) -> str:
    """The `model` of a run with this run.json."""
    (run / "model").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(record))
    return str(run / "model")


SETTINGS = {"batch_size": 8, "learning_rate": 0.0002, "tuning": "lora", "lora": {"rank": 16}, "seed": 3}


def test_how_a_model_was_trained_is_told_back_to_its_start(tmp_path: Path) -> None:
    sft = with_settings(
        tmp_path / "sft",
        {
            "stage": "sft",
            "steps": 252,
            "config": {**SETTINGS, "model": "gemma-3-270m", "data": "starter/sft", "tuning": "full", "lora": None},
            "data": {"training": 3998, "sha256": "0123456789abcdef0123"},
        },
    )
    dpo = with_settings(
        tmp_path / "dpo",
        {
            "stage": "dpo",
            "steps": 44,
            "config": {**SETTINGS, "model": sft, "data": "pairs.jsonl", "loss": {"name": "rpo", "beta": 0.1}},
        },
    )
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "burnish_merge.json").write_text(json.dumps({"adapter": dpo, "dtype": "bfloat16", "out": str(merged)}))
    sft_text = (
        "sft of gemma-3-270m on starter/sft (3,998 examples, sha256 0123456789abcdef), "
        "252 steps of 8, learning rate 0.0002, tuning full, seed 3"
    )
    dpo_text = (
        f"dpo of {sft} on pairs.jsonl, loss rpo, beta 0.1, 44 steps of 8, learning rate 0.0002, LoRA of rank 16, seed 3"
    )
    assert trained_with(sft) == sft_text
    assert trained_with(str(tmp_path / "dpo")) == f"{dpo_text}; before it {sft_text}"
    assert trained_with(str(merged)) == f"merged in bfloat16; before it {dpo_text}; before it {sft_text}"


def test_a_policy_is_told_with_its_reward_and_a_model_of_unknown_origin_not_at_all(tmp_path: Path) -> None:
    config = {**SETTINGS, "model": "gone/sft", "data": "prompts.jsonl", "reward": "runs/reward", "kl_coefficient": 0.05}
    ppo = with_settings(tmp_path / "ppo", {"stage": "ppo", "steps": 80, "config": config})
    told = trained_with(ppo)
    assert told is not None
    assert told.startswith("ppo of gone/sft on prompts.jsonl, reward runs/reward, KL at 0.05 a nat, 80 steps")
    assert trained_with("gemma-3-270m") is None
    (tmp_path / "ppo" / "run.json").write_text('{"stage": "ppo"}')
    assert trained_with(ppo) is None


def test_a_run_that_names_itself_ends_the_account(tmp_path: Path) -> None:
    own = str(tmp_path / "own" / "model")
    with_settings(
        tmp_path / "own", {"stage": "sft", "steps": 1, "config": {**SETTINGS, "model": own, "data": "a.jsonl"}}
    )
    assert (trained_with(own) or "").count("sft of") == 1
