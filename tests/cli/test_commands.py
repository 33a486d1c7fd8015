"""The commands: what they print and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from burnish.cli import main
from burnish.cli.report import _command
from burnish.pipeline.report_config import ReportConfig
from tests.cli.tools import Burnish, demand_one_message, sft

# ---- help and versions ----


def test_help_names_every_command_within_80_columns(here: Path, burnish: Burnish) -> None:
    result = burnish("--help")
    assert result.code == 0
    for name in "quickstart run sweep check sft dpo merge report generate chat models version".split():  # noqa: SIM905
        assert f" {name} " in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert burnish().out == result.out, "without arguments the same"


@pytest.mark.parametrize(
    "command", ["quickstart", "run", "sweep", "check", "sft", "dpo", "merge", "report", "generate", "chat"]
)
def test_every_command_explains_itself(here: Path, burnish: Burnish, command: str) -> None:
    result = burnish(command, "--help")
    assert result.code == 0
    assert f"Usage: burnish {command}" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_flags_come_from_the_settings_with_their_docstrings_and_defaults(here: Path, burnish: Burnish) -> None:
    from burnish.stages.config import DPOConfig

    text = burnish("dpo", "--help").out
    for name, field in DPOConfig.model_fields.items():
        if name != "lora":
            assert f"--{name.replace('_', '-')}" in text
            assert (field.description or "").split()[0].strip("`") in text
    for flag in ("--lora.rank", "--lora.targets", "--lora.rank-stabilised", "--no-keep-best"):
        assert flag in text
    assert "[default: 5e-05]" in text, "DPO's own learning rate"


def test_version_and_models(here: Path, burnish: Burnish) -> None:
    assert "torch" in burnish("version").out
    result = burnish("models")
    assert "gemma-3-270m" in result.out
    assert "not yet" in result.out


# ---- the stages ----


def test_sft_dpo_merge_generate_check_and_report(here: Path, burnish: Burnish) -> None:
    result = burnish(*sft("--lora.targets", "q_proj", "v_proj", "--no-keep-best"))
    assert result.code == 0, result.err
    assert "burnish chat run/model" in result.out
    config = json.loads((here / "run" / "run.json").read_text())["config"]
    assert config["lora"]["rank"] == 2
    assert config["lora"]["targets"] == ["q_proj", "v_proj"]
    assert config["keep_best"] is False
    assert "finished before" in burnish(*sft("--lora.targets", "q_proj", "v_proj", "--no-keep-best")).out

    flags = ["--model", "run", "--data", "dpo.jsonl", "--out", "dpo", "--dtype", "float32", "--learning-rate", "1e-2"]
    result = burnish("dpo", *flags, "--loss.name", "ipo", "--loss.beta", "0.5", "--validation", "0.2")
    assert result.code == 0, result.err
    config = json.loads((here / "dpo" / "run.json").read_text())["config"]
    assert config["loss"] == {"name": "ipo", "beta": 0.5}
    assert config["validation"] == 0.2

    result = burnish("merge", "dpo", "--out", "merged", "--dtype", "float32")
    assert result.code == 0, result.err
    assert "verified on logits" in result.err
    assert (here / "merged" / "model.safetensors").is_file()

    result = burnish("generate", "merged", "paris?", "france?", "--max-new-tokens", "4")
    assert result.code == 0, result.err
    assert "> paris?" in result.out

    result = burnish("check", "dpo.jsonl", "--model", "run", "--n", "1")
    assert result.code == 0, result.err
    assert "prompt + chosen + rejected" in result.out
    assert "fit to train on" in result.out

    models = ["raw=base", "sft=run", "dpo=dpo"]
    result = burnish("report", *models, "--out", "card", "--sample", "7", "--max-new-tokens", "4")
    assert result.code == 0, result.err
    data = json.loads((here / "card" / "report.json").read_text())
    assert data["models"] == ["raw", "sft", "dpo"]
    assert data["kl"]["sft"]["start"] == data["topic"]["dpo"]["judge"] == "raw"
    assert all(record["nats"] > 0 for record in data["kl"]["dpo"]["records"])
    page = (here / "card" / "report.html").read_text()
    assert "burnish report raw=base" in page
    assert max(map(len, result.out.splitlines())) <= 80


def test_a_report_says_what_it_was_made_by() -> None:
    config = ReportConfig(models={"raw": "base"}, out=Path("card"), two_bases=False)
    assert _command(["raw=base"], config, {}) == "burnish report raw=base --out card --no-two-bases"
    how = {"dtype": "float32", "device": "cpu", "batch_size": 4, "compute": "plain"}  # they change answers, or latency
    config = ReportConfig.parse({"models": {"raw": "base"}, "out": "card", **how})
    told = "--batch-size 4 --dtype float32 --device cpu --compute plain"
    assert _command(["raw=base"], config, {}) == f"burnish report raw=base --out card {told}"
    config = ReportConfig(models={"raw": "base"}, out=Path("card"), choices="mmlu", prose="my texts.jsonl")
    told = "--choices mmlu --prose 'my texts.jsonl'"
    assert _command(["raw=base"], config, {}) == f"burnish report raw=base --out card {told}"


def test_columns_are_mapped(here: Path, burnish: Burnish) -> None:
    data = here / "sft.jsonl"
    data.write_text(data.read_text().replace('"prompt"', '"question"').replace('"completion"', '"answer"'))
    result = burnish(*sft("--map", "question=prompt", "answer=completion"))
    assert result.code == 0, result.err
    result = burnish("check", "sft.jsonl", "--model", "base", "--map", "question=prompt", "--map", "answer=completion")
    assert result.code == 0, result.err
    demand_one_message(burnish(*sft("--map", "question", out="other")), "'question' is not old=new", "--map", code=2)


def test_check_fails_on_what_is_not_fit(here: Path, burnish: Burnish) -> None:
    result = burnish("check", "sft.jsonl", "--model", "base", "--max-length", "9")
    assert result.code == 1
    assert "exceed the context of 9 tokens" in result.out
    assert "not fit to train on" in result.out


def test_check_fails_on_rows_at_which_a_stage_would_stop(here: Path, burnish: Burnish) -> None:
    data = here / "sft.jsonl"
    data.write_text(data.read_text() + '{"prompt": "x?", "completion": " "}\n')
    result = burnish("check", "sft.jsonl", "--model", "base")
    assert result.code == 1
    assert "1 row left out" in result.out
    assert "empty response" in result.out
    assert "a stage would stop" in result.out
    assert burnish("check", "sft.jsonl", "--model", "base", "--on-bad-row", "skip").code == 0


def test_check_lists_rows_that_the_template_refuses_and_shows_the_others(here: Path, burnish: Burnish) -> None:
    data = here / "sft.jsonl"
    data.write_text('{"prompt": "x?", "completion": "a <eos> b"}\n' + data.read_text())
    result = burnish("check", "sft.jsonl", "--model", "base")
    assert result.code == 1, result.err
    words = " ".join(result.out.split())
    assert "1 row left out: sft.jsonl:1: turn 2 holds the stop token '<eos>'" in words
    assert "a stage would stop" in words
    assert burnish("check", "sft.jsonl", "--model", "base", "--on-bad-row", "skip").code == 0


def test_check_takes_the_kind_that_most_rows_are_of(here: Path, burnish: Burnish) -> None:
    data = here / "dpo.jsonl"
    data.write_text('{"text": "once upon a time"}\n' + data.read_text())
    result = burnish("check", "dpo.jsonl", "--model", "base", "--on-bad-row", "skip")
    assert result.code == 0, result.err
    assert "prompt + chosen + rejected" in result.out
    assert "1 row left out" in result.out


def test_check_knows_the_token_rows_that_an_adapter_brings_along(here: Path, burnish: Burnish) -> None:
    path = here / "base" / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in weights if "embed_tokens" in key)
    stop = AutoTokenizer.from_pretrained(here / "base").eos_token_id
    weights[name][-1] = weights[name][stop]  # the stop token's row is another one's too: nobody can tell them apart
    save_file(weights, path, metadata={"format": "pt"})
    eos = AutoTokenizer.from_pretrained(here / "base").eos_token
    assert burnish("check", "sft.jsonl", "--model", "base").code == 1
    trained = burnish(*sft("--lora.trainable-tokens", eos))
    assert trained.code == 0, trained.err
    result = burnish("check", "sft.jsonl", "--model", "run")
    assert result.code == 0, result.out


def test_options_without_effect_are_refused(here: Path, burnish: Burnish) -> None:
    for option in (("--top-p", "0.9"), ("--top-k", "5"), ("--n", "2")):
        demand_one_message(burnish("generate", "base", "x", *option), f"{option[0]} has no effect", code=2)


def test_generate_reads_prompts_from_the_input(here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("paris?\n\nfrance?\n"))
    result = burnish("generate", "base", "--max-new-tokens", "3", "--out", "answers.jsonl")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (here / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in rows] == ["paris?", "france?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    demand_one_message(burnish("generate", "base"), "no prompt", code=2)


def test_chat_answers_every_line_with_every_model(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("paris?\n/quit\n"))
    result = burnish("chat", "one=base", "two=base", "--max-new-tokens", "3")
    assert result.code == 0, result.err
    assert "one" in result.out
    assert "two" in result.out
    demand_one_message(burnish("chat"), "name a model to talk to", code=2)


# ---- recipes ----

RECIPE = """
name: toy
model: base
defaults: {dtype: float32, batch_size: 4, learning_rate: 1e-2}
stages:
  sft: {data: sft.jsonl, lora: {rank: 2}}
  dpo: {from: sft, data: dpo.jsonl}
  merge: {from: dpo, dtype: float32}
  report: {sample: 7, max_new_tokens: 4}
"""


def test_a_recipe_runs_once_and_says_where_everything_is(here: Path, burnish: Burnish) -> None:
    (here / "toy.yaml").write_text(RECIPE)
    result = burnish("run", "toy.yaml")
    assert result.code == 0, result.err
    assert "runs/toy/merge/model" in result.out
    assert "runs/toy/report/report.html" in result.out
    assert "burnish chat base runs/toy/merge/model" in result.out
    assert json.loads((here / "runs/toy/report/report.json").read_text())["models"] == ["raw", "sft", "dpo"]
    assert max(map(len, (result.out + result.err).splitlines())) <= 80

    again = burnish("run", "toy.yaml")
    assert "all stages were done before" in again.out
    assert "answers and stops" in again.out, "the table is shown again"
    assert "Compared with raw" in again.out

    changed = burnish("run", "toy.yaml", "report.sample=8")
    assert "changed: sample" in changed.err
    assert "[4/4] report" in changed.err
    assert "[2/4]" not in changed.err


def test_quickstart_is_the_starter_recipe_with_its_sample(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch
) -> None:
    from burnish.pipeline import recipe as recipe_module
    from burnish.pipeline.run import RecipeResult

    seen = []

    def fake(loaded, **options):
        seen.append((loaded, options["runs_dir"]))
        return RecipeResult(Path("runs"), {}, {}, ("sft",))

    monkeypatch.setattr("burnish.pipeline.run.run_recipe", fake)
    assert burnish("quickstart", "--sample", "21", "sft.epochs=3", "--runs-dir", "there").code == 0
    loaded, where = seen[0]
    assert isinstance(loaded, recipe_module.Recipe)
    assert loaded.name == "assistant"
    configs = {stage.name: stage.config for stage in loaded.stages}
    assert (configs["report"].sample, configs["sft"].epochs, where) == (21, 3, Path("there"))
    assert burnish("quickstart", "--full-eval").code == 0
    assert {s.name: s.config for s in seen[1][0].stages}["report"].sample is None
    demand_one_message(burnish("quickstart", "--full-eval", "--sample", "9"), "exclude each other", code=2)


def test_a_wrong_key_of_a_recipe_is_refused_before_anything_is_loaded(here: Path, burnish: Burnish) -> None:
    (here / "toy.yaml").write_text(RECIPE.replace("from: sft,", "from: sft, lerning_rate: 1e-3,"))
    place = "toy.yaml: stages.dpo.lerning_rate"
    demand_one_message(burnish("run", "toy.yaml"), "did you mean 'learning_rate'?", place, code=2)
    assert not (here / "runs").exists()


# ---- signals, bugs, pipes ----


def test_ctrl_c_is_130_and_an_unexpected_error_one_line(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("burnish.stages.sft.train_sft", stop)
    result = burnish(*sft())
    assert (result.code, result.words) == (130, "stopped")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug\nwith details")

    monkeypatch.setattr("burnish.stages.sft.train_sft", broken)
    demand_one_message(burnish(*sft()), "unexpected ZeroDivisionError: a bug", "run with --debug")
    with pytest.raises(ZeroDivisionError):
        main([*sft(), "--debug"])


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_was_asked_to_stop_says_so_and_goes_on(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Also in its last step, of six: in a recipe the next stage would begin otherwise."""
    from burnish.stages import sft as module

    original, calls = module.sft_loss, {"n": 0}

    def stopping(logprobs: torch.Tensor, n_tokens: int) -> torch.Tensor:
        calls["n"] += 1
        if calls["n"] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(logprobs, n_tokens)

    monkeypatch.setattr(module, "sft_loss", stopping)
    result = burnish(*sft())
    assert result.code == 130
    assert f"stopped by SIGINT after step {step} of 6" in result.words
    assert "error:" not in result.err
    result = burnish(*sft())
    assert result.code == 0
    assert f"went on after step {step}" in result.out
    assert (here / "run" / "model" / "adapter_model.safetensors").is_file()


def test_out_of_memory_says_what_to_make_smaller(here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    def big(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("burnish.stages.sft.train_sft", big)
    demand_one_message(burnish(*sft()), "out of memory", "--micro-batch-tokens")
    monkeypatch.setattr("burnish.pipeline.report.report", big)
    demand_one_message(burnish("report", "raw=gemma-3-270m", "--out", "card"), "out of memory", "--batch-size")


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -c 'from burnish.cli import main; raise SystemExit(main())' models | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


# ---- score ----


def test_score_takes_its_data_either_way(here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    from burnish.stages import score as module

    asked: list[tuple[str, str, dict[str, str], str]] = []

    def noted(model: str, data: str, **more: Any) -> module.Scored:
        asked.append((model, data, more["columns"], more["too_long"]))
        return module.Scored("sft", torch.tensor([[1.0], [3.0]]), torch.zeros(1, 2, 1), ("a:1", "a:3"), too_long=1)

    monkeypatch.setattr(module, "score_data", noted)
    more = ["--map", "question=prompt", "answer=completion", "--too-long", "skip"]
    result = burnish("score", "--model", "rm", "--data", "d.jsonl", *more)
    assert result.code == 0, result.err
    assert burnish("score", "d.jsonl", "--model", "rm", *more).out == result.out
    assert asked == [("rm", "d.jsonl", {"question": "prompt", "answer": "completion"}, "skip")] * 2
    assert [" ".join(line.split()) for line in result.out.splitlines()][:3] == [
        "rows 2",
        "left out 1 longer than the model's context",
        "score mean 2.000, deviation 1.414",
    ]


def test_score_tells_how_sure_it_is_of_pairs(here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four: Wilson's interval is (1.2302 -+ 0.6408) / 1.9604, by hand."""
    from burnish.stages import score as module

    scores = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    found = module.Scored("preference", scores, scores[None], ("a:1", "a:2", "a:3", "a:4"))
    monkeypatch.setattr(module, "score_data", lambda *_, **__: found)
    result = burnish("score", "d.jsonl", "--model", "rm")
    assert "chosen is higher 75.0% (3 of 4; 95 %: 30 to 95)" in " ".join(result.out.split())
