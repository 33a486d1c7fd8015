"""What of the GPU table needs no GPU: model, data, work, the share of the rate, and that what is wrong is told."""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu
import gpu_check
import ppo
import report
import train
from burnish.models import norms
from common import results, work
from common.flops import ModelSize, full_flops
from common.synthetic import WORDS, make_model, make_pairs, make_tokenizer
from tests.fast_paths import TRAINING, counted

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 1100,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model in the place of the Llama of 1B."""
    directory = tmp_path_factory.mktemp("gpu")
    make_model(directory / "model", SHAPE)
    return directory


@pytest.fixture(autouse=True)
def _tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, part in gpu.PARTS.items():
        small = {**part.setting, "batch": 2, "steps": 1, "rank": 2, "micro_batch_tokens": 256}
        tokens = 20 if name == "ppo" else 30
        monkeypatch.setitem(gpu.PARTS, name, replace(part, prompt_tokens=tokens, response_tokens=(4, 9), setting=small))


# ---- model and data ----


def test_a_text_of_k_words_is_k_tokens_and_comes_back() -> None:
    tokenizer = make_tokenizer()
    text = "".join(f" {word}" for word in WORDS)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(WORDS) == len(set(WORDS)) == 240
    assert tokenizer.decode(ids) == text
    odd = "Überraschung?\n\t<|im_end|> 你好"
    assert tokenizer.decode(tokenizer(odd)["input_ids"]) == odd


def test_the_1b_has_the_parameters_of_llama_3_2() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**gpu.LLAMA_1B))
    assert sum(p.numel() for p in model.parameters()) == 1_235_814_400  # as its model card's 1.23B, tied


def test_the_model_loads_as_bfloat16_and_is_made_once(folder: Path) -> None:
    from burnish.models.loading import load_model

    loaded = load_model(str(folder / "model"), device="cpu", dtype=torch.bfloat16)
    assert loaded.model.config.num_hidden_layers == 2
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    stamp = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    make_model(folder / "model", SHAPE)
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a vocabulary of 100 is too small"):
        make_model(tmp_path / "model", {**SHAPE, "vocab_size": 100})


def test_pairs_have_the_lengths_that_were_asked_for(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    path = make_pairs(tmp_path / "pairs.jsonl", 40, prompt_tokens=11, response_tokens=(3, 6), seed=1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lengths = {name: {len(tokenizer(row[name])["input_ids"]) for row in rows} for name in rows[0]}
    assert lengths == {"prompt": {11}, "chosen": {3, 4, 5, 6}, "rejected": {3, 4, 5, 6}}
    assert len({row["prompt"] for row in rows}) == 40


# ---- the work of a part ----


@pytest.mark.parametrize("name", ["dpo", "sft-full"])
def test_a_part_is_prepared_and_our_side_runs_it(folder: Path, name: str) -> None:
    prepared = gpu.prepare_part(name, folder, device="cpu")
    setting = work.read_setting(prepared)
    steps = gpu.lengths_of_steps(name, prepared, setting)
    assert [len(step) for step in steps] == [2, 2]
    template = 7  # <|im_start|> user \n (one token a letter) and so on, at least
    assert all(30 + template <= prompt for step in steps for prompt, _ in step)
    result = train.ours(prepared, "float32")
    whole = sum(p.numel() for p in _model(folder).parameters())
    # LoRA of rank 2: (inputs + outputs) of q 64, k 48, v 48, o 64, gate and up 80 each, down 80, in two layers.
    assert result["work"]["trainable_parameters"] == (whole if name == "sft-full" else 2 * 2 * (224 + 240))
    assert result["work"]["tokens"] == [sum(p + sum(r) for p, r in step) for step in steps]
    assert "peak_cuda_bytes" not in result


def _model(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder / "model")
    return model


def test_ppo_is_prepared_from_the_same_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ppo.SETTING, "rank", 2)
    monkeypatch.setitem(ppo.SETTING, "response_tokens", 4)
    prepared = gpu.prepare_part("ppo", folder, device="cpu")
    prompts = json.loads((prepared / "prompts.json").read_text())
    assert len(prompts) == ppo.SETTING["prompts"]
    result = ppo.ours(prepared, 1, "float32")
    assert result["work"]["response_tokens"] == [4.0]


def test_sides_without_and_with_trl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = argparse.Namespace(peer_python=None, peer_ppo_python=None, peer_micro_batch=4, device="cuda")
    assert list(gpu.sides("dpo", folder, arguments)) == ["burnish"]
    assert gpu.problems("dpo", {"burnish": []}, {}, folder) == []
    arguments.peer_python = "peer/python"
    monkeypatch.setattr(gpu, "has_liger", lambda python: python == "peer/python")
    found = gpu.sides("dpo", folder, arguments)
    assert list(found) == ["trl", "trl-liger", "burnish"]
    assert found["trl-liger"] == [*found["trl"], "--liger"]
    assert all(command[command.index("--device") + 1] == "cuda" for command in found.values())
    assert list(gpu.sides("ppo", folder, arguments)) == ["burnish"], "PPO wants another TRL"


# ---- numbers and the section ----


def test_full_fine_tuning_costs_six_operations_a_weight_and_token() -> None:
    # 10 tokens through 100 weights, 5 of them predicted through 4 x 10.
    assert full_flops(ModelSize(linear=100, widths=30, hidden=4, vocabulary=10), [(5, [3, 2])]) == 6 * (1000 + 200)


def record(name: str = "sft-full", **more: Any) -> dict[str, Any]:
    def side(seconds: float, memory: float, **versions: str) -> list[dict[str, Any]]:
        return [{"seconds_per_step": seconds, "peak_cuda_bytes": memory, "versions": versions}]

    sides = {"trl": side(1.0, 30e9, trl="1.16.0"), "burnish": side(0.4, 12e9, burnish="0.1.0")}
    values = {"part": name, "device": "a GPU", "rates": {"bfloat16": 500e12, "float32": 1.0}, "model_bytes": 2.4e9}
    return results.new_record(
        "gpu", **values, step_tokens=[9000, 11000], step_flops=[90e12, 110e12], sides=sides, **more
    )


def test_utilisation_is_useful_operations_over_time_over_the_measured_rate() -> None:
    # 100e12 operations a step: in 0.4 s 250e12 a second, half of the measured 500e12.
    assert gpu.utilisation(record(), "burnish") == pytest.approx(0.5)
    assert gpu.utilisation(record(), "trl") == pytest.approx(0.2)
    assert gpu.utilisation({**record(), "step_flops": []}, "trl") is None


def test_the_section_has_what_was_measured_and_names_what_was_not() -> None:
    check = {"name": "LoRA", "dtype": "float32", "worst": 1e-7, "allowed": 1e-5}
    text = gpu.render([record(), results.new_record("gpu", part="check", device="a GPU", checks=[check])])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| SFT")]
    assert cells == [
        ["SFT, all weights: TRL 1.16.0, SDPA", "1.000", "2.50", "10,000", "20%", "30.00", "12.50"],
        ["SFT, all weights: burnish", "0.400", "", "25,000", "50%", "12.00", "5.00"],
    ]
    assert "1 comparisons with float64" in text
    assert "All agree." in text
    assert "Not yet measured: sft, reward, dpo, ppo" in text
    wrong = gpu.render([results.new_record("gpu", part="check", device="a GPU", checks=[{**check, "worst": 1e-3}])])
    assert "1 differ by more than is allowed: LoRA, float32 (0.001, allowed 1e-05)" in wrong
    assert gpu.render([record()]) in report.page([record()])


def test_without_a_gpu_the_script_says_so_and_measures_nothing(tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        import os
        import sys

        environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "RESULTS": str(tmp_path)}
        return subprocess.run(
            ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *arguments], env=environment, capture_output=True, text=True
        )

    found = call("dpo")
    assert found.returncode == 3
    assert "there is no CUDA GPU here" in found.stderr
    assert not list(tmp_path.iterdir())
    assert call("speed").returncode == call().returncode == 2


# ---- correctness, on the device that is at hand ----


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.logprobs, "TOKEN_TILE", 16)
    monkeypatch.setattr(gpu_check.logprobs, "VOCAB_TILE", 128)


@pytest.mark.usefixtures("_small_tiles")
def test_the_checks_pass_on_a_cpu_and_are_complete() -> None:
    with counted() as paths:
        found = list(gpu_check.checks("cpu", [torch.float32]))
    assert all(check.passed for check in found), [check for check in found if not check.passed]
    names = " ".join(check.name for check in found)
    for path in ("log-probs", "entropy, gradient of the hidden states", "RMSNorm, gradient of the weight"):
        assert path in names
    for path in ("LoRA, gradient of A", "shared prompts, window", "one new token", "sampler, merged"):
        assert path in names
    steps = [name for name in names.split("training step, ") if name.startswith("gradient of model.layers.")]
    assert len(steps) == 2 * 7 * 2, "A and B of seven matrices in the two layers that train"
    # What a GPU takes: blocks of attention, tiles of logits and turned products are a CPU's.
    assert TRAINING.keys() - paths.keys() <= {"attention in blocks", "kept trunk"}


def test_sizes_are_several_tiles_on_a_gpu_too() -> None:
    n, size = gpu_check.several_tiles("cuda")
    assert n > 2 * 2048
    assert size > 2 * 16_384
    assert gpu_check.logprobs.VOCAB_TILE * gpu_check.logprobs.CUDA_FACTOR == 16_384
    assert gpu_check.logprobs.TOKEN_TILE * gpu_check.logprobs.CUDA_FACTOR == 2048


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(
    ("check", "name"),
    [
        ("_lora", "lora_linear"),
        ("_vocabulary", "token_logprobs"),
        ("_vocabulary", "token_entropy"),
        ("_step", "token_logprobs"),
    ],
)
def test_a_wrong_result_does_not_pass(check: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(gpu_check, name)
    monkeypatch.setattr(gpu_check, name, lambda *a: right(*a) * (1.0 if a[0].dtype == torch.float64 else 1.001))
    assert not all(off <= allowed for _, off, allowed in getattr(gpu_check, check)("cpu", torch.float32))


def test_not_a_number_does_not_pass() -> None:
    assert not gpu_check.Check("a", "float32", float("nan"), 1e-5).passed


@pytest.mark.parametrize("what", ["output", "gradient"])
def test_a_wrong_norm_does_not_pass(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "forward" if what == "output" else "backward"
    right = getattr(norms._RMSNorm, name)

    def wrong(ctx: Any, *arguments: Any) -> Any:
        out = right(ctx, *arguments)
        return out * 1.001 if what == "output" else (out[0] * 1.001, *out[1:])

    monkeypatch.setattr(norms._RMSNorm, name, staticmethod(wrong))
    monkeypatch.setattr(norms, "_offset", lambda module, eps: 0.0)
    assert not all(off <= allowed for _, off, allowed in gpu_check._norm("cpu", torch.float32))
