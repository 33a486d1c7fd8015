"""`compute: plain` through whole stages: it takes no fast path, and the fast ones give the same step, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from burnish.errors import ConfigError
from burnish.models.roles import Backbone
from burnish.rollout import recurrent
from burnish.stages import setup
from burnish.stages.loop import TrainingLoop
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.step import Step
from tests.fast_paths import SAMPLING, counted, everywhere
from tests.models.families import tiny_tokenizer
from tests.models.test_core import TOLERANCE, TrueFloat64
from tests.stages.ppo_toy import make_base, make_reward, make_start
from tests.stages.test_last_layers import STAGES
from tests.stages.toy import settings

FAMILIES = ("llama", "gemma3", "qwen3", "mamba")


class Stop(Exception):
    """Ends a stage once its first step is computed."""


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere(monkeypatch)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family a model, an adapter on it to start from, and an ensemble of reward models."""
    found = {}
    for family in FAMILIES:
        folder = found[family] = tmp_path_factory.mktemp(family)
        if family == "mamba":
            tokenizer = tiny_tokenizer()
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "pad_token_id": 0}
            torch.manual_seed(0)
            MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "base")
            tokenizer.save_pretrained(folder / "base")
        else:
            make_base(folder / "base", family)
        make_start(folder / "base", folder / "start")
        make_reward(folder / "base", folder / "reward", members=3, holdout=True)
    return found


def values_of(place: Path, stage: str, **more: Any) -> dict[str, Any]:
    values = settings(place, "sft" if stage == "sft" else "dpo", model=str(place / "start"), validation=0.2, limit=10)
    values |= {"lora": {}, "max_steps": 1, "batch_size": 6}
    if stage == "reward":
        values["members"] = 2
    if stage == "ppo":
        del values["max_steps"]
        values |= {"reward": str(place / "reward"), "rollout_size": 6, "max_rollouts": 1, "max_new_tokens": 6}
        values |= {"update_epochs": 1, "entropy_coefficient": 0.1, "micro_batch_tokens": 4096, "epochs": 1}
    return values | more


def in_float64(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A model's forward without the fp32 that transformers' norms and softmaxes go through."""

    def wrapped(*arguments: Any, **more: Any) -> Any:
        with TrueFloat64():
            return forward(*arguments, **more)

    return wrapped


def first_step(stage: str, values: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a stage's first step, and the gradient of every weight that trains."""
    found: list[Any] = []

    def stop(loop: TrainingLoop, step: Step) -> dict[str, float]:
        found.extend([step.loss, {name: p.grad.clone() for name, p in loop.parameters.items() if p.grad is not None}])
        raise Stop

    config, train = STAGES[stage]
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Backbone, "_decode"), (recurrent._State, "read")):
            patch.setattr(owner, name, in_float64(getattr(owner, name)))
        patch.setattr(setup, "pick_dtype", lambda wanted, device: torch.float64)
        patch.setattr(TrainingLoop, "_clip", stop)
        with pytest.raises(Stop):
            train(config.parse(values))
    return found[0], found[1]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("family", "layers"), [*((family, "all") for family in FAMILIES), ("gemma3", "last-1")])
def test_a_step_is_the_same(stage: str, family: str, layers: str, places: dict[str, Path], tmp_path: Path) -> None:
    results = []
    for compute in ("fast", "plain"):
        values = values_of(places[family], stage, lora={"layers": layers}, compute=compute, out=str(tmp_path / compute))
        with counted() as paths:
            results.append(first_step(stage, values))
        if compute == "plain":
            assert not paths
        else:
            assert {"LoRA as one node"} | ({"trunk"} if layers == "last-1" else set()) <= paths.keys()
            assert stage == "reward" or "tiled log-probs" in paths
            assert ("rows shared by responses" in paths) == ("attention in blocks" in paths) == (family != "mamba")
    (loss, gradients), (plain_loss, plain_gradients) = results
    assert loss == pytest.approx(plain_loss, rel=0, abs=TOLERANCE)
    assert gradients.keys() == plain_gradients.keys()
    for name, expected in plain_gradients.items():
        assert expected.dtype == torch.float64
        assert expected.any(), name
        assert torch.allclose(gradients[name], expected, rtol=0, atol=TOLERANCE), name


@pytest.mark.parametrize(("stage", "more"), [*((stage, {}) for stage in STAGES), ("reward", {"tuning": "head"})])
def test_a_whole_plain_run_takes_no_fast_path(
    stage: str, more: dict[str, Any], places: dict[str, Path], tmp_path: Path
) -> None:
    config, train = STAGES[stage]
    if stage == "reward":
        more = {"members": 1, **more}
    values = values_of(places["gemma3"], stage, compute="plain", out=str(tmp_path / "run"), **more)
    with counted() as paths:
        assert train(config.parse(values)).steps == 1
    assert not paths


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_with_all_weights_too(stage: str, places: dict[str, Path], tmp_path: Path) -> None:
    """Where the adapter that it starts from is merged into them first."""
    config, train = STAGES[stage]
    values = values_of(places["llama"], stage, tuning="full", compute="plain", out=str(tmp_path / "run"))
    with counted() as paths:
        assert train(config.parse(values)).steps == 1
    assert not paths


def test_a_fast_run_samples_fast(places: dict[str, Path], tmp_path: Path) -> None:
    """So that what is counted in plain ones could be seen."""
    config, train = STAGES["ppo"]
    with counted() as paths:
        train(config.parse(values_of(places["gemma3"], "ppo", out=str(tmp_path / "run"))))
    assert SAMPLING.keys() - paths.keys() <= {"turned products"}  # every layer is adapted, and so merged


def test_plain_and_a_fast_way_of_sampling_do_not_go_together(places: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="compute: plain samples plainly too"):
        PPOConfig.parse(values_of(places["llama"], "ppo", compute="plain", decoding="merged"))
