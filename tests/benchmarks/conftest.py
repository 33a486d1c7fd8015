"""The benchmarks are scripts: they find each other in their own directory, and watch burnish for the length of their
process, which the tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _watched_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a side puts in place of burnish's own is burnish's own again after the test."""
    import burnish.ops.logprobs as logprobs
    from burnish.models.heads import Scorer
    from burnish.models.roles import Backbone
    from burnish.stages import batches, dpo, loop, ppo, sft
    from burnish.stages.run import Run

    watched = (
        (Backbone, "__init__"),
        (Backbone, "step"),
        (Run, "log"),
        (Scorer, "scores"),
        (logprobs, "columns_with_mass"),
        (batches, "collate"),
        (loop, "make_optimiser"),
        (dpo, "response_logprobs"),
        (dpo, "prepare_reference"),
        (sft, "response_logprobs"),
        (ppo, "load_cast"),
    )
    for owner, name in watched:
        monkeypatch.setattr(owner, name, getattr(owner, name))
