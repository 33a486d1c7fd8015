"""Merging as a stage: verified, complete, and nothing lost when it can't be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from burnish.data.sources import load_examples
from burnish.errors import AdapterError, BurnishError, ConfigError, ModelError, OutputDirError
from burnish.models.adapters import load_adapter
from burnish.models.loading import load_model
from burnish.models.roles import Backbone
from burnish.stages.config import RewardConfig, SFTConfig
from burnish.stages.merge import EVIDENCE, merge_model
from burnish.stages.reward import train_reward
from burnish.stages.score import score_data
from burnish.stages.sft import train_sft
from tests.stages.toy import make_model, settings


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    values = settings(tmp_path, lora={"rank": 2, "trainable_tokens": ["<eos>"]})
    return train_sft(SFTConfig.parse(values)).model


def test_the_merged_directory_is_the_adapted_model_for_plain_transformers(tmp_path: Path, adapter: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = merge_model(str(adapter), tmp_path / "merged", dtype="float32")
    assert result.error <= result.tolerance
    assert result.effect > 0.01

    loaded = load_model(str(adapter), dtype=torch.float32)
    load_adapter(loaded.model, adapter, "a")
    role = Backbone(loaded.model).role("a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer("paris is the capital of france")["input_ids"]
    from burnish.data.groups import PromptGroup, Response, collate

    batch = collate([PromptGroup(tuple(ids[:1]), (Response.full(ids[1:]),))])
    adapted = role.head().logits(role.backbone.hidden_states(batch, role.route()))[0]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(merged, adapted.detach(), atol=2e-4, rtol=2e-4)
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    generation = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.eos_token_id


def test_the_evidence_is_printed_and_kept(tmp_path: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = merge_model(str(adapter), tmp_path / "merged", dtype="float32", console=Console(width=200))
    kept = json.loads((tmp_path / "merged" / EVIDENCE).read_text())
    assert (kept["error"], kept["effect"]) == (result.error, result.effect)
    assert "verified on logits" in capsys.readouterr().out


def test_a_run_directory_stands_for_its_model(tmp_path: Path, adapter: Path) -> None:
    merge_model(str(adapter.parent), tmp_path / "merged", dtype="float32")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_a_plain_model_has_nothing_to_merge(tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(AdapterError, match="nothing to merge"):
        merge_model(str(tmp_path / "base"), tmp_path / "merged")
    with pytest.raises(AdapterError, match="nothing to merge"):
        merge_model("gemma-3-270m", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_untrained_adapter_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = train_sft(SFTConfig.parse(settings(tmp_path, max_steps=1))).model
    weights = load_file(adapter / "adapter_model.safetensors")
    still = {name: tensor * (0.0 if "lora_B" in name else 1.0) for name, tensor in weights.items()}
    save_file(still, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="changes nothing"):
        merge_model(str(adapter), tmp_path / "merged", dtype="float32")
    assert not (tmp_path / "merged").exists()


def test_an_output_that_holds_something_is_not_touched(tmp_path: Path, adapter: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(OutputDirError, match="not empty"):
        merge_model(str(adapter), out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputDirError, match="is a file"):
        merge_model(str(adapter), out / "thesis.tex")


def test_wrong_names_are_refused(tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(ConfigError, match="unknown dtype 'int8'"):
        merge_model(str(adapter), tmp_path / "merged", dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no such directory"):
        merge_model(str(tmp_path / "nowhere"), tmp_path / "merged")
    (adapter.parent / "model").rename(adapter.parent / "elsewhere")
    with pytest.raises(OutputDirError, match="not finished"):
        merge_model(str(adapter.parent), tmp_path / "merged")


def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from burnish.stages import merge as module

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_model", full)
    with pytest.raises(BurnishError, match="No space left on device"):
        merge_model(str(adapter), tmp_path / "merged", dtype="float32")
    assert not (tmp_path / "merged").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# ---- reward models ----


def pairs_scored(model: Path, data: Path) -> torch.Tensor:
    return score_data(str(model), str(data), dtype="float32").scores


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_a_reward_model_becomes_a_classifier_of_the_same_scores(tmp_path: Path, family: str) -> None:
    """For burnish score and for plain transformers, in a padded batch; trained token rows come along."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    make_model(tmp_path / "base", family)
    values = settings(tmp_path, "dpo", lora={"rank": 2, "trainable_tokens": ["<eos>"]}, validation=0.2)
    train_reward(RewardConfig.parse(values))
    out, data = tmp_path / "merged", tmp_path / "dpo.jsonl"
    result = merge_model(str(tmp_path / "run"), out, dtype="float32", console=Console(width=200))
    assert result.compared == "scores"
    assert result.error <= result.tolerance
    assert result.effect > 0.01
    assert not (out / "adapter_config.json").exists()
    scores = pairs_scored(tmp_path / "run", data)
    torch.testing.assert_close(pairs_scored(out, data), scores, atol=1e-4, rtol=1e-4)

    tokenizer = AutoTokenizer.from_pretrained(out)
    classifier = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    assert classifier.config.num_labels == 1
    examples = load_examples(data, kind="preference").examples[:4]
    texts = [
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in (*e.prompt, *response)], tokenize=False
        ).rstrip("\n")
        for e in examples
        for response in e.responses
    ]
    encoded = tokenizer(texts, padding=True, return_tensors="pt", padding_side="right", add_special_tokens=False)
    with torch.no_grad():
        stock = classifier(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(stock, scores[:4].reshape(-1), atol=1e-4, rtol=1e-4)


def test_an_ensemble_names_its_members_each_of_which_can_be_merged(tmp_path: Path) -> None:
    values = settings(tmp_path, "dpo", members=2, max_steps=2, validation=0.0)
    ensemble = train_reward(RewardConfig.parse(values)).model
    for name in (tmp_path / "run", ensemble):
        with pytest.raises(AdapterError, match="an ensemble of 2 reward models does not merge") as caught:
            merge_model(str(name), tmp_path / "merged")
        assert f"{ensemble / 'member-1'}, {ensemble / 'member-2'}" in str(caught.value.fix)
    assert not (tmp_path / "merged").exists()
    data = tmp_path / "dpo.jsonl"
    members = score_data(str(ensemble), str(data), dtype="float32").members
    for number in (1, 2):
        out = tmp_path / f"merged-{number}"
        merge_model(str(ensemble / f"member-{number}"), out, dtype="float32")
        torch.testing.assert_close(pairs_scored(out, data), members[number - 1], atol=1e-4, rtol=1e-4)
    record = json.loads((tmp_path / "merged-1" / "reward.json").read_text())
    assert record == {"members": ["."], "holdout": None, "base": str(tmp_path / "base"), "head_only": False}


def test_a_merge_whose_scores_differ_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from burnish.models import export

    train_reward(RewardConfig.parse(settings(tmp_path, "dpo", max_steps=2, validation=0.0)))
    original = export._merge_layer

    def forgets(path: str, *rest: object) -> None:
        if "down_proj" not in path:
            original(path, *rest)

    monkeypatch.setattr(export, "_merge_layer", forgets)
    with pytest.raises(AdapterError, match="relative error of its scores"):
        merge_model(str(tmp_path / "run"), tmp_path / "merged", dtype="float32")
    assert not (tmp_path / "merged").exists()


def test_a_whole_reward_model_has_nothing_to_merge(tmp_path: Path) -> None:
    train_reward(RewardConfig.parse(settings(tmp_path, "dpo", tuning="head", max_steps=1, lora={}, validation=0.0)))
    with pytest.raises(AdapterError, match="nothing to merge"):
        merge_model(str(tmp_path / "run"), tmp_path / "merged")
