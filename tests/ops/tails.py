"""A vocabulary whose tail points one way."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tail_that_points_one_way(probability: float) -> tuple[Tensor, Tensor, Tensor]:
    """Output rows, bias and three hidden states: two tokens have nearly all of the mass, and 2,000 tokens of about this
    probability each have all the same row (0, 1)."""
    weight = torch.zeros(2002, 2)
    weight[0, 0], weight[1, 0] = 1.0, -1.0
    weight[2:, 1] = 1.0
    bias = torch.full((2002,), math.log(probability))
    bias[:2] = math.log(0.5)
    return weight, bias, torch.tensor([[0.0, 0.0], [0.3, -0.5], [-0.2, 0.5]])
