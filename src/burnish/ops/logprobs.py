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
Log-probs are exact all the same; `tiles.NEGLIGIBLE` says what the gradient loses.

Legend: N tokens, V vocabulary, D hidden, M substituted rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.ops.tiles import Tile, Tiles, WeighedRows, accumulate_dtype, output_gradients, token_slices


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

    @property
    def is_plain(self) -> bool:
        """Whether the logits are the products with `weight` and no more."""
        return self.row_ids is None and self.scale == 1.0 and self.bias is None and self.softcap is None

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
