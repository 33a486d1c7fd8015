"""A model, a tokenizer and pairs made from nothing, for machines without network: a Llama of a given shape with random
weights, a byte-level tokenizer in which every word of the data is one token, pairs of a given length.

Speed and memory do not depend on what a model knows. What does depend on it is not measured here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LLAMA_1B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
}
"""The shape of Llama 3.2 1B: 1.24e9 parameters."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NEVER_WRITTEN = "keyframe"
"""A token for benchmarks/ppo.py, whose EOS is one that no answer holds."""
WORDS = tuple(a + b + c for a in "bdgklm" for b in "aeiou" for c in ("na", "ne", "ni", "no", "nu", "ra", "re", "ri"))
"""240 words of the data."""
CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def make_model(directory: Path, shape: dict[str, Any] | None = None, *, seed: int = 0, device: str = "cpu") -> Path:
    """Save a Llama with random bfloat16 weights, and a tokenizer that fits it, as a Hugging Face directory.

    Args:
        directory: to be filled; one that holds a model is left as it is.
        shape: fields of `LlamaConfig`; `LLAMA_1B` if none.
        seed: of the weights.
        device: where they are drawn.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (directory / "config.json").is_file():
        return directory
    tokenizer = make_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(**{**LLAMA_1B, **(shape or {}), **ids})
    if config.vocab_size < len(tokenizer):
        raise ValueError(
            f"a vocabulary of {config.vocab_size} is too small for the {len(tokenizer)} tokens of the data"
        )
    torch.manual_seed(seed)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    return directory


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer: every text can be written, and each of `WORDS` after a space is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    known, merges = set(tokens), []
    for word in (*(f"Ġ{word}" for word in WORDS), NEVER_WRITTEN):
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
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def make_pairs(path: Path, n: int, *, prompt_tokens: int, response_tokens: Sequence[int], seed: int = 0) -> Path:
    """Write preference pairs as JSON lines; a text of k tokens is k words, and the template's tokens come on top.

    Args:
        path: of the file.
        n: pairs.
        prompt_tokens: of each prompt.
        response_tokens: (least, most) of a response, drawn evenly.
        seed: of words and lengths.
    """
    draw = random.Random(seed)

    def text(tokens: int) -> str:
        return "".join(f" {draw.choice(WORDS)}" for _ in range(tokens))

    rows = []
    for _ in range(n):
        chosen, rejected = (text(draw.randint(*response_tokens)) for _ in range(2))
        rows.append({"prompt": text(prompt_tokens), "chosen": chosen, "rejected": rejected})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
