"""The stages on tiny models: what they learn, what they normalise by, what they refuse and what they leave behind."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import BurnishError, ConfigError, DataError, OutputDirError, TemplateError, TrainingError
from burnish.losses.sft import sft_loss
from burnish.models.roles import Backbone, response_logprobs
from burnish.stages import sft as sft_module
from burnish.stages.config import DPOConfig, SFTConfig
from burnish.stages.dpo import train_dpo
from burnish.stages.optim import learning_rate, make_optimiser
from burnish.stages.setup import stage_run
from burnish.stages.sft import train_sft
from tests.models.families import tiny
from tests.stages.toy import make_sft_data, settings


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_sft_learns_and_leaves_an_adapter_that_loads_alone(tmp_path: Path) -> None:
    from burnish.models.adapters import load_adapter
    from burnish.models.loading import load_model

    result = train_sft(SFTConfig.parse(settings(tmp_path, epochs=6)))
    losses = [line["validation/loss"] for line in lines(tmp_path / "run") if "validation/loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    loaded = load_model(str(result.model), dtype=torch.float32)
    assert loaded.source.adapter == result.model
    assert loaded.tokenizer.chat_template, "the template travels with the adapter"
    load_adapter(loaded.model, result.model, "sft")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    values = settings(tmp_path, epochs=1)
    first = train_sft(SFTConfig.parse(values))
    stamp = (first.model / "adapter_model.safetensors").stat().st_mtime_ns
    again = train_sft(SFTConfig.parse(values))
    assert again.already_done
    assert again.metrics == first.metrics
    assert (first.model / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_an_output_directory_with_another_run_is_refused(tmp_path: Path) -> None:
    train_sft(SFTConfig.parse(settings(tmp_path, epochs=1)))
    with pytest.raises(OutputDirError, match=r"another run \(learning_rate: 0.01 there, 0.02 now"):
        train_sft(SFTConfig.parse(settings(tmp_path, epochs=1, learning_rate=0.02)))
    with pytest.raises(OutputDirError, match="stage 'sft'"):
        train_dpo(DPOConfig.parse(settings(tmp_path, "dpo")))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(OutputDirError, match="holds no run of burnish"):
        train_sft(SFTConfig.parse(settings(tmp_path, out=str(tmp_path / "full"))))
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("n_held_out", [6, 30])
def test_a_validation_set_of_its_own_is_not_trained_on(tmp_path: Path, n_held_out: int) -> None:
    """Whether it is smaller or larger than the training set of 24."""
    held_out = make_sft_data(tmp_path / "held.jsonl", n_held_out)
    values = settings(tmp_path, validation=str(held_out), epochs=1, max_steps=1)
    train_sft(SFTConfig.parse(values))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (record["training"], record["validation"]) == (24, n_held_out)


def test_changed_data_is_noticed_on_resume(tmp_path: Path) -> None:
    values = settings(tmp_path, epochs=1)
    train_sft(SFTConfig.parse(values))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "finished": False}))
    data = Path(values["data"])
    data.write_text(data.read_text().replace("paris", "france"))
    with pytest.raises(OutputDirError, match="data has changed"):
        train_sft(SFTConfig.parse(values))


def test_gradients_of_micro_batches_add_up_to_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Accumulation is normalised by the tokens of the whole batch: however it is cut, the step is the same."""
    results = []
    for tokens in (16, 64, 4096):
        values = settings(tmp_path, epochs=1, max_steps=2, micro_batch_tokens=tokens, out=str(tmp_path / str(tokens)))
        values["lora"] = {"rank": 2}
        train_sft(SFTConfig.parse(values))
        results.append([line for line in lines(tmp_path / str(tokens)) if "loss" in line])
    for line_a, line_b, line_c in zip(*results, strict=True):
        assert line_a["loss"] == pytest.approx(line_b["loss"], rel=1e-5) == pytest.approx(line_c["loss"], rel=1e-5)
        assert line_a["grad_norm"] == pytest.approx(line_c["grad_norm"], rel=1e-4)


def test_normalising_per_micro_batch_would_be_another_gradient() -> None:
    """The bug that others shipped, so that the test above is known to tell the two apart."""
    role = Backbone(tiny("llama", dtype=torch.float64)).role()
    groups = [PromptGroup((3, 4), (Response.full([5]),)), PromptGroup((3, 4), (Response.full([9, 8, 7, 6]),))]
    parts = [response_logprobs(role, collate([g])).token for g in groups]
    right = sum(sft_loss(p, 5) for p in parts)
    wrong = sum(sft_loss(p, len(p)) for p in parts) / 2
    assert abs(float((right - wrong).detach())) > 1e-2


def test_dpo_starts_at_log_2_and_raises_the_margin(tmp_path: Path) -> None:
    result = train_dpo(DPOConfig.parse(settings(tmp_path, "dpo", epochs=4, lora={"rank": 2})))
    rows = lines(tmp_path / "run")
    first = next(row for row in rows if row["step"] == 1 and "loss" in row)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["validation/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["validation/kl"] == pytest.approx(0.0, abs=1e-6)
    assert result.metrics["margin"] > 0.1
    assert result.metrics["kl"] > 0.0


@pytest.mark.parametrize("epochs", [1, 2])
def test_dpo_reference_is_where_the_stage_starts(epochs: int, tmp_path: Path) -> None:
    """From an adapter: the loss starts at log 2 only if policy and reference are both that adapter."""
    no_dropout = {"rank": 2}
    sft = train_sft(SFTConfig.parse(settings(tmp_path, out=str(tmp_path / "sft"), epochs=2, lora=no_dropout)))
    train_dpo(DPOConfig.parse(settings(tmp_path, "dpo", model=str(sft.model), epochs=epochs)))
    first = next(row for row in lines(tmp_path / "run") if row["step"] == 1 and "loss" in row)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    before, after = first["logps/chosen"], lines(tmp_path / "run")[-1]["validation/logps/chosen"]
    assert before != after


def test_dpo_full_fine_tuning_keeps_its_reference(tmp_path: Path) -> None:
    result = train_dpo(DPOConfig.parse(settings(tmp_path, "dpo", tuning="full", lora={}, learning_rate=1e-3)))
    rows = lines(tmp_path / "run")
    assert rows[0]["validation/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[-1]["validation/margin"] > 0
    assert (result.model / "model.safetensors").exists()


def test_full_fine_tuning_with_bf16_activations_learns(tmp_path: Path) -> None:
    values = settings(tmp_path, tuning="full", lora={}, dtype="bfloat16", learning_rate=3e-3, epochs=4)
    train_sft(SFTConfig.parse(values))
    losses = [line["validation/loss"] for line in lines(tmp_path / "run") if "validation/loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_a_loss_that_is_not_finite_stops_names_the_examples_and_keeps_the_weights(tmp_path: Path, monkeypatch) -> None:
    original = sft_module.sft_loss
    calls = {"n": 0}

    def poisoned(logprobs: torch.Tensor, n_tokens: int) -> torch.Tensor:
        calls["n"] += 1
        return original(logprobs, n_tokens) * (float("nan") if calls["n"] == 4 else 1.0)

    monkeypatch.setattr(sft_module, "sft_loss", poisoned)
    with pytest.raises(TrainingError, match="loss is nan in step") as caught:
        train_sft(SFTConfig.parse(settings(tmp_path)))
    assert "sft.jsonl:" in (caught.value.where or "")
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_validation_loss_that_is_not_finite_stops_and_leaves_the_checkpoint_as_it_was(
    tmp_path: Path, monkeypatch
) -> None:
    original, calls, before = sft_module.evaluate_sft, {"n": 0}, {}

    def contents() -> dict[str, bytes]:
        kept = (tmp_path / "run" / "checkpoints").glob("step-*/*.safetensors")
        return {str(path): path.read_bytes() for path in kept}

    def poisoned(*arguments: object) -> dict[str, float]:
        calls["n"] += 1
        if calls["n"] < 3:
            return original(*arguments)
        before.update(contents())
        return {"loss": math.nan}

    monkeypatch.setattr(sft_module, "evaluate_sft", poisoned)
    with pytest.raises(TrainingError, match="validation loss is nan after step") as caught:
        train_sft(SFTConfig.parse(settings(tmp_path, save_every=50, eval_every=1)))
    assert caught.value.where == str(tmp_path / "run" / "checkpoints")
    # The step that was measured has changed the weights: they must not be saved under the number of the step before.
    assert before
    assert contents() == before


def test_data_or_model_that_changed_are_no_finished_run(tmp_path: Path) -> None:
    values = settings(tmp_path, epochs=1)
    train_sft(SFTConfig.parse(values))
    data = tmp_path / "sft.jsonl"
    before = data.read_text()
    data.write_text(before.replace("paris", "london"))
    with pytest.raises(OutputDirError, match="the data has changed since the run"):
        train_sft(SFTConfig.parse(values))
    data.write_text(before)
    assert train_sft(SFTConfig.parse(values)).already_done


def test_an_adapter_that_was_trained_anew_is_not_gone_on_with(tmp_path: Path) -> None:
    first = train_sft(SFTConfig.parse(settings(tmp_path, epochs=1)))
    values = settings(tmp_path, "dpo", epochs=1, model=str(first.out), out=str(tmp_path / "dpo"), lora={})
    with stage_run(DPOConfig.parse(values)) as run:
        (run.checkpoints / "step-00000001").mkdir(parents=True)
    weights = first.model / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(OutputDirError, match="the model has changed since the run"):
        train_dpo(DPOConfig.parse(values))


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trackio is not installed"):
        train_sft(SFTConfig.parse({**settings(tmp_path), "model": "nowhere/at-all", "trackers": ["trackio"]}))
    assert not (tmp_path / "run").exists()


def test_a_run_directory_stands_for_its_model_from_python_too(tmp_path: Path) -> None:
    first = train_sft(SFTConfig.parse(settings(tmp_path, epochs=1)))
    again = settings(tmp_path, "dpo", epochs=1, model=str(first.out), out=str(tmp_path / "dpo"), lora={})
    assert train_dpo(DPOConfig.parse(again)).steps > 0


def test_best_weights_are_kept(tmp_path: Path) -> None:
    """With a learning rate that ruins the model late, the kept model is of the step with the lowest loss."""
    values = settings(tmp_path, epochs=12, learning_rate=0.5, warmup=0.9, schedule="constant", eval_every=4)
    result = train_sft(SFTConfig.parse(values))
    losses = {line["step"]: line["validation/loss"] for line in lines(tmp_path / "run") if "validation/loss" in line}
    losses.pop(0)
    best = min(losses, key=losses.__getitem__)
    assert best != result.steps, "the test needs a run that gets worse"
    assert result.metrics["model_of_step"] == best
    assert result.metrics["loss"] == result.metrics["best_validation_loss"] == losses[best]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": 50.0}, "learning_rate"),
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": {"rnk": 4}}, r"lora.rnk: unknown key \(did you mean 'rank'\?\)"),
        ({"lerning_rate": 1e-4}, r"unknown key \(did you mean 'learning_rate'\?\)"),
        ({"epochs": "many"}, "epochs"),
        ({"validation": 1.5}, "validation"),
    ],
)
def test_settings_of_nonsense_are_refused_by_name(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        SFTConfig.parse(settings(tmp_path, **change))
    assert not (tmp_path / "run").exists()


def test_unknown_losses_and_devices_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'sigmoid'"):
        train_dpo(DPOConfig.parse(settings(tmp_path, "dpo", loss={"name": "sigmod"})))
    assert not (tmp_path / "run").exists()
    with pytest.raises(BurnishError, match="device"):
        train_sft(SFTConfig.parse(settings(tmp_path, device="abacus")))


def test_learning_rate_by_hand() -> None:
    config = SFTConfig.parse({"model": "m", "data": "d", "out": "o", "learning_rate": 1.0, "warmup": 0.2})
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]  # two of ten steps warm up
    assert rates[2] == 1.0
    assert rates[6] == pytest.approx(0.5)  # half-way down the cosine
    assert rates[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    linear = config.model_copy(update={"schedule": "linear"})
    assert learning_rate(6, 10, linear) == pytest.approx(0.5)
    constant = config.model_copy(update={"schedule": "constant"})
    assert learning_rate(9, 10, constant) == 1.0


def test_weight_decay_is_on_matrices_only() -> None:
    config = SFTConfig.parse({"model": "m", "data": "d", "out": "o", "weight_decay": 0.1})
    parameters = {
        "a": torch.nn.Parameter(torch.zeros(2, 2)),
        "norm": torch.nn.Parameter(torch.zeros(2)),
        "token_rows": torch.nn.Parameter(torch.zeros(2, 2)),
    }
    groups = make_optimiser(parameters, config).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.1, 1), (0.0, 2)]


@pytest.mark.parametrize("n", [4, 40])
def test_a_validation_file_is_watched_and_not_trained_on(tmp_path: Path, n: int) -> None:
    from tests.stages.toy import make_sft_data

    held_out = make_sft_data(tmp_path / "held-out.jsonl", n)
    config = SFTConfig.parse(settings(tmp_path, validation=str(held_out), max_steps=1))
    train_sft(config)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["data"]["training"], record["data"]["validation"]) == (24, n)
    assert any("validation/loss" in line for line in lines(tmp_path / "run"))


@pytest.mark.parametrize("held_out", [0.0, "more.jsonl"])
def test_rows_that_the_template_refuses_are_counted_with_the_bad_ones(tmp_path: Path, held_out: float | str) -> None:
    """One row without an answer, which the reader refuses, and two with the stop token in it, which the template does;
    of a validation file none is counted, for the counts are the training file's."""
    values = settings(tmp_path, max_steps=1, validation=held_out)
    data = Path(values["data"])
    bad = ["", "a <eos> b", "<eos>"]
    rows = [json.dumps({"prompt": "x?", "completion": text}) for text in bad]
    data.write_text("\n".join([*rows, *data.read_text().splitlines()]) + "\n")
    if isinstance(held_out, str):
        values["validation"] = str(tmp_path / held_out)
        held = make_sft_data(tmp_path / held_out, 4)
        held.write_text(rows[1] + "\n" + held.read_text())
    with pytest.raises(DataError, match="empty response"):
        train_sft(SFTConfig(**values))
    told = Console(file=io.StringIO(), width=200)
    train_sft(SFTConfig(**values, on_bad_row="skip"), console=told)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (record["read"], record["bad_rows"], record["training"]) == (27, 3, 24)
    assert record["validation"] == (4 if isinstance(held_out, str) else 0)
    words = " ".join(told.file.getvalue().split())  # type: ignore[attr-defined]
    assert "1 row left out:" in words
    assert ("3 rows left out:" if isinstance(held_out, str) else "2 rows left out:") in words
    assert f"{data}:2: turn 2 holds the stop token '<eos>'" in words
    assert f"{data}:3: turn 2 holds the stop token '<eos>'" in words


def test_without_skip_such_a_row_ends_the_stage(tmp_path: Path) -> None:
    values = settings(tmp_path, max_steps=1)
    data = Path(values["data"])
    data.write_text(data.read_text() + json.dumps({"prompt": "x?", "completion": "a <eos> b"}) + "\n")
    with pytest.raises(TemplateError, match="holds the stop token") as caught:
        train_sft(SFTConfig(**values))
    assert f"{data}:25" in (caught.value.where or "")


def test_a_rank_above_a_layer_s_smaller_side_is_told(tmp_path: Path) -> None:
    told = Console(file=io.StringIO(), width=300)
    train_sft(SFTConfig(**settings(tmp_path, max_steps=1, lora={"rank": 33, "targets": ["k_proj"]})), console=told)
    words = " ".join(told.file.getvalue().split())  # type: ignore[attr-defined]
    assert "LoRA's rank is above a layer's smaller side" in words
    assert "rank 33 in model.layers.0.self_attn.k_proj" in words
