"""A small suite, a model that passes everywhere and one that passes nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.evaluation.suite import Suite, load_suite
from tests.evaluation.made import CHOICES, GOOD, PROSE, RAW, ROWS, ScriptedModel, write_lines


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The suite's three files."""
    return {
        "evaluation": write_lines(tmp_path / "rows.jsonl", ROWS),
        "choices": write_lines(tmp_path / "choices.jsonl", CHOICES),
        "prose": write_lines(tmp_path / "prose.jsonl", PROSE),
    }


@pytest.fixture
def suite(files: dict[str, Path]) -> Suite:
    """Eight prompts, two questions, two texts."""
    return load_suite(files["evaluation"], choices=files["choices"], prose=files["prose"], max_new_tokens=32)


@pytest.fixture
def good_model() -> ScriptedModel:
    """Passes everywhere, though its spider has six legs."""
    return ScriptedModel("good", GOOD)


@pytest.fixture
def raw_model() -> ScriptedModel:
    """Passes nowhere."""
    return ScriptedModel("raw", RAW, nats_of_text=lambda text: (1.0 * len(text.split()), len(text.split())))
