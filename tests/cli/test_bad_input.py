"""Bad input: one clear message, a non-zero exit code, no traceback, nothing lost."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.tools import Burnish, demand_one_message, sft


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
def test_settings_of_nonsense_name_the_flag(
    here: Path, burnish: Burnish, arguments: list[str], parts: list[str]
) -> None:
    demand_one_message(burnish(*arguments), *parts, code=2)
    assert not (here / "run").exists()
    assert not (here / "card").exists()


def test_an_unknown_model_is_refused_with_the_closest_and_leaves_no_trace(here: Path, burnish: Burnish) -> None:
    demand_one_message(burnish(*sft(model="gemma-3-271m")), "did you mean 'gemma-3-270m'?")
    demand_one_message(burnish("generate", "gemma-3-271m", "x"), "did you mean 'gemma-3-270m'?")
    demand_one_message(burnish("report", "a=gemma-3-271m", "--out", "card"), "did you mean 'gemma-3-270m'?")
    demand_one_message(burnish("check", "sft.jsonl", "--model", "gemma-3-271m"), "did you mean 'gemma-3-270m'?")
    assert not (here / "run").exists()
    assert burnish(*sft()).code == 0, "the right name works at once, in the same directory"


def test_an_unreachable_hub(here: Path, burnish: Burnish) -> None:
    demand_one_message(burnish(*sft(model="org/model")), "the hub can't be reached")
    demand_one_message(burnish(*sft(data="org/data")), "can't be loaded from the Hugging Face hub")


def test_a_directory_that_is_not_a_model(here: Path, burnish: Burnish) -> None:
    (here / "empty").mkdir()
    demand_one_message(burnish(*sft(model="./empty")), "not a model directory")
    demand_one_message(burnish(*sft(model="./nowhere")), "no such directory")
    demand_one_message(burnish(*sft(model="sft.jsonl")), "a model is a directory, this is a file")


def test_a_pickle_checkpoint(here: Path, burnish: Burnish) -> None:
    (here / "base" / "model.safetensors").rename(here / "base" / "pytorch_model.bin")
    demand_one_message(burnish(*sft()), "pickle", "save_pretrained")


def test_an_encoder_only_model(here: Path, burnish: Burnish) -> None:
    config = json.loads((here / "base" / "config.json").read_text())
    (here / "base" / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    demand_one_message(burnish(*sft()), "bert is an encoder-only model")


def test_a_tokenizer_without_eos(here: Path, burnish: Burnish) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = here / "base" / name
        if path.exists():
            values = json.loads(path.read_text())
            values.pop("eos_token", None)
            path.write_text(json.dumps(values))
    demand_one_message(burnish(*sft()), "no EOS token")


def test_an_adapter_of_another_vocabulary(here: Path, burnish: Burnish) -> None:
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


def test_bad_rows_are_named_by_file_line_and_field(here: Path, burnish: Burnish) -> None:
    data = here / "sft.jsonl"
    data.write_text(data.read_text() + '{"prompt": "x", "completion": ""}\n{"prompt": "x"\n')
    result = burnish(*sft())
    demand_one_message(result, "sft.jsonl:25", "completion", "sft.jsonl:26", "2 of 26 rows")
    assert burnish(*sft("--on-bad-row", "skip")).code == 0
    demand_one_message(burnish(*sft(data="sft.jsnl", out="other")), "did you mean 'sft.jsonl'?")


def test_examples_beyond_the_context_are_counted(here: Path, burnish: Burnish) -> None:
    demand_one_message(burnish(*sft("--max-length", "10")), "exceed the context of 10 tokens", "the longest has")


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_checkpoint(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch
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


def test_an_output_directory_that_holds_another_run(here: Path, burnish: Burnish) -> None:
    assert burnish(*sft()).code == 0
    kept = (here / "run" / "run.json").read_text()
    demand_one_message(burnish(*sft("--seed", "3")), "already holds another run", "seed")
    demand_one_message(burnish("merge", "run", "--out", "base"), "not empty")
    demand_one_message(burnish("report", "raw=base", "--out", "run"), "not empty")
    assert (here / "run" / "run.json").read_text() == kept


def test_a_full_disk(here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr("burnish.stages.checkpoint.save_file", full)
    demand_one_message(burnish(*sft()), "No space left on device")
    assert not list((here / "run").rglob("*.safetensors")), "nothing half-written"
    monkeypatch.undo()
    os.chdir(here)
    assert burnish(*sft()).code == 0, "the same command goes on once there is space"


def test_a_full_disk_for_the_metrics(here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("burnish.stages.run.Run.log", full)
    demand_one_message(burnish(*sft()), "No space left on device", "free some space")


def test_damaged_weights(here: Path, burnish: Burnish) -> None:
    path = here / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    demand_one_message(burnish(*sft()), "the weights can't be loaded")


def test_a_model_that_gives_nan_is_told(here: Path, burnish: Burnish) -> None:
    path = here / "base" / "model.safetensors"
    weights = {name: tensor.fill_(float("nan")) for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    result = burnish(*sft())
    assert result.code == 1
    assert "Traceback" not in result.err
