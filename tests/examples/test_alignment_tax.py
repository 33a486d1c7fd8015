"""What the alignment-tax example reads from a run."""

from __future__ import annotations

import json
from pathlib import Path

from alignment_tax import curves


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
