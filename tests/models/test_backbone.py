"""What a backbone refuses, falls back from, and leaves alone."""

from __future__ import annotations

import pytest
import torch

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import AdapterError, ModelError
from burnish.models.adapters import load_adapter, save_adapter
from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.roles import Backbone, response_logprobs
from tests.models.families import tiny

BATCH = collate([PromptGroup((3, 4), (Response.full([5, 6, 7]), Response.full([8, 9])))])


def test_a_head_that_is_not_understood_is_refused_in_words() -> None:
    """HyperCLOVA X multiplies by what Granite divides by: the attribute's name alone would be believed."""
    from transformers import HyperCLOVAXConfig, HyperCLOVAXForCausalLM

    config = HyperCLOVAXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, logits_scaling=0.25, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(ModelError, match="differ from its own forward"):
        Backbone(HyperCLOVAXForCausalLM(config).eval())


def test_attention_by_content_is_refused() -> None:
    """Doge drops keys by their content, padding among them: neither layout would be what the model computes."""
    from transformers import DogeConfig, DogeForCausalLM

    torch.manual_seed(0)
    config = DogeConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, keep_window_size=2, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(ModelError, match="a mask of its own"):
        Backbone(DogeForCausalLM(config).eval())


def test_windows_that_live_in_a_mask_only_fall_back_to_rows() -> None:
    """PhiMoE does not tell its attention about the window; shared prompts would drop it in silence."""
    from transformers import PhimoeConfig, PhimoeForCausalLM

    torch.manual_seed(0)
    config = PhimoeConfig(
        vocab_size=97, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2, sliding_window=64, pad_token_id=0,
    )  # fmt: skip
    backbone = Backbone(PhimoeForCausalLM(config).eval())
    assert backbone.layout == "rows"


def test_recurrent_models_get_rows_and_right_logprobs() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0)
    model = MambaForCausalLM(config).eval()
    expected = []
    for ids in ([3, 4, 5, 6, 7], [3, 4, 8, 9]):
        logp = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        expected.append(sum(float(logp[i - 1, ids[i]].detach()) for i in range(2, len(ids))))
    backbone = Backbone(model)
    groups = [PromptGroup((3, 4), (Response.full([5, 6, 7]), Response.full([8, 9])))]
    got = response_logprobs(backbone.role(), collate(groups, layout=backbone.layout)).summed()
    assert got.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_model_in_our_hands_says_so_when_called_on_its_own() -> None:
    model = tiny("llama")
    Backbone(model)
    with pytest.raises(ModelError, match="can't be called on its own"):
        model(torch.tensor([[3, 4, 5]]))


def test_lora_under_autocast() -> None:
    """fp32 weights with bf16 activations: not what the stages do with LoRA, but it must be right."""
    model = tiny("llama")
    inject(model, "a", LoRAConfig(rank=2), seed=0)
    role = Backbone(model, compute_dtype=torch.bfloat16).role("a")
    logps = response_logprobs(role, BATCH)
    logps.token.sum().backward()
    exact = response_logprobs(Backbone(tiny("llama")).role(), BATCH).token
    assert (logps.token - exact).abs().max() < 0.2
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter_parameters(model, "a").values())


def test_checkpointing_leaves_dropout_asleep() -> None:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, dropout=0.5,
        max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0,
    )  # fmt: skip
    role = Backbone(OPTForCausalLM(config).double(), checkpointing=True).role()
    first, second = response_logprobs(role, BATCH).token, response_logprobs(role, BATCH).token
    assert torch.equal(first, second)
    first.sum().backward()


def test_the_plain_role_owns_no_adapter() -> None:
    model = tiny("gemma3")
    names = dict(model.named_parameters()).keys()
    inject(model, "a", LoRAConfig(rank=2), seed=0, token_ids=[5])
    assert Backbone(model).role().parameters().keys() == names


def test_adapters_that_need_another_base_are_refused(tmp_path) -> None:
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(tiny("llama"), LoraConfig(r=2, init_lora_weights="pissa", target_modules=["q_proj"]))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="init_lora_weights='pissa'"):
        load_adapter(tiny("llama"), tmp_path, "a")


def test_a_taken_or_impossible_name_is_refused_before_anything_changes(tmp_path) -> None:
    model = tiny("llama")
    inject(model, "a", LoRAConfig(rank=2), seed=0)
    save_adapter(model, "a", tmp_path, base="x")
    with pytest.raises(AdapterError, match="already holds"):
        load_adapter(model, tmp_path, "a")
    with pytest.raises(AdapterError, match="letters, digits"):
        load_adapter(model, tmp_path, "sft.v1")


def test_an_unmerged_layer_is_noticed(monkeypatch) -> None:
    from burnish.models import export

    model = tiny("llama")
    inject(model, "a", LoRAConfig(rank=2), seed=0)
    for name, parameter in adapter_parameters(model, "a").items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other, non_blocking=False: self)
    with pytest.raises(AdapterError, match="not the base's plus"):
        export.merge(Backbone(model), "a", [[3, 4, 5, 6]])
