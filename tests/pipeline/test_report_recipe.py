"""A recipe's report with an endpoint, a judge and a reward model: what it takes, and what its result depends on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from burnish.errors import ConfigError
from burnish.pipeline.recipe import Recipe, load_recipe
from burnish.pipeline.report_config import ReportConfig
from burnish.pipeline.run import plan_recipe, run_recipe
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
    topic_judge: raw
    prices: {{api: [0.15, 0.6]}}
"""
TASKS = "    lm_eval: [mine, other]\n    lm_eval_path: tasks\n"


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
        ("topic_judge: raw", "topic_judge: sft"),
        ("    topic_judge: raw\n", ""),
        ("reward: {from: sft,", "reward: {from: sft, centring: 0.5,"),
    ],
)
def test_what_changes_the_result_changes_its_place(tmp_path: Path, text: str, old: str, new: str) -> None:
    assert old in text
    assert place(tmp_path, text) != place(tmp_path, text.replace(old, new))


def test_how_it_is_asked_does_not(tmp_path: Path, text: str) -> None:
    manners = "    concurrency: 2\n    timeout: 5\n    cache: false\n    api_keys: {api: MY_KEY, judge: MY_KEY}\n"
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
        (
            "    judge: openai:http://host/v1#judge\n    reward: reward\n",
            "",
            "a baseline is for a judge or a reward model",
        ),
        ("[0.15, 0.6]", "[0.15, -1]", "greater than or equal to 0"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, old: str, new: str, words: str) -> None:
    assert old in text
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text.replace(old, new))
    assert words in str(caught.value)
    assert "stages.report" in str(caught.value)


def test_a_judge_of_a_single_model_is_named(tmp_path: Path, text: str) -> None:
    alone = text.partition("  report:")[0] + "  report: {models: {sft: sft}, judge: openai:http://host/v1#judge}\n"
    with pytest.raises(ConfigError, match="a report with a judge needs two") as caught:
        load(tmp_path, alone)
    assert "stages.report.judge" in str(caught.value)


def test_the_judge_of_topics_is_a_model_of_the_report_a_stage_or_another_model(tmp_path: Path, text: str) -> None:
    """A name of the report stands for its model, so that the same model judges whatever it is called."""
    make_model(tmp_path / "other")
    for named, found in {"raw": "model", "model": "model", "sft": "sft", "other": str(tmp_path / "other")}.items():
        changed = text.replace("topic_judge: raw", f"topic_judge: {named}")
        stage = next(stage for stage in load(tmp_path, changed).stages if stage.kind == "report")
        assert isinstance(stage.config, ReportConfig)
        assert stage.config.topic_judge == found
        assert len(set(stage.inputs)) == len(stage.inputs)
        assert found in stage.inputs
    before = place(tmp_path, changed)
    (tmp_path / "other" / "config.json").write_text((tmp_path / "other" / "config.json").read_text() + "\n")
    assert place(tmp_path, changed) != before
    assert place(tmp_path, text) == place(tmp_path, text.replace("topic_judge: raw", "topic_judge: model"))


def test_tasks_of_the_harness_count_with_their_files_and_its_version(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = "0.4.13"
    monkeypatch.setattr("burnish.pipeline.evidence.harness_version", lambda: version)
    (tmp_path / "tasks" / "set").mkdir(parents=True)
    (tmp_path / "tasks" / "set" / "mine.yaml").write_text("task: mine\n")
    stage = next(stage for stage in load(tmp_path, text + TASKS).stages if stage.kind == "report")
    assert isinstance(stage.config, ReportConfig)
    assert stage.config.lm_eval == ("mine", "other")
    assert stage.config.lm_eval_path == str(tmp_path / "tasks")

    places = [place(tmp_path, text), place(tmp_path, text + TASKS)]
    assert place(tmp_path, text + TASKS.replace("[mine, other]", '"mine, other"')) == places[1]
    places.append(place(tmp_path, text + TASKS.replace(", other", "")))
    places.append(place(tmp_path, text + "    lm_eval: [mine, other]\n"))
    (tmp_path / "tasks" / "__pycache__").mkdir()
    (tmp_path / "tasks" / "__pycache__" / "helpers.pyc").write_bytes(b"compiled by the harness")
    assert place(tmp_path, text + TASKS) == places[1]
    (tmp_path / "tasks" / "set" / "mine.yaml").write_text("task: mine\noutput_type: multiple_choice\n")
    places.append(place(tmp_path, text + TASKS))
    version = "0.4.14"
    places.append(place(tmp_path, text + TASKS))
    assert len(set(places)) == len(places)


def test_a_harness_that_is_not_there_is_told_with_the_recipe(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.pipeline.evidence.harness_version", lambda: None)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text + "    lm_eval: mine\n")
    assert "stages.report.lm_eval" in str(caught.value)
    assert "pip install 'burnish[lm-eval]'" in str(caught.value)
    with pytest.raises(ConfigError, match="task files without tasks"):
        load(tmp_path, text + "    lm_eval_path: .\n")
    with pytest.raises(ConfigError, match="no such directory: nowhere") as caught:
        load(tmp_path, text + TASKS.replace("path: tasks", "path: nowhere"))
    assert "stages.report.lm_eval_path" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("{api: sk-secret}", "give names of environment variables"),
        ("{api: [sk-secret]}", "valid string"),
        ("{sft: MY_KEY}", "no endpoint of the report is called 'sft'"),
        ("{jduge: MY_KEY}", "did you mean 'judge'"),
    ],
)
def test_what_stands_in_the_place_of_a_key_s_variable_is_not_quoted(
    tmp_path: Path, text: str, keys: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"{text}    api_keys: {keys}\n")
    assert words in str(caught.value)
    assert "stages.report.api_keys" in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_a_model_that_is_called_judge_beside_the_judge_has_no_key_of_its_own(tmp_path: Path, text: str) -> None:
    """Which of the two servers would a key be for?"""
    named = text.replace("api:", "judge:")
    load(tmp_path, named)
    with pytest.raises(ConfigError, match="give the model another name"):
        load(tmp_path, named + "    api_keys: {judge: MY_KEY}\n")


def test_a_key_that_is_not_there_is_told_before_the_first_stage_runs(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    recipe = load(tmp_path, text + "    api_keys: {api: MY_KEY}\n")
    with pytest.raises(ConfigError, match="the environment variable MY_KEY is not set") as caught:
        run_recipe(recipe, runs_dir=tmp_path / "runs", console=Console(file=io.StringIO()))
    assert caught.value.where == "stages.report.api_keys.api"
    assert not list((tmp_path / "runs" / "demo").glob("sft-*"))


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("raww", "neither a stage nor a model is called 'raww' (did you mean 'raw'?)"),
        ("api", "an endpoint gives no log-probabilities"),
        ("openai:http://host/v1#n", "an endpoint gives no log-probabilities"),
        ("reward", "'reward' is a reward model"),
        ("report", "neither a stage nor a model"),
        ("./nowhere", "no such directory: ./nowhere"),
    ],
)
def test_what_can_not_judge_topics_is_named(tmp_path: Path, text: str, named: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text.replace("topic_judge: raw", f"topic_judge: {named}"))
    assert words in str(caught.value)
    assert "stages.report.topic_judge" in str(caught.value)
