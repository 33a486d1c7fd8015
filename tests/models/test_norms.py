"""The fused RMSNorm against the formula and autograd in float64."""

from __future__ import annotations

import pytest
import torch

from burnish.models.norms import fuse_norms, rms_norm
from tests.models.families import tiny


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_values_and_gradients_equal_the_formula(offset: float) -> None:
    x = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, dtype=torch.float64, requires_grad=True)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (w + offset)
    got = rms_norm(x, w, offset, 1e-6)
    upstream = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad((got * upstream).sum(), [x, w]),
        torch.autograd.grad((expected * upstream).sum(), [x, w]),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)


def test_which_layers_are_taken() -> None:
    # Gemma 3: four norms a layer and two of heads, three layers, and the last one. Llama: two a layer, and the last.
    assert fuse_norms(tiny("gemma3")) == 3 * 6 + 1
    assert fuse_norms(tiny("llama")) == 2 * 2 + 1
    assert fuse_norms(tiny("gpt2")) == 0, "LayerNorm is none"


def test_a_layer_that_computes_something_else_is_left_alone() -> None:
    class OddRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.randn(8)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight.sigmoid()

    assert fuse_norms(torch.nn.Sequential(OddRMSNorm())) == 0
