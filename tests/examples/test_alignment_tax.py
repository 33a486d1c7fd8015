"""What the alignment-tax example reads from a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment_tax import against_beta, curves


def test_a_point_joins_the_look_and_the_validation_of_its_step(tmp_path: Path) -> None:
    lines = [
        {"step": 0, "validation/accuracy": 0.0, "validation/margin": 0.0},
        {"step": 0, "monitor/nats_per_token": 4.0, "monitor/seconds": 1.0},
        {"step": 1, "loss": 0.7},
        {"step": 2, "validation/accuracy": 0.5, "validation/margin": 0.1},
        {"step": 2, "monitor/nats_per_token": 4.2, "monitor/seconds": 2.0},
        {"step": 3, "validation/accuracy": 0.6, "validation/margin": 0.2},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curves(tmp_path) == [
        {"step": 0, "accuracy": 0.0, "margin": 0.0, "nats": 4.0},
        {"step": 2, "accuracy": 0.5, "margin": 0.1, "nats": 4.2},
    ]


def test_what_a_beta_pays_stands_beside_what_it_gets(tmp_path: Path) -> None:
    metrics = {"accuracy": 0.75, "margin": 0.5, "kl": 1.5}
    (tmp_path / "run.json").write_text(json.dumps({"metrics": metrics, "data": {"validation": 8}}))
    change = {"value": 0.2, "low": 0.1, "high": 0.3}
    (found,) = against_beta({0.1: tmp_path}, {"start": {}, "beta 0.1": {"value": 4.8, "change": change}})
    assert (found["beta"], found["tax"], found["margin"], found["kl"], found["pairs"]) == (0.1, change, 0.5, 1.5, 8)
    assert found["log_ratio"] == pytest.approx(5.0), "a margin of 0.5 is 5 nats at beta 0.1"
    # Wilson for 6 of 8: (p + z2/2n -+ z sqrt(p q / n + z2 / 4n2)) / (1 + z2 / n), z2 = 3.8415.
    expected = {"value": 0.75, "low": 0.4093, "high": 0.9285}
    assert found["accuracy"] == pytest.approx(expected, abs=1e-3)
