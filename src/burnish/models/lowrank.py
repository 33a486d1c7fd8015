"""The product of a LoRA layer as one node of the graph, for one adapter or for several on rows of their own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.models.remade import to_save

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


def plain_lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    spans: tuple[Span, ...],
    parts: list[tuple[Tensor, Tensor, Tensor | None]],
) -> Tensor:
    """`lora_linear` for one adapter on all rows, its gradients left to autograd; to compare with."""
    ((_, scale),), ((a, b, keep),) = spans, parts
    inner = F.linear(x if keep is None else x * keep, a.to(weight.dtype))
    return F.linear(x, weight, bias) + scale * F.linear(inner, b.to(weight.dtype))


class _LoRAFunction(torch.autograd.Function):
    """The frozen product is one over all rows; each part's low-rank term is added in place to its own.

    The frozen weight is used as it lies: no cast, no copy, no gradient. Saved for backward are the input, or what it is
    made again of, and the parts' (.., r) products, each only if a gradient will ask for it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spans: tuple[Span, ...], *tensors: Any
    ) -> Tensor:
        needs = ctx.needs_input_grad  # 4 + 3 i: A of part i, then its B
        need_x, any_a, saved = needs[0], False, []
        flat = x.reshape(-1, x.shape[-1])
        y = F.linear(flat, weight, bias)
        at = 0
        for rows, scale in spans:  # no calls in here: decoding comes by for every layer and token
            a, b, keep = tensors[at : at + 3]
            need_a, need_b = needs[at + 4], needs[at + 5]
            a, b = a.to(weight.dtype), b.to(weight.dtype)
            own, out = (flat, y) if rows is None else (flat[rows], y[rows])
            inner = (own if keep is None else own * keep.reshape(own.shape)) @ a.T
            out.addmm_(inner, b.T, alpha=scale)
            way_back = need_x or need_a
            saved += [
                a if need_x else None,
                b if way_back else None,
                keep if way_back else None,
                inner if need_b else None,
            ]
            any_a = any_a or need_a
            at += 3
        ctx.spans, ctx.shape = spans, x.shape
        ctx.remaker, kept = to_save(x) if any_a else (None, ())
        ctx.save_for_backward(weight if need_x else None, *saved, *kept)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        kept = tuple(saved[4 * len(ctx.spans) :])
        x = kept[0] if kept and ctx.remaker is None else None
        if ctx.remaker is not None:
            x = ctx.remaker.remade(kept)
        g = grad.reshape(-1, grad.shape[-1])
        flat: Any = None if x is None else x.reshape(-1, x.shape[-1])
        master = torch.float64 if g.dtype == torch.float64 else torch.float32
        grad_x = g @ weight if ctx.needs_input_grad[0] else None
        grads: list[Tensor | None] = []
        for i, (rows, scale) in enumerate(ctx.spans):
            a, b, keep, inner = saved[4 * i : 4 * i + 4]
            need_a, need_b = ctx.needs_input_grad[4 + 3 * i : 6 + 3 * i]
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
