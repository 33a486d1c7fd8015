"""The gated product against the formula and autograd in float64, and which MLPs it is put into."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from burnish.models import gated
from burnish.models.gated import fuse_gates, gated_product
from tests.models.families import tiny


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(("known", "formula"), zip(gated._ACTIVATIONS, (silu, gelu_tanh, gelu), strict=True))
@pytest.mark.parametrize("trains", ["both", "gate", "up"])
def test_values_and_gradients_equal_the_formula(known: Any, formula: Any, trains: str) -> None:
    gate = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=trains != "up")
    up = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=trains != "gate")
    expected, got = formula(gate) * up, gated_product(gate, up, known)
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    upstream, inputs = torch.randn_like(expected), [x for x in (gate, up) if x.requires_grad]
    for a, b in zip(
        torch.autograd.grad((got * upstream).sum(), inputs),
        torch.autograd.grad((expected * upstream).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_which_mlps_are_taken() -> None:
    # Phi 3 has gate and up as the halves of one layer; GPT-2 and NeoX have no gate.
    taken = {"llama": 2, "gemma2": 2, "gemma3": 3, "qwen3": 2, "phi3": 2, "gpt2": 0, "gpt_neox": 0}
    assert {family: fuse_gates(tiny(family)) for family in taken} == taken


class MLP(nn.Module):
    """What the node would be put into, but for what a test changes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(6, 8), nn.Linear(6, 8)
        self.down_proj, self.act_fn = nn.Linear(8, 6), nn.SiLU()

    def forward(self, x: torch.Tensor) -> Any:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def test_an_mlp_that_computes_something_else_is_left_alone() -> None:
    class Doubled(MLP):
        def forward(self, x: torch.Tensor) -> Any:
            return 2 * super().forward(x)

    class Pair(MLP):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), None

    class Turned(MLP):  # the other one goes through the activation
        def forward(self, x: torch.Tensor) -> Any:
            return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))

    class Clamped(MLP):
        def forward(self, x: torch.Tensor) -> Any:
            gate, up = self.gate_proj(x).clamp(max=50.0), self.up_proj(x).clamp(-50.0, 50.0)
            return self.down_proj(self.act_fn(gate) * up)

    class OfLayer(MLP):
        def forward(self, x: torch.Tensor, layer: int | None = None) -> Any:
            return super().forward(x)

    class Failing(MLP):
        def forward(self, x: torch.Tensor) -> Any:
            raise KeyError(None)

    class Zero(MLP):  # its output tells nothing of what happens inside
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.down_proj.weight)

        def forward(self, x: torch.Tensor) -> Any:
            return self.down_proj(self.gate_proj(x))

    unknown, none = MLP(), MLP()
    unknown.act_fn = nn.Tanh()  # type: ignore[assignment]
    del none.act_fn
    assert fuse_gates(nn.Sequential(MLP())) == 1
    for odd in (Doubled(), Pair(), Turned(), Clamped(), OfLayer(), Failing(), Zero(), unknown, none):
        assert fuse_gates(nn.Sequential(odd)) == 0


def test_an_activation_that_clamps_is_left_alone() -> None:
    assert fuse_gates(tiny("llama", hidden_act="gelu_10")) == 0, "at most 10, which small numbers do not show"


def test_of_different_dtypes_the_product_is_the_models_own() -> None:
    gate, up = torch.randn(4, dtype=torch.bfloat16, requires_grad=True), torch.randn(4, requires_grad=True)
    assert torch.equal(gated_product(gate, up, gated._ACTIVATIONS[0]), torch.nn.functional.silu(gate) * up)


def test_half_precision_has_the_bits_of_the_model() -> None:
    module = MLP().to(torch.bfloat16)
    x = torch.randn(5, 6, dtype=torch.bfloat16, requires_grad=True)
    own = module(x)
    own.sum().backward()
    expected, x.grad = x.grad, None
    assert fuse_gates(nn.Sequential(module)) == 1
    got = module(x)
    got.sum().backward()
    assert torch.equal(got, own)
    assert expected is not None
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
