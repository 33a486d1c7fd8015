"""A tiny model on disk and tiny data, for running whole stages in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models.families import tiny, tiny_tokenizer

WORDS = ["paris", "france", "hello", "world", "yes", "no", "one", "two", "three", "capital", "model", "question"]


def make_model(directory: Path, family: str = "gemma3") -> Path:
    """Save a tiny model and its tokenizer as a Hugging Face directory."""
    tokenizer = tiny_tokenizer()
    tiny(family, vocab_size=len(tokenizer)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_sft_data(path: Path, n: int = 24) -> Path:
    """Questions of uneven length, each with a short answer."""
    rows = []
    for i in range(n):
        words = [WORDS[(i * 5 + k * 7) % len(WORDS)] for k in range(1 + i % 6)]
        rows.append({"prompt": " ".join(words) + "?", "completion": WORDS[i % len(WORDS)] + "."})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_pairs(path: Path, n: int = 20) -> Path:
    """Preference pairs: the chosen answer says paris, the rejected one rambles."""
    rows = []
    for i in range(n):
        words = [WORDS[(i * 3 + k) % len(WORDS)] for k in range(1 + i % 5)]
        rejected = " ".join(WORDS[(i + k) % len(WORDS)] for k in range(2 + i % 4))
        rows.append({"prompt": " ".join(words) + "?", "chosen": f"paris {i % 3}.", "rejected": rejected})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(tmp_path: Path, kind: str = "sft", **more: Any) -> dict[str, Any]:
    """Settings of a stage that takes a second: model, data, a few steps of dropout and all."""
    model = tmp_path / "base"
    if not model.exists():
        make_model(model)
    data = tmp_path / f"{kind}.jsonl"
    if not data.exists():
        (make_sft_data if kind == "sft" else make_pairs)(data)
    values: dict[str, Any] = {
        "model": str(model),
        "data": str(data),
        "out": str(tmp_path / "run"),
        "dtype": "float32",
        "learning_rate": 1e-2,
        "batch_size": 4,
        "micro_batch_tokens": 96,
        "epochs": 2,
        "lora": {"rank": 2, "dropout": 0.1},
        "save_every": 3,
    }
    return values | more
