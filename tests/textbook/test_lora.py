"""The textbook's LoRA layer beside ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from burnish.models.config import LoRAConfig
from burnish.models.lora import LoRALinear as Ours
from burnish.models.routing import Route, routed
from textbook.lora import LoRALinear

ADAPTER = "policy"


def layers(linear: nn.Linear, rank: int, alpha: float | None) -> tuple[Ours, LoRALinear]:
    """Both forms on copies of a layer, with the same A and B."""
    theirs = LoRALinear(linear, rank=rank, alpha=alpha)
    copy = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, dtype=linear.weight.dtype)
    copy.load_state_dict(linear.state_dict())
    ours = Ours(copy.requires_grad_(False))
    ours.add(ADAPTER, LoRAConfig(rank=rank, alpha=16.0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs.b.normal_()
        ours.lora_a[ADAPTER].copy_(theirs.a)
        ours.lora_b[ADAPTER].copy_(theirs.b)
    return ours, theirs


def test_equal_in_value_and_gradient() -> None:
    ours, theirs = layers(nn.Linear(6, 5, dtype=torch.float64), rank=2, alpha=16.0)
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    weigh = torch.randn(3, 4, 5, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for layer, parameters in ((ours, (ours.lora_a[ADAPTER], ours.lora_b[ADAPTER])), (theirs, (theirs.a, theirs.b))):
        inputs = x.clone().requires_grad_()
        with routed(Route.single(ADAPTER)):
            y = layer(inputs)
            (y * weigh).sum().backward()
        found.append([y, inputs.grad, *(p.grad for p in parameters)])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
        assert own.abs().max() > 0
    assert theirs.linear.weight.grad is None
    assert ours.weight.grad is None


def test_a_fresh_adapter_changes_nothing_in_either() -> None:
    linear = nn.Linear(6, 5, dtype=torch.float64)
    ours = Ours(linear)
    ours.add(ADAPTER, LoRAConfig(), torch.Generator().manual_seed(0))
    x = torch.randn(2, 6, dtype=torch.float64)
    with routed(Route.single(ADAPTER)):
        assert torch.equal(ours(x), linear(x))
    assert torch.equal(LoRALinear(linear)(x), linear(x))


def test_without_the_rescale_the_update_grows_with_the_rank() -> None:
    # A and B all ones, input one: B A x = r. With alpha = 16 the update is 16 / r * r = 16 at any rank; without the
    # factor it is the rank, so a learning rate that was found at 8 is twice too high at 16.
    updates = {}
    for rank in (8, 16):
        for alpha in (16.0, None):
            layer = LoRALinear(nn.Linear(1, 1, bias=False, dtype=torch.float64), rank=rank, alpha=alpha)
            with torch.no_grad():
                layer.linear.weight.zero_()
                layer.a.fill_(1.0)
                layer.b.fill_(1.0)
            updates[rank, alpha] = layer(torch.ones(1, dtype=torch.float64)).item()
    assert updates == {(8, 16.0): 16.0, (16, 16.0): 16.0, (8, None): 8.0, (16, None): 16.0}
    assert [LoRAConfig(rank=rank).scale * rank for rank in (8, 16)] == [16.0, 16.0]


def test_merging_into_bfloat16_rounds_small_updates_away() -> None:
    # Between 1 and 2 bfloat16 has steps of 2^-7 = 0.0078: 1 + 0.003 is 1 again, and 1 + 0.006 becomes 1.0078. The layer
    # beside its adapter, in float32, keeps both.
    for update, merged in ((0.003, 1.0), (0.006, 1.0078125)):
        linear = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
        linear.weight.data.fill_(1.0)
        theirs = LoRALinear(linear, rank=1, alpha=1.0)
        theirs.a.data.fill_(1.0)
        theirs.b.data.fill_(update)
        assert theirs.merged().weight.item() == merged
        ours = Ours(linear)
        ours.add(ADAPTER, LoRAConfig(rank=1, alpha=1.0), torch.Generator().manual_seed(0))
        ours.lora_a[ADAPTER].data.fill_(1.0)
        ours.lora_b[ADAPTER].data.fill_(update)
        assert ours.delta(ADAPTER).dtype == torch.float32  # A and B stay wide, whatever the backbone's dtype
        assert (ours.weight.float() + ours.delta(ADAPTER)).item() == pytest.approx(1.0 + update)
