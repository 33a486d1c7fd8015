"""The work of a comparison: which examples are in which step, and who did something else."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import run
import train
from common import machine, work
from common.agreement import proof_problems
from tests.stages.toy import make_model, make_pairs

SETTING = {**train.SETTING, "batch": 4, "steps": 2, "max_length": 64, "data": "pairs"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    setting = {**SETTING, "model": str(make_model(folder / "model"))}
    work.prepare(folder / "dpo", "dpo", setting, str(make_pairs(folder / "pairs.jsonl")))
    return folder / "dpo"


def test_every_example_is_in_one_step_longest_first(prepared: Path) -> None:
    order, lengths = work.read_setting(prepared)["order"], work.read_lengths(prepared)
    assert [len(step) for step in order] == [4, 4, 4]
    assert sorted(i for step in order for i in step) == list(range(12))
    for step in order:
        longest = [lengths[i][0] + max(lengths[i][1]) for i in step]
        assert longest == sorted(longest, reverse=True)


def test_the_steps_are_those_that_burnish_takes(prepared: Path, tmp_path: Path) -> None:
    setting, lengths = work.read_setting(prepared), work.read_lengths(prepared)
    import burnish as bn

    values = train.stage_settings(setting, prepared, tmp_path / "run", "float32", beforehand=False)
    bn.train_dpo(bn.DPOConfig.parse({**values, "lora": {"rank": 2}}))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == train._tokens(setting["order"], lengths, 1)


def test_both_sides_read_the_same_tokens(prepared: Path) -> None:
    ids = json.loads((prepared / "examples.json").read_text(encoding="utf-8"))
    rows = (prepared / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(ids) == len(rows) == 12
    assert all(len(one["responses"]) == 2 and one["prompt"] for one in ids)
    assert work.read_setting(prepared)["size"]["vocabulary"] > 0


def test_too_few_examples_are_an_error(tmp_path: Path) -> None:
    setting = {**SETTING, "steps": 9, "model": str(make_model(tmp_path / "model"))}
    with pytest.raises(SystemExit, match="20 pairs that fit, 40 are needed"):
        work.prepare(tmp_path / "dpo", "dpo", setting, str(make_pairs(tmp_path / "pairs.jsonl")))


def test_work_that_was_not_prepared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="prepare"):
        work.read_setting(tmp_path)


class Vocabulary:
    unk_token, bos_token = None, "<s>"

    def get_vocab(self) -> dict[str, int]:
        return {"<|endoftext|>": 0, "<s>": 1}


def test_padding_ends_no_response() -> None:
    assert work.padding_token(Vocabulary(), {7}) == "<|endoftext|>"
    assert work.padding_token(Vocabulary(), {0}) == "<s>"
    with pytest.raises(SystemExit):
        work.padding_token(Vocabulary(), {0, 1})


def result(tokens: list[int], prompt_times: int, **more: Any) -> dict[str, Any]:
    did = {"tokens": tokens, "prompt_times": prompt_times, "optimiser_steps": len(tokens), "trainable_parameters": 60}
    did["digests"] = ["a", "b"]
    did["optimiser"] = [{"name": "AdamW", "lr": 1e-5, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0}]
    proof = {"losses": [0.5, 0.4], "grad_norm": 2.0, "values": {"0": [-1.0, -2.0]}}
    return {"work": did, "proof": proof, "dtype": "float32", "threads": 2, **more}


def test_same_work_is_judged_from_the_examples() -> None:
    setting, lengths = {"order": [[0], [1]]}, [(5, [3, 2]), (1, [1, 1])]
    peer, own = result([15, 4], 0), result([10, 3], 1)  # the peer reads a prompt for each response
    assert train.work_problems({"trl": [peer], "burnish": [own]}, setting, lengths) == []
    wrong = [
        result([10, 4], 1),
        result([10, 3], 1, threads=1),
        result([10, 3], 1, proof={**own["proof"], "losses": [0.6, 0.4]}),
        {**own, "work": {**own["work"], "trainable_parameters": 61}},
        {**own, "work": {**own["work"], "digests": ["a", "c"]}},  # as many tokens, but other ones
        {**own, "work": {**own["work"], "optimiser": [{**own["work"]["optimiser"][0], "betas": [0.9, 0.999]}]}},
    ]
    for other in wrong:
        assert len(train.work_problems({"trl": [peer], "burnish": [other]}, setting, lengths)) == 1


def test_the_proof_sees_the_gradient_and_what_is_made_of_it(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO's first loss is ln 2 whatever the gradient; with the backward pass or the optimiser broken it still is."""
    import burnish.stages.dpo as dpo

    order = work.read_setting(prepared)["order"]

    def side() -> dict[str, Any]:
        return train.ours(prepared, "float32")

    found = side()
    ids = json.loads((prepared / "examples.json").read_text(encoding="utf-8"))
    steps = [[ids[i]["prompt"] + response for i in step for response in ids[i]["responses"]] for step in order]
    assert found["work"]["digests"] == [train.digest(rows) for rows in steps]
    assert train.digest([[1, 2], [3]]) == train.digest([[3], [1, 2]]) != train.digest([[1], [2, 3]])
    assert found["proof"]["losses"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert len(found["proof"]["losses"]) == 3
    [adam] = found["work"]["optimiser"]
    assert adam["name"] == "AdamW"
    assert [*adam["betas"], adam["lr"]] == [0.9, 0.99, 1e-5]
    assert proof_problems(found["proof"], side()["proof"], "float32") == []

    def problems() -> str:
        return "; ".join(proof_problems(found["proof"], side()["proof"], "float32"))

    logprobs = dpo.response_logprobs
    with monkeypatch.context() as patch:  # values as they were, gradients of a hundredth more
        patch.setattr(dpo, "response_logprobs", lambda *a, **k: _steeper(logprobs(*a, **k), 1.01))
        assert "norm of the first step's gradient" in problems()
    with monkeypatch.context() as patch:  # nothing is learned
        patch.setattr(dpo, "response_logprobs", lambda *a, **k: _steeper(logprobs(*a, **k), 0.0))
        assert "norm of the first step's gradient" in problems()
    with monkeypatch.context() as patch:
        patch.setattr("burnish.stages.loop.learning_rate", lambda *a: 1e-2)
        other = side()
        assert other["work"]["optimiser"] != found["work"]["optimiser"]
        assert "the loss of step 2" in "; ".join(proof_problems(found["proof"], other["proof"], "float32"))


def _steeper(found: Any, times: float) -> Any:
    """The same log-probs, whose gradient is so many times as large."""
    token = found.token
    return replace(found, token=token.detach() + times * (token - token.detach()))


def test_lora_starts_alike_on_both_sides(prepared: Path, tmp_path: Path) -> None:
    """What the peer is given is what burnish's stage starts from: after no step A is still that."""
    from safetensors.torch import load_file

    import burnish as bn

    setting = work.read_setting(prepared)
    values = train.stage_settings(setting, prepared, tmp_path / "run", "float32", beforehand=False)
    bn.train_dpo(bn.DPOConfig.parse({**values, "max_steps": 1, "learning_rate": 1e-30}))
    start = load_file(prepared / "adapter.safetensors")
    trained = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert start.keys() == trained.keys()
    for name, value in start.items():
        torch.testing.assert_close(trained[name], value, rtol=0.0, atol=1e-20)


def test_rewards_are_proved_in_float32() -> None:
    assert train.needs_float32_proof("reward", "bfloat16")
    assert not train.needs_float32_proof("reward", "float32")
    assert not train.needs_float32_proof("dpo", "bfloat16")
    setting, lengths = {"order": [[0], [1]]}, [(5, [3, 2]), (1, [1, 1])]
    other = result([10, 3], 1, proof={"losses": [0.9, 0.4], "grad_norm": 2.0, "values": {"0": [-9.0, -2.0]}})
    found = {"trl": [result([15, 4], 0)], "burnish": [other]}
    assert train.work_problems(found, setting, lengths)
    assert train.work_problems(found, setting, lengths, values=False) == []


def test_a_peer_is_installed_once_with_torch_first(tmp_path: Path) -> None:
    ran: list[list[str]] = []
    for _ in range(2):
        (tmp_path / "trl-1.16").mkdir(exist_ok=True)  # what the first command would make
        python = run.peer_python(tmp_path, "trl-1.16", lambda command: ran.append(list(command)))
    assert python == str(tmp_path / "trl-1.16" / "bin" / "python")
    assert [Path(command[0]).name for command in ran[1:]] == ["install_torch.sh", "pip"]
    assert "trl==1.16.0" in ran[2]


def test_parts_are_prepared_and_compared(tmp_path: Path) -> None:
    shared = {"bench": tmp_path, "data": ["pairs.jsonl"], "models": ["a", "b"], "dtypes": ["float32", "bfloat16"]}
    arguments = argparse.Namespace(**shared, rounds=1, checkpointed=True, without=[], micro_batches=[2, 4])
    for name in run.PEERS:
        (tmp_path / name).mkdir()
    done = {
        part: [command[2] for command in run.commands(part, arguments, lambda _: None)] for part in ("dpo", "sampling")
    }
    assert done["dpo"] == ["prepare", "compare", "compare"] * 2
    dpo = run.commands("dpo", arguments, lambda _: None)
    assert ["--peer-checkpointing" in command for command in dpo] == [False, True, True] * 2
    assert done["sampling"] == ["prepare", "compare", "compare"] * 2
    vllm = run.commands("sampling", arguments, lambda _: None)
    assert ["--vllm-python" in command for command in vllm] == [False, True, True] * 2
    ways = [Path(command[1]).name for command in run.commands("decoding", arguments, lambda _: None)]
    assert ways == ["sampling.py", "decoding.py", "decoding.py"] * 2
    assert len(run.commands("growth", arguments, lambda _: None)) == len(run.GROWTHS)
    arguments.data = ["x/pairs.jsonl", "starter/preferences"]
    both = run.commands("dpo", arguments, lambda _: None)
    folders = [command[command.index("--work") + 1] for command in both if "prepare" in command]
    assert len(set(folders)) == len(folders) == 4, "a model and a data set have a directory of their own"
    ppo = [command for command in run.commands("ppo", arguments, lambda _: None) if "prepare" in command]
    assert [command[-1] for command in ppo] == ["all", "last-10"] * 2
    assert len({command[command.index("--work") + 1] for command in ppo}) == 4


def test_vllm_is_neither_installed_nor_asked_where_it_is_not_wanted(tmp_path: Path) -> None:
    shared = {"bench": tmp_path, "data": ["pairs.jsonl"], "models": ["a"], "dtypes": ["float32"]}
    arguments = argparse.Namespace(**shared, rounds=1, checkpointed=False, without=["vllm"], micro_batches=[4])
    (tmp_path / "trl-1.16").mkdir()
    ran: list[str] = []
    found = run.commands("sampling", arguments, lambda command: ran.extend(command))
    assert "trl==1.16.0" in ran
    assert not set(run.PEERS["vllm"]) & set(ran)
    assert not any("--vllm-python" in command for command in found)


def test_what_fails_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO's second model can't be prepared and is not compared; layers fail; all the rest runs, and is written down."""
    ran: list[str] = []

    def execute(command: list[str]) -> SimpleNamespace:
        words = " ".join(Path(word).name for word in command[1:])
        ran.append(words)
        fails = words.startswith(("train.py prepare dpo --work dpo-b", "layers.py measure --model a"))
        return SimpleNamespace(returncode=int(fails))

    monkeypatch.setattr(run.subprocess, "run", execute)
    (tmp_path / "pairs.jsonl").touch()
    given = ["--bench", str(tmp_path), "--data", str(tmp_path / "pairs.jsonl"), "--models", "a", "b"]
    monkeypatch.setattr("sys.argv", ["run.py", *given, "--stages", "dpo", "layers"])
    for name in run.PEERS:
        (tmp_path / name).mkdir()
    with pytest.raises(SystemExit) as stopped:
        run.main()
    assert [line.partition(" --")[0] for line in ran if ".py" in line][-6:] == [
        "train.py prepare dpo",
        "train.py compare dpo",
        "train.py prepare dpo",
        "layers.py measure",
        "layers.py measure",
        "report.py",
    ]
    text = str(stopped.value)
    assert text.startswith("2 of the commands failed")
    assert ": train.py prepare dpo" in text.replace(str(run.HERE) + "/", "")
    assert "layers.py measure --model" in text


def test_bfloat16_is_measured_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, has in (("avx2 amx_bf16", True), ("avx2 avx512_bf16", True), ("avx2 avx512f", False)):
        monkeypatch.setattr(machine, "_cpuinfo", lambda flags=flags: {"flags": flags})
        assert machine.multiplies_bfloat16() is has


@pytest.mark.parametrize(("rate", "largest"), [(58e9, 2048), (0.7e9, 512)])
def test_the_rate_is_measured_in_seconds_whatever_the_processor(
    rate: float, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.7 GFLOP/s, bfloat16 without units for it, a product of 2048^3 takes 24.5 s; nine of 512^3 take 3.5 s."""
    now, sides = 0.0, []

    def mm(left: torch.Tensor, _: torch.Tensor) -> None:
        nonlocal now
        sides.append(len(left))
        now += 2 * len(left) ** 3 / rate + (0.1 if len(sides) == 1 else 0.0)  # the first one starts threads

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now)
    assert machine.product_rate("float32") == pytest.approx(rate, rel=1e-6)
    assert sides[-machine.PRODUCTS - 1 :] == [largest] * (machine.PRODUCTS + 1)
    assert now < machine.PATIENCE + 1
