"""Merging as a stage: verified, complete, and nothing lost when it can't be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from burnish.errors import AdapterError, BurnishError, ConfigError, ModelError, OutputDirError
from burnish.models.adapters import load_adapter
from burnish.models.loading import load_model
from burnish.models.roles import Backbone
from burnish.stages.config import SFTConfig
from burnish.stages.merge import EVIDENCE, merge_model
from burnish.stages.sft import train_sft
from tests.stages.toy import settings


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
