"""The vocabulary, a tile of columns at a time: what log-probabilities and entropies, and their gradients, are made of.

Legend: N tokens, n tokens of a tile, V vocabulary, D hidden, M substituted rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TOKEN_TILE = 512
VOCAB_TILE = 4096
"""A tile of logits (512 x 4096) fits in a CPU's last-level cache in fp32 and fills a matrix unit."""
CUDA_FACTOR = 4
"""Tiles are so many times longer in both directions on a GPU, where launches cost more than cache misses."""
NEGLIGIBLE = {torch.float32: 1e-6, torch.bfloat16: 1e-5}
"""By the dtype of the hidden states: the probability below which a token of the vocabulary counts only as a part of the
mean of its like. Of Gemma 3 270M, which computes a third (float32) and a seventh (bfloat16) of its 262,144 rows so, the
log-probs' gradient is off by 4e-4 and 4e-3 of LoRA's norm over real responses, all pulled the same way, and by less
where they pull against each other (tests/ops/test_real_logprobs.py, float32); a rounding step of bf16 is 4e-3. The
entropy's loses more where a distribution is nearly flat: it is a covariance, of which one mean keeps nothing within a
tile. Not in float64, and not on a GPU, where to ask which columns are left would stop the queue at every tile."""


def token_slices(hidden: Tensor) -> Iterator[slice]:
    """The tokens, a tile at a time."""
    step = TOKEN_TILE * (CUDA_FACTOR if hidden.is_cuda else 1)
    for start in range(0, hidden.shape[0], step):
        yield slice(start, start + step)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over the vocabulary are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, slots=True)
class Tile:
    """Columns of the vocabulary: `columns` is their range in `weight`, or none for the substituted rows."""

    weight: Tensor
    bias: Tensor | None
    columns: range | None
    hidden_columns: Tensor | None
    """Columns (within the tile) that the substituted rows stand for: they count there, not here."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The vocabulary as tiles, the substituted rows as one more tile."""

    weight: Tensor
    bias: Tensor | None
    rows: Tensor
    row_ids: Tensor
    scale: float
    softcap: float | None

    def __iter__(self) -> Iterator[Tile]:
        step = VOCAB_TILE * (CUDA_FACTOR if self.weight.is_cuda else 1)
        for start in range(0, self.weight.shape[0], step):
            stop = min(start + step, self.weight.shape[0])
            bias = None if self.bias is None else self.bias[start:stop]
            hidden_columns = None
            if self.row_ids.numel():
                inside = self.row_ids[(self.row_ids >= start) & (self.row_ids < stop)] - start
                hidden_columns = inside if inside.numel() else None
            yield Tile(self.weight[start:stop], bias, range(start, stop), hidden_columns)
        if self.row_ids.numel():
            bias = None if self.bias is None else self.bias[self.row_ids]
            yield Tile(self.rows, bias, None, None)

    def squash(self, logits: Tensor) -> Tensor:
        """The soft cap, where there is one."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """d logit / d (hidden . row) without the scale: f' of the soft cap at capped `logits`."""
        return None if self.softcap is None else 1.0 - (logits / self.softcap) ** 2

    def logits(self, hidden: Tensor, tile: Tile, dtype: torch.dtype) -> Tensor:
        """(N, tile) logits in the accumulation dtype; columns that count elsewhere are -inf."""
        logits = (hidden @ tile.weight.to(hidden.dtype).T).to(dtype)
        if self.scale != 1.0:
            logits *= self.scale
        if tile.bias is not None:
            logits += tile.bias
        logits = self.squash(logits)
        if tile.hidden_columns is not None:
            logits[:, tile.hidden_columns] = -torch.inf
        return logits

    def set_targets(self, values: Tensor, targets: Tensor, tile: Tile, value: float) -> None:
        """Write `value` into `values` (N, tile) wherever a token's own target stands; without a device sync."""
        if tile.columns is None:
            values.masked_fill_(targets.unsqueeze(1) == self.row_ids, value)
            return
        inside = (targets >= tile.columns.start) & (targets < tile.columns.stop)
        if self.row_ids.numel():
            inside &= ~torch.isin(targets, self.row_ids)
        column = (targets - tile.columns.start).clamp(0, len(tile.columns) - 1).unsqueeze(1)
        current = values.gather(1, column)
        values.scatter_(1, column, torch.where(inside.unsqueeze(1), torch.full_like(current, value), current))

    def target_rows(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, D) output rows of the targets."""
        rows = self.weight[targets].to(dtype)
        if self.row_ids.numel():
            tokens, which = (targets.unsqueeze(1) == self.row_ids).nonzero(as_tuple=True)
            rows[tokens] = self.rows[which].to(dtype)
        return rows

    def target_logits(self, hidden: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """(N,) logits of the targets in the accumulation dtype.

        Apart from the tiles, because a bf16 logit of 20 is rounded to 0.06: the rest of the vocabulary averages
        that out in the sum, the target would keep it.
        """
        logits = (hidden.to(rows.dtype) * rows).sum(-1) * self.scale
        if self.bias is not None:
            logits = logits + self.bias[targets]
        return self.squash(logits)


class WeighedRows:
    """The rows of a tile, to be summed with weights; those that are negligible for all of its tokens as one mean row.

    The mean is weighted by the rows' shares over all tokens, so that what it is off by at one token it makes good at
    others; all but what the shares, of the sum so far, overrate where a token's mass lies in later tiles.
    """

    def __init__(self, rows: Tensor, share: Tensor, total: Tensor, hidden: Tensor) -> None:
        """Args:
        rows: (tile, D).
        share: (n, tile) how much each row counts at most: exp(logit - the highest so far), or more.
        total: (n,) the sum of exp over the vocabulary so far; it only grows, so that a share is never underrated.
        hidden: (n, D) the tile's hidden states, for their dtype and device.
        """
        self.rows, self.dtype = rows.to(hidden.dtype), hidden.dtype
        self.columns = columns_with_mass(share, total, hidden)
        if self.columns is not None:
            self.others = torch.ones_like(share[0]).index_fill_(0, self.columns, 0.0)
            common = total.reciprocal() @ share * self.others
            common /= common.sum().clamp_(min=torch.finfo(common.dtype).tiny)
            self.mean = common @ self.rows.to(common.dtype)
            self.rows = self.rows[self.columns]

    def add_to(self, sums: Tensor, weights: Tensor) -> None:
        """Add sum_v weights_v rows_v to `sums` (n, D), in place, given `weights` (n, tile)."""
        if self.columns is not None:
            sums.addr_(weights @ self.others, self.mean)
            weights = weights[:, self.columns]
        sums.add_(weights.to(self.dtype) @ self.rows)


def columns_with_mass(share: Tensor, total: Tensor, hidden: Tensor) -> Tensor | None:
    """The columns of a tile that are not negligible for all of its tokens, or none where all are to be computed: also
    where a token has NaN, which is its own and would reach the others through the mean. Arguments as `WeighedRows`."""
    least = NEGLIGIBLE.get(hidden.dtype)
    if least is None or hidden.is_cuda or not total.isfinite().all():
        return None
    above = (share - (least * total).unsqueeze(1)).amax(0)  # `any` of a comparison takes three times as long
    columns = (above > 0).nonzero().squeeze(1)
    return columns if 2 * columns.numel() < share.shape[1] else None


def output_gradients(
    needs: tuple[bool, bool, bool],
    tiles: Tiles,
    hidden: Tensor,
    grad: Tensor,
    slopes: Callable[[Tensor, Tile, slice], Tensor],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the output matrix, its bias and the substituted rows; logits are computed again by tile.

    Args:
        needs: which of the three are wanted.
        tiles: the vocabulary.
        hidden: (N, D) hidden states.
        grad: (N,) the gradient that comes down to each token's result, in the accumulation dtype.
        slopes: from (n, tile) logits of a tile and a part of the tokens to d result / d logit.
    """
    need_weight, need_bias, need_rows = needs
    grad_weight = torch.zeros_like(tiles.weight) if need_weight else None
    grad_bias = torch.zeros_like(tiles.bias) if need_bias and tiles.bias is not None else None
    grad_rows = torch.zeros_like(tiles.rows) if need_rows else None
    for tile in tiles:
        substituted = tile.columns is None
        if not substituted and not (need_weight or need_bias):
            continue
        for part in token_slices(hidden):
            logits = tiles.logits(hidden[part], tile, grad.dtype)
            weights = slopes(logits, tile, part)
            slope = tiles.slope(logits)
            if slope is not None:
                weights = torch.where(torch.isneginf(logits), 0.0, weights * slope)
            weights *= grad[part].unsqueeze(1)
            if grad_bias is not None:
                where = (
                    tiles.row_ids
                    if tile.columns is None
                    else torch.arange(tile.columns.start, tile.columns.stop, device=hidden.device)
                )
                grad_bias.index_add_(0, where, weights.sum(0).to(grad_bias.dtype))
            outer = (weights.T.to(hidden.dtype) @ hidden[part]) * tiles.scale
            if substituted and grad_rows is not None:
                grad_rows += outer
            elif tile.columns is not None and grad_weight is not None:
                grad_weight[tile.columns.start : tile.columns.stop] += outer
    return grad_weight, grad_bias, grad_rows
