"""Sampling beside its peers: what both sides did, and in what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sampling
from common.agreement import token_problems
from peers import hf_generate
from tests.stages.toy import make_model, make_pairs

SETTING = {"batch": 4, "prompt_tokens": 64, "new_tokens": 3, "proof_tokens": 2, "data": "pairs"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampling")
    setting = {**SETTING, "model": str(make_model(folder / "model"))}
    sampling.prepare(folder / "work", str(make_pairs(folder / "pairs.jsonl")), setting)
    return folder / "work"


def result(**more: Any) -> dict[str, Any]:
    proof = [[(5, -1.0), (7, -0.7)]] * 4
    return {"work": {"prompts": 4, "new_tokens": [3]}, "dtype": "float32", "threads": 2, "proof": proof, **more}


def test_a_cut_answer_is_no_proof() -> None:
    whole = [[(5, -1.0), (7, -0.7)]]
    for cut in ([[]], [[(5, -1.0)]]):
        for both in ((whole, cut), (cut, whole), (cut, cut)):
            [problem] = token_problems(*both, "float32", steps=2)
            assert "1 answers are not of 2 tokens" in problem
    assert token_problems([], [], "float32", steps=2) == ["0 and 0 prompts"]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"threads": 1}, "threads: 2 in generate, 1 in burnish"),
        ({"dtype": "bfloat16"}, "burnish computed in bfloat16, not in float32"),
        ({"work": {"prompts": 4, "new_tokens": [2, 3]}}, "burnish did"),
        ({"proof": [[(5, -1.0)]] * 4}, "4 answers are not of 2 tokens"),
    ],
)
def test_what_the_sides_did_not_do_alike_is_said(own: dict[str, Any], said: str) -> None:
    assert sampling.work_problems({"transformers": [result()], "burnish": [result()]}, SETTING, "float32") == []
    [problem] = sampling.work_problems({"transformers": [result()], "burnish": [result(**own)]}, SETTING, "float32")
    assert said in problem


def test_the_dtype_is_that_of_the_computation(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the argument: with a model that comes in another dtype than it was asked for, our side says so."""
    import burnish.models.loading as loading

    assert sampling.ours(prepared, "bfloat16", 1)["dtype"] == "bfloat16"
    load = loading.load_model
    monkeypatch.setattr(
        loading, "load_model", lambda name, **settings: load(name, **{**settings, "dtype": torch.float32})
    )
    found = sampling.ours(prepared, "bfloat16", 1)
    assert found["dtype"] == "float32"
    assert found["work"] == {"prompts": 4, "new_tokens": [3]}


def test_generate_gives_the_same_proof(prepared: Path) -> None:
    """The peer's own function, on the same prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    setting = json.loads((prepared / "setting.json").read_text(encoding="utf-8"))
    prompts = json.loads((prepared / "prompts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(setting["directory"], padding_side="left")
    tokenizer.pad_token = setting["pad_token"]
    model = AutoModelForCausalLM.from_pretrained(setting["directory"], dtype=torch.float32)
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    dtypes = hf_generate.note_dtypes(model)
    proof = hf_generate.greedy(model, tokenizer.pad({"input_ids": prompts}, return_tensors="pt"), 2)
    assert dtypes == {"float32"}
    assert token_problems(proof, sampling.ours(prepared, "float32", 1)["proof"], "float32", steps=2) == []
