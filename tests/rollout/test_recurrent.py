"""Models that keep a state of their own are sampled too: a cache by the model, a hybrid, and none at all."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Lfm2Config,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RwkvConfig,
)

from burnish.data.groups import PromptGroup, Response, collate
from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.roles import Backbone, response_logprobs
from burnish.rollout.sampler import SamplingParams, sample
from tests.rollout.test_sampler import SAMPLED, generated, ids_of, prompts

_COMMON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "mamba": MambaConfig(**_COMMON, state_size=4, pad_token_id=0),
    "lfm2": Lfm2Config(
        **_COMMON,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        pad_token_id=0,
    ),
    "rwkv": RwkvConfig(**_COMMON, attention_hidden_size=32, pad_token_id=0),
}
LENGTHS = (5, 1, 12, 5, 3, 12, 5)


def model_of(kind: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]).to(torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_is_what_transformers_generates(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(kind)
    free = generated(model, prompts(LENGTHS)[0], max_new_tokens=12, eos_token_id=-1)
    stop = (free[4], free[7])
    expected = [generated(model, p, max_new_tokens=12, eos_token_id=list(stop)) for p in prompts(LENGTHS)]
    assert len({len(ids) for ids in expected}) > 1, "rows must leave at different times"
    backbone = Backbone(model)
    assert backbone.layout == "rows"
    with caplog.at_level(logging.WARNING):
        params = SamplingParams(max_new_tokens=12, temperature=0.0, stop_ids=stop)
        got = sample(backbone.role(), prompts(LENGTHS), params, batch_size=2)
    assert [row[0].ids for row in got] == expected
    assert "4 groups of one length each" in caplog.text


@pytest.mark.parametrize("kind", CONFIGS)
def test_samples_depend_on_seed_prompt_and_sample_only_and_logprobs_are_the_trainers(kind: str) -> None:
    model = model_of(kind)
    role = Backbone(model).role()
    wide = sample(role, prompts(LENGTHS), SAMPLED, n=3, batch_size=64)
    narrow = sample(role, prompts(LENGTHS), SAMPLED, n=3, batch_size=2)
    assert ids_of(wide) == ids_of(narrow)
    for prompt, row in zip(prompts(LENGTHS), wide, strict=True):
        for s in row:  # one response at a time: these models are not masked against padding on the right
            group = PromptGroup(tuple(prompt), (Response.full(s.ids),))
            logps = response_logprobs(role, collate([group], layout="rows")).token
            assert torch.allclose(torch.tensor(s.logprobs).to(logps), logps, rtol=0, atol=1e-4)


def test_an_adapter_is_used() -> None:
    model = model_of("mamba")
    backbone = Backbone(model)
    params = SamplingParams(max_new_tokens=10, temperature=0.0)
    before = ids_of(sample(backbone.role(), prompts(LENGTHS), params))
    inject(model, "a", LoRAConfig(rank=2), seed=0)
    with torch.no_grad():
        for i, p in enumerate(adapter_parameters(model, "a").values()):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
    assert ids_of(sample(backbone.role("a"), prompts(LENGTHS), params)) != before
    assert ids_of(sample(backbone.role(), prompts(LENGTHS), params)) == before
