"""The product of a LoRA layer as one node of the graph, for one adapter or for several on rows of their own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Span = tuple[slice | None, float]
"""The rows that an adapter stands on (none for all of them) and its factor alpha / r."""


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    spans: tuple[Span, ...],
    parts: list[tuple[Tensor, Tensor, Tensor | None]],
) -> Tensor:
    """y = x W^T + b, and on the rows of each span + s d(x) A^T B^T.

    Args:
        x: (..., I) input.
        weight: (O, I) frozen.
        bias: (O,) frozen, or none.
        spans: rows of x flattened to two dimensions, and the factor, of each part.
        parts: A (r, I), B (O, r) and dropout's mask over the part's rows, or none.

    Returns:
        (..., O).
    """
    y: Tensor = _LoRAFunction.apply(x, weight, bias, spans, *(tensor for part in parts for tensor in part))
    return y


class _LoRAFunction(torch.autograd.Function):
    """The frozen product is one over all rows; each part's low-rank term is added in place to its own.

    The frozen weight is used as it lies: no cast, no copy, no gradient. Saved for backward are the input (which the
    neighbouring layers save anyway) and the parts' (.., r) products, each only if a gradient will ask for it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spans: tuple[Span, ...], *tensors: Tensor | None
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = F.linear(flat, weight, bias)
        need_x, saved, any_a = ctx.needs_input_grad[0], [], False
        for i, (rows, scale) in enumerate(spans):
            a, b, keep = _part(tensors, i)
            need_a, need_b = _needs(ctx, i)
            a, b = a.to(weight.dtype), b.to(weight.dtype)
            inner = _masked(_of(flat, rows), keep) @ a.T
            _of(y, rows).addmm_(inner, b.T, alpha=scale)
            saved += [
                a if need_x else None,
                b if need_x or need_a else None,
                keep if need_x or need_a else None,
                inner if need_b else None,
            ]
            any_a = any_a or need_a
        ctx.spans, ctx.shape = spans, x.shape
        ctx.save_for_backward(x if any_a else None, weight if need_x else None, *saved)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        flat: Any = None if x is None else x.reshape(-1, x.shape[-1])
        master = torch.float64 if g.dtype == torch.float64 else torch.float32
        grad_x = g @ weight if ctx.needs_input_grad[0] else None
        grads: list[Tensor | None] = []
        for i, (rows, scale) in enumerate(ctx.spans):
            a, b, keep, inner = saved[4 * i : 4 * i + 4]
            need_a, need_b = _needs(ctx, i)
            own, grad_a, grad_b = _of(g, rows), None, None
            if grad_x is not None or need_a:
                g_inner = own @ b
                if grad_x is not None and keep is None:
                    _of(grad_x, rows).addmm_(g_inner, a, alpha=scale)
                elif grad_x is not None:
                    _of(grad_x, rows).add_((g_inner @ a) * keep.reshape(-1, keep.shape[-1]) * scale)
                if need_a:
                    grad_a = (g_inner.T @ _masked(_of(flat, rows), keep)).to(master) * scale
            if need_b:
                grad_b = (own.T @ inner).to(master) * scale
            grads += [grad_a, grad_b, None]
        return (None if grad_x is None else grad_x.view(ctx.shape), None, None, None, *grads)


def _of(flat: Tensor, rows: slice | None) -> Tensor:
    return flat if rows is None else flat[rows]


def _masked(flat: Tensor, keep: Tensor | None) -> Tensor:
    return flat if keep is None else flat * keep.reshape(flat.shape)


def _part(tensors: tuple[Tensor | None, ...], i: int) -> tuple[Tensor, Tensor, Tensor | None]:
    a, b, keep = tensors[3 * i : 3 * i + 3]
    assert a is not None
    assert b is not None
    return a, b, keep


def _needs(ctx: Any, i: int) -> tuple[bool, bool]:
    """Whether the part's A and B ask for a gradient."""
    a, b = ctx.needs_input_grad[4 + 3 * i : 6 + 3 * i]
    return a, b
