"""GGUF files of tiny models, written here by the format's rules, come out as the models they were made from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.errors import ModelError
from burnish.models.gguf import ModelFacts, check_model, convert_gguf

from .families import tiny

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

WORDS = ["▁the", "th", "the", "▁t", "er", "he"]


def _sentencepiece(writer: Any) -> int:
    """Five control tokens, the 256 byte tokens, single letters and a few words; returns the vocabulary's size."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    types = [gguf.TokenType.CONTROL] * 5
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [gguf.TokenType.BYTE] * 256
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz", *WORDS]
    tokens += pieces
    types += [gguf.TokenType.NORMAL] * len(pieces)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return len(tokens)


def _byte_level(writer: Any) -> int:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    return len(tokens)


def _write_shape(writer: Any, model: Any, *, rope_theta: float) -> None:
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope_theta)


def _write_tensors(writer: Any, model: Any, names: dict[str, str], change: Any) -> None:
    for name, tensor in model.state_dict().items():
        for ours, theirs in names.items():
            if name.endswith(ours):
                layer = name.split("layers.")[1].split(".")[0] if "layers." in name else ""
                values = change(name, tensor.numpy().astype(np.float32))
                if isinstance(values, tuple):
                    values, kind = values
                    writer.add_tensor(theirs.format(layer), values, raw_dtype=kind)
                else:
                    writer.add_tensor(theirs.format(layer), values)
                break
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


ATTENTION = {
    "embed_tokens.weight": "token_embd.weight",
    "self_attn.q_proj.weight": "blk.{}.attn_q.weight",
    "self_attn.k_proj.weight": "blk.{}.attn_k.weight",
    "self_attn.v_proj.weight": "blk.{}.attn_v.weight",
    "self_attn.o_proj.weight": "blk.{}.attn_output.weight",
    "mlp.gate_proj.weight": "blk.{}.ffn_gate.weight",
    "mlp.up_proj.weight": "blk.{}.ffn_up.weight",
    "mlp.down_proj.weight": "blk.{}.ffn_down.weight",
    "input_layernorm.weight": "blk.{}.attn_norm.weight",
}
GEMMA_NAMES = ATTENTION | {
    "self_attn.q_norm.weight": "blk.{}.attn_q_norm.weight",
    "self_attn.k_norm.weight": "blk.{}.attn_k_norm.weight",
    "post_attention_layernorm.weight": "blk.{}.post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "blk.{}.ffn_norm.weight",
    "post_feedforward_layernorm.weight": "blk.{}.post_ffw_norm.weight",
    "model.norm.weight": "output_norm.weight",
}
LLAMA_NAMES = ATTENTION | {
    "post_attention_layernorm.weight": "blk.{}.ffn_norm.weight",
    "model.norm.weight": "output_norm.weight",
}
LOCAL_THEN_GLOBAL = ["sliding_attention"] * 5 + ["full_attention"]


def _gemma(path: Path) -> tuple[Any, ModelFacts]:
    """A tiny Gemma 3 as GGUF: norms stored as w + 1, the embedding quantised in blocks of 32 (Q8_0)."""
    writer = gguf.GGUFWriter(path, "gemma3")
    rows = _sentencepiece(writer)
    model = tiny(
        "gemma3",
        vocab_size=rows,
        num_hidden_layers=6,
        layer_types=LOCAL_THEN_GLOBAL,
        query_pre_attn_scalar=256,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    _write_shape(writer, model, rope_theta=1e6)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_sliding_window(4)

    def change(name: str, values: np.ndarray) -> Any:
        if name.endswith("norm.weight"):
            return values + 1.0
        if name.endswith("embed_tokens.weight"):
            kind = gguf.GGMLQuantizationType.Q8_0
            return gguf.quantize(values, kind), kind
        return values

    _write_tensors(writer, model, GEMMA_NAMES, change)
    facts = ModelFacts(
        config={
            "model_type": "gemma3_text",
            "layer_types": LOCAL_THEN_GLOBAL,
            "sliding_window": 4,
            "rms_norm_eps": 1e-6,
            "rope_parameters.full_attention.rope_theta": 1e6,
            "rope_parameters.sliding_attention.rope_theta": 1e4,
        },
        special_tokens={"<pad>": 0, "<eos>": 1, "<bos>": 2},
        eos_token="<eos>",
        adds_bos=True,
        n_parameters=sum(p.numel() for p in model.parameters()),
        context_length=256,
        tied=True,
    )
    return model, facts


def _llama(path: Path) -> tuple[Any, ModelFacts]:
    """A tiny Llama as GGUF: the rows of q and k stand pairwise instead of in halves, as ggml's rotation wants."""
    writer = gguf.GGUFWriter(path, "llama")
    model = tiny("smollm", vocab_size=_byte_level(writer), bos_token_id=1, eos_token_id=2, pad_token_id=2)
    _write_shape(writer, model, rope_theta=10_000.0)
    writer.add_rope_dimension_count(8)

    def change(name: str, values: np.ndarray) -> np.ndarray:
        for part, heads in (("q_proj", 4), ("k_proj", 2)):
            if part in name:
                halves = values.reshape(heads, 2, 4, 32)  # rotate_half pairs row i with row i + 4 of each head
                return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        return values

    _write_tensors(writer, model, LLAMA_NAMES, change)
    facts = ModelFacts(
        config={"model_type": "llama", "eos_token_id": 2, "rope_parameters.rope_theta": 10_000.0},
        special_tokens={"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2},
        eos_token="<|im_end|>",
        adds_bos=False,
        n_parameters=sum(p.numel() for p in model.parameters()),
        context_length=256,
        tied=True,
        split_digits=True,
    )
    return model, facts


def _converted(make: Any, directory: Path) -> tuple[Any, ModelFacts, Path]:
    model, facts = make(directory / "tiny.gguf")
    target = directory / "model"
    target.mkdir()
    lines: list[str] = []
    convert_gguf(directory / "tiny.gguf", target, facts, echo=lines.append)
    assert lines
    return model, facts, target


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModelFacts, Path]:
    return _converted(_gemma, tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModelFacts, Path]:
    return _converted(_llama, tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_every_weight_comes_back_rounded_to_bf16_and_no_further(family: str, request: pytest.FixtureRequest) -> None:
    model, _, target = request.getfixturevalue(family)
    loaded = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    expected, found = model.state_dict(), loaded.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        # bf16 keeps 8 bits; Gemma's norms were stored as w + 1 in float32; Q8_0 rounds to max|block| / 254.
        tolerance = tensor.abs() * 2**-8 + 1e-6
        if family == "gemma" and name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tolerance = tolerance + tensor.abs().amax(dim=1, keepdim=True) / 250
        assert ((found[name].float() - tensor).abs() <= tolerance).all(), name


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_the_converted_model_computes_what_the_original_does(family: str, request: pytest.FixtureRequest) -> None:
    model, _, target = request.getfixturevalue(family)
    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ids = torch.tensor([[2, 20, 61, 33, 90, 12, 45, 110, 7, 19]])
    with torch.no_grad():
        expected, found = model(ids).logits, loaded(ids).logits
    # The weights are rounded to bf16, the logits differ by that; a wrong norm or rotation differs by their spread.
    assert (found - expected).abs().mean() < 0.1 * expected.std()
    assert torch.nn.functional.cosine_similarity(found[0], expected[0]).min() > 0.99


def test_the_directory_is_plain_and_says_nothing_of_where_it_was_made(gemma: Any) -> None:
    _, _, target = gemma
    config = json.loads((target / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-6
    assert "quantization_config" not in config
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    everything = "".join(path.read_text() for path in target.glob("*.json"))
    assert str(target.parent) not in everything
    assert "gguf" not in everything
    assert json.loads((target / "tokenizer_config.json").read_text())["model_max_length"] == 256


def test_digits_are_taken_alone_before_spaces_are_joined(llama: Any) -> None:
    # GPT-2's rule leaves the last of several spaces to the digit; SmolLM's takes the digits out first.
    tokenizer = AutoTokenizer.from_pretrained(llama[2])
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("a  b") == ["a", "Ġ", "Ġ", "b"]


def test_bos_is_added_where_the_model_wants_it(gemma: Any, llama: Any) -> None:
    assert AutoTokenizer.from_pretrained(gemma[2])("the")["input_ids"][0] == 2
    assert AutoTokenizer.from_pretrained(llama[2])("the")["input_ids"][0] != 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"sliding_window": 512}}, "config sliding_window is 4, not 512"),
        ({"config": {"rope_parameters.full_attention.rope_theta": 1e4}}, "rope_theta is 1000000.0, not 10000.0"),
        ({"special_tokens": {"<bos>": 5}}, "<bos> is tokenised as [2], not as [5]"),
        ({"eos_token": "<pad>"}, "EOS is '<eos>', not '<pad>'"),
        ({"adds_bos": False}, "the tokenizer adds BOS"),
        ({"n_parameters": 1}, "parameters, not 1"),
        ({"tied": False}, "the output projection is tied"),
        ({"token_ids": ("the", (1, 2))}, "'the' is tokenised as"),
        ({"probe": ("the", "no such word")}, "after 'the' the model says"),
    ],
)
def test_a_conversion_that_differs_from_the_facts_is_an_error(gemma: Any, change: dict[str, Any], said: str) -> None:
    _, facts, target = gemma
    check_model(target, facts)
    with pytest.raises(ModelError) as caught:
        check_model(target, replace(facts, **change))
    assert said in str(caught.value)


def test_weights_that_are_not_finite_are_an_error(gemma: Any, tmp_path: Path) -> None:
    _, facts, target = gemma
    model = AutoModelForCausalLM.from_pretrained(target)
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(target).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds values that are not finite"):
        check_model(tmp_path, facts)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gemma: Any) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(ModelError, match="needs the package gguf") as caught:
        convert_gguf(tmp_path / "any.gguf", tmp_path, gemma[1])
    assert "burnish[gguf]" in str(caught.value)
