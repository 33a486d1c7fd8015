"""From hidden states to log-probabilities of given tokens, without a tokens x vocabulary tensor.

For token t with hidden state h, target y and logits z = f(s W h + b), where f is the identity or a soft cap,

    log p(y) = z_y - logsumexp(z)
    d log p(y) / d h = s (f'_y W_y - sum_v p_v f'_v W_v)

The right-hand side does not depend on the loss, so it is accumulated while the logits of a tile are at hand, with
the running maximum of online softmax (Milakov & Gimelshein 2018, arXiv:1805.02867). Backward is then one product
per token: two matrix products over the vocabulary in all, none of them in backward, and memory flat in V. Only when
the output matrix itself is trained are the logits computed again, tile by tile.

Most of a vocabulary has next to no share in the sum over v: on a CPU the second product computes only the columns of a
tile that are not negligible for every token in it (Wijmans et al. 2025, arXiv:2411.09009, section 4.3, who leave the
others out, by block, in bf16). The others count all together, as their mean row: little as each of them is, they are
many, point the same way in an embedding and at every token, and a loss that adds up tokens adds up what is missing.
Log-probs are exact all the same; `NEGLIGIBLE` says what the gradient loses.

Legend: N tokens, V vocabulary, D hidden, M substituted rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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


@dataclass(frozen=True, slots=True)
class OutputHead:
    """The output projection of a language model.

    Attributes:
        weight: (V, D).
        bias: (V,) or none.
        scale: logits are multiplied by it (Cohere's `logit_scale`, the inverse of Granite's `logits_scaling`).
        softcap: logits become c * tanh(logits / c) (Gemma 2), or none.
        row_ids: (M,) tokens whose rows of `weight` are replaced by `rows`, or none.
        rows: (M, D) the trainable rows.
        whole: whether log-probs and entropies are made of whole logits by autograd, not tile by tile; to compare with.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    row_ids: Tensor | None = None
    rows: Tensor | None = None
    whole: bool = False

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) logits of (..., D) hidden states, whole; for sampling, where all of them are needed."""
        return self.finished(torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype)), hidden)

    def log_softmax(self, hidden: Tensor) -> Tensor:
        """(N, V) log-probabilities of the whole vocabulary, in fp32 (float64 for float64 input)."""
        return torch.log_softmax(self.logits(hidden).to(accumulate_dtype(hidden.dtype)), dim=-1)

    def finished(self, logits: Tensor, hidden: Tensor) -> Tensor:
        """The logits, given their products (..., V) with `weight`: rows replaced, scale, bias and soft cap applied."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        if self.row_ids is not None and self.rows is not None:
            logits = logits.index_copy(-1, self.row_ids, hidden @ self.rows.to(hidden.dtype).T)
        logits = logits * self.scale if self.scale != 1.0 else logits
        logits = logits if bias is None else logits + bias
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def tempered(self, temperature: float) -> OutputHead:
        """The head whose logits are these divided by `temperature`: (c tanh(z / c)) / T is c' tanh(z' / c') with
        c' = c / T and z' = z / T.

        Raises:
            ValueError: when the temperature is not a positive, finite number.
        """
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"a head's temperature must be positive and finite (got {temperature!r})")
        if temperature == 1.0:
            return self
        return replace(
            self,
            bias=None if self.bias is None else self.bias.to(accumulate_dtype(self.bias.dtype)) / temperature,
            scale=self.scale / temperature,
            softcap=None if self.softcap is None else self.softcap / temperature,
        )


def token_logprobs(hidden: Tensor, head: OutputHead, targets: Tensor) -> Tensor:
    """Log-probability of each target token.

    Args:
        hidden: (N, D) hidden states that predict the targets, in the compute dtype.
        head: the output projection; gradients reach `weight`, `bias` and `rows` where they require them.
        targets: (N,) token ids.

    Returns:
        (N,) log-probabilities in nats, in fp32 (float64 for float64 input).
    """
    if head.whole:
        return head.log_softmax(hidden).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    rows, row_ids = head.rows, head.row_ids
    if row_ids is None or rows is None:
        row_ids, rows = targets.new_empty(0), head.weight.new_empty(0, head.weight.shape[1])
    result: Tensor = _TokenLogprobs.apply(
        hidden, head.weight, head.bias, rows, row_ids, targets, head.scale, head.softcap
    )
    return result


@torch.no_grad()
def token_kl(hidden: Tensor, reference_hidden: Tensor, head: OutputHead, reference_head: OutputHead) -> Tensor:
    """KL(policy || reference) over the whole vocabulary at each position, exact, without gradient.

    Args:
        hidden: (N, D) hidden states of the policy.
        reference_hidden: (N, D) hidden states of the reference at the same positions.
        head: the policy's output projection.
        reference_head: the reference's output projection, over the same vocabulary.

    Returns:
        (N,) KL in nats.
    """
    dtype = accumulate_dtype(hidden.dtype)
    out = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
    step = max(1, 2**24 // head.weight.shape[0])
    for start in range(0, hidden.shape[0], step):
        part = slice(start, start + step)
        log_p, log_q = head.log_softmax(hidden[part]), reference_head.log_softmax(reference_hidden[part])
        out[part] = (log_p.exp() * (log_p - log_q)).sum(-1)
    return out


def token_slices(hidden: Tensor) -> Iterator[slice]:
    """The tokens, a tile at a time."""
    step = TOKEN_TILE * (CUDA_FACTOR if hidden.is_cuda else 1)
    for start in range(0, hidden.shape[0], step):
        yield slice(start, start + step)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over the vocabulary are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        row_ids: Tensor,
        targets: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        need_hidden, need_rows = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        need_weight = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        dtype = accumulate_dtype(hidden.dtype)
        tiles = Tiles(weight, bias, rows, row_ids, scale, softcap)
        logp = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        lse = torch.empty_like(logp)
        jacobian = torch.empty(hidden.shape, dtype=dtype, device=hidden.device) if need_hidden else None
        for part in token_slices(hidden):
            gradient = None if jacobian is None else jacobian[part]
            logp[part], lse[part] = _logprobs_of_tile(hidden[part], targets[part], tiles, dtype, gradient)
        ctx.scale, ctx.softcap, ctx.dtype = scale, softcap, hidden.dtype
        keep = need_rows or need_weight
        ctx.save_for_backward(
            jacobian, hidden if keep else None, lse if keep else None, weight, bias, rows, row_ids, targets
        )
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        jacobian, hidden, lse, weight, bias, rows, row_ids, targets = ctx.saved_tensors
        grad_hidden = grad_weight = grad_bias = grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_hidden = (jacobian * grad.unsqueeze(1)).to(ctx.dtype)
        if any(ctx.needs_input_grad[i] for i in (1, 2, 3)):
            tiles = Tiles(weight, bias, rows, row_ids, ctx.scale, ctx.softcap)

            def slopes(logits: Tensor, tile: Tile, part: slice) -> Tensor:
                weights = -torch.exp(logits - lse[part].unsqueeze(1))
                own = torch.zeros_like(weights)
                tiles.set_targets(own, targets[part], tile, 1.0)
                weights += own
                return weights

            grad_weight, grad_bias, grad_rows = output_gradients(ctx.needs_input_grad[1:4], tiles, hidden, grad, slopes)
        return grad_hidden, grad_weight, grad_bias, grad_rows, None, None, None, None


@dataclass(frozen=True, slots=True)
class Tile:
    """Columns of the vocabulary: `columns` is their range in `weight`, or none for the substituted rows."""

    weight: Tensor
    bias: Tensor | None
    columns: range | None
    hidden_columns: Tensor | None
    """Columns (within the tile) that the substituted rows stand for: they count there, not here."""


class Tiles:
    """The vocabulary as tiles, the substituted rows as one more tile."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        row_ids: Tensor,
        scale: float,
        softcap: float | None,
    ) -> None:
        self.weight, self.bias, self.rows, self.row_ids = weight, bias, rows, row_ids
        self.scale, self.softcap = scale, softcap

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


def _logprobs_of_tile(
    hidden: Tensor, targets: Tensor, tiles: Tiles, dtype: torch.dtype, jacobian: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probs and logsumexp of up to TOKEN_TILE tokens; fills `jacobian` (n, D) with d log p / d hidden.

    The target stays out of the running sums and comes in last: 1 - p(target) would lose its digits in bf16.
    """
    target_rows = tiles.target_rows(targets, dtype)
    target = tiles.target_logits(hidden, target_rows, targets)
    highest = target.clone()
    total = torch.zeros_like(target)
    if jacobian is not None:
        jacobian.zero_()
    for tile in tiles:
        logits = tiles.logits(hidden, tile, dtype)
        tiles.set_targets(logits, targets, tile, -torch.inf)
        new_highest = torch.maximum(highest, logits.amax(-1))
        shrink = torch.exp(highest - new_highest)
        slope = None if jacobian is None else tiles.slope(logits)
        p = torch.exp_(logits.sub_(new_highest.unsqueeze(1)))
        total = total * shrink + p.sum(-1)
        if jacobian is not None:
            # At -inf the slope is -inf too and p is 0; their product must be 0.
            weights = p if slope is None else torch.where(p > 0, p * slope, 0.0)
            jacobian.mul_(shrink.unsqueeze(1))
            rows = WeighedRows(tile.weight, p, total + torch.exp(target - new_highest), hidden)
            rows.add_to(jacobian, weights)
        highest = new_highest
    others = highest + torch.log(total)
    lse = torch.logaddexp(others, target)
    if jacobian is not None:
        own = torch.exp(others - lse)  # 1 - p(target), to full precision
        slope = tiles.slope(target)
        own = own if slope is None else own * slope
        jacobian.mul_(-torch.exp(highest - lse).unsqueeze(1)).add_(target_rows * own.unsqueeze(1))
        jacobian.mul_(tiles.scale)
    return target - lse, lse


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
    columns = (share > (least * total).unsqueeze(1)).any(0).nonzero().squeeze(1)
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
