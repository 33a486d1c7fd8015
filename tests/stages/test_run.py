"""What a second start of a command finds in the output directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from burnish.errors import OutputDirError
from burnish.models import placement
from burnish.stages.config import SFTConfig
from burnish.stages.run import model_of, open_run
from burnish.stages.setup import compute_dtype


def config(out: Path, **more: object) -> SFTConfig:
    return SFTConfig.parse({"model": "m", "data": "d", "out": out, **more})


def test_a_run_that_was_killed_before_its_first_checkpoint_gives_way_to_other_settings(tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_run(config(out, seed=1)).close()
    (out / "reference").mkdir()
    (out / "reference" / "logprobs.safetensors").write_text("of other data")
    run = open_run(config(out, seed=2))
    assert run.record["config"]["seed"] == 2
    assert not (out / "reference").exists(), "log-probs that belong to other settings are not taken up"
    run.close()
    (out / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(OutputDirError, match="another run"):
        open_run(config(out, seed=3))


def test_the_same_settings_keep_what_was_begun(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = open_run(config(out))
    first.note(data={"sha256": "x"})
    (out / "reference").mkdir()
    first.close()
    again = open_run(config(out))
    assert again.record["data"] == {"sha256": "x"}
    assert not again.fresh
    assert (out / "reference").is_dir()
    again.close()


def test_a_run_from_before_a_setting_existed_goes_on_at_its_default(tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_run(config(out)).close()
    (out / "checkpoints" / "step-00000004").mkdir(parents=True)
    record = json.loads((out / "run.json").read_text())
    del record["config"]["schedule"]
    del record["config"]["lora"]["rank"]
    (out / "run.json").write_text(json.dumps(record))
    run = open_run(config(out))
    assert (run.fresh, run.record["config"]["schedule"]) == (False, "cosine")
    run.close()
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(OutputDirError, match="schedule: 'cosine' there, 'linear' now"):
        open_run(config(out, schedule="linear"))


def test_free_settings_may_change_and_are_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_run(config(out)).close()
    (out / "checkpoints" / "step-00000001").mkdir(parents=True)
    run = open_run(config(out, save_every=7))
    assert run.record["config"]["save_every"] == 7
    run.close()


def test_a_resume_computes_in_the_dtype_of_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for fast, other in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        monkeypatch.setattr(placement, "product_seconds", {fast: 1.0, other: 2.0}.__getitem__)
        run = open_run(config(tmp_path / "run"))
        assert compute_dtype(run.config, run, cpu) == torch.float32, "the first machine's choice"
        (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
        run.close()


def test_a_failed_start_removes_only_what_it_made(tmp_path: Path) -> None:
    run = open_run(config(tmp_path / "one"))
    run.discard_if_untouched()
    run.close()
    assert not (tmp_path / "one").exists()

    run = open_run(config(tmp_path / "two"))
    (tmp_path / "two" / "tensorboard").mkdir()
    run.discard_if_untouched()
    run.close()
    assert (tmp_path / "two" / "run.json").exists(), "something else is there: the directory stays, and stays a run"

    run = open_run(config(tmp_path / "two"))
    run.discard_if_untouched()
    run.close()
    assert (tmp_path / "two" / "run.json").exists(), "an earlier call began it"


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    run = open_run(config(tmp_path / "run"))
    with pytest.raises(OutputDirError, match="another process"):
        open_run(config(tmp_path / "run"))
    run.close()


def test_a_run_directory_stands_for_its_model(tmp_path: Path) -> None:
    assert model_of("gemma-3-270m") == "gemma-3-270m"
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputDirError, match="not finished"):
        model_of(str(tmp_path))
    (tmp_path / "model").mkdir()
    assert model_of(str(tmp_path)) == str(tmp_path / "model")
    (tmp_path / "config.json").write_text("{}")
    assert model_of(str(tmp_path)) == str(tmp_path), "a model directory is itself, whatever else lies in it"
