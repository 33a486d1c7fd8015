"""Linear layers for a few rows on a CPU: (W x^T)^T in place of x W^T.

The product is the same and so is the memory, but BLAS libraries share a product out to threads along the rows of its
result: a layer's many outputs can be shared out, a few rows can't. Decoding a batch is made of such products.

Legend: n rows, I and O a layer's input and output width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.models.routing import current_route

MOST_ROWS = 96
"""From here on the usual form is as fast."""
_DONE = "_burnish_turned"


def turned_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., O) x W^T + b of (..., I) x: turned around where it has few rows.

    Args:
        x: any number of leading dimensions.
        weight: (O, I), of the dtype of x.
        bias: (O,) or none.
    """
    rows = x.shape[:-1].numel()
    if rows > MOST_ROWS:
        return F.linear(x, weight, bias)
    y = torch.mm(weight, x.reshape(rows, -1).T).T.contiguous()
    if bias is not None:
        y += bias
    return y.view(*x.shape[:-1], -1)


def can_turn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether turned products are worth having: not with one thread, nor for bfloat16, whose kernels have their own
    layout of weights."""
    return device.type == "cpu" and dtype in (torch.float32, torch.float64) and torch.get_num_threads() > 1


def allow_turning(model: nn.Module) -> None:
    """Let a model's linear layers turn their products around in passes whose route says so. Safe to call again."""
    for module in model.modules():
        if type(module) is nn.Linear and not hasattr(module, _DONE):
            setattr(module, "forward", _turning(module, module.forward))  # noqa: B010  # mypy knows no such change
            setattr(module, _DONE, True)


def _turning(layer: nn.Linear, usual: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if current_route().turned and x.dtype == layer.weight.dtype:
            return turned_linear(x, layer.weight, layer.bias)
        return usual(x)

    return forward
