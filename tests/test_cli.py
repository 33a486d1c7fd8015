"""The command line, in this process: what it prints, what it leaves behind, and what it makes of bad input."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from burnish.cli import main
from tests.stages.toy import make_model, make_pairs, make_sft_data

SMALL = {"--dtype": "float32", "--batch-size": "4", "--learning-rate": "1e-2", "--lora.rank": "2", "--epochs": "1"}


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


class Outcome:
    """Exit code and what was printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def words(self) -> str:
        """Standard error with its line breaks undone."""
        return " ".join(self.err.split())


@pytest.fixture
def burnish(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


def demand_one_message(result: Outcome, *parts: str, code: int = 1) -> None:
    """One error, no traceback, the words that help, and the exit code."""
    assert result.code == code
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.out + result.err
    for part in parts:
        assert part in result.words


def sft(*more: str, model: str = "base", data: str = "sft.jsonl", out: str = "run") -> list[str]:
    flags = {"--model": model, "--data": data, "--out": out, **SMALL}
    return ["sft", *(word for pair in flags.items() if pair[0] not in more for word in pair), *more]


# ---- help and versions ----


def test_help_names_every_command_within_80_columns(here: Path, burnish) -> None:
    result = burnish("--help")
    assert result.code == 0
    for name in "quickstart run check sft dpo merge report generate chat models version".split():  # noqa: SIM905
        assert f" {name} " in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert burnish().out == result.out, "without arguments the same"


@pytest.mark.parametrize("command", ["quickstart", "run", "check", "sft", "dpo", "merge", "report", "generate", "chat"])
def test_every_command_explains_itself(here: Path, burnish, command: str) -> None:
    result = burnish(command, "--help")
    assert result.code == 0
    assert f"Usage: burnish {command}" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_flags_come_from_the_settings_with_their_docstrings_and_defaults(here: Path, burnish) -> None:
    from burnish.stages.config import DPOConfig

    text = burnish("dpo", "--help").out
    for name, field in DPOConfig.model_fields.items():
        if name != "lora":
            assert f"--{name.replace('_', '-')}" in text
            assert (field.description or "").split()[0].strip("`") in text
    for flag in ("--lora.rank", "--lora.targets", "--lora.rank-stabilised", "--no-keep-best"):
        assert flag in text
    assert "[default: 5e-05]" in text, "DPO's own learning rate"


def test_version_and_models(here: Path, burnish) -> None:
    assert "torch" in burnish("version").out
    result = burnish("models")
    assert "gemma-3-270m" in result.out
    assert "not yet" in result.out


# ---- the stages ----


def test_sft_dpo_merge_generate_check_and_report(here: Path, burnish) -> None:
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
    assert json.loads((here / "card" / "report.json").read_text())["models"] == ["raw", "sft", "dpo"]
    page = (here / "card" / "report.html").read_text()
    assert "burnish report raw=base" in page
    assert max(map(len, result.out.splitlines())) <= 80


def test_columns_are_mapped(here: Path, burnish) -> None:
    data = here / "sft.jsonl"
    data.write_text(data.read_text().replace('"prompt"', '"question"').replace('"completion"', '"answer"'))
    result = burnish(*sft("--map", "question=prompt", "answer=completion"))
    assert result.code == 0, result.err
    result = burnish("check", "sft.jsonl", "--model", "base", "--map", "question=prompt", "--map", "answer=completion")
    assert result.code == 0, result.err
    demand_one_message(burnish(*sft("--map", "question", out="other")), "'question' is not old=new", "--map", code=2)


def test_check_fails_on_what_is_not_fit(here: Path, burnish) -> None:
    result = burnish("check", "sft.jsonl", "--model", "base", "--max-length", "9")
    assert result.code == 1
    assert "exceed the context of 9 tokens" in result.out
    assert "not fit to train on" in result.out


def test_generate_reads_prompts_from_the_input(here: Path, burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("paris?\n\nfrance?\n"))
    result = burnish("generate", "base", "--max-new-tokens", "3", "--out", "answers.jsonl")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (here / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in rows] == ["paris?", "france?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    demand_one_message(burnish("generate", "base"), "no prompt", code=2)


def test_chat_answers_every_line_with_every_model(here: Path, burnish, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_recipe_runs_once_and_says_where_everything_is(here: Path, burnish) -> None:
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


def test_quickstart_is_the_starter_recipe_with_its_sample(here: Path, burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    from burnish.pipeline import recipe as recipe_module
    from burnish.pipeline.run import RecipeResult

    seen = []

    def fake(loaded, **options):
        seen.append((loaded, options["runs_dir"]))
        return RecipeResult(Path("runs"), {}, ("sft",))

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


def test_a_wrong_key_of_a_recipe_is_refused_before_anything_is_loaded(here: Path, burnish) -> None:
    (here / "toy.yaml").write_text(RECIPE.replace("from: sft,", "from: sft, lerning_rate: 1e-3,"))
    place = "toy.yaml: stages.dpo.lerning_rate"
    demand_one_message(burnish("run", "toy.yaml"), "did you mean 'learning_rate'?", place, code=2)
    assert not (here / "runs").exists()


# ---- bad input: one clear message, a non-zero exit code, no traceback, nothing lost ----


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sfft"], ["unknown command 'sfft' (did you mean 'sft'?)"]),
        (sft("--lerning-rate", "1"), ["--lerning-rate", "--learning-rate"]),
        (sft("--lora.rnk", "1"), ["--lora.rnk", "--lora.rank"]),
        (sft("--learning-rate", "-1"), ["--learning-rate", "greater than 0"]),
        (sft("--learning-rate", "1000"), ["--learning-rate", "less than or equal to 1"]),
        (sft("--learning-rate", "nan"), ["--learning-rate"]),
        (sft("--learning-rate", "fast"), ["--learning-rate", "'fast'"]),
        (sft("--lora.rank", "0"), ["--lora.rank", "greater than or equal to 1"]),
        (sft("--lora.rank", "2.7"), ["--lora.rank", "integer"]),
        (sft("--schedule", "cosin"), ["--schedule", "cosine"]),
        (sft("--device", "abacus"), ["device 'abacus' can't be used"]),
        (sft("extra"), ["unexpected argument 'extra'"]),
        (["sft", "--model", "base", "--data", "x"], ["--out is missing"]),
        (["sft", "--model"], ["--model needs a value"]),
        (["dpo", *sft()[1:], "--loss.bta", "1"], ["no option 'bta' (did you mean 'beta'?)"]),
        (["dpo", *sft()[1:], "--loss.name", "ippo"], ["unknown loss 'ippo' (did you mean 'ipo'?)"]),
        (["dpo", *sft()[1:], "--loss.label_smoothing", "0.9"], ["label_smoothing must lie in"]),
        (["generate", "base", "x", "--temperature", "-1"], ["temperature must be"]),
        (["report", "raw=base", "--out", "card", "--sample", "2"], ["at least one row for each"]),
        (["report", "a=base", "a=run", "--out", "card"], ["two models are called 'a'"]),
        (["report", "--out", "card"], ["at least one model"]),
    ],
)
def test_settings_of_nonsense_name_the_flag(here: Path, burnish, arguments: list[str], parts: list[str]) -> None:
    demand_one_message(burnish(*arguments), *parts, code=2)
    assert not (here / "run").exists()
    assert not (here / "card").exists()


def test_an_unknown_model_is_refused_with_the_closest_and_leaves_no_trace(here: Path, burnish) -> None:
    demand_one_message(burnish(*sft(model="gemma-3-271m")), "did you mean 'gemma-3-270m'?")
    demand_one_message(burnish("generate", "gemma-3-271m", "x"), "did you mean 'gemma-3-270m'?")
    demand_one_message(burnish("report", "a=gemma-3-271m", "--out", "card"), "did you mean 'gemma-3-270m'?")
    demand_one_message(burnish("check", "sft.jsonl", "--model", "gemma-3-271m"), "did you mean 'gemma-3-270m'?")
    assert not (here / "run").exists()
    assert burnish(*sft()).code == 0, "the right name works at once, in the same directory"


def test_an_unreachable_hub(here: Path, burnish) -> None:
    demand_one_message(burnish(*sft(model="org/model")), "the hub can't be reached")
    demand_one_message(burnish(*sft(data="org/data")), "can't be loaded from the Hugging Face hub")


def test_a_directory_that_is_not_a_model(here: Path, burnish) -> None:
    (here / "empty").mkdir()
    demand_one_message(burnish(*sft(model="./empty")), "not a model directory")
    demand_one_message(burnish(*sft(model="./nowhere")), "no such directory")
    demand_one_message(burnish(*sft(model="sft.jsonl")), "a model is a directory, this is a file")


def test_a_pickle_checkpoint(here: Path, burnish) -> None:
    (here / "base" / "model.safetensors").rename(here / "base" / "pytorch_model.bin")
    demand_one_message(burnish(*sft()), "pickle", "save_pretrained")


def test_an_encoder_only_model(here: Path, burnish) -> None:
    config = json.loads((here / "base" / "config.json").read_text())
    (here / "base" / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    demand_one_message(burnish(*sft()), "bert is an encoder-only model")


def test_a_tokenizer_without_eos(here: Path, burnish) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = here / "base" / name
        if path.exists():
            values = json.loads(path.read_text())
            values.pop("eos_token", None)
            path.write_text(json.dumps(values))
    demand_one_message(burnish(*sft()), "no EOS token")


def test_an_adapter_of_another_vocabulary(here: Path, burnish) -> None:
    assert burnish(*sft()).code == 0
    record = here / "run" / "model" / "burnish_adapter.json"
    values = json.loads(record.read_text())
    values["base"]["vocab_size"] += 1
    record.write_text(json.dumps(values))
    before = sorted(path.name for path in (here / "run" / "model").iterdir())
    for arguments in (
        ["merge", "run", "--out", "merged"],
        ["generate", "run", "x"],
        ["dpo", "--model", "run", "--data", "dpo.jsonl", "--out", "dpo"],
    ):
        demand_one_message(burnish(*arguments), "vocab_size")
    assert not (here / "merged").exists()
    assert sorted(path.name for path in (here / "run" / "model").iterdir()) == before


def test_bad_rows_are_named_by_file_line_and_field(here: Path, burnish) -> None:
    data = here / "sft.jsonl"
    data.write_text(data.read_text() + '{"prompt": "x", "completion": ""}\n{"prompt": "x"\n')
    result = burnish(*sft())
    demand_one_message(result, "sft.jsonl:25", "completion", "sft.jsonl:26", "2 of 26 rows")
    assert burnish(*sft("--on-bad-row", "skip")).code == 0
    demand_one_message(burnish(*sft(data="sft.jsnl", out="other")), "did you mean 'sft.jsonl'?")


def test_examples_beyond_the_context_are_counted(here: Path, burnish) -> None:
    demand_one_message(burnish(*sft("--max-length", "10")), "exceed the context of 10 tokens", "the longest has")


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_checkpoint(
    here: Path, burnish, monkeypatch: pytest.MonkeyPatch
) -> None:
    from burnish.stages import sft as module

    original, calls = module.sft_loss, {"n": 0}

    def poisoned(logprobs: torch.Tensor, n_tokens: int) -> torch.Tensor:
        calls["n"] += 1
        return original(logprobs, n_tokens) * (float("nan") if calls["n"] == 4 else 1.0)

    monkeypatch.setattr(module, "sft_loss", poisoned)
    result = burnish(*sft())
    demand_one_message(result, "the loss is nan in step 4", "sft.jsonl:", "the last good weights are kept")
    (checkpoint,) = (here / "run" / "checkpoints").iterdir()
    assert checkpoint.name == "step-00000003"
    assert all(torch.isfinite(t).all() for t in load_file(checkpoint / "weights.safetensors").values())


def test_an_output_directory_that_holds_another_run(here: Path, burnish) -> None:
    assert burnish(*sft()).code == 0
    kept = (here / "run" / "run.json").read_text()
    demand_one_message(burnish(*sft("--seed", "3")), "already holds another run", "seed")
    demand_one_message(burnish("merge", "run", "--out", "base"), "not empty")
    demand_one_message(burnish("report", "raw=base", "--out", "run"), "not empty")
    assert (here / "run" / "run.json").read_text() == kept


def test_a_full_disk(here: Path, burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr("burnish.stages.checkpoint.save_file", full)
    demand_one_message(burnish(*sft()), "No space left on device")
    assert not list((here / "run").rglob("*.safetensors")), "nothing half-written"
    monkeypatch.undo()
    os.chdir(here)
    assert burnish(*sft()).code == 0, "the same command goes on once there is space"


def test_a_full_disk_for_the_metrics(here: Path, burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("burnish.stages.run.Run.log", full)
    demand_one_message(burnish(*sft()), "No space left on device", "free some space")


def test_damaged_weights(here: Path, burnish) -> None:
    path = here / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    demand_one_message(burnish(*sft()), "the weights can't be loaded")


def test_a_model_that_gives_nan_is_told(here: Path, burnish) -> None:
    path = here / "base" / "model.safetensors"
    weights = {name: tensor.fill_(float("nan")) for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    result = burnish(*sft())
    assert result.code == 1
    assert "Traceback" not in result.err


# ---- signals, bugs, pipes ----


def test_ctrl_c_is_130_and_an_unexpected_error_one_line(here: Path, burnish, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_out_of_memory_says_what_to_make_smaller(here: Path, burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    def big(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("burnish.stages.sft.train_sft", big)
    demand_one_message(burnish(*sft()), "out of memory", "--micro-batch-tokens")


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -c 'from burnish.cli import main; raise SystemExit(main())' models | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
