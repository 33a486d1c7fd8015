"""From logits to tokens: greedy, or a draw at a temperature from all of the vocabulary, the top k or the nucleus.

The vocabulary is taken in blocks of 512. One pass over the logits gives each block's share of the probability; a
draw then needs a single uniform number: it picks a block by the blocks' shares and a token within it (inverse
transform sampling in two steps). A full softmax is never held, and only the nucleus needs any sorting.

Legend: B rows, V vocabulary, n blocks, k candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.logprobs import OutputHead

BLOCK = 512
_TILE = 2048
"""Rows of the output matrix that are multiplied at a time."""
_PASS = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Logits of which fp32 copies are made at a time: 1 MiB, so that they stay in a core's cache; on a GPU few launches."""
_NUCLEUS = 256
"""Candidates among which the nucleus is looked for first; eight times as many if they don't hold it."""


class Projection:
    """Hidden states to whole logits on a CPU, in a buffer that is kept from step to step: memory of this size, when it
    is asked for anew at every step, is handed out page by page.

    In bfloat16 the product is turned around, and what is returned is a view of (V, n) logits: a matrix unit wants its
    right-hand factor in a layout of its own, into which W^T would be brought anew at every step. With AMX that is less
    than half of the time, for 64 rows and Gemma 3's output matrix (262,144 x 640). In fp32 the product is made tile by
    tile: with few rows it is faster in tiles that fit in the cache. For 16 and for 64 rows and SmolLM2's output matrix
    (49,152 x 576) that is a fifth to a quarter of the time, on one core with AVX2.

    What is returned is overwritten by the next call.
    """

    def __init__(self, head: OutputHead) -> None:
        self.head = head
        self._buffer = head.weight.new_empty(0)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(n, V) logits of (n, D) hidden states, with -inf behind them up to a whole block."""
        weight, n = self.head.weight, hidden.shape[0]
        vocabulary = weight.shape[0]
        padded = vocabulary + -vocabulary % BLOCK
        if self._buffer.numel() < n * padded:
            self._buffer = hidden.new_empty(n * padded)
        room = self._buffer[: n * padded]
        if hidden.dtype == torch.bfloat16:
            logits = room.view(padded, n).T
            torch.mm(weight, hidden.T, out=logits.T[:vocabulary])
        else:
            logits = room.view(n, padded)
            for start in range(0, vocabulary, _TILE):
                stop = min(start + _TILE, vocabulary)
                torch.mm(hidden, weight[start:stop].T, out=logits[:, start:stop])
        logits[:, vocabulary:] = -torch.inf
        return logits if self.head.is_plain else self.head.finished(logits[:, :vocabulary], hidden)


class Logits:
    """(B, V) logits of one step, seen as blocks of the vocabulary. They may lie in memory token by token."""

    def __init__(self, logits: Tensor) -> None:
        self.vocabulary = logits.shape[1]
        padding = -self.vocabulary % BLOCK
        self.flat = F.pad(logits, (0, padding), value=-torch.inf) if padding else logits
        self.turned = self.flat.stride(1) > self.flat.stride(0)
        self.blocks = self.flat.view(self.flat.shape[0], -1, BLOCK)
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.block_max = self._by_block(torch.amax, self.flat).contiguous()
        self.max = self.block_max.amax(-1, keepdim=True).to(self.dtype)

    def _by_block(self, reduce: Callable[[Tensor, int], Tensor], logits: Tensor) -> Tensor:
        """(B, w / 512) each block of (B, w) reduced, in the order of the memory: the other one takes 25 times as
        long."""
        if self.turned:
            return reduce(logits.T.view(-1, BLOCK, logits.shape[0]), 1).T
        return reduce(logits.view(logits.shape[0], -1, BLOCK), 2)

    def masses(self, temperature: float) -> Tensor:
        """(B, n) sum over each block of exp((z - max) / temperature), fp32."""
        rows, width = self.flat.shape
        step = max(1, _PASS.get(self.flat.device.type, _PASS["cuda"]) // (rows * BLOCK)) * BLOCK
        room = torch.empty_like(self.flat[:, :step], dtype=self.dtype)
        sums = []
        for start in range(0, width, step):
            part = self.flat[:, start : start + step]
            weights = room[:, : part.shape[1]].copy_(part).sub_(self.max)
            if temperature != 1.0:
                weights.div_(temperature)
            sums.append(self._by_block(torch.sum, weights.exp_()))
        return torch.cat(sums, dim=1)

    def block_weights(self, block: Tensor, temperature: float) -> Tensor:
        """(B, 512) exp((z - max) / temperature) of one block a row; `block` (B,)."""
        rows = torch.arange(block.shape[0], device=block.device)
        return ((self.blocks[rows, block].to(self.dtype) - self.max) / temperature).exp_()

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        """(B, k) highest logits, highest first, and their tokens."""
        values, ids = self.flat.topk(k, dim=-1)
        return values.to(self.dtype), ids

    def argmax(self) -> Tensor:
        """(B,) the most probable token."""
        block = self.block_max.argmax(-1)
        rows = torch.arange(block.shape[0], device=block.device)
        return block * BLOCK + self.blocks[rows, block].argmax(-1)


def draw(
    logits: Logits,
    uniforms: Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    masses: Tensor | None = None,
) -> Tensor:
    """One token a row.

    Args:
        logits: of B rows.
        uniforms: (B,) float64 in [0, 1); the same number and logits give the same token, whatever the other rows.
        temperature: logits are divided by it; 0 takes the most probable token.
        top_k: only the k most probable tokens; 0 for all.
        top_p: only the smallest set of most probable tokens that holds this probability (Holtzman et al. 2020,
            arXiv:1904.09751), after temperature and top-k.
        masses: `logits.masses(temperature)` where it is at hand.

    Returns:
        (B,) token ids.
    """
    if temperature == 0.0:
        return logits.argmax()
    if 0 < top_k < logits.vocabulary:
        values, ids = logits.top(top_k)
        weights = ((values - logits.max) / temperature).exp_()
        weights = _nucleus(weights, weights.sum(-1, keepdim=True), top_p)
        return _pick(weights, ids, uniforms)
    if masses is None:
        masses = logits.masses(temperature)
    if top_p < 1.0:
        return _draw_nucleus(logits, uniforms, masses, temperature, top_p)
    block, within = _invert(masses, uniforms)
    token, _ = _invert(logits.block_weights(block, temperature), within)
    return block * BLOCK + token


def _draw_nucleus(logits: Logits, uniforms: Tensor, masses: Tensor, temperature: float, top_p: float) -> Tensor:
    """A draw from the nucleus of the whole vocabulary, which is sorted no further than needed."""
    total = masses.sum(-1, keepdim=True)
    k = min(_NUCLEUS, logits.vocabulary)
    while True:
        values, ids = logits.top(k)
        weights = _nucleus(((values - logits.max) / temperature).exp_(), total, top_p)
        if k == logits.vocabulary or not bool((weights[:, -1] > 0).any()):
            return _pick(weights, ids, uniforms)
        k = min(8 * k, logits.vocabulary)


def _nucleus(weights: Tensor, total: Tensor, top_p: float) -> Tensor:
    """Weights (B, k), highest first, with those outside the nucleus set to 0; the first is always inside."""
    if top_p >= 1.0:
        return weights
    before = weights.cumsum(-1) - weights
    inside = before < top_p * total
    inside[:, 0] = True
    return weights * inside


def _pick(weights: Tensor, ids: Tensor, uniforms: Tensor) -> Tensor:
    index, _ = _invert(weights, uniforms)
    return ids.gather(1, index.unsqueeze(1)).squeeze(1)


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse transform sampling: the index (B,) that a uniform number falls on when weights (B, k) are laid end to
    end, and how far into it the number falls, again uniform in [0, 1)."""
    edges = weights.double().cumsum(-1)
    point = (uniforms * edges[:, -1]).unsqueeze(1)
    index = torch.searchsorted(edges, point, right=True)
    # Rounding may put the point on the last edge: the last index that has weight is the first to reach it.
    index = torch.minimum(index, (edges < edges[:, -1:]).sum(-1, keepdim=True))
    share = weights.double().gather(1, index)
    start = edges.gather(1, index) - share
    within = ((point - start) / share).clamp_(0.0, 1.0 - 2.0**-53)
    return index.squeeze(1), within.squeeze(1)


def log_probability(logits: Logits, masses: Tensor, tokens: Tensor, target: Tensor) -> Tensor:
    """Log-probability of one token a row under softmax(z), untruncated and at temperature 1.

    The token's own logit stays out of the sum and comes in last, from `target`, as `ops.logprobs` does it: a bf16
    logit is too coarse, and 1 - p would lose its digits.

    Args:
        logits: of B rows.
        masses: (B, n) `logits.masses(1.0)`.
        tokens: (B,) token ids.
        target: (B,) their logits in fp32, from `exact_logits`.

    Returns:
        (B,) nats, fp32.
    """
    block = (tokens // BLOCK).unsqueeze(1)
    beside = logits.block_weights(block.squeeze(1), 1.0).scatter(1, (tokens % BLOCK).unsqueeze(1), 0.0)
    others = masses.scatter(1, block, 0.0).sum(-1) + beside.sum(-1)
    log_others = others.log() + logits.max.squeeze(1)
    return target - torch.logaddexp(log_others, target)


def exact_logits(head: OutputHead, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Logits (B,) of one token a row from hidden states (B, D), accumulated in fp32 (float64 for float64)."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    rows = head.weight[tokens].to(dtype)
    if head.row_ids is not None and head.rows is not None:
        own = tokens.unsqueeze(1) == head.row_ids
        rows = torch.where(own.any(1, keepdim=True), head.rows[own.int().argmax(1)].to(dtype), rows)
    logits = (hidden.to(dtype) * rows).sum(-1) * head.scale
    if head.bias is not None:
        logits = logits + head.bias[tokens]
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
