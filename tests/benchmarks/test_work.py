"""The work of a comparison: which examples are in which step, and who did something else."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import run
import train
from common import work
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
    proof = {"loss": 0.5, "values": {"0": [-1.0, -2.0]}}
    return {"work": did, "proof": proof, "dtype": "float32", "threads": 2, **more}


def test_same_work_is_judged_from_the_examples() -> None:
    setting, lengths = {"order": [[0], [1]]}, [(5, [3, 2]), (1, [1, 1])]
    peer, own = result([15, 4], 0), result([10, 3], 1)  # the peer reads a prompt for each response
    assert train.work_problems({"trl": [peer], "burnish": [own]}, setting, lengths) == []
    wrong = [
        result([10, 4], 1),
        result([10, 3], 1, threads=1),
        result([10, 3], 1, proof={"loss": 0.6, "values": {"0": [-1.0, -2.0]}}),
        {**own, "work": {**own["work"], "trainable_parameters": 61}},
    ]
    for other in wrong:
        assert len(train.work_problems({"trl": [peer], "burnish": [other]}, setting, lengths)) == 1


def test_rewards_are_proved_in_float32() -> None:
    assert train.needs_float32_proof("reward", "bfloat16")
    assert not train.needs_float32_proof("reward", "float32")
    assert not train.needs_float32_proof("dpo", "bfloat16")
    setting, lengths = {"order": [[0], [1]]}, [(5, [3, 2]), (1, [1, 1])]
    other = result([10, 3], 1, proof={"loss": 0.9, "values": {"0": [-9.0, -2.0]}})
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
    shared = {"bench": tmp_path, "data": "pairs.jsonl", "models": ["a", "b"], "dtypes": ["float32", "bfloat16"]}
    arguments = argparse.Namespace(**shared, rounds=1)
    for name in run.PEERS:
        (tmp_path / name).mkdir()
    done = {
        part: [command[2] for command in run.commands(part, arguments, lambda _: None)] for part in ("dpo", "sampling")
    }
    assert done["dpo"] == ["prepare", "compare", "compare"] * 2
    assert done["sampling"] == ["prepare", "compare", "compare"] * 2
    assert len(run.commands("growth", arguments, lambda _: None)) == len(run.GROWTHS)
