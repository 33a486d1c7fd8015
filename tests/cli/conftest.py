"""A working directory with a tiny model and data, and the command in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.cli import main
from tests.cli.tools import Burnish, Outcome
from tests.stages.toy import make_model, make_pairs, make_sft_data


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tiny model and data; lines of 80 columns, no hub, an empty cache."""
    make_model(tmp_path / "base")
    make_sft_data(tmp_path / "sft.jsonl")
    make_pairs(tmp_path / "dpo.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def burnish(capsys: pytest.CaptureFixture[str]) -> Burnish:
    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call
