"""Attention over the shared layout in blocks, so that what nobody may see is not computed.

A dense mask over `[prompt | response 0 | response 1 ...]` costs T x T scores, of which few are used: the prompt is
causal within itself, a response sees the prompt and itself but not its neighbours, and with a sliding window neither
sees far. With long prompts attention is most of a pass on a CPU, and its backward most of that.

Legend: B rows, H heads, T tokens of a row, P of them prompt, W window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.data.groups import PAD_SEGMENT, PROMPT_SEGMENT

LEAST_TOKENS = 384
"""Rows shorter than this are masked: there the calls cost more than the scores they save."""
LEAST_SAVING = 1.3
"""How many times more scores the mask must cost than the blocks."""


# What scaled_dot_product_attention calls on a CPU. Called by themselves they give the softmax's sums, which one node
# for all blocks needs in backward; what scaled_dot_product_attention would check is checked in `block_attention`. They
# have no promise of staying as they are: burnish names torch's exact release.
_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Block:
    """Queries of a row, and all the keys that any of them sees. Its masks of numbers are made when they are asked for.

    Attributes:
        queries: their place in the row.
        keys: places in the row, one behind the other.
        mask: (queries, keys) True where a query may see a key; none where the places are the same and causal.
    """

    queries: slice
    keys: tuple[slice, ...]
    mask: Tensor | None
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """The mask as what is added to the scores: 0 or minus infinity. Made once for all layers."""
        if self.mask is not None and dtype not in self._additive:
            zeros = torch.zeros(self.mask.shape, dtype=dtype)
            self._additive[dtype] = zeros.masked_fill_(~self.mask, -torch.inf)
        return self._additive.get(dtype)

    @property
    def scores(self) -> float:
        """Scores that are computed, of a causal block half."""
        width = self.queries.stop - self.queries.start
        return width**2 / 2 if self.mask is None else self.mask.numel()


def blocks_of(segment_ids: Tensor, window: int | None) -> list[list[Block]] | None:
    """The blocks of each row, where they pay.

    Args:
        segment_ids: (B, T) 0 prompt, 1... responses in order, -1 padding on the right. Positions go on from the prompt
            into each response.
        window: how many positions back a token sees, itself included, or none.

    Returns:
        None for short rows, where the mask costs little more, or where a row is not laid out like that.
    """
    rows, width = segment_ids.shape
    if width < LEAST_TOKENS:
        return None
    found = []
    for segments in segment_ids.tolist():
        bounds = bounds_of(segments)
        if bounds is None:
            return None
        found.append([*_of_prompt(bounds[0], window), *_of_responses(bounds, window)])
    scores = sum(block.scores for blocks in found for block in blocks)
    return found if scores * LEAST_SAVING <= rows * width**2 else None


def bounds_of(segments: list[int]) -> list[int] | None:
    """Where a row's prompt ends, and each response after it; none where they do not lie in that order."""
    changes = [i for i in range(1, len(segments)) if segments[i] != segments[i - 1]]
    ends = [*changes, len(segments)]
    order = [segments[end - 1] for end in ends]
    if order[-1] == PAD_SEGMENT:
        order.pop()
        ends.pop()
    return ends if ends and order == list(range(PROMPT_SEGMENT, PROMPT_SEGMENT + len(order))) else None


def _of_prompt(prompt: int, window: int | None) -> Iterator[Block]:
    """All of it at once, or where it is longer than the window a window's worth of queries at a time."""
    if window is None or prompt <= window:
        yield Block(slice(0, prompt), (slice(0, prompt),), None)
        return
    for start in range(0, prompt, window):
        queries, keys = slice(start, min(start + window, prompt)), max(0, start - window + 1)
        places = torch.arange(keys, queries.stop)
        yield Block(queries, (slice(keys, queries.stop),), _seen(torch.arange(start, queries.stop), places, window))


def _of_responses(bounds: list[int], window: int | None) -> Iterator[Block]:
    """Each response against what it may see of the prompt, and itself."""
    prompt = bounds[0]
    first = 0 if window is None else max(0, prompt - window + 1)
    for start, end in pairwise(bounds):
        positions = torch.arange(prompt, prompt + end - start)
        mask = _seen(positions, torch.cat([torch.arange(first, prompt), positions]), window)
        yield Block(slice(start, end), (slice(first, prompt), slice(start, end)), mask)


def _seen(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """(queries, keys) of positions: True where a key is not later, and within the window."""
    back = queries.unsqueeze(1) - keys
    return (back >= 0) & (back < window) if window is not None else back >= 0


def block_attention(query: Tensor, key: Tensor, value: Tensor, rows: list[list[Block]], scale: float | None) -> Tensor:
    """Attention, block by block. Padding gets zeros, which nothing reads.

    Args:
        query: (B, H, T, head) queries, on the CPU.
        key: (B, H or fewer, T, head) keys.
        value: of the key's shape.
        rows: of `blocks_of`, for each of the B rows.
        scale: of the scores, 1 / sqrt(head) if none.

    Returns:
        (B, T, H, head), contiguous; under autocast in its dtype.
    """
    if torch.is_autocast_enabled("cpu"):  # which casts for scaled_dot_product_attention alone
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    out: Tensor = _BlockAttention.apply(query, key, value, rows, scale)
    return out


class _BlockAttention(torch.autograd.Function):
    """One node for all blocks of all rows.

    Left to autograd, every block would keep its own copies of the keys and values that it sees, every slice would have
    a gradient as long as the row, and the joined result would be kept beside its parts. This node keeps queries, keys,
    values and result as they are, and a number for each query and head.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: list[list[Block]], scale: float | None
    ) -> Tensor:
        batch, heads, length, _ = query.shape
        out = query.new_zeros(batch, length, heads, value.shape[-1])
        sums = []  # logarithms of the softmax's denominators
        for i, blocks in enumerate(rows):
            for block in blocks:
                q, k, v = _of_block(block, query[i], key[i], value[i])
                mask = block.additive(query.dtype)
                part, logs = _attend(q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale)
                out[i, block.queries] = part[0].transpose(0, 1)
                sums.append(logs)
        ctx.rows, ctx.scale = rows, scale
        ctx.save_for_backward(query, key, value, out, *sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *sums = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in (query, key, value)]
        left = iter(sums)
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        for i, blocks in enumerate(ctx.rows):
            # A prompt's keys get a gradient of every response: in bfloat16 the sum would lose the later ones.
            totals = [torch.zeros_like(x[i], dtype=wide) for x in (key, value)]
            for block in blocks:
                q, k, v = _of_block(block, query[i], key[i], value[i])
                upstream, part = (x[i : i + 1, block.queries].transpose(1, 2) for x in (grad, out))
                mask = block.additive(query.dtype)
                parts = _attend_backward(
                    upstream, q, k, v, part, next(left), 0.0, mask is None, attn_mask=mask, scale=ctx.scale
                )
                grads[0][i, :, block.queries] = parts[0][0]
                for total, one in zip(totals, parts[1:], strict=True):
                    _add(total, block.keys, one[0])
            grads[1][i], grads[2][i] = totals
        return *grads, None, None


def _of_block(block: Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(1, H, queries or keys, head) what a block reads of a row's (H, T, head)."""
    return query[:, block.queries].unsqueeze(0), _taken(key, block.keys), _taken(value, block.keys)


def _taken(x: Tensor, places: tuple[slice, ...]) -> Tensor:
    """(1, H, keys, head) the keys or values at some places of a row (H, T, head); a view where there is but one."""
    parts = [x[:, place] for place in places]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).unsqueeze(0)


def _add(total: Tensor, places: tuple[slice, ...], parts: Tensor) -> None:
    """Add gradients (H, keys, head) to a row's (H, T, head) at the places that they belong to."""
    ends = list(accumulate(place.stop - place.start for place in places))
    for place, start, end in zip(places, [0, *ends], ends, strict=False):
        total[:, place] += parts[:, start:end]
