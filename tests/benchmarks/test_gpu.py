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
    assert result["dtype"] == "float32"
    expected = roles_by_peft(prepared)
    assert set(result["proof"]) == set(expected) == set(ppo.ROLES)
    for role, values in expected.items():
        assert result["proof"][role] == pytest.approx(values, abs=2e-5), role


@torch.no_grad()
def roles_by_peft(prepared: Path) -> dict[str, list[float]]:
    """What the roles should say of the probe, from plain models of transformers and the reward model as PEFT loads it:
    the policy is still the reference, and the critic the reward model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    policy = AutoModelForCausalLM.from_pretrained(prepared / "model", dtype=torch.float32)
    scorer = AutoModelForSequenceClassification.from_pretrained(prepared / "model", num_labels=1, dtype=torch.float32)
    scorer = PeftModel.from_pretrained(scorer, prepared / "reward" / "model").merge_and_unload()
    found: dict[str, list[float]] = {role: [] for role in ppo.ROLES}
    for one in json.loads((prepared / "probe.json").read_text()):
        ids, n = torch.tensor([one["prompt"] + one["response"]]), len(one["prompt"])
        logprobs = torch.log_softmax(policy(ids).logits.double()[0], -1)
        said = sum(float(logprobs[n - 1 + i, token]) for i, token in enumerate(one["response"]))
        values = scorer.score(scorer.base_model(ids).last_hidden_state)[0, :, 0]
        found["policy"].append(said)
        found["reference"].append(said)
        found["critic"].append(float(values[n - 1 : -1].mean()))
        found["reward"].append(float(values[-1]))
    return found


def test_roles_that_say_something_else_are_other_work() -> None:
    did = {"updates": 1, "episodes": 16, "response_tokens": [4], "optimiser_steps": 2}
    did |= {"trainable_parameters": {"policy": 7, "critic": 7}}
    proof = {role: [-3.0, 0.5] for role in ppo.ROLES}
    shared = {"dtype": "float32", "threads": 2, "proof": proof}
    peer = {"side": "trl", "work": {**did, "prompt_tokens": [[5, 5]]}, **shared}
    own = {"side": "burnish", "work": {**did, "prompt_tokens": [10]}, **shared}
    assert ppo.work_problems(peer, own) == []
    for role in ppo.ROLES:
        for other in ([-3.0, 0.501], [-3.0], []):
            [problem] = ppo.work_problems(peer, {**own, "proof": {**proof, role: other}})
            assert role in problem
    coarse = [{**side, "dtype": "bfloat16"} for side in (peer, {**own, "proof": {**proof, "reward": [-3.0, 0.7]}})]
    assert ppo.work_problems(*coarse) == [], "a reward in bfloat16 says nothing"


def test_too_few_prompts_are_an_error(folder: Path, tmp_path: Path) -> None:
    data = make_pairs(tmp_path / "pairs.jsonl", 5, prompt_tokens=20, response_tokens=(4, 9))
    with pytest.raises(SystemExit, match="5 prompts of at most 128 tokens, 16 are needed"):
        ppo.prepare(tmp_path / "ppo", str(data), str(folder / "model"), "all")


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


def measured_part(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, failing: set[str]
) -> tuple[dict[str, Any], list[list[str]]]:
    """The record of a part whose sides are only named, and what was run; the work is prepared here."""
    prepared, ran = gpu.prepare_part(name, folder, device="cpu"), []
    key = "seconds_per_update" if name == "ppo" else "seconds_per_step"

    def run(command: list[str]) -> dict[str, Any]:
        ran.append(command)
        if "--prepare-only" in command:
            return {"folder": str(prepared)}
        if "machine.py" in command[1]:
            return {"float32": 1e9, "bfloat16": 1e9}
        side = "burnish" if "ours" in command else "trl-liger" if "--liger" in command else "trl"
        if side in failing:
            raise SystemExit(f"{side}: CUDA out of memory")
        version = {"burnish" if side == "burnish" else "trl": "1"}
        return {key: 2.0, "peak_cuda_bytes": 1e9, "peak_rss_bytes": 1e9, "load": 0.0, "versions": version}

    for module in ("common.rounds.run", "gpu.run"):
        monkeypatch.setattr(module, run)
    monkeypatch.setattr(gpu, "has_liger", lambda python: True)
    monkeypatch.setattr(train, "work_problems", lambda *_, **__: [])
    monkeypatch.setattr(ppo, "found_problems", lambda _: [])
    given = {"work": folder, "device": "cpu", "shape": SHAPE, "rounds": 1, "peer_micro_batch": 2}
    return gpu.measure(name, argparse.Namespace(**given, peer_python="peer", peer_ppo_python="peer")), ran


def test_without_memory_for_trl_our_numbers_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, ran = measured_part("dpo", folder, monkeypatch, failing={"trl", "trl-liger"})
    assert list(record["sides"]) == ["burnish"]
    assert "trl is left out: trl: CUDA out of memory" in capsys.readouterr().out
    assert "Left out, since they failed there: DPO, LoRA, prompts of 1,024 tokens: trl;" in gpu.render([record])
    assert "--prepare-only" in ran[0], "the model is drawn in a process of its own"
    assert json.loads(ran[0][ran[0].index("--shape") + 1]) == SHAPE
    with pytest.raises(SystemExit, match="out of memory"):
        measured_part("dpo", folder, monkeypatch, failing={"burnish"})


def test_liger_stands_in_where_sdpa_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[dict[str, Any]] = []
    monkeypatch.setattr(train, "work_problems", lambda found, *_, **__: held.append(found) or ["other tokens"])
    monkeypatch.setattr(gpu, "read_lengths", lambda _: [])
    assert gpu.problems("dpo", {"trl-liger": [{"n": 1}], "burnish": [{"n": 2}]}, {}, folder) == ["other tokens"]
    assert held == [{"trl": [{"n": 1}], "burnish": [{"n": 2}]}]


def test_the_work_is_prepared_by_a_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argparse.Namespace(work=folder, device="cpu", shape=SHAPE)
    monkeypatch.setattr("sys.argv", gpu.prepare_command("sft", arguments)[1:])
    gpu.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"folder": str(folder / "sft")}
    assert work.read_setting(folder / "sft")["stage"] == "sft"


def test_ppo_has_tokens_and_utilisation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ppo.SETTING, "response_tokens", 4)
    record, _ = measured_part("ppo", folder, monkeypatch, failing=set())
    prompts = json.loads((folder / "ppo" / "prompts.json").read_text())
    tokens = sum(map(len, prompts)) + 16 * 4
    assert record["step_tokens"] == [tokens]
    row = next(line for line in gpu.render([record]).splitlines() if line.startswith("| PPO") and "burnish" in line)
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[3] == f"{tokens / 2:,.0f}"
    assert cells[4] == f"{record['step_flops'][0] / 2.0 / 1e9:.0%}"
    # Every operation is at least a forward pass: sampling, reading by three, and twice two passes in learning.
    linear = sum(m.weight.numel() for m in _model(folder).modules() if isinstance(m, torch.nn.Linear)) - 1100 * 32
    assert record["step_flops"][0] > 2 * linear * tokens * (1 + 3 + 2 * 2 * 2) * 0.95


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
    monkeypatch.setattr(gpu_check.tiles, "TOKEN_TILE", 16)
    monkeypatch.setattr(gpu_check.tiles, "VOCAB_TILE", 128)


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
    assert gpu_check.tiles.VOCAB_TILE * gpu_check.tiles.CUDA_FACTOR == 16_384
    assert gpu_check.tiles.TOKEN_TILE * gpu_check.tiles.CUDA_FACTOR == 2048


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
        return out[0] * 1.001, *out[1:]

    monkeypatch.setattr(norms._RMSNorm, name, staticmethod(wrong))
    monkeypatch.setattr(norms, "_offset", lambda module, eps: 0.0)
    assert not all(off <= allowed for _, off, allowed in gpu_check._norm("cpu", torch.float32))
