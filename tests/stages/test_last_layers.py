"""`lora.layers: last-N` through whole stages: what stays, what is computed once, and that neither changes a result."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from burnish.errors import ConfigError, Interrupted
from burnish.models import layers as layers_module
from burnish.models.roles import Backbone
from burnish.models.trunk import Trunk
from burnish.stages.config import DPOConfig, RewardConfig, SFTConfig, TrainConfig
from burnish.stages.dpo import train_dpo
from burnish.stages.loop import TrainingLoop
from burnish.stages.ppo import train_ppo
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.reward import train_reward
from burnish.stages.run import RunResult
from burnish.stages.sft import train_sft
from tests.stages.ppo_toy import make_base, make_start, reward_file, spy_cast
from tests.stages.test_checkpoint import same_bits
from tests.stages.toy import settings

LAYERS = {"rank": 2, "layers": "last-1"}
STAGES: dict[str, tuple[type[TrainConfig], Callable[..., RunResult]]] = {
    "sft": (SFTConfig, train_sft),
    "dpo": (DPOConfig, train_dpo),
    "reward": (RewardConfig, train_reward),
    "ppo": (PPOConfig, train_ppo),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, an adapter over all of its layers, and an ensemble trained from it in the last layer."""
    folder = tmp_path_factory.mktemp("layers")
    make_base(folder / "base")
    make_start(folder / "base", folder / "start")
    values = settings(folder, "dpo", model=str(folder / "start"), out=str(folder / "reward"), lora=LAYERS, epochs=1)
    train_reward(RewardConfig.parse(values | {"members": 3, "holdout": True}))
    return folder


def values_of(place: Path, stage: str, out: Path, **more: Any) -> dict[str, Any]:
    kind = "sft" if stage == "sft" else "dpo"
    values = settings(place, kind, model=str(place / "start"), out=str(out), lora=LAYERS, validation=0.2, save_every=3)
    if stage == "reward":
        values["members"] = 2
    if stage == "ppo":
        values |= {"reward": str(place / "reward"), "rollout_size": 8, "update_epochs": 2, "max_new_tokens": 6}
        values |= {"learning_rate": 1e-3, "eval_every": 1, "keep_best": False}
    return values | more


def run(place: Path, stage: str, out: Path, **more: Any) -> RunResult:
    config, train = STAGES[stage]
    return train(config.parse(values_of(place, stage, out, **more)))


def adapters(out: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(file) for file in sorted(out.rglob("adapter_model.safetensors"))]


@pytest.fixture(scope="module")
def kept(place: Path) -> Callable[[str], Path]:
    """A run of each stage with all states of lower layers kept."""
    done: dict[str, Path] = {}

    def make(stage: str) -> Path:
        if stage not in done:
            done[stage] = run(place, stage, place / f"kept-{stage}").out
        return done[stage]

    return make


@pytest.mark.parametrize("stage", STAGES)
def test_the_layers_below_stay_as_the_stage_found_them(stage: str, place: Path, kept: Callable[[str], Path]) -> None:
    started = load_file(place / "start" / "adapter_model.safetensors")
    found = adapters(kept(stage))
    assert len(found) == {"sft": 1, "dpo": 1, "reward": 2, "ppo": 2}[stage]
    for tensors in found:
        tensors = {name: tensor for name, tensor in tensors.items() if ".score." not in name}
        assert tensors.keys() == started.keys()  # it loads alone on the base
        changed = {name.split(".layers.")[1][0] for name in started if not torch.equal(tensors[name], started[name])}
        assert changed == {"2"}


@pytest.mark.parametrize("stage", STAGES)
def test_keeping_states_changes_no_result(
    stage: str, place: Path, kept: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a run that computes every pass whole."""
    monkeypatch.setattr(Trunk, "shared_by", classmethod(lambda cls, roles: None))
    whole = run(place, stage, tmp_path / "whole").out
    for ours, expected in zip(adapters(kept(stage)), adapters(whole), strict=True):
        for name, tensor in expected.items():
            assert torch.allclose(ours[name], tensor, rtol=1e-3, atol=2e-4), name


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("gigabytes", [0.0, 1e-5, 2.0])
def test_cut_off_and_resumed_it_ends_in_the_same_bits(
    gigabytes: float, stage: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States are computed in the same cuts again, so that a resume sees the same bits."""
    whole = run(place, stage, tmp_path / "whole", trunk_cache_gb=gigabytes).out
    real = TrainingLoop._after

    def stopping(loop: TrainingLoop, done: int) -> None:
        loop.stop_signal = signal.SIGTERM if done == 5 else loop.stop_signal
        real(loop, done)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_after", stopping)
        with pytest.raises(Interrupted):
            run(place, stage, tmp_path / "run", trunk_cache_gb=gigabytes)
    assert run(place, stage, tmp_path / "run", trunk_cache_gb=gigabytes).resumed_from == 5
    if stage == "reward":
        for ours, expected in zip(adapters(tmp_path / "run"), adapters(whole), strict=True):
            assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    else:
        assert same_bits(tmp_path / "run", whole)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_kept_is_used(stage: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that trains starts above the layers that stay; these are run in the passes that fill the cache, no more."""
    learned, filled = [], []
    forward, below = Backbone._forward, Backbone.states_below

    def noted(self: Backbone, batch: Any, route: Any) -> torch.Tensor:
        part = layers_module._PART.get()
        if torch.is_grad_enabled():
            learned.append(None if part is None else part.start)
        return forward(self, batch, route)

    def counted(self: Backbone, depth: int, batch: Any, *route: Any) -> torch.Tensor:
        filled.append(len(batch.indices))
        return below(self, depth, batch, *route)

    monkeypatch.setattr(Backbone, "_forward", noted)
    monkeypatch.setattr(Backbone, "states_below", counted)
    more = {"validation": 0.0} if stage == "ppo" else {}
    run(place, stage, tmp_path / "run", **more)
    assert learned
    assert set(learned) == {2}
    examples = {"sft": 24, "ppo": 40}.get(stage, 20)  # PPO: 20 prompts, answered anew in each of two epochs
    assert sum(filled[1:]) == examples  # the first is the probe


def test_all_roles_of_ppo_stand_on_one_trunk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward model's lower layers come from its own files; that they are the policy's is found out."""
    seen = spy_cast(monkeypatch)
    run(place, "ppo", tmp_path / "run", reference_ema=0.9)
    cast = seen["cast"]
    assert cast.critic is not None
    assert len(cast.scorers) == 2
    assert len(cast.judges) == 1
    scorers = [cast.critic, *cast.scorers, *cast.judges]
    trunk = Trunk.shared_by([cast.policy, cast.start, cast.reference, *(scorer.role for scorer in scorers)])
    assert trunk is not None
    assert trunk.depth == 2
    names = set(cast.parameters())
    assert names
    assert all(".layers.2." in name or name == "critic.score" for name in names)
    assert {name.split(".", 1)[1] for name in names if name.startswith("policy.")} == set(cast.reference_parameters())


def test_rewards_from_a_function_need_no_trunk_of_a_reward_model(place: Path, tmp_path: Path) -> None:
    plain = {"model": str(place / "base"), "reward": reward_file(tmp_path)}
    for advantage in ("gae", "rloo"):
        out = run(place, "ppo", tmp_path / advantage, advantage=advantage, **plain).out
        for tensors in adapters(out):
            assert {name.split(".layers.")[1][0] for name in tensors if ".layers." in name} == {"2"}


def test_a_start_of_few_layers_is_trained_in_those(place: Path, tmp_path: Path) -> None:
    said = Console(file=io.StringIO(), width=200)
    base = str(place / "base")
    first = train_sft(SFTConfig.parse(values_of(place, "sft", tmp_path / "first", model=base)))
    values = values_of(place, "sft", tmp_path / "second", model=str(first.out), lora={}, epochs=1)
    second = train_sft(SFTConfig.parse(values), console=said)
    assert "begins at layer 3 of 3" in said.file.getvalue()
    assert {name.split(".layers.")[1][0] for name in load_file(second.model / "adapter_model.safetensors")} == {"2"}


def test_full_fine_tuning_trains_all(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.layers"):
        run(place, "sft", tmp_path / "run", tuning="full")
