"""The entropy of the next-token distribution, exact and differentiable, without a tokens x vocabulary tensor.

With logits z = f(s W h + b), as in `logprobs.py`, p = softmax(z) and m = sum_v p_v z_v,

    H = logsumexp(z) - m
    dH / dz_v = -p_v (z_v - m)
    dH / dh = -s sum_v p_v (z_v - m) f'_v W_v

Value and gradient come from one pass over the tiles, with the running maximum of online softmax (Milakov & Gimelshein
2018, arXiv:1805.02867) and, for the gradient, the running mean of the logits: what has been summed up is moved to the
new mean by sum_v p_v f'_v W_v, which is kept beside it. Three products over the vocabulary where a gradient is wanted,
one where none is, none in backward unless the output matrix trains.

Legend: N tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.ops.logprobs import OutputHead
from burnish.ops.tiles import Tile, Tiles, WeighedRows, accumulate_dtype, output_gradients, token_slices


def token_entropy(hidden: Tensor, head: OutputHead) -> Tensor:
    """Entropy of the next-token distribution at each position.

    Args:
        hidden: (N, D) hidden states, in the compute dtype.
        head: the output projection; gradients reach `weight`, `bias` and `rows` where they require them.

    Returns:
        (N,) nats, in fp32 (float64 for float64 input). Exact but for the products' rounding: a bf16 logit of 20 is off
        by up to 0.06.
    """
    if head.whole:
        log_p = head.log_softmax(hidden)
        return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)  # not 0 times -inf
    rows, row_ids = head.rows, head.row_ids
    if row_ids is None or rows is None:
        row_ids = torch.empty(0, dtype=torch.long, device=hidden.device)
        rows = head.weight.new_empty(0, head.weight.shape[1])
    result: Tensor = _TokenEntropy.apply(hidden, head.weight, head.bias, rows, row_ids, head.scale, head.softcap)
    return result


class _TokenEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        row_ids: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        dtype = accumulate_dtype(hidden.dtype)
        tiles = Tiles(weight, bias, rows, row_ids, scale, softcap)
        entropy = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        lse = torch.empty_like(entropy)
        jacobian = torch.empty(hidden.shape, dtype=dtype, device=hidden.device) if ctx.needs_input_grad[0] else None
        for part in token_slices(hidden):
            gradient = None if jacobian is None else jacobian[part]
            entropy[part], lse[part] = _entropy_of_tile(hidden[part], tiles, dtype, gradient)
        ctx.scale, ctx.softcap, ctx.dtype = scale, softcap, hidden.dtype
        kept = (hidden, weight, bias, rows, row_ids, lse, lse - entropy) if any(ctx.needs_input_grad[1:4]) else ()
        ctx.save_for_backward(jacobian, *kept)
        return entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        jacobian, *kept = ctx.saved_tensors
        grad_hidden = grad_weight = grad_bias = grad_rows = None
        if jacobian is not None:
            grad_hidden = (jacobian * grad.unsqueeze(1)).to(ctx.dtype)
        if kept:
            hidden, weight, bias, rows, row_ids, lse, mean = kept
            tiles = Tiles(weight, bias, rows, row_ids, ctx.scale, ctx.softcap)

            def slopes(logits: Tensor, tile: Tile, part: slice) -> Tensor:
                p = torch.exp(logits - lse[part].unsqueeze(1))
                return torch.where(p > 0, p * (mean[part].unsqueeze(1) - logits), 0.0)

            grad_weight, grad_bias, grad_rows = output_gradients(ctx.needs_input_grad[1:4], tiles, hidden, grad, slopes)
        return grad_hidden, grad_weight, grad_bias, grad_rows, None, None, None


def _entropy_of_tile(
    hidden: Tensor, tiles: Tiles, dtype: torch.dtype, jacobian: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Entropy and logsumexp of up to TOKEN_TILE tokens; fills `jacobian` (n, D) with dH / dh.

    All sums are of exp(z - highest). The most probable token stays out of `others`: near a one-hot distribution
    H = log1p(others) - offset is a sum of two small terms without a minus between them.
    """
    lowest = torch.finfo(dtype).min  # and not -inf, whose difference to itself is no number
    highest = torch.full(hidden.shape[:1], lowest, dtype=dtype, device=hidden.device)
    others, moment = torch.zeros_like(highest), torch.zeros_like(highest)  # sum e^d, sum d e^d with d = z - highest
    mean, mass = torch.zeros_like(highest), None if jacobian is None else jacobian.new_zeros(jacobian.shape)
    if jacobian is not None:
        jacobian.zero_()
    for tile in tiles:
        logits = tiles.logits(hidden, tile, dtype)
        best, place = logits.max(-1)
        new_highest = torch.maximum(highest, best)
        drop = highest - new_highest
        shrink = torch.exp(drop)
        slope = None if jacobian is None else tiles.slope(logits)
        distance = logits.sub_(new_highest.unsqueeze(1))
        e = torch.exp(distance)
        distance.masked_fill_(e == 0, 0.0)  # 0 times -inf
        moment = shrink * (moment + drop * (1.0 + others)) + (e * distance).sum(-1)
        # One of the two highest has the weight 1 and stays out, the other joins the rest.
        top = torch.minimum(shrink, torch.exp(best - new_highest))
        rest = e.scatter(1, place.unsqueeze(1), 0.0).sum(-1)
        others = shrink * others + rest + top
        if jacobian is not None and mass is not None:
            offset = moment / (1.0 + others)
            new_mean = new_highest + offset
            jacobian.add_(mass * (mean - new_mean).unsqueeze(1)).mul_(shrink.unsqueeze(1))
            mass.mul_(shrink.unsqueeze(1))
            mean = new_mean
            _add_tile(jacobian, mass, e, distance.sub_(offset.unsqueeze(1)), slope, 1.0 + others, tile, hidden)
        highest = new_highest
    total = 1.0 + others
    if jacobian is not None:
        jacobian.mul_((-tiles.scale / total).unsqueeze(1))
    return torch.log1p(others) - moment / total, highest + torch.log1p(others)


def _add_tile(
    jacobian: Tensor,
    mass: Tensor,
    e: Tensor,
    distance: Tensor,
    slope: Tensor | None,
    total: Tensor,
    tile: Tile,
    hidden: Tensor,
) -> None:
    """Add a tile's sum_v e_v (z_v - mean) f'_v W_v to `jacobian`, and sum_v e_v f'_v W_v to `mass`.

    Args:
        jacobian: (n, D).
        mass: (n, D).
        e: (n, tile) exp(z - highest).
        distance: (n, tile) z - mean.
        slope: (n, tile) f', or none for 1.
        total: (n,) the sum of e so far.
        tile: the columns.
        hidden: (n, D), for its dtype and device.
    """
    rows = WeighedRows(tile.weight, e * distance.abs().clamp_(min=1.0), total, hidden)
    if slope is not None:
        e = torch.where(e > 0, e * slope, 0.0)
    rows.add_to(mass, e)
    rows.add_to(jacobian, e * distance)
