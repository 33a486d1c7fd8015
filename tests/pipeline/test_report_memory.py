"""A report of models on different bases holds the weights of one at a time, beside those that judge topics; for the KL
from the first model those of two, and never more."""

from __future__ import annotations

import gc
import io
import weakref
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from burnish.pipeline import responders
from burnish.pipeline.report import report
from burnish.pipeline.report_config import ReportConfig
from tests.evaluation.made import ROWS, write_lines
from tests.stages.toy import make_model


@pytest.mark.parametrize(("judge", "alive"), [(None, [0, 1, 1]), ("second", [0, 0, 1, 0, 1, 1])])
def test_one_base_at_a_time(
    judge: str | None, alive: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`alive` says how many bases are still held when each of three is loaded: the first raw one, or who was named. The
    first model is beside the others while it judges topics; else it is loaded again, with each of them, at the end."""
    held: list[weakref.ref[Any]] = []
    counts: list[int] = []
    real = responders.load_speakers

    def load(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        counts.append(sum(one() is not None for one in held))
        found = real(*arguments, **options)
        held.append(weakref.ref(found[0].role.backbone))
        return found

    monkeypatch.setattr(responders, "load_speakers", load)
    models = {name: str(make_model(tmp_path / name, "llama")) for name in ("first", "second", "third")}
    rows = str(write_lines(tmp_path / "rows.jsonl", ROWS))
    console = Console(file=io.StringIO())
    options: dict[str, Any] = {"prompts": rows, "max_new_tokens": 2, "dtype": "float32", "cache": False}
    report(ReportConfig(models=models, out=tmp_path / "out", topic_judge=judge, **options), console=console)
    assert counts == alive
