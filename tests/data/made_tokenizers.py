"""Real tokenizers, small: trained on a few sentences, with the special tokens of the families."""

from __future__ import annotations

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# Repeated, so that merges across punctuation and newlines are learned where the pre-tokenizer allows them.
SENTENCES = [
    "User: What is the capital of France?\nAssistant: The capital of France is Paris.",
    "user\nassistant\nsystem\n\nBe brief.\n\n- one\n- two\n1. first\n2. second",
    'Answer in JSON: {"city": "Paris", "n": 42}\n\n"Quoted," she said. HELLO WORLD (yes) `code`',
    "User:  two  spaces\n\n\nAssistant:\n\n- bullet\nAssistant: \n: colon :) ... $5 *bold* #tag é ü 中文",
] * 8

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
SPECIAL += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<think>", "</think>"]


def _wrap(tokenizer: Tokenizer, **named: str) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", **named}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in names.items() if v})


GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA3_WORDS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


def make_byte_level(words: pre_tokenizers.PreTokenizer = GPT2_WORDS, **named: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, words with the space before them; by default GPT-2's rule of what a word is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _wrap(tokenizer, **named)


def make_spaces_as_text(**named: str) -> PreTrainedTokenizerFast:
    """Gemma's kind: spaces become a visible character, newlines are tokens of their own, bytes as fallback."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    words = [word for sentence in SENTENCES for word in sentence.replace(" ", " ▁").replace("\n", " \n ").split(" ")]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + byte_tokens, show_progress=False)
    training = Tokenizer(models.BPE())
    training.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    training.train_from_iterator(words, trainer)
    state = json.loads(training.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    tokenizer.model = models.BPE(vocab=state["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in (1, 2, 3)])
    return _wrap(tokenizer, **named)
