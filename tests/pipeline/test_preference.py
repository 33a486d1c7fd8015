"""What a reward model says of answers, also of those that it can't read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from burnish.data.examples import Message
from burnish.evaluation.rows import EvalRow
from burnish.evaluation.suite import Record
from burnish.models.reward import load_reward_model
from burnish.pipeline.preference import _first_unread, _score
from tests.stages.ppo_toy import make_base, make_reward


def record(text: str, name: str = "a") -> Record:
    row = EvalRow(name, "answers", (Message("user", "Name a city."),))
    return Record(row, text, finished=True, n_tokens=None, passed=True, why="", right=None)


def test_an_answer_that_cannot_be_read_has_a_reason_in_place_of_its_score(tmp_path: Path) -> None:
    """The others have the scores that they have by themselves."""
    directory = make_reward(make_base(tmp_path / "base"), tmp_path / "rm")
    reward = load_reward_model(directory, dtype=torch.float32)
    stop, context = reward.tokenizer.eos_token, reward.backbone.context_length
    said = [record("paris"), record(f"paris {stop} and more", "b"), record("one " * (2 * context), "c"), record("yes")]
    found = _score(said, reward)
    assert isinstance(found[1], str)
    assert stop in found[1]
    assert isinstance(found[2], str)
    assert f"the context has {context}" in found[2]
    for place in (0, 3):
        (alone,) = _score([said[place]], reward)
        assert found[place] == pytest.approx(alone, abs=1e-5)
    assert _first_unread({"m": found}, said) == f"2 answers; m at prompt b: {found[1]}"
    assert _first_unread({"m": [found[0]]}, said[:1]) == ""
    assert all(isinstance(one, str) for one in _score(said[1:3], reward)), "none left to score"
