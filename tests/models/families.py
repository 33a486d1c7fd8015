"""Tiny randomly initialised models of each family, and a tiny tokenizer: made in code, nothing is downloaded.

`tiny("gemma3")` gives a model of a few thousand parameters that has what makes its family special: grouped query
attention, sliding windows smaller than the test's sequences, soft caps and scales that bite, tied embeddings. Special
tokens are pad 0, bos 1, eos 2, in the models and in `tiny_tokenizer()`; for a model that fits the tokenizer ask for
`tiny(family, vocab_size=len(tokenizer))`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
VOCAB_SIZE = 97
WINDOW = 4

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": PAD_ID,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
}
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
_WINDOWS_MIXED = ["sliding_attention", "sliding_attention", "full_attention"]
_LOCAL_AND_GLOBAL_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}

_FAMILIES: dict[str, tuple[Callable[..., PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"tie_word_embeddings": False}),
    "smollm": (LlamaConfig, {"tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"tie_word_embeddings": False, "head_dim": 16}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW, "head_dim": 8}),
    "smollm3": (SmolLM3Config, {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 1]}),
    "gemma2": (
        Gemma2Config,
        {
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        Gemma3TextConfig,
        {
            "num_hidden_layers": 3,
            "sliding_window": WINDOW,
            "layer_types": _WINDOWS_MIXED,
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "rope_parameters": _LOCAL_AND_GLOBAL_ROPE,
        },
    ),
    "gpt2": (GPT2Config, {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gpt_neox": (GPTNeoXConfig, {}),
    "phi3": (Phi3Config, {"sliding_window": None}),
    "olmo2": (Olmo2Config, {}),
    "cohere": (CohereConfig, {"logit_scale": 0.5}),
    "granite": (
        GraniteConfig,
        {
            "logits_scaling": 3.0,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.4,
        },
    ),
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""Every family that `tiny` knows; to be used in `@pytest.mark.parametrize("family", FAMILIES)`."""

SLIDING_FAMILIES: tuple[str, ...] = ("gemma2", "gemma3", "mistral")
"""Those with a sliding window (of `WINDOW` tokens) in at least one layer."""


def tiny_config(family: str, **overrides: Any) -> PreTrainedConfig:
    """The configuration of `tiny(family)`; overrides are config fields under their general names (`hidden_size`)."""
    make, own = _FAMILIES[family]
    values = {**_COMMON, **own, **overrides}
    if family in ("gpt2", "gpt_neox"):
        values.pop("num_key_value_heads")
    if family == "gpt2":
        values = {_GPT2_NAMES.get(key, key): value for key, value in values.items()}
    return make(**values)


def tiny(family: str, **overrides: Any) -> PreTrainedModel:
    """A tiny causal LM of `family`, float32, on the CPU, in eval mode; the same weights at every call.

    Every parameter is drawn anew, norms and biases too, with a spread that makes the outputs of different inputs and
    of different weights differ clearly (matrices N(0, 0.25²), vectors 0.1 around their initial value).

    Args:
        family: one of `FAMILIES`.
        overrides: config fields, and `seed` (default 0), `dtype`, `attn_implementation` (default: sdpa where the family
            supports it, eager for gemma2, whose soft cap sdpa lacks).
    """
    seed = overrides.pop("seed", 0)
    dtype = overrides.pop("dtype", torch.float32)
    attention = overrides.pop("attn_implementation", None)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        tiny_config(family, **overrides), attn_implementation=attention
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # a tied parameter comes once
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(0.25 * noise)
            else:
                parameter.add_(0.1 * noise)
    return model.to(dtype).eval()


_WORDS = """
the and is of to in what user assistant capital france paris answer question yes no one two three a you hello world
how are model
""".split()  # noqa: SIM905 (a list of words reads better so)


def tiny_tokenizer(*, add_bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer made in code: any text round-trips, common words are few tokens.

    Ids: `<pad>` 0, `<bos>` 1, `<eos>` 2 (special tokens), then the 256 bytes, then the merges.

    Args:
        add_bos: whether `tokenizer(text)` begins with BOS, as Llama and Gemma do and GPT-2 does not.
    """
    tokens = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    known = set(tokens)
    for word in [form for w in _WORDS for form in ("Ġ" + w, w, w.capitalize())]:
        left = word[0]
        for letter in word[1:]:
            if left + letter not in known:
                known.add(left + letter)
                tokens.append(left + letter)
                merges.append((left, letter))
            left += letter
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<pad>", "<bos>", "<eos>")])
    if add_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS_ID)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
