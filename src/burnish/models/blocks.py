"""Attention over the shared layout in blocks, so that what nobody may see is not computed.

A dense mask over `[prompt | response 0 | response 1 ...]` costs T x T scores, of which few are used: the prompt is
causal within itself, a response sees the prompt and itself but not its neighbours, and with a sliding window neither
sees far. With long prompts attention is most of a pass on a CPU, and its backward most of that.

Legend: B rows, H heads, T tokens of a row, P of them prompt, W window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.data.groups import PAD_SEGMENT, PROMPT_SEGMENT

LEAST_TOKENS = 384
"""Rows shorter than this are masked: there the calls cost more than the scores they save."""
LEAST_SAVING = 1.3
"""How many times more scores the mask must cost than the blocks."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries of a row, and all the keys that any of them sees.

    Attributes:
        queries: their place in the row.
        keys: places in the row, one behind the other.
        mask: (queries, keys) True where a query may see a key; none where the places are the same and causal.
    """

    queries: slice
    keys: tuple[slice, ...]
    mask: Tensor | None

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
        bounds = _bounds(segments)
        if bounds is None:
            return None
        found.append([*_of_prompt(bounds[0], window), *_of_responses(bounds, window)])
    scores = sum(block.scores for blocks in found for block in blocks)
    return found if scores * LEAST_SAVING <= rows * width**2 else None


def _bounds(segments: list[int]) -> list[int] | None:
    """Where the prompt ends, and each response after it; none for another order."""
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


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: list[list[Block]], *, scale: float | None, dropout: float
) -> Tensor:
    """Attention, block by block. Padding gets zeros, which nothing reads.

    Args:
        query: (B, H, T, head) queries.
        key: (B, H or fewer, T, head) keys.
        value: like `key`.
        rows: of `blocks_of`, for each of the B rows; their masks are on the CPU.
        scale: of the scores, 1 / sqrt(head) if none.
        dropout: of the attention weights.

    Returns:
        (B, H, T, head).
    """
    attend = partial(
        F.scaled_dot_product_attention, dropout_p=dropout, scale=scale, enable_gqa=key.shape[1] != query.shape[1]
    )
    out = []
    for i, blocks in enumerate(rows):
        q, k, v = query[i : i + 1], key[i : i + 1], value[i : i + 1]
        parts = []
        for block in blocks:
            keys, values = _taken(k, block.keys), _taken(v, block.keys)
            parts.append(attend(q[:, :, block.queries], keys, values, block.mask, is_causal=block.mask is None))
        padding = query.shape[2] - blocks[-1].queries.stop
        if padding:
            parts.append(query.new_zeros(1, query.shape[1], padding, value.shape[3]))
        out.append(torch.cat(parts, dim=2))
    return torch.cat(out)


def _taken(x: Tensor, places: tuple[slice, ...]) -> Tensor:
    """The keys or values at some places; a view where there is but one."""
    parts = [x[:, :, place] for place in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
