"""Attention over the shared layout as sequences of a FlashAttention kernel, so that a GPU computes no masked score.

A kernel for sequences of uneven length takes queries and keys that lie one sequence behind the other, and with more
keys than queries lines up their ends (Dao 2023, arXiv:2307.08691; causal masks as of FlashAttention 2.1). A prompt is
such a sequence; so is a response, whose keys are its prompt's and its own. Queries stay where they lie; keys are
gathered, those of a prompt once for each response.

Legend: B rows, H heads, T tokens of a row, N sequences, K keys of all sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.models.blocks import bounds_of

WIDEST_HEAD = 256
"""Of FlashAttention's kernels; a head's width must be a multiple of `HEAD_STEP`, too."""
HEAD_STEP = 8
OLDEST = (8, 0)
"""The compute capability from which on there are kernels (Ampere)."""

# What torch.nn.attention.varlen calls. As in blocks.py, one node of our own keeps the keys as they lie, not gathered,
# and adds up the gradients of a prompt's keys in float32. burnish names torch's exact release.
_attend = torch.ops.aten._flash_attention_forward
_attend_backward = torch.ops.aten._flash_attention_backward


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences of a batch of rows.

    Attributes:
        query_bounds: (N + 1,) int32; where each sequence's queries begin among the B * T tokens, and where the last
            ends. Every token is in one sequence, padding in sequences of its own.
        key_bounds: (N + 1,) int32; the same of the keys, among `keys`.
        keys: (K,) the keys' places among the B * T tokens.
        longest: the most queries and the most keys of a sequence.
    """

    query_bounds: Tensor
    key_bounds: Tensor
    keys: Tensor
    longest: tuple[int, int]

    @property
    def bounds(self) -> tuple[Tensor, Tensor, int, int]:
        """As the kernel takes them."""
        return self.query_bounds, self.key_bounds, *self.longest


def sequences_of(segment_ids: Tensor) -> Sequences | None:
    """The sequences of a batch: of each row its prompt, its responses, and its padding.

    Args:
        segment_ids: (B, T) as `blocks.blocks_of` takes them; the result is on the same device.

    Returns:
        None where a row is laid out in another order.
    """
    width, places = segment_ids.shape[1], torch.arange(segment_ids.numel())
    queries, parts = [], []
    for row, segments in enumerate(segment_ids.tolist()):
        bounds = bounds_of(segments)
        if bounds is None:
            return None
        start = row * width
        prompt = places[start : start + bounds[0]]
        queries.append(bounds[0])
        parts.append([prompt])
        for first, end in pairwise(bounds):
            queries.append(end - first)
            parts.append([prompt, places[start + first : start + end]])
        if bounds[-1] < width:
            queries.append(width - bounds[-1])
            parts.append([places[start + bounds[-1] : start + width]])
    keys = [sum(map(len, of)) for of in parts]
    device = segment_ids.device

    def bounds_tensor(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)

    gathered = torch.cat([part for of in parts for part in of]).to(device)
    return Sequences(bounds_tensor(queries), bounds_tensor(keys), gathered, (max(queries), max(keys)))


def kernel_takes(query: Tensor) -> bool:
    """Whether there is a kernel for queries (B, H, T, head): on such a GPU, in half precision, for heads so wide."""
    if not query.is_cuda or query.shape[-1] > WIDEST_HEAD or query.shape[-1] % HEAD_STEP:
        return False
    autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if autocast else query.dtype
    return dtype in (torch.bfloat16, torch.float16) and _has_kernel(query.device)


@cache
def _has_kernel(device: torch.device) -> bool:
    """Whether a GPU is of the generations that FlashAttention is built for, and this build of torch has it."""
    new_enough = torch.version.hip is None and torch.cuda.get_device_capability(device) >= OLDEST
    return new_enough and torch.backends.cuda.is_flash_attention_available()


def sequence_attention(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scale: float | None, window: int | None
) -> Tensor:
    """Attention, sequence by sequence.

    Args:
        query: (B, H, T, head) queries.
        key: (B, H or fewer, T, head) keys.
        value: of the key's shape.
        sequences: of `sequences_of`.
        scale: of the scores, 1 / sqrt(head) if none.
        window: how many positions back a token sees, itself included, or none.

    Returns:
        (B, T, H, head), contiguous; under autocast in its dtype.
    """
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # which casts for scaled_dot_product_attention alone
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    out: Tensor = _SequenceAttention.apply(query, key, value, sequences, scale, window)
    return out


class _SequenceAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sequences: Sequences,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        q, k, v = (_flat(x).contiguous() for x in (query, key, value))
        settings = {"scale": scale, **_reach(window)}
        gathered = [x.index_select(0, sequences.keys) for x in (k, v)]
        out, sums, state, unused, _ = _attend(q, *gathered, *sequences.bounds, 0.0, window is None, False, **settings)
        ctx.sequences, ctx.window, ctx.settings = sequences, window, settings
        ctx.save_for_backward(q, k, v, out, sums, state, unused)
        batch, heads, length, _ = query.shape
        return out.view(batch, length, heads, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums, state, unused = ctx.saved_tensors
        sequences, batch, causal = ctx.sequences, grad.shape[0], ctx.window is None
        gathered = [x.index_select(0, sequences.keys) for x in (k, v)]
        grad_q, *parts = _attend_backward(
            grad.reshape(out.shape),
            q,
            *gathered,
            out,
            sums,
            *sequences.bounds,
            0.0,
            causal,
            state,
            unused,
            **ctx.settings,
        )
        grads = [grad_q]
        for whole, part in zip((k, v), parts, strict=True):
            # A prompt's keys get a gradient of every response: in bfloat16 the sum would lose the later ones.
            total = torch.zeros_like(whole, dtype=torch.float32)
            grads.append(total.index_add_(0, sequences.keys, part.float()).to(whole.dtype))
        rows = [x.view(batch, -1, *x.shape[1:]).transpose(1, 2) for x in grads]
        return *rows, None, None, None


def _flat(x: Tensor) -> Tensor:
    """(B, H, T, head) as (B * T, H, head)."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _reach(window: int | None) -> dict[str, int]:
    """How far back and ahead a query sees; -1 for as far as there is."""
    return {"window_size_left": -1 if window is None else window - 1, "window_size_right": 0}
