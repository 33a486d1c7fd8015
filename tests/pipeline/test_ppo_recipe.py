"""Recipes with a reward model and PPO: what a reward may be, where it is looked for, and what depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.errors import ConfigError
from burnish.pipeline.recipe import Recipe, load_recipe
from burnish.pipeline.report_config import ReportConfig
from burnish.pipeline.run import plan_recipe
from burnish.stages.ppo_config import PPOConfig

WHOLE = """
name: demo
model: gemma-3-270m
stages:
  sft: {data: starter/sft}
  reward: {from: sft, data: starter/preferences}
  ppo: {from: sft, reward: REWARD, data: starter/preferences}
  report: {}
"""


def load(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(text)
    return load_recipe(str(tmp_path / "recipe.yaml"))


def refused(tmp_path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return caught.value


def test_ppo_waits_for_its_reward_model_which_no_report_asks(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE.replace("REWARD", "reward"))
    stages = {stage.name: stage for stage in recipe.stages}
    assert stages["ppo"].inputs == ("sft", "reward")
    assert stages["ppo"].rewards == {"reward": "reward"}
    assert isinstance(report := stages["report"].config, ReportConfig)
    assert report.models == {"raw": "model", "sft": "sft", "ppo": "ppo"}


def test_a_reward_stage_with_a_mistake_of_its_own_is_still_a_reward_model(tmp_path: Path) -> None:
    text = WHOLE.replace("REWARD", "reward").replace("reward: {from: sft,", "reward: {from: sft, centrng: 1,")
    error = str(refused(tmp_path, text))
    assert "stages.reward.centrng" in error
    assert "unknown key (did you mean 'centring'?)" in error
    assert "mistakes" not in error
    assert "unknown stage ['ppo']" in str(refused(tmp_path, WHOLE.replace("ppo: {", "ppo: {stage: [ppo], ")))


def test_a_judge_is_an_input_too(tmp_path: Path) -> None:
    text = WHOLE.replace("reward: REWARD,", "reward: mine:kind, judge: reward,")
    stages = {stage.name: stage for stage in load(tmp_path, text).stages}
    assert stages["ppo"].inputs == ("sft", "reward")
    assert stages["ppo"].rewards == {"judge": "reward"}


def test_a_function_s_file_is_found_beside_the_recipe_and_its_content_counts(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def kind(prompts, responses):\n    return [0.0] * len(responses)\n")
    text = WHOLE.replace("REWARD", "mine.py:kind").replace("gemma-3-270m", str(tmp_path / "base"))
    from tests.stages.toy import make_model

    make_model(tmp_path / "base")
    recipe = load(tmp_path, text)
    config = next(stage.config for stage in recipe.stages if stage.name == "ppo")
    assert isinstance(config, PPOConfig)
    assert config.reward == f"{file}:kind"

    def places() -> dict[str, Path]:
        return {planned.stage.name: planned.out for planned in plan_recipe(recipe, tmp_path / "runs")}

    before = places()
    assert places() == before
    file.write_text("def kind(prompts, responses):\n    return [1.0] * len(responses)\n")
    changed = {name for name, out in places().items() if out != before[name]}
    assert changed == {"ppo", "report"}


def test_a_changed_reward_model_makes_ppo_run_again(tmp_path: Path) -> None:
    from tests.stages.toy import make_model

    make_model(tmp_path / "base")
    text = WHOLE.replace("REWARD", "reward").replace("gemma-3-270m", str(tmp_path / "base"))
    before = {planned.stage.name: planned.out for planned in plan_recipe(load(tmp_path, text), tmp_path / "runs")}
    text = text.replace("reward: {from: sft,", "reward: {from: sft, centring: 0.5,")
    after = {planned.stage.name: planned.out for planned in plan_recipe(load(tmp_path, text), tmp_path / "runs")}
    assert {name for name in before if after[name] != before[name]} == {"reward", "ppo", "report"}


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (WHOLE.replace("REWARD", "sft"), "stages.ppo.reward", "'sft' is no reward model"),
        (WHOLE.replace("REWARD", "rewrad"), "stages.ppo.reward", "did you mean 'reward'"),
        (
            WHOLE.replace("REWARD", "reward").replace("ppo: {from: sft", "ppo: {from: reward"),
            "stages.ppo.from",
            "speak",
        ),
        (
            WHOLE.replace("REWARD", "reward").replace("report: {}", "report: {models: {raw: model, r: reward}}"),
            "stages.report.models.r",
            "speak",
        ),
        (WHOLE.replace("reward: REWARD, ", ""), "stages.ppo.reward", "required"),
    ],
)
def test_what_is_no_reward_is_named_by_its_place(text: str, place: str, what: str, tmp_path: Path) -> None:
    error = refused(tmp_path, text)
    assert place in f"{error.where} {error}"
    assert what in str(error)


def test_a_cycle_through_a_reward_is_named(tmp_path: Path) -> None:
    text = WHOLE.replace("REWARD", "reward").replace("reward: {from: sft,", "reward: {from: ppo,")
    error = refused(tmp_path, text)
    assert "stages.reward.from" in str(error.where)
    assert "reward <- ppo <- reward" in error.what
    own = WHOLE.replace("from: sft, reward: REWARD", "from: sft, reward: mine:kind, judge: second")
    error = refused(
        tmp_path, own.replace("report: {}", "second: {stage: reward, from: ppo, data: starter/preferences}")
    )
    assert "stages.ppo.judge" in str(error.where)
    assert "need each other: ppo <- second <- ppo" in error.what


@pytest.mark.parametrize("setting", ["reward", "judge", "reward_function"])
def test_a_function_s_file_that_is_not_there_is_told_before_anything_runs(setting: str, tmp_path: Path) -> None:
    text = WHOLE.replace("reward: REWARD", f"reward: reward, {setting}: mine.py:kind")
    text = text.replace("reward: reward, reward: ", "reward: ")
    error = refused(tmp_path, text)
    assert f"stages.ppo.{setting}" in str(error.where)
    assert "no such file: mine.py" in error.what


def test_a_module_is_not_looked_for_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its name there is another thing."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir("/")
    stages = {stage.name: stage for stage in load(tmp_path, WHOLE.replace("REWARD", "mine:kind")).stages}
    assert isinstance(config := stages["ppo"].config, PPOConfig)
    assert config.reward == "mine:kind"


def test_the_full_quickstart_shares_the_stages_of_the_quickstart() -> None:
    """Else what the one has done would be done again by the other."""
    plain = {stage.name: stage for stage in load_recipe("starter/assistant").stages}
    full = {stage.name: stage for stage in load_recipe("starter/assistant-full").stages}
    for name in ("sft", "dpo", "merge"):
        assert full[name] == plain[name], name
    assert isinstance(report := full["report"].config, ReportConfig)
    assert report.models == {"raw": "model", "sft": "sft", "dpo": "dpo", "ppo": "ppo"}
    assert report.model_copy(update={"models": {}}) == plain["report"].config.model_copy(update={"models": {}})
