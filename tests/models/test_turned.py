"""Products of few rows turned around: the usual form, in float64; where they are taken and where not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.roles import Backbone
from burnish.models.routing import PLAIN, routed
from burnish.models.turned import MOST_ROWS, allow_turning, can_turn, turned_linear
from burnish.rollout.sampler import SamplingParams, route_of, sample
from tests.models.families import FAMILIES, tiny
from tests.models.test_core import TOLERANCE


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 1, 7), (2, 3, 7), (MOST_ROWS, 7), (MOST_ROWS + 1, 7)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_the_usual_product(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64) if with_bias else None
    found = turned_linear(x, weight, bias)
    assert found.is_contiguous()
    assert found.shape == (*shape[:-1], 4)
    assert torch.allclose(found, F.linear(x, weight, bias), rtol=0, atol=1e-13)


def test_layers_turn_only_where_the_route_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(7, 4)
    allow_turning(nn.ModuleList([layer]))
    allow_turning(nn.ModuleList([layer]))  # once is enough
    turned: list[torch.Size] = []

    def noted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        turned.append(x.shape)
        return F.linear(x, weight, bias)

    monkeypatch.setattr("burnish.models.turned.turned_linear", noted)
    x = torch.randn(3, 7)
    layer(x)
    assert turned == []
    with routed(replace(PLAIN, turned=True)):
        layer(x)
        assert turned == [x.shape]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(x.bfloat16())  # of another dtype than the weight
    assert turned == [x.shape]


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_turned_sampling_is_plain_sampling(family: str, two_threads: None) -> None:
    """The lower layers' own products and the last one's merged ones. gpt_neox's layers have biases; gpt2's are no
    `nn.Linear`, but its merged weights are turned."""
    model = tiny(family, dtype=torch.float64)
    inject(model, "a", LoRAConfig(rank=2, layers="last-1"), seed=0)
    for parameter in adapter_parameters(model, "a").values():
        torch.nn.init.normal_(parameter, std=0.1)
    role = Backbone(model).role("a")
    prompts = [[5, 7, 11], [3, 4], [8, 9, 10, 12, 13]]
    found = {}
    for decoding in ("plain", "merged"):
        params = SamplingParams(max_new_tokens=8, seed=3, decoding=decoding)
        found[decoding] = [one for (one,) in sample(role, prompts, params)]
    for plain, merged in zip(found["plain"], found["merged"], strict=True):
        assert plain.ids == merged.ids
        apart = torch.tensor(plain.logprobs, dtype=torch.float64) - torch.tensor(merged.logprobs, dtype=torch.float64)
        assert apart.abs().max() <= TOLERANCE


def test_the_sampler_turns_unless_it_is_to_be_plain(two_threads: None) -> None:
    model = tiny("llama")
    inject(model, "a", LoRAConfig(rank=2), seed=0)
    role = Backbone(model).role("a")
    for decoding, expected in (("auto", True), ("merged", True), ("adapter", True), ("plain", False)):
        assert route_of(role, SamplingParams(decoding=decoding), 64).turned == expected
    assert not can_turn(torch.device("cpu"), torch.bfloat16)
    torch.set_num_threads(1)
    assert not can_turn(torch.device("cpu"), torch.float32)
