"""Sampling beside its peers: what both sides did, and in what."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import decoding
import report
import sampling
from common.agreement import token_problems
from common.results import load_all
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


def test_generate_gives_the_same_proof(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's own function, on the same prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    setting = json.loads((prepared / "setting.json").read_text(encoding="utf-8"))
    prompts = json.loads((prepared / "prompts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(setting["directory"], padding_side="left")
    tokenizer.pad_token = setting["pad_token"]
    model = AutoModelForCausalLM.from_pretrained(setting["directory"], dtype=torch.float32)
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    dtypes = hf_generate.note_dtypes(model)
    inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    generate, asked = model.generate, []
    monkeypatch.setattr(model, "generate", lambda **more: (asked.append(more), generate(**more))[1])
    proof = hf_generate.greedy(model, inputs, 2)
    assert dtypes == {"float32"}
    assert not {"output_logits", "output_scores"} & asked[0].keys(), "logits of several steps are memory of the peer's"
    with torch.no_grad():
        logits = model(**inputs, position_ids=(inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)).logits[:, -1]
    value, token = torch.log_softmax(logits.double(), -1).max(-1)
    assert [answer[0][0] for answer in proof] == token.tolist()
    assert [answer[0][1] for answer in proof] == pytest.approx(value.tolist(), abs=1e-5)
    assert token_problems(proof, sampling.ours(prepared, "float32", 1)["proof"], "float32", steps=2) == []


def test_answers_in_bfloat16_are_proved_in_float32(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logit of 40 is rounded to 0.25 in bfloat16: the two sides' log-probs differ by more than a proof allows, and
    the comparison is made all the same, on the strength of a run in float32."""
    coarse = float(torch.tensor(40.1, dtype=torch.bfloat16))
    assert abs(coarse - 40.1) > 4 * 0.02
    assert sampling.needs_float32_proof("bfloat16")
    assert not sampling.needs_float32_proof("float32")
    ran: list[tuple[str, str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        if "--dtype" not in command:
            return {"float32": 1e9, "bfloat16": 1e9}
        dtype = command[command.index("--dtype") + 1]
        side = "burnish" if "ours" in command else "transformers"
        ran.append((side, dtype))
        nats = coarse - 40.1 if (side, dtype) == ("transformers", "bfloat16") else 0.0
        costs = {"seconds": [1.0], "seconds_per_call": 1.0, "peak_rss_bytes": 1e9, "load": 0.0}
        proof = [[(5, -1.0 + nats), (7, -0.7)]] * 4
        return result(dtype=dtype, proof=proof, versions={side: "1"}, **costs)

    for module in ("common.rounds.run", "sampling.run"):
        monkeypatch.setattr(module, run)
    given = {"work": prepared, "peer_python": "python", "vllm_python": None, "repeats": 2, "rounds": 1}
    sampling.compare(argparse.Namespace(**given, dtype="bfloat16", results=tmp_path))
    assert ran == [(side, dtype) for dtype in ("float32", "bfloat16") for side in ("transformers", "burnish")]
    [record] = load_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sampling-model-pairs-4-bfloat16.json"], "data in its name"
    said = " ".join(sampling.render(record).split())
    assert "greedily and in float32, before the rounds" in said
    assert record["proof"] == {"dtype": "float32", "apart": {"burnish": 0.0}}, "that of the run in float32"
    assert "(largest difference to generate, in nats: burnish 0;" in said
    assert "--batch 4 --prompt-tokens 64 --new-tokens 3" in record["commands"][0]
    assert "vLLM was left out" in said
    record["runs"]["vllm"] = [{**record["runs"]["burnish"][0], "versions": {"vllm": "1"}, "cached_tokens": 7}]
    record["proof"]["apart"]["vllm"] = 2e-6
    said = " ".join(sampling.render(record).split())
    assert f"; 7 of {sum(record['lengths'])} prompt tokens were shared" in said
    assert "in nats: vLLM 2e-06, burnish 0;" in said


def test_ways_of_sampling_are_written_down_and_shown(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--work", str(prepared), "--rank", "2", "--rounds", "2", "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["decoding.py", *given])
    decoding.main()
    [record] = load_all(tmp_path)
    assert record["commands"][1].endswith("--dtype float32 --rank 2 --rounds 2 --new-tokens 3")
    prompts = json.loads((prepared / "prompts.json").read_text(encoding="utf-8"))
    for way, results in record["ways"].items():
        assert len(results) == 2
        if "plain" not in way:
            assert results[0]["prompt_tokens_read"] <= len(prompts) * max(map(len, prompts))
    for way, seconds in (("no adapter, plain", (3.0, 5.0)), ("no adapter, auto", (1.0, 2.5))):
        for one, value in zip(record["ways"][way], seconds, strict=True):
            one["seconds"] = value
    [row] = [line for line in decoding.render(record).splitlines() if line.startswith("| no adapter, auto")]
    # 4 s over 1.75 s; 3 over 1, 5 over 2.5
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["1.75", "2.29 (2.00 to 3.00)"]
    assert decoding.render(record) in report.page([record])
