"""Recipes on tiny models: what is done is not done again, what was cut off goes on to the same bits."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from burnish.errors import BurnishError, ConfigError, DataError, Interrupted, OutputDirError
from burnish.models.fingerprint import tree_fingerprint
from burnish.pipeline import depends, evidence
from burnish.pipeline import run as run_module
from burnish.pipeline.depends import depends_on
from burnish.pipeline.recipe import load_recipe
from burnish.pipeline.run import RecipeResult, plan_recipe, run_recipe
from burnish.stages import sft as sft_module
from tests.evaluation.made import ROWS, write_lines
from tests.stages.toy import make_model, make_pairs, make_sft_data

RECIPE = """
name: toy
model: base
defaults: {dtype: float32, batch_size: 4, micro_batch_tokens: 96, learning_rate: 1e-2, save_every: 2}
stages:
  sft: {data: sft.jsonl, epochs: 2, lora: {rank: 2, dropout: 0.1}}
  dpo: {from: sft, data: dpo.jsonl}
  merge: {from: dpo, dtype: float32}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with its model and data beside it."""
    make_model(tmp_path / "base")
    make_sft_data(tmp_path / "sft.jsonl")
    make_pairs(tmp_path / "dpo.jsonl")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def run(recipe: Path, *overrides: str, runs: str = "runs") -> RecipeResult:
    quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    return run_recipe(recipe, overrides, runs_dir=recipe.parent / runs, console=quiet)


def weights(result: RecipeResult) -> dict[str, torch.Tensor]:
    return load_file(result.products["merge"] / "model.safetensors")


def test_a_finished_recipe_is_not_run_again_and_a_changed_stage_takes_its_followers_along(recipe: Path) -> None:
    first = run(recipe)
    assert first.computed == ("sft", "dpo", "merge")
    assert first.products["merge"] == recipe.parent / "runs" / "toy" / "merge" / "model"
    assert (first.products["sft"] / "adapter_model.safetensors").is_file()
    before = weights(first)

    tree = tree_fingerprint(recipe.parent)
    assert run(recipe).computed == ()
    changed = run(recipe, "dpo.loss.beta=0.7")
    assert tree_fingerprint(recipe.parent) == tree, "what burnish writes below task files is not taken for theirs"
    assert changed.computed == ("dpo", "merge")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(changed).items())

    back = run(recipe)
    assert back.computed == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(back).items()), "the links go back too"
    assert run(recipe, "sft.epochs=1").computed == ("sft", "dpo", "merge")


def test_what_does_not_change_a_result_does_not_run_it_again(recipe: Path) -> None:
    run(recipe)
    assert run(recipe, "sft.save_every=7", "dpo.keep_checkpoints=2").computed == ()
    data = recipe.parent / "sft.jsonl"
    moved = data.rename(recipe.parent / "other-name.jsonl")
    os.utime(moved)
    assert run(recipe, "sft.data=other-name.jsonl").computed == (), "content decides, not the name or the date"
    moved.write_text(moved.read_text().replace("paris", "world"))
    assert run(recipe, "sft.data=other-name.jsonl").computed == ("sft", "dpo", "merge")


def test_another_model_under_the_same_name_runs_everything_again(recipe: Path) -> None:
    run(recipe)
    config = recipe.parent / "base" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert run(recipe).computed == ("sft", "dpo", "merge")


def test_changed_code_runs_again_what_depends_on_it(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(recipe)
    original = depends.code_fingerprint
    changed = lambda e, **o: original(e, **o) + ("new" if "dpo" in e else "")  # noqa: E731
    monkeypatch.setattr(depends, "code_fingerprint", changed)
    assert run(recipe).computed == ("dpo", "merge")


def test_a_recipe_that_was_cut_off_goes_on_to_the_same_bits(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights(run(recipe, runs="whole"))
    original, calls = sft_module.sft_loss, {"n": 0}

    def stopping(logprobs: torch.Tensor, n_tokens: int) -> torch.Tensor:
        calls["n"] += 1
        if calls["n"] == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return original(logprobs, n_tokens)

    monkeypatch.setattr(sft_module, "sft_loss", stopping)
    with pytest.raises(Interrupted, match="stopped by SIGINT"):
        run(recipe)
    assert not (recipe.parent / "runs" / "toy" / "sft").exists(), "nothing unfinished under the readable name"
    result = run(recipe)
    assert result.computed == ("sft", "dpo", "merge")
    record = json.loads((recipe.parent / "runs" / "toy" / "sft" / "run.json").read_text())
    assert record["finished"]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(result).items())


def test_a_cut_off_stage_is_resumed_although_its_data_moved(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = sft_module.sft_loss, {"n": 0}

    def stopping(logprobs: torch.Tensor, n_tokens: int) -> torch.Tensor:
        calls["n"] += 1
        if calls["n"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(logprobs, n_tokens)

    monkeypatch.setattr(sft_module, "sft_loss", stopping)
    with pytest.raises(Interrupted):
        run(recipe)
    steps = calls["n"]
    (recipe.parent / "sft.jsonl").rename(recipe.parent / "moved.jsonl")
    plan = plan_recipe(load_recipe(recipe, ["sft.data=moved.jsonl"]), recipe.parent / "runs" / "toy")
    assert [planned.state for planned in plan] == ["resume", "new", "new"]
    run(recipe, "sft.data=moved.jsonl")
    assert calls["n"] < 2 * steps + 12, "it went on, it did not begin again"


def test_a_bad_row_of_a_later_stage_is_found_before_the_first_one_runs(recipe: Path) -> None:
    pairs = recipe.parent / "dpo.jsonl"
    pairs.write_text(pairs.read_text() + '{"prompt": "x", "chosen": "same", "rejected": "same"}\n')
    with pytest.raises(DataError) as caught:
        run(recipe)
    assert "dpo.jsonl:21" in (caught.value.where or "")
    assert not list((recipe.parent / "runs" / "toy").glob("sft-*"))


def test_data_is_read_ahead_as_the_stage_will_read_it(recipe: Path) -> None:
    """The split that the stage names, from a directory in which the splits must not be mixed."""
    folder = recipe.parent / "splits"
    folder.mkdir()
    (recipe.parent / "sft.jsonl").rename(folder / "train.jsonl")
    make_sft_data(folder / "test.jsonl", 4)
    assert run(recipe, "sft.data=splits", "sft.split=train", "sft.max_steps=1").computed == ("sft", "dpo", "merge")


def test_a_stage_that_fails_leaves_the_finished_ones(recipe: Path) -> None:
    with pytest.raises(BurnishError):
        run(recipe, "dpo.max_length=8")
    result = run(recipe)
    assert result.computed == ("dpo", "merge")


def test_results_of_another_kind_in_the_way_are_not_touched(recipe: Path) -> None:
    mine = recipe.parent / "runs" / "toy" / "sft"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("mine")
    result = run(recipe)
    assert (mine / "thesis.tex").read_text() == "mine"
    assert result.products["sft"].is_dir(), "found under its hash instead"


def test_two_processes_do_not_run_one_recipe_at_once(recipe: Path) -> None:
    with (
        run_module._locked(recipe.parent / "runs" / "toy"),
        pytest.raises(OutputDirError, match="another process is running this recipe"),
    ):
        run(recipe)


def test_a_runs_directory_that_is_a_file_is_an_error(recipe: Path) -> None:
    (recipe.parent / "runs").write_text("")
    with pytest.raises(OutputDirError, match="can't write"):
        run(recipe)


def test_a_damaged_index_only_loses_the_explanation(recipe: Path) -> None:
    run(recipe)
    (recipe.parent / "runs" / "toy" / "recipe.json").write_text("{")
    assert run(recipe).computed == ()


def test_the_plan_says_what_changed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(recipe)
    console = Console(width=80)
    run_recipe(recipe, ["dpo.loss.beta=0.7"], runs_dir=recipe.parent / "runs", console=console)
    out = capsys.readouterr().out
    assert "done already" in out
    assert "to do again, changed: loss" in out
    assert "to do again, changed: dpo" in out


def test_every_setting_that_matters_is_in_the_hash(recipe: Path) -> None:
    stage = load_recipe(recipe).stages[0]
    depends = depends_on(stage, {"model": "m"})
    outside = {"out", "trackers", "keep_checkpoints", "save_every", "device", "model"}
    assert set(type(stage.config).model_fields) - outside <= depends.keys()
    assert not outside & depends.keys()
    assert {"from", "code", "kind"} <= depends.keys()


def test_the_report_card_s_code_counts_for_stages_with_a_monitor_only(recipe: Path) -> None:
    from burnish.pipeline.fingerprint import MONITOR, reached_modules

    for entry in ("burnish.stages.sft", "burnish.stages.dpo", "burnish.stages.reward"):
        assert "burnish.evaluation.refusal" in reached_modules(entry)
        without = reached_modules(entry, MONITOR)
        assert "burnish.evaluation.refusal" not in without
        assert "burnish.stages.loop" in without
    codes = [
        depends_on(load_recipe(recipe, [f"sft.monitor={value}"]).stages[0], {"model": "m"})["code"]
        for value in ("null", "{}", "{every: 3}")
    ]
    assert codes[0] != codes[1] == codes[2]


def test_the_order_of_a_report_s_models_counts_for_the_first_is_the_baseline(recipe: Path) -> None:
    orders = ["{raw: model, sft: sft}", "{sft: sft, raw: model}"]
    stages = [
        load_recipe(recipe, ["stages.card.stage=report", f"stages.card.models={order}"]).stages[-1] for order in orders
    ]
    inputs = {"model": "a", "sft": "b"}
    assert depends_on(stages[0], inputs) != depends_on(stages[1], inputs)
    assert depends_on(stages[0], inputs) == depends_on(stages[0], inputs)


def test_a_report_is_judged_by_a_stage_of_the_recipe(recipe: Path) -> None:
    """Topics by a model that is not among those of the report; and only a change of it measures them again."""
    other = {**ROWS[-1], "id": "t2", "messages": [{"role": "user", "content": "hello, what is a question?"}]}
    write_lines(recipe.parent / "rows.jsonl", [*ROWS, other])
    settings = "prompts: rows.jsonl, topic_judge: sft, max_new_tokens: 2, dtype: float32"
    recipe.write_text(RECIPE[: RECIPE.index("  dpo:")] + f"  report: {{models: {{raw: model}}, {settings}}}\n")
    result = run(recipe)
    found = json.loads((result.results["report"] / "report.json").read_text())
    assert found["topic"]["raw"]["judge"].endswith(str(result.products["sft"].resolve()))
    assert run(recipe).computed == ()
    assert run(recipe, "report.topic_judge=raw").computed == ("report",)


def test_a_report_whose_texts_change_runs_again_and_a_bad_text_stops_the_recipe_before_its_first_stage(
    recipe: Path,
) -> None:
    write_lines(recipe.parent / "rows.jsonl", ROWS[:1])
    texts = [{"id": f"d{i}", "text": text} for i, text in enumerate(("paris is the capital", "hello world"))]
    file = write_lines(recipe.parent / "domain.jsonl", texts)
    settings = "prompts: rows.jsonl, prose: domain.jsonl, max_new_tokens: 2, dtype: float32"
    recipe.write_text(RECIPE[: RECIPE.index("  dpo:")] + f"  report: {{models: {{raw: model}}, {settings}}}\n")

    def scored(result: RecipeResult) -> list[dict[str, object]]:
        found = json.loads((result.results["report"] / "report.json").read_text())
        return found["retention"]["raw"]["prose"]  # type: ignore[no-any-return]

    before = scored(run(recipe))
    assert [text["id"] for text in before] == ["d0", "d1"]
    assert run(recipe).computed == ()
    write_lines(file, [texts[0], {"id": "d1", "text": "one two three"}])
    again = run(recipe)
    assert again.computed == ("report",)
    after = scored(again)
    assert after[0] == before[0]
    assert after[1]["nats"] != before[1]["nats"]

    write_lines(file, [texts[0], {"id": "d0", "text": "hello"}])
    with pytest.raises(DataError, match="also that of line 1") as caught:
        run(recipe, runs="other")
    assert caught.value.where == f"{file}:2"
    assert not list((recipe.parent / "other").glob("**/sft-*"))


def test_an_unknown_task_of_a_report_is_found_before_the_first_stage_runs(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "harness_version", lambda: "0.4.13")

    def refuse(tasks: tuple[str, ...], path: str | None) -> None:
        raise ConfigError(f"lm-eval knows no task {tasks[0]!r}", where="lm_eval")

    monkeypatch.setattr(evidence, "check_tasks", refuse)
    recipe.write_text(RECIPE + "  report: {models: {raw: model}, lm_eval: arc_easi}\n")
    with pytest.raises(ConfigError, match="knows no task 'arc_easi'") as caught:
        run(recipe)
    assert caught.value.where == "stages.report.lm_eval"
    assert not list((recipe.parent / "runs" / "toy").glob("sft-*"))
