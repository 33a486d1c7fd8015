"""A linear layer with LoRA: y = W x + (alpha / r) B A x."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable update of rank r.

    Args:
        linear: the layer; its weights are frozen.
        rank: r.
        alpha: the update is scaled by alpha / r; none leaves it as it is.
    """

    def __init__(self, linear: nn.Linear, rank: int = 8, alpha: float | None = 16.0) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, linear.in_features, dtype=linear.weight.dtype) * 0.01)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, dtype=linear.weight.dtype))
        self.scale = 1.0 if alpha is None else alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * (x @ self.a.T @ self.b.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that does the same."""
        linear = self.linear
        plain = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, dtype=linear.weight.dtype)
        plain.load_state_dict(linear.state_dict())
        plain.weight += self.scale * self.b @ self.a
        return plain
