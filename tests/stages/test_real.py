"""The story on the real base model: raw, the stop token that it can not produce, and 25 steps that teach it to stop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from burnish.data.chat import encode_example, resolve_template
from burnish.data.preflight import preflight
from burnish.data.sources import Message, load_examples
from burnish.models.loading import load_model
from burnish.models.placement import pick_dtype
from burnish.rollout.answers import Answer
from burnish.rollout.responder import ModelResponder
from burnish.rollout.speakers import load_speakers
from burnish.stages.config import SFTConfig
from burnish.stages.merge import merge_model
from burnish.stages.sft import train_sft

QUESTION = "What is the capital of France?"


def ask(model: str, question: str = QUESTION) -> Answer:
    (speaker,) = load_speakers([model], dtype=pick_dtype("auto", torch.device("cpu")))
    return ModelResponder(speaker).answer([[Message("user", question)]], max_new_tokens=48)[0]


@pytest.mark.real
def test_the_raw_model_answers_with_a_quiz_that_goes_on() -> None:
    answer = ask("gemma-3-270m")
    assert not answer.finished
    assert answer.text.count(QUESTION) >= 2


@pytest.mark.real
def test_preflight_refuses_the_stop_token_that_was_never_trained() -> None:
    loaded = load_model("gemma-3-270m", dtype=torch.bfloat16)
    rows = loaded.model.get_output_embeddings().weight
    examples = load_examples("starter/preferences", kind="preference", limit=4).examples

    def found(template_name: str, *trainable: str) -> list[str]:
        template = resolve_template(loaded.tokenizer, template_name)
        groups = [encode_example(template, loaded.tokenizer, example) for example in examples]
        report, _ = preflight(
            groups, loaded.tokenizer, template, context=1024, embeddings=rows, trainable_tokens=trainable
        )
        return [finding.what for finding in report.findings if finding.level == "error"]

    (what,) = found("gemma")
    assert "<end_of_turn>" in what
    assert re.search(r"4,70\d other tokens within cosine 0\.99", what), what  # rounding decides over one of them
    assert found("gemma", "<end_of_turn>") == []
    assert found("plain") == []


@pytest.mark.real
def test_twenty_five_steps_teach_it_to_answer_and_stop_and_the_merged_model_says_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {"max_steps": 25, "learning_rate": 1e-3, "micro_batch_tokens": 2048, "lora": {"rank": 16, "alpha": 32}}
    # The first 400 conversations are short facts and formats: 25 steps see each once.
    values = {"model": "gemma-3-270m", "data": "starter/sft", "limit": 400, "out": tmp_path / "sft", "validation": 0.0}
    values |= settings
    result = train_sft(SFTConfig.parse(values))
    answer = ask(str(result.model))
    assert answer.finished
    assert "Paris" in answer.text

    merge_model(str(result.model), tmp_path / "merged", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=48, do_sample=False)
    said = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert said == answer.text
