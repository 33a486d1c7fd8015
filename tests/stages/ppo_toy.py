"""Tiny starting points for PPO: a model that often stops, adapters and reward models that need no training, spies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.models.adapters import save_adapter
from burnish.models.config import LoRAConfig
from burnish.models.heads import Scorer
from burnish.models.lora import adapter_parameters, inject
from burnish.models.reward import write_reward_model
from burnish.models.roles import Backbone
from burnish.stages import ppo
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.ppo_roles import Cast
from tests.models.families import EOS_ID, tiny, tiny_tokenizer
from tests.stages.toy import settings

TIMES = {
    "tokens_per_second",
    "sampling_tokens_per_second",
    "rollout_seconds",
    "episodes_per_second",
    "peak_memory_gb",
}
"""What differs between two runs that compute the same."""
_STOP = {"gpt2": 2.0, "llama": 4.0}
LETTERS = """
def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in text) / 4 for text in responses]
"""


def make_base(directory: Path, family: str = "gemma3", *, pad: str = "<eos>", stop: float | None = None) -> Path:
    """A model whose EOS row is such that about half of its responses end within six tokens; padding is EOS itself."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = pad
    model = tiny(family, vocab_size=len(tokenizer))
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS_ID] *= stop or _STOP.get(family, -3.0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _with_adapters(base: Path, n: int, seed: int) -> tuple[Any, list[str]]:
    """The base with adapters whose B is not zero, so that each is another model."""
    model, names = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), []
    for number in range(n):
        names.append(f"made-{number}")
        inject(model, names[-1], LoRAConfig(rank=2), seed=seed + number)
        generator = torch.Generator().manual_seed(seed + 50 + number)
        with torch.no_grad():
            for name, parameter in adapter_parameters(model, names[-1]).items():
                if name.endswith("lora_B"):
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, names


def make_start(base: Path, directory: Path, seed: int = 7) -> Path:
    """An adapter on the base, as SFT leaves one."""
    model, names = _with_adapters(base, 1, seed)
    directory.mkdir()
    save_adapter(model, names[0], directory, base=str(base.resolve()))
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def make_reward(
    base: Path, directory: Path, *, members: int = 1, holdout: bool = False, judge: float = 1.0, seed: int = 20
) -> Path:
    """A reward model on the base; `judge` is a factor of the held-back member's head."""
    model, names = _with_adapters(base, members, seed)
    backbone = Backbone(model)
    width, generator = model.config.hidden_size, torch.Generator().manual_seed(seed)
    heads = [0.3 * torch.randn(1, width, generator=generator) for _ in names]
    heads[-1] *= judge
    scorers = [Scorer(backbone.role(name), torch.nn.Parameter(head)) for name, head in zip(names, heads, strict=True)]
    directory.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(base)
    write_reward_model(
        scorers, directory, tokenizer=tokenizer, base=str(base.resolve()), dtype=torch.float32, holdout=holdout
    )
    return directory


def reward_file(directory: Path, text: str = LETTERS, function: str = "vowels") -> str:
    """A reward function's name, with its file written."""
    (directory / f"{function}.py").write_text(text)
    return f"{directory}/{function}.py:{function}"


def ppo_config(tmp_path: Path, **more: Any) -> PPOConfig:
    """A run of some seconds: 16 prompts in two rollouts of two passes each, four held-out prompts."""
    if not (tmp_path / "base").exists():
        make_base(tmp_path / "base")
    values: dict[str, Any] = {
        "lora": {"rank": 2},
        "epochs": 1,
        "rollout_size": 8,
        "batch_size": 4,
        "update_epochs": 2,
        "max_new_tokens": 6,
        "validation": 0.2,
        "kl_coefficient": 0.05,
        "warmup": 0.0,
        "schedule": "constant",
        "eval_every": 100,
        "keep_best": False,
    }
    values |= more
    if "reward" not in values:
        values["reward"] = reward_file(tmp_path)
    return PPOConfig.parse(settings(tmp_path, "dpo", **values))


def lines(out: Path) -> list[dict[str, Any]]:
    """The metrics; NaN and infinity, which JSON lacks, are errors."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in metrics.jsonl")

    return [json.loads(line, parse_constant=refuse) for line in (out / "metrics.jsonl").read_text().splitlines()]


def timeless(out: Path) -> list[dict[str, Any]]:
    """The metrics without what a clock or a meter says."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines(out)]


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The lines of optimiser steps."""
    return [line for line in lines(out) if "loss" in line or "skipped" in line]


def rollouts_of(out: Path) -> list[dict[str, Any]]:
    """The lines of rollouts."""
    return [line for line in lines(out) if "rollout" in line]


def everything(cast: Cast) -> dict[str, torch.Tensor]:
    """A copy of every parameter of every role, whoever holds it: `backbone.NAME`, `other-1.NAME`, `head-NAME`."""
    scorers = {f"scorer-{i}": scorer for i, scorer in enumerate(cast.scorers)}
    scorers |= {f"judge-{i}": scorer for i, scorer in enumerate(cast.judges)}
    scorers |= {} if cast.critic is None else {"critic": cast.critic}
    backbones: dict[int, Backbone] = {id(cast.ground.backbone): cast.ground.backbone}
    for role in (cast.start, cast.reference, *(scorer.role for scorer in scorers.values())):
        backbones.setdefault(id(role.backbone), role.backbone)
    found = {}
    for number, backbone in enumerate(backbones.values()):
        prefix = f"other-{number}" if number else "backbone"
        found |= {f"{prefix}.{name}": p.detach().clone() for name, p in backbone.model.named_parameters()}
    return found | {f"head-{name}": scorer.head.detach().clone() for name, scorer in scorers.items()}


def spy_cast(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`cast` and `before` (a copy of all weights as they were loaded), filled in when a stage has loaded its roles."""
    seen: dict[str, Any] = {}
    original = ppo.load_cast

    def load(*arguments: Any, **options: Any) -> Cast:
        seen["cast"] = original(*arguments, **options)
        seen["before"] = everything(seen["cast"])
        return seen["cast"]

    monkeypatch.setattr(ppo, "load_cast", load)
    return seen


def before_update(monkeypatch: pytest.MonkeyPatch, call: Callable[[ppo.Stage, Any], None]) -> None:
    """Call something with stage and step before each update."""
    original = ppo.Stage._update

    def update(self: ppo.Stage, step: Any, rollout: Any) -> None:
        call(self, step)
        original(self, step, rollout)

    monkeypatch.setattr(ppo.Stage, "_update", update)
