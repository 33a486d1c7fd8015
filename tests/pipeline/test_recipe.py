"""Recipes are checked as a whole before anything is loaded, and what is wrong is named by its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from burnish.errors import ConfigError
from burnish.pipeline.depends import depends_on
from burnish.pipeline.recipe import Recipe, load_recipe
from burnish.pipeline.report_config import ReportConfig
from burnish.stages.config import DPOConfig, SFTConfig

WHOLE = """
name: demo
model: gemma-3-270m
seed: 7
defaults: {batch_size: 8, lora: {rank: 4, dropout: 0.1}}
stages:
  report: {models: {raw: model, sft: sft, dpo: dpo}}
  merge: {from: dpo}
  sft: {data: starter/sft, learning_rate: 2e-4, lora: {dropout: 0.0}}
  dpo:
    from: sft
    data: starter/preferences
    batch_size: 4
    loss: {beta: 0.2}
"""


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(text)
    return load_recipe(str(tmp_path / "recipe.yaml"), overrides)


def refused(tmp_path: Path, text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return caught.value


def one_stage(line: str) -> str:
    return f"name: demo\nmodel: gemma-3-270m\nstages:\n  sft: {{data: starter/sft}}\n  dpo: {line}\n"


def test_stages_come_in_an_order_in_which_they_can_run_with_defaults_and_seed(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    assert [stage.name for stage in recipe.stages] == ["sft", "dpo", "report", "merge"]
    sft, dpo, report, _ = (stage.config for stage in recipe.stages)
    assert isinstance(sft, SFTConfig)
    assert isinstance(dpo, DPOConfig)
    assert isinstance(report, ReportConfig)
    assert (sft.batch_size, dpo.batch_size) == (8, 4)
    assert (sft.seed, dpo.seed) == (7, 7)
    assert (sft.lora.rank, sft.lora.dropout) == (4, 0.0)
    assert sft.learning_rate == 2e-4
    assert dpo.loss == {"beta": 0.2}
    assert [stage.start for stage in recipe.stages] == ["model", "sft", None, "dpo"]
    assert report.models == {"raw": "model", "sft": "sft", "dpo": "dpo"}
    assert report.seed == 7


def test_a_report_measures_the_raw_model_and_all_trained_stages_if_not_told(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE.replace("report: {models: {raw: model, sft: sft, dpo: dpo}}", "report:"))
    assert recipe.stages[2].config.models == {"raw": "model", "sft": "sft", "dpo": "dpo"}  # type: ignore[attr-defined]


def test_overrides_reach_stages_recipe_keys_and_what_was_not_there(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, WHOLE, "dpo.loss.beta=5e-2", "sft.epochs=3", "seed=1", "stages.sft.max_steps=5", "report.sample=null"
    )
    sft, dpo = recipe.stages[0].config, recipe.stages[1].config
    assert isinstance(sft, SFTConfig)
    assert isinstance(dpo, DPOConfig)
    assert (dpo.loss, sft.epochs, sft.seed, sft.max_steps) == ({"beta": 0.05}, 3, 1, 5)
    recipe = load(tmp_path, WHOLE, "merge.dtype=float32", "sft.trackers=[wandb, trackio]", "dpo.validation=0.2")
    assert recipe.stages[0].config.trackers == ("wandb", "trackio")  # type: ignore[attr-defined]
    assert recipe.stages[3].config.dtype == "float32"  # type: ignore[attr-defined]


def test_paths_are_found_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.jsonl").write_text("")
    (tmp_path / "t.jinja").write_text("")
    monkeypatch.chdir("/")
    stages = "stages:\n  sft: {data: mine.jsonl, validation: other.jsonl, template: t.jinja}\n"
    config = load(tmp_path, "name: a\nmodel: gemma-3-270m\n" + stages).stages[0].config
    assert isinstance(config, SFTConfig)
    assert config.data == str(tmp_path / "mine.jsonl")
    assert config.template == str(tmp_path / "t.jinja")
    assert config.validation == "other.jsonl"


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        (
            "{from: sft, data: x, lerning_rate: 1}",
            "stages.dpo.lerning_rate",
            "unknown key (did you mean 'learning_rate'",
        ),
        ("{from: sft, data: x, loss: {bta: 1}}", "stages.dpo.loss", "no option 'bta' (did you mean 'beta'?)"),
        (
            "{from: sft, data: x, loss: {name: sigmod}}",
            "stages.dpo.loss",
            "unknown loss 'sigmod' (did you mean 'sigmoid'",
        ),
        ("{from: sft, data: x, loss: {beta: 0}}", "stages.dpo.loss", "beta must be above 0"),
        ("{from: sft, data: x, loss: {label_smoothing: 0.7}}", "stages.dpo.loss", "label_smoothing must lie in"),
        ("{from: sft, data: x, learning_rate: 5}", "stages.dpo.learning_rate", "less than or equal to 1"),
        ("{from: sft, data: x, epochs: 1.5}", "stages.dpo.epochs", "integer"),
        ("{from: stf, data: x}", "stages.dpo.from", "no stage 'stf' (did you mean 'sft'?)"),
        ("{data: x}", "stages.dpo.from", "say where the stage starts: model, sft"),
        ("{from: sft}", "stages.dpo.data", "data is required"),
        ("{from: sft, data: x, out: y}", "stages.dpo.out", "can't be set: burnish chooses"),
        ("{from: sft, data: x, model: y}", "stages.dpo.model", "can't be set: a recipe's stage starts"),
        ("{from: dpo, data: x}", "stages.dpo.from", "start from each other: dpo <- dpo"),
        ("{stage: dop, from: sft}", "stages.dpo.stage", "unknown stage 'dop' (did you mean 'dpo'?)"),
        ("{from: sft, data: x, lora: {rank: 16}}", "stages.dpo.lora", "goes on with the adapter of 'sft'"),
        ("{from: sft, data: x, tuning: full, lora: {trainable_tokens: [a]}}", "stages.dpo", "belongs to tuning: lora"),
        ("[1]", "stages.dpo", "valid dictionary"),
    ],
)
def test_what_is_wrong_with_a_stage_is_named_by_its_place(tmp_path: Path, line: str, place: str, message: str) -> None:
    error = refused(tmp_path, one_stage(line))
    assert message in error.what
    assert (error.where or "").startswith(f"{tmp_path / 'recipe.yaml'}: {place}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nmodel: gemma-3-271m\nstages: {sft: {data: x}}", "did you mean 'gemma-3-270m'?"),
        ("name: a\nmodl: m\nstages: {sft: {data: x}}", "modl: unknown key (did you mean 'model'?)"),
        ("name: a/b\nmodel: gemma-3-270m\nstages: {sft: {data: x}}", "should match pattern"),
        ("name: a\nmodel: gemma-3-270m\nstages: {}", "at least 1"),
        (
            "name: a\nmodel: gemma-3-270m\nstages: {tune: {data: x}}",
            "unknown stage 'tune'; `stage:` is one of sft, reward, dpo",
        ),
        ("name: a\nmodel: gemma-3-270m\nstages: {dop: {data: x}}", "unknown stage 'dop' (did you mean 'dpo'?)"),
        ("name: a\nmodel: gemma-3-270m\nstages: {model: {stage: sft, data: x}}", "this name is taken"),
        ("name: a\nmodel: gemma-3-270m\nstages: {merge: {from: model}}", "nothing to merge: 'model' is a whole model"),
        (
            "name: a\nmodel: gemma-3-270m\nstages: {sft: {data: x, tuning: full}, merge: {from: sft}}",
            "nothing to merge: 'sft' is a whole model",
        ),
        (
            "name: a\nmodel: gemma-3-270m\ndefaults: {batchsize: 3}\nstages: {sft: {data: x}}",
            "did you mean 'batch_size'",
        ),
        ("name: a\nmodel: gemma-3-270m\ndefaults: {batch_size: 0}\nstages: {sft: {data: x}}", "greater than or equal"),
        ("name: a\nmodel: gemma-3-270m\nstages: {report: {models: {a: sft}}}", "sft"),
        ("name: a\nmodel: gemma-3-270m\nstages: {sft: {data: x}, report: {from: sft}}", "a report has no `from`"),
        ("name: a\nmodel: gemma-3-270m\nstages: {sft: {data: x}, report: {models: {s: sftt}}}", "did you mean 'sft'?"),
        ("- a", "a recipe is a mapping"),
        ("name: a\nname: b", "the key 'name' is there twice"),
        ("name: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    error = refused(tmp_path, text)
    assert message in str(error)
    assert "recipe.yaml" in str(error)


def test_cycles_are_named(tmp_path: Path) -> None:
    text = "name: a\nmodel: gemma-3-270m\nstages:\n"
    text += "  one: {stage: sft, from: two, data: x}\n  two: {stage: sft, from: one, data: x}\n"
    assert "start from each other: one <- two <- one" in refused(tmp_path, text).what


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = (
        "name: a\nmodel: gemma-3-271m\nstages:\n  sft: {data: x, epoch: 2}\n  dpo: {from: stf, data: x, loss: {b: 1}}\n"
    )
    error = refused(tmp_path, text)
    assert error.what.startswith("4 mistakes")
    for place in (": model:", ": stages.sft.epoch:", ": stages.dpo.from:", ": stages.dpo.loss:"):
        assert place in error.what


@pytest.mark.parametrize(
    ("override", "message", "place"),
    [
        ("sft.lerning_rate=1", "did you mean 'learning_rate'?", "command line: sft.lerning_rate=1"),
        ("dpp.epochs=1", "the recipe has no 'dpp' (did you mean 'dpo'?)", "command line: dpp.epochs=1"),
        ("sft.epochs", "'sft.epochs' is not key=value", "command line"),
        ("sft..epochs=1", "is not key=value", "command line"),
        ("sft.epochs.x=1", "", "command line"),
        ("dpo.loss.beta=-1", "beta must be above 0", "command line: dpo.loss.beta=-1"),
        ("sft.epochs=[", "not valid YAML", "command line: sft.epochs=["),
        ("name.x=1", "name is not a mapping", "command line: name.x=1"),
    ],
)
def test_wrong_overrides_are_refused(tmp_path: Path, override: str, message: str, place: str) -> None:
    error = refused(tmp_path, WHOLE, override)
    assert message in error.what
    assert (error.where or "").startswith(place)


def test_a_missing_recipe_and_an_unknown_starter_are_refused() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"no starter recipe 'asistant' \(did you mean 'assistant'\?\)"):
        load_recipe("starter/asistant")


@pytest.mark.parametrize("name", ["assistant", "own-data"])
def test_starter_recipes_hold_together(name: str) -> None:
    recipe = load_recipe(f"starter/{name}")
    assert {stage.kind for stage in recipe.stages} == {"sft", "dpo", "merge", "report"}
    assert recipe.model == "gemma-3-270m"


def test_a_monitor_finds_its_sets_beside_the_recipe_and_knows_their_content(tmp_path: Path) -> None:
    texts = tmp_path / "domain.jsonl"
    texts.write_text('{"id": "d1", "text": "One."}\n', encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(WHOLE, encoding="utf-8")
    stage = load_recipe(recipe, ["sft.monitor={prose: domain.jsonl}"]).stages[0]
    assert isinstance(stage.config, SFTConfig)
    assert stage.config.monitor is not None
    assert stage.config.monitor.prose == str(texts)
    before = depends_on(stage, {"model": "0"})
    texts.write_text('{"id": "d1", "text": "Two."}\n', encoding="utf-8")
    after = depends_on(stage, {"model": "0"})
    assert {name for name in before if before[name] != after[name]} == {"monitor.prose"}


def test_a_monitor_s_prompts_may_be_a_public_set_beside_the_recipe(tmp_path: Path) -> None:
    prompts = tmp_path / "mine.jsonl"
    row = '{"key": 1, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}'
    prompts.write_text(row + "\n", encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(WHOLE, encoding="utf-8")
    stage = load_recipe(recipe, ["sft.monitor={parts: [format], prompts: 'ifeval:mine.jsonl'}"]).stages[0]
    assert isinstance(stage.config, SFTConfig)
    assert stage.config.monitor is not None
    assert stage.config.monitor.prompts == f"ifeval:{prompts}"
    before = depends_on(stage, {"model": "0"})
    prompts.write_text(row.replace("No", "Use no") + "\n", encoding="utf-8")
    after = depends_on(stage, {"model": "0"})
    assert {name for name in before if before[name] != after[name]} == {"monitor.prompts"}


def test_a_report_finds_its_sets_beside_the_recipe_and_knows_their_content_and_format(tmp_path: Path) -> None:
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu/art_test.csv").write_text("Q?,a,b,c,d,A\n", encoding="utf-8")
    file = tmp_path / "mine.txt"
    file.write_text("goal,target\nA,B\n", encoding="utf-8")
    texts = tmp_path / "domain.jsonl"
    texts.write_text('{"id": "d1", "text": "One."}\n', encoding="utf-8")
    own = "prompts: advbench:mine.txt, choices: mmlu, prose: domain.jsonl"
    text = WHOLE.replace("models: {raw", f"{own}, models: {{raw")
    stage = next(stage for stage in load(tmp_path, text).stages if stage.kind == "report")
    assert isinstance(stage.config, ReportConfig)
    assert stage.config.prompts == f"advbench:{tmp_path / 'mine.txt'}"
    assert stage.config.choices == str(tmp_path / "mmlu")
    assert stage.config.prose == str(texts)

    inputs = {"model": "0", "sft": "1", "dpo": "2"}
    before = depends_on(stage, inputs)
    file.write_text("goal,target\nA,B\nC,D\n", encoding="utf-8")
    after = depends_on(stage, inputs)
    assert {name for name in before if before[name] != after[name]} == {"prompts"}
    (tmp_path / "mmlu/law_test.csv").write_text("Q?,a,b,c,d,A\n", encoding="utf-8")
    assert depends_on(stage, inputs)["questions"] != after["questions"]
    before = depends_on(stage, inputs)
    texts = texts.rename(tmp_path / "moved.jsonl")
    moved = replace(stage, config=stage.config.model_copy(update={"prose": str(texts)}))
    assert depends_on(moved, inputs) == before, "content decides, not the name"
    texts.write_text('{"id": "d1", "text": "Two."}\n', encoding="utf-8")
    after = depends_on(moved, inputs)
    assert {name for name in before if before[name] != after[name]} == {"prose"}
    said = replace(stage, config=stage.config.model_copy(update={"prompts": f"pairs:{file}"}))
    assert depends_on(said, inputs)["prompts"] != after["prompts"]
