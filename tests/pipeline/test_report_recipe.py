"""A recipe's report with an endpoint, a judge and a reward model: what it takes, and what its result depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.errors import ConfigError
from burnish.pipeline.kinds import ReportConfig
from burnish.pipeline.recipe import Recipe, load_recipe
from burnish.pipeline.run import plan_recipe
from tests.stages.toy import make_model

WHOLE = """
name: demo
model: {base}
stages:
  sft: {{data: starter/sft}}
  reward: {{from: sft, data: starter/preferences}}
  report:
    models: {{raw: model, sft: sft, api: "openai:http://host/v1#m"}}
    judge: openai:http://host/v1#judge
    reward: reward
    baseline: sft
    prices: {{api: [0.15, 0.6]}}
"""


@pytest.fixture
def text(tmp_path: Path) -> str:
    return WHOLE.format(base=make_model(tmp_path / "base"))


def load(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(text)
    return load_recipe(str(tmp_path / "recipe.yaml"))


def place(tmp_path: Path, text: str) -> Path:
    plan = plan_recipe(load(tmp_path, text), tmp_path / "runs")
    return next(planned.out for planned in plan if planned.stage.kind == "report")


def test_a_report_takes_what_the_command_takes(tmp_path: Path, text: str) -> None:
    stage = next(stage for stage in load(tmp_path, text).stages if stage.kind == "report")
    assert isinstance(stage.config, ReportConfig)
    assert stage.config.prices == {"api": (0.15, 0.6)}
    assert stage.inputs == ("model", "sft", "openai:http://host/v1#m", "reward")
    assert stage.rewards == {"reward": "reward"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('v1#m"', 'v1#n"'),
        ("#judge", "#other"),
        ("baseline: sft", "baseline: raw"),
        ("0.15", "0.16"),
        ("reward: {from: sft,", "reward: {from: sft, centring: 0.5,"),
    ],
)
def test_what_changes_the_result_changes_its_place(tmp_path: Path, text: str, old: str, new: str) -> None:
    assert old in text
    assert place(tmp_path, text) != place(tmp_path, text.replace(old, new))


def test_how_it_is_asked_does_not(tmp_path: Path, text: str) -> None:
    manners = "    concurrency: 2\n    timeout: 5\n    cache: false\n"
    assert place(tmp_path, text) == place(tmp_path, text + manners)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("openai:http://host/v1#judge", "gemma-3-270m", "is not an endpoint"),
        ('"openai:http://host/v1#m"', '"openai:http://host/v1"', "is not an endpoint"),
        ("reward: reward", "reward: rewrad", "did you mean 'reward'"),
        ("reward: reward", "reward: sft", "is no reward model"),
        ("reward: reward", "reward: mine:kind", "functions reward PPO only"),
        ("baseline: sft", "baseline: dpo", "no model of the report is called 'dpo'"),
        ("prices: {api:", "prices: {apo:", "no model of the report is called 'apo'"),
        ("[0.15, 0.6]", "[0.15, -1]", "greater than or equal to 0"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, old: str, new: str, words: str) -> None:
    assert old in text
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text.replace(old, new))
    assert words in str(caught.value)
    assert "stages.report" in str(caught.value)
